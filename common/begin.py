"""How a run of the feed begins: the `start` record, and what the run before could not write any more (rule 2)."""

import contextlib
import logging
import re
import time
from collections import deque
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from . import __version__
from .adapter import FAULTS, Adapter, version
from .blocks import place_of
from .codec import CodecError
from .disk import Disk
from .events import Update
from .journal import Opened, segment_names
from .journal_marks import read_marks
from .normaliser import Normaliser
from .reader import Reader
from .record import FORMAT, RecordError, decode, seq_of
from .recorder import Recorder
from .subscribed import TELLS, Subscribed
from .topic import ALONE_NS

log = logging.getLogger("feed")

LOOK_S = 5.0
"""How long the archive is asked for ids that the journal's end does not hold: without them trades are not fetched."""

LOST_LOOK_S = 30.0
"""The same where the journal is lost: then every symbol's are looked for."""

FOLLOWED_NS = 2 * ALONE_NS
"""A connection that alone delivers a stream for so long is followed."""

TAIL_BYTES = 128 * 1024**2
"""How far back the last ids of the run before are looked for."""

_FRAME = re.compile(
    rb'^\{"seq":\d+,"ts_recv":(\d+),"conn":(\d+),"kind":"in"(?:,"op":"binary","encoding":"\w+")?'
    rb',"channel":("\w+"),"symbol":("(?:[^"\\]|\\.)*"),"data":',
    re.MULTILINE,
)
"""The heads of frames that are filed under a channel and symbol."""


def owed(
    disk: Disk, journal_dir: Path, adapter: Adapter, opened: Opened, archive: Reader | None = None
) -> dict[str, Any]:
    """What the runs before were recording when they ended, and how far they had come.

    `{"ts": ts_recv of the last frame, "topics": {symbol: {channel: last id, or null where none proves anything}},
    "since": {symbol: ts_recv}, "away": topics that were not recorded at the end of the last run (`subscribed`)}`

    The journal tells it. What it does not know comes from the `archive`: all of it where the journal was lost. What
    lies beyond `opened.last` there is not trusted, and cut by the archiver.
    """
    tail, facts = _tail(disk, journal_dir), opened.facts
    try:
        complete = 0 if archive is None else min(archive.complete(), opened.last)
        return _debt(tail, adapter, facts, archive if complete else None, complete)
    except (CodecError, OSError, MemoryError, *FAULTS) as error:  # the archiver repairs it, and the feed does not wait
        log.warning("%s the archive does not tell how far it had come: %s", adapter.NAME, error)
    told = _told(tail, facts, None, 0)
    symbols = set(told["symbols"])
    with contextlib.suppress(OSError):
        symbols |= set(archive.symbols() if archive is not None else ()) - (told.get("away") or {}).keys()
    return _debt(tail, adapter, {**facts, "subscriptions": {**told, "symbols": sorted(symbols)}}, None, 0)


def _debt(
    tail: bytes, adapter: Adapter, facts: dict[str, Any], archive: Reader | None, complete: int
) -> dict[str, Any]:
    last = max(_last_seq(tail), complete)
    told = _told(tail, facts, archive, complete)
    recorded = {symbol: set(told.get("channels") or adapter.CHANNELS) for symbol in told["symbols"]}
    away: dict[str, dict[str, Any]] = {}
    for symbol, topics in (told.get("away") or {}).items():
        for channel, what in topics.items():
            if what["gap"] > last:  # the record that ended the topic is lost, with what came before it
                recorded.setdefault(symbol, set()).add(channel)
            else:
                away.setdefault(symbol, {})[channel] = what
    judged, frames = adapter.DENSE | adapter.REPEATS, _last_frames(tail)
    topics_ids = {
        symbol: {
            channel: _last_id(tail, adapter, frames, channel, symbol) if channel in judged else None
            for channel in sorted(channels)
        }
        for symbol, channels in recorded.items()
    }
    debt = {"ts": _ts_of(_last_line(tail, b'"kind":"in"')), "topics": topics_ids, "away": away}
    is_behind = archive is not None and complete > _last_seq(tail)  # the journal lost what the archive has
    if archive is not None and (is_behind or debt["ts"] is None):  # or it was trimmed to what has no frame
        debt["ts"] = max(_ends(archive, complete).values(), default=debt["ts"])
    deadline = time.monotonic() + (LOST_LOOK_S if is_behind else LOOK_S)
    doubts = {symbol: _doubtful(frames, symbol, judged.intersection(ids)) for symbol, ids in topics_ids.items()}
    is_asked = archive is not None and not is_behind and any(doubts.values())
    beyond = tail[place_of(tail, complete) :].splitlines(keepends=True) if is_asked else []
    for symbol, ids in topics_ids.items() if archive is not None else ():
        unknown = set(ids) if is_behind else doubts[symbol]
        ids |= dict.fromkeys(doubts[symbol])  # nothing proves where the followed connection was
        if archive is not None and unknown and _is_joined(tail, complete):
            ids |= _archived_ids(archive, adapter, symbol, complete, unknown, beyond, deadline)
    if archive is not None and told.get("away") is None:  # recorded before a `start` told what it does not record
        _add_unnamed(archive, adapter, complete, debt)
    return debt if topics_ids or away else {}


def _told(tail: bytes, facts: dict[str, Any], archive: Reader | None, complete: int) -> dict[str, Any]:
    """What was subscribed at the end, by the journal's facts; else by the archive and the records behind it."""
    if told := facts.get("subscriptions"):
        return dict(told)
    known = _subscribed(tail, Subscribed(0) if archive is None else archive.subscribed(complete), complete)
    return {"symbols": known.symbols or [], "channels": known.channels, "away": known.away}


def _doubtful(frames: dict[tuple[str, str], dict[int, int]], symbol: str, channels: Iterable[str]) -> set[str]:
    """The channels of a symbol of which the journal's tail does not prove how far the followed connection was."""
    return {channel for channel in channels if len(frames.get((channel, symbol), ())) != 1}


def _subscribed(tail: bytes, known: Subscribed, complete: int) -> Subscribed:
    """What was recorded at the journal's end, by the archive and the records behind it."""
    for found in TELLS.finditer(tail):
        line = tail[found.start() : tail.find(b"\n", found.start()) + 1]
        if seq_of(line[:40]) <= complete:
            continue
        try:
            known = known.after(decode(line))
        except (RecordError, ValueError, KeyError, TypeError):
            continue
    return known


def _add_unnamed(archive: Reader, adapter: Adapter, complete: int, debt: dict[str, Any]) -> None:
    """Add the archived symbols that nothing names: they are not recorded since their last record."""
    for symbol, end in _ends(archive, complete).items():
        if symbol not in debt["topics"]:
            kept = orjson.loads(archive.last_checkpoint(symbol, complete) or b"{}")
            channels = set(kept.get("state", {}).get("topics", {})) or set(adapter.CHANNELS)
            deadline = time.monotonic() + LOOK_S
            debt["topics"][symbol] = _archived_ids(archive, adapter, symbol, complete, channels, [], deadline)
            debt.setdefault("since", {})[symbol] = end


def _ends(archive: Reader, complete: int) -> dict[str, int]:
    """When the last record of each symbol was received, ns: of those up to a number."""
    found: dict[str, int] = {}
    for symbol in archive.symbols():
        files = [file for file in archive.files(symbol) if file.first <= complete]
        if files and files[-1].seq[1] <= complete:
            found[symbol] = files[-1].ts_recv[1]
        elif files:
            found[symbol] = decode(deque(archive.lines(symbol, files[-1].first - 1, complete), maxlen=1)[0]).ts_recv
    return found


def _archived_ids(
    archive: Reader,
    adapter: Adapter,
    symbol: str,
    complete: int,
    channels: set[str],
    beyond: list[bytes],
    deadline: float,
) -> dict[str, int | None]:
    """The ids that the topics of a symbol had reached in the archive, and in the journal's lines beyond it.

    Null where that takes too long to find out.
    """
    normaliser = Normaliser(adapter, [symbol])
    for line in chain((line for _, line in archive.replayed(normaliser, [symbol], complete, complete)), beyond):
        normaliser.replay(line)
        if time.monotonic() > deadline:
            return dict.fromkeys(sorted(channels))
    state = normaliser.symbols.get(symbol)
    known = state.channels if state is not None else {}
    judged = (adapter.DENSE | adapter.REPEATS).intersection(known)
    return {each: known[each].id if each in judged else None for each in sorted(channels)}


def _is_joined(tail: bytes, complete: int) -> bool:
    """Whether no record lies between the archive's end and the journal's tail."""
    return not tail or seq_of(tail[:40]) <= complete + 1


def record_start(
    recorder: Recorder, adapter: Adapter, ts: int, opened: Opened, subscriptions: dict[str, Any], debt: dict[str, Any]
) -> int:
    """Append `start`, and the `close` of each connection that the run before had open. Returns the start's number."""
    about = {"exchange": adapter.NAME, "subscriptions": subscriptions, "owed": debt}
    run = recorder.record(ts, "start", head=start_head(adapter, opened.last), payload=orjson.dumps(about))
    for conn, url in opened.facts.get("connections", {}).items():
        recorder.record(ts, "close", conn=int(conn), head={"url": url, "code": None, "reason": "killed"})
    return run


def start_head(adapter: Adapter, last: int) -> dict[str, Any]:
    """What the head of a `start` record says; `last` is the number before it."""
    return {
        "last": last,
        "format": FORMAT,
        "recorder": f"trade-archivist/{__version__}",
        "normaliser": version(adapter),
    }


def _tail(disk: Disk, journal_dir: Path) -> bytes:
    """The journal's last segments, from behind the last piece whose checksum is wrong."""
    parts: list[bytes] = []
    for name in reversed(segment_names(disk, journal_dir)):
        data = disk.read(journal_dir / name)
        bad = read_marks(disk, journal_dir / name).bad(data)
        parts.insert(0, data[bad[-1].end :] if bad else data)
        if bad or sum(map(len, parts)) >= TAIL_BYTES:
            break
    return b"".join(parts)


def _last_frames(tail: bytes) -> dict[tuple[str, str], dict[int, int]]:
    """Where the last frame of each channel and symbol begins in the journal's tail, by its connection.

    A connection that has only just begun to deliver may not be followed yet: where it stands alone, none is named.
    """
    places: dict[tuple[bytes, bytes], dict[int, tuple[int, int]]] = {}
    last_ts = 0
    for found in _FRAME.finditer(tail):
        last_ts = int(found[1])
        of_topic = places.setdefault((found[3], found[4]), {})
        conn = int(found[2])
        of_topic[conn] = of_topic[conn][0] if conn in of_topic else last_ts, found.start()
    return {
        (orjson.loads(channel), orjson.loads(symbol)): {conn: place for conn, (_, place) in of_topic.items()}
        for (channel, symbol), of_topic in places.items()
        if last_ts - min(first for first, _ in of_topic.values()) >= FOLLOWED_NS
    }


def _last_id(
    tail: bytes, adapter: Adapter, frames: dict[tuple[str, str], dict[int, int]], channel: str, symbol: str
) -> int | None:
    """The last id of a topic on the one connection that has delivered it in the journal's tail."""
    places = list(frames.get((channel, symbol), {}).values())
    if len(places) != 1:
        return None
    line = tail[places[0] : tail.find(b"\n", places[0]) + 1]
    try:
        parsed = adapter.parse(adapter.loads(decode(line).payload or b"null"))
    except (RecordError, ValueError, RecursionError):
        return None
    updates = [parsed] if isinstance(parsed, Update) else parsed if isinstance(parsed, list) else []
    return max((update.last for update in updates if update[:2] == (channel, symbol)), default=None)


def _last_line(tail: bytes, mark: bytes) -> bytes | None:
    """The last line that has a mark in it."""
    found = tail.rfind(mark)
    if found < 0:
        return None
    return tail[tail.rfind(b"\n", 0, found) + 1 : tail.find(b"\n", found) + 1]


def _last_seq(tail: bytes) -> int:
    last = tail[tail.rfind(b"\n", 0, -1) + 1 :][:40]
    return seq_of(last) if last else 0


def _ts_of(line: bytes | None) -> int | None:
    try:
        return decode(line).ts_recv if line is not None else None
    except RecordError:
        return None
