"""Prove a storage directory: every file by its checksums and lines, then all numbers of an exchange exactly once.

archived.json ─▶ complete        read before the files, so that what is written meanwhile is no damage
names, manifests ─▶ candidates   `survey`
journal ─▶ checksums             `journal_proof`
each file ─▶ its numbers         `inspection`, by the first number, several at a time
tables ─▶ normalise(records)     `table_proof`, several chains of files at a time
all numbers ─▶ missing, doubled  `density`
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import checked
from .codec import CodecError, lines
from .density import Density, Doubled
from .disk import Disk
from .inspection import (
    RESTART,
    RESTORE,
    Finding,
    Inspected,
    inspect_open,
    inspect_sealed,
    inspect_uncommitted,
    torn_seq,
)
from .journal_proof import prove_journal
from .ledger import LEDGER, damaged_lines
from .ledger import RESTORE as RESTORE_LEDGER
from .process import boot_id
from .storage import (
    ARCHIVED,
    IMPORT,
    JOURNALS,
    MANIFEST,
    MARKER,
    OPEN,
    month_dirs,
    read_archived,
    sealed_lines,
    symbol_dirs,
)
from .survey import RESTORE_MANIFEST, Candidate, Hole, absent, survey
from .synced import SYNCED, Facts, Synced, read_synced
from .table_proof import prove_tables

LOOKS = 3
"""How often an archive is looked at again that moved under our hands."""

COMPARED_MAX = 10
"""Doubled records whose bytes are compared."""

MISSING_MAX = 20
"""Ranges of missing records that are told one by one."""

Progress = Callable[[str, int, int], None]
"""Told the exchange, how many files are done, and of how many."""


@dataclass
class Report:
    """What one exchange's directory holds, and what is wrong with it."""

    exchange: str
    complete: int
    files: int = 0
    sealed: int = 0
    records: int = 0
    bytes_: int = 0
    tables: int = 0  # sealed files whose tables are what their records give
    stale: int = 0  # sealed files whose tables are of another normaliser
    without_tables: int = 0
    seq: tuple[int, int] = (0, 0)
    holes: list[Hole] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        return {
            "whole": self.is_whole,
            "complete": self.complete,
            "files": self.files,
            "sealed": self.sealed,
            "records": self.records,
            "bytes": self.bytes_,
            "tables": {"proved": self.tables, "stale": self.stale, "missing": self.without_tables},
            "seq": list(self.seq),
            "holes": [hole._asdict() for hole in self.holes],
            "findings": [finding._asdict() for finding in self.findings],
            "notes": self.notes,
        }


def exchange_dirs(directory: Path) -> list[Path]:
    """The exchanges' directories of a storage directory, or the directory itself if it is one."""
    disk = Disk()
    if _is_exchange(disk, directory):
        return [directory]
    return [path for path in symbol_dirs(disk, directory) if _is_exchange(disk, path)]


def _is_exchange(disk: Disk, directory: Path) -> bool:
    return disk.exists(directory / ARCHIVED) or any(month_dirs(disk, path) for path in symbol_dirs(disk, directory))


def verify(directory: Path, jobs: int, progress: Progress | None = None) -> Report:
    """Prove one exchange's directory, also while it is written. Raises OSError where it cannot be read."""
    disk, boot = Disk(), boot_id()
    for _ in range(LOOKS):
        before, synced = read_archived(disk, directory), read_synced(disk, directory)
        report = _prove(disk, directory, before.trusted(boot) if before.known else None, synced, jobs, progress)
        after = read_archived(disk, directory)
        went_on = after.known == before.known and after.trusted(boot) >= before.trusted(boot)
        if report.is_whole or (went_on and not _went_back(synced, read_synced(disk, directory))):
            break
    if before.known and before.trusted(boot) < before.complete:
        report.notes.append(
            f"{directory / ARCHIVED}: was written on another boot or machine: proved is what was synced, "
            f"up to {report.complete} of {before.complete}"
        )
    return report


def _went_back(before: Synced, after: Synced) -> bool:
    """Whether the archiver has cut files meanwhile: what was synced is not there any more, rightly."""
    there = after.files
    return bool(before.files and not there) or any(
        there.get(name, was).size < was.size for name, was in before.files.items()
    )


def _prove(
    disk: Disk, directory: Path, complete: int | None, synced: Synced, jobs: int, progress: Progress | None
) -> Report:
    found = survey(disk, directory)
    report = Report(directory.name, complete or 0, findings=found.findings, notes=found.notes, holes=found.holes)
    if complete is None and found.candidates:
        report.complete = max(candidate.last for candidate in found.candidates)
        missing = "cannot be read" if disk.exists(directory / ARCHIVED) else "is missing"
        mend = "restart the archiver, it writes it anew"
        report.findings.append(Finding(str(directory / ARCHIVED), None, missing, mend))
    if synced.is_damaged:
        mend = "restart the archiver, it writes it anew"
        report.findings.append(Finding(str(directory / SYNCED), None, "cannot be read", mend))
    _add_beside(disk, directory, report)
    gone = absent(disk, directory, found)
    report.findings += [each.finding for each in gone]
    told = {name for each in gone for name in each.files}
    density = Density(report.complete, [each[:2] for each in found.holes] + [each[1:3] for each in gone])
    inspections = _ahead(lambda each: _inspect(directory, each, synced, told), found.candidates, jobs)
    for done, (candidate, inspected) in enumerate(inspections, 1):
        density.advance(candidate.first)
        density.add(inspected.path, inspected.packed, inspected.starts, inspected.excused)
        _add(report, inspected)
        if progress is not None:
            progress(report.exchange, done, len(found.candidates))
    density.finish()
    report.seq = density.first, density.last
    _judge(directory, density, report)
    _add_tables(directory, report, jobs, progress)
    return report


def _add_beside(disk: Disk, directory: Path, report: Report) -> None:
    """What is wrong with the journal, and with what imports have told."""
    findings, notes = prove_journal(disk, directory.parent / JOURNALS / directory.name, report.complete)
    report.findings += findings
    report.notes += notes
    for offset in damaged_lines(disk, directory):
        report.findings.append(Finding(str(directory / LEDGER), offset, "a damaged line", RESTORE_LEDGER))
    marker = directory.parent / IMPORT / directory.name / MARKER
    if disk.is_file(marker) and not checked.is_intact(disk.read(marker)):
        report.findings.append(Finding(str(marker), None, "its checksum is wrong", RESTORE_LEDGER))


def _add_tables(directory: Path, report: Report, jobs: int, progress: Progress | None) -> None:
    def told(done: int, files: int) -> None:
        if progress is not None:
            progress(report.exchange, report.files + done, report.files + files)

    proof = prove_tables(directory, jobs, told)
    report.tables, report.stale, report.without_tables = proof.files, proof.stale, proof.missing
    report.findings += proof.findings
    report.notes += proof.notes


def _ahead(
    inspect: Callable[[Candidate], Inspected], candidates: list[Candidate], jobs: int
) -> Iterator[tuple[Candidate, Inspected]]:
    """All files in their order, some ahead of the one that is taken: decompressing leaves the other threads free."""
    under_way: deque[tuple[Candidate, Future[Inspected]]] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        for candidate in candidates:
            under_way.append((candidate, pool.submit(inspect, candidate)))
            if len(under_way) > 2 * jobs:
                first, inspected = under_way.popleft()
                yield first, inspected.result()
        for first, inspected in under_way:
            yield first, inspected.result()


def _inspect(directory: Path, candidate: Candidate, synced: Synced, told: set[str]) -> Inspected:
    """Prove one file; `told` are the names of those whose absence is told already."""
    path = candidate.path
    if candidate.place is not None and path.name in told:
        return Inspected(path, sealed=True)
    try:
        if candidate.place is not None:
            return _inspect_sealed(candidate)
        if path.suffix == OPEN:
            return _inspect_open(candidate, synced.files.get(str(path.relative_to(directory)), Facts()))
        return inspect_uncommitted(path, candidate.symbol)
    except PermissionError:
        raise
    except OSError as error:
        found = Inspected(path, sealed=path.suffix != OPEN)
        found.find(None, f"cannot be read: {error.strerror}", RESTORE)
        return found


def _inspect_sealed(candidate: Candidate) -> Inspected:
    manifest = candidate.path.parent / MANIFEST
    offset, length = candidate.place or (0, 0)
    try:
        line = checked.loads(Disk().read(manifest, offset, length))
        return inspect_sealed(candidate.path.parent, line, candidate.symbol)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        found = Inspected(manifest, sealed=True)
        found.find(offset, f"a line of the manifest lacks what it must say ({error!r})", RESTORE_MANIFEST)
        found.excused.append((candidate.first, candidate.last))
        return found


def _inspect_open(candidate: Candidate, synced: Facts) -> Inspected:
    """An open file; the sealed one where it was sealed meanwhile."""
    path = candidate.path
    try:
        return inspect_open(path, candidate.symbol, synced)
    except FileNotFoundError:
        line = sealed_lines(Disk(), path.parent).get(path.name.removesuffix(OPEN))
        if line is None:
            return Inspected(path, sealed=False)  # gone: if that is wrong, its numbers are missing
        return inspect_sealed(path.parent, line, candidate.symbol)


def _add(report: Report, inspected: Inspected) -> None:
    report.files += 1
    report.sealed += inspected.sealed
    report.records += inspected.records
    report.bytes_ += inspected.size
    report.findings += inspected.findings
    if inspected.torn is not None:
        offset, start = inspected.torn
        seq = torn_seq(start)
        if seq is not None and seq <= report.complete:
            report.findings.append(Finding(str(inspected.path), offset, f"record {seq} is torn", RESTART))
        else:
            report.notes.append(f"{inspected.path} offset {offset}: the last line is not whole (yet)")


def _judge(directory: Path, density: Density, report: Report) -> None:
    """What the numbers of all files together show."""
    missing, mend = density.missing, "restore the files that held them from a copy"
    if len(missing) > MISSING_MAX:
        what = (
            f"{density.missing_count} records in many ranges between {missing[0][0]} and {missing[-1][1]} are missing"
        )
        report.findings.append(Finding(str(directory), None, what, mend))
        missing = []
    for first, last in missing:
        what = f"record {first} is missing" if first == last else f"records {first} to {last} are missing"
        report.findings.append(Finding(str(directory), None, what, mend))
    for index, doubled in enumerate(density.doubled):
        what, mend = _describe(doubled) if index < COMPARED_MAX else ("twice", "see above")
        names = " and ".join(str(path) for path in doubled.paths[1:])
        numbers = f"record {doubled.first}" if doubled.first == doubled.last else (
            f"records {doubled.first} to {doubled.last}"
        )  # fmt: skip
        report.findings.append(Finding(str(doubled.paths[0]), None, f"{numbers} {what}, also in {names}", mend))


def _describe(doubled: Doubled) -> tuple[str, str]:
    """Whether a number that is there twice is the same record, and what to do."""
    try:
        found = {_line(path, doubled.first) for path in doubled.paths}
    except (CodecError, OSError):
        found = set()
    if len(found) > 1:
        return "twice with other bytes", "two feeds wrote records: keep the right one's files, move the others away"
    return "twice", "one of the files is a copy: move it away"


def _line(path: Path, seq: int) -> bytes | None:
    begin = b'{"seq":%d,' % seq
    return next((line for line in lines(path) if line.startswith(begin)), None)
