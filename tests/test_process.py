"""What every process does alike: its supervisor, its locks, its ports."""

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import process
from common.process import EXIT_CONFIG, EXIT_CRASH, LockedError, Parent, cores_awake, lock
from tests.test_archive import DEADLINE_S, ROOT, eventually, free_ports


@pytest.mark.parametrize("told", ["pid", "file"])
def test_parent_when_the_supervisor_was_gone_before_it_was_made_then_tells_and_no_lock_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    def tell(pid: int) -> None:
        path = tmp_path / "supervisord.pid"
        path.write_text(f"{pid}\n")
        monkeypatch.setenv("TRADE_ARCHIVIST_SUPERVISOR", str(pid) if told == "pid" else str(path))

    tell(os.getppid())
    assert not Parent().is_gone()
    with lock(tmp_path / "lock", "a test"):
        pass
    tell(os.getpid())  # never our parent
    assert Parent().is_gone()
    with pytest.raises(LockedError, match="the supervisor is gone"), lock(tmp_path / "lock", "a test"):
        pass


def test_parent_when_the_pid_file_cannot_be_read_then_whoever_is_the_parent_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADE_ARCHIVIST_SUPERVISOR", str(tmp_path / "none"))
    assert not Parent().is_gone()


@contextlib.contextmanager
def a_feed(storage: Path, endpoint: str) -> Iterator[subprocess.Popen[str]]:
    """A feed of an exchange that is not there."""
    nobody = free_ports(1)[0]
    options = [f"--storage={storage}", f"--ws-url=ws://127.0.0.1:{nobody}"]
    command = [sys.executable, "-m", "processes.feed", "binance", *options, f"--rest-url=http://127.0.0.1:{nobody}"]
    environ = os.environ | {"TRADE_ARCHIVIST_FEED__BINANCE__EVENTS": endpoint}
    with subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_feed_when_its_port_becomes_free_soon_then_it_runs(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with a_feed(tmp_path, f"tcp://127.0.0.1:{taken.getsockname()[1]}") as feed:
            eventually("the feed has its lock", (tmp_path / ".journal/binance/lock").exists)
            taken.close()
            assert feed.stderr is not None
            assert re.search(r"binance run \d+ begins", feed.stderr.readline())


@pytest.mark.parametrize(
    ("endpoint", "code"), [("tcp://127.0.0.1:taken", EXIT_CRASH), ("ipc:///proc/none/s", EXIT_CONFIG)]
)
def test_feed_when_it_cannot_bind_then_tells_whether_trying_again_may_help(
    tmp_path: Path, endpoint: str, code: int
) -> None:
    """supervisord tries again after 1, the port is used, and not after 2, there is none such."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with a_feed(tmp_path, endpoint.replace("taken", str(taken.getsockname()[1]))) as feed:
            _, told = feed.communicate(timeout=DEADLINE_S)
    assert feed.returncode == code
    assert re.fullmatch(r"feed: [^ ]+ cannot be bound \(.*\): give another with .*\n", told)


def test_cores_are_kept_awake_while_the_block_runs_and_where_that_cannot_be_it_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "cpu_dma_latency"
    for refuses in ("/dev/full", str(device)):  # to write, to open
        monkeypatch.setattr(process, "LATENCY_DEVICE", refuses)
        with cores_awake() as error:
            assert isinstance(error, OSError)
        assert refuses not in open_files()
    device.touch()
    with cores_awake() as error:
        assert error is None
        assert device.read_bytes() == b"\0\0\0\0"
        assert str(device) in open_files()
    assert str(device) not in open_files()


def open_files() -> set[str]:
    """What this process has open, where the system tells."""
    fds = Path("/proc/self/fd")
    if not fds.exists():
        pytest.skip("this system does not tell which files are open")
    return {str(fd.readlink()) for fd in fds.iterdir() if fd.is_symlink()}
