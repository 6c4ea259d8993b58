"""What is imported, written beside the archive with the archive's own code: a whole exchange directory, all sealed.

    Item ─▶ Recorder ─▶ record lines ─▶ ArchiveWriter ─▶ .open ─▶ sealed files, tables, manifests
              └ Normaliser ─▶ checkpoints

It is a run like a feed's: `start` (which names the files as its `source`), then everything in the order of time, with
checkpoints as a feed writes them. At the end each symbol's file is followed by one that holds a checkpoint alone, so
that all tables are made.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

from . import chains, exchanges
from .adapter import FAULTS, Adapter, version
from .archive import ArchiveWriter
from .begin import start_head
from .config import ArchiveConfig
from .disk import Disk
from .import_format import EVENT, IN, OPEN, OUT, Item
from .import_look import Looked, rest_place, text_of
from .normaliser import Normaliser, Work
from .process import ConfigError, boot_id
from .record import Record
from .recorder import Recorder
from .schedule import Checkpoints
from .seal_workers import tables_of
from .sealing import seal
from .storage import decode_symbol, open_files

BUFFER_BYTES = 8 * 1024**2
RUN_FRAMES, WAITED_FRAMES = 1000, 20
"""Frames that are recorded at a time; and while a book waits for the first of its deltas."""
SEAL_BYTES = 256 * 1024**2
"""Records that wait to be sealed, many files at a time: in processes where there are several cores."""
CHECKPOINT_S = 300
TICK_NS = 1_000_000_000
QUIET_NS = 5 * TICK_NS  # a book that waits so long for a delta is recorded without one


@dataclass(frozen=True)
class Run:
    """What is known of a run before its first record."""

    first: int  # its first number
    ts: int
    last: int  # the archive's last number before it
    conn: int  # the number of its first connection
    symbols: tuple[str, ...]
    channels: tuple[str, ...]
    owed: dict[str, Any]  # what the import before had come to
    sources: list[dict[str, Any]]
    known: frozenset[str]  # symbols that are archived already


class Full(NamedTuple):
    """A file that is to be sealed."""

    path: Path
    raw_bytes: int
    goes_on: bool  # its symbol is archived already


class _State(Normaliser):
    """Keeps what checkpoints hold. Its events are derived later, from the records, when tables are made."""

    def all_messages(self, works: Iterable[Work | None]) -> list[bytes]:
        for work in works:
            try:
                if work is not None:
                    self.record(work) if isinstance(work, Record) else self.update(*work)
            except FAULTS as error:
                self.fault(error)
        self.actions.clear()
        return []


class _Log:
    """Where the recorder appends: the archive itself."""

    def __init__(self, writer: ArchiveWriter, first: int) -> None:
        self.next = first
        self._writer = writer

    def append(self, lines: list[bytes]) -> int:
        self._writer.take(lines)
        if self._writer.buffered > BUFFER_BYTES:
            self._writer.flush()
        self.next += len(lines)
        return len(lines)


class Staging:
    """Writes one run into an exchange directory of its own. `conn` is the number of the next connection."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        adapter: Adapter,
        run: Run,
        files: Sequence[Looked],
        codec: str,
        is_taken: Callable[[Path], bool],
    ) -> None:
        self.conn = run.conn
        self._disk, self._directory, self._adapter, self._run = disk, directory, adapter, run
        self._config = ArchiveConfig(codec=codec)
        self._writer = ArchiveWriter(
            disk, directory,
            boot_id=boot_id(), rotate_s=self._config.rotate_s, rotate_min_bytes=self._config.rotate_min_bytes,
            is_taken=is_taken,
        )  # fmt: skip
        self.state = _State(adapter)
        self._checkpoints = Checkpoints(list(run.symbols), CHECKPOINT_S, run.ts / 1e9)
        self._due = self._ts = 0  # when checkpoints are looked for next; the highest time
        self._files = dict(enumerate(files))  # that have not ended yet, by their places
        self._conns: dict[str, tuple[int, str | None]] = {}  # number and URL of what is open
        self._frames: list[tuple[int, list[bytes]]] = []  # not recorded yet, all of one connection and sort
        self._events: list[tuple[int, str, str, bytes]] = []  # the same, where the files hold events
        self._held_bytes = 0
        self._of = (0, b"")
        self._waiting: dict[str, Item] = {}  # books that came before the first delta, by symbol
        self._full: list[Full] = []  # files to be sealed
        self._begin()

    def _begin(self) -> None:
        run = self._run
        self._writer.open(None)
        self._writer.hole(run.first, 0)
        self._recorder = Recorder(
            self._adapter, self.state, _Log(self._writer, run.first), lambda _lines: None, lambda _event: None
        )
        places = {(channel, symbol) for channel in self._adapter.CHANNELS for symbol in run.symbols}
        self._recorder.file_under(places)
        subscriptions = {"symbols": list(run.symbols), "channels": list(run.channels)}
        about = {"exchange": self._adapter.NAME, "subscriptions": subscriptions, "owed": run.owed}
        payload = orjson.dumps({**about, "source": run.sources})
        self._recorder.record(run.ts, "start", head=start_head(self._adapter, run.last), payload=payload)

    @property
    def last(self) -> int:
        """The last number that was used."""
        return self._recorder.next - 1

    # -- items -----------------------------------------------------------------------------------------------------

    def take(self, place: int, item: Item | None) -> None:
        """What a file tells next, or (None) that it ends. `place` tells the files apart."""
        if item is None:
            self._end_file(place)
            return
        if item.ts >= self._due:
            self._look_at_time(item.ts)
        self._ts = max(self._ts, item.ts)
        if item.kind == IN:
            self._frame(item)
            return
        if item.kind == EVENT and item.channel is not None and item.symbol is not None:
            self._event(item.ts, item.channel, item.symbol, item.payload)
            return
        self._flush()
        if item.kind == OPEN:
            self._open(item)
        elif item.kind == OUT:
            self._recorder.record(item.ts, "out", conn=self._conn(item.conn), payload=item.payload)
        else:
            self._take_answer(item)

    def _take_answer(self, item: Item) -> None:
        """A book that came before any delta has nothing to prove it yet: it is recorded behind the first one.

        So it is where a recorder asks for books before it begins to read its socket.
        """
        channel, symbol = rest_place(self._adapter, item)
        state = self.state.symbols.get(symbol or "")
        if symbol is not None and state is not None and not (state.sync.synced or state.sync.held):
            self._answer_waiting(symbol)
            self._waiting[symbol] = item
        else:
            self._answer(item, channel, symbol)

    def _answer(self, item: Item, channel: str | None, symbol: str | None, conn: int | None = None) -> None:
        head: dict[str, Any] = {"url": item.url, "status": 200}
        if conn is not None:
            head["subscribed"] = conn
        self._recorder.record(item.ts, "rest", channel=channel, symbol=symbol, head=head, payload=item.payload)

    def _answer_waiting(self, symbol: str, conn: int | None = None) -> None:
        if (item := self._waiting.pop(symbol, None)) is not None:
            self._answer(item, "book", symbol, conn)

    def _answer_quiet(self, before: int) -> None:
        """Record books that wait since before a time: where no delta comes, they are what there is.

        Recorders ask for books of what they subscribe to. Only one connection can be the subscribed one.
        """
        if len(self._conns) == 1:
            ((conn, _),) = self._conns.values()
            for symbol in [symbol for symbol, item in self._waiting.items() if item.ts <= before]:
                self._answer_waiting(symbol, conn)

    def _frame(self, item: Item) -> None:
        text, conn = text_of(self._adapter, item), self._conn(item.conn)
        if text is None:
            self._flush()
            self._recorder.binary(item.ts, conn, "in", "binary", item.payload)
            return
        sort = b',"op":"binary","encoding":"%b"' % self._adapter.ENCODING.encode() if item.is_binary else b""
        most = WAITED_FRAMES if self._waiting else RUN_FRAMES
        if self._events or self._of != (conn, sort) or self._is_much(len(self._frames), most):
            self._flush()
            self._of = conn, sort
        self._frames.append((item.ts, [text]))
        self._held_bytes += len(text)

    def _event(self, ts: int, channel: str, symbol: str, payload: bytes) -> None:
        if self._frames or self._is_much(len(self._events), RUN_FRAMES):
            self._flush()
        self._events.append((ts, channel, symbol, payload))
        self._held_bytes += len(payload)

    def _is_much(self, count: int, most: int) -> bool:
        return count >= most or self._held_bytes >= BUFFER_BYTES

    def _flush(self) -> None:
        if self._frames:
            self._recorder.runs(self._of[0], self._frames, self._of[1])
            self._frames = []
            for symbol in [symbol for symbol in self._waiting if self.state.symbols[symbol].sync.held]:
                self._answer_waiting(symbol)
            self._answer_quiet(self._ts - QUIET_NS)
        if self._events:
            self._recorder.told(self._events)
            self._events = []
        self._held_bytes = 0

    # -- connections -------------------------------------------------------------------------------------------------

    def _conn(self, name: str) -> int:
        if (known := self._conns.get(name)) is None:
            known = self._conns[name] = (self.conn, None)
            self.conn += 1
        return known[0]

    def _open(self, item: Item) -> None:
        """A connection opens; the one of that name before it is no more, though nothing tells when it was lost."""
        self._close(item.conn, item.ts, "lost: another one opens")
        number = self._conn(item.conn)
        self._conns[item.conn] = (number, item.url)
        self._recorder.record(item.ts, "open", conn=number, head={"url": item.url})

    def _close(self, name: str, ts: int, reason: str) -> None:
        if name in self._conns:
            self._answer_quiet(ts)
        if (known := self._conns.pop(name, None)) is not None:
            number, url = known
            self._recorder.record(ts, "close", conn=number, head={"url": url, "code": None, "reason": reason})
            self._recorder.closed(number)

    def _end_file(self, place: int) -> None:
        """A file ends, and with it each of its connections that goes on in no other."""
        self._flush()
        ended = self._files.pop(place)
        kept = {"", *(name for looked in self._files.values() for name in looked.continues)}
        for name in sorted(ended.conns - kept):
            self._close(name, self._ts, "the recording ends")

    # -- checkpoints and files ---------------------------------------------------------------------------------------

    def _look_at_time(self, ts: int) -> None:
        """Write the checkpoints that are due at a time, and seal the files that they have turned."""
        self._due = ts + TICK_NS
        if not (due := dict.fromkeys([*self._checkpoints.due(ts / 1e9), *self._recorder.weights.heavy])):
            return
        self._flush()
        for symbol in due:
            self._checkpoint(ts, symbol)
        if self._writer.turned:
            self._writer.sync(lambda: None)
            self._seal(self._writer.sealable(), now=False)

    def _checkpoint(self, ts: int, symbol: str | None) -> None:
        if symbol is not None:
            payload = self.state.checkpoint(symbol)
        else:
            about = {"normaliser": version(self._adapter), "run": self._run.first, "symbols": self._run.symbols}
            payload = orjson.dumps(about)
        self._recorder.record(ts, "checkpoint", symbol=symbol, payload=payload)

    def end(self) -> None:
        """End the run, and seal everything."""
        self._flush()
        self._answer_quiet(self._ts)
        for symbol in list(self._waiting):
            self._answer_waiting(symbol)
        self._writer.turns = True
        for symbol in self._run.symbols:
            self._checkpoint(self._ts, symbol)
        self._writer.sync(lambda: None)
        self._seal(self._writer.sealable(), now=True)
        self._writer.close()
        self._seal(open_files(self._disk, self._directory), now=True)

    def owed(self) -> dict[str, Any]:
        """How far the run has come, for the next one's `start`: what is missing between the two is a gap."""
        dense, channels = self._adapter.DENSE, self._run.channels
        topics = {
            symbol: {
                name: topic.id if name in dense else None for name, topic in state.channels.items() if name in channels
            }
            for symbol, state in self.state.symbols.items()
        }
        return {"ts": self._ts, "topics": topics}

    def _seal(self, paths: Iterable[Path], *, now: bool) -> None:
        """Seal files that are full, as soon as they are many, or `now`. Raises ConfigError if a worker was killed."""
        for path in paths:
            goes_on = decode_symbol(path.parents[1].name) in self._run.known
            self._full.append(Full(path, self._disk.size(path), goes_on))
        if not now and sum(full.raw_bytes for full in self._full) < SEAL_BYTES:
            return
        act = partial(seal_full, disk=self._disk, exchange=self._adapter.NAME, config=self._config)
        try:
            for _ in chains.run(act, self._full, os.cpu_count() or 1):
                pass
        except chains.WorkerError as error:
            raise ConfigError(f"{self._directory}: {error}") from None
        self._full = []


def seal_full(full: Full, disk: Disk, exchange: str, config: ArchiveConfig) -> Iterator[Path]:
    """Seal one file; may run in a process of its own."""
    adapter = cast(Adapter, exchanges.get(exchange))
    make = partial(tables_of, adapter=adapter, goes_on=full.goes_on)
    seal(disk, full.path, config.codec, config.level, config.block_bytes, version(adapter), make)
    yield full.path
