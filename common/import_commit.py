"""What was imported takes its place in the archive: all of it or nothing, however often the import is killed.

DIR/.import/NAME/   a whole exchange directory; with `commit.json` in it, it is to be committed, without, swept away

    archived.json (if there is none) ─▶ sealed files and tables renamed, month by month ─▶ their manifest lines
        ─▶ archived.json: from here on it shows ─▶ imported.jsonl ─▶ tables of what was the end ─▶ staging removed

Each step can be done again. Who is killed in between is finished by the next import; until then readers see what was
there before.
"""

import shutil
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

from . import checked
from .chains import Chain
from .disk import Disk, make_durable_dir, remove_if_there, replace
from .ledger import Lines, ledger, write_ledger
from .process import ConfigError, Lock, LockedError, boot_id, lock
from .rebuild import rebuild_chain
from .storage import (
    ARCHIVED,
    ARCHIVER_LOCK,
    IMPORT,
    JOURNALS,
    MANIFEST,
    MARKER,
    NO_SYMBOL,
    Archived,
    append_manifest,
    decode_symbol,
    month_dirs,
    open_files,
    read_archived,
    sealed_lines,
    symbol_dirs,
    write_archived,
)


def owed(imported: Lines, symbols: Collection[str]) -> dict[str, Any]:
    """What the imports before had come to, the last one of each symbol: `ts` by symbol, and the topics' last ids."""
    found: dict[str, dict[str, Any]] = {"since": {}, "topics": {}}
    for each in (line["owed"] for line in imported if "owed" in line):
        topics = {symbol: ids for symbol, ids in each["topics"].items() if symbol in symbols}
        found["since"] |= dict.fromkeys(topics, each["ts"])
        found["topics"] |= topics
    return found if found["topics"] else {}


def all_sealed(disk: Disk, directory: Path) -> dict[str, Lines]:
    """The manifest lines of all sealed files by the symbol's directory, each in the order of numbers."""
    found: dict[str, Lines] = {}
    for symbol_dir in symbol_dirs(disk, directory):
        lines = [line for month in month_dirs(disk, symbol_dir) for line in sealed_lines(disk, month).values()]
        found[symbol_dir.name] = sorted(lines, key=lambda line: line["seq"])
    return found


def check_only_imported(disk: Disk, directory: Path, imported: Lines, sealed: dict[str, Lines]) -> None:
    """Raises ConfigError where a directory holds what was recorded live: the two are never mixed."""
    runs = sorted({tuple(line["seq"]) for line in imported})
    firsts = [first for first, _ in runs]

    def is_imported(line: dict[str, Any]) -> bool:
        index = bisect_right(firsts, line["seq"][0]) - 1
        return index >= 0 and bool(line["seq"][1] <= runs[index][1])

    journal = directory.parent / JOURNALS / directory.name
    captured = open_files(disk, directory) or any(name.endswith(".records") for name in disk.names(journal))
    captured = captured or any(not is_imported(line) for lines in sealed.values() for line in lines)
    if captured:
        raise ConfigError(
            f"{directory} holds records of a feed: what is imported is never mixed with them: "
            f"name a directory of its own with --storage"
        )
    if sealed and not disk.exists(directory / ARCHIVED):
        raise ConfigError(f"{directory / ARCHIVED} is missing: restore it from a copy, or import elsewhere")


def keep_away(locks: ExitStack, directory: Path) -> Callable[[], None]:
    """Keep feeds and archivers away from an exchange's directory. Raises ConfigError where one is at work.

    What is returned raises ConfigError where that does not hold any more.
    """
    held: list[Lock] = []
    journal = directory.parent / JOURNALS / directory.name / "lock"
    for path in (directory / ARCHIVER_LOCK, *([journal] if journal.exists() else [])):
        try:
            held.append(locks.enter_context(lock(path, f"a feed or archiver of {directory}", wait_s=0)))
        except LockedError as error:
            raise ConfigError(f"{error}; or import into a directory of its own, with --storage") from None

    def check() -> None:
        try:
            for each in held:
                each.check()
        except LockedError as error:
            raise ConfigError(f"{error}; then run the import again, it finishes what it began") from None

    return check


# -- the commit ----------------------------------------------------------------------------------------------------


def stage(disk: Disk, staging: Path, lines: Lines, ends: Lines) -> None:
    """Say that a staging directory is whole: from here on it will be committed.

    `lines` go into the ledger; `ends` are the last files of symbols that go on, whose tables can be made then.
    """
    replace(disk, staging / MARKER, checked.dumps({"imported": lines, "ends": ends}), durable=True)


def _marker(disk: Disk, staging: Path) -> dict[str, Any]:
    """What `stage` told. Raises ConfigError where it is damaged: then nothing says what the files are."""
    try:
        marker: dict[str, Any] = checked.loads(disk.read(staging / MARKER))
    except ValueError as error:
        raise ConfigError(f"{staging / MARKER}: {error}: restore it from a copy, or import elsewhere") from None
    return marker


def settle(disk: Disk, storage: Path) -> None:
    """Finish what killed imports had whole, and sweep away the rest. The caller holds the storage's lock.

    Raises ConfigError where a feed has recorded there since then, or does now.
    """
    for staging in (storage / IMPORT / name for name in disk.dirs(storage / IMPORT)):
        if not disk.is_file(staging / MARKER):
            sweep(staging)
            continue
        directory = storage / staging.name
        with ExitStack() as locks:
            is_there = directory.exists()
            directory.mkdir(exist_ok=True)
            check = keep_away(locks, directory)
            if is_there:
                lines = ledger(disk, directory) + _marker(disk, staging)["imported"]
                try:
                    check_only_imported(disk, directory, lines, all_sealed(disk, directory))
                except ConfigError as error:
                    raise ConfigError(f"{error}; and remove {staging}, an import that was killed") from None
            commit(disk, staging, check)


def commit(disk: Disk, staging: Path, check: Callable[[], None] = lambda: None) -> None:
    """Move a whole staging directory into the archive beside it. Can be done again after a kill at any place.

    `check` raises where the archive is not locked any more: then nothing more is written.
    """
    directory = staging.parents[1] / staging.name
    marker = _marker(disk, staging)
    make_durable_dir(disk, directory)
    if not disk.is_file(directory / ARCHIVED):
        write_archived(disk, directory, Archived(boot_id=boot_id()), durable=True)
    for symbol_dir in sorted(symbol_dirs(disk, staging), key=lambda path: path.name != NO_SYMBOL):
        for month in month_dirs(disk, symbol_dir):  # those of no symbol first: events of all others need them
            check()
            _commit_month(disk, month, directory / symbol_dir.name / month.name)
    check()
    _show(disk, directory, marker["imported"])
    for end in marker["ends"]:
        chain = Chain(directory, end["symbol"], (end["name"],), end["raw_bytes"])
        for _ in rebuild_chain(chain, force=False):
            pass  # what cannot be made now, `trade-archivist rebuild` makes
    remove_if_there(disk, staging / MARKER)
    disk.sync_dir(staging)
    sweep(staging)


def _commit_month(disk: Disk, staged: Path, month: Path) -> None:
    make_durable_dir(disk, month)
    for name in disk.names(staged):
        if name == MANIFEST:
            continue
        if disk.is_taken(month / name):
            raise ConfigError(f"{month / name} stands there already, nothing is overwritten: move it away, then again")
        disk.rename(staged / name, month / name)
    disk.sync_dir(month)
    there = sealed_lines(disk, month)
    lines = [line for name, line in sealed_lines(disk, staged).items() if name not in there]
    if lines:
        append_manifest(disk, month, *lines)


def _show(disk: Disk, directory: Path, lines: Lines) -> None:
    """Let readers see what was imported, and remember it."""
    archived = read_archived(disk, directory)
    last = max([archived.complete, *(line["seq"][1] for line in lines)])
    highest = max(archived.highest, last)
    shown = changed(archived, complete=last, fsynced=last, highest=highest, boot_id=boot_id())
    write_archived(disk, directory, shown, durable=True)
    known = ledger(disk, directory)
    shas = {line["sha256"] for line in known}
    known += [line for line in lines if line["sha256"] not in shas]
    write_ledger(disk, directory, known)


def sweep(staging: Path) -> None:
    """Remove a staging directory, and the directory of all of them where it was the last."""
    shutil.rmtree(staging, ignore_errors=True)
    if staging.parent.exists() and not any(staging.parent.iterdir()):
        staging.parent.rmdir()


def ends(directory: Path, sealed: dict[str, Lines], symbols: Sequence[str]) -> Lines:
    """The last sealed file of each symbol that goes on."""
    return [
        {"symbol": symbol, "name": lines[-1]["name"], "raw_bytes": lines[-1]["raw_bytes"]}
        for name, lines in sealed.items()
        if name != NO_SYMBOL and lines and (symbol := decode_symbol(name)) in symbols
    ]
