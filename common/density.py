"""Each number of an exchange exactly once: the numbers of all its files, counted a window at a time.

    file A   1 2     5 6 7        numbers of one file, packed a block at a time
    file B       3 4       8 9
             └─ window ─┘         a byte for each number; what is behind is forgotten

Memory is that of one window and of the files that overlap it, however long the archive is.
"""

import re
import zlib
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

WINDOW = 1 << 20
"""Numbers that are counted at a time."""

KEPT_MAX = 1000
"""Ranges that are kept to be told one by one; of those beyond only the sum is known."""

_ZEROS = re.compile(rb"\x00+")

Range = tuple[int, int]


class Packed(NamedTuple):
    """Some numbers of a file, growing: a byte or two each."""

    first: int
    last: int
    data: bytes


def pack(numbers: "array[int]") -> Packed:
    return Packed(numbers[0], numbers[-1], zlib.compress(numbers.tobytes(), 1))


class Doubled(NamedTuple):
    """Numbers that are there more than once, and who has the first of them."""

    first: int
    last: int
    paths: list[Path]


class _Source:
    """The numbers of one file that were not counted yet."""

    def __init__(self, path: Path, packed: Iterable[Packed]) -> None:
        self.path = path
        self._packed = deque(packed)
        self._rest: array[int] = array("Q")

    @property
    def next(self) -> int | None:
        if self._rest:
            return self._rest[0]
        return self._packed[0].first if self._packed else None

    def take(self, first: int, end: int) -> "array[int]":
        """The numbers from `first` on and below `end`; those before `first` are dropped."""
        while self._packed and self._packed[0].first < end:
            self._rest.frombytes(zlib.decompress(self._packed.popleft().data))
        cut = bisect_left(self._rest, end)
        taken, self._rest = self._rest[:cut], self._rest[cut:]
        return taken[bisect_left(taken, first) :]


class Density:
    """Files are added in the order of their first numbers. Numbers above `complete` may be missing, not doubled."""

    def __init__(self, complete: int, holes: Iterable[Range] = ()) -> None:
        self.missing: list[Range] = []
        self.missing_count = 0  # numbers, those of ranges beyond KEPT_MAX among them
        self.doubled: list[Doubled] = []
        self.doubled_count = 0
        self.first = 0
        self._complete = complete
        self._excused = sorted(holes)  # ranges that may be missing
        self._starts: dict[int, int] = {}  # number of each `start`: what it says was the last before it
        self._sources: list[_Source] = []
        self._expected = 1

    @property
    def last(self) -> int:
        return self._expected - 1

    def add(self, path: Path, packed: Iterable[Packed], starts: dict[int, int], excused: Iterable[Range]) -> None:
        """A file's numbers, its `start` records, and ranges that are told to be damaged already."""
        self._sources.append(_Source(path, packed))
        self._starts |= starts
        self._excused = sorted([*self._excused, *excused])

    def advance(self, limit: int) -> None:
        """Every file with a number below `limit` was added: count what can be counted in whole windows."""
        while (base := self._base()) is not None and base + WINDOW <= limit:
            self._count(base, base + WINDOW)

    def finish(self) -> None:
        """Every file was added."""
        while (base := self._base()) is not None:
            self._count(base, base + WINDOW)
        if self._expected <= self._complete:
            self._miss(self._expected, self._complete)

    def _base(self) -> int | None:
        self._sources = [source for source in self._sources if source.next is not None]
        return min((source.next or 0 for source in self._sources), default=None)

    def _count(self, base: int, end: int) -> None:
        base = max(base, self._expected)
        there = bytearray(max(0, end - base))
        taken = [(source.path, source.take(base, end)) for source in self._sources]
        for path, numbers in taken:
            for number in numbers:
                if there[number - base]:
                    self._double(number, path, taken)
                there[number - base] = 1
        top = there.rfind(1)
        if top < 0:
            return
        begin = there.find(1)
        self.first = self.first or base + begin
        if self._expected < base + begin:
            self._miss(self._expected, base + begin - 1)
        for zeros in _ZEROS.finditer(there, begin, top):
            self._miss(base + zeros.start(), base + zeros.end() - 1)
        self._expected = base + top + 1

    def _double(self, number: int, path: Path, taken: list[tuple[Path, "array[int]"]]) -> None:
        self.doubled_count += 1
        before = self.doubled[-1] if self.doubled else None
        if before is not None and number == before.last + 1 and path in before.paths:
            self.doubled[-1] = before._replace(last=number)
        elif len(self.doubled) < KEPT_MAX:
            self.doubled.append(Doubled(number, number, [path for path, numbers in taken if _has(numbers, number)]))

    def _miss(self, first: int, last: int) -> None:
        """Numbers that no file has. What no `start`, no named hole and no told damage excuses is kept."""
        jump_from = self._starts.get(last + 1)
        last = min(last, self._complete if jump_from is None else min(self._complete, jump_from))
        for hole_first, hole_last in self._excused:
            if hole_first > last:
                break
            if hole_last >= first:
                self._keep(first, hole_first - 1)
                first = hole_last + 1
        self._keep(first, last)

    def _keep(self, first: int, last: int) -> None:
        if first > last:
            return
        self.missing_count += last - first + 1
        if len(self.missing) < KEPT_MAX:
            self.missing.append((first, last))


def _has(numbers: "array[int]", number: int) -> bool:
    index = bisect_left(numbers, number)
    return index < len(numbers) and numbers[index] == number
