"""Things in a storage directory that are no files: each costs itself alone, and is told. Nothing waits for them."""

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import orjson
import pytest

from common import cli
from common.client import Client
from common.disk import Disk
from common.journal import META
from common.journal_marks import SUFFIX as MARKS
from common.journal_reader import JournalReader
from common.process import LockedError, holds, lock
from common.record import encode
from tests.archives import FIRST, FIRST_TS, HOUR_NS, Archive, hours, start, trade, written
from tests.pipeline import Pipeline, until
from tests.test_instruments import LISTED, answer
from tests.test_journal_marks import opened

COUNT = 600
DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """What waits for a FIFO is interrupted."""

    def end(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def dangling(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        before = Path.cwd()
        os.chdir(path.parent)  # the whole path is too long for a socket
        made.bind(path.name)
        os.chdir(before)


def directory(path: Path) -> None:
    path.mkdir()


KINDS = [dangling, fifo, bound, directory]
BTC = "BTCUSDT/2024-08"
PLACES = {
    "archived.json": "archived.json",
    "archived.json.tmp": "archived.json.tmp",
    "what was synced": ".synced.json",
    "what was imported": "imported.jsonl",
    "an import": "../.import/binance/commit.json",
    "a manifest": f"{BTC}/manifest.jsonl",
    "a sealed file": f"{BTC}/*.bz2",
    "a table": f"{BTC}/*.parquet",
    "the open file": f"{BTC}/*.open",
    "a new open file": f"{BTC}/BTCUSDT-2024-08-09-23-1723161253938.open",
    "a new sealed file": f"{BTC}/BTCUSDT-2024-08-09-23-1723161253938.bz2",
    "a new table": f"{BTC}/BTCUSDT-2024-08-09-23-1723161253938.trade.parquet",
    "an odd name": f"{BTC}/what.is.this",
    "a month": "BTCUSDT/2024-09",
    "a later month": "BTCUSDT/2031-01",
    "a symbol": "XRPUSDT",
}


def put(archive: Archive, place: str, make: Callable[[Path], None]) -> Path:
    """In the place of the first file of that name, if there is one."""
    path = next(iter(sorted(archive.directory.glob(PLACES[place]))), archive.directory / PLACES[place])
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)
    return path


def trades(storage: Path, symbol: str) -> list[int]:
    with Client(storage=storage) as client:
        return [event["seq"] for event in client.slice("binance", symbol, "trade") if event["channel"] == "trade"]


def command(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_readers_when_something_odd_lies_about_then_it_costs_itself_alone(
    tmp_path: Path, place: str, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    archive = written(tmp_path / "storage")
    if make is directory and place in ("a month", "a later month", "a symbol"):
        pytest.skip("an empty directory is not odd there")
    mine, others = trades(archive.storage, "BTCUSDT"), trades(archive.storage, "ETHUSDT")
    path = put(archive, place, make)
    is_data = place in ("a manifest", "a sealed file", "the open file")
    assert trades(archive.storage, "ETHUSDT") == others
    if not is_data:
        assert trades(archive.storage, "BTCUSDT") == mine
    with Client(storage=archive.storage) as client:
        client.status()
        assert {"BTCUSDT", "ETHUSDT"} <= set(client.symbols("binance"))
        assert client.coverage("binance", "ETHUSDT", "trade")
        if is_data:
            assert client.gaps("binance", "BTCUSDT")
        client.coverage("binance")
        assert len(client.slice("binance", ["ETHUSDT"], "trade").to_arrow()) == len(others)
        assert len(client.slice("binance", ["BTCUSDT"], "trade").to_arrow()) <= len(mine)
    capsys.readouterr()
    found = command("verify", archive.storage)
    out = capsys.readouterr().out
    assert found in (0, 1) and (
        path.name in out or path.name.startswith(".") or path.name.endswith((".tmp", "commit.json"))
    )
    assert found == 1 or make is directory or path.name.endswith((".tmp", ".json", ".jsonl"))
    assert command("symbols", "--storage", archive.storage) == 0
    assert command("rebuild", archive.storage) in (0, 1)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_archiver_when_something_odd_lies_about_then_goes_on(
    tmp_path: Path, place: str, make: Callable[[Path], None]
) -> None:
    archive = written(tmp_path / "storage")
    others = trades(archive.storage, "ETHUSDT")
    put(archive, place, make)
    again = Archive(archive.storage)
    more = hours(again.writer.position + 1, 40, 2, FIRST_TS + 20 * 24 * HOUR_NS)  # into September
    last = again.writer.position + 40
    again.take(more)
    again.close()
    assert again.writer.position == last
    assert trades(archive.storage, "ETHUSDT")[: len(others)] == others
    assert trades(archive.storage, "ETHUSDT")[-1] > last - 4
    assert trades(archive.storage, "BTCUSDT")[-1] > last - 4


def test_archiver_when_a_symbols_directory_is_odd_then_sets_it_aside(tmp_path: Path) -> None:
    for make in (dangling, fifo, bound, Path.touch):
        storage = tmp_path / make.__name__
        (storage / "binance").mkdir(parents=True)
        make(storage / "binance" / "BTCUSDT")
        written(storage, count=100)
        assert trades(storage, "BTCUSDT")
        assert (storage / "binance" / ".BTCUSDT.odd").is_symlink() or (storage / "binance" / ".BTCUSDT.odd").exists()


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("place", ["meta", "the front", "the next segment", "the next marks", "marks", "marks alone"])
def test_journal_when_something_odd_lies_in_it_then_goes_on(
    tmp_path: Path, place: str, make: Callable[[Path], None]
) -> None:
    directory, lines = tmp_path / ".journal" / "binance", [start(FIRST, 0), *(trade(FIRST + n) for n in range(1, 41))]
    (journal := opened(directory)).append(lines[:20])
    journal.close()
    segment = f"{FIRST:020d}"
    names = {
        "meta": META,
        "the front": f"{1:020d}.records",
        "the next segment": f"{FIRST + 20:020d}.records",
        "the next marks": f"{FIRST + 20:020d}{MARKS}",
        "marks": segment + MARKS,
        "marks alone": f"{7:020d}{MARKS}",
    }
    (path := directory / names[place]).unlink(missing_ok=True)
    make(path)
    again = opened(directory)
    assert again.append(lines[20:40]) == 20 or place == "meta"  # without it a new journal begins
    again.sync_job()()
    again.append(lines[40:])
    again.close()
    reader = JournalReader(Disk(), directory)
    assert reader.after(FIRST - 1)[:20] == lines[:20] or place == "meta"
    assert not reader.damage


@pytest.mark.parametrize("make", KINDS)
def test_lock_when_something_odd_has_its_name_then_is_told_in_a_sentence(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(path := tmp_path / "lock")
    with pytest.raises(LockedError, match="lock"), lock(path, "an archiver"):
        pass
    with pytest.raises(OSError, match="lock"):
        holds(path, 1)


def test_readers_when_names_are_no_text_then_pass_over_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = written(tmp_path / "storage")
    expected = trades(archive.storage, "BTCUSDT")
    bad = b"\xff\xfe\xe9"
    for parent in (archive.storage, archive.directory, archive.directory / "BTCUSDT", archive.directory / BTC):
        os.mkdir(os.fsencode(parent) + b"/" + bad)  # noqa: PTH102 a Path would be text
    os.mkfifo(os.fsencode(archive.directory / BTC) + b"/" + bad + b".open")
    with Client(storage=archive.storage) as client:
        assert client.symbols("binance") == ["BTCUSDT", "ETHUSDT"]
        client.coverage("binance")
    assert trades(archive.storage, "BTCUSDT") == expected
    for options in ((), ("--json",)):
        assert command("verify", archive.storage, *options) == 1
        assert "\\xff\\xfe\\xe9" in capsys.readouterr().out.replace("\\\\", "\\")
    assert command("rebuild", archive.storage) == 0
    assert command("symbols", "--storage", archive.storage) == 0
    Archive(archive.storage).close()
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/" + bad)
    shutil.move(archive.storage, strange)
    with Client(storage=strange) as client:
        assert client.symbols("binance") == ["BTCUSDT", "ETHUSDT"]
        client.status()
    assert command("verify", strange) == 1
    assert command("symbols", "--storage", strange) == 0
    assert "\\xff" in capsys.readouterr().out


@pytest.mark.parametrize("harm", ["damaged", "lost", "a directory"])
def test_names_when_a_file_of_a_symbol_that_is_recorded_no_more_is_lost_then_the_others_have_theirs(
    tmp_path: Path, harm: str
) -> None:
    url, entry, name = LISTED["binance"]
    archive = Archive(tmp_path / "storage")
    archive.begin()
    archive.take(hours(FIRST + 1, COUNT))
    last, ts = FIRST + COUNT, FIRST_TS + 3 * HOUR_NS
    payload = orjson.dumps({"subscriptions": {"symbols": ["BTCUSDT"], "channels": ["trade", "instrument"]}})
    head = {"last": last, "url": url, "status": 200}
    later = [
        encode(last + 1, ts, "start", head=head, payload=payload),
        encode(last + 2, ts, "rest", head=head, payload=answer("binance", [entry])),
    ]
    archive.take([*later, *hours(last + 3, 40, 2, ts)])
    archive.close()
    expected = trades(archive.storage, "BTCUSDT")
    assert trades(archive.storage, name) == expected
    for path in (archive.directory / "ETHUSDT").rglob("ETHUSDT-*"):
        if harm == "damaged" and path.suffix != ".parquet":
            path.write_bytes(bytes(path.stat().st_size))
        elif harm != "damaged":
            path.unlink()
            if harm == "a directory":
                path.mkdir()
    assert trades(archive.storage, name) == expected
    with Client(storage=archive.storage) as client:
        assert client.symbols("binance", "*-USDT") == ["BTCUSDT"]


@pytest.mark.parametrize("month", ["2024-08", "2024-09"])
def test_month_when_its_disk_is_not_mounted_then_the_others_are_read_and_written(tmp_path: Path, month: str) -> None:
    archive = written(tmp_path / "storage")
    again = Archive(archive.storage)
    again.take(hours(again.writer.position + 1, 40, 2, FIRST_TS + 30 * 24 * HOUR_NS))
    again.close()
    everything = trades(archive.storage, "BTCUSDT")
    linked, disk = archive.directory / "BTCUSDT" / month, tmp_path / "disk"
    linked.rename(disk)
    linked.symlink_to(tmp_path / "mounted")
    got = trades(archive.storage, "BTCUSDT")
    assert got == [seq for seq in everything if (seq < FIRST + COUNT + 1) == (month == "2024-09")]
    with Client(storage=archive.storage) as client:
        assert client.gaps("binance", "BTCUSDT") or month == "2024-09"
    assert command("verify", archive.storage) == 1
    later = Archive(archive.storage)
    last = later.writer.position + 40
    later.take(hours(later.writer.position + 1, 40, 2, FIRST_TS + 31 * 24 * HOUR_NS))
    later.close()
    assert trades(archive.storage, "BTCUSDT")[-1] > last - 4
    disk.rename(tmp_path / "mounted")
    assert [seq for seq in trades(archive.storage, "BTCUSDT") if seq <= everything[-1]] == everything


def test_processes_when_odd_things_come_while_they_run_then_go_on(make: Callable[..., Pipeline]) -> None:
    pipeline = make("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "200", "--seed", "7")
    pipeline.start("archiver", "feed", "history")
    (month,) = until(lambda: list(pipeline.exchange_dir.glob("BTCUSDT/*")), "a symbol is archived")
    for number, odd in enumerate(KINDS):
        odd(month / f"BTCUSDT-2024-08-09-23-172316125393{number}.open")
        odd(month.with_name(f"2031-0{number + 1}"))
        odd(pipeline.exchange_dir / f"ODD{number}")
    for times in (1, 2):
        until(lambda: pipeline.log.read_bytes().count(b" answers on ") == times, "history answers")  # noqa: B023
        with Client(pipeline.server) as client:
            assert sum(1 for _ in client.slice("binance", ["BTCUSDT", "ETHUSDT"], "trade"))
            assert client.coverage("binance", "BTCUSDT", "trade")
            assert client.status()["processes"]["binance"]["archiver"]["state"] == "running"
        behind = pipeline.journal_last()
        until(lambda: pipeline.complete() > behind + 300, "the archiver goes on")  # noqa: B023
        pipeline.kill("archiver", "history")
        pipeline.start("archiver", "history")
    pipeline.stop()
    log = pipeline.log.read_text()
    assert "Traceback" not in log
    assert "records.ipc is passed over" not in log  # our own socket
    assert log.count("ODD1 is passed over: it is a FIFO") <= 12  # once for each process
