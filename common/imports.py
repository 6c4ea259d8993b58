"""Import what others recorded into a storage directory: as records with a run of their own, that says where it is from.

    look through every file ─▶ write DIR/.import/NAME, all sealed ─▶ commit

Nothing is half imported: what cannot be read, in any of the files, leaves the storage directory as it was. A file that
was imported before is passed over. What a format's file holds: `import_format.py`; the commit: `import_commit.py`.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from . import exchanges, import_format
from .adapter import Adapter
from .disk import Disk
from .errors import DamagedError
from .events import CHANNELS
from .footing import check_footing
from .foreign_file import ForeignFileError
from .import_commit import (
    all_sealed,
    check_only_imported,
    commit,
    ends,
    keep_away,
    owed,
    settle,
    stage,
    sweep,
)
from .import_format import Format, Item
from .import_look import Looked, check_told_once, hashed, look, merged, stamp_of
from .import_staging import Run, Staging
from .ledger import ledger
from .output import time_text
from .process import ConfigError
from .storage import IMPORT, SEALED, decode_symbol, read_archived

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much."""


@dataclass(frozen=True)
class Order:
    """What is to be imported. `exchange` and `symbol` are needed where the files do not tell them."""

    format: str
    files: Sequence[Path]
    storage: Path
    exchange: str | None = None
    symbol: str | None = None
    codec: str = "bz2"


@dataclass
class Imported:
    """What became of it. `seq` is None where every file was there already."""

    exchange: str
    others: tuple[str, ...] = ()  # exchanges that the files are of too
    files: list[Looked] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)
    seq: tuple[int, int] | None = None
    faults: dict[str, int] = field(default_factory=dict)  # of ours: their records are kept


def run(order: Order, progress: Progress = lambda _what, _done, _of: None, disk: Disk | None = None) -> Imported:
    """Import files. Raises ConfigError, DamagedError (a file cannot be read: nothing is imported), OSError."""
    disk = disk or Disk()
    try:
        form = import_format.get(order.format)
    except LookupError as error:
        raise ConfigError(error.args[0]) from None
    try:
        _check_files(order.files)
        adapter, others = _adapter(form, order)
        if order.symbol is not None and (wrong := adapter.symbol_error(order.symbol)) is not None:
            raise ForeignFileError(f"{wrong}: say the right --symbol, or --exchange")
        with _storage(order.storage):
            settle(disk, order.storage)
            return _Import(disk, form, adapter, order, progress).run(Imported(adapter.NAME, others))
    except ForeignFileError as error:
        raise DamagedError(f"{error}; nothing was imported") from None


def _check_files(files: Sequence[Path]) -> None:
    """Each is read several times, so that a pipe would not do. Raises ConfigError, OSError."""
    for path in files:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} is no file that can be read again: write it into one, and give that")


def _adapter(form: Format, order: Order) -> tuple[Adapter, tuple[str, ...]]:
    """The exchange that is to be imported, and others that the files are of. Raises ConfigError, ForeignFileError."""
    known = ", ".join(exchanges.names())
    told: dict[str, Path] = {}
    for path in order.files:
        names = form.exchanges(path)
        if order.exchange and names and order.exchange not in names:
            raise ForeignFileError(f"{path} is of {' and '.join(names)}, not of {order.exchange}: mend --exchange")
        told |= dict.fromkeys(names, path)
    mine = sorted(told.keys() & set(exchanges.names()))
    if order.exchange is None and len(mine) > 1:
        raise ConfigError(f"the files are of {' and '.join(mine)}: name one of them with --exchange")
    name = order.exchange or next(iter(mine), None)
    if name is None and told:
        strange = f"{next(iter(told.values()))} is of {' and '.join(sorted(told))}"
        raise ForeignFileError(f"{strange}, which no exchange of this version is: it knows {known}")
    if name is None:
        raise ConfigError(f"the files do not tell of which exchange they are: name it with --exchange: {known}")
    if name not in exchanges.names():
        raise ConfigError(f"--exchange {name}: an exchange that this version does not know: it knows {known}")
    return cast(Adapter, exchanges.get(name)), tuple(sorted(told.keys() - {name}))


@contextlib.contextmanager
def _storage(storage: Path) -> Iterator[None]:
    """One import at a time. A directory that was made for it goes again where nothing came into it."""
    is_new = not storage.exists()
    storage.mkdir(parents=True, exist_ok=True)
    fd = os.open(storage, os.O_RDONLY)
    try:
        check_footing(storage)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigError(f"{storage}: another import is at work in it: wait for it") from None
    finally:
        os.close(fd)
        if is_new:
            with contextlib.suppress(OSError):  # it holds something now
                storage.rmdir()


class _Import:
    """One import, step by step."""

    def __init__(self, disk: Disk, form: Format, adapter: Adapter, order: Order, progress: Progress) -> None:
        self._disk, self._form, self._adapter, self._order, self._progress = disk, form, adapter, order, progress
        self._directory = order.storage / adapter.NAME
        self._staging = order.storage / IMPORT / adapter.NAME

    def run(self, result: Imported) -> Imported:
        with contextlib.ExitStack() as locks:
            if is_there := self._directory.exists():
                check = keep_away(locks, self._directory)
            self._look(result)
            if not result.files:
                return result
            try:
                planned = self._plan(result.files)
                self._write(result, planned)
                if not is_there:
                    self._directory.mkdir(exist_ok=True)
                    check = keep_away(locks, self._directory)
                    check_only_imported(self._disk, self._directory, [], all_sealed(self._disk, self._directory))
            except (Exception, KeyboardInterrupt):
                sweep(self._staging)
                raise
            commit(self._disk, self._staging, check)
        return result

    def _look(self, result: Imported) -> None:
        """Look through the files that were not imported before."""
        known = {line["sha256"] for line in ledger(self._disk, self._directory)}
        for number, path in enumerate(self._order.files):
            looked = hashed(path)
            if looked.sha256 in known:
                result.passed_over.append(path)
                continue
            known.add(looked.sha256)
            self._progress("files looked through", number, len(self._order.files))
            look(looked, self._read(path), self._adapter)
            if not looked.items:
                raise ForeignFileError(f"{path}: there is nothing in it: give a file that holds something")
            result.files.append(looked)
        check_told_once(result.files, self._read)

    def _read(self, path: Path) -> Iterator[Item]:
        return self._form.read(path, self._adapter, self._order.symbol)

    def _plan(self, files: list[Looked]) -> Run:
        """Find the place of the new run behind everything that is archived. Raises ConfigError."""
        disk, directory = self._disk, self._directory
        lines, sealed = ledger(disk, directory), all_sealed(disk, directory)
        check_only_imported(disk, directory, lines, sealed)
        last_ts = max((line["ts_recv"][1] for each in sealed.values() for line in each), default=0)
        ts = min(looked.earliest for looked in files)
        if ts < last_ts:
            raise ConfigError(
                f"{directory} is archived up to {time_text(last_ts)}, and these files begin at {time_text(ts)}: "
                f"give all files of that time in one command, or import into another directory, with --storage"
            )
        last = read_archived(disk, directory).highest
        places = sorted(place for looked in files for place in looked.places)
        symbols = dict.fromkeys(symbol for _, symbol in places)
        channels = {channel for channel, _ in places}.union(*(looked.channels for looked in files))
        return Run(
            first=max(ts // 1000, last + 1),
            ts=ts,
            last=last,
            conn=max((line["next_conn"] for line in lines), default=1),
            symbols=tuple(sorted(symbols)),
            channels=tuple(channel for channel in CHANNELS if channel in channels),
            owed=owed(lines, symbols),
            sources=[looked.source(self._form.NAME) for looked in files],
            known=frozenset(decode_symbol(name) for name, each in sealed.items() if each),
        )

    def _write(self, result: Imported, planned: Run) -> None:
        """Write everything into the staging directory, sealed, and say at last that it is whole."""
        codec, files = self._order.codec, result.files
        staging = Staging(self._disk, self._staging, self._adapter, planned, files, codec, self._is_taken)
        total = sum(looked.items for looked in result.files)
        for done, (place, item) in enumerate(merged(result.files, self._read)):
            staging.take(place, item)
            if not done % 4096:
                self._progress("records written", done, total)
        staging.end()
        for looked in result.files:
            if stamp_of(looked.path) != looked.stamp:
                raise ForeignFileError(f"{looked.path} was changed while it was read: give it when it is whole")
        result.seq, result.faults = (planned.first, staging.last), dict(staging.state.errors)
        lines = [
            {
                **looked.source(self._form.NAME),
                "items": looked.items,
                "ts_recv": [looked.earliest, looked.latest],
                "seq": [planned.first, staging.last],
                "next_conn": staging.conn,
            }
            for looked in result.files
        ]
        lines[-1]["owed"] = staging.owed()
        sealed = all_sealed(self._disk, self._directory)
        stage(self._disk, self._staging, lines, ends(self._directory, sealed, planned.symbols))

    def _is_taken(self, stem: Path) -> bool:
        """Whether the archive holds a file that a staged one would meet: they carry their first record's ms."""
        symbol, month = stem.parts[-3:-1]
        return any((self._directory / symbol / month / (stem.name + suffix)).exists() for suffix in SEALED.values())
