"""Sealing workers: real processes, that stay, are killed, and end with whoever started them."""

import fcntl
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from common import seal_workers
from common.config import ArchiveConfig
from common.disk import Disk
from common.seal_workers import SealWorkers
from common.storage import sealed_lines
from tests.pipeline import until
from tests.record_logs import Log
from tests.test_reader import MINUTE_NS, Recording

if sys.platform != "linux":
    pytest.skip("children are found in /proc", allow_module_level=True)


@pytest.fixture
def full(tmp_path: Path) -> list[Path]:
    """Full files of one archive, to be sealed."""
    recording = Recording(tmp_path, Log(5, 400, step_ns=MINUTE_NS))
    recording.take(1000)
    found = recording.writer.sealable()
    recording.writer.close()
    assert len(found) > 3
    return found


@pytest.fixture
def workers() -> Iterator[SealWorkers]:
    workers = SealWorkers(ArchiveConfig(level=1))
    yield workers
    workers.close()


def children() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def turned(workers: SealWorkers) -> bool:
    workers.turn(time.monotonic())
    return not len(workers)


def has_gone_on(workers: SealWorkers, killed: int) -> bool:
    return turned(workers) or bool(children() - {killed})


def assert_sealed(paths: list[Path]) -> None:
    for path in paths:
        assert not path.exists()
        line = sealed_lines(Disk(), path.parent)[path.name.removesuffix(".open")]
        assert (path.parent / line["file"]).stat().st_size == line["bytes"]


def test_files_one_after_the_other_are_sealed_by_one_process(workers: SealWorkers, full: list[Path]) -> None:
    for path in full:
        workers.add(path)
    seen: set[int] = set()

    def done() -> bool:
        seen.update(children())
        return turned(workers)

    until(done, "all files are sealed")
    assert_sealed(full)
    assert len(seen) == 1


def test_a_worker_killed_at_any_moment_is_replaced_and_its_file_begun_again(
    workers: SealWorkers, full: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal_workers, "RETRY_S", 0.0)
    for path in full:
        workers.add(path)
    workers.turn(time.monotonic())
    for pause_s in (0.0, 0.3, 0.6):
        (pid,) = children()
        until(lambda: turned(workers) or True, "a turn")
        time.sleep(pause_s)  # how far it came meanwhile is chance, and may be
        os.kill(pid, signal.SIGKILL)
        until(partial(has_gone_on, workers, pid), "another one has begun")
    until(lambda: turned(workers), "all files are sealed")
    assert_sealed(full)


def test_a_damaged_file_is_told_and_left_and_the_others_are_sealed(
    workers: SealWorkers, full: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    data = full[0].read_bytes()
    full[0].write_bytes(data[:50] + b"\n" + data[51:])
    for path in full:
        workers.add(path)
    until(lambda: turned(workers), "the others are sealed")
    assert full[0].exists()
    assert f"{full[0]} is damaged: restart the archiver" in capfd.readouterr().err
    assert_sealed(full[1:])


def test_a_file_that_rots_after_its_sync_is_not_sealed_and_is_reported(workers: SealWorkers, full: list[Path]) -> None:
    """So that the archiver starts anew, and mends it."""
    path = next(path for path in full if b'"p":"1.50"' in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b'"p":"1.50"', b'"p":"1.51"', 1))
    workers.add(path)
    until(lambda: turned(workers), "it is refused")
    assert workers.rotten == [path]
    assert sealed_lines(Disk(), path.parent).get(path.stem) is None


def test_a_worker_ends_with_who_started_it_in_the_middle_of_a_file(full: list[Path]) -> None:
    """It waits for the file's lock, which is held here, when its parent is killed."""
    with full[0].open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ours, theirs = multiprocessing.Pipe()
        parent = multiprocessing.get_context("spawn").Process(target=start_and_wait, args=(theirs, full[0]))
        parent.start()
        worker = ours.recv()
        until(lambda: waits_for_lock(worker), "the worker waits for the lock")
        parent.kill()
        parent.join()
        until(lambda: has_ended(worker), "the worker ends")
    assert full[0].exists()


def start_and_wait(pipe: "Connection[int, int]", path: Path) -> None:
    workers = SealWorkers(ArchiveConfig())
    workers.add(path)
    workers.turn(time.monotonic())
    pipe.send(*children())
    while True:
        workers.turn(time.monotonic())
        time.sleep(0.05)


def waits_for_lock(pid: int) -> bool:
    return any(f" {pid} " in line and "->" in line for line in Path("/proc/locks").read_text().splitlines())


def has_ended(pid: int) -> bool:
    path = Path(f"/proc/{pid}/cmdline")
    return not path.exists() or not path.read_bytes()  # nobody may have asked yet how it ended
