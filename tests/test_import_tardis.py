"""CSV files of tardis.dev: written here as they write them, read by the code; exact, or an error with its line."""

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import import_tardis
from common.event_record import read as read_event
from common.exchanges import get
from common.foreign_file import ForeignFileError

FIRST = "exchange,symbol,timestamp,local_timestamp"
HEADERS = {
    "trades": "id,side,price,amount",
    "liquidations": "id,side,price,amount",
    "incremental_book_L2": "is_snapshot,side,price,amount",
    "quotes": "ask_amount,ask_price,bid_price,bid_amount",
    "derivative_ticker": "funding_timestamp,funding_rate,predicted_funding_rate,open_interest,last_price,index_price,"
    "mark_price",
    "book_snapshot_5": ",".join(f"asks[{i}].price,asks[{i}].amount,bids[{i}].price,bids[{i}].amount" for i in range(5)),
}
US = 1_723_161_253_937_085
many = settings(max_examples=60, deadline=None, derandomize=True)
digits = st.decimals(0, 10**9, allow_nan=False, places=8).map(lambda number: f"{number:f}") | st.sampled_from(
    ["1e-7", "0", "61837.64000000", "10"]
)


def written(directory: Path, kind: str, rows: Sequence[str], place: str = "binance-futures,BTCUSDT") -> Path:
    """Rows of `timestamp,local_timestamp,…` in the file of a day."""
    path = directory / f"binance-futures_{kind}_2024-08-08_BTCUSDT.csv.gz"
    lines = [f"{FIRST},{HEADERS[kind]}", *(f"{place},{row}" for row in rows), ""]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def events(path: Path, exchange: str = "binance-usdm", symbol: str | None = None) -> list[dict[str, Any]]:
    """What a file tells, with ts_recv, channel and symbol; each is an event that `normalise` takes."""
    found = list(import_tardis.read(path, get(exchange), symbol))
    assert all(read_event(item.channel, item.payload) is not None for item in found)
    return [
        {"ts": item.ts, "channel": item.channel, "symbol": item.symbol, **orjson.loads(item.payload)} for item in found
    ]


def told(rows: int, channel: str, **fields: Any) -> dict[str, Any]:
    """The event of the rows-th row, 5 µs on its way."""
    return {
        "ts": (US + rows) * 1000,
        "channel": channel,
        "symbol": "BTCUSDT",
        "ts_event": (US + rows - 5) * 1000,
        **fields,
    }


def times(row: int = 0) -> str:
    return f"{US + row - 5},{US + row}"


@pytest.mark.parametrize(("kind", "channel"), [("trades", "trade"), ("liquidations", "liquidation")])
def test_trades_and_liquidations_when_read_then_have_every_digit(tmp_path: Path, kind: str, channel: str) -> None:
    path = written(tmp_path, kind, [f"{times()},7,buy,61837.6400,0.001", f"{US},{US},,unknown,1e-7,12"])
    first = told(0, channel, id="7", side="buy", price="61837.6400", amount="0.001")
    second = {**told(0, channel, id=None, side="unknown", price="1e-7", amount="12"), "ts_event": None}
    assert events(path) == [first, second]
    assert import_tardis.exchanges(path) == ("binance-usdm",)


def test_quotes_when_a_side_is_empty_then_it_is_null(tmp_path: Path) -> None:
    path = written(tmp_path, "quotes", [f"{times()},1.5,100.0,99.90,2", f"{times(1)},,,99.90,2"])
    fields = {"bid_price": "99.90", "bid_amount": "2"}
    assert events(path) == [
        told(0, "quote", ask_amount="1.5", ask_price="100.0", **fields),
        told(1, "quote", ask_amount=None, ask_price=None, **fields),
    ]


def test_snapshots_when_levels_are_empty_then_are_books_of_those_that_are_there(tmp_path: Path) -> None:
    path = written(tmp_path, "book_snapshot_5", [f"{times()},2.0,1,1.9,3,2.1,5,,," + "," * 11])
    levels = {"bids": [["1.9", "3"]], "asks": [["2.0", "1"], ["2.1", "5"]]}
    assert events(path) == [told(0, "book", type="snapshot", **levels)]


def test_derivative_tickers_when_values_change_then_only_those_are_events(tmp_path: Path) -> None:
    rows = [",,,,,,", f"{US},0.0001,,1000.5,,,61837", f"{US},0.0001,,1000.5,5,,61837", f"{US},0.0002,,1000.5,5,6,61837"]
    path = written(tmp_path, "derivative_ticker", [f"{times(row)},{text}" for row, text in enumerate(rows)])
    funding = {"rate": "0.0001", "predicted_rate": None, "next_ts": US * 1000}
    nothing = dict.fromkeys(("open", "high", "low", "volume", "quote_volume"))
    assert events(path) == [
        told(1, "funding", **funding),
        told(1, "mark", mark_price="61837", index_price=None),
        told(1, "open_interest", open_interest="1000.5"),
        told(2, "ticker", last="5", **nothing),
        told(3, "funding", **{**funding, "rate": "0.0002"}),
        told(3, "mark", mark_price="61837", index_price="6"),
    ]


def book_rows(event: dict[str, Any]) -> Iterator[str]:
    for side in ("ask", "bid"):
        for price, amount in event[f"{side}s"]:
            yield f"{event['times']},{str(event['type'] == 'snapshot').lower()},{side},{price},{amount}"


levels = st.lists(st.lists(digits, min_size=2, max_size=2), max_size=4)
messages = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["snapshot", "delta", "delta"]), levels, levels), max_size=8
)


@many
@given(messages, st.booleans())
def test_a_book_when_its_messages_are_written_as_rows_then_the_same_rows_are_read(
    tmp_path_factory: pytest.TempPathFactory, said: list[Any], bids_first: bool
) -> None:
    """Messages of the same times may be cut otherwise; the rows, and the book after each of the times, are the same."""
    row, sides = 0, ("bid", "ask") if bids_first else ("ask", "bid")
    wanted = [{"times": times(), "type": "snapshot", "bids": [["1", "1"]], "asks": [["2", "1"]]}]
    for step, kind, bids, asks in said:
        row += step + (kind == "snapshot")
        wanted.append({"times": times(row), "type": kind, "bids": bids, "asks": asks})
    rows = [row for event in wanted for row in sorted_rows(event, sides)]
    path = written(tmp_path_factory.mktemp("tardis"), "incremental_book_L2", rows)
    found = events(path)
    for event in found:
        event["times"] = f"{event['ts_event'] // 1000},{event['ts'] // 1000}"
    assert [row for event in found for row in sorted_rows(event, sides)] == rows


def sorted_rows(event: dict[str, Any], sides: tuple[str, str]) -> list[str]:
    rows = list(book_rows(event))
    return [row for side in sides for row in rows if row.split(",")[3] == side]


def test_rows_of_one_message_when_side_by_side_then_are_one_event_and_a_snapshot_is_whole(tmp_path: Path) -> None:
    rows = [
        "0,true,ask,2,1",
        "0,true,bid,1,1",
        "0,true,ask,3,1",
        "1,false,ask,2,0",
        "1,false,bid,1,5",
        "2,false,bid,1,0",
    ]
    path = written(tmp_path, "incremental_book_L2", [f"{times(int(row[0]))}{row[1:]}" for row in rows])
    assert events(path) == [
        told(0, "book", type="snapshot", bids=[["1", "1"]], asks=[["2", "1"], ["3", "1"]]),
        told(1, "book", type="delta", bids=[["1", "5"]], asks=[["2", "0"]]),
        told(2, "book", type="delta", bids=[["1", "0"]], asks=[]),
    ]


def test_a_file_of_both_of_bybits_markets_when_read_for_one_then_gives_only_its_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "trades", [f"{times()},7,buy,1,1"], place="bybit,BTCUSDT")
    both = gzip.decompress(path.read_bytes()) + f"bybit,BTCUSD,{times(1)},8,sell,2,2\n".encode()
    path.write_bytes(both)
    assert import_tardis.exchanges(path) == ("bybit-linear", "bybit-inverse")
    assert [event["id"] for event in events(path, "bybit-linear")] == ["7"]
    assert [event["symbol"] for event in events(path, "bybit-inverse")] == ["BTCUSD"]


def test_a_symbol_beyond_ascii_then_is_that_symbol_and_what_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, "trades", [f"{times()},7,buy,1,1"], place="binance,币安人生USDT")
    assert [event["symbol"] for event in events(path, "binance")] == ["币安人生USDT"]
    path.write_bytes(gzip.decompress(path.read_bytes()).replace("币".encode(), b"\xff"))
    with pytest.raises(ForeignFileError, match="line 2: not UTF-8"):
        events(path, "binance")


GOOD = f"{times()},7,buy,1,1"
BAD = {
    "torn": (f"{times()},7,buy", "6 cells, the header has 8"),
    "more cells": (f"{times()},7,buy,1,1,1", "9 cells, the header has 8"),
    "ms": (f"{US // 1000},{US // 1000},7,buy,1,1", "local_timestamp is .* not a time in µs"),
    "ns": (f"{US},{US}000,7,buy,1,1", "local_timestamp is .* not a time in µs"),
    "side": (f"{times()},7,bid,1,1", "side is 'bid'"),
    "no price": (f"{times()},7,buy,,1", "price is '', not a number"),
    "NaN": (f"{times()},7,buy,NaN,1", "price is 'NaN', not a number"),
    "hexadecimal": (f"{times()},7,buy,1,0x1", "amount is '0x1', not a number"),
    "other digits": (f"{times()},7,buy,١,1", "price is .* not a number"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_is_not_as_it_should_be_then_is_an_error_with_its_line(tmp_path: Path, name: str) -> None:
    row, what = BAD[name]
    with pytest.raises(ForeignFileError, match=rf"csv\.gz line 3: .*{what}"):
        events(written(tmp_path, "trades", [GOOD, row, GOOD]))


def test_a_file_of_another_exchange_or_symbol_than_was_said_then_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "trades", [GOOD])
    with pytest.raises(ForeignFileError, match="line 2: binance-futures is binance-usdm here, not okx"):
        events(path, "okx")
    with pytest.raises(ForeignFileError, match="line 2: a row of 'BTCUSDT', not of ETHUSDT"):
        events(path, symbol="ETHUSDT")
    path = written(tmp_path, "trades", [GOOD], place="deribit,BTC-PERPETUAL")
    with pytest.raises(ForeignFileError, match="line 2: no exchange 'deribit' is known here: known are binance, "):
        import_tardis.exchanges(path)


def test_a_file_that_is_torn_then_is_an_error_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path, "trades", [GOOD] * 9)
    whole = path.read_bytes()
    path.write_bytes(whole[:-12])
    with pytest.raises(ForeignFileError, match="torn"):
        events(path)
    path.write_bytes(gzip.decompress(whole)[:-1])
    with pytest.raises(ForeignFileError, match="line 10: torn"):
        events(path)


def test_a_file_of_something_else_then_is_an_error_that_says_what_is_known(tmp_path: Path) -> None:
    path = written(tmp_path, "trades", [GOOD])
    other = path.rename(tmp_path / "binance.csv.gz")
    with pytest.raises(ForeignFileError, match="line 1: trades and liquidations have the same columns"):
        import_tardis.exchanges(other)
    for text in ("", "id,price\n1,2\n", f"{FIRST}\n", f"{FIRST},x\n", "\x00\xff\n"):
        path.write_text(text)
        with pytest.raises(ForeignFileError, match=r"line 1: not the header"):
            import_tardis.exchanges(path)
        with pytest.raises(ForeignFileError, match=r"line 1: not the header of a CSV file of tardis\.dev"):
            list(import_tardis.read(path, get("binance-usdm"), None))


@many
@given(st.sampled_from(sorted(HEADERS)), st.text(alphabet='0123456789,.truefalsbidk-\n"\r\x00é', max_size=80))
def test_whatever_stands_in_a_file_then_it_gives_events_or_an_error_with_a_line(
    tmp_path_factory: pytest.TempPathFactory, kind: str, noise: str
) -> None:
    path = written(tmp_path_factory.mktemp("tardis"), kind, [f"{times()},{noise}"])
    try:
        events(path)
    except ForeignFileError as error:
        assert ".csv.gz line " in str(error)
