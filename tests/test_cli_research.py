"""The commands that ask an archive, as a shell runs them: of a server and of a directory."""

import csv
import io
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from common.cli import main
from common.client import Client
from tests.pipeline import Served, free_port
from tests.standin_client import ROOT

COMMAND = [sys.executable, "-W", "error", "-m", "common.cli"]
SYMBOLS = ["BTCUSDT", "ETHUSDT"]


@pytest.fixture(params=["--server", "--storage"])
def where(request: pytest.FixtureRequest, served: Served) -> list[str]:
    return [request.param, served.server if request.param == "--server" else str(served.storage)]


Tell = Callable[..., str]


@pytest.fixture
def tell(where: list[str], capfd: pytest.CaptureFixture[str]) -> Tell:
    """What a command prints; with `code`, what it says on stderr."""

    def told(*words: object, code: int = 0) -> str:
        assert main([*map(str, words), *where]) == code
        out, err = capfd.readouterr()
        return err if code else out

    return told


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.server) as opened:
        yield opened


def test_slice_when_printed_then_is_the_events_or_the_records_line_by_line(tell: Tell, client: Client) -> None:
    printed = tell("slice", "binance", *SYMBOLS, "--channels", "trade,quote").splitlines()
    assert [orjson.loads(line) for line in printed] == list(client.slice("binance", SYMBOLS, ["trade", "quote"]))
    lines = tell("slice", "binance", "BTCUSDT", "--format", "raw").encode().splitlines()
    assert lines == list(client.slice("binance", "BTCUSDT").records(decoded=False))


def test_slice_when_csv_then_has_the_exchanges_digits(tell: Tell, client: Client) -> None:
    printed = tell("slice", "binance", "BTCUSDT", "--channels", "book", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(printed)))
    expected = client.slice("binance", "BTCUSDT", "book").to_arrow(exact=True).to_pylist()
    for name in ("seq", "side", "price", "amount", "last_id"):
        assert [row[name] for row in rows] == ["" if row[name] is None else str(row[name]) for row in expected]


def test_slice_when_written_to_a_file_then_its_name_says_the_format(tell: Tell, client: Client, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    expected = client.slice("binance", "BTCUSDT", "trade").to_polars().rows()
    for name in ("t.parquet", "t.arrow", "t.csv", "t.json"):
        assert tell("slice", "binance", "BTCUSDT", "--channels", "trade", "-o", tmp_path / name) == ""
    assert polars.read_parquet(tmp_path / "t.parquet").rows() == expected
    assert polars.read_ipc_stream(tmp_path / "t.arrow").rows() == expected
    assert polars.read_csv(tmp_path / "t.csv")["price"].to_list() == [row[8] for row in expected]
    assert len((tmp_path / "t.json").read_bytes().splitlines()) >= len(expected)
    assert {path.name for path in tmp_path.iterdir()} == {"t.parquet", "t.arrow", "t.csv", "t.json"}


@pytest.mark.parametrize("name", ["new/", "empty"])
def test_slice_when_written_into_a_directory_then_fills_it(
    tell: Tell, client: Client, tmp_path: Path, name: str
) -> None:
    polars = pytest.importorskip("polars")
    (tmp_path / "empty").mkdir()
    wanted = "slice", "binance", "BTCUSDT", "--channels", "trade", "-o", f"{tmp_path}/{name}"
    assert tell(*wanted) == ""
    expected = client.slice("binance", "BTCUSDT", "trade").to_polars()
    assert polars.read_parquet(tmp_path / name / "binance/trade/BTCUSDT/*.parquet").rows() == expected.rows()
    assert "name a fresh one" in tell(*wanted, code=2)


def test_slice_when_it_fails_then_no_file_stands_there(tell: Tell, tmp_path: Path) -> None:
    said = tell("slice", "binance", "NOSUCH", "-o", tmp_path / "never.json", code=2)
    assert 'no records of symbol "NOSUCH"' in said
    assert list(tmp_path.iterdir()) == []


def test_book_coverage_gaps_symbols_status_when_asked_then_print_columns_or_json(tell: Tell, client: Client) -> None:
    at = str(client.coverage("binance", "BTCUSDT", "book")[0]["end"] - 1)
    book = tell("book", "binance", "BTCUSDT", "--at", at, "--depth", 3).splitlines()
    assert book[0].startswith("binance BTCUSDT at 20")
    assert book[1].split() == ["amount", "bid", "ask", "amount"]
    assert len(book) == 5
    found = orjson.loads(tell("book", "binance", "BTCUSDT", "--at", at, "--json"))
    assert book[2].split()[1:3] == [found["bids"][0][0], found["asks"][0][0]]
    lines = tell("coverage", "binance", "BTCUSDT", "--channels", "trade").splitlines()
    assert lines[0].split()[:4] == ["symbol", "channel", "start", "end"]
    assert lines[1].split()[:2] == ["BTCUSDT", "trade"]
    assert orjson.loads(tell("coverage", "binance", "--json"))["coverage"] == client.coverage("binance")
    assert len(tell("gaps", "binance").splitlines()) == 1 + len(client.gaps("binance"))
    assert orjson.loads(tell("gaps", "binance", "--json"))["gaps"] == client.gaps("binance")
    assert all(symbol in tell("symbols", "binance") for symbol in SYMBOLS)
    assert [row["symbol"] for row in orjson.loads(tell("symbols", "--json"))["symbols"] if row["symbol"]] == SYMBOLS
    told = orjson.loads(tell("instruments", "binance", "--json"))["instruments"]
    assert {each["symbol"]: each["name"] for each in told} == {"BTCUSDT": "BTC-USDT", "ETHUSDT": "ETH-USDT"}
    assert "complete" in tell("status")
    assert orjson.loads(tell("status", "--json"))["processes"].keys() == {"binance"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("slice", "nasdaq", "A"), "no archive of exchange 'nasdaq'"),
        (("slice", "binance", "BTCUSDT", "--start", "soon"), "not a time: 'soon'"),
        (("slice", "binance", "BTCUSDT", "--start", "-1m", "--end", "-2m"), "lies after end"),
        (("slice", "binance", "BTCUSDT", "--channels", "trades"), "unknown channel"),
        (("slice", "binance", "BTCUSDT", "--format", "csv"), "one channel"),
        (("slice", "binance", "BTCUSDT", "--format", "parquet"), "name a file with -o"),
        (("book", "binance", "NOSUCH"), "symbols"),
    ],
)
def test_commands_when_asked_wrongly_then_say_so_in_one_sentence(
    tell: Tell, words: tuple[str, ...], sentence: str
) -> None:
    said = tell(*words, code=2)
    assert said.startswith("trade-archivist: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_commands_when_no_server_is_there_then_name_it_and_the_mend(capfd: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert main(["status", "--server", address]) == 2
    said = capfd.readouterr().err
    assert f"no history server at tcp://{address}" in said
    assert "--storage DIR" in said


def test_slice_when_nobody_reads_on_then_ends_quietly(served: Served) -> None:
    command = [*COMMAND, "slice", "binance", *SYMBOLS, "--storage", str(served.storage)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


def test_follow_when_begun_in_the_past_then_prints_it_and_ends_with_the_count_or_ctrl_c(served: Served) -> None:
    command = [*COMMAND, "follow", "binance", "BTCUSDT", "--channels", "trade", "--start", "2020-01-01"]
    command += ["--server", served.server]
    done = subprocess.run([*command, "--count", "5"], cwd=ROOT, capture_output=True, timeout=60, check=True)
    with Client(served.server) as client:
        expected = [orjson.dumps(event) for event in client.slice("binance", "BTCUSDT", "trade")]
    assert done.stdout.splitlines() == expected[:5]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [process.stdout.readline().rstrip() for _ in expected] == expected
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_progress_when_on_a_terminal_then_is_drawn_and_wiped_and_in_a_pipe_nothing() -> None:
    program = """
import sys, time
from common.progress import Progress
with Progress("binance", after_s=0) as shown:
    for done in range(3):
        shown.update(done * 50, 100)
        time.sleep(0.15)
"""
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=theirs, check=True, timeout=60)
    os.close(theirs)
    drawn = os.read(ours, 10_000)
    os.close(ours)
    assert b"100%" in drawn
    assert drawn.endswith(b"\r\x1b[K")
    piped = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True, timeout=60)
    assert piped.stderr == b""
