"""`.synced.json`: what each `.open` file held when it was synced last, so that damage shows before it is sealed.

    {"fsynced": 1041, "files": {"BTCUSDT/2024-08/….open": [size, crc32, [[crc32, last], …], after]}, "line_crc32": …}

A piece is the CRC32 of some record lines, up to and with the number `last`: where the whole is damaged, the pieces
tell which records are not. Files that wait to be sealed stay here until their manifest line stands.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from . import checked
from .disk import Disk, replace
from .record import seq_of
from .record_file import Span, crc_of, extend

SYNCED = ".synced.json"
PIECE_BYTES = 64 * 1024
PIECES_MAX = 256
"""After so many pieces of a file, and after as many again, the next ones are twice as large."""


class Facts(NamedTuple):
    """Size and CRC32 of a file's beginning; `pieces` are (CRC32, last number) of its lines, one after the other.

    `after` is the last number of the symbol's file before it, as manifest lines have it; None where it is not known.
    """

    size: int = 0
    crc: int = 0
    pieces: tuple[tuple[int, int], ...] = ()
    after: int | None = None

    def hold(self, disk: Disk, path: Path) -> bool:
        """Whether the file begins as it was synced."""
        return crc_of(disk, path, self.size) == self.crc

    @property
    def last(self) -> int | None:
        """The last number; None where it was not kept."""
        return self.pieces[-1][1] if self.pieces else None


@dataclass(frozen=True)
class Synced:
    """What the file says. `fsynced` is the number up to which all files were complete and synced; None: not kept."""

    files: dict[str, Facts] = field(default_factory=dict)
    fsynced: int | None = None
    is_damaged: bool = False


def read_synced(disk: Disk, directory: Path) -> Synced:
    """What `.synced.json` says; nothing where it is missing or damaged."""
    try:
        data = checked.loads(disk.read(directory / SYNCED))
        is_old = "files" not in data
        files = {str(name): _facts(*each) for name, each in (data if is_old else data["files"]).items()}
        return Synced(files, None if is_old else int(data["fsynced"]))
    except FileNotFoundError:
        return Synced()
    except (AttributeError, KeyError, TypeError, ValueError):
        return Synced(is_damaged=True)


def _facts(size: int, crc: int, pieces: Iterable[tuple[int, int]] = (), after: int | None = None) -> Facts:
    proofs = tuple((int(each), int(last)) for each, last in pieces)
    return Facts(int(size), int(crc), proofs, None if after is None else int(after))


def write_synced(disk: Disk, directory: Path, files: dict[str, Facts], fsynced: int) -> None:
    data = {
        "fsynced": fsynced,
        "files": {name: facts[: 4 if facts.after is not None else 3] for name, facts in files.items()},
    }
    replace(disk, directory / SYNCED, checked.dumps(data), durable=True)


class Pieces:
    """The facts of a file that is being written."""

    def __init__(self, after: int | None = None) -> None:
        self.after = after  # see `Facts`
        self.size = self.crc = 0
        self._done: list[tuple[int, int]] = []
        self._crc = self._size = 0  # of the piece that is not full yet
        self._last = 0
        self._full = PIECE_BYTES

    def add(self, data: bytes, last: int) -> None:
        """Whole lines were appended, up to and with the number `last`."""
        self.size += len(data)
        self.crc = crc32(data, self.crc)
        self._crc, self._size, self._last = crc32(data, self._crc), self._size + len(data), last
        if self._size >= self._full:
            self._done.append((self._crc, last))
            self._crc = self._size = 0
            if len(self._done) % PIECES_MAX == 0:
                self._full *= 2

    def facts(self) -> Facts:
        rest = [(self._crc, self._last)] if self._size else []
        return Facts(self.size, self.crc, (*self._done, *rest), self.after)


def proved(lines: Iterable[tuple[int, bytes]], facts: Facts) -> tuple[list[Span], int]:
    """Of a damaged file's whole records, with their offsets, those that its pieces prove.

    Returns them in the order of numbers, and the number before the first damaged piece. What lies behind the last piece
    is proved by nothing, and not among them.
    """
    lasts = [last for _, last in facts.pieces]
    crcs = [0] * len(lasts)
    found: list[list[Span]] = [[] for _ in lasts]
    for place, line in lines:
        if (index := bisect_left(lasts, seq := seq_of(line))) < len(lasts):
            crcs[index] = crc32(line, crcs[index])
            extend(found[index], Span(place, place + len(line), seq))
    is_good = [crc == of_piece for crc, (of_piece, _) in zip(crcs, facts.pieces, strict=True)]
    before = is_good.index(False) if False in is_good else len(lasts)
    good: list[Span] = []
    for spans, proves in zip(found, is_good, strict=True):
        for span in spans if proves else ():
            extend(good, span)
    return good, lasts[before - 1] if before else 0
