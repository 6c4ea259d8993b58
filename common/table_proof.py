"""Tables proved: each file is the one that the manifest names, and holds what `normalise` gives of the records.

Tables of an older normaliser are stale, not damaged: they are counted, and not compared.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

from . import exchanges
from .adapter import Adapter, version
from .chains import Chain, begins_by_itself, chains, run
from .codec import CodecError, MissingPackageError
from .disk import Disk
from .events import GAP, Event
from .inspection import Finding
from .listing import ArchiveFile
from .missing import MISSING
from .reader import Reader
from .storage import MANIFEST, sealed_lines
from .tables import COLUMNS, WORD, arrow, table
from .tabling import Covers, Derivation, TableFacts, covers, damaged_tables, is_stale


@dataclass
class TableProof:
    """What an exchange's tables turned out to be."""

    files: int = 0  # sealed files whose tables were proved
    stale: int = 0
    missing: int = 0  # sealed files without tables
    unproved: int = 0  # sealed files whose tables cover records that are missing
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Proved(NamedTuple):
    """One sealed file. `wrong` says which table file is not what the records give, and where."""

    name: str
    wrong: list[tuple[Path, str]]


def prove_tables(directory: Path, workers: int, progress: Callable[[int, int], None]) -> TableProof:
    """Prove the tables of one exchange's directory; `progress` is told how many files are done, and of how many.

    Raises OSError where it cannot be read.
    """
    found = TableProof()
    if directory.name not in exchanges.names():
        found.notes.append(f"{directory}: its tables are not proved: this version knows no exchange {directory.name!r}")
        return found
    adapter = cast(Adapter, exchanges.get(directory.name))
    reader = Reader(directory.parent, adapter)
    work: list[Chain] = []
    with ThreadPoolExecutor(workers) as pool:
        for symbol in reader.symbols():
            try:
                work += _chains(found, reader, directory, adapter, symbol, pool)
            except CodecError as error:
                found.notes.append(f"{directory}: tables of {symbol} are not proved: {error}")
    mend = f"trade-archivist rebuild {directory.parent} --exchange {directory.name}"
    try:
        arrow()
        for proved in run(prove_chain, work, workers):
            found.files += 1
            progress(found.files, sum(len(chain.names) for chain in work))
            for path, what in proved.wrong:
                found.findings.append(Finding(str(path), None, what, f"{mend} --force"))
    except MissingPackageError as error:
        found.notes.append(f"{directory}: its tables are not compared with the records: {error}")
    if found.stale:
        older = f"tables of {found.stale} files are stale, not of {version(adapter)}"
        found.notes.append(f"{directory}: {older}: {mend}")
    if found.unproved:
        found.notes.append(f"{directory}: tables of {found.unproved} files are not compared: their records are missing")
    if found.missing:
        found.notes.append(f"{directory}: {found.missing} sealed files have no tables: {mend}")
    return found


def _chains(
    found: TableProof, reader: Reader, directory: Path, adapter: Adapter, symbol: str, pool: ThreadPoolExecutor
) -> Iterator[Chain]:
    """The files of a symbol whose tables are to be compared. What is wrong with others is told at once."""
    files = reader.files(symbol)
    sealed = [(file, span) for index, file in enumerate(files) if file.is_sealed and (span := covers(files, index))]
    wanted: list[ArchiveFile] = []
    unknown = _unknown(reader, adapter, symbol)
    for (file, span), damages in zip(sealed, pool.map(_damages, [file for file, _ in sealed]), strict=True):
        line = file.manifest or {}
        mend = f"trade-archivist rebuild {directory.parent} --exchange {directory.name}"
        found.findings += [Finding(str(path), None, what, mend) for path, what in damages]
        if "tables" not in line:
            found.missing += 1
        elif is_stale(line, span, adapter):
            found.stale += 1
        elif file.path in unknown:
            found.unproved += 1
        elif not damages:
            wanted.append(file)
    return chains(reader, directory, adapter, symbol, wanted)


def _unknown(reader: Reader, adapter: Adapter, symbol: str) -> set[Path]:
    """The files of a symbol whose events need records that are missing: within them, or before them."""
    missing = [each for each in reader.missing([symbol]) if each.reason == MISSING]
    found: set[Path] = set()
    before, is_cut = 0, False
    for file in reader.files(symbol) if missing else ():
        is_cut = is_cut or any(before < each.last and each.first < file.first for each in missing)
        is_cut = is_cut and not begins_by_itself(reader, adapter, symbol, file)
        if is_cut or any(each.first <= file.seq[1] and each.last >= file.first for each in missing):
            found.add(file.path)
        before = file.seq[1]
    return found


def _damages(file: ArchiveFile) -> list[tuple[Path, str]]:
    """What is wrong with a file's tables, by its newest line: they may be made anew meanwhile."""
    line, month = file.manifest or {}, file.path.parent
    try:
        return _damages_of(month, line)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return [(month / MANIFEST, f"its line of {line['name']} lacks what it must say of tables ({error!r})")]


def _damages_of(month: Path, line: dict[str, Any]) -> list[tuple[Path, str]]:
    while damages := damaged_tables(month, line):
        newest = sealed_lines(Disk(), month).get(line["name"], line)
        if newest.get("tables") == line["tables"]:
            break
        line = newest
    return damages


def prove_chain(chain: Chain) -> Iterator[Proved]:
    """Compare the tables of a chain's files with what the records give."""
    derivation = Derivation(chain.directory, cast(Adapter, exchanges.get(chain.directory.name)), chain.symbol)
    for name in chain.names:
        yield Proved(name, _compare(derivation, name))


def _compare(derivation: Derivation, name: str) -> list[tuple[Path, str]]:
    """What is wrong with the tables of a sealed file; they may be made anew meanwhile."""
    while True:
        path, line = derivation.directory, {}
        try:
            files = derivation.reader.files(derivation.symbol)
            index = next(index for index, file in enumerate(files) if file.manifest and file.manifest["name"] == name)
            path, line, span = files[index].path, files[index].manifest or {}, covers(files, index)
            if span is None or is_stale(line, span, derivation.adapter):
                return []
            wrong = _differences(derivation, span, path.parent, line)
        except CodecError:
            return []  # the records are damaged: whoever reads them tells
        except Exception as error:  # whatever it is, it is no reason to prove nothing else
            wrong = [(path, f"its tables cannot be compared: {type(error).__name__}: {error}")]
        newest = sealed_lines(Disk(), path.parent).get(name, line)
        if not wrong or newest.get("tables") == line.get("tables"):
            return wrong


def _differences(derivation: Derivation, span: Covers, month: Path, line: dict[str, Any]) -> list[tuple[Path, str]]:
    """Which tables differ from the events of a span."""
    compared = {channel: _Compared(month / facts["file"]) for channel, facts in line["tables"].items()}
    unknown: set[str] = set()
    gaps: list[Event] = []
    for channel, events in derivation.batches(span):
        if channel == GAP:
            gaps += events
        if channel in compared:
            compared[channel].compare(channel, events)
        else:
            unknown.add(channel)
    manifest = month / MANIFEST
    wrong = [(manifest, f"its line of {line['name']} names no table of {channel}") for channel in sorted(unknown)]
    if orjson.dumps(gaps) != orjson.dumps(line["gaps"]):
        wrong.append((manifest, f"its line of {line['name']} names other gaps than the records give"))
    counts = {channel: each.facts.found["events"] for channel, each in compared.items()}
    if counts != line["events"]:
        wrong.append((manifest, f"its line of {line['name']} counts other events than the records give"))
    for channel, each in compared.items():
        facts = line["tables"][channel]
        said = [key for key, value in each.facts.found.items() if facts.get(key) != value]
        if (what := each.wrong()) is not None:
            wrong.append((each.path, what))
        elif said:
            wrong.append((manifest, f"its line of {line['name']} is wrong about {channel}: {', '.join(said)}"))
    return wrong


class _Compared:
    """One table file, read as events come."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as parquet

        self.path, self.facts = path, TableFacts()
        self._file = parquet.ParquetFile(path)
        self._row_group = self._row = 0
        self._held: Any = None  # rows that were read, not compared yet
        self._wrong: str | None = None

    def compare(self, channel: str, events: list[Event]) -> None:
        made = table(channel, events)
        self.facts.add(events, made)
        if self._wrong is not None:
            return
        kept = self._next(made.num_rows)
        if kept.num_rows < made.num_rows:
            self._wrong = f"ends after row {self._row + kept.num_rows}, the records give more"
        elif different := [name for name in COLUMNS[channel] if not _is_same(channel, name, made, kept)]:
            which = ", ".join(different)
            last = self._row + made.num_rows
            self._wrong = f"is not what the records give: {which} in rows {self._row} to {last - 1}"
        self._row += made.num_rows

    def wrong(self) -> str | None:
        """What is wrong, after everything was compared."""
        if self._wrong is None and self._row < self._file.metadata.num_rows:
            self._wrong = f"has {self._file.metadata.num_rows} rows, the records give {self._row}"
        self._file.close()
        return self._wrong

    def _next(self, count: int) -> Any:
        """The next rows, fewer at the file's end."""
        pa = arrow()
        pieces = [] if self._held is None else [self._held]
        while sum(piece.num_rows for piece in pieces) < count and self._row_group < self._file.num_row_groups:
            pieces.append(self._file.read_row_group(self._row_group, use_threads=False))
            self._row_group += 1
        rows = pa.concat_tables(pieces) if pieces else self._file.schema_arrow.empty_table()
        self._held = rows.slice(count)
        return rows.slice(0, count)


def _is_same(channel: str, name: str, made: Any, kept: Any) -> bool:
    """Whether a column is the same; one that tables did not have yet when the file was written must be empty."""
    if name not in kept.column_names:
        return bool(made[name].null_count == made.num_rows)
    columns = made[name], kept[name]
    if COLUMNS[channel][name] == WORD:  # dictionaries may have another order
        columns = columns[0].cast(arrow().string()), columns[1].cast(arrow().string())
    return bool(columns[0].equals(columns[1]))
