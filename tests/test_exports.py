"""Exports: whole files or none, kept when nothing is new, the same bytes each time."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import orjson
import pandas
import polars
import pytest

from common.cli import main
from common.client import Client
from common.errors import BadRequestError
from common.export_formats import FORMATS
from common.exports import DAY_NS, EXPORTS, Done, export, planned
from tests.archives import Archive, hours
from tests.pipeline import Served
from tests.standin_client import ROOT

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
DAYS = 3


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.server) as opened:
        yield opened


@pytest.fixture
def days(tmp_path: Path) -> Archive:
    """An archive whose trades fall on some days; the last one is not over."""
    archive = Archive(tmp_path / "storage")
    archive.begin()
    archive.take(hours(1_000_001, 600, 24 * DAYS))
    archive.writer.sync(lambda: None)  # nothing is sealed: files being written are read as well
    return archive


def made(client: Client, name: str, directory: Path, *kinds: str, symbols: list[str] | None = None) -> list[Done]:
    jobs = planned(client, FORMATS[name], "binance", symbols or SYMBOLS, kinds, None, None)
    return list(export(client, FORMATS[name], jobs, directory))


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_export_when_run_again_then_keeps_what_was_over_and_makes_the_rest(days: Archive, tmp_path: Path) -> None:
    with Client(storage=days.storage) as client:
        first = made(client, "jsonl", tmp_path / "out", "trade", symbols=["BTCUSDT"])
        before = files(tmp_path / "out")
        again = made(client, "jsonl", tmp_path / "out", "trade", symbols=["BTCUSDT"])
    assert len(first) >= DAYS and all(done.made for done in first)
    assert [done.made for done in again] == [False] * (len(first) - 1) + [True]  # the last day goes on
    assert {name: data for name, data in before.items() if name != EXPORTS}.items() <= files(tmp_path / "out").items()


def test_export_when_a_file_was_cut_then_makes_it_again(days: Archive, tmp_path: Path) -> None:
    with Client(storage=days.storage) as client:
        path = made(client, "jsonl", tmp_path / "out", "trade", symbols=["BTCUSDT"])[0].path
        whole = path.read_bytes()
        path.write_bytes(whole[:-10])
        assert made(client, "jsonl", tmp_path / "out", "trade", symbols=["BTCUSDT"])[0].made
    assert path.read_bytes() == whole


def test_export_when_days_follow_one_another_then_their_files_are_the_slice(days: Archive, tmp_path: Path) -> None:
    with Client(storage=days.storage) as client:
        paths = [done.path for done in made(client, "jsonl", tmp_path, "trade", symbols=["BTCUSDT"])]
        events = [orjson.loads(line) for path in sorted(paths) for line in path.read_bytes().splitlines()]
        assert events == list(client.slice("binance", "BTCUSDT", "trade"))
    for path in paths:
        found = {json.loads(line)["ts_recv"] // DAY_NS for line in path.read_text().splitlines()}
        assert len(found) == 1


def test_export_when_killed_while_writing_then_nothing_stands_there(days: Archive, tmp_path: Path) -> None:
    def fails(*_: object) -> int:
        raise OSError(28, "no room", "disk")

    broken = FORMATS["jsonl"].__class__(**{**vars(FORMATS["jsonl"]), "write": fails})
    with Client(storage=days.storage) as client, pytest.raises(OSError, match="no room"):
        list(export(client, broken, planned(client, broken, "binance", ["BTCUSDT"], ["trade"], None, None), tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "storage" not in path.parts] == []


def test_export_when_one_was_killed_in_its_midst_then_what_that_left_is_removed(days: Archive, tmp_path: Path) -> None:
    code = (
        "import os, sys; from common import exports; from common.cli import main; "
        "exports._proof = lambda path: os.kill(os.getpid(), 9); main(sys.argv[1:])"
    )
    command = ["export", "csv", "binance", "BTCUSDT", "--kinds", "trade", "--storage", str(days.storage)]
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-c", code, *command, "-o", str(out)], cwd=ROOT, check=False)
    (left,) = (path for path in out.rglob("*") if path.is_file())
    foreign = left.with_name(".others.partial")
    foreign.touch()
    with Client(storage=days.storage) as client:
        made(client, "csv", out, "trade", symbols=["ETHUSDT"])
    assert not left.exists() and foreign.exists()


def test_export_when_a_file_of_others_has_the_name_then_it_is_not_overwritten(client: Client, tmp_path: Path) -> None:
    seen = made(client, "csv", tmp_path / "seen", "trade", symbols=["BTCUSDT"])[0].path
    path = tmp_path / "binance" / "trade" / seen.name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(BadRequestError, match=f"{path} is of no export .* move it away"):
        made(client, "csv", tmp_path, "trade", symbols=["BTCUSDT"])
    assert path.read_bytes() == b"mine"


def test_export_when_killed_before_its_last_line_then_the_next_one_makes_the_file_again(
    client: Client, tmp_path: Path
) -> None:
    done = made(client, "csv", tmp_path, "trade", symbols=["BTCUSDT"])[0]
    lines = (tmp_path / EXPORTS).read_bytes().splitlines()
    (tmp_path / EXPORTS).write_bytes(b"\n".join(lines[:-1]) + b"\n" + lines[-1][:40])  # torn
    assert made(client, "csv", tmp_path, "trade", symbols=["BTCUSDT"]) == [done]
    told = [orjson.loads(line) for line in (tmp_path / EXPORTS).read_bytes().splitlines()[-2:]]
    assert [line["file"] for line in told] == [str(done.path.relative_to(tmp_path))] * 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_command_when_the_disk_is_full_then_the_file_and_the_mend_are_named(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def write(*_: object) -> int:
        with Path("/dev/full").open("wb", 0) as out:
            return out.write(b"a row")

    monkeypatch.setitem(FORMATS, "csv", replace(FORMATS["csv"], write=write))
    command = ["export", "csv", "binance", "BTCUSDT", "--kinds", "trade", "-o", str(tmp_path)]
    assert main([*command, "--storage", str(served.storage)]) == 2
    assert f"{tmp_path}/binance/trade/BTCUSDT-" in (error := capfd.readouterr()[1])
    assert error.endswith("No space left on device: make room and run it again\n")


def test_export_when_its_lines_lack_something_then_they_are_none(client: Client, tmp_path: Path) -> None:
    done = made(client, "csv", tmp_path, "trade", symbols=["BTCUSDT"])[0]
    line = {**orjson.loads((tmp_path / EXPORTS).read_bytes().splitlines()[-1]), "whole": True}
    damaged = [{**line, "rows": "many"}, {name: value for name, value in line.items() if name != "bytes"}, []]
    for each in damaged:
        done.path.unlink()
        (tmp_path / EXPORTS).write_bytes(orjson.dumps(each) + b"\n\0\n")
        assert made(client, "csv", tmp_path, "trade", symbols=["BTCUSDT"]) == [done]


def test_export_when_another_is_at_work_in_the_directory_then_it_is_refused(client: Client, tmp_path: Path) -> None:
    jobs = planned(client, FORMATS["csv"], "binance", SYMBOLS, ["trade"], None, None)
    first = export(client, FORMATS["csv"], jobs, tmp_path)
    next(first)
    with pytest.raises(BadRequestError, match="another export is at work"):
        next(export(client, FORMATS["csv"], jobs, tmp_path))
    assert len(list(first)) == len(SYMBOLS) - 1


@pytest.mark.parametrize("name", ["parquet", "csv", "jsonl"])
def test_plain_files_when_made_twice_then_are_the_same_to_the_byte(name: str, client: Client, tmp_path: Path) -> None:
    made(client, name, tmp_path / "one", "trade", "book", symbols=["BTCUSDT"])
    made(client, name, tmp_path / "other", "trade", "book", symbols=["BTCUSDT"])
    one, other = files(tmp_path / "one"), files(tmp_path / "other")
    assert one == other and len(one) == 3


def test_plain_files_when_read_by_polars_pandas_and_duckdb_then_hold_the_slice(client: Client, tmp_path: Path) -> None:
    for name in ("parquet", "csv", "jsonl"):
        made(client, name, tmp_path, "trade", symbols=["BTCUSDT"])
    stem = tmp_path / "binance" / "trade" / "BTCUSDT-*"
    expected = client.slice("binance", "BTCUSDT", "trade").to_polars()["price"].to_list()
    assert polars.read_parquet(f"{stem}.parquet")["price"].to_list() == expected
    assert polars.read_csv(f"{stem}.csv")["price"].to_list() == expected
    path = next(tmp_path.glob("binance/trade/BTCUSDT-*.csv"))
    assert pandas.read_csv(path)["price"].tolist() == expected
    assert pandas.read_parquet(path.with_suffix(".parquet"))["price"].tolist() == expected
    with duckdb.connect() as database:
        for function, suffix in (("read_parquet", "parquet"), ("read_csv", "csv")):
            told = database.sql(f"select price from {function}('{stem}.{suffix}')").fetchall()
            assert [price for (price,) in told] == expected
        (rows,) = database.sql(f"select count(*) from read_json('{stem}.jsonl') where channel = 'trade'").fetchall()
    assert rows[0] == len(expected)


def test_csv_when_written_then_has_the_exchanges_digits(client: Client, tmp_path: Path) -> None:
    (done,) = made(client, "csv", tmp_path, "quote", symbols=["BTCUSDT"])
    quotes = [event for event in client.slice("binance", "BTCUSDT", "quote") if event["channel"] == "quote"]
    with done.path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["bid_price"] for row in rows] == [quote["bid_price"] for quote in quotes]
    assert done.rows == len(rows)


def test_export_when_asked_wrongly_then_says_what_there_is(client: Client) -> None:
    for asked, told in (
        (("okx", ["BTC-USDT"], []), "no archive of exchange"),
        (("nowhere", ["BTCUSDT"], []), "known are binance"),
        (("binance", ["XRPUSDT"], []), "`symbols` names all that there are"),
        (("binance", ["../../etc"], []), "`symbols` names all that there are"),
        (("binance", ["BTCUSDT"], ["trades"]), "it has trade, agg_trade"),
        (("binance", ["BTCUSDT"], ["funding"]), "binance offers nothing of funding"),
    ):
        with pytest.raises(BadRequestError, match=told):
            planned(client, FORMATS["csv"], *asked, None, None)
    with pytest.raises(BadRequestError, match="start is not before end"):
        planned(client, FORMATS["csv"], "binance", ["BTCUSDT"], [], 5, 5)


def test_command_when_run_then_names_each_file(
    served: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "csv", "binance", "BTC-USDT", "--kinds", "trade", "-o", str(tmp_path)]
    assert main([*command, "--storage", str(served.storage)]) == 0
    out, _ = capfd.readouterr()
    (path,) = tmp_path.glob("binance/trade/*.csv")
    assert out == f"made {path}: {len(path.read_text().splitlines()) - 1} rows, {path.stat().st_size} bytes\n"
    assert main([*command, "--storage", str(served.storage), "--start", "2020-01-01", "--end", "2020-01-02"]) == 2
    assert "nothing of that is archived" in capfd.readouterr()[1]
