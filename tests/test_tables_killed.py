"""Sealing and rebuilding tables while everything is killed: processes, workers, and between any two operations."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from common import chains, exchanges, tabling
from common import rebuild as rebuilding
from common.adapter import version
from common.archive import ArchiveWriter
from common.chains import WorkerError
from common.disk import AppendFile, Disk
from common.process import boot_id
from common.rebuild import rebuild
from common.sealing import seal
from common.storage import sealed_lines
from common.tabling import tabulate
from common.verify import verify
from tests.archives import FIRST, Archive, hours, written
from tests.pipeline import until
from tests.test_cli import ROOT
from tests.test_rebuild import ADAPTER, assert_whole, strip
from tests.test_tables import tables_of

NORMALISER = version(exchanges.get("binance"))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return written(tmp_path)


# -- processes, killed and several ---------------------------------------------------------------------------------


def command(archive: Archive, *more: str) -> "subprocess.Popen[bytes]":
    words = [sys.executable, "-W", "error", "-m", "common.cli", "rebuild", str(archive.storage), *more]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def long_archive(storage: Path) -> Archive:
    archive = Archive(storage, "zstd")
    archive.begin()
    archive.take(hours(FIRST + 1, 480, 8))
    archive.close()
    return archive


def without_tables(archive: Archive) -> int:
    return sum(
        "tables" not in line
        for month in archive.directory.glob("[!_]*/*/")
        for line in sealed_lines(Disk(), month).values()
    )


def test_rebuild_killed_again_and_again_goes_on_where_it_was(tmp_path: Path) -> None:
    archive = long_archive(tmp_path)
    count = strip(archive.directory)
    for _ in range(2):
        if not (missing := without_tables(archive)):
            break  # it was done before it could be killed
        with command(archive) as process:
            until(partial(lambda missing: without_tables(archive) < missing, missing), "a file is committed")
            process.kill()
    with command(archive) as process:
        out, error = process.communicate(timeout=60)
    made = int(out.split()[1])
    assert (process.returncode, error) == (0, b"")
    assert made < count
    assert_whole(archive.directory, count)


def test_two_rebuilds_at_once_end_with_each_file_in_order(tmp_path: Path) -> None:
    archive = long_archive(tmp_path)
    count = strip(archive.directory)
    with command(archive) as one, command(archive) as other:
        told = [process.communicate(timeout=60) for process in (one, other)]
    assert [(one.returncode, told[0][1]), (other.returncode, told[1][1])] == [(0, b""), (0, b"")]
    assert sum(int(out.split()[1]) for out, _ in told) >= count
    assert_whole(archive.directory, count)


def test_rebuild_in_several_processes_does_the_same(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "INLINE_BYTES", 0)
    count = strip(archive.directory)
    seen: list[tuple[int, int]] = []
    known, outcomes = rebuild(archive.directory, 2, progress=lambda done, total: seen.append((done, total)))
    assert (known, sum(outcome.made for outcome in outcomes)) == (count, count)
    assert seen[-1] == (count, count)
    assert_whole(archive.directory, count)


def test_rebuild_when_a_worker_is_killed_then_says_so_and_can_be_run_again(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains, "INLINE_BYTES", 0)
    count = strip(archive.directory)

    def kill(done: int, total: int) -> None:
        for child in multiprocessing.active_children():
            os.kill(cast(int, child.pid), signal.SIGKILL)

    with pytest.raises(WorkerError, match="run it again"):
        rebuild(archive.directory, 2, progress=kill)
    monkeypatch.setattr(chains, "INLINE_BYTES", 1 << 40)
    rebuild(archive.directory, 1)
    assert_whole(archive.directory, count)


# -- killed between any two operations -----------------------------------------------------------------------------


class KilledError(BaseException):
    """As SIGKILL: nothing may catch it."""


class MortalDisk(Disk):
    """Dies before its n-th change."""

    left = 1 << 30

    def _live(self) -> None:
        MortalDisk.left -= 1
        if MortalDisk.left < 0:
            raise KilledError

    def open(self, path: Path) -> AppendFile:
        self._live()
        return super().open(path)

    def sync_file(self, path: Path) -> None:
        self._live()
        super().sync_file(path)

    def rename(self, old: Path, new: Path) -> None:
        self._live()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._live()
        super().remove(path)


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What rebuilding and tabling do with the disk can be killed."""
    for module in (rebuilding, tabling):
        monkeypatch.setattr(module, "Disk", MortalDisk)
    yield
    MortalDisk.left = 1 << 30


@pytest.mark.usefixtures("mortal")
def test_rebuild_killed_at_any_operation_leaves_nothing_half_true(tmp_path: Path) -> None:
    archive = written(tmp_path, count=60)
    count = len(tables_of(archive.directory))
    for operation in range(0, 1000, 2):
        MortalDisk.left = operation
        try:
            rebuild(archive.directory, 1, force=True)
            break
        except KilledError:
            MortalDisk.left = 1 << 30
        report = verify(archive.directory, jobs=1)
        assert (report.findings, report.stale, report.without_tables, report.tables) == ([], 0, 0, count)
        if operation % 6 == 0:
            rebuild(archive.directory, 1)
            assert_whole(archive.directory, count)
    else:
        pytest.fail("it never came through")
    assert operation > 20
    rebuild(archive.directory, 1)
    assert_whole(archive.directory, count)


@pytest.mark.usefixtures("mortal")
def test_sealing_killed_at_any_operation_is_redone_with_its_tables(tmp_path: Path) -> None:
    make_tables = partial(tabulate, adapter=ADAPTER)
    writer = ArchiveWriter(Disk(), tmp_path / "binance", boot_id=boot_id(), rotate_min_bytes=1)
    archive = Archive(tmp_path)
    archive.__dict__["writer"] = writer
    writer.open(None)
    archive.begin()
    archive.take(hours(FIRST + 1, 60))
    writer.sync(lambda: None)
    paths = writer.sealable()
    kills = 0
    for path in paths:
        for operation in range(100):
            MortalDisk.left = operation
            try:
                seal(MortalDisk(), path, "bz2", 3, 2000, NORMALISER, make_tables)
                break
            except KilledError:
                MortalDisk.left = 1 << 30
                kills += 1
            report = verify(archive.directory, jobs=1)
            assert (report.findings, report.records, report.without_tables) == ([], 61, 0)
    writer.close()
    MortalDisk.left = 1 << 30
    assert kills > 30
    assert not list(archive.directory.rglob("*.tmp"))
    assert_whole(archive.directory, 4)
