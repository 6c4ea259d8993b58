"""Which records an archive held and holds no more, as its manifests show.

    manifest  A  after 0    next 31 ─┐   each line names the number before the file and the one that follows it
              B  after 30   next 77  ├─▶ B's file is gone: 31 … 76 of this symbol are missing
              C  after 76   next 98 ─┘   B's line is gone too: A's `next` and C's `after` still show it

Lines written before those two keys existed show it by `covers`, which ends before the following file.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .listing import ArchiveFile

UNKNOWN_END = (1 << 63) - 1
"""`last` of a range behind a symbol's last file: nothing tells where it ends."""


MISSING = "missing"
"""The reason of what no manifest names as a hole."""


class Missing(NamedTuple):
    """Records that lie between two numbers (both ends included) and are not in the archive.

    `symbol` is None for records of no symbol, and for a hole that the manifest names: then any symbol's may be missing.
    `ts_from` and `ts_to` (ns) bound when they were received; None where nothing tells.
    """

    first: int
    last: int
    symbol: str | None = None
    reason: str = MISSING
    ts_from: int | None = None
    ts_to: int | None = None
    file: str | None = None  # the file that held them, where it is known

    @property
    def is_of_all(self) -> bool:
        """Whether the state of every symbol is unknown behind it: records of no symbol concern them all."""
        return self.symbol is None


def missing_of(symbol: str | None, present: Sequence["ArchiveFile"], absent: Sequence["ArchiveFile"]) -> list[Missing]:
    """The ranges of one symbol that no present file holds. Both lists are in the order of their numbers."""
    if not absent and not any(map(_breaks, (None, *present), (*present, None))):
        return []
    gone = {id(file) for file in absent}
    known = sorted([*present, *absent], key=lambda file: file.seq)
    return list(_ranges(symbol, known, gone))


def _breaks(before: "ArchiveFile | None", file: "ArchiveFile | None") -> bool:
    """Whether something lay between two files that follow each other (None: before the first, behind the last)."""
    last = before.seq[1] if before is not None else 0
    if file is None:
        return before is not None and before.next is not None
    if file.after is not None and file.after > last:
        return True
    return before is not None and before.next is not None and last < before.next < file.seq[0]


def _ranges(symbol: str | None, known: Sequence["ArchiveFile"], gone: set[int]) -> Iterator[Missing]:
    before: ArchiveFile | None = None
    for file in known:
        if _breaks(before, file):
            yield _between(symbol, before, file)
        if id(file) in gone:
            yield Missing(*file.seq, symbol, MISSING, *file.ts_recv, file.file)
        if before is None or file.seq[1] > before.seq[1]:
            before = file
    if _breaks(before, None) and before is not None:
        yield _between(symbol, before, None)


def _between(symbol: str | None, before: "ArchiveFile | None", file: "ArchiveFile | None") -> Missing:
    first = 1
    if before is not None:
        first = before.seq[1] + 1
    last = UNKNOWN_END if file is None else file.seq[0] - 1
    ts_from = before.ts_recv[1] if before is not None else None
    return Missing(first, last, symbol, MISSING, ts_from, file.ts_recv[0] if file is not None else None)
