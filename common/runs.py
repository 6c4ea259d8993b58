"""A slice's way through the archive: events or records from a number on, that can be left at any page's end.

Both fill a page: `fill(limit)` takes what fits, at least one record, and remembers what did not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from . import tables
from .adapter import Adapter
from .events import GAP, Event, topic
from .normaliser import Normaliser
from .reader import Reader
from .record import Record, seq_of, ts_recv_of
from .requests import Slice

RECORDS_MAX = 150_000
"""Records that one page looks at: about a second of work, also where nothing of it is asked for."""

Times = tuple[int, int]
"""From (inclusive) and to (exclusive), ns."""


@dataclass
class Filled:
    """One page. `at` is the number of the last record in it, looked at or passed over."""

    payload: list[bytes]
    at: int
    events: int
    records: int
    is_done: bool
    header: dict[str, Any] = field(default_factory=dict)


class Row(NamedTuple):
    """A record: its number, its events, and whether it was received within the times asked."""

    seq: int
    events: list[bytes]
    counts: bool


class EventRun:
    """The events of some channels above `after`. With `snapshot`, the books before them come first.

    A page's header names the `starts` of runs in it, with the `last` number before each: a follower that saw more live
    withdraws it (rule 16 of the protocol). Records that change the subscriptions are among them: `prev` begins anew.
    """

    def __init__(
        self,
        reader: Reader,
        adapter: Adapter,
        request: Slice,
        after: int,
        to: int,
        times: Times | None,
        *,
        snapshot: bool,
    ) -> None:
        self._reader, self._adapter, self._symbols = reader, adapter, request.symbols
        self._after, self._times, self._by_event = after, times, times is not None and request.by == "ts_event"
        self._wanted = {topic(adapter.NAME, each, one) for each in (*request.channels, GAP) for one in request.symbols}
        self._normaliser = Normaliser(adapter, request.symbols)
        nothing = after >= to and not snapshot  # asked so by everyone who waits for the archive: replaying takes long
        self._lines = iter(()) if nothing else reader.replayed(self._normaliser, request.symbols, after, to)
        self._snapshot = snapshot
        self._rows = self._all_rows()
        self._held: Row | None = None
        self._starts: list[dict[str, int]] = []  # passed, and not told yet

    def drop(self) -> None:
        """Let go of the blocks that are held: in the midst of its rows a run and they hold each other."""
        self._rows = iter(())

    def fill(self, limit: int) -> Filled:
        filled = self._fill(limit)
        starts, self._starts = self._starts, [start for start in self._starts if start["seq"] > filled.at]
        filled.header["starts"] = [start for start in starts if start["seq"] <= filled.at]
        return filled

    def _fill(self, limit: int) -> Filled:
        lines: list[bytes] = []
        at, left, looked_at = self._after, limit, 0
        records = 0
        while (row := self._held or next(self._rows, None)) is not None:
            size = sum(map(len, row.events)) + len(row.events)
            if (size > left and left < limit) or looked_at == RECORDS_MAX:
                self._held, self._after = row, at
                return Filled([_joined(lines)], at, len(lines), records, False)
            self._held = None
            at, left, looked_at = row.seq, left - size, looked_at + 1
            lines += row.events
            records += row.counts
        return Filled([_joined(lines)], at, len(lines), records, True)

    def _all_rows(self) -> Iterator[Row]:
        for seq, line in self._lines:
            if seq <= self._after:
                self._normaliser.replay(line)
                continue
            if self._snapshot and not self._by_event:
                self._snapshot = False
                if books := self._books():
                    yield Row(self._after, books, False)
            row = self._row(seq, line)
            if row.events and self._snapshot:
                self._snapshot = False
                row.events[:0] = self._books_before(seq)
            yield row
        if self._snapshot and not self._by_event and (books := self._books()):
            yield Row(self._after, books, False)

    def _row(self, seq: int, line: bytes) -> Row:
        work, times = self._normaliser.work(line), self._times
        ts_recv = ts_recv_of(line) if work is None else work[1]
        counts = times is None or times[0] <= ts_recv < times[1]
        if work is None:
            return Row(seq, [], counts)
        if isinstance(work, Record) and work.kind in ("start", "subscriptions"):
            last = int(work.head.get("last", 0)) if work.kind == "start" else seq - 1
            self._starts.append({"seq": seq, "last": last, "ts_recv": ts_recv})
        found = self._normaliser.messages(work)
        self._normaliser.actions.clear()
        if not found or not (counts or self._by_event):
            return Row(seq, [], counts)
        split = [(each[: (end := each.index(b" ") + 1)], each[end:]) for each in found]
        split = [each for each in split if each[0] in self._wanted]
        if self._by_event and times is not None:
            split = [each for each in split if times[0] <= _happened(each[1]) < times[1]]
        if len(split) > 1:
            split.sort(key=itemgetter(0))
        return Row(seq, [body for _, body in split], counts)

    def _books(self) -> list[bytes]:
        found = (derived_snapshot(self._normaliser, symbol) for symbol in self._symbols)
        return [orjson.dumps(event) for event in found if event is not None]

    def _books_before(self, seq: int) -> list[bytes]:
        found = (derived_snapshot(self._reader.normaliser(symbol, seq - 1, "book"), symbol) for symbol in self._symbols)
        return [orjson.dumps(event) for event in found if event is not None]


class RawRun:
    """The records above `after`, of some symbols and of no symbol, as they are."""

    def __init__(self, reader: Reader, symbols: Sequence[str], after: int, to: int, times: Times | None) -> None:
        doubtful = [] if times is None else _doubtful(reader, symbols, (after, to), times)
        self._pieces = self._filtered(reader.raw(symbols, after, to), times, doubtful)
        self._after, self._held = after, b""

    def fill(self, limit: int) -> Filled:
        pieces: list[bytes] = []
        size = 0
        while piece := self._held or next(self._pieces, b""):
            end = len(piece)
            if size + end > limit:
                end = piece.rfind(b"\n", 0, limit - size) + 1
                if not end and not pieces:
                    end = piece.index(b"\n") + 1
            self._held = piece[end:]
            if end:
                pieces.append(piece[:end])
                size += end
            if self._held:
                break
        payload = b"".join(pieces)
        records = payload.count(b"\n")
        if payload:
            self._after = seq_of(payload[payload.rfind(b"\n", 0, -1) + 1 :][:40])
        return Filled([payload], self._after, 0, records, not self._held)

    @staticmethod
    def _filtered(pieces: Iterator[bytes], times: Times | None, doubtful: list[tuple[int, int]]) -> Iterator[bytes]:
        """Only what was received within the times: clocks are set back, and blocks hold what lies beside."""
        if times is None:
            yield from pieces
            return
        start, end = times
        for piece in pieces:
            begin, last = seq_of(piece[:40]), seq_of(piece[piece.rfind(b"\n", 0, -1) + 1 :][:40])
            if all(upto < begin or first > last for first, upto in doubtful):
                yield piece
                continue
            lines = piece[:-1].split(b"\n")
            kept = [line for line in lines if start <= ts_recv_of(line) < end]
            if len(kept) == len(lines):
                yield piece
            elif kept:
                yield b"\n".join(kept) + b"\n"


def _doubtful(reader: Reader, symbols: Sequence[str], span: tuple[int, int], times: Times) -> list[tuple[int, int]]:
    """The numbers of the blocks within a span that hold something received outside of the times."""

    def is_inside(ts_recv: Sequence[int]) -> bool:
        return times[0] <= ts_recv[0] and ts_recv[1] < times[1]

    files = [file for symbol in (None, *symbols) for file in reader.files(symbol)]
    crossing = [file for file in files if file.seq[1] > span[0] and file.seq[0] <= span[1]]
    return [
        (block["seq"][0], block["seq"][1])
        for file in crossing
        if not is_inside(file.ts_recv)
        for block in file.blocks
        if not is_inside(block["ts_recv"])
    ]


def derived_snapshot(normaliser: Normaliser, symbol: str) -> dict[str, Any] | None:
    """A symbol's book as a `book` event, exact at its `seq`; None where it is not in step."""
    state = normaliser.symbols.get(symbol)
    of_topic = state.channels.get("book") if state is not None else None
    if state is None or of_topic is None or not state.sync.synced:
        return None
    bids, asks = state.sync.book.top()
    return {
        "exchange": of_topic.prefix.partition(b"/")[0].decode(),
        "channel": "book",
        "symbol": symbol,
        "seq": of_topic.last,
        "prev": of_topic.last,
        "ts_event": None,
        "ts_recv": of_topic.ts,
        "type": "snapshot",
        "bids": bids,
        "asks": asks,
        "last_id": str(state.sync.id),
        "derived": True,
    }


def as_arrow(filled: Filled, channels: Sequence[str]) -> Filled:
    """A page of events as columns: an Arrow IPC stream for each channel, gaps last where there are any.

    Raises MissingPackageError where pyarrow is not installed.
    """
    pa = tables.arrow()
    by_channel: dict[str, list[Event]] = {channel: [] for channel in channels}
    for line in filled.payload[0].splitlines():
        event = orjson.loads(line)
        by_channel.setdefault(event["channel"], []).append(event)
    frames = []
    for channel, events in by_channel.items():
        made = tables.table(channel, events)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made)
        frames.append(sink.getvalue().to_pybytes())
    return replace(filled, payload=frames, header={"channels": list(by_channel)})


def _happened(body: bytes) -> int:
    """When an event happened (ns); where the exchange does not say, when it was received."""
    event = orjson.loads(body)
    time: int = event["ts_recv"] if event["ts_event"] is None else event["ts_event"]
    return time


def _joined(lines: list[bytes]) -> bytes:
    return b"\n".join([*lines, b""]) if lines else b""
