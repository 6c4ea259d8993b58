"""Checksums of the journal's segments: readers find a flipped bit before they believe a record.

    JOURNAL/binance/00000001723161253000123.records    record lines
                    00000001723161253000123.marks      one line for each piece of them, checked by itself

    {"begin":0,"end":262101,"last":1723161253000877,"crc32":2774283112,"line_crc32":974283112}

A piece is some whole record lines, up to and with the number `last`, at most `PIECE_BYTES` long unless one line is
longer. Pieces do not overlap. Readers ignore a last line without its end: the feed was killed while it wrote it.

Covered: each record from the first sync after its append on. The feed syncs every second and at its end, and each start
marks what the run before could not. A mark is written after its records are synced, so it never names bytes that a
power loss can take.

Not covered, and judged by the form of the lines alone: records between their append and that sync; after a kill, the
last second until the next start; journals of earlier versions, until the feed starts once. The checksum is of the
bytes that the system gives back when the feed syncs them, not of the bytes that it was given. The marks themselves are
synced when their segment is full, at the feed's end and at its start: a power loss may take the newest ones, and the
next start then marks what it finds.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from . import checked, record_file
from .disk import Disk, make_room, replace
from .record import RecordError, seq_of

SUFFIX = ".marks"
PIECE_BYTES = 256 * 1024


class Piece(NamedTuple):
    """Some whole lines of a segment: where they lie, the last number, their CRC32."""

    begin: int
    end: int
    last: int
    crc: int

    def holds(self, data: bytes, offset: int = 0) -> bool:
        """Whether the piece is intact in a segment's bytes from `offset` on."""
        found = memoryview(data)[self.begin - offset : self.end - offset]
        return len(found) == self.end - self.begin and crc32(found) == self.crc

    def line(self) -> bytes:
        return checked.dumps({"begin": self.begin, "end": self.end, "last": self.last, "crc32": self.crc}) + b"\n"


class Marks(NamedTuple):
    """The pieces of one segment in their order; whether something in the file is no mark."""

    pieces: list[Piece]
    is_damaged: bool = False

    @property
    def end(self) -> int:
        """Bytes of the segment that were synced, as far as marks tell."""
        return self.pieces[-1].end if self.pieces else 0

    def past(self, position: int) -> int:
        """The offset behind all pieces whose records are numbered up to `position`."""
        return max((piece.end for piece in self.pieces if piece.last <= position), default=0)

    def bad(self, data: bytes) -> list[Piece]:
        """The pieces that a whole segment's bytes do not hold any more, without those beyond its end."""
        return [piece for piece in self.pieces if piece.end <= len(data) and not piece.holds(data)]

    def run(self, offset: int, limit_bytes: int) -> tuple[list[Piece], int]:
        """Adjoining pieces from the one at `offset` on, as many as the limit allows, and the offset of their end.

        No piece where none is there: then the end is that of the range without marks, or of the limit.
        """
        behind = [piece for piece in self.pieces if piece.end > offset]
        if not behind or behind[0].begin > offset:
            return [], min([offset + limit_bytes, *(piece.begin for piece in behind[:1])])
        begin, found = behind[0].begin, behind[:1]
        for piece in behind[1:]:
            if piece.begin != found[-1].end or piece.end > begin + limit_bytes:
                break
            found.append(piece)
        return found, found[-1].end


def marks_path(segment: Path) -> Path:
    return segment.with_suffix(SUFFIX)


def read_marks(disk: Disk, segment: Path) -> Marks:
    """The marks of a segment; none where there is no file of them."""
    try:
        *lines, _ = disk.read(marks_path(segment)).split(b"\n")
    except FileNotFoundError:
        return Marks([])
    found = [piece for line in lines if (piece := _piece(line)) is not None]
    found.sort()
    pieces = [piece for index, piece in enumerate(found) if not index or piece.begin >= found[index - 1].end]
    return Marks(pieces, len(pieces) < len(lines))


def _piece(line: bytes) -> Piece | None:
    """What one line says; None where it is damaged."""
    try:
        told = checked.loads(line) if checked.has_checksum(line) else {}
        piece = Piece(int(told["begin"]), int(told["end"]), int(told["last"]), int(told["crc32"]))
    except (KeyError, TypeError, ValueError):
        return None
    return piece if 0 <= piece.begin < piece.end else None


def cut(disk: Disk, segment: Path, begin: int, end: int) -> Iterator[Piece]:
    """Cut a range of whole lines of a segment into pieces. Stops at what is no line, or is gone."""
    with contextlib.suppress(FileNotFoundError, RecordError):
        for place, data in record_file.pieces(disk, segment, begin, end, PIECE_BYTES):
            last = seq_of(data[data.rfind(b"\n", 0, -1) + 1 :])
            yield Piece(place, place + len(data), last, crc32(data))


def complete_marks(disk: Disk, segment: Path, size: int) -> None:
    """Mark what has no mark yet of a segment of `size` bytes that was recovered; drop marks beyond its end."""
    pieces = [piece for piece in read_marks(disk, segment).pieces if piece.end <= size]
    begins = [0, *(piece.end for piece in pieces)]
    ends = [*(piece.begin for piece in pieces), size]
    missing = [piece for begin, end in zip(begins, ends, strict=True) for piece in cut(disk, segment, begin, end)]
    lines = _lines(sorted([*pieces, *missing]))
    path = marks_path(segment)
    if not disk.is_file(path) or disk.read(path) != lines:
        replace(disk, path, lines, durable=True)


def _lines(pieces: Iterable[Piece]) -> bytes:
    return b"".join(piece.line() for piece in pieces)


@dataclass
class Segment:
    """One file of the journal: its numbers, and the bytes of its whole lines."""

    path: Path
    first: int
    last: int
    size: int

    def beyond(self, seq: int) -> float:
        """About how many bytes its records above a number take."""
        behind = self.last - max(seq, self.first - 1)
        return self.size * behind / (self.last - self.first + 1) if behind > 0 else 0.0


class SegmentFile:
    """The segment that is being written, and its marks."""

    def __init__(self, disk: Disk, segment: Segment) -> None:
        for path in (segment.path, marks_path(segment.path)):
            make_room(disk, path)
        self.segment = segment
        self._disk, self._file, self._marks = disk, disk.open(segment.path), disk.open(marks_path(segment.path))
        self._marked = segment.size  # bytes of the segment that have marks
        self._size = disk.size(self._marks.path)

    @property
    def closed(self) -> bool:
        return self._file.closed

    def write(self, data: bytes) -> int:
        """Append; returns how many bytes stand. Raises OSError."""
        return self._file.write(data)

    def sync(self) -> None:
        """Make what was appended durable, and mark it. Raises OSError where it cannot be made durable."""
        pieces = list(cut(self._disk, self.segment.path, self._marked, self.segment.size))
        self._file.sync()
        if pieces:
            with contextlib.suppress(OSError):  # the disk is full: the next sync marks it
                self._write(pieces)

    def _write(self, pieces: list[Piece]) -> None:
        lines = _lines(pieces)
        if self._marks.write(lines) < len(lines):
            self._marks.truncate(self._size)
            return
        self._size += len(lines)
        self._marked = pieces[-1].end

    def close(self) -> None:
        """Make the marks durable, too. Raises OSError."""
        self._file.close()
        self._marks.sync()
        self._marks.close()
