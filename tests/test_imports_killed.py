"""An import killed between any two operations: readers see all of it or nothing, the next one finishes or begins it."""

import contextlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.disk import AppendFile, Disk
from common.import_commit import commit, settle
from common.imports import Order, run
from common.process import ConfigError, lock
from common.storage import ARCHIVED, IMPORT, MARKER, read_archived
from common.verify import verify
from tests.archives import Archive, trade
from tests.foreign import DAY, HOUR_NS, hftbacktest, market, tree
from tests.pipeline import until
from tests.test_cli import ROOT


class Killed(BaseException):
    """The process is gone."""


class Numbered(Disk):
    """Counts what changes the disk, and ends the process after a number of them."""

    def __init__(self, left: int | None = None) -> None:
        self.done, self._left = 0, left

    def step(self) -> None:
        if self.done == self._left:
            raise Killed
        self.done += 1

    def make_dir(self, directory: Path) -> None:
        self.step()
        super().make_dir(directory)

    def open(self, path: Path) -> AppendFile:
        self.step()
        return NumberedFile(path, self)

    def write(self, path: Path, data: bytes) -> None:
        self.step()
        super().write(path, data)

    def rename(self, old: Path, new: Path) -> None:
        self.step()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self.step()
        super().remove(path)

    def sync_file(self, path: Path) -> None:
        self.step()

    def sync_dir(self, directory: Path) -> None:
        self.step()


class NumberedFile(AppendFile):
    def __init__(self, path: Path, disk: Numbered) -> None:
        super().__init__(path)
        self._disk = disk

    def write(self, data: bytes) -> int:
        self._disk.step()
        return super().write(data)

    def sync(self) -> None:
        self._disk.step()


def archived(storage: Path) -> dict[str, bytes]:
    """What stands in the archive: no locks, nothing that is being made, and no word of which directory this is."""
    files = tree(storage).items()
    found = {name: data for name, data in files if not name.startswith(IMPORT) and not name.endswith(".lock")}
    return {name: data.partition(b',"inode":')[0] if name.endswith(ARCHIVED) else data for name, data in found.items()}


def parts(folder: Path) -> list[Path]:
    """Two recordings, the second going on where the first ends, each over midnight or the hour."""
    messages = market(DAY - HOUR_NS // 4, 120, HOUR_NS // 2)
    later = market(DAY + HOUR_NS // 4, 120, HOUR_NS, first=121)
    return [hftbacktest(folder / "one.gz", messages), hftbacktest(folder / "two.gz", later)]


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> list[Order]:
    folder = tmp_path_factory.mktemp("files")
    return [Order("hftbacktest", [path], folder / "storage", codec="zstd") for path in parts(folder)]


@pytest.fixture(scope="module")
def whole(orders: list[Order]) -> dict[str, bytes]:
    """What both imports give when nobody is killed."""
    for order in orders:
        run(order)
    return archived(orders[0].storage)


@pytest.fixture
def storage(tmp_path: Path, orders: list[Order]) -> Path:
    """A storage directory that holds the first import."""
    run(into(orders[0], tmp_path / "storage"))
    return tmp_path / "storage"


def into(order: Order, storage: Path) -> Order:
    return replace(order, storage=storage)


class UpToMarker(Disk):
    """Ends the process when the staging directory has just been said to be whole."""

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        if new.name == MARKER:
            raise Killed


def operations(order: Order, storage: Path) -> int:
    disk = Numbered()
    run(into(order, storage), disk=disk)
    return disk.done


def test_an_import_killed_before_its_staging_is_whole_leaves_the_archive_and_the_next_one_does_it(
    storage: Path, orders: list[Order], whole: dict[str, bytes], tmp_path: Path
) -> None:
    before = archived(storage)
    count = operations(orders[1], shutil.copytree(storage, tmp_path / "counted"))
    for left in range(0, count, count // 12):
        killed = shutil.copytree(storage, tmp_path / str(left))
        with pytest.raises(Killed):
            run(into(orders[1], killed), disk=Numbered(left))
        if not (killed / IMPORT / "binance" / MARKER).exists():
            assert archived(killed) == before
        run(into(orders[1], killed))
        assert archived(killed) == whole
        assert not (killed / IMPORT).exists()


def test_a_commit_killed_between_any_two_operations_shows_all_or_nothing_and_is_finished_by_the_next_import(
    storage: Path, orders: list[Order], whole: dict[str, bytes], tmp_path: Path
) -> None:
    complete = read_archived(Disk(), storage / "binance").complete
    with pytest.raises(Killed):
        run(into(orders[1], storage), disk=UpToMarker())
    left = 0
    while True:
        killed = shutil.copytree(storage, tmp_path / str(left))
        try:
            commit(Numbered(left), killed / IMPORT / "binance")
        except Killed:
            report = verify(killed / "binance", 1)
            assert (report.findings, report.complete >= complete) == ([], True)
        else:
            break
        with contextlib.suppress(Killed):
            settle(Numbered(left // 2), killed)
        done = run(into(orders[1], killed))
        assert (done.seq, len(done.passed_over)) == (None, 1)
        assert archived(killed) == whole
        left += 1
    assert left > 30


def test_a_first_commit_when_killed_shows_nothing_yet_and_verify_says_that_it_is_not_done(
    orders: list[Order], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(into(orders[0], tmp_path), disk=UpToMarker())
    for left in range(0, 24, 3):
        killed = shutil.copytree(tmp_path / IMPORT, tmp_path / str(left) / IMPORT).parent
        with pytest.raises(Killed):
            commit(Numbered(left), killed / IMPORT / "binance")
        if (killed / "binance" / ARCHIVED).exists():
            report = verify(killed / "binance", 1)
            assert (report.findings, report.complete) == ([], 0)
            assert all("not committed: its import" in note for note in report.notes)


def test_an_import_when_the_process_gets_sigkill_leaves_nothing_that_counts(tmp_path: Path) -> None:
    path = hftbacktest(tmp_path / "long.gz", market(DAY, 60_000, HOUR_NS))
    storage = tmp_path / "storage"
    words = [sys.executable, "-m", "common.cli", "import", "hftbacktest", str(path), "--storage", str(storage)]
    with subprocess.Popen(words, cwd=ROOT) as process:
        until(lambda: bool(list(storage.glob("*/*/*/*/*.open"))), "records are being written")
        process.kill()
    assert archived(storage) == {}
    run(Order("hftbacktest", parts(tmp_path), storage))
    assert not (storage / IMPORT).exists()


def test_a_feed_that_has_recorded_since_an_import_was_killed_is_not_mixed_with_it(tmp_path: Path) -> None:
    """Nor while an archiver is at work there."""
    storage, path = tmp_path / "storage", hftbacktest(tmp_path / "a.gz", market(DAY, 20, HOUR_NS))
    with pytest.raises(Killed):
        run(Order("hftbacktest", [path], storage), disk=UpToMarker())
    archive = Archive(storage)
    first = DAY // 1000 + 100 * HOUR_NS // 1000
    archive.begin(0, first)
    archive.take([trade(first + 1, DAY + 100 * HOUR_NS)])
    archive.writer.sync(lambda: None)
    before = archived(storage)
    with lock(storage / "binance" / ".archiver.lock", "an archiver"), pytest.raises(ConfigError, match="stop it first"):
        settle(Disk(), storage)
    with pytest.raises(ConfigError, match=r"holds records of a feed: .*; and remove .*/\.import/binance"):
        settle(Disk(), storage)
    assert archived(storage) == before
    archive.close()
