"""The one command that runs a whole pipeline: real processes, the stand-in exchange, free ports."""

import argparse
import configparser
import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from common import settings
from common.config import Config
from common.process import EXIT_CONFIG, EXIT_OK, ConfigError
from processes import archive

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 60.0


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def eventually(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Pipeline:
    """`python -m processes.archive binance` on the sandbox's configuration, in a directory of its own."""

    def __init__(self, storage: Path) -> None:
        self.storage = storage
        self.conf = storage / ".run" / "supervisord.conf"
        self.ports = dict(zip(("standin", "listen", "events"), free_ports(3), strict=True))
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        address = f"127.0.0.1:{self.ports['standin']}"
        options = {
            "--conf": str(ROOT / "conf" / "sandbox.toml"),
            "--storage": str(self.storage),
            "--listen": f"127.0.0.1:{self.ports['listen']}",
            "--publish": f"127.0.0.1:{self.ports['events']}",
            "--ws-url": f"ws://{address}",
            "--rest-url": f"http://{address}",
        }
        words = [word for option in options.items() for word in option]
        return [sys.executable, "-m", "processes.archive", "binance", *words]

    def environ(self) -> dict[str, str]:
        return {**os.environ, "TRADE_ARCHIVIST_STANDIN__PORT": str(self.ports["standin"])}

    def start(self, stdout: int) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(
            self.command(),
            cwd=ROOT,
            env=self.environ(),
            stdout=stdout,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        return self.process

    def refused(self) -> str:
        """Run it to its end, which must be a refusal, and give its one line."""
        done = subprocess.run(
            self.command(),
            cwd=ROOT,
            env=self.environ(),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert (done.returncode, done.stdout) == (EXIT_CONFIG, "")
        assert done.stderr.count("\n") == 1
        return done.stderr

    def pids(self) -> dict[str, int]:
        """The running processes by their names, as supervisorctl tells them."""
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.conf), "status"]
        told = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False).stdout
        return {name: int(pid) for name, pid in re.findall(r"^(\S+) +RUNNING +pid (\d+)", told, re.MULTILINE)}

    def wait_until_running(self) -> dict[str, int]:
        eventually("all processes run", lambda: len(self.pids()) == 4)
        return self.pids()

    def trade(self) -> dict[str, object]:
        """The next trade that a SUB socket receives."""
        with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
            subscriber.linger = 0
            subscriber.rcvtimeo = int(DEADLINE_S * 1000)
            subscriber.subscribe("binance/trade/")
            subscriber.connect(f"tcp://127.0.0.1:{self.ports['events']}")
            event: dict[str, object] = json.loads(subscriber.recv().partition(b" ")[2])
            return event

    def started(self) -> list[int]:
        """All living processes that know the stand-in's port, but supervisord."""
        mark = f"TRADE_ARCHIVIST_STANDIN__PORT={self.ports['standin']}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return [pid for pid in found if self.process is None or pid != self.process.pid]

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def end(self) -> None:
        """Leave nothing behind, whatever the test came to."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
            self.process.kill()
            self.process.wait(DEADLINE_S)
        for pid in self.started():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


BEGIN_ON_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.setsid()
fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0)
for descriptor in (0, 1, 2):
    os.dup2(int(sys.argv[1]), descriptor)
os.close(int(sys.argv[1]))
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Becomes a command that is the leader of a terminal's session, as a shell's `exec` does."""


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    """Its storage directory has a name that quoting must survive."""
    made = Pipeline(tmp_path / "my storage 100%")
    yield made
    made.end()


def open_stdout(kind: str, folder: Path) -> tuple[int, int]:
    """What to write to and what to read from."""
    if kind == "pipe":
        reader, writer = os.pipe()
    elif kind == "terminal":
        reader, writer = pty.openpty()
    else:
        writer = os.open(folder / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        reader = os.open(folder / "out", os.O_RDONLY)
    return writer, reader


def read_to_end(reader: int) -> str:
    text = b""
    with contextlib.suppress(OSError):  # a terminal's end is an error
        while part := os.read(reader, 65536):
            text += part
    os.close(reader)
    return text.decode()


@pytest.mark.parametrize("kind", ["file", "pipe", "terminal"])
def test_archive_when_interrupted_then_everything_stops_in_order_and_its_output_was_seen(
    pipeline: Pipeline, tmp_path: Path, kind: str
) -> None:
    writer, reader = open_stdout(kind, tmp_path)
    pipeline.start(writer)
    os.close(writer)
    pids = pipeline.wait_until_running()
    event = pipeline.trade()
    assert event["exchange"] == "binance"
    assert event["channel"] == "trade"

    assert pipeline.stop(signal.SIGINT) == EXIT_OK
    printed = read_to_end(reader)
    assert f"tcp://127.0.0.1:{pipeline.ports['events']}" in printed
    assert f"tcp://127.0.0.1:{pipeline.ports['listen']}" in printed
    assert "python -m processes.archive binance" in printed
    assert " INFO " in printed, "the processes' own log lines"
    assert not any(is_alive(pid) for pid in pids.values())
    stopped = re.findall(r"(?:stopped|exited): (\S+) \(exit status (\d)", pipeline.conf.with_suffix(".log").read_text())
    assert stopped == [("feed-binance", "0"), ("history", "0"), ("archiver", "0"), ("standin", "0")]
    assert (pipeline.storage / "binance" / "archived.json").exists()
    assert not (pipeline.storage / ".run" / "supervisor.sock").exists()


@pytest.mark.parametrize("nohup", [False, True])
def test_archive_when_its_terminal_goes_then_it_ends_cleanly_or_with_nohup_goes_on(
    pipeline: Pipeline, tmp_path: Path, nohup: bool
) -> None:
    """supervisord took the hang-up as a restart, could not open its output, and stayed for ever without children."""
    reader, writer = pty.openpty()
    began = [sys.executable, "-c", BEGIN_ON_TERMINAL, str(writer), *(["nohup"] if nohup else []), *pipeline.command()]
    environ = {**pipeline.environ(), "PYTHONPATH": str(ROOT)}
    leader = subprocess.Popen(began, cwd=tmp_path, env=environ, pass_fds=(writer,))  # nohup may leave a file there
    os.close(writer)
    pipeline.process = leader
    pids = pipeline.wait_until_running()
    pipeline.trade()
    os.close(reader)  # ssh drops
    if nohup:
        assert pipeline.trade()["exchange"] == "binance"
        assert pipeline.wait_until_running() == pids and leader.poll() is None
        return
    assert leader.wait(DEADLINE_S) == EXIT_OK
    assert not any(is_alive(pid) for pid in pids.values())
    stopped = re.findall(r"(?:stopped|exited): (\S+) \(exit status (\d)", pipeline.conf.with_suffix(".log").read_text())
    assert stopped == [("feed-binance", "0"), ("history", "0"), ("archiver", "0"), ("standin", "0")]


def test_archive_when_stdout_is_a_socket_then_each_process_logs_to_a_file(pipeline: Pipeline) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pipeline.start(theirs.fileno())
        logs = [pipeline.conf.parent / f"{name}.log" for name in pipeline.wait_until_running()]
        assert pipeline.stop() == EXIT_OK
    assert len(logs) == 4
    assert " INFO " in "".join(log.read_text() for log in logs)


def test_archive_when_a_process_is_killed_then_it_is_restarted_and_trades_go_on(pipeline: Pipeline) -> None:
    pipeline.start(subprocess.DEVNULL)
    before = pipeline.wait_until_running()
    first = pipeline.trade()
    killed = ("feed-binance", "archiver", "history")
    for name in killed:
        os.kill(before[name], signal.SIGKILL)
    eventually("all run again", lambda: len(pipeline.pids().items() - before.items()) == len(killed))
    second = pipeline.trade()
    assert int(str(second["seq"])) > int(str(first["seq"]))
    assert pipeline.stop() == EXIT_OK


def test_archive_when_supervisord_is_killed_then_its_children_end_and_the_next_start_works(pipeline: Pipeline) -> None:
    process = pipeline.start(subprocess.DEVNULL)
    pids = pipeline.wait_until_running()
    pipeline.trade()
    process.kill()
    process.wait(DEADLINE_S)
    eventually("no orphan is left", lambda: not any(is_alive(pid) for pid in pids.values()))
    pipeline.start(subprocess.DEVNULL)
    pipeline.trade()
    assert pipeline.stop() == EXIT_OK


@pytest.mark.parametrize("delay_s", [0.0, 0.2, 0.5, 1.0])
def test_archive_when_supervisord_is_killed_while_its_children_begin_then_they_end_and_the_next_start_works(
    pipeline: Pipeline, delay_s: float
) -> None:
    process = pipeline.start(subprocess.DEVNULL)
    eventually("a child was started", lambda: pipeline.started() != [])
    time.sleep(delay_s)  # imports, locks and the journal's opening: whatever the children are at
    process.kill()
    process.wait(DEADLINE_S)
    eventually("no orphan is left", lambda: pipeline.started() == [])
    pipeline.start(subprocess.DEVNULL)
    pipeline.trade()
    assert pipeline.stop() == EXIT_OK


def test_archive_when_one_runs_on_the_directory_then_a_second_is_told_so(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.start(subprocess.DEVNULL)
    pipeline.wait_until_running()
    second = Pipeline(pipeline.storage)
    assert "a pipeline runs on this storage directory" in second.refused()
    assert pipeline.process is not None
    assert pipeline.process.poll() is None


def test_archive_when_a_port_becomes_free_soon_then_it_starts(pipeline: Pipeline) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", pipeline.ports["events"]))
        taken.listen()
        process = pipeline.start(subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
    pipeline.trade()
    assert pipeline.stop() == EXIT_OK


@pytest.mark.parametrize(
    ("name", "key"), [("standin", "standin.port"), ("listen", "history.listen"), ("events", "feed.binance.events")]
)
def test_archive_when_a_port_is_taken_then_says_which_and_starts_nothing(
    pipeline: Pipeline, name: str, key: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", pipeline.ports[name]))
        taken.listen()
        line = pipeline.refused()
    assert line.startswith(f"archive: {key}: 127.0.0.1:{pipeline.ports[name]} cannot be bound: ")
    assert not pipeline.storage.exists()


def test_archive_when_the_storage_directory_cannot_be_made_then_says_so(pipeline: Pipeline) -> None:
    pipeline.storage = Path("/proc/none")
    assert pipeline.refused().startswith("archive: /proc/none/.run/supervisord.conf: cannot be written: ")


def parsed(*argv: str, exchange: str = "binance") -> tuple[Config, argparse.Namespace]:
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser)
    args = parser.parse_args(argv)
    return settings.from_arguments(args, [exchange]), args


def test_programs_when_options_are_given_then_each_process_gets_them() -> None:
    conf = str(ROOT / "conf" / "sandbox.toml")
    standin, archiver, history, feed = archive.programs(*parsed("--conf", conf, "--symbols", "A,B", "--codec", "zstd"))
    common = ["binance", "--symbols=A,B", "--codec=zstd", "--log-level=INFO", f"--conf={conf}"]
    assert standin == ("standin", "processes.standin", ["binance", "--port", "9443", "--synthetic", "--symbols=A,B"])
    assert archiver == ("archiver", "processes.archiver", common)
    assert history == ("history", "processes.history", common)
    assert feed == ("feed-binance", "processes.feed", [*common, "--publish=127.0.0.1:9011"])


def test_programs_when_a_market_of_another_exchange_is_to_be_made_up_then_it_is_refused() -> None:
    """Its feed would go to the exchange itself instead."""
    with pytest.raises(ConfigError, match=r"sandbox.toml: standin.port: a market is made up for binance only"):
        archive.programs(*parsed("--conf", str(ROOT / "conf" / "sandbox.toml"), "--symbols=BTC-USDT", exchange="okx"))


def test_write_conf_when_a_path_would_begin_a_comment_then_it_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "a ;b" / ".run"
    with pytest.raises(ConfigError, match="beginning of a comment"):
        archive.write_conf(run, run / "supervisor.sock", [])


def test_deployment_when_started_from_anywhere_then_runs_beside_its_file_and_stops_cleanly(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "he re", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    for name in ("common", "processes", "conf", "supervisord.conf", ".venv"):
        (here / name).symlink_to(ROOT / name)
    listen, events, nobody = free_ports(3)
    environ = os.environ | {
        "TRADE_ARCHIVIST_HISTORY__LISTEN": f"127.0.0.1:{listen}",
        "TRADE_ARCHIVIST_FEED__BINANCE__EVENTS": f"tcp://127.0.0.1:{events}",
        "TRADE_ARCHIVIST_FEED__BINANCE__WS_URL": f"ws://127.0.0.1:{nobody}",
        "TRADE_ARCHIVIST_FEED__BINANCE__REST_URL": f"http://127.0.0.1:{nobody}",
    }
    command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(here / "supervisord.conf")]
    with subprocess.Popen(command, cwd=elsewhere, env=environ, stdout=subprocess.DEVNULL) as process:
        try:
            eventually("the archive is there", (here / "storage-dir/binance/archived.json").exists)
            eventually("the feed logs", lambda: "connection" in (here / "feed-binance.log").read_text())
        finally:
            process.terminate()
        assert process.wait(DEADLINE_S) == EXIT_OK
    assert sorted(elsewhere.iterdir()) == []


def test_deployment_runs_the_same_modules_in_the_same_order_with_the_same_settings(tmp_path: Path) -> None:
    """The root's supervisord.conf and the one that is generated must not drift apart."""
    config, args = parsed("--conf", str(ROOT / "conf" / "binance.toml"))
    generated = archive.write_conf(tmp_path, tmp_path / "s.sock", archive.programs(config, args)).read_text()

    def essence(text: str) -> dict[str, dict[str, str]]:
        parser = configparser.RawConfigParser()
        parser.read_string(text)
        programs = {name: dict(parser[name]) for name in parser.sections() if name.startswith("program:")}
        for program in programs.values():
            program["module"] = program["command"].split()[2]
            own = [key for key in program if key in ("command", "directory") or key.startswith("stdout_")]
            for key in own:
                del program[key]
        return programs

    assert essence((ROOT / "supervisord.conf").read_text()) == essence(generated)
