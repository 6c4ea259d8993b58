"""From records to table files: the events of one sealed file, derived and written one Parquet file per channel.

covers  [first … last]   from the file's first record (1 for a symbol's first file) to the one before the next
                         file's first: what records of no symbol tell in between lies in exactly one file
STEM.trade.parquet       row groups of about 64 Ki rows, so that a reader passes over what it does not need
STEM.trade.2.parquet     made anew: nothing is overwritten while somebody may read it
"""

import contextlib
import gc
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import storage
from .adapter import FAULTS, Adapter, version
from .disk import Disk, make_room, open_file, remove_if_there
from .emission import Published
from .events import GAP, Event
from .listing import ArchiveFile
from .normaliser import Normaliser
from .reader import Reader
from .record import Record, seq_of
from .runs import derived_snapshot
from .sealing import Tables
from .tables import COLUMNS, INT, TEXT, WORD, arrow, compute, for_pandas, inexact, rows, schema, table

PARQUET = ".parquet"
ROWS = 64 * 1024
"""Rows of a row group, at least: an event stays whole."""
BATCH_ROWS = 4 * 1024
"""Rows that become columns at a time: as events they take ten times the memory."""

ZSTD_LEVEL = 3


class Covers(NamedTuple):
    """The numbers that a file's tables answer for, both ends included."""

    first: int
    last: int


def covers(files: Sequence[ArchiveFile], index: int) -> Covers | None:
    """What one of a symbol's files covers; None for the last one, whose end nobody knows yet.

    What is missing between two files is covered by neither.
    """
    if index + 1 >= len(files):
        return None
    file, following = files[index], files[index + 1].first
    if file.next is not None:
        following = min(following, file.next)
    return Covers(file.first if index or file.after else 1, following - 1)


def tabulate(path: Path, adapter: Adapter, *, goes_on: bool = False) -> Tables | None:
    """Write the tables of a symbol's `.open` file that is full; None where no other file follows it yet.

    `goes_on`: the symbol's first file here is not its very first (what is imported is added to an archive).
    Every record before the next file's first one must be archived. Raises MissingPackageError, CodecError, OSError,
    and whatever a fault of ours raises: then nothing is left behind.
    """
    directory, symbol = path.parents[2], storage.decode_symbol(path.parents[1].name)
    derivation = Derivation(directory, adapter, symbol)
    files = derivation.reader.files(symbol)
    index = next((index for index, file in enumerate(files) if file.path == path), len(files))
    span = covers(files, index)
    if span is None:
        return None
    if index == 0 and goes_on:
        span = span._replace(first=files[0].first)
    stem = path.name.removesuffix(storage.OPEN)
    return write(derivation, span, lambda channel: path.parent / table_name(stem, channel))


def table_name(stem: str, channel: str, number: int = 1) -> str:
    return f"{stem}.{channel}{PARQUET}" if number == 1 else f"{stem}.{channel}.{number}{PARQUET}"


def stem_of(name: str) -> str | None:
    """The stem of the file whose table is called so, under a temporary name too; None where it is no table's name."""
    base = name.removesuffix(".tmp")
    if not base.endswith(PARQUET):
        return None
    stem, _, channel = base.removesuffix(PARQUET).rpartition(".")
    return stem.rpartition(".")[0] if channel.isdigit() else stem


def is_stale(line: dict[str, Any], span: Covers, adapter: Adapter) -> bool:
    """Whether a file has no tables, or those of another normaliser, or they end elsewhere than they must by now."""
    is_of_version = line.get("normaliser") == version(adapter)
    return "tables" not in line or not is_of_version or line.get("covers") != list(span)


def damaged_tables(month: Path, line: dict[str, Any]) -> list[tuple[Path, str]]:
    """The table files that a manifest line names and that are not what it says, each with what is wrong."""
    found = []
    for facts in line.get("tables", {}).values():
        path = month / facts["file"]
        try:
            if (size := path.stat().st_size) != facts["bytes"]:
                found.append((path, f"has {size} bytes, not {facts['bytes']}"))
            elif _sha256(path) != facts["sha256"]:
                found.append((path, "has another SHA-256 than the manifest says"))
        except FileNotFoundError:
            found.append((path, "is missing, the manifest names it"))
    return found


# -- events --------------------------------------------------------------------------------------------------------


class Derivation:
    """The events of one symbol, file after file: what was known at the end of one is known at the next one's begin."""

    def __init__(self, directory: Path, adapter: Adapter, symbol: str) -> None:
        self.directory, self.adapter, self.symbol = directory, adapter, symbol
        self.reader = Reader(directory.parent, adapter)
        self._normaliser = Normaliser(adapter, [symbol])
        self._position: int | None = None  # the normaliser has taken everything up to here
        self._taken = 0  # its last record

    def batches(self, span: Covers) -> Iterator[tuple[str, list[Event]]]:
        """The events of a span by channel, each channel in its order, about `BATCH_ROWS` rows at a time.

        The first batch of `book` is the book before it, one event marked `derived`. Raises CodecError, OSError.
        """
        self._begin(span.first)
        before: Event | None = None
        held: dict[str, list[Event]] = {}
        levels = 0  # rows of the book events that are held
        begun = False
        for line in self._lines(span.last):
            if not begun and (seq := seq_of(line)) >= span.first and (seq > span.first or not _is_checkpoint(line)):
                begun, before = True, derived_snapshot(self._normaliser, self.symbol)
            for _, event in self._published(line) if begun else self._known(line):
                channel = event["channel"]
                own = held.setdefault(channel, [])
                if channel != "book":
                    own.append(event)
                    if len(own) >= BATCH_ROWS:
                        yield channel, held.pop(channel)
                    continue
                if before is not None:
                    yield channel, [before]
                    before = None
                own.append(event)
                levels += rows(event)
                if levels >= BATCH_ROWS:
                    levels = 0
                    yield channel, held.pop(channel)
        yield from held.items()

    def _begin(self, first: int) -> None:
        """Know everything before a number: out of what is known already, a checkpoint or a run's start."""
        if self._position == first - 1:
            return
        begin = self.reader.begin(self.symbol, first)
        if self._position is None or not begin - 1 <= self._position < first:
            self._normaliser = Normaliser(self.adapter, [self.symbol])
            self._position = self._taken = begin - 1

    def _lines(self, last: int) -> Iterator[bytes]:
        """The record lines from the position on; the normaliser is told of the holes on the way."""
        after = self._position or 0
        self._position = None  # until all of it was taken
        holes = deque(hole for hole in self.reader.missing([self.symbol]) if hole.last > self._taken)
        line = b""
        for line in self.reader.merged([self.symbol], after, last):
            if holes:
                seq = seq_of(line)
                while holes and holes[0].last < seq:
                    hole = holes.popleft()
                    self._normaliser.hole(hole.first, hole.last, hole.symbol)
            yield line
        self._taken = seq_of(line) if line else self._taken
        self._position = last

    def _known(self, line: bytes) -> tuple[()]:
        """Take a record before the span: what it tells is known, its events are another file's."""
        self._published(line)
        return ()

    def _published(self, line: bytes) -> Sequence[Published]:
        """The events of a record, as live: a fault costs this record's events alone."""
        normaliser = self._normaliser
        work = normaliser.work(line)
        if work is None:
            return ()
        try:
            found = normaliser.record(work) if isinstance(work, Record) else normaliser.update(*work)
        except FAULTS as error:
            normaliser.fault(error)
            return ()
        normaliser.actions.clear()
        return found


def _is_checkpoint(line: bytes) -> bool:
    return b'"kind":"checkpoint"' in line[:96]


# -- files ---------------------------------------------------------------------------------------------------------


def write(derivation: Derivation, span: Covers, path_of: Callable[[str], Path]) -> Tables:
    """Write the tables of a span under temporary names, synced. What fails leaves nothing behind."""
    arrow().set_cpu_count(1)
    with _without_collector():
        return _write(derivation, span, path_of)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Events hold no cycles: to look for some among millions of them takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _write(derivation: Derivation, span: Covers, path_of: Callable[[str], Path]) -> Tables:
    gaps: list[Event] = []
    writers: dict[str, _TableWriter] = {}
    try:
        for channel, events in derivation.batches(span):
            if channel not in writers:
                writers[channel] = _TableWriter(path_of(channel), channel, derivation)
            writers[channel].write(events)
            if channel == GAP:
                gaps += events
        described = {channel: writer.close() for channel, writer in sorted(writers.items())}
    except BaseException:
        for writer in writers.values():
            writer.drop()
        raise
    line = {
        "normaliser": version(derivation.adapter),
        "covers": list(span),
        "tables": described,
        "gaps": gaps,
        "events": {channel: facts["events"] for channel, facts in described.items()},
    }
    return Tables({writer.temporary: writer.path for writer in writers.values()}, line)


class TableFacts:
    """What a manifest line says of the rows of one table."""

    def __init__(self) -> None:
        counts = {"rows": 0, "events": 0, "seq": None, "ts_recv": None, "ts_event": None, "inexact": 0}
        self.found: dict[str, Any] = counts

    def add(self, events: list[Event], made: Any) -> None:
        """Some events, and the rows that they made."""
        found = self.found
        found["inexact"] += inexact(made)
        found["rows"] += made.num_rows
        if "derived" in events[0]:
            return
        found["events"] += len(events)
        for name in ("seq", "ts_recv", "ts_event"):
            least, most = compute().min_max(made[name]).as_py().values()
            if least is not None:
                known = found[name] or [least, most]
                found[name] = [min(known[0], least), max(known[1], most)]


class _TableWriter:
    """One channel's file, a row group at a time, and what the manifest says of it."""

    def __init__(self, path: Path, channel: str, derivation: Derivation) -> None:
        import pyarrow.parquet as parquet

        self.path, self.temporary = path, path.with_name(path.name + ".tmp")
        make_room(Disk(), self.temporary)
        self._channel = channel
        self._group: list[Any] = []  # what goes into the next row group
        self._group_rows = 0
        self._facts = TableFacts()
        metadata = {"exchange": derivation.adapter.NAME, "channel": channel, "symbol": derivation.symbol}
        described = for_pandas(schema(channel), {**metadata, "normaliser": version(derivation.adapter)})
        self._writer = parquet.ParquetWriter(
            self.temporary, described, compression="zstd", compression_level=ZSTD_LEVEL, **_encodings(channel)
        )

    def write(self, events: list[Event]) -> None:
        made = table(self._channel, events)
        self._group.append(made.replace_schema_metadata(None))
        self._group_rows += made.num_rows
        if self._group_rows >= ROWS:
            self._write_group()
        self._facts.add(events, made)

    def _write_group(self) -> None:
        whole = arrow().concat_tables(self._group).unify_dictionaries()
        self._writer.write_table(whole, row_group_size=max(1, self._group_rows))
        self._group, self._group_rows = [], 0

    def close(self) -> dict[str, Any]:
        if self._group:
            self._write_group()
        self._writer.add_key_value_metadata({"inexact": str(self._facts.found["inexact"])})
        self._writer.close()
        Disk().sync_file(self.temporary)
        digest = _sha256(self.temporary)
        size = self.temporary.stat().st_size
        return {"file": self.path.name, "bytes": size, "sha256": digest, **self._facts.found}

    def drop(self) -> None:
        """Leave nothing."""
        with contextlib.suppress(Exception):  # what it could not write before, it cannot now
            self._writer.close()
        remove_if_there(Disk(), self.temporary)


def _sha256(path: Path) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encodings(channel: str) -> dict[str, Any]:
    """How each column is written: times and numbers by their differences, ids by what they share with the one before.

    Of prices and amounts, zstd makes as much of plain ones as of any encoding, and they are read fastest.
    """
    sorts = COLUMNS[channel].items()
    encoded = {INT: "DELTA_BINARY_PACKED", TEXT: "DELTA_BYTE_ARRAY"}
    return {
        "use_dictionary": [name for name, sort in sorts if sort == WORD],
        "column_encoding": {name: encoded[sort] for name, sort in sorts if sort in encoded},
    }
