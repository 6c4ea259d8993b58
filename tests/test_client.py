"""The client on what a real pipeline left: what it gives is what was live, as events, records and frames."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest

from common.async_client import AsyncClient
from common.client import Client
from common.errors import BadRequestError, DamagedError
from common.events import Event
from common.exchanges import binance
from common.record import decode
from common.tables import COLUMNS, NUMBER, rows
from tests.pipeline import Served, archived, events_of, is_part
from tests.standin_client import ROOT

SYMBOLS = ["BTCUSDT", "ETHUSDT"]


@pytest.fixture(params=["server", "directory"])
def client(request: pytest.FixtureRequest, served: Served) -> Iterator[Client]:
    with Client(served.server) if request.param == "server" else Client(storage=served.storage) as opened:
        yield opened


def live_events(served: Served) -> list[Event]:
    return events_of(served.messages)


def middle(served: Served) -> tuple[int, int]:
    """Two times between which some of the archive lies; both inside files."""
    times = [event["ts_recv"] for event in live_events(served)]
    return times[len(times) // 5] + 1, times[len(times) * 4 // 5] + 1


# -- events and records ------------------------------------------------------------------------------------------------


def test_slice_when_of_everything_then_is_what_was_live(client: Client, served: Served) -> None:
    assert list(client.slice("binance", SYMBOLS)) == live_events(served)


def test_slice_when_of_some_then_is_that_part_of_what_was_live(client: Client, served: Served) -> None:
    start, end = middle(served)
    expected = [
        event for event in live_events(served)
        if event["channel"] in ("trade", "gap") and event["symbol"] == "ETHUSDT" and start <= event["ts_recv"] < end
    ]  # fmt: skip
    assert expected
    assert list(client.slice("binance", "ETHUSDT", "trade", start, end)) == expected
    numbers = {"after": expected[0]["seq"], "to": expected[-1]["seq"]}
    assert list(client.slice("binance", "ETHUSDT", "trade", **numbers)) == expected[1:]


def test_book_slice_when_it_begins_inside_then_the_book_before_comes_first(client: Client, served: Served) -> None:
    start, end = middle(served)
    first, *others = client.slice("binance", "BTCUSDT", "book", start, end)
    assert (first["type"], first["derived"]) == ("snapshot", True)
    assert others == list(client.slice("binance", "BTCUSDT", "book", start, end, snapshot=False))
    book = client.book("binance", "BTCUSDT", at=start)
    assert {side: [list(level) for level in first[side]] for side in ("bids", "asks")} == {
        side: book[side] for side in ("bids", "asks")
    }
    assert len(client.book("binance", "BTCUSDT", start, depth=3)["bids"]) == 3


def test_records_when_asked_then_are_the_lines_of_the_archive(client: Client, served: Served) -> None:
    expected = archived(served.storage / "binance", "BTCUSDT")
    assert list(client.slice("binance", "BTCUSDT").records()) == expected
    lines = list(client.slice("binance", "BTCUSDT").records(decoded=False))
    assert [decode(line) for line in lines] == expected


def test_catalogue_when_asked_then_tells_what_there_is(client: Client, served: Served) -> None:
    assert client.symbols("binance") == SYMBOLS
    assert [each["name"] for each in client.exchanges()] == ["binance"]
    assert client.status()["processes"]["binance"]["complete"] == client.exchanges()[0]["complete"]
    spans = client.coverage("binance", channels="trade")
    trades = [event for event in live_events(served) if event["channel"] == "trade"]
    assert sum(span["events"] for span in spans) == len(trades)
    assert client.gaps("binance") == [event for event in live_events(served) if event["channel"] == "gap"]
    assert client.slice("binance", SYMBOLS).gaps() == client.gaps("binance")
    assert [each["name"] for each in client.instruments("binance")] == ["BTC-USDT", "ETH-USDT"]


def test_errors_when_asked_for_what_is_not_there_then_say_what_is(client: Client) -> None:
    for ask, code in (
        (lambda: client.symbols("nasdaq"), "unknown_exchange"),
        (lambda: client.slice("nasdaq", "A-B", "trade").to_arrow(), "unknown_exchange"),
        (lambda: list(client.slice("binance", "../etc")), "unknown_symbol"),
        (lambda: list(client.slice("binance", "BTCUSDT", "trades")), "unknown_channel"),
        (lambda: list(client.slice("binance", "BTCUSDT", start="2022-01-01", end="2021-01-01")), "bad_range"),
        (lambda: client.slice("binance", "BTCUSDT", "trades").to_arrow(), "unknown_channel"),
    ):
        with pytest.raises(BadRequestError) as caught:
            ask()
        assert caught.value.code == code
    assert list(client.slice("binance", "BTCUSDT", start="2100-01-01")) == []


# -- frames ------------------------------------------------------------------------------------------------------------


def expected_rows(events: list[Event], channel: str, *, exact: bool) -> list[dict[str, Any]]:
    """The rows of a frame, out of events, the plain way."""
    names = COLUMNS[channel]
    found = []
    for event in events:
        if event["channel"] != channel:
            continue
        levels: list[dict[str, Any]] = [{}]
        if channel == "book" and (event["bids"] or event["asks"]):
            sides = (("bid", event["bids"]), ("ask", event["asks"]))
            levels = [
                {"side": side, "price": price, "amount": amount} for side, each in sides for price, amount in each
            ]
        assert len(levels) == rows(event)
        for level in levels:
            row = {"part": 0, "of": 1, **event, **level}
            found.append({name: _value(row.get(name), names[name], exact=exact) for name in names})
    return found


def _value(value: Any, sort: str, *, exact: bool) -> Any:
    return float(value) if sort == NUMBER and value is not None and not exact else value


@pytest.mark.parametrize("channel", binance.CHANNELS)
def test_frames_when_made_of_tables_and_tail_then_equal_the_events(served: Served, channel: str) -> None:
    cases: list[tuple[tuple[int | None, int | None], str]] = [(middle(served), "ts_recv")]
    if channel in ("trade", "book"):
        cases += [((None, None), "ts_recv"), (middle(served), "ts_event")]
    with Client(served.server) as client:
        for times, by in cases:
            asked = client.slice("binance", SYMBOLS, channel, *times, by=by)
            events = list(asked)
            assert any(event["channel"] == channel for event in events) or channel in ("candle", "instrument")
            expected = expected_rows(events, channel, exact=False)
            assert asked.to_arrow().to_pylist() == expected
            assert [row for table in asked.batches() for row in table.to_pylist()] == expected
            assert asked.to_arrow(exact=True).to_pylist() == expected_rows(events, channel, exact=True)


def test_frames_when_of_each_library_then_are_the_same(client: Client, served: Served, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    asked = client.slice("binance", "BTCUSDT", ["trade", "quote"], *middle(served))
    tables = asked.to_arrow()
    assert tables.keys() == {"trade", "quote"}
    asked.to_parquet(tmp_path / "frames")
    for channel, frame in asked.to_polars().items():
        assert frame.rows(named=True) == tables[channel].to_pylist()
        assert polars.read_parquet(tmp_path / "frames" / f"{channel}.parquet").rows() == frame.rows()
    frame = asked.to_pandas()["trade"]
    assert list(frame["price"]) == tables["trade"]["price"].to_pylist()
    assert frame["ts_recv"].dtype == "int64"


@pytest.mark.parametrize("names", ["BTC-USDT", ["*-USDT"], ["ETH-USDT", "BTCUSDT"]])
def test_frames_when_names_are_unified_or_patterns_then_are_those_of_the_exchanges_own(
    client: Client, tmp_path: Path, names: str | list[str]
) -> None:
    own = ["BTCUSDT"] if names == "BTC-USDT" else SYMBOLS
    for channel in ("trade", "book"):
        expected = client.slice("binance", own, channel).to_arrow()
        asked = client.slice("binance", names, channel)
        assert asked.to_arrow() == expected
        assert sum(map(len, asked.batches())) == len(expected)
        asked.to_directory(tmp_path / channel)
        assert {path.name for path in (tmp_path / channel / "binance" / channel).iterdir()} == set(own)


def test_frames_when_empty_then_have_their_columns(client: Client, tmp_path: Path) -> None:
    asked = client.slice("binance", "BTCUSDT", "trade", "2100-01-01")
    assert asked.to_arrow().column_names == list(COLUMNS["trade"])
    assert asked.to_polars().height == 0
    asked.to_parquet(tmp_path / "empty.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.parquet"]


@pytest.mark.parametrize("channel", ["trade", "book"])
def test_directory_when_of_a_slice_then_its_files_are_its_rows(
    client: Client, served: Served, tmp_path: Path, channel: str
) -> None:
    asked = client.slice("binance", SYMBOLS, channel, *middle(served))
    asked.to_directory(tmp_path / "files")
    tables, expected = found_in(tmp_path / "files" / "binance" / channel), asked.to_arrow().to_pylist()
    assert tables.keys() == set(SYMBOLS)
    for symbol, found in tables.items():
        assert found == [row for row in expected if row["symbol"] == symbol]
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def found_in(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each symbol, by the names of its files."""
    parquet = pytest.importorskip("pyarrow.parquet")
    return {
        place.name: [row for path in sorted(place.iterdir()) for row in parquet.read_table(path).to_pylist()]
        for place in directory.iterdir()
    }


def test_directory_when_hours_are_whole_then_holds_the_archives_own_files(
    client: Client, served: Served, tmp_path: Path
) -> None:
    tmp_path.joinpath("files").mkdir()
    asked = client.slice("binance", "BTCUSDT", ["trade", "quote"])
    asked.to_directory(tmp_path / "files")
    brought = {path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    own = {path.read_bytes() for path in (served.storage / "binance" / "BTCUSDT").rglob("*.trade.parquet")}
    assert own <= brought
    with pytest.raises(BadRequestError, match="name a fresh one"):
        asked.to_directory(tmp_path / "files")
    assert {path.read_bytes() for path in tmp_path.rglob("*.parquet")} == brought


def test_directory_when_it_is_there_then_is_filled_where_it_is(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was replaced by another: not where it is linked to or mounted, and who stood in it was nowhere."""
    for name in ("here", "target"):
        tmp_path.joinpath(name).mkdir()
    tmp_path.joinpath("link").symlink_to("target")
    asked = client.slice("binance", SYMBOLS, "trade")
    monkeypatch.chdir(tmp_path / "here")
    for output in (".", "../link"):
        asked.to_directory(output)
        assert [path.name for path in Path(output).resolve().iterdir()] == ["binance"]
    tmp_path.joinpath("to nowhere").symlink_to("nowhere")
    with pytest.raises(BadRequestError, match="name a fresh one"):
        asked.to_directory("../to nowhere")
    assert {path.name for path in tmp_path.iterdir()} == {"here", "link", "target", "to nowhere"}


def test_directory_when_written_by_two_at_once_then_is_the_first_ones(client: Client, tmp_path: Path) -> None:
    """They wrote into one place, and each took away what the other had."""
    asked = client.slice("binance", SYMBOLS, "trade")
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(asked.to_directory, tmp_path / "files") for _ in range(2)]
    errors = [error for each in done if (error := each.exception()) is not None]
    assert len(errors) == 1 and isinstance(errors[0], OSError | BadRequestError)
    assert sum(map(len, found_in(tmp_path / "files" / "binance" / "trade").values())) == len(asked.to_arrow())
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def copy_of(served: Served, directory: Path) -> Path:
    copied = directory / "storage"
    shutil.copytree(served.storage, copied, ignore=shutil.ignore_patterns(".*"))
    return copied


def test_table_when_gone_after_it_was_planned_then_its_events_take_its_place(served: Served, tmp_path: Path) -> None:
    copied = copy_of(served, tmp_path)
    for path in sorted((copied / "binance" / "BTCUSDT").rglob("*.parquet"))[::2]:
        path.unlink()
    with Client(storage=copied) as client:
        for channel in ("trade", "book"):
            asked = client.slice("binance", SYMBOLS, channel, *middle(served))
            expected = expected_rows(list(asked), channel, exact=False)
            assert asked.to_arrow().to_pylist() == expected
            assert [row for table in asked.batches() for row in table.to_pylist()] == expected
            asked.to_directory(tmp_path / channel)
            assert sum(map(len, found_in(tmp_path / channel / "binance" / channel).values())) == len(expected)


def test_table_when_damaged_on_disk_then_is_an_error_and_exact_still_reads_the_records(
    served: Served, tmp_path: Path
) -> None:
    copied = copy_of(served, tmp_path)
    path = sorted((copied / "binance" / "BTCUSDT").rglob("*.trade.parquet"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with Client(storage=copied) as client:
        asked = client.slice("binance", "BTCUSDT", "trade")
        with pytest.raises(DamagedError, match="SHA-256"):
            asked.to_arrow()
        with pytest.raises(DamagedError, match="SHA-256"):
            asked.to_parquet(tmp_path / "never.parquet")
        with pytest.raises(DamagedError, match="SHA-256"):
            asked.to_directory(tmp_path / "never")
        assert [path.name for path in tmp_path.iterdir()] == ["storage"]
        assert len(asked.to_arrow(exact=True)) == sum(event["channel"] == "trade" for event in asked)


# -- asyncio -----------------------------------------------------------------------------------------------------------


def test_async_client_when_asked_then_gives_the_same(served: Served) -> None:
    async def ask() -> None:
        async with AsyncClient(served.server) as client:
            assert await client.symbols("binance") == SYMBOLS
            asked = client.slice("binance", "BTCUSDT", "trade")
            events = [event async for event in asked]
            expected = [event for event in live_events(served) if event["symbol"] == "BTCUSDT"]
            assert events == [event for event in expected if event["channel"] in ("trade", "gap")]
            assert [record.seq async for record in asked.records()][-1] >= events[-1]["seq"]
            frames = await asyncio.gather(*(asked.to_arrow() for _ in range(4)))
            trades = [event for event in events if event["channel"] == "trade"]
            assert {len(frame) for frame in frames} == {len(trades)}
            assert sum([len(table) async for table in asked.batches()]) == len(trades)
            async for event in asked:  # left in the middle
                assert event == events[0]
                break
            book = await client.book("binance", "BTCUSDT", middle(served)[0], depth=2)
            assert len(book["asks"]) == 2

    asyncio.run(ask())


# -- what an import costs ----------------------------------------------------------------------------------------------


def test_package_when_imported_then_brings_only_what_is_used(served: Served) -> None:
    """The base install has pyzmq and orjson; frames are made of what the extra brings."""
    program = """
import sys
import common
assert not {"zmq", "orjson", "common.client"} & sys.modules.keys()
heavy = dict.fromkeys(("pyarrow", "polars", "pandas", "numpy", "zstandard"))
sys.modules |= heavy  # as if none were installed
client = common.Client(sys.argv[1])
asked = client.slice("binance", "BTCUSDT", "trade")
assert sum(1 for _ in asked) and sum(1 for _ in asked.records())
try:
    asked.to_polars()
except common.MissingExtraError as error:
    assert error.code == "missing_package" and "trade-archivist[frames]" in str(error)
else:
    raise AssertionError
try:
    common.nothing
except AttributeError:
    pass
assert "AsyncClient" in dir(common)
client.close()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program, served.server], cwd=ROOT, check=True, timeout=60)


def test_events_when_dumped_again_then_are_the_live_messages_byte_for_byte(client: Client, served: Served) -> None:
    bodies = [orjson.dumps(event) for event in client.slice("binance", SYMBOLS, ["trade", "quote"])]
    live = [message.partition(b" ")[2] for message in served.messages]
    assert is_part(bodies, live)
