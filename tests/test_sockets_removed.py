"""Cleaners of temporary directories remove socket files that are in use: whoever bound them binds them anew."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.archives import written
from tests.pipeline import DEADLINE_S, Pipeline, until
from tests.test_history import Server, is_alive

SLICE = {"op": "slice", "exchange": "binance", "symbols": ["BTCUSDT"], "max_bytes": 10_000}


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short name: those of pytest are too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="ta-") as directory:
        yield Path(directory)


@pytest.fixture
def server(short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TMPDIR", str(short))
    begun = Server(written(tmp_path / "storage").storage, WORKERS="1")
    yield begun
    begun.stop()
    assert "Traceback" not in begun.log.read_text()


def test_history_when_its_socket_directory_is_removed_then_answers_on(server: Server, short: Path) -> None:
    for removed in ("worker is there", "worker must be started", "worker begins"):
        (worker,) = server.workers()
        if removed == "worker begins":
            os.kill(worker, signal.SIGKILL)
            until(lambda: server.log.read_text().count("died with") == 2, "another one is started")
        (directory,) = [path for path in short.glob("trade-archivist-*") if (path / "workers").exists()]
        shutil.rmtree(directory)
        if removed == "worker must be started":
            os.kill(worker, signal.SIGKILL)
        header, _ = server.ask(**SLICE)
        assert header["events"]
        until(lambda: len(list(short.glob("trade-archivist-*/workers"))) == 1, "the socket is bound anew")


def test_history_when_there_is_no_temporary_directory_any_more_then_the_next_start_finds_another(
    server: Server, short: Path
) -> None:
    (worker,) = server.workers()
    shutil.rmtree(short)
    until(lambda: "workers that die are not replaced" in server.log.read_text(), "it is told")
    assert server.ask(**SLICE)[0]["events"]
    os.kill(worker, signal.SIGKILL)
    assert server.process.wait(DEADLINE_S) == 1
    assert not is_alive(worker)
    short.mkdir()
    text = server.log.read_text()
    assert text.count("are not replaced") == 1
    server.log.write_text(text.replace("Traceback", ""))  # a crash is told with one


def test_archiver_when_the_records_socket_is_removed_then_the_next_one_is_live(
    make: Callable[..., Pipeline], short: Path
) -> None:
    records = short / "records"
    settings = {"FEED__BINANCE__RECORDS": f"ipc://{records}"}
    pipeline = make("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "200", **settings)
    pipeline.start()
    pipeline.wait_archived()
    records.unlink()
    pipeline.kill("archiver")
    pipeline.start("archiver")
    until(records.is_socket, "the socket is bound anew")
    behind = pipeline.journal_last()
    until(lambda: pipeline.complete() > behind + 500, "the archiver takes what comes")
    assert "bound anew" in pipeline.log.read_text()
    pipeline.stop()
    pipeline.verify()
