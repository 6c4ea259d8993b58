"""What becomes of archive files that a crash or a bad disk left damaged: every whole record is kept.

What follows a torn write is cut. For damage within what the archive counted as its own, what is missing is counted out
(an exchange's numbers are dense): the journal refills what it still has, the rest is named as lost.

`examine` and `missing` only look; what they lead to is told on the disk before `repair` touches a file, so that a kill
in between hides nothing.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from .codec import CodecError, decompress
from .disk import Disk, copy, free_name, set_aside
from .record import RecordError, decode, is_record, seq_of, whole_lines
from .record_file import READ_BYTES, Span, backwards, below, extend, lines, lines_of
from .storage import (
    NO_SYMBOL,
    OPEN,
    decode_symbol,
    encode_symbol,
    month_dirs,
    sealed_lines,
    standing_lines,
    symbol_dirs,
)
from .subscribed import Subscribed, tells_subscriptions
from .synced import Facts, proved

RECENT_NS = 2 * 3600 * 10**9
"""A file lasts for an hour, and `cp` leaves out the one that is sealed while it copies."""


class Damage(NamedTuple):
    """One damaged `.open` file: its whole records in order, and where the first damage lies."""

    path: Path
    good: list[Span]
    end: int  # offset of the damage
    last: int  # the number before it
    torn: bool  # nothing but the beginning of a line that nobody was told of
    held: int | None = None  # the last number that it held when it was synced last, where that is known


def examine(disk: Disk, path: Path, synced: Facts | None, position: int, journal_front: int | None) -> Damage | None:
    """What is wrong with one `.open` file of an archive whose records up to `position` count as complete.

    `synced` is what the file held when it was synced last, None where that is not known. If it does not hold that any
    more, only what the pieces prove is kept. Without pieces, a line that looks whole may be made of two: what the
    journal still has is not taken from the file.
    """
    facts = synced or Facts()
    intact = facts.hold(disk, path)
    if intact and _is_sound(disk, path, facts.size):
        return None
    good, end, last = _salvage(disk, path, position)
    if not intact and facts.pieces:
        good, last = proved(((place, line) for place, line in lines(disk, path) if is_record(line)), facts)
        end = sum(span.end - span.begin for span in below(disk, path, good, last + 1))
    elif not intact and journal_front is not None:
        good = below(disk, path, good, journal_front)
        last = min(last, good[-1].last if good else 0)
    return Damage(path, good, end, last, intact and _is_torn_write(disk, path, end, position), facts.last)


def _is_sound(disk: Disk, path: Path, begin: int) -> bool:
    """Whether nothing but whole records follows from an offset on."""
    end = begin
    for place, line in lines(disk, path, begin):
        if not is_record(line):
            return False
        end = place + len(line)
    return end == disk.size(path)


def gone(path: Path, synced: Facts) -> Damage:
    """A file that was synced, and that somebody removed."""
    return Damage(path, [], 0, 0, torn=False, held=synced.last)


def when(disk: Disk, damage: Damage) -> int:
    """About when (ns) a damaged file was written; of one that is gone, its name tells when it was begun."""
    if disk.is_file(damage.path):
        return disk.mtime_ns(damage.path)
    milliseconds = damage.path.stem.rpartition("-")[2]
    return int(milliseconds) * 1_000_000 if milliseconds.isdecimal() else 0


def missing(
    disk: Disk, directory: Path, damages: list[Damage], position: int, after: int | None = None
) -> list[tuple[int, int]]:
    """The ranges up to `position` that no file of an exchange holds, from `after` or the first damage on."""
    afters = [damage.last or _last_before(disk, damage) for damage in damages]
    after = min(afters if after is None else [*afters, after])
    held, starts = Numbers(), dict[int, int]()  # of each `start`, the number that must come before it
    for line in _all_records(disk, directory, after, {damage.path: damage.good for damage in damages}):
        held.add(seq := seq_of(line))
        if line.find(b',"kind":"start"', 0, 96) > 0:
            starts[seq] = int(decode(line).head.get("last", 0))
    found = []
    last = after
    for seq in held:
        if seq > position:
            break
        if (before := starts.get(seq, seq - 1)) > last:
            found.append((last + 1, before))
        last = seq
    return [*found, (last + 1, position)] if last < position else found


class Numbers:
    """Many numbers, most of them next to each other: a bit for each, in pieces. Iterates in their order."""

    def __init__(self) -> None:
        self._pieces: dict[int, bytearray] = {}

    def add(self, number: int) -> None:
        piece = self._pieces.get(number >> 16)
        if piece is None:
            piece = self._pieces[number >> 16] = bytearray(1 << 13)
        piece[number >> 3 & 0x1FFF] |= 1 << (number & 7)

    def __iter__(self) -> Iterator[int]:
        for key, piece in sorted(self._pieces.items()):
            for place, bits in enumerate(piece):
                if bits:
                    first = key << 16 | place << 3
                    yield from (first + bit for bit in range(8) if bits >> bit & 1)


def whole_to(disk: Disk, directory: Path) -> int:
    """The number up to which a copy has everything for sure: where the first of its symbols ends.

    It was made while the archive was written, each file at another moment, over however many hours. A symbol counts
    that was recorded then: the records of no symbol say so, or its end is near.
    """
    ends = {path: end for path in symbol_dirs(disk, directory) if (end := _end_of(disk, path)) is not None}
    newest = max((ts for _, ts in ends.values()), default=0)
    recorded = {NO_SYMBOL, *map(encode_symbol, _recorded(disk, directory / NO_SYMBOL))}
    return min(
        (seq for path, (seq, ts) in ends.items() if path.name in recorded or ts >= newest - RECENT_NS),
        default=0,
    )


def _recorded(disk: Disk, directory: Path) -> Collection[str]:
    """The symbols that are recorded at the end of the records of no symbol."""
    found = Subscribed(0)
    for month in month_dirs(disk, directory)[-2:]:
        sealed = sorted(standing_lines(disk, month).values(), key=lambda line: int(line["seq"][0]))
        records = chain.from_iterable(sealed_records(disk, month, line, 0) for line in sealed[-1:])
        opens = sorted(name for name in disk.files(month) if name.endswith(OPEN))
        for line in chain(records, *(lines_of(disk, month / name) for name in opens)):
            if tells_subscriptions(line) and is_record(line):
                with contextlib.suppress(RecordError):
                    found = found.after(decode(line))
    return found.symbols or ()


def lacks(
    disk: Disk, directory: Path, ranges: list[tuple[int, int]], damages: Iterable[Damage]
) -> dict[str | None, tuple[int, int]]:
    """What each symbol of a copy (None: of no symbol) may lack of some ranges: what lies behind its last record."""
    found: dict[str | None, tuple[int, int]] = {}
    damaged = {damage.path: damage.last for damage in damages}
    for symbol_dir in symbol_dirs(disk, directory):
        last, _ = _end_of(disk, symbol_dir, damaged) or (0, 0)
        behind = [(max(first, last + 1), upto) for first, upto in ranges if upto > last]
        if behind:
            symbol = None if symbol_dir.name == NO_SYMBOL else decode_symbol(symbol_dir.name)
            found[symbol] = behind[0][0], behind[-1][1]
    return found


def _end_of(disk: Disk, symbol_dir: Path, damaged: Mapping[Path, int] | None = None) -> tuple[int, int] | None:
    """Number and `ts_recv` (ns) of a symbol's last record; None where it has none.

    A damaged file ends with the number before its first damage.
    """
    ends = []
    for month in month_dirs(disk, symbol_dir)[-2:]:
        ends += [(int(line["seq"][1]), int(line["ts_recv"][1])) for line in standing_lines(disk, month).values()]
        for name in [name for name in disk.files(month) if name.endswith(OPEN)]:
            if damaged is not None and month / name in damaged:
                ends.append((damaged[month / name], 0))
                continue
            last = [line for _, line in islice(backwards(disk, month / name), 1) if is_record(line)]
            ends += [(seq_of(line), decode(line).ts_recv) for line in last]
    return max(ends, default=None)


def sealed_records(disk: Disk, month: Path, line: dict[str, Any], after: int) -> Iterator[bytes]:
    """The records above a number that a sealed file holds, by its manifest line; none of damaged blocks."""
    if line["seq"][1] <= after or not disk.is_file(month / line["file"]):
        return
    for block in line["blocks"]:
        if block["seq"][1] > after:
            try:
                raw = decompress(disk.read(month / line["file"], block["offset"], block["bytes"]), line["codec"])
            except CodecError:
                continue  # `verify` names it
            yield from (record for record in whole_lines(raw)[0] if is_record(record) and seq_of(record) > after)


def repair(disk: Disk, damage: Damage, position: int, report: Callable[[str], None]) -> None:
    """Keep a file's good records up to `position`, and what else it held aside."""
    if not disk.is_file(damage.path):
        report(f"{damage.path} was removed: going on after record {position}, as far as the journal reaches back")
        return
    if damage.torn:
        set_aside(disk, damage.path, damage.end, report, "torn")
        return
    good = below(disk, damage.path, damage.good, position + 1)
    if [span.begin for span in good] in ([], [0]):  # nothing lies before or between what is kept
        end = good[0].end if good else 0
        set_aside(disk, damage.path, end, report, f"damaged, refilled from the journal after record {position}")
        return
    aside = free_name(disk, damage.path.with_name(damage.path.name + ".damaged"))
    temporary = damage.path.with_name(damage.path.name + ".tmp")
    copy(disk, damage.path, [(span.begin, span.end) for span in good], temporary)
    copy(disk, damage.path, [(0, disk.size(damage.path))], aside)
    disk.rename(temporary, damage.path)
    disk.sync_dir(damage.path.parent)
    report(
        f"{damage.path} damaged at offset {damage.end}: its whole records are kept, the file set aside as {aside.name}"
    )


def _all_records(disk: Disk, directory: Path, after: int, damaged: dict[Path, list[Span]]) -> Iterator[bytes]:
    """Every whole record above a number in an exchange's files."""
    for month in (month for symbol in symbol_dirs(disk, directory) for month in month_dirs(disk, symbol)):
        sealed = standing_lines(disk, month)
        for line in sealed.values():
            yield from sealed_records(disk, month, line, after)
        for path in (month / name for name in disk.files(month) if name.endswith(OPEN)):
            if path.name.removesuffix(OPEN) not in sealed:
                yield from (line for line in lines_of(disk, path, damaged.get(path)) if seq_of(line) > after)


def _last_before(disk: Disk, damage: Damage) -> int:
    """The last number that the symbol's sealed files before it hold: what an emptied file held lay behind it."""
    months = month_dirs(disk, damage.path.parents[1])
    lines = [line for month in months for line in sealed_lines(disk, month).values()]
    before = [line for line in lines if damage.held is None or line["seq"][0] < damage.held]
    return max((int(line["seq"][1]) for line in before), default=0)


def _salvage(disk: Disk, path: Path, position: int) -> tuple[list[Span], int, int]:
    """The whole records in order, and where the first damage lies: its offset, and the number before it.

    Behind the damage only what the archive counts as its own is kept: the journal has the rest.
    """
    good: list[Span] = []
    last, end = 0, 0
    damage: tuple[int, int] | None = None
    for place, line in lines(disk, path):
        if not is_record(line) or seq_of(line) <= last:
            damage = damage or (place, last)
        elif damage and seq_of(line) > position:
            break
        else:
            last = seq_of(line)
            extend(good, Span(place, place + len(line), last))
        end = place + len(line)
    end, last_before = damage or (end, last)
    return good, end, last_before


def _is_torn_write(disk: Disk, path: Path, begin: int, position: int) -> bool:
    """Whether the rest is what a kill in the middle of an append leaves: one line's beginning, beyond the position."""
    size, head = disk.size(path), disk.read(path, begin, READ_BYTES)
    for place in range(begin, size, READ_BYTES):
        data = disk.read(path, place, READ_BYTES)
        if b"\n" in data or b"\0" in data:
            return False
    try:
        return seq_of(head) > position
    except RecordError:
        return size - begin < 30 and b'{"seq":'.startswith(head[:7])
