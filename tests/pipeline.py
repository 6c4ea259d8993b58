"""A whole pipeline of real processes around a stand-in exchange, and what a test reads from what it leaves on disk."""

import hashlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import zmq

from common import exchanges
from common.codec import lines
from common.disk import Disk
from common.normaliser import Normaliser
from common.record import Record, decode
from common.storage import NO_SYMBOL, encode_symbol, holes, month_dirs, read_archived, sealed_lines, symbol_dirs
from tests.standin_client import ROOT, Standin

DEADLINE_S = 60.0
BEGUN = {"feed": b" begins, last ", "archiver": b" archive complete to ", "history": b" answers on "}
FAST = {
    "ARCHIVE__ROTATE_S": "2",
    "ARCHIVE__ROTATE_MIN_BYTES": "1",
    "ARCHIVE__SYNC_INTERVAL_S": "0.3",
    "ARCHIVE__FLUSH_INTERVAL_S": "0.05",
}
FAST_FEED = {
    "CHECKPOINT_S": "1",
    "JOURNAL_SEGMENT_BYTES": "1000000",
    "EVENTS_HIGH_WATER": "1000000",
    "BACKOFF_MAX_S": "0.5",
}


def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    deadline = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def seeded() -> random.Random:
    """A generator whose seed is printed, and can be given again as SEED."""
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1_000_000)))
    print(f"SEED={seed}")
    return random.Random(seed)


def children(pid: int, pattern: str) -> list[int]:
    """The children of a process whose command line has the pattern; none of a process that does not run (0)."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "--", pattern], capture_output=True) if pid else None
    return [int(line) for line in found.stdout.split()] if found else []


class Live:
    """Everything that a SUB socket receives of the events, from before the feed starts."""

    def __init__(self, endpoint: str) -> None:
        self.messages: list[bytes] = []
        self.heartbeats: list[bytes] = []
        self._stop = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set(zmq.RCVHWM, 0)
        self._socket.set(zmq.RECONNECT_IVL, 5)
        self._socket.subscribe(b"")
        self._socket.connect(endpoint)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(20):
                message = self._socket.recv()
                (self.heartbeats if b"/heartbeat" in message[:40] else self.messages).append(message)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close(0)
        self._context.term()


def events_of(messages: Iterable[bytes]) -> list[dict[str, Any]]:
    return [orjson.loads(message.partition(b" ")[2]) for message in messages]


class Pipeline:
    """A feed, an archiver and, where it is wanted, history on one storage directory; each can be killed and started."""

    def __init__(
        self,
        directory: Path,
        standin: Standin,
        symbols: str = "BTCUSDT,ETHUSDT",
        exchange: str = "binance",
        **settings: str,
    ) -> None:
        self.storage, self.standin, self.exchange = directory / "storage", standin, exchange
        self.endpoint, self.server = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        self.exchange_dir = self.storage / exchange
        self.journal = self.storage / ".journal" / exchange
        self.scheme, self.host = "", "127.0.0.1"  # "s" for TLS
        self.symbols = symbols
        feed = f"FEED__{exchange.upper().replace('-', '_')}__"
        chosen = {**FAST, **{feed + key: value for key, value in FAST_FEED.items()}, **settings}
        self._environ = {f"TRADE_ARCHIVIST_{key}": value for key, value in chosen.items()}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._log_from: dict[str, int] = {}  # where the log of the last process of a name begins
        self.log = directory / "log"

    def arguments(self) -> list[str]:
        """What every process is given."""
        return [
            self.exchange,
            "--storage", str(self.storage), *(("--symbols", self.symbols) if self.symbols else ()),
            "--ws-url", f"ws{self.scheme}://{self.host}:{self.standin.port}",
            "--rest-url", f"http{self.scheme}://{self.host}:{self.standin.port}",
            "--publish", self.endpoint.removeprefix("tcp://"), "--listen", self.server.removeprefix("tcp://"),
        ]  # fmt: skip

    @property
    def environ(self) -> dict[str, str]:
        """The environment of every process."""
        return {**os.environ, **self._environ}

    def start(self, *names: str, **environ: str) -> None:
        for name in names or ("archiver", "feed"):
            command = [sys.executable, "-m", f"processes.{name}", *self.arguments()]
            with self.log.open("ab") as log:
                self._log_from[name] = log.tell()
                self._children[name] = subprocess.Popen(command, cwd=ROOT, env={**self.environ, **environ}, stderr=log)

    def kill(self, *names: str, signal_number: int = signal.SIGKILL) -> None:
        for name in names:
            self._children[name].send_signal(signal_number)
        if signal_number not in (signal.SIGSTOP, signal.SIGCONT, signal.SIGHUP):
            for name in names:
                self._children.pop(name).wait(DEADLINE_S)

    def stop(self) -> None:
        """End everything as supervisord would; each must go of its own accord."""
        for name, offset in self._log_from.items():
            if name in self._children:
                until(lambda: BEGUN[name] in self.log.read_bytes()[offset:], f"the {name} has begun")  # noqa: B023
        for name in ("feed", "archiver", "history"):
            if (child := self._children.pop(name, None)) is not None:
                child.send_signal(signal.SIGTERM)
                assert child.wait(DEADLINE_S) == 0, f"{name} ended with {child.returncode}: {self.log.read_text()}"

    def end(self) -> None:
        for child in self._children.values():
            child.kill()
            child.wait()

    def wait(self, name: str) -> int:
        """The exit code of a process that ends by itself."""
        return self._children.pop(name).wait(DEADLINE_S)

    def take(self, *names: str) -> dict[str, subprocess.Popen[bytes]]:
        """Hand out running processes, so that others of the same name can be started."""
        return {name: self._children.pop(name) for name in names}

    def give_back(self, children: dict[str, subprocess.Popen[bytes]]) -> None:
        self._children.update(children)
        self._log_from.clear()

    def pid(self, name: str) -> int:
        """0 where it does not run now."""
        return self._children[name].pid if name in self._children else 0

    def workers(self, name: str) -> list[int]:
        """The children of a process that work right now: the archiver's seal, those of history answer."""
        return children(self.pid(name), "spawn_main")

    def complete(self) -> int:
        return read_archived(Disk(), self.exchange_dir).complete

    def wait_archived(self) -> None:
        """Wait until everything that the journal holds is complete in the archive."""
        until(lambda: self.complete() >= self.journal_last() > 0, "the archive catches up with the journal")

    def journal_last(self) -> int:
        names = sorted(path for path in self.journal.glob("[0-9]*.records"))
        data = names[-1].read_bytes() if names else b""
        return decode(data[data.rfind(b"\n", 0, -1) + 1 :]).seq if data.endswith(b"\n") else 0

    def verify(self, *options: str) -> None:
        command = [sys.executable, "-m", "common.cli", "verify", str(self.storage), *options]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


class Served(NamedTuple):
    """An archive at rest, with sealed files, tables and open files, a history server on it, and all that was live."""

    server: str
    storage: Path
    messages: list[bytes]


def archive_files(exchange_dir: Path, symbol_dirs_: Iterable[Path] | None = None) -> Iterator[Path]:
    """The files that count: sealed ones of the manifest, and open ones that are not sealed yet."""
    disk = Disk()
    for symbol_dir in symbol_dirs_ or symbol_dirs(disk, exchange_dir):
        for month in month_dirs(disk, symbol_dir):
            sealed = sealed_lines(disk, month)
            yield from (month / line["file"] for line in sealed.values())
            yield from (path for path in month.glob("*.open") if path.stem not in sealed)


def archived(exchange_dir: Path, *symbols: str) -> list[Record]:
    """All records of an archive by `seq`, or those of some symbols with `_`."""
    dirs = [exchange_dir / name for name in (*symbols, NO_SYMBOL)] if symbols else None
    while True:
        try:
            records = [decode(line) for path in archive_files(exchange_dir, dirs) for line in lines(path)]
        except FileNotFoundError:
            continue  # sealed while it was read: look again
        return sorted(records, key=lambda record: record.seq)


def assert_dense(records: list[Record], exchange_dir: Path) -> None:
    """Each number once; a jump only at a `start` or inside a range that a manifest names."""
    named = holes(Disk(), exchange_dir)
    for before, after in itertools.pairwise(records):
        if after.seq == before.seq + 1 or (after.seq > before.seq and after.kind == "start"):
            continue
        inside = any(first <= before.seq + 1 and after.seq - 1 <= last for first, last in named)
        assert after.seq > before.seq and inside, f"{before.head} is followed by {after.head}"


def normalised(
    records: Iterable[Record], symbols: Iterable[str] | None = None, exchange: str = "binance"
) -> list[bytes]:
    normaliser = Normaliser(exchanges.get(exchange), None if symbols is None else frozenset(symbols))
    messages = normaliser.all_messages(records)
    assert not normaliser.errors
    return messages


def payloads(records: list[Record]) -> dict[int, list[bytes]]:
    """The payloads of the data frames of each connection, in order."""
    found: dict[int, list[bytes]] = {}
    for record in records:
        if record.kind == "in" and record.head.get("op") in (None, "binary") and record.conn is not None:
            found.setdefault(record.conn, []).append(record.payload or b"")
    return found


def sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def by_topic(messages: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for message in messages:
        topic, _, body = message.partition(b" ")
        found.setdefault(topic, []).append(body)
    return found


def counts(messages: Iterable[bytes]) -> Counter[bytes]:
    return Counter(message.partition(b" ")[0] for message in messages)


def assert_live_equals_archive(
    live: Live, records: list[Record], exchange_dir: Path, symbols: Sequence[str] = ("BTCUSDT", "ETHUSDT")
) -> None:
    """What was live = normalise(all) = normalise(all without checkpoints) = normalise(each symbol's files with `_`)."""
    exchange = exchange_dir.name
    whole = normalised(records, exchange=exchange)
    until(lambda: len(live.messages) >= len(whole), "the subscriber has everything")
    assert live.messages == whole
    assert normalised([record for record in records if record.kind != "checkpoint"], exchange=exchange) == whole
    topics = by_topic(whole)
    for symbol in symbols:
        alone = by_topic(normalised(archived(exchange_dir, encode_symbol(symbol)), [symbol], exchange))
        end = f"/{encode_symbol(symbol)}".encode()
        assert alone == {topic: bodies for topic, bodies in topics.items() if topic.endswith(end)}


def is_part(part: list[bytes], whole: list[bytes]) -> bool:
    """Whether `part` is `whole` with some left out: same order, nothing doubled."""
    rest = iter(whole)
    return all(any(item == other for other in rest) for item in part)
