"""Two processes never write the same directory, whoever removes their lock files or moves the directory away."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.config import Config
from common.import_commit import keep_away
from common.process import ConfigError, LockedError, holds, lock
from common.settings import load
from tests.pipeline import Pipeline, until

Make = Callable[..., Pipeline]


def put_another(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("1\n")
    other.replace(path)


def take_again(path: Path) -> None:
    with pytest.raises(LockedError, match="already runs"), lock(path, "a second", wait_s=0):
        pass


@pytest.mark.parametrize("harm", [Path.unlink, put_another])
def test_lock_when_its_file_goes_then_nobody_else_gets_it_and_it_is_put_back(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    path = tmp_path / "lock"
    with lock(path, "a test") as held:
        harm(path)
        take_again(path)
        held.check()
        assert holds(path, os.getpid())
        take_again(path)
    with lock(path, "a second", wait_s=0):
        pass


def test_lock_when_its_directory_is_another_one_then_its_holder_is_told_to_stop(tmp_path: Path) -> None:
    path = tmp_path / "storage" / "lock"
    with lock(path, "a test") as held:
        path.parent.rename(tmp_path / "moved")
        with pytest.raises(LockedError, match="moved or removed"):
            held.check()
        with lock(path, "a second", wait_s=0) as second, pytest.raises(LockedError, match="moved or removed"):
            second.check()
            held.check()


def test_import_when_the_archive_is_another_directory_then_nothing_more_is_committed(tmp_path: Path) -> None:
    directory = tmp_path / "binance"
    directory.mkdir()
    with ExitStack() as locks:
        check = keep_away(locks, directory)
        check()
        directory.rename(tmp_path / "moved")
        with pytest.raises(ConfigError, match="run the import again"):
            check()


def test_a_journal_in_the_archives_own_directory_is_refused(tmp_path: Path) -> None:
    def configured(journal: Path) -> Config:
        options = {"--storage": str(tmp_path), "--symbols": "BTCUSDT"}
        return load(None, ["binance"], options, {"TRADE_ARCHIVIST_FEED__BINANCE__JOURNAL": str(journal)})

    assert configured(tmp_path / "journals").journal_dir("binance") == tmp_path / "journals" / "binance"
    with pytest.raises(ConfigError, match=r"BINANCE__JOURNAL.*is the archive.s own"):
        configured(tmp_path / "." / "sub" / "..")


def test_a_second_archiver_and_feed_are_refused_after_the_lock_files_were_removed(make: Make) -> None:
    pipeline = make("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "200")
    pipeline.start()
    pipeline.wait_archived()
    locks = {"archiver": pipeline.exchange_dir / ".archiver.lock", "feed": pipeline.journal / "lock"}
    for path in locks.values():
        path.unlink()
    first = pipeline.take("archiver", "feed")
    try:
        for name in locks:
            pipeline.start(name)
            assert pipeline.wait(name) == 1
        until(lambda: all(holds(locks[name], first[name].pid) for name in locks), "the files are put back")
    finally:
        pipeline.give_back(first)
    behind = pipeline.journal_last()
    until(lambda: pipeline.complete() > behind, "the first ones go on")
    pipeline.stop()
    assert pipeline.log.read_text().count("already runs (process") == 2
    pipeline.verify()


@pytest.mark.parametrize("name", ["archiver", "feed"])
def test_a_process_whose_directory_was_moved_away_ends_for_its_supervisor(make: Make, name: str) -> None:
    pipeline = make("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "200")
    pipeline.start()
    pipeline.wait_archived()
    directory = {"archiver": pipeline.exchange_dir, "feed": pipeline.journal}[name]
    directory.rename(directory.with_name(".moved"))
    assert pipeline.wait(name) == 1
    assert f"{name}: " in pipeline.log.read_text()
    assert f"{directory} was moved or removed while it was locked" in pipeline.log.read_text()
    assert not (directory / "lock").exists() and not (directory / ".archiver.lock").exists()
    pipeline.start(name)
    pipeline.wait_archived()
    pipeline.stop()
