"""What becomes of an archive file that a crash or a bad disk left damaged: every whole record is kept.

What follows a torn write is cut. Damage within what the archive counted as its own is refilled from the journal where
that still reaches back; where it does not, the good records stay and the lost range is named.
"""

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from .disk import Disk, free_name, set_aside
from .record import RecordError, accepts, decode, seq_of, whole_lines


class Mended(NamedTuple):
    """`position`: go on from here (lowered where the journal refills); `holes`: ranges lost for good."""

    position: int
    holes: list[tuple[int, int]]


def looks_whole(data: bytes) -> bool:
    """Whether nothing in a piece of a file is torn, as far as counting tells: each line begins and ends as a record."""
    lines = data.count(b"\n")
    return not data or (
        data.startswith(b'{"seq":')
        and data.endswith(b"}\n")
        and b"\0" not in data
        and data.count(b'\n{"seq":') == lines - 1
        and data.count(b"}\n") == lines
    )


def is_text(data: bytes) -> bool:
    """Whether bytes may be those of records: UTF-8 (the last character may be cut), and no block of zeros."""
    if b"\0" in data:
        return False
    if data.isascii():
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def is_record(line: bytes) -> bool:
    """Whether a line is a record, and JSON as a whole: two torn ones do not pass as one."""
    try:
        decode(line)
    except RecordError:
        return False
    return accepts(line)


def mend(
    disk: Disk,
    path: Path,
    synced: tuple[int, int] | None,
    position: int,
    journal_front: int | None,
    report: Callable[[str], None],
) -> Mended:
    """Repair one `.open` file of an archive whose records up to `position` count as complete.

    `synced` is the size and CRC32 that the file had when it was synced last, None where that is not known.
    """
    data = disk.read(path)
    size, crc = synced or (0, 0)
    intact = len(data) >= size and crc32(data[:size]) == crc
    lines, torn = whole_lines(data[size:] if intact else data)
    if intact and not torn and all(map(is_record, lines)):
        return Mended(position, [])
    if not data:  # what it held cannot be told: the journal gives back what it has, `verify` tells the rest
        report(f"{path} was emptied: refilled from the journal")
        return Mended(position if journal_front is None else min(position, journal_front - 1), [])
    good, holes, end, last = _salvage(data, position, truncated=len(data) < size)
    if end == len(data) and not intact and len(data) >= size:
        end, last = 0, seq_of(data) - 1  # whole lines, but not those that were synced: none is to be trusted
    if intact and _is_torn_write(data[end:], position):
        set_aside(disk, path, end, report, "torn")
        return Mended(position, [])
    if journal_front is not None and journal_front <= last + 1:
        set_aside(disk, path, end, report, f"damaged, refilled from the journal after record {last}")
        return Mended(min(position, last), [])
    _keep(disk, path, data, b"".join(good), end, report)
    return Mended(position, holes)


def _keep(disk: Disk, path: Path, data: bytes, good: bytes, end: int, report: Callable[[str], None]) -> None:
    """Put the good records in the file's place, and the file as it was aside."""
    aside = free_name(disk, path.with_name(path.name + ".damaged"))
    temporary = path.with_name(path.name + ".tmp")
    disk.write(temporary, good)
    disk.sync_file(temporary)
    disk.write(aside, data)
    disk.sync_file(aside)
    disk.rename(temporary, path)
    disk.sync_dir(path.parent)
    report(f"{path} damaged at offset {end}: its whole records are kept, the file as it was set aside as {aside.name}")


def _salvage(data: bytes, position: int, *, truncated: bool) -> tuple[list[bytes], list[tuple[int, int]], int, int]:
    """The whole records in order, the ranges lost between them, and where the first damage lies: offset, last number.

    Behind the damage only what the archive counts as its own is kept: the journal has the rest.
    """
    lines, torn = whole_lines(data)
    good: list[bytes] = []
    holes: list[tuple[int, int]] = []
    last, place = 0, 0
    damage: tuple[int, int] | None = None
    pending = False
    for line in lines:
        if not is_record(line) or seq_of(line) <= last:
            damage = damage or (place, last)
            pending = True
        elif damage and seq_of(line) > position:
            break
        else:
            seq = seq_of(line)
            if pending and seq > last + 1:
                holes.append((last + 1, seq - 1))
            good.append(line)
            last, pending = seq, False
        place += len(line)
    if torn or truncated:
        damage = damage or (place, last)
    if last < position and (pending or torn or truncated):
        holes.append((last + 1, position))
    end, last_before = damage or (place, last)
    return good, holes, end, last_before


def _is_torn_write(rest: bytes, position: int) -> bool:
    """Whether the rest is what a kill in the middle of an append leaves: one line's beginning, beyond the position."""
    if b"\n" in rest or b"\0" in rest:
        return False
    try:
        return seq_of(rest) > position
    except RecordError:
        return len(rest) < 30 and b'{"seq":'.startswith(rest[:7])
