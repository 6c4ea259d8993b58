"""Exports as CSV files of tardis.dev: every column, each day by itself, and out of genuine recordings."""

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.normalise import RECORDING, record_lines
from common.client import Client
from common.errors import BadRequestError, DamagedError
from common.event_record import FIELDS
from common.events import Event
from common.export_formats import FORMATS
from common.export_tardis import _tops
from common.exports import DAY_NS, Done, export, planned
from common.record import encode
from tests.archives import Archive

DAY = 1_723_075_200_000_000_000  # 2024-08-08T00:00:00Z
US = 1_000
S = 10**9
FORMAT = FORMATS["tardis-csv"]
NOT_TOLD = dict.fromkeys(("open", "high", "low", "volume", "quote_volume"))
Told = tuple[int, str, dict[str, Any]]
"""When it was received (ns), the channel, and the fields, `ts_event` among them."""


def archived(
    storage: Path,
    found: Iterable[Told],
    exchange: str = "binance-usdm",
    symbol: str = "BTCUSDT",
    instruments: tuple[str, bytes] | None = None,
) -> Client:
    """A client of an archive that holds just those events; `instruments`: the URL and the answer that tell of them."""
    archive = Archive(storage, exchange=exchange)
    archive.writer.hole(1000, 0)
    subscriptions = {"symbols": [symbol], "channels": [*FIELDS, "instrument"]}
    payload = orjson.dumps({"exchange": exchange, "subscriptions": subscriptions})
    lines = [encode(1000, DAY, "start", head={"last": 0}, payload=payload)]
    if instruments is not None:
        head = {"url": instruments[0], "status": 200}
        lines.append(encode(1001, DAY, "rest", channel="instrument", head=head, payload=instruments[1]))
    for seq, (ts, channel, fields) in enumerate(found, 1000 + len(lines)):
        told = orjson.dumps({"ts_event": None, **fields})
        lines.append(encode(seq, ts, "event", channel=channel, symbol=symbol, payload=told))
    archive.take(lines)
    archive.close()
    return Client(storage=storage)


def made(client: Client, directory: Path, kind: str, exchange: str = "binance-usdm") -> list[Done]:
    jobs = planned(client, FORMAT, exchange, client.symbols(exchange), [kind], None, None)
    return list(export(client, FORMAT, jobs, directory))


def rows(path: Path) -> list[str]:
    """The lines after the header."""
    return gzip.decompress(path.read_bytes()).decode().splitlines()[1:]


def trade(ts: int, price: str, **more: Any) -> Told:
    return ts, "trade", {"ts_event": ts - S, "id": "7", "price": price, "amount": "0.10", "side": "buy", **more}


def book(ts: int, bids: str, asks: str, kind: str = "delta") -> Told:
    """Levels as `price:amount price:amount`."""
    levels = [[level.split(":") for level in side.split()] for side in (bids, asks)]
    return ts, "book", {"ts_event": ts - S, "type": kind, "bids": levels[0], "asks": levels[1]}


def test_trades_when_exported_then_are_a_file_a_day_with_the_digits_of_the_exchange(tmp_path: Path) -> None:
    found = [
        trade(DAY + 5 * S + 1_999, "61837.640"),
        trade(DAY + 6 * S, "1", ts_event=None, side="unknown", id=None),
        trade(DAY + DAY_NS, "2.5", side="sell"),
    ]
    with archived(tmp_path / "storage", found) as client:
        first, second = made(client, tmp_path, "trades")
    assert first.path.name == "binance-futures_trades_2024-08-08_BTCUSDT.csv.gz"
    assert second.path.name == "binance-futures_trades_2024-08-09_BTCUSDT.csv.gz"
    assert gzip.decompress(first.path.read_bytes()).decode().splitlines() == [
        "exchange,symbol,timestamp,local_timestamp,id,side,price,amount",
        "binance-futures,BTCUSDT,1723075204000001,1723075205000001,7,buy,61837.640,0.10",
        "binance-futures,BTCUSDT,1723075206000000,1723075206000000,,unknown,1,0.10",
    ]
    assert rows(second.path) == ["binance-futures,BTCUSDT,1723161599000000,1723161600000000,7,sell,2.5,0.10"]
    assert (first.rows, second.rows) == (2, 1)


def test_liquidations_when_exported_then_are_those_alone(tmp_path: Path) -> None:
    found = [trade(DAY, "1"), (DAY + S, "liquidation", trade(DAY + S, "2")[2])]
    with archived(tmp_path / "storage", found) as client:
        (done,) = made(client, tmp_path, "liquidations")
    assert rows(done.path) == ["binance-futures,BTCUSDT,1723075200000000,1723075201000000,7,buy,2,0.10"]


BOOK = [
    book(DAY + S, "9:1 8:2", "10:1", "snapshot"),
    book(DAY + 2 * S, "9:0", "10.5:3"),
    book(DAY + 3 * S, "7:1", ""),
    book(DAY + DAY_NS + S, "8.5:4", ""),
]


def test_a_book_when_exported_then_each_day_begins_with_a_snapshot(tmp_path: Path) -> None:
    with archived(tmp_path / "storage", BOOK) as client:
        first, second = made(client, tmp_path, "incremental_book_L2")
    head = "binance-futures,BTCUSDT,"
    assert rows(first.path) == [
        f"{head}1723075200000000,1723075201000000,true,bid,9,1",
        f"{head}1723075200000000,1723075201000000,true,bid,8,2",
        f"{head}1723075200000000,1723075201000000,true,ask,10,1",
        f"{head}1723075201000000,1723075202000000,false,bid,9,0",
        f"{head}1723075201000000,1723075202000000,false,ask,10.5,3",
        f"{head}1723075202000000,1723075203000000,false,bid,7,1",
    ]
    assert rows(second.path) == [
        f"{head}1723161600000000,1723161600000000,true,bid,8,2",
        f"{head}1723161600000000,1723161600000000,true,bid,7,1",
        f"{head}1723161600000000,1723161600000000,true,ask,10,1",
        f"{head}1723161600000000,1723161600000000,true,ask,10.5,3",
        f"{head}1723161600000000,1723161601000000,false,bid,8.5,4",
    ]


def test_a_book_when_a_snapshot_comes_as_the_day_begins_then_it_is_the_only_one(tmp_path: Path) -> None:
    found = [BOOK[0], book(DAY + DAY_NS + 7, "5:1", "6:1", "snapshot")]
    with archived(tmp_path / "storage", found) as client:
        _, second = made(client, tmp_path, "incremental_book_L2")
    assert [row.split(",")[4:] for row in rows(second.path)] == [["true", "bid", "5", "1"], ["true", "ask", "6", "1"]]


def test_book_snapshots_when_exported_then_a_row_is_a_change_of_the_best_levels(tmp_path: Path) -> None:
    deep = book(DAY + 4 * S, "1:1 2:1 3:1 4:1 5:1 6:1", "")
    with archived(tmp_path / "storage", [*BOOK[:3], deep, book(DAY + 5 * S, "1:7", "")]) as client:
        (five,) = made(client, tmp_path, "book_snapshot_5")
        (many,) = made(client, tmp_path, "book_snapshot_25")
    header = gzip.decompress(five.path.read_bytes()).decode().partition("\n")[0].split(",")[4:]
    assert header[:5] == ["asks[0].price", "asks[0].amount", "bids[0].price", "bids[0].amount", "asks[1].price"]
    assert len(header) == 20 and header[-1] == "bids[4].amount"
    found = [row.split(",")[3:] for row in rows(five.path)]
    assert found == [
        ["1723075201000000", "10", "1", "9", "1", "", "", "8", "2", *[""] * 12],
        ["1723075202000000", "10", "1", "8", "2", "10.5", "3", "", "", *[""] * 12],
        ["1723075203000000", "10", "1", "8", "2", "10.5", "3", "7", "1", *[""] * 12],
        ["1723075204000000", "10", "1", "8", "2", "10.5", "3", "7", "1", *["", "", "6", "1", "", "", "5", "1"],
         "", "", "4", "1"],
    ]  # fmt: skip
    assert many.rows == 5 and all(row.count(",") == 103 for row in rows(many.path))


def test_quotes_when_the_exchange_sent_them_then_are_those_else_the_best_of_the_book(tmp_path: Path) -> None:
    sent = {"ts_event": None, "bid_price": "9", "bid_amount": "1", "ask_price": None, "ask_amount": None}
    for name, more in (("sent", [(DAY + 4 * S, "quote", sent)] * 2), ("made", [])):
        with archived(tmp_path / name / "storage", [*BOOK[:3], *more]) as client:
            made(client, tmp_path / name, "quotes")
    header = "exchange,symbol,timestamp,local_timestamp,ask_amount,ask_price,bid_price,bid_amount"
    paths = [tmp_path / name / "binance-futures_quotes_2024-08-08_BTCUSDT.csv.gz" for name in ("sent", "made")]
    assert gzip.decompress(paths[0].read_bytes()).decode().startswith(header)
    assert rows(paths[0]) == ["binance-futures,BTCUSDT,1723075204000000,1723075204000000,,,9,1"] * 2
    assert [row.split(",")[4:] for row in rows(paths[1])] == [["1", "10", "9", "1"], ["1", "10", "8", "2"]]


def test_quotes_of_an_exchange_that_has_none_when_imported_ones_are_archived_then_are_those(tmp_path: Path) -> None:
    quote = {"bid_price": "9", "bid_amount": "1", "ask_price": "10", "ask_amount": "2"}
    with archived(tmp_path / "storage", [(DAY, "quote", quote)], "bitstamp", "btcusd") as client:
        (done,) = made(client, tmp_path, "quotes", "bitstamp")
    assert rows(done.path) == ["bitstamp,BTCUSD,1723075200000000,1723075200000000,2,10,9,1"]


def test_a_derivative_ticker_when_exported_then_a_row_has_the_last_known_of_all(tmp_path: Path) -> None:
    funding = {"rate": "0.00010", "predicted_rate": None, "next_ts": DAY + 8 * 3600 * S}
    found = [
        (DAY + S, "ticker", {"last": "5.0", **NOT_TOLD}),
        (DAY + 2 * S, "mark", {"mark_price": "5.1", "index_price": None}),
        (DAY + 2 * S, "funding", funding),
        (DAY + 3 * S, "ticker", {"last": "5.0", **NOT_TOLD}),
        (DAY + 4 * S, "open_interest", {"open_interest": "70"}),
        (DAY + 5 * S, "mark", {"mark_price": None, "index_price": "5.2"}),
    ]
    with archived(tmp_path / "storage", found) as client:
        (done,) = made(client, tmp_path, "derivative_ticker")
    assert [row.split(",")[3:] for row in rows(done.path)] == [
        ["1723075201000000", "", "", "", "", "5.0", "", ""],
        ["1723075202000000", "1723104000000000", "0.00010", "", "", "5.0", "", "5.1"],
        ["1723075204000000", "1723104000000000", "0.00010", "", "70", "5.0", "", "5.1"],
        ["1723075205000000", "1723104000000000", "0.00010", "", "70", "5.0", "5.2", "5.1"],
    ]


def test_a_ticker_of_a_symbol_that_is_no_derivative_when_exported_then_there_is_no_file(tmp_path: Path) -> None:
    with archived(tmp_path / "storage", [(DAY + S, "ticker", {"last": "5.0", **NOT_TOLD})]) as client:
        assert made(client, tmp_path, "derivative_ticker") == []


def test_names_when_tardis_has_others_then_are_those_and_what_it_has_not_is_refused(tmp_path: Path) -> None:
    with archived(tmp_path / "kraken", [trade(DAY, "1")], "kraken", "BTC/USD") as client:
        (done,) = made(client, tmp_path, "trades", "kraken")
    assert done.path.name == "kraken_trades_2024-08-08_XBT%2FUSD.csv.gz"
    assert rows(done.path)[0].startswith("kraken,XBT/USD,")
    with (
        archived(tmp_path / "other", [trade(DAY, "1")], "coinbase-advanced", "BTC-USD") as client,
        pytest.raises(BadRequestError, match=r"tardis\.dev has no exchange that is coinbase-advanced: export binance,"),
    ):
        made(client, tmp_path, "trades", "coinbase-advanced")


@pytest.mark.parametrize("trade_id", ["a,b", "a\nb", '"a"'])
def test_an_id_that_no_cell_can_hold_when_exported_then_nothing_is_passed_off_as_data(
    trade_id: str, tmp_path: Path
) -> None:
    with (
        archived(tmp_path / "storage", [trade(DAY, "1", id=trade_id)]) as client,
        pytest.raises(DamagedError, match="binance-usdm BTCUSDT: an id or a number has a comma"),
    ):
        made(client, tmp_path / "out", "trades")
    assert not list((tmp_path / "out").iterdir())


sides = st.lists(
    st.tuples(st.integers(1, 12).map(str), st.sampled_from(["0", "0.0", "1", "2"])),
    max_size=6,
    unique_by=lambda level: level[0],
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["snapshot", "delta", "delta"]), sides, sides), max_size=20))
def test_the_best_levels_when_changed_in_any_way_then_are_those_of_the_whole_book_sorted(
    messages: list[tuple[str, list[tuple[str, str]], list[tuple[str, str]]]],
) -> None:
    expected, last, known = [], None, False
    book: tuple[dict[str, str], dict[str, str]] = {}, {}
    for number, (kind, *told) in enumerate(messages):
        known |= kind == "snapshot"
        for side, levels in zip(book, told, strict=True):
            if kind == "snapshot":
                side.clear()
            side.update(levels)
        bids, asks = ([(p, a) for p, a in sorted(side.items(), key=lambda x: int(x[0])) if float(a)] for side in book)
        if known and (bids[::-1][:3], asks[:3]) != last:
            last = bids[::-1][:3], asks[:3]
            expected.append((number, last))
        if not known:
            book[0].clear()
            book[1].clear()
    events: list[Event] = [
        {"number": number, "type": kind, "bids": bids, "asks": asks}
        for number, (kind, bids, asks) in enumerate(messages)
    ]
    assert [(event["number"], top) for event, top in _tops(events, 3)] == expected


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    if not RECORDING.exists():
        pytest.skip(f"no recordings beside the project: {RECORDING}")
    archive = Archive(tmp_path_factory.mktemp("genuine"))
    lines = record_lines(RECORDING)
    archive.writer.hole(1, 0)
    archive.take(lines)
    archive.close()
    with Client(storage=archive.storage) as client:
        yield client


def test_a_genuine_recording_when_exported_then_its_files_are_its_events(genuine: Client, tmp_path: Path) -> None:
    kinds = ("trades", "quotes", "incremental_book_L2", "book_snapshot_25")
    found = {
        kind: [row for done in made(genuine, tmp_path, kind, "binance") for row in rows(done.path)] for kind in kinds
    }
    for channel, kind, names in (
        ("trade", "trades", ("id", "side", "price", "amount")),
        ("quote", "quotes", ("ask_amount", "ask_price", "bid_price", "bid_amount")),
    ):
        events = [event for event in genuine.slice("binance", "BTCUSDT", channel) if event["channel"] == channel]
        assert len(events) > 1000
        assert [row.split(",")[4:] for row in found[kind]] == [[event[name] for name in names] for event in events]
    sides: dict[str, dict[str, str]] = {"bid": {}, "ask": {}}
    for row in found["incremental_book_L2"]:
        is_snapshot, side, price, amount = row.split(",")[4:]
        assert is_snapshot == "false" or not sides[side].get(price)
        sides[side][price] = amount
    held = {
        side: {price: amount for price, amount in levels.items() if float(amount)} for side, levels in sides.items()
    }
    now = genuine.book("binance", "BTCUSDT")
    assert held == {"bid": dict(now["bids"]), "ask": dict(now["asks"])}
    cells = found["book_snapshot_25"][-1].split(",")[4:]
    best = [level for pair in zip(now["asks"][:25], now["bids"][:25], strict=True) for level in pair]
    assert cells == [text for level in best for text in level]
