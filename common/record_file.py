"""The record lines of a file that may be larger than the memory: a piece at a time, from either end."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from .disk import Disk
from .record import seq_of, whole_lines

READ_BYTES = 1024 * 1024


class Span(NamedTuple):
    """Record lines that follow one another in a file: from one offset to another, up to and with a number."""

    begin: int
    end: int
    last: int


def extend(spans: list[Span], more: Span) -> None:
    """Add a span; it becomes one with the last if they touch."""
    if spans and spans[-1].end == more.begin:
        more = Span(spans.pop().begin, more.end, more.last)
    spans.append(more)


def crc_of(disk: Disk, path: Path, size: int) -> int | None:
    """The CRC32 of a file's beginning; None where the file is shorter."""
    crc = place = 0
    while place < size and (data := disk.read(path, place, min(READ_BYTES, size - place))):
        crc = crc32(data, crc)
        place += len(data)
    return crc if place == size else None


def pieces(
    disk: Disk, path: Path, begin: int = 0, end: int | None = None, read_bytes: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """Whole lines with their offset, at most `read_bytes` at a time, unless one is longer.

    What has no `\\n` at the end is left out.
    """
    end = disk.size(path) if end is None else end
    size = read_bytes = read_bytes or READ_BYTES
    while begin < end:
        data = disk.read(path, begin, min(size, end - begin))
        whole = data[: data.rfind(b"\n") + 1]
        if whole:
            yield begin, whole
            begin, size = begin + len(whole), read_bytes
        elif len(data) < size:
            return
        else:
            size *= 2  # one line that is longer


def lines(disk: Disk, path: Path, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The same, line by line."""
    for place, data in pieces(disk, path, begin, end):
        for line in whole_lines(data)[0]:
            yield place, line
            place += len(line)


def lines_of(disk: Disk, path: Path, spans: Iterable[Span] | None = None) -> Iterator[bytes]:
    """The same, without offsets: all of them, or those of some spans in their order."""
    for begin, end in [(0, None)] if spans is None else [span[:2] for span in spans]:
        yield from (line for _, line in lines(disk, path, begin, end))


def backwards(disk: Disk, path: Path) -> Iterator[tuple[int, bytes]]:
    """Whole lines with their offsets, from the last one to the first."""
    begin, data = disk.size(path), b""  # what lies behind `begin` and was not given out
    while begin:
        size = min(READ_BYTES, begin)
        begin -= size
        data = disk.read(path, begin, size) + data
        first = data.find(b"\n") + 1 if begin else 0  # the first line's beginning may lie before
        if begin and not first:
            continue
        end = data.rfind(b"\n") + 1
        for line in reversed(whole_lines(data[first:end])[0]):
            end -= len(line)
            yield begin + end, line
        data = data[:first]


def below(disk: Disk, path: Path, spans: Iterable[Span], seq: int) -> list[Span]:
    """Of spans whose numbers rise, what lies before a number."""
    found: list[Span] = []
    for span in spans:
        if span.last < seq:
            found.append(span)
            continue
        for place, line in lines(disk, path, span.begin, span.end):
            if (number := seq_of(line)) >= seq:
                break
            extend(found, Span(place, place + len(line), number))
        break
    return found
