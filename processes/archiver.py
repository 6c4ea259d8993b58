"""Archive every record that the feeds publish.

python -m processes.archiver [binance …] [--conf FILE]

SUB     connects  feed.records          record batches and heartbeats
files   reads     feed.journal          what the SUB missed; what it brings is taken only where the journal holds it
files   writes    archive.storage       one file per symbol and hour, archived.json
child   starts    archive.seal_workers  compress full files, make their tables, commit both to the manifest
"""

import argparse
import contextlib
import importlib.util
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import zmq

from common.archive import ArchiveWriter, ReusedNumberError
from common.config import Config
from common.curve import own_client
from common.disk import Disk
from common.events import topic
from common.footing import check_footing
from common.intake import Intake
from common.journal_reader import JournalReader
from common.process import (
    ConfigError,
    Lock,
    LockedError,
    Parent,
    boot_id,
    end_at_once,
    lock,
    run_service,
    setup_logging,
)
from common.record import RecordError
from common.records_link import RecordsLink
from common.seal_workers import SealWorkers
from common.settings import add_arguments, from_arguments
from common.storage import ARCHIVER_LOCK

log = logging.getLogger("archiver")

POLL_MS = 50
BATCHES_A_TURN = 200
RETRY_S = 1.0
LOOK_S = 1.0
"""How often the journal is asked for what the records socket has not brought."""
SPARE_FILES = 64


class ExchangeArchiver:
    """One exchange's directory: what arrives, what is due, what waits to be sealed."""

    def __init__(self, config: Config, exchange: str, held: Lock) -> None:
        self.exchange = exchange
        self._lock = held
        self.failed = False  # numbers were used twice: nothing more is taken
        self._archive = config.archive
        self._disk = Disk()
        self._journal = JournalReader(self._disk, config.journal_dir(exchange))
        self._writer = ArchiveWriter(
            self._disk, config.exchange_dir(exchange),
            boot_id=boot_id(), rotate_s=config.archive.rotate_s, rotate_min_bytes=config.archive.rotate_min_bytes,
            report=self._report,
        )  # fmt: skip
        self._intake = Intake(self._writer, self._journal, self._report)
        self._topic = topic(exchange, "records", None)
        self._link = RecordsLink(exchange, config.records_endpoint(exchange))
        self._due_flush = self._due_sync = self._due_look = 0.0
        self._stalled_until = 0.0

    def open(self) -> None:
        self._writer.open(self._journal.front())
        log.info("%s archive complete to %d", self.exchange, self._writer.position)
        self._guard(self._intake.catch_up)

    def take(self, message: bytes) -> None:
        """One message of the records socket; a heartbeat says that it lives."""
        self._link.heard()
        if message.startswith(self._topic):
            self._guard(lambda: self._intake.batch(message[len(self._topic) :]))

    def tick(self, now: float, subscriber: zmq.Socket[bytes]) -> None:
        """Flush and sync when it is time; after trouble with the disk, try again."""
        self._link.connect(subscriber, now)
        if self.failed or now < self._stalled_until:
            return
        if self._stalled_until:
            self._stalled_until = 0.0
            self._guard(self._intake.catch_up)
        if now >= self._due_look:
            self._due_look = now + LOOK_S
            self._guard(lambda: self._look(now))
        if now >= self._due_sync:
            self._due_sync = now + self._archive.sync_interval_s
            self._guard(lambda: self._writer.sync(self._journal.sync))
        elif now >= self._due_flush:
            self._due_flush = now + self._archive.flush_interval_s
            self._guard(self._writer.flush)

    def _look(self, now: float) -> None:
        """Read what the journal holds beyond what came: the last message before a silence may be lost, or all."""
        before = self._writer.position
        self._intake.catch_up()
        if self._writer.position > before:
            self._link.missed(now)

    def tell(self, sealing: int) -> None:
        """What the archiver says about itself, in `archived.json`."""
        self._writer.processes = {
            "archiver": {"pid": os.getpid(), "sealing": sealing, "waiting": len(self._writer.turned)}
        }

    def sealable(self) -> list[Path]:
        return self._writer.sealable()

    @property
    def is_stalled(self) -> bool:
        return self.failed or self._stalled_until > 0

    def close(self) -> None:
        if not self.failed:
            self._guard(self._intake.catch_up)
            self._guard(lambda: self._writer.sync(self._journal.sync))
        self._writer.close()

    def _guard(self, act: Callable[[], object]) -> None:
        """Do something with the disk. What fails is tried again: the journal has it."""
        if self.is_stalled:
            return
        try:
            self._lock.check()
            act()
        except LockedError as error:
            end_at_once("archiver", error)
        except OSError as error:
            self._stalled_until = time.monotonic() + RETRY_S
            log.error("%s cannot write: %s; trying again, the journal keeps what comes", self.exchange, error)
        except ReusedNumberError as error:
            self.failed = True
            log.error("%s stopped: %s; see that one feed alone writes this journal, then restart", self.exchange, error)
        except RecordError:
            self.failed = True  # nothing more is written: the next start mends what rotted
            raise

    def _report(self, text: str) -> None:
        log.warning("%s %s", self.exchange, text)


class Archiver:
    """Follows every feed in one thread; sealing runs in processes beside it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._parent = Parent()
        self._stopping = False
        self._sealing = SealWorkers(config.archive)
        symbols = sum(len(feed.symbols) for feed in config.feeds.values())
        _raise_file_limit(symbols + SPARE_FILES)

    def stop(self) -> None:
        self._stopping = True

    def run(self) -> None:
        _warn_without_tables()
        for exchange in self._config.feeds:
            check_footing(self._config.exchange_dir(exchange))
        with contextlib.ExitStack() as stack:
            locks = {exchange: stack.enter_context(self._lock(exchange)) for exchange in self._config.feeds}
            context = stack.enter_context(zmq.Context())
            poller = zmq.Poller()
            sockets: dict[zmq.Socket[bytes], ExchangeArchiver] = {}
            for exchange in self._config.feeds:
                subscriber = context.socket(zmq.SUB)
                stack.callback(subscriber.close, linger=0)
                subscriber.set(zmq.RCVHWM, BATCHES_A_TURN)
                subscriber.subscribe(f"{exchange}/")
                own_client(subscriber, self._config.records_endpoint(exchange), self._config.curve)
                poller.register(subscriber, zmq.POLLIN)
                sockets[subscriber] = ExchangeArchiver(self._config, exchange, locks[exchange])
            for archiver in sockets.values():
                archiver.open()
            try:
                self._loop(poller, sockets)
            finally:
                for archiver in sockets.values():
                    archiver.close()
                self._sealing.close()

    def _lock(self, exchange: str) -> contextlib.AbstractContextManager[Lock]:
        path = self._config.exchange_dir(exchange) / ARCHIVER_LOCK
        return lock(path, f"an archiver of {path.parent}")

    def _loop(self, poller: zmq.Poller, sockets: dict[zmq.Socket[bytes], ExchangeArchiver]) -> None:
        while not self._stopping and not self._parent.is_gone():
            for subscriber, _ in poller.poll(POLL_MS):
                archiver = sockets[cast("zmq.Socket[bytes]", subscriber)]
                if archiver.is_stalled:
                    time.sleep(POLL_MS / 1000)  # it stays readable: the high-water mark drops, the journal keeps
                else:
                    self._receive(cast("zmq.Socket[bytes]", subscriber), archiver)
            now = time.monotonic()
            for socket, archiver in sockets.items():
                archiver.tell(len(self._sealing))
                archiver.tick(now, socket)
                for path in archiver.sealable():
                    self._sealing.add(path)
            self._sealing.turn(now)
            if self._sealing.rotten:  # the start after this checks all files, and refills them from the journal
                raise RecordError(f"{self._sealing.rotten[0]} does not hold any more what was synced: starting anew")

    def _receive(self, subscriber: zmq.Socket[bytes], archiver: ExchangeArchiver) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(BATCHES_A_TURN):
                archiver.take(subscriber.recv(zmq.NOBLOCK))


def _warn_without_tables() -> None:
    if importlib.util.find_spec("pyarrow") is None:
        log.warning(
            "no tables are made, pyarrow is missing: install trade-archivist[daemons], then trade-archivist rebuild "
            "makes those of what is sealed meanwhile"
        )


def _raise_file_limit(needed: int) -> None:
    """A file is kept open for each symbol: refuse now what would fail at midnight."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"the limit of open files is {hard}, these symbols need {needed}: raise it with ulimit -n {needed}"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m processes.archiver", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("exchanges", nargs="*", default=["binance"], metavar="EXCHANGE", help="default: binance")
    add_arguments(parser)
    args = parser.parse_args(argv)
    setup_logging(args.log_level)
    return run_service("archiver", lambda: Archiver(from_arguments(args, args.exchanges)))


if __name__ == "__main__":
    sys.exit(main())
