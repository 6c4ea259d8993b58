"""What an exchange's directory holds, by names and manifests: the files to be proved, and what else lies there."""

from bisect import bisect_left
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from . import checked
from .codec import CodecError, lines
from .disk import Disk, kind, shown
from .inspection import Finding
from .listing import Listing
from .missing import UNKNOWN_END, Missing
from .record import RecordError, seq_of
from .storage import MANIFEST, NO_SYMBOL, OPEN, SEALED, decode_symbol, is_symbol_dir, month_dirs, staged, symbol_dirs
from .tabling import stem_of

RESTORE_MANIFEST = "restore the manifest from a copy"
CLEAR = "mount or restore what belongs there, or move it away"


class Candidate(NamedTuple):
    """A file that counts. `first` and `last` are its numbers as far as is known in advance."""

    first: int
    last: int
    path: Path
    place: tuple[int, int] | None  # of its line in the manifest: offset and length; None where it has none
    tables: frozenset[str] = frozenset()  # the names of its table files

    @property
    def symbol(self) -> str | None:
        return symbol_of(self.path.parent)


class Hole(NamedTuple):
    """Numbers that a manifest names as lost."""

    first: int
    last: int
    reason: str


@dataclass
class Survey:
    candidates: list[Candidate] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _find_odd(disk: Disk, directory: Path, found: Survey) -> None:
    """What readers pass over in the directory of an exchange or symbol, because it is no directory that they know."""
    for path in (directory / name for name in disk.names(directory) if not name.startswith(".")):
        if disk.is_taken(path) and not disk.exists(path):
            found.findings.append(Finding(shown(path), None, f"it is {kind(path)}", CLEAR))
        elif disk.is_dir(path) and not is_symbol_dir(path.name):
            found.findings.append(Finding(shown(path), None, "no symbol has a directory of that name", CLEAR))


def symbol_of(month: Path) -> str | None:
    """The symbol whose records lie in a month's directory."""
    name = month.parent.name
    return None if name == NO_SYMBOL else decode_symbol(name)


def survey(disk: Disk, directory: Path) -> Survey:
    """The files of an exchange, by their first numbers."""
    found = Survey()
    _find_odd(disk, directory, found)
    for symbol_dir in symbol_dirs(disk, directory):
        _find_odd(disk, symbol_dir, found)
        for month in month_dirs(disk, symbol_dir):
            _survey_month(disk, month, found)
    found.candidates.sort()
    found.holes.sort()
    return found


class Absent(NamedTuple):
    """Records of a symbol that were in the archive and are not there any more: the finding, and their range."""

    finding: Finding
    first: int
    last: int
    files: tuple[str, ...]  # that the manifest names


def absent(disk: Disk, directory: Path, found: Survey) -> list[Absent]:
    """What somebody removed, as manifests show: one finding for each range of a symbol, however many files it had.

    What lies in files that no whole line of a manifest names, or behind damage, is told by them.
    """
    listing = Listing(disk, directory)
    sealed = [each for each in found.candidates if each.path.suffix != OPEN]
    gone: list[Absent] = []
    for symbol_dir in symbol_dirs(disk, directory):
        symbol = symbol_of(symbol_dir / "month")
        try:
            firsts, missing = [file.first for file in listing.files(symbol)], listing.missing(symbol)
        except CodecError:
            continue
        for _, ranges in groupby(missing, key=lambda each: bisect_left(firsts, each.first)):
            each = _absent(symbol_dir, list(ranges))
            within = [one for one in sealed if one.symbol == symbol and each.first <= one.first <= each.last]
            if each.files or not within:
                gone.append(each)
    return gone


def _absent(symbol_dir: Path, ranges: list[Missing]) -> Absent:
    names = [each.file for each in ranges if each.file is not None]
    first, last = ranges[0].first, max(each.last for each in ranges)
    times = [time for each in ranges for time in (each.ts_from, each.ts_to) if time is not None]
    until = "on" if last == UNKNOWN_END else f"to {last}"
    what = f"records from {first} {until} are missing"
    if len(names) == 1:
        what = f"{names[0]} is missing, the manifest names it: {what}"
    elif names:
        what = f"{len(names)} files that the manifest names are missing, {names[0]} to {names[-1]}: {what}"
    if times:
        what += f" (received from {_utc(min(times))} to {_utc(max(times))})"
    return Absent(Finding(str(symbol_dir), None, what, "restore them from a copy"), first, last, tuple(names))


def _utc(ts_ns: int) -> str:
    return f"{datetime.fromtimestamp(ts_ns // 1_000_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _survey_month(disk: Disk, month: Path, found: Survey) -> None:
    names = set(disk.names(month))  # before the manifest: what is sealed meanwhile stands in it
    sealed = _read_manifest(disk, month, found)
    found.candidates += sealed.values()
    counted = {candidate.path.name for candidate in sealed.values()} | {name + OPEN for name in sealed}
    counted = counted.union(*(candidate.tables for candidate in sealed.values()))
    importing = staged(disk, month)
    for name in sorted(names - counted):
        path, stem = month / name, name.rpartition(".")[0]
        if disk.is_taken(path) and (not disk.exists(path) or disk.is_dir(path)):
            found.findings.append(Finding(shown(path), None, f"it is {kind(path)}", CLEAR))
        elif name == MANIFEST:
            continue
        elif name.endswith(OPEN):
            found.candidates.append(_open_candidate(disk, path))
        elif (stem_of(name) or stem) in importing:
            why = "its import goes on, or was stopped: the next one finishes it"
            found.notes.append(f"{shown(path)}: not committed: {why}")
        elif name.endswith(tuple(SEALED.values())):
            if stem in sealed or stem + OPEN in names:
                found.notes.append(f"{shown(path)}: not committed (sealing was stopped): another file stands for it")
            else:
                found.candidates.append(Candidate(_first(path), 0, path, None))
        elif ".damaged" in name:
            found.notes.append(f"{shown(path)}: set aside by a repair")
        elif name.endswith(".tmp"):
            found.notes.append(f"{shown(path)}: unfinished; sealing goes on, or was stopped and begins again")
        elif (stem := stem_of(name) or "") + OPEN in names:
            found.notes.append(f"{shown(path)}: not committed: sealing goes on, or was stopped and begins again")
        elif stem in sealed:
            found.notes.append(f"{shown(path)}: no line of the manifest names it: trade-archivist rebuild removes it")
        else:
            found.notes.append(f"{shown(path)}: no file of the archive")


def _open_candidate(disk: Disk, path: Path) -> Candidate:
    """An open file; the sealed one where it was sealed in this moment."""
    try:
        return Candidate(_first(path), 0, path, None)
    except FileNotFoundError:
        sealed = _read_manifest(disk, path.parent, Survey()).get(path.name.removesuffix(OPEN))
        return sealed or Candidate(0, 0, path, None)


def _first(path: Path) -> int:
    """The first number of a file; 0 where that cannot be read: it is looked at before all others then."""
    try:
        return seq_of(next(lines(path), b""))
    except (RecordError, CodecError):
        return 0


def _read_manifest(disk: Disk, month: Path, found: Survey) -> dict[str, Candidate]:
    """The newest line of each sealed file. A torn last line is not there: its writer was killed, or is writing."""
    try:
        data = disk.read(month / MANIFEST)
    except FileNotFoundError:
        return {}
    sealed: dict[str, Candidate] = {}
    offset = 0
    for line in data.split(b"\n")[:-1]:
        try:
            entry = checked.loads(line)
            if "hole" in entry:
                found.holes.append(Hole(int(entry["hole"][0]), int(entry["hole"][1]), str(entry.get("reason"))))
            else:
                sealed[entry["name"]] = _candidate(month, entry, (offset, len(line)))
        except (LookupError, TypeError, ValueError, AttributeError):
            found.findings.append(
                Finding(str(month / MANIFEST), offset, "a damaged line of the manifest", RESTORE_MANIFEST)
            )
        offset += len(line) + 1
    return sealed


def _candidate(month: Path, entry: dict[str, Any], place: tuple[int, int]) -> Candidate:
    name = str(entry["name"])
    if not name.startswith(f"{month.parent.name}-") or "/" in name:
        raise ValueError(name)
    tables = frozenset(str(facts["file"]) for facts in dict(entry.get("tables") or {}).values())
    if any("/" in table for table in tables):
        raise ValueError(tables)
    path = month / (name + SEALED[entry["codec"]])
    return Candidate(int(entry["seq"][0]), int(entry["seq"][1]), path, place, tables)
