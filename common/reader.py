"""Reading an archive: the records of some symbols from any number on, in order, and the events that they give.

It never writes, and hinders nobody: a file that is sealed or removed under its hands is looked for again. Numbers are
`seq`; ranges are above `after`, up to and with `to`.
"""

import os
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from errno import ENOENT
from itertools import chain, islice
from pathlib import Path
from typing import Any
from zlib import crc32

from .adapter import Adapter, version
from .blocks import place_of
from .codec import CodecError, decompress_at
from .disk import Disk
from .events import GAP, Event, topic
from .listing import ArchiveFile, Listing
from .merging import merged, spliced
from .missing import MISSING, Missing
from .normaliser import Normaliser
from .process import boot_id
from .record import decode, seq_of, ts_recv_of
from .storage import ARCHIVED, NO_SYMBOL, decode_symbol, read_archived, symbol_dirs
from .subscribed import Subscribed, run_of
from .synced import read_synced

JOINED_LINES = 1000
AHEAD = max(2, os.cpu_count() or 1)
"""Blocks that are decompressed at the same time."""
KEPT_BLOCKS = 4
"""Blocks kept for the next look into them, each of about 1 MB: where a moment or a checkpoint lies."""


class Reader:
    """One exchange's archive. Not for several threads."""

    def __init__(self, storage: Path, adapter: Adapter, disk: Disk | None = None) -> None:
        self._disk, self._directory, self._adapter = disk or Disk(), storage / adapter.NAME, adapter
        self._listing = Listing(self._disk, self._directory)
        self._pool: ThreadPoolExecutor | None = None
        self._kept: OrderedDict[tuple[Path, int], Future[bytes]] = OrderedDict()
        self._seen: dict[str | None, list[ArchiveFile]] | None = None
        self._gone: dict[tuple[str, ...], list[Missing]] = {}  # within `at_once`: what is missing
        self._symbols: list[str] | None = None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it files are listed once, not for each look: after the `complete` that was read before."""
        self._seen, self._symbols, self._gone = {}, None, {}
        try:
            yield
        finally:
            self._seen = None

    def complete(self) -> int:
        """The number up to which everything is there. Read it before the files.

        Where `archived.json` is missing or damaged, it is the number up to which all was synced last. Raises CodecError
        where nothing tells that either.
        """
        archived = read_archived(self._disk, self._directory)
        if archived.known:
            return archived.trusted(boot_id())
        if (fsynced := read_synced(self._disk, self._directory).fsynced) is not None:
            return fsynced
        if not any(self.files(symbol) for symbol in (None, *self.symbols())):
            return 0
        path, mend = self._directory / ARCHIVED, "restart the archiver, it writes it anew; or restore it from a copy"
        raise CodecError(f"{path} is missing or damaged, how far the files are complete is not known: {mend}")

    def symbols(self) -> list[str]:
        if self._seen is None or self._symbols is None:
            names = [path.name for path in symbol_dirs(self._disk, self._directory)]
            self._symbols = [decode_symbol(name) for name in names if name != NO_SYMBOL]
        return self._symbols

    def files(self, symbol: str | None) -> list[ArchiveFile]:
        """A symbol's files (None: those of no symbol), by their numbers."""
        if self._seen is None:
            return self._listing.files(symbol)
        if symbol not in self._seen:
            self._seen[symbol] = self._listing.files(symbol)
        return self._seen[symbol]

    def missing(self, symbols: Sequence[str]) -> list[Missing]:
        """What the archive held of some symbols, and of no symbol, and does not hold any more, by their numbers.

        Holes that a manifest names are among them: most concern every symbol.
        """
        key = tuple(symbols)
        if self._seen is not None and key in self._gone:
            return self._gone[key]
        found = [hole for hole in self._listing.holes() if hole.symbol is None or hole.symbol in symbols]
        for symbol in (None, *symbols):
            found += self._listing.missing(symbol)
        found.sort(key=lambda each: (each.first, each.last))
        if self._seen is not None:
            self._gone[key] = found
        return found

    def is_cut(self, symbol: str, first: int, last: int) -> bool:
        """Whether removed records lie within some numbers, or right before: a manifest line does not know of it."""
        ranges = [each for each in self.missing([symbol]) if each.reason == MISSING]
        files = self.files(symbol) if ranges else []
        place = bisect_right(files, first - 1, key=lambda file: file.seq[1])
        before = files[place - 1].seq[1] + 1 if place else 1  # records of no symbol may tell the gap
        return any(each.first <= last and each.last >= min(before, first - 1) for each in ranges)

    def newest(self, symbol: str) -> list[ArchiveFile]:
        """Those of its last month, in no certain order."""
        return self._listing.newest(symbol)

    # -- records ---------------------------------------------------------------------------------------------------

    def raw(self, symbols: Sequence[str], after: int, to: int) -> Iterator[bytes]:
        """The record lines of some symbols and of no symbol, merged: pieces of whole lines.

        Raises CodecError with file and offset where a block is corrupt.
        """
        if len(symbols) == 1:
            yield from spliced(self._pieces(symbols[0], after, to), self._pieces(None, after, to))
            return
        for lines in self._batches(symbols, after, to):
            yield b"\n".join(lines) + b"\n"

    def merged(self, symbols: Sequence[str], after: int, to: int) -> Iterator[bytes]:
        """The same, line by line, without their `\\n`."""
        return chain.from_iterable(self._batches(symbols, after, to))

    def _batches(self, symbols: Sequence[str], after: int, to: int) -> Iterator[list[bytes]]:
        if len(symbols) == 1:
            for piece in self.raw(symbols, after, to):
                yield piece[:-1].split(b"\n")
            return
        lines = merged([self.lines(symbol, after, to) for symbol in (None, *symbols)])
        while some := list(islice(lines, JOINED_LINES)):
            yield some

    def lines(self, symbol: str | None, after: int, to: int) -> Iterator[bytes]:
        """The record lines of one symbol (None: of no symbol), without their `\\n`, in order."""
        for piece in self._pieces(symbol, after, to):
            yield from piece[:-1].split(b"\n")

    # -- events ----------------------------------------------------------------------------------------------------

    def messages(
        self, symbols: Sequence[str], after: int, to: int, channels: Iterable[str] | None = None
    ) -> Iterator[tuple[int, list[bytes]]]:
        """The live messages of some symbols, with the number of the record that gave them.

        With `channels`, only theirs; gaps come with any channel.
        """
        wanted = None
        if channels is not None:
            wanted = {topic(self._adapter.NAME, each, one) for each in (*channels, GAP) for one in symbols}
        normaliser = Normaliser(self._adapter, symbols)
        for seq, line in self.replayed(normaliser, symbols, after, to):
            if seq <= after:
                normaliser.replay(line)
                continue
            work = normaliser.work(line)
            if work is None:
                continue
            found = normaliser.messages(work)
            if found and wanted is not None:
                found = [message for message in found if message[: message.index(b" ") + 1] in wanted]
            if found:
                yield seq, found
            normaliser.actions.clear()

    def normaliser(self, symbol: str, after: int, channel: str | None = None) -> Normaliser:
        """The state after a record. With `channel`, that of this channel alone is to be looked at."""
        return self.latest(symbol, after, channel)[0]

    def latest(self, symbol: str, after: int, channel: str | None) -> tuple[Normaliser, Event | None]:
        """The same, with the channel's last event on the way there; None where replaying gave none of it."""
        normaliser, latest = Normaliser(self._adapter, [symbol]), None
        own = topic(self._adapter.NAME, channel or "", symbol)
        for _, line in self.replayed(normaliser, [symbol], after, after, channel):
            for prefix, event in normaliser.replay(line):
                latest = event if prefix == own else latest
        return normaliser, latest

    def begin(self, symbol: str, after: int) -> int:
        """Where to begin, so as to know everything about a symbol after a number: a checkpoint, or a run's start."""
        start, subscribed = self.run(after)
        return self._known_from(symbol, after, start) if symbol in subscribed else after + 1

    def replayed(
        self, normaliser: Normaliser, symbols: Sequence[str], after: int, to: int, channel: str | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """The lines from where `normaliser` can know its symbols; it is told of the holes on the way.

        With `channel`, frames of other channels may be passed over.
        """
        start, subscribed = self.run(after)
        begins = (self._known_from(symbol, after, start) for symbol in symbols if symbol in subscribed)
        first = min(begins, default=after + 1)
        normaliser.begin(subscribed)
        holes = deque(hole for hole in self.missing(symbols) if hole.last >= first)
        for lines in self._batches(symbols, first - 1, to):
            if holes and holes[0].last < seq_of(lines[-1]):
                for line in lines:
                    while holes and holes[0].last < seq_of(line):
                        hole = holes.popleft()
                        normaliser.hole(hole.first, hole.last, hole.symbol)
                    yield seq_of(line), line
                continue
            for line in lines if channel is None else _of_channel(lines, channel):
                yield seq_of(line), line
        while holes and holes[0].first <= to:  # nothing follows it yet
            hole = holes.popleft()
            normaliser.hole(hole.first, hole.last, hole.symbol)

    def _known_from(self, symbol: str, after: int, start: int) -> int:
        """From where a subscribed symbol is known: its last checkpoint, or the run's start."""
        return max(next(self._checkpoints(symbol, after, floor=start), 0), start)

    def run(self, upto: int) -> tuple[int, list[str]]:
        """The last `start` up to a number, and the symbols subscribed then; all where a hole may have changed them."""
        start, symbols = self.subscribed(upto)[:2]
        is_torn = any(each.is_of_all and start < each.last and each.first <= upto for each in self.missing(()))
        return start, self.symbols() if symbols is None or is_torn else symbols

    def subscribed(self, upto: int) -> Subscribed:
        """What was recorded at a number, as `start`, `subscriptions` and the checkpoints of no symbol tell.

        A checkpoint names its run and its symbols: nothing before the last of them is read.
        """
        checkpoint = next(self._checkpoints(None, upto, any_version=True), 0)
        found = Subscribed(0)
        for line in self.lines(None, max(checkpoint - 1, 0), upto):
            tells = line.find(b',"kind":"start"', 0, 96) > 0 or line.find(b',"kind":"subscriptions"', 0, 96) > 0
            if not tells and seq_of(line) != checkpoint:
                continue
            record = decode(line)
            if record.kind == "checkpoint":
                found = self._begun_with(run_of(record)).after(record)
            else:
                found = found.after(record)
        return found

    def _begun_with(self, start: int) -> Subscribed:
        line = next(self.lines(None, start - 1, start), None)
        return Subscribed(start) if line is None else Subscribed(start).after(decode(line))

    def last_checkpoint(self, symbol: str, upto: int) -> bytes | None:
        """The payload of a symbol's last checkpoint up to a number, of whatever version; None where there is none."""
        seq = next(self._checkpoints(symbol, upto, any_version=True), None)
        line = None if seq is None else next(self.lines(symbol, seq - 1, seq), None)
        return None if line is None else decode(line).payload

    def _checkpoints(
        self, symbol: str | None, upto: int, *, floor: int = 0, any_version: bool = False
    ) -> Iterator[int]:
        """A symbol's checkpoints of this normaliser's version, from the last one up to a number back to `floor`."""
        wanted = b'"data":{"normaliser":"%b"' % version(self._adapter).encode()
        files = self.files(symbol)
        for file in reversed(files[: bisect_right(files, upto, key=lambda file: file.first)]):
            if file.seq[1] <= floor:
                return
            for block in reversed([block for block in file.blocks if "checkpoints" in block]):
                for seq in reversed([seq for seq in block["checkpoints"] if floor < seq <= upto]):
                    line = next(self.lines(symbol, seq - 1, seq), b"")
                    is_own = symbol is not None or b'"symbol":' not in line[:128]  # no file is named by such a one
                    if is_own and (any_version or line.find(wanted, 0, 512) > 0):
                        yield seq

    # -- times -----------------------------------------------------------------------------------------------------

    def range(self, symbols: Sequence[str], start_ns: int, end_ns: int) -> tuple[int, int]:
        """A range (after, to) that holds every record of some symbols, and of no symbol, received in [start, end).

        At its ends there may be some that were not: their `ts_recv` tells. Where there are none, after == to.
        """
        afters, tos = [], []
        for symbol in (None, *symbols):
            files = self.files(symbol)
            if (block := _first_since(files, start_ns)) is not None:
                afters.append(block["seq"][0] - 1)
            if (block := _last_before(files, end_ns)) is not None:
                tos.append(block["seq"][1])
        after = min(afters, default=self.complete())
        return after, max(after, max(tos, default=after))

    def seq_at(self, ts_ns: int, symbols: Sequence[str] | None = None) -> int:
        """The first number received at or after a time (of some symbols, and of none); complete + 1: none yet."""
        found = [self.complete() + 1]
        for symbol in (None, *(self.symbols() if symbols is None else symbols)):
            block = _first_since(self.files(symbol), ts_ns)
            if block is not None:
                lines = self.lines(symbol, block["seq"][0] - 1, block["seq"][1])
                found.append(next(seq_of(line) for line in lines if ts_recv_of(line) >= ts_ns))
        return min(found)

    # -- files -----------------------------------------------------------------------------------------------------

    def _pieces(self, symbol: str | None, after: int, to: int) -> Iterator[bytes]:
        """Whole lines of one symbol, a block or the part of it that is asked for at a time."""
        gone: Path | None = None
        while True:
            try:
                for raw, block in self._blocks(symbol, after, to):
                    begin = place_of(raw, after) if block["seq"][0] <= after else 0
                    end = place_of(raw, to) if block["seq"][1] > to else len(raw)
                    after = min(block["seq"][1], to)
                    if begin < end:
                        yield raw[begin:end]
                return
            except FileNotFoundError as error:  # sealed meanwhile: the manifest knows it now
                missing = Path(error.filename)
                if missing == gone:
                    raise CodecError(f"{missing} offset 0: the file is gone: restore it from a copy") from None
                gone = missing
                if self._seen is not None:
                    self._seen.pop(symbol, None)

    def _blocks(self, symbol: str | None, after: int, to: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """The blocks that overlap a range, read and proven; the next ones are decompressed meanwhile."""
        ahead: deque[tuple[Future[bytes], dict[str, Any]]] = deque()
        files = self.files(symbol)
        for file in islice(files, bisect_right(files, after, key=lambda file: file.seq[1]), None):
            if file.seq[0] > to:
                break
            for block in file.blocks:
                if block["seq"][1] <= after or block["seq"][0] > to:
                    continue
                if not file.is_sealed:
                    while ahead:
                        yield _done(ahead)
                    data = self._disk.read(file.path, block["offset"], block["bytes"])
                    yield _whole(file.path, data, block), block
                    continue
                ahead.append((self._begin(file, block), block))
                if len(ahead) > AHEAD:
                    yield _done(ahead)
        while ahead:
            yield _done(ahead)

    def _begin(self, file: ArchiveFile, block: dict[str, Any]) -> "Future[bytes]":
        """Read a sealed block, prove it and have it decompressed, unless it was a moment ago."""
        key = file.path, block["offset"]
        known = self._kept.pop(key, None)
        if known is None or (known.done() and known.exception() is not None):
            data = self._disk.read(file.path, block["offset"], block["bytes"])
            if crc32(data) != block["crc32"]:
                mend = "restore it from a copy; `trade-archivist verify` proves it"
                raise CodecError(f"{file.path} offset {block['offset']}: wrong checksum: {mend}")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(AHEAD, "blocks")
            known = self._pool.submit(decompress_at, file.path, block["offset"], data, file.codec)
        self._kept[key] = known
        if len(self._kept) > KEPT_BLOCKS:
            self._kept.popitem(last=False)
        return known


def _of_channel(lines: list[bytes], channel: str) -> list[bytes]:
    """Without the frames and told events that are filed under another channel."""
    frame, told, mine = b'"kind":"in","channel":"', b'"kind":"event","channel":"', b'"channel":"%b"' % channel.encode()
    return [
        line
        for line in lines
        if line.find(mine, 0, 128) > 0 or (line.find(frame, 0, 96) < 0 and line.find(told, 0, 96) < 0)
    ]


def _done(ahead: "deque[tuple[Future[bytes], dict[str, Any]]]") -> tuple[bytes, dict[str, Any]]:
    future, block = ahead.popleft()
    return future.result(), block


def _whole(path: Path, data: bytes, block: dict[str, Any]) -> bytes:
    """A block of a file that is being written, if it is still what it was. Raises FileNotFoundError: look again."""
    if len(data) < block["bytes"] or seq_of(data[:40]) != block["seq"][0]:
        raise FileNotFoundError(ENOENT, "was cut", str(path))
    return data


def _first_since(files: Sequence[ArchiveFile], ts_ns: int) -> dict[str, Any] | None:
    """The first block that holds something received at or after a time."""
    for file in files:
        if file.ts_recv[1] >= ts_ns:
            return next((block for block in file.blocks if block["ts_recv"][1] >= ts_ns), None)
    return None


def _last_before(files: Sequence[ArchiveFile], ts_ns: int) -> dict[str, Any] | None:
    """The last block that holds something received before a time."""
    for file in reversed(files):
        if file.ts_recv[0] < ts_ns:
            return next((block for block in reversed(file.blocks) if block["ts_recv"][0] < ts_ns), None)
    return None
