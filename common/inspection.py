"""One archive file looked through: what is damaged in it, and which numbers it holds."""

import hashlib
import re
from array import array
from dataclasses import dataclass, field
from operator import lt
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import orjson

from .codec import BLOCK_BYTES_MAX, CodecError, MissingPackageError, chunks, decompress, pieces
from .density import Packed, Range, pack
from .disk import open_file
from .record import RecordError, accepts, decode, looks_whole, seq_of
from .storage import SEALED
from .synced import Facts

RESTORE = "restore the file from a copy"
RESTART = "restart the archiver: it sets the damage aside and keeps the rest"
FINDINGS_MAX = 100
"""Findings that are told of one file."""

_HEADS = re.compile(
    rb'\n\{"seq":(\d{1,19}),"ts_recv":(\d{1,20}),(?:"conn":\d+,)?"kind":"\w+"'
    rb'(?:,"channel":"[^"\\]*")?(?:,"symbol":("(?:[^"\\]|\\.)*"))?'
)


class Finding(NamedTuple):
    """Something that is wrong: where, what, and what to do about it."""

    file: str
    offset: int | None
    what: str
    mend: str


class Lines(NamedTuple):
    """What some whole record lines hold. `bad` are the lines that are wrong: place, and what."""

    numbers: "array[int]"
    ts_recv: Range
    starts: dict[int, int]
    bad: list[tuple[int, str]]


@dataclass
class Inspected:
    """What one file turned out to hold."""

    path: Path
    sealed: bool
    size: int = 0  # bytes
    records: int = 0
    last: int = 0  # number of its last record
    packed: list[Packed] = field(default_factory=list)
    starts: dict[int, int] = field(default_factory=dict)  # number of each `start`: the last number before, as it says
    excused: list[Range] = field(default_factory=list)  # numbers that are in damage told here
    findings: list[Finding] = field(default_factory=list)
    torn: tuple[int, bytes] | None = None  # an open file's last line without its end: offset, and what is there

    def find(self, offset: int | None, what: str, mend: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(str(self.path), offset, what, mend))

    def take(self, lines: Lines, count: int) -> None:
        self.records += count
        if lines.numbers:
            self.packed.append(pack(lines.numbers))
            self.last = lines.numbers[-1]
        self.starts |= lines.starts


# -- lines ---------------------------------------------------------------------------------------------------------


def read_lines(raw: bytes, symbol: str | None, after: int) -> Lines:
    """Check whole lines of a sealed file: each a record of `symbol`, growing from `after` on."""
    if looks_whole(raw) and b'"kind":"start"' not in raw:
        heads = _HEADS.findall(b"\n" + raw)
        if len(heads) == raw.count(b"\n"):
            seqs, stamps, symbols = zip(*heads, strict=True)
            numbers = array("Q", map(int, seqs))
            grows = numbers[0] > after and all(map(lt, numbers, numbers[1:]))
            if grows and set(symbols) == {b"" if symbol is None else orjson.dumps(symbol)}:
                times = [int(stamp) for stamp in set(stamps)]
                return Lines(numbers, (min(times), max(times)), {}, [])
    return read_each_line(raw, symbol, after, deep=False)


def read_each_line(raw: bytes, symbol: str | None, after: int, *, deep: bool) -> Lines:
    """The same line by line, telling which are wrong; `deep` looks into the payloads too."""
    numbers: array[int] = array("Q")
    times: list[int] = []
    starts: dict[int, int] = {}
    bad: list[tuple[int, str]] = []
    place = 0
    for line in raw.split(b"\n")[:-1]:
        try:
            record = decode(line)
            if deep and not accepts(line):
                raise RecordError(f"not JSON: {line[:80]!r}")
        except RecordError as error:
            bad.append((place, str(error)))
        else:
            times.append(record.head["ts_recv"])
            if record.symbol != symbol:
                bad.append((place, f"record {record.seq} belongs to {record.symbol or 'no symbol'}"))
            if record.seq <= after:
                bad.append((place, f"record {record.seq} comes after {after}"))
            else:
                numbers.append(record.seq)
                after = record.seq
            if record.kind == "start":
                last = record.head.get("last")
                starts[record.seq] = last if type(last) is int else 0
        place += len(line) + 1
    return Lines(numbers, (min(times, default=0), max(times, default=0)), starts, bad)


# -- open files ----------------------------------------------------------------------------------------------------


def inspect_open(path: Path, symbol: str | None, synced: Facts) -> Inspected:
    """`synced`: what it held when it was synced last. Raises FileNotFoundError where it was sealed meanwhile."""
    found = Inspected(path, sealed=False)
    size, crc = synced.size, 0
    for raw in pieces(chunks(path), str(path)):
        if raw.endswith(b"\n"):
            lines = read_each_line(raw, symbol, found.last, deep=True)
            found.take(lines, raw.count(b"\n"))
            for offset, what in lines.bad:
                found.find(found.size + offset, what, RESTART)
        else:
            found.torn = found.size, raw[:32]
        crc = crc32(raw[: max(0, size - found.size)], crc)
        found.size += len(raw)
    if found.size < size:
        found.find(found.size, f"ends here, {size} bytes were synced", RESTART)
    elif crc != synced.crc and not found.findings:
        found.find(0, f"its first {size} bytes are not those that were synced", RESTART)
    return found


def torn_seq(start: bytes) -> int | None:
    """The number of a torn line, where enough of it is there."""
    try:
        return seq_of(start)
    except RecordError:
        return None


# -- sealed files --------------------------------------------------------------------------------------------------


def inspect_sealed(month: Path, line: dict[str, Any], symbol: str | None) -> Inspected:
    """Prove a sealed file by its line of the manifest. Raises KeyError, TypeError, ValueError where that is none."""
    name, codec, blocks = str(line["name"]), str(line["codec"]), list(line["blocks"])
    path = month / (name + SEALED[codec])
    found = Inspected(path, sealed=True)
    manifest = f"its line in {month / 'manifest.jsonl'}"
    if line["file"] != path.name or line["symbol"] != symbol:
        found.find(None, f"{manifest} names another file or symbol", "restore the manifest from a copy")
    for key, value in _sums(blocks).items():
        if line[key] != value:
            found.find(None, f"{manifest} contradicts itself: {key}", "restore the manifest from a copy")
    try:
        found.size = path.stat().st_size
        digest = _inspect_blocks(found, blocks, codec, symbol)
    except FileNotFoundError:
        found.find(None, "is missing, the manifest names it", RESTORE)
        found.excused.append((line["seq"][0], line["seq"][1]))
        return found
    if found.size != line["bytes"]:
        found.find(min(found.size, line["bytes"]), f"has {found.size} bytes, not {line['bytes']}", RESTORE)
    elif digest != line["sha256"] and not found.findings:
        found.find(None, "has another SHA-256 than the manifest says", RESTORE)
    return found


def _sums(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """What a manifest line says of the whole file, out of what it says of the blocks."""
    return {
        "records": sum(block["records"] for block in blocks),
        "bytes": sum(block["bytes"] for block in blocks),
        "raw_bytes": sum(block["raw_bytes"] for block in blocks),
        "seq": [blocks[0]["seq"][0], blocks[-1]["seq"][1]],
        "ts_recv": [min(block["ts_recv"][0] for block in blocks), max(block["ts_recv"][1] for block in blocks)],
    }


def _inspect_blocks(found: Inspected, blocks: list[dict[str, Any]], codec: str, symbol: str | None) -> str:
    """Every block against what the manifest says of it. Returns the SHA-256 of all of them."""
    digest, place = hashlib.sha256(), 0
    with open_file(found.path) as file:
        for block in blocks:
            if block["offset"] != place:
                found.find(block["offset"], f"the manifest leaves a gap between blocks, from {place} on", RESTORE)
            if block["bytes"] > BLOCK_BYTES_MAX:
                raise ValueError(f"a block of {block['bytes']} bytes")
            file.seek(block["offset"])
            data = file.read(block["bytes"])
            digest.update(data)
            place = block["offset"] + block["bytes"]
            wrong = _inspect_block(found, block, data, codec, symbol)
            if wrong:
                found.find(block["offset"], wrong, RESTORE)
                found.excused.append((block["seq"][0], block["seq"][1]))
    return digest.hexdigest()


def _inspect_block(found: Inspected, block: dict[str, Any], data: bytes, codec: str, symbol: str | None) -> str | None:
    """Take a block's numbers; what is wrong with it, if anything is."""
    if len(data) < block["bytes"]:
        return f"ends after {len(data)} of the block's {block['bytes']} bytes"
    if crc32(data) != block["crc32"]:
        return "the block's checksum is wrong"
    try:
        raw = decompress(data, codec)
    except MissingPackageError:
        raise
    except CodecError as error:
        return f"the block cannot be decompressed: {error}"
    lines = read_lines(raw, symbol, found.last)
    count = raw.count(b"\n")
    found.take(lines, count)
    for offset, what in lines.bad:
        found.find(block["offset"], f"at {offset} of the decompressed block: {what}", RESTORE)
    ends = [lines.numbers[0], lines.numbers[-1]] if lines.numbers else None
    said = (block["raw_bytes"], block["records"], block["seq"], block["ts_recv"])
    if said != (len(raw), count, ends, list(lines.ts_recv)):
        return "the block holds other records than the manifest says"
    return None


def inspect_uncommitted(path: Path, symbol: str | None) -> Inspected:
    """A sealed file that no manifest knows, and no open file stands for: its records are all there is."""
    found = Inspected(path, sealed=True, size=path.stat().st_size)
    found.find(None, "stands in no manifest", "restore manifest.jsonl from a copy")
    try:
        for raw in pieces(chunks(path), str(path)):
            lines = read_lines(raw, symbol, found.last)
            found.take(lines, raw.count(b"\n"))
            for _, what in lines.bad:
                found.find(None, what, RESTORE)
            if not raw.endswith(b"\n"):
                found.find(None, "ends in the middle of a record", RESTORE)
    except MissingPackageError:
        raise
    except CodecError as error:
        found.find(None, str(error), RESTORE)
    return found
