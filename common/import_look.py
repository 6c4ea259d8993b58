"""Before anything is written: what the files of an import hold, and that all of them can be read."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from .adapter import Adapter
from .events import Snapshot, Update
from .foreign_file import ForeignFileError
from .import_format import EVENT, IN, OPEN, OUT, REST, Item

FRAME_BYTES_MAX = 64 * 1024**2
"""Of a frame that was compressed, inflated."""

TS_END = 1 << 62
"""In 2116: no recorder's clock comes to it."""

Read = Callable[[Path], Iterator[Item]]


@dataclass
class Looked:
    """A file that was looked through. Times in ns."""

    path: Path
    bytes: int
    sha256: str
    stamp: tuple[int, int]  # size and mtime, so that a change is noticed
    first: int = 0  # time of its first item
    earliest: int = 0
    latest: int = 0
    items: int = 0
    frames: int = 0
    understood: int = 0  # frames and events that an adapter, or a channel, knows
    places: set[tuple[str, str]] = field(default_factory=set)  # channel and symbol of what was understood
    channels: set[str] = field(default_factory=set)  # what answers told of all symbols
    conns: set[str] = field(default_factory=set)
    continues: set[str] = field(default_factory=set)  # connections that do not open here: they go on from another file

    @property
    def unknown(self) -> int:
        """Frames that say nothing to the adapter."""
        return max(0, self.frames - self.understood)  # of events there are no frames

    def source(self, format_name: str) -> dict[str, Any]:
        """How a `start` record names it."""
        return {"format": format_name, "file": self.path.name, "bytes": self.bytes, "sha256": self.sha256}


def stamp_of(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def hashed(path: Path) -> Looked:
    """A file as it stands, not looked through yet. Raises OSError."""
    stamp = stamp_of(path)
    with path.open("rb") as file:
        return Looked(path, stamp[0], hashlib.file_digest(file, "sha256").hexdigest(), stamp)


def look(looked: Looked, items: Iterator[Item], adapter: Adapter) -> None:
    """Look through a file. Raises ForeignFileError where it cannot be read, or is of something else than was said."""
    for item in items:
        if not 0 < item.ts < TS_END:
            where = f"{looked.path} line {item.line}" if item.line else str(looked.path)
            raise ForeignFileError(f"{where}: a time of {item.ts} ns: none between 1970 and 2116: mend or drop it")
        if not looked.items:
            looked.first = looked.earliest = item.ts
        looked.items += 1
        looked.earliest, looked.latest = min(looked.earliest, item.ts), max(looked.latest, item.ts)
        if item.conn not in looked.conns and item.kind in (OPEN, IN, OUT):
            looked.conns.add(item.conn)
            looked.continues |= {item.conn} if item.kind != OPEN else set()
        if item.kind == IN:
            _look_at_frame(looked, item, adapter)
        elif item.kind == REST:
            _look_at_answer(looked, item, adapter)
        elif item.kind == EVENT and item.channel is not None and item.symbol is not None:
            _look_at_event(looked, (item.channel, item.symbol), adapter)
    if looked.frames and not looked.understood:
        raise ForeignFileError(
            f"{looked.path}: none of its {looked.frames} frames says anything to {adapter.NAME}: "
            f"it is of another exchange, or of an older protocol of it: name the right one with --exchange"
        )


def check_told_once(files: Sequence[Looked], read: Read) -> None:
    """Raises ForeignFileError where two files tell the same: one recording, or events of a place at the same time."""
    known: dict[tuple[int, ...], Path] = {}
    for looked in files:
        first = known.setdefault((looked.first, looked.latest, looked.items, looked.frames), looked.path)
        if first is not looked.path and all(
            one[:3] == other[:3] for one, other in zip(read(first), read(looked.path), strict=True)
        ):
            raise ForeignFileError(f"{first} and {looked.path} are one recording: import one of them")
    of_events = [looked for looked in files if looked.understood and not looked.frames]
    told = [(place, looked) for looked in of_events for place in looked.places]
    for (place, one), (other_place, other) in pairwise(sorted(told, key=lambda each: (each[0], each[1].earliest))):
        if place == other_place and other.earliest < one.latest:
            what = f"both tell of {place[0]} of {place[1]} at the same time"
            raise ForeignFileError(f"{one.path} and {other.path} {what}: import one of them")


def _look_at_event(looked: Looked, place: tuple[str, str], adapter: Adapter) -> None:
    looked.understood += 1
    if place not in looked.places:
        if (wrong := adapter.symbol_error(place[1])) is not None:
            raise ForeignFileError(f"{looked.path}: {wrong}: say the right --symbol, or --exchange")
        looked.places.add(place)


def _look_at_frame(looked: Looked, item: Item, adapter: Adapter) -> None:
    """What a frame is about. A binary one, or words that are no JSON (`pong`), may stand for anything."""
    looked.frames += 1
    text = text_of(adapter, item)
    if text is None:
        return
    try:
        message = adapter.loads(text)
        if adapter.loads is not orjson.loads:
            orjson.loads(text)  # as the feed does: what it refuses gives nothing
    except (ValueError, RecursionError):
        if text.lstrip()[:1] in (b"{", b"["):
            where = f"{looked.path} line {item.line}"
            raise ForeignFileError(f"{where}: a frame that is no whole JSON: {text[-40:]!r}: mend or drop it") from None
        return
    found = adapter.parse(message)
    if found is None:
        return
    looked.understood += 1
    if isinstance(found, Update):
        looked.places.add(found[:2])
    else:
        updates = [found] if isinstance(found, Snapshot | Update) else found
        looked.places.update(map(_place, updates))


def _place(found: Snapshot | Update) -> tuple[str, str]:
    return ("book", found.symbol) if isinstance(found, Snapshot) else found[:2]


def _look_at_answer(looked: Looked, item: Item, adapter: Adapter) -> None:
    """A book is a symbol's; of what an answer tells of many, as instruments, only the channel counts."""
    found = adapter.parse_rest(item.url, item.payload)
    if isinstance(found, Snapshot):
        looked.places.add(_place(found))
    else:
        looked.channels.update(update.channel for update in found or ())


def text_of(adapter: Adapter, item: Item) -> bytes | None:
    """A frame's text; None where it is binary and no text can be had from it."""
    if not item.is_binary:
        return item.payload
    if adapter.inflate is None:
        return None
    try:
        return adapter.inflate(item.payload, FRAME_BYTES_MAX)
    except ValueError:
        return None


def rest_place(adapter: Adapter, item: Item) -> tuple[str | None, str | None]:
    """Where a REST answer is filed: a book under its symbol, anything else under none."""
    found = adapter.parse_rest(item.url, item.payload)
    return ("book", found.symbol) if isinstance(found, Snapshot) else (None, None)


def merged(files: Sequence[Looked], read: Read) -> Iterator[tuple[int, Item | None]]:
    """The items of all files by time, each with its file's place; None after a file's last one.

    A file keeps its own order. It is opened when its time has come: memory is that of the files that overlap.
    """
    waiting = deque(sorted(range(len(files)), key=lambda place: (files[place].first, place)))
    heap: list[tuple[int, int, Item, Iterator[Item]]] = []
    while heap or waiting:
        while waiting and (not heap or files[waiting[0]].first <= heap[0][0]):
            place = waiting.popleft()
            items = read(files[place].path)
            if (item := next(items, None)) is not None:
                heappush(heap, (item.ts, place, item, items))
        if not heap:
            continue
        _, place, item, items = heap[0]
        yield place, item
        if (following := next(items, None)) is not None:
            heapreplace(heap, (following.ts, place, following, items))
        else:
            heappop(heap)
            yield place, None
