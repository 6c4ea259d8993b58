"""Which files an exchange's archive has, and what each covers. What was read once is kept until it changes on disk.

Manifests of years are long: of their lines the numbers are read, the rest and the blocks where they are needed. A file
that is being written has no manifest line; its blocks are found by reading it, each time only what is new.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from operator import attrgetter, is_
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from . import checked
from .blocks import describe
from .codec import BLOCK_BYTES_MAX, CodecError
from .disk import Disk
from .missing import Missing, missing_of
from .record import seq_of
from .storage import MANIFEST, NO_SYMBOL, OPEN, SEALED, encode_symbol, is_sealed_line, month_dirs
from .synced import read_synced

OPEN_BLOCK_BYTES = 1024 * 1024
KEPT_FILES = 50_000
"""Sealed files whose lines are kept in memory, about 1.3 KB each; beyond, symbols asked longest ago go."""
SETTLED_NS = 2 * 10**9
"""What changed so long ago cannot change again with the same time of change: file systems count it in ticks."""

_CODECS = {suffix: codec for codec, suffix in SEALED.items()}
_SUFFIXES = tuple(_CODECS)
_BLOCKS = b',"blocks":'
_BY_NUMBER = attrgetter("seq")
_LINE = re.compile(
    rb'\{"name":"([^"\\]+)","file":"([^"\\]+)","symbol":(?:null|"[^"\\]*"),"format":\d+,"normaliser":"[^"\\]*",'
    rb'"codec":"\w+",[^\[{]*"seq":\[(\d+),(\d+)\],"ts_recv":\[(-?\d+),(-?\d+)\]'
)
"""How `sealing` writes the line of a file: years of them are not decoded one by one."""
_NEIGHBOURS = re.compile(rb',"after":(\d+)(?:,"next":(\d+))?')
_COVERS = re.compile(rb',"covers":\[(\d+),(\d+)\]')


class ArchiveFile(NamedTuple):
    """One file of a symbol: its first and last number, and the least and greatest `ts_recv` (ns) in it."""

    month: Path
    file: str
    seq: tuple[int, int]
    ts_recv: tuple[int, int]
    head: bytes = b""  # its manifest line up to the blocks
    place: tuple[Disk, Path, int, int] | tuple[()] = ()  # where that line stands in which manifest
    open_blocks: tuple[dict[str, Any], ...] = ()
    after: int | None = None  # the last number of the symbol's file before it; 0: it was the first
    next: int | None = None  # the first number of the file that follows; None: not known

    @property
    def path(self) -> Path:
        return self.month / self.file

    @property
    def first(self) -> int:
        return self.seq[0]

    @property
    def is_told(self) -> bool:
        """Whether records of the kind `event` are in it."""
        return b'"told":' in self.head or any("told" in each for each in self.open_blocks)

    @property
    def is_sealed(self) -> bool:
        return bool(self.head)

    @property
    def codec(self) -> str:
        return _CODECS[Path(self.file).suffix]

    @property
    def manifest(self) -> dict[str, Any] | None:
        """Its manifest line without the blocks, decoded anew each time; None while the file is being written.

        Raises CodecError where the line is damaged.
        """
        if not self.head:
            return None
        try:
            line: dict[str, Any] = orjson.loads(self.head + b"}")
        except orjson.JSONDecodeError as error:
            mend = "restore the manifest from a copy; `trade-archivist verify` proves it"
            raise CodecError(f"{self.month / MANIFEST}: the line of {self.file} is damaged ({error}): {mend}") from None
        return line

    @property
    def blocks(self) -> tuple[dict[str, Any], ...]:
        """As in the manifest: `offset`, `bytes`, `crc32` (sealed), `seq`, `ts_recv`, `checkpoints`, `told`."""
        return _sealed_blocks(*self.place) if self.place else self.open_blocks


@lru_cache(maxsize=64)
def _sealed_blocks(disk: Disk, manifest: Path, offset: int, size: int) -> tuple[dict[str, Any], ...]:
    try:
        blocks = checked.loads(disk.read(manifest, offset, size))["blocks"]
        place = 0
        for block in blocks:
            is_ours = block["offset"] == place and block["bytes"] <= BLOCK_BYTES_MAX
            if not is_ours or not all(map(_is_range, (block["seq"], block["ts_recv"]))):
                raise ValueError(f"its block at {block['offset']}")
            place += block["bytes"]
            int(block["crc32"])
        return tuple(blocks)
    except (KeyError, TypeError, ValueError) as error:
        mend = "restore the manifest from a copy; `trade-archivist verify` proves it"
        raise CodecError(f"{manifest} offset {offset}: a damaged line ({error}): {mend}") from None


def _is_range(numbers: Any) -> bool:
    return len(numbers) == 2 and type(numbers[0]) is type(numbers[1]) is int and numbers[0] <= numbers[1]


@dataclass
class _Month:
    """What is known of one month of one symbol. `sealed` is another object whenever it is read anew."""

    path: Path
    manifest: Path
    names_stamp: Any = None
    names: list[str] = field(default_factory=list)  # of files that are being written
    there: set[str] = field(default_factory=set)  # names of sealed files
    manifest_stamp: Any = None
    named: dict[str, ArchiveFile] = field(default_factory=dict)  # what the manifest names
    sealed: dict[str, ArchiveFile] = field(default_factory=dict)  # of that, what is there
    sealed_of: dict[str, ArchiveFile] | None = None  # the `named` that it is of
    absent: list[ArchiveFile] = field(default_factory=list)  # and what is not
    holes: list[Missing] = field(default_factory=list)


@dataclass
class _Symbol:
    """What is known of one symbol: its months, and their sealed files in order as long as no month was read anew."""

    names: list[str] = field(default_factory=list)
    months: list[_Month] = field(default_factory=list)
    parts: list[dict[str, ArchiveFile]] = field(default_factory=list)
    sealed: list[ArchiveFile] = field(default_factory=list)
    being_written: tuple[tuple[int, int], ...] = ()
    missing: list[Missing] = field(default_factory=list)
    missing_of: tuple[list[ArchiveFile], tuple[int, ...]] = ([], ())  # what `missing` was found in


class Listing:
    """The files of one exchange's directory. Not for several threads."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk, self._directory = disk, directory
        self._symbols: OrderedDict[str, _Symbol] = OrderedDict()
        self._open: dict[Path, OpenIndex] = {}

    def files(self, symbol: str | None) -> list[ArchiveFile]:
        """A symbol's files (None: those of no symbol) by their numbers. A file is sealed from its manifest line on.

        The list is kept for the next call: it is not to be changed.
        """
        known = self._symbol(NO_SYMBOL if symbol is None else encode_symbol(symbol))
        being_written = sorted((file for month in known.months for file in self._look(month)), key=_BY_NUMBER)
        parts = [month.sealed for month in known.months]
        if len(parts) != len(known.parts) or not all(map(is_, parts, known.parts)):
            known.sealed = sorted(chain.from_iterable(part.values() for part in parts), key=_BY_NUMBER)
            known.parts = parts
            self._forget()
        known.being_written = tuple(file.seq for file in being_written)
        if not being_written:
            return known.sealed
        found = known.sealed + being_written
        return (
            found if not known.sealed or known.sealed[-1].seq < being_written[0].seq else sorted(found, key=_BY_NUMBER)
        )

    def missing(self, symbol: str | None) -> list[Missing]:
        """The ranges of a symbol's numbers (None: of no symbol) that its files do not hold any more, sorted.

        The list is kept for the next call: it is not to be changed.
        """
        for _ in range(2):
            files, known = self.files(symbol), self._symbol(NO_SYMBOL if symbol is None else encode_symbol(symbol))
            firsts = tuple(seq[0] for seq in known.being_written)
            if known.missing_of[0] is known.sealed and known.missing_of[1] == firsts:
                break
            absent = sorted((file for month in known.months for file in month.absent), key=_BY_NUMBER)
            known.missing = missing_of(symbol, files if known.sealed else self._with_after(files), absent)
            if not known.missing:
                known.missing_of = known.sealed, firsts
                break
            for month in known.months:  # a file may have been begun or sealed between two looks
                month.names_stamp = month.manifest_stamp = None
            known.names = []
        return known.missing

    def _with_after(self, files: list[ArchiveFile]) -> list[ArchiveFile]:
        """Files of which no manifest tells what lay before them: of the first one, the archiver has told it."""
        if not files:
            return files
        facts = read_synced(self._disk, self._directory).files.get(str(files[0].path.relative_to(self._directory)))
        return [files[0]._replace(after=facts.after if facts is not None else None), *files[1:]]

    def newest(self, symbol: str | None) -> list[ArchiveFile]:
        """The files of a symbol's last month: what was sealed, then what is being written."""
        months = self._symbol(NO_SYMBOL if symbol is None else encode_symbol(symbol)).months
        being_written = [file for month in months[-1:] for file in self._look(month)]
        return [file for month in months[-1:] for file in month.sealed.values()] + being_written

    def _forget(self) -> None:
        while len(self._symbols) > 1 and sum(len(known.sealed) for known in self._symbols.values()) > KEPT_FILES:
            self._symbols.popitem(last=False)

    def _symbol(self, name: str) -> _Symbol:
        known = self._symbols.setdefault(name, _Symbol())
        self._symbols.move_to_end(name)
        directory = self._directory / name
        if (names := self._disk.dirs(directory)) != known.names:
            before = {month.path: month for month in known.months}
            paths = month_dirs(self._disk, directory)
            known.months = [before.get(path) or _Month(path, path / MANIFEST) for path in paths]
            known.names = names
        return known

    def _look(self, month: _Month) -> list[ArchiveFile]:
        """See what changed in a month; its files that are being written."""
        while True:
            names = self._open_names(month)
            self._read_manifest(month)  # after the names: what is gone from them stands here
            self._set_apart(month)
            try:
                waiting = [month.path / name for name in names if name.removesuffix(OPEN) not in month.sealed]
                return [file for path in waiting if (file := self._open_file(path)) is not None]
            except FileNotFoundError:  # sealed between the manifest and now
                month.names_stamp = month.manifest_stamp = None

    def holes(self) -> list[Missing]:
        """The ranges of numbers that the manifests name as lost, sorted."""
        months = self._symbol(NO_SYMBOL).months
        for month in months:
            self._read_manifest(month)
        return sorted((hole for month in months for hole in month.holes), key=lambda hole: (hole.first, hole.last))

    def _set_apart(self, month: _Month) -> None:
        """Divide what a manifest names into what is there and what is not."""
        absent = [
            file for file in month.named.values() if file.file not in month.there and not self._disk.is_file(file.path)
        ]
        if absent == month.absent and month.sealed_of is month.named:
            return
        month.absent, month.sealed_of, month.sealed = absent, month.named, month.named
        if absent:
            gone = {file.file for file in absent}
            month.sealed = {name: file for name, file in month.named.items() if file.file not in gone}

    def _open_names(self, month: _Month) -> list[str]:
        path = month.path
        try:
            stamp = self._stamp(path)
        except FileNotFoundError:  # the whole month was removed
            stamp = None
        if stamp is None or stamp != month.names_stamp:
            names = self._disk.files(path)
            month.names = [name for name in names if name.endswith(OPEN)]
            month.there = {name for name in names if name.endswith(_SUFFIXES)}
            month.names_stamp = stamp
            for known in [known for known in self._open if known.parent == path and known.name not in month.names]:
                del self._open[known]
        return month.names

    def _read_manifest(self, month: _Month) -> None:
        try:
            stamp = self._stamp(month.manifest)
            if stamp is not None and stamp == month.manifest_stamp:
                return
            data = self._disk.read(month.manifest)
        except FileNotFoundError:
            month.named, month.holes, month.manifest_stamp = {}, [], None
            return
        month.named, month.holes, month.manifest_stamp = {}, [], stamp
        offset = 0
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            self._take_line(month, line, offset)
            offset += len(line)

    def _take_line(self, month: _Month, line: bytes, offset: int) -> None:
        if not checked.is_intact(line):
            return  # `verify` names it
        cut, place = line.find(_BLOCKS), (self._disk, month.manifest, offset, len(line))
        if cut > 0 and (match := _LINE.match(line, 0, cut)) is not None:
            name, file, *numbers = match.groups()
            first, last, earliest, latest = map(int, numbers)
            seq, ts_recv = (first, last), (earliest, latest)
            chain = _neighbours(line[match.end() : cut])
            found = ArchiveFile(month.path, file.decode(), seq, ts_recv, line[:cut], place, (), *chain)
            month.named[name.decode()] = found
            return
        try:
            head = orjson.loads(line[:cut] + _BLOCKS + b"[]}" if cut > 0 else line)
            if is_sealed_line(head):
                seq, ts_recv = tuple(head["seq"]), tuple(head["ts_recv"])
                del head["blocks"]
                head.pop(checked.KEY, None)
                short = orjson.dumps(head)[:-1]
                chain = _neighbours(short)
                month.named[head["name"]] = ArchiveFile(
                    month.path, head["file"], seq, ts_recv, short, place, (), *chain
                )
            elif "hole" in head:
                month.holes.append(_hole(head))
        except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
            return  # `verify` names it

    def _open_file(self, path: Path) -> ArchiveFile | None:
        """A file that is being written, as far as it is now; None where nothing is in it. Raises FileNotFoundError."""
        index = self._open.setdefault(path, OpenIndex(self._disk, path))
        index.extend()
        blocks = tuple(index.blocks)
        if not blocks:
            return None
        ts_recv = min(block["ts_recv"][0] for block in blocks), max(block["ts_recv"][1] for block in blocks)
        seq = blocks[0]["seq"][0], blocks[-1]["seq"][1]
        return ArchiveFile(path.parent, path.name, seq, ts_recv, open_blocks=blocks)

    def _stamp(self, path: Path) -> tuple[int, int] | None:
        """What tells whether something changed; None where that cannot be told yet. Raises FileNotFoundError."""
        changed = self._disk.mtime_ns(path)
        return (changed, self._disk.size(path)) if changed < time.time_ns() - SETTLED_NS else None


def _neighbours(rest: bytes) -> tuple[int | None, int | None]:
    """`after` and `next` of a manifest line. In lines that have neither, what their tables cover tells."""
    if (found := _NEIGHBOURS.match(rest) or _NEIGHBOURS.search(rest)) is not None:
        return int(found[1]), int(found[2]) if found[2] is not None else None
    if (covers := _COVERS.search(rest)) is None:
        return None, None
    return int(int(covers[1]) > 1), int(covers[2]) + 1  # they begin at 1 where the file is the symbol's first


def _hole(line: dict[str, Any]) -> Missing:
    first, last = line["hole"]
    ts_recv = line.get("ts_recv")
    return Missing(first, last, line.get("symbol"), str(line.get("reason")), ts_recv, ts_recv)


class OpenIndex:
    """The blocks of a file that is being written: each of about a MiB of whole lines."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self.blocks: list[dict[str, Any]] = []
        self._disk, self._path = disk, path

    def extend(self) -> None:
        """Find what was appended. Raises FileNotFoundError, CodecError."""
        size = self._disk.size(self._path)
        end = self.blocks[-1]["offset"] + self.blocks[-1]["bytes"] if self.blocks else 0
        if size == end:
            return
        if size < end or not self._begins_as_before():
            self.blocks.clear()  # cut, or another file of this name
        if self.blocks and self.blocks[-1]["bytes"] < OPEN_BLOCK_BYTES:
            self.blocks.pop()  # it has grown
        for offset, raw in self._pieces(self.blocks[-1]["offset"] + self.blocks[-1]["bytes"] if self.blocks else 0):
            try:
                self.blocks.append({"offset": offset, "bytes": len(raw), **describe(raw)})
            except ValueError as error:
                message = f"{self._path} offset {offset}: {error}: restart the archiver, it sets the damage aside"
                raise CodecError(message) from None

    def _begins_as_before(self) -> bool:
        """Whether the last block is where it was."""
        if not self.blocks:
            return True
        block = self.blocks[-1]
        head = self._disk.read(self._path, block["offset"], 40)
        return head.startswith(b'{"seq":') and b"," in head and seq_of(head) == block["seq"][0]

    def _pieces(self, offset: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines from a place on; what is being written right now is left out."""
        size = OPEN_BLOCK_BYTES
        while data := self._disk.read(self._path, offset, size):
            if end := data.rfind(b"\n") + 1:
                yield offset, data[:end]
                offset, size = offset + end, OPEN_BLOCK_BYTES
            elif len(data) < size:
                return
            else:
                size *= 2  # a line longer than that
