"""Everything at once, for minutes: a deployment of three exchanges that is killed, attacked, starved and cut.

    python -m tests.soak --chaos 60 [--seed N] [--keep DIR]

Then it is judged by the accounts of the stand-ins: every message is archived once, or lies in a declared gap; every
process runs; memory and descriptors are bounded; who followed has what the archive has. A step is printed before it is
done, and the seed first of all. The clock's steps are the simulation's part: a machine's clock is not a test's to set.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from common.client import Client
from common.disk import Disk
from common.errors import UnavailableError
from common.following import Following
from common.storage import read_archived
from tests.churn_truth import judge
from tests.consumers import Consumer, by_topic
from tests.made_recordings import made
from tests.pipeline import DEADLINE_S, FAST, FAST_FEED, archived, assert_dense, children, free_port, until
from tests.standin_client import ROOT, Standin
from tests.whole import Witness, assert_archived, assert_sent

POOL = tuple(f"S{number:02}USDT" for number in range(8))
CHANNELS = ("trade", "agg_trade", "quote", "book", "ticker")
OTHERS = {"kraken": "BTC/USD", "bybit-spot": "BTCUSDT"}
QUIET_S = 6.0
SAMPLE_S = 1.0
MEMORY_MAX = 200 * 1024**2
"""Of any process, bytes resident."""
DESCRIPTORS_MAX = 1000
DISK = "400m"


class Deployment:
    """`python -m processes.archive binance kraken bybit-spot` beside its stand-ins."""

    def __init__(self, directory: Path, seed: int, stack: contextlib.ExitStack) -> None:
        self.directory, self.storage = directory, directory / "storage"
        self.storage.mkdir()
        self.has_disk = self._mount(stack)
        self.sent = {name: directory / f"sent-{name}" for name in ("binance", *OTHERS)}
        market = ("--synthetic", "--symbols", ",".join(POOL), "--rate", 20, "--seed", seed, "--weight-limit", 1_000_000)
        self.standins = {"binance": Standin(*market, "--sent", self.sent["binance"])}
        stack.callback(self.standins["binance"].stop)
        for name in OTHERS:
            source = ("--recording", made(name, directory / f"{name}.gz"), "--loop", "--sent", self.sent[name])
            self.standins[name] = Standin(*source, exchange=name)
            stack.callback(self.standins[name].stop)
        self.events = {name: free_port() for name in self.standins}
        self.listen = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def _mount(self, stack: contextlib.ExitStack) -> bool:
        """Give the storage a small disk of its own, so that it can be filled; False where that is not allowed."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.storage)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            print("no disk of its own may be mounted here: it is not filled", flush=True)
            return False
        stack.callback(subprocess.run, ["umount", "-l", str(self.storage)], capture_output=True)
        return True

    def start(self) -> None:
        settings = {**FAST, "ARCHIVE__ROTATE_S": "10"}
        for name, standin in self.standins.items():
            address = f"127.0.0.1:{standin.port}"
            of_feed = {"WS_URL": f"ws://{address}", "REST_URL": f"http://{address}", "IDLE_TIMEOUT_S": "5"}
            of_feed |= {"EVENTS": f"tcp://127.0.0.1:{self.events[name]}", **FAST_FEED, "CHECKPOINT_S": "10"}
            if name == "binance":
                of_feed |= {"SYMBOLS": "*-USDT", "CHANNELS": ",".join(CHANNELS), "SNAPSHOT_DEPTH": "100"}
            else:
                of_feed |= {"SYMBOLS": OTHERS[name]}
            of = name.upper().replace("-", "_")
            settings |= {f"FEED__{of}__{key}": value for key, value in of_feed.items()}
        environ = {**os.environ, **{f"TRADE_ARCHIVIST_{key}": value for key, value in settings.items()}}
        command = [sys.executable, "-m", "processes.archive", *self.standins, "--storage", str(self.storage)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--listen", f"127.0.0.1:{self.listen}"], cwd=ROOT, env=environ, stdout=log, stderr=log
            )

    @property
    def names(self) -> list[str]:
        return ["archiver", "history", *(f"feed {name}" for name in self.standins)]

    def pid(self, name: str) -> int:
        assert self.process is not None
        return next(iter(children(self.process.pid, f"processes.{name} ")), 0)

    def stop(self) -> None:
        until(lambda: all(map(self.pid, self.names)), "everything runs")
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE_S) == 0, (self.directory / "log").read_text()[-2000:]

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(DEADLINE_S)
            self.process.kill()


class Samples:
    """Memory (bytes) and descriptors of each process, over time."""

    def __init__(self, deployment: Deployment) -> None:
        self.memory: defaultdict[str, list[int]] = defaultdict(list)
        self.descriptors: defaultdict[str, list[int]] = defaultdict(list)
        self._deployment, self._stop = deployment, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            for name in self._deployment.names:
                with contextlib.suppress(OSError, IndexError, ValueError):
                    of = Path(f"/proc/{self._deployment.pid(name)}")
                    self.memory[name].append(int((of / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
                    self.descriptors[name].append(len(list((of / "fd").iterdir())))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def judge(self) -> str:
        told = []
        for name, memory in sorted(self.memory.items()):
            files, third = self.descriptors[name], max(1, len(memory) // 3)
            first, last = (statistics.median(part) / 1024**2 for part in (memory[:third], memory[-third:]))
            told.append(f"{name} {first:.0f}→{last:.0f} MiB, {max(memory) / 1024**2:.0f} at most, {max(files)} files")
            assert max(memory) < MEMORY_MAX and max(files) < DESCRIPTORS_MAX, told[-1]
        return "; ".join(told)


class Chaos:
    """One seed's steps, drawn while they are done."""

    def __init__(self, deployment: Deployment, seed: int) -> None:
        self.random, self.deployment = random.Random(seed), deployment
        self.counts: defaultdict[str, int] = defaultdict(int)
        self._steps: list[tuple[Callable[[], None], float]] = [
            (self.kill, 4), (self.freeze, 3), (self.hang_up, 2), (self.cut, 4), (self.rest_fails, 2),
            (self.socket_files, 1), (self.lock_files, 1), (self.odd_files, 1), (self.strangers, 2), (self.outage, 1),
        ]  # fmt: skip
        if deployment.has_disk:
            self._steps.append((self.fill_disk, 1))

    def play(self, for_s: float) -> None:
        end = time.monotonic() + for_s
        steps, weights = zip(*self._steps, strict=True)
        while time.monotonic() < end:
            time.sleep(self.random.uniform(0.2, 2.0))
            step = self.random.choices(steps, weights)[0]
            self.counts[step.__name__] += 1
            step()

    def say(self, *words: object) -> None:
        print(f"  {time.strftime('%H:%M:%S')}", *words, flush=True)

    def some(self) -> tuple[str, int]:
        name = self.random.choice(self.deployment.names)
        return name, self.deployment.pid(name)

    def signal(self, pid: int, number: int) -> None:
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        name, pid = self.some()
        self.say("kill", name)
        self.signal(pid, signal.SIGKILL)  # who ends by itself is not begun again: it was told to

    def freeze(self) -> None:
        (name, pid), seconds = self.some(), self.random.uniform(0.1, 2.0)
        self.say("freeze", name, f"{seconds:.1f}")
        self.signal(pid, signal.SIGSTOP)
        time.sleep(seconds)
        self.signal(pid, signal.SIGCONT)

    def hang_up(self) -> None:
        name, pid = self.some()
        self.say("SIGHUP", name)
        for _ in range(50):
            self.signal(pid, signal.SIGHUP)

    def cut(self) -> None:
        name, do = self.random.choice(list(self.deployment.standins)), self.random.choice(("cut", "close", "drop"))
        about = {"symbol": self.random.choice(POOL) if name == "binance" else OTHERS[name]} if do == "drop" else {}
        self.say(do, name, *about.values())
        self.deployment.standins[name].fault(do=do, **about)

    def rest_fails(self) -> None:
        name = self.random.choice(list(self.deployment.standins))
        self.say("REST fails", name)
        self.deployment.standins[name].fault(do="rest-fail", path="/", status=self.random.choice((500, 503)), n=5)

    def outage(self) -> None:
        self.say("outage at a start")
        self.deployment.standins["binance"].fault(do="rest-fail", path="/exchangeInfo", status=200, body="{}", n=3)
        self.signal(self.deployment.pid("feed binance"), signal.SIGKILL)

    def socket_files(self) -> None:
        self.say("socket files are removed")
        for path in self.deployment.storage.rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_socket() and "supervisor" not in path.name:
                    path.unlink()

    def lock_files(self) -> None:
        self.say("lock files are removed")
        for path in self.deployment.storage.rglob("*lock"):
            with contextlib.suppress(OSError):
                path.unlink()

    def odd_files(self) -> None:
        self.say("odd files")
        months = sorted(path for path in self.deployment.storage.glob("*/*/20*-*") if path.is_dir())
        for month in self.random.sample(months, min(3, len(months))):
            with contextlib.suppress(FileExistsError):
                os.mkfifo(month / "odd-fifo.open")
            with contextlib.suppress(FileExistsError):
                (month / "odd-link.open").symlink_to("nowhere")
            (month / "odd-directory.open").mkdir(exist_ok=True)

    def strangers(self) -> None:
        """Connections that say nothing, noise, and many subscriptions."""
        port = self.random.choice([*self.deployment.events.values(), self.deployment.listen])
        self.say("strangers", port)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for place in range(200):
                stranger = stack.enter_context(socket.create_connection(("127.0.0.1", port), 1.0))
                if place % 2:
                    stranger.sendall(self.random.randbytes(1000))
            time.sleep(0.5)
        context = zmq.Context()
        with context.socket(zmq.SUB) as subscriber:
            subscriber.linger = 0
            subscriber.connect(f"tcp://127.0.0.1:{port}")
            for number in range(5_000):
                subscriber.subscribe(f"nothing/{number}")
            time.sleep(0.5)
        context.term()

    def fill_disk(self) -> None:
        self.say("the disk is full")
        path = self.deployment.storage / ".filling"
        with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024**2))
        time.sleep(self.random.uniform(0.5, 2.0))
        path.unlink(missing_ok=True)


def chaos(minutes: float, seed: int, directory: Path) -> None:
    """Raises AssertionError where something is not as it must be."""
    print(f"seed {seed}", flush=True)
    with contextlib.ExitStack() as stack:
        deployment = Deployment(directory, seed, stack)
        stack.callback(deployment.end)
        deployment.start()
        journal = deployment.storage / ".journal" / "binance"
        until(lambda: all(map(deployment.pid, deployment.names)) and journal.exists(), "everything runs")
        witness = Witness(journal, _beside(deployment))
        stack.callback(witness.stop)
        samples = Samples(deployment)
        stack.callback(samples.stop)
        client = stack.enter_context(Client(f"127.0.0.1:{deployment.listen}"))
        follower = Consumer(lambda: _followed(client))
        stack.callback(follower.stop)
        played = Chaos(deployment, seed)
        played.play(minutes * 60)
        until(lambda: all(map(deployment.pid, deployment.names)), "every process runs again")
        time.sleep(QUIET_S)
        assert follower.failed is None, follower.failed
        last = read_archived(Disk(), deployment.storage / "binance").complete
        until(
            lambda: follower.failed or (follower.events and follower.events[-1]["seq"] > last), "the follower is there"
        )
        deployment.stop()
        witness.stop()
        samples.stop()
        follower.stop()
        print(judge_all(deployment, witness, follower, last))
        print(dict(played.counts), samples.judge(), sep="\n")


def _beside(deployment: Deployment) -> Path:
    """Second names of files are of one file system."""
    return deployment.storage / ".kept" if deployment.has_disk else deployment.directory / "kept"


def _followed(client: Client) -> Following:
    while True:
        with contextlib.suppress(UnavailableError):
            return client.follow("binance", POOL, CHANNELS, after=0, snapshot=False)


def judge_all(deployment: Deployment, witness: Witness, follower: Consumer, last: int) -> str:
    for standin in deployment.standins.values():
        standin.status()  # flushes what it has written of what it sent
    storage = deployment.storage
    for odd in storage.rglob("odd-*"):
        odd.rmdir() if odd.is_dir() else odd.unlink()
    records = assert_archived(witness.appended(), storage / "binance")
    told = [f"binance: {len(records)} records, {judge(storage, records, deployment.sent['binance'], POOL, POOL)}"]
    for name in OTHERS:
        found = archived(storage / name)
        assert_dense(found, storage / name)
        assert_sent(found, deployment.sent[name])
        told.append(f"{name}: {len(found)} records")
    with Client(storage=storage) as local:
        expected = by_topic(local.slice("binance", POOL, CHANNELS, after=0, to=last, snapshot=False))
    got = by_topic(event for event in follower.events if event["seq"] <= last)
    assert got == expected, "the follower has other events than the archive"
    for deep in ((), ("--deep",)):
        command: list[Any] = [sys.executable, "-m", "common.cli", "verify", str(storage), *deep]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        told.append(f"verify {' '.join(deep)}: {done.stdout.splitlines()[-1]}")
    return "\n".join(told)


def run(minutes: float, seed: int | None, keep: Path | None) -> int:
    chosen = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    directory = Path(tempfile.mkdtemp(prefix=f"chaos-{chosen}-", dir=keep))
    try:
        chaos(minutes, chosen, directory)
    except Exception:
        print(f"seed {chosen} FAILED, its files are in {directory}", flush=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
    return 0
