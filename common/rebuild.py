"""Rebuilding: the tables of sealed files made anew from the records, where there are none or an adapter was mended.

    lock NAME.bz2 ─▶ write NAME.trade.2.parquet.tmp, …, sync ─▶ rename, sync the directory
        ─▶ a manifest line that supersedes the old one, sync ─▶ remove the old tables

Each file is committed by itself, so it may be killed anywhere and run again, beside an archiver, readers and another
rebuild: what one does, the other passes over.
"""

import errno
import fcntl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from . import exchanges
from .adapter import Adapter
from .chains import Chain, chains, run
from .codec import CodecError, MissingPackageError
from .disk import Disk, open_file, remove_if_there
from .listing import ArchiveFile
from .reader import Reader
from .sealing import manifest_line, place_tables
from .storage import append_manifest, sealed_lines, sync_manifest
from .tables import arrow
from .tabling import Covers, Derivation, covers, damaged_tables, is_stale, stem_of, table_name, write

Progress = Callable[[int, int], None]
"""Told how many files are done, and of how many."""


class Outcome(NamedTuple):
    """What became of one sealed file. `error` says why its tables could not be made."""

    path: Path
    made: bool
    error: str | None = None


def rebuild(
    directory: Path, workers: int, *, force: bool = False, progress: Progress | None = None
) -> tuple[int, list[Outcome]]:
    """Rebuild the tables of one exchange's directory; returns how many files have tables, and what was done.

    Raises LookupError for an exchange without an adapter, MissingPackageError, OSError where there is no room.
    """
    arrow()
    adapter = cast(Adapter, exchanges.get(directory.name))
    reader = Reader(directory.parent, adapter)
    outcomes: list[Outcome] = []
    work: list[Chain] = []
    known = 0
    for symbol in reader.symbols():
        try:
            count, found = _plan(reader, directory, adapter, symbol, force=force)
        except CodecError as error:
            count, found = 1, []
            outcomes.append(Outcome(directory / symbol, False, str(error)))
        known += count
        work += found
    total = sum(len(chain.names) for chain in work)
    for outcome in run(partial(rebuild_chain, force=force), work, workers):
        outcomes.append(outcome)
        if progress is not None:
            progress(len(outcomes), total)
    return known, outcomes


def _plan(reader: Reader, directory: Path, adapter: Adapter, symbol: str, *, force: bool) -> tuple[int, list[Chain]]:
    """How many of a symbol's files are to have tables, and those that need them made."""
    files = reader.files(symbol)
    sealed = [(file, span) for index, file in enumerate(files) if file.is_sealed and (span := covers(files, index))]
    found = {month: _tables_by_stem(month) for month in {file.path.parent for file, _ in sealed}}
    wanted = [file for file, span in sealed if force or _is_wanted(file, span, adapter, found[file.path.parent])]
    return len(sealed), list(chains(reader, directory, adapter, symbol, wanted))


def _is_wanted(file: ArchiveFile, span: Covers, adapter: Adapter, found: dict[str, list[str]]) -> bool:
    line = file.manifest or {}
    return is_stale(line, span, adapter) or bool(damaged_tables(file.path.parent, line) or _left_over(line, found))


def rebuild_chain(chain: Chain, *, force: bool) -> Iterator[Outcome]:
    """Rebuild the files of a chain, one after the other."""
    derivation = Derivation(chain.directory, cast(Adapter, exchanges.get(chain.directory.name)), chain.symbol)
    for name in chain.names:
        files = derivation.reader.files(chain.symbol)
        found = [place for place, file in enumerate(files) if file.manifest and file.manifest["name"] == name]
        span = covers(files, found[0]) if found else None
        if span is not None:
            yield _rebuild(derivation, files[found[0]].path, name, span, force=force)


def _rebuild(derivation: Derivation, path: Path, name: str, span: Covers, *, force: bool) -> Outcome:
    try:
        with open_file(path) as sealed:
            fcntl.flock(sealed, fcntl.LOCK_EX)
            return Outcome(path, _rebuild_locked(derivation, path.parent, name, span, force=force))
    except MissingPackageError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise  # every other file would meet the same
        return Outcome(path, False, f"{type(error).__name__}: {error}")


def _rebuild_locked(derivation: Derivation, month: Path, name: str, span: Covers, *, force: bool) -> bool:
    """Returns whether tables were made: another rebuild may have been faster."""
    disk = Disk()
    line = sealed_lines(disk, month)[name]
    sync_manifest(disk, month)  # before anything is removed because of it
    _tidy(month, line)
    if not force and not is_stale(line, span, derivation.adapter) and not damaged_tables(month, line):
        return False
    tables = write(derivation, span, partial(_free_path, month, name))
    place_tables(disk, tables)
    disk.sync_dir(month)
    superseding = manifest_line(line, tables)
    append_manifest(disk, month, superseding)
    _tidy(month, superseding)
    return True


def _free_path(month: Path, name: str, channel: str) -> Path:
    number = 1
    while (path := month / table_name(name, channel, number)).exists() or path.is_symlink():
        number += 1
    return path


def _tables_by_stem(month: Path) -> dict[str, list[str]]:
    """The table files that lie in a month's directory, by the stem of the file that they belong to."""
    found: dict[str, list[str]] = {}
    for name in Disk().files(month):
        if (stem := stem_of(name)) is not None:
            found.setdefault(stem, []).append(name)
    return found


def _left_over(line: dict[str, Any], found: dict[str, list[str]]) -> list[str]:
    """Table files of a sealed file that its line does not name: something was killed, or they are of before."""
    named = {facts["file"] for facts in line.get("tables", {}).values()}
    return [name for name in found.get(line["name"], []) if name not in named]


def _tidy(month: Path, line: dict[str, Any]) -> None:
    for name in _left_over(line, _tables_by_stem(month)):
        remove_if_there(Disk(), month / name)
