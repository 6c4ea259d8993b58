"""Sealing beside the archiver: worker processes that take full files one after the other.

To start one takes half a second of work, so it stays for the next file; idle, it ends and gives its memory back. It
may be killed anywhere: another one begins its file again.
"""

import contextlib
import errno
import fcntl
import logging
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

from . import exchanges
from .adapter import Adapter, version
from .codec import MissingPackageError
from .config import ArchiveConfig
from .disk import Disk, open_file
from .process import setup_logging
from .sealing import DamagedError, RottenError, Tables, seal
from .tabling import tabulate

log = logging.getLogger("archiver")

RETRY_S = 1.0
SEALED, DAMAGED, ROTTEN = "sealed", "damaged", "rotten"
IDLE_S = 60.0
"""How long a worker waits for its next file."""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: "Connection[tuple[Path, str], str]"  # a file and its exchange one way, what became of it the other
    path: Path | None = None


class SealWorkers:
    """At most `seal_workers` processes. What fails is tried again; what is damaged waits for the next start."""

    def __init__(self, archive: ArchiveConfig) -> None:
        self._archive = archive
        self.rotten: list[Path] = []  # files that do not hold any more what was synced: to be mended by a start
        self._workers: list[_Worker] = []
        self._waiting: dict[Path, float] = {}  # in their turn, each with the time before which it is not tried again

    def add(self, path: Path) -> None:
        """Seal a file when its turn comes."""
        self._waiting.setdefault(path, 0.0)

    def __len__(self) -> int:
        """How many files are not sealed yet."""
        return len(self._waiting) + sum(worker.path is not None for worker in self._workers)

    def turn(self, now: float) -> None:
        """Note what is done, and keep the workers busy. `now` is monotonic, in seconds."""
        for worker in list(self._workers):
            self._look(worker, now)
        for path in [path for path, due in self._waiting.items() if due <= now]:
            free = next((each for each in self._workers if each.path is None), None) or self._start()
            if free is None:
                return
            free.path = path
            del self._waiting[path]
            with contextlib.suppress(OSError):  # it died just now: the next turn finds that
                free.pipe.send((path, path.parents[2].name))

    def close(self) -> None:
        """End the workers, wherever they are."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _look(self, worker: _Worker, now: float) -> None:
        with contextlib.suppress(EOFError, OSError):
            if worker.pipe.poll():
                outcome = worker.pipe.recv()
                if outcome == SEALED:
                    log.info("sealed %s", worker.path)
                elif outcome == ROTTEN and worker.path is not None:
                    self.rotten.append(worker.path)
                worker.path = None
        if worker.process.is_alive():
            return
        self._workers.remove(worker)
        if worker.path is not None:
            log.warning("sealing %s ended with %s: trying again", worker.path, worker.process.exitcode)
            self._waiting[worker.path] = now + RETRY_S
        worker.process.close()
        worker.pipe.close()

    def _start(self) -> _Worker | None:
        if len(self._workers) >= self._archive.seal_workers:
            return None
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, self._archive), daemon=True)
        process.start()
        theirs.close()
        self._workers.append(worker := _Worker(process, ours))
        return worker


def work(pipe: "Connection[str, tuple[Path, str]]", archive: ArchiveConfig) -> None:
    """Runs in a worker process: one file at a time, until nothing comes. It ends when the archiver does, however."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)
    setup_logging()
    while pipe.poll(IDLE_S):
        try:
            path, exchange = pipe.recv()
        except (EOFError, OSError):
            return  # the archiver is gone
        outcome = _sealed(path, exchange, archive)  # whatever this raises ends the worker
        with contextlib.suppress(OSError):
            pipe.send(outcome)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _sealed(path: Path, exchange: str, archive: ArchiveConfig) -> str:
    """Seal one file, one worker at a time: another archiver's may still be at it. Returns what became of it."""
    adapter = cast(Adapter, exchanges.get(exchange))
    make_tables = partial(tables_of, adapter=adapter)
    try:
        with open_file(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.is_file():
                seal(Disk(), path, archive.codec, archive.level, archive.block_bytes, version(adapter), make_tables)
    except FileNotFoundError:
        return SEALED  # the other one was faster
    except DamagedError as error:
        log.error("%s", error)
        return ROTTEN if isinstance(error, RottenError) else DAMAGED
    return SEALED


def tables_of(path: Path, adapter: Adapter, *, goes_on: bool = False) -> Tables | None:
    """A file's tables; None where they cannot be made: what is wrong with tables never costs records."""
    try:
        return tabulate(path, adapter, goes_on=goes_on)
    except MissingPackageError:
        return None  # told at the start
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # there is no room for records either: tried again
        log.exception("%s is sealed without tables: when that is mended, trade-archivist rebuild makes them", path)
        return None
