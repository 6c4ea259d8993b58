"""Exports for hftbacktest: rows in the order of both clocks, raw files as its collector writes them.

Its own converter and its backtester are tried where the package is: CI gives HFTBACKTEST_PYTHON, the Python of an
environment that has it.
"""

import gzip
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.normalise import RECORDING
from common import hftbacktest_rows
from common.client import Client
from common.errors import BadRequestError
from common.events import Event
from common.export_formats import FORMATS
from common.exports import Job, export, planned
from common.hftbacktest_rows import BUY, CLEAR, DEPTH, EXCHANGE, LOCAL, ROW, SELL, SNAPSHOT, TRADE, write_npz
from common.imports import Order, run
from common.record import encode
from tests.archives import FIRST, Archive
from tests.foreign import DAY, HOUR_NS, hftbacktest, market, trade

PYTHON = os.environ.get("HFTBACKTEST_PYTHON", sys.executable)
RECORDED = 8000  # lines: half a minute
BOTH = EXCHANGE | LOCAL

recorded = pytest.mark.skipif(not RECORDING.exists(), reason="../shared/recordings is not here")
installed = pytest.mark.skipif(
    sys.executable == PYTHON and find_spec("hftbacktest") is None,
    reason="hftbacktest is not here: give HFTBACKTEST_PYTHON, a Python that has it",
)


def a_trade(ts_event: int, ts_recv: int, price: str = "100.5", side: str = "buy", **more: Any) -> Event:
    times = {"ts_event": ts_event, "ts_recv": ts_recv}
    return {"channel": "trade", **times, "price": price, "amount": "2", "side": side, **more}


def a_book(ts_event: int | None, ts_recv: int, bids: Any, asks: Any = (), type: str = "delta") -> Event:
    return {"channel": "book", "ts_event": ts_event, "ts_recv": ts_recv, "type": type, "bids": bids, "asks": asks}


def rows_of(path: Path, events: list[Event]) -> Any:
    count = write_npz(events, path)
    found = np.load(path)["data"]
    assert len(found) == count
    return found


def told(rows: Any) -> list[tuple[Any, ...]]:
    """`ev`, both times, price and amount of each row."""
    return [row[:5] for row in rows.tolist()]


def exported(storage: Path, directory: Path, exchange: str, *kinds: str, begin: int | None = None) -> list[Path]:
    with Client(storage=storage) as client:
        jobs = planned(client, FORMATS["hftbacktest"], exchange, ["BTCUSDT"], kinds, begin, None)
        return [done.path for done in export(client, FORMATS["hftbacktest"], jobs, directory)]


def lines_of(path: Path) -> list[bytes]:
    with gzip.open(path) as file:
        return file.read().splitlines()


# -- rows --------------------------------------------------------------------------------------------------------------


def test_npz_when_made_then_has_hftbacktests_type_and_codes(tmp_path: Path) -> None:
    levels = [["100", "1"], ["99", "2"]], [["101", "3"], ["102.5", "4"]]
    events = [
        a_book(50, 60, *levels, type="snapshot"),
        a_trade(51, 61, "101", "sell"),
        a_book(52, 62, [["99", "0"]], [["101", "5"]]),
        {"channel": "gap", "ts_event": None, "ts_recv": 63},
        a_trade(53, 64, type="insurance_fund"),
    ]
    rows = rows_of(tmp_path / "a.npz", events)
    assert rows.dtype == np.dtype(ROW, align=True) and rows.dtype.itemsize == 64
    assert told(rows) == [
        (CLEAR | BUY | BOTH, 50, 60, 99.0, 0.0),
        (SNAPSHOT | BUY | BOTH, 50, 60, 100.0, 1.0),
        (SNAPSHOT | BUY | BOTH, 50, 60, 99.0, 2.0),
        (CLEAR | SELL | BOTH, 50, 60, 102.5, 0.0),
        (SNAPSHOT | SELL | BOTH, 50, 60, 101.0, 3.0),
        (SNAPSHOT | SELL | BOTH, 50, 60, 102.5, 4.0),
        (TRADE | SELL | BOTH, 51, 61, 101.0, 2.0),
        (DEPTH | BUY | BOTH, 52, 62, 99.0, 0.0),
        (DEPTH | SELL | BOTH, 52, 62, 101.0, 5.0),
    ]


def test_row_when_late_at_the_exchange_then_stands_there_once_for_each_clock(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.npz", [a_trade(10, 20, "1"), a_trade(30, 40, "2"), a_trade(25, 50, "3")])
    assert told(rows) == [
        (TRADE | BUY | BOTH, 10, 20, 1.0, 2.0),
        (TRADE | BUY | EXCHANGE, 25, 50, 3.0, 2.0),
        (TRADE | BUY | BOTH, 30, 40, 2.0, 2.0),
        (TRADE | BUY | LOCAL, 25, 50, 3.0, 2.0),
    ]


def test_rows_when_the_exchanges_clock_is_ahead_then_all_are_later_by_one_shift(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.npz", [a_trade(100, 90), a_trade(110, 105), a_trade(120, 200)])
    assert rows["local_ts"].tolist() == [101, 116, 211]


def test_rows_when_our_clock_was_set_back_then_stay_in_their_order(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.npz", [a_trade(10, 90, "1"), a_trade(11, 50, "2"), a_trade(12, 95, "3")])
    assert (rows["local_ts"].tolist(), rows["px"].tolist()) == ([90, 90, 95], [1.0, 2.0, 3.0])


def test_trade_when_right_after_a_book_of_the_same_times_then_stands_before_it(tmp_path: Path) -> None:
    events = [a_book(10, 20, [["99", "1"]]), a_trade(10, 20), a_book(10, 21, [["98", "1"]]), a_trade(10, 22)]
    kinds = rows_of(tmp_path / "a.npz", events)["ev"] & 0xFF
    assert kinds.tolist() == [TRADE, DEPTH, DEPTH, TRADE]


def test_book_when_it_has_no_time_then_stands_between_the_delta_before_and_after_it(tmp_path: Path) -> None:
    whole = a_book(None, 70, [["99", "1"]], type="snapshot")
    for before, trade_ts, after, expected in ((10, 49, 50, 39), (45, 49, 50, 45), (10, 49, 30, 30)):
        events = [a_book(before, 60, [["98", "1"]]), whole, a_trade(trade_ts, 80), a_book(after, 90, [["97", "1"]])]
        rows = rows_of(tmp_path / "a.npz", events)
        assert rows[rows["px"] == 99.0]["exch_ts"].tolist()[0] == expected


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5), st.booleans()), max_size=60))
def test_rows_when_in_any_disorder_then_each_counts_once_in_each_clock_in_order(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, bool]]
) -> None:
    """With chunks and runs of some rows, so that what is sorted on disk is sorted in many parts."""
    here, events = 100, []
    for number, (exch, pause, is_trade) in enumerate(drawn):
        here += pause
        price = str(number + 1)
        events.append(a_trade(exch, here, price) if is_trade else a_book(exch, here, [[price, "2"]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hftbacktest_rows, "_CHUNK", 4)
        patch.setattr(hftbacktest_rows, "_RUN", 2)
        rows = rows_of(tmp_path_factory.mktemp("rows") / "a.npz", events)
    asked = list(hftbacktest_rows._trades_first(hftbacktest_rows._timed(events)))
    expected = [(exch, local, each.get("price") or each["bids"][0][0]) for exch, local, each in asked]
    found = [(int(row["exch_ts"]), int(row["local_ts"]), str(int(row["px"]))) for row in rows]
    flags = (rows["ev"] & BOTH).tolist()
    assert [row for row, flag in zip(found, flags, strict=True) if flag & LOCAL] == expected
    assert [row for row, flag in zip(found, flags, strict=True) if flag & EXCHANGE] == sorted(
        expected, key=lambda row: row[0]
    )
    late = sum(any(exch > row[0] for exch, *_ in expected[:place]) for place, row in enumerate(expected))
    assert len(rows) == len(expected) + late


def test_npz_when_made_twice_then_is_the_same_to_the_byte(tmp_path: Path) -> None:
    run(Order("hftbacktest", [hftbacktest(tmp_path / "a.gz", market(DAY, 400, HOUR_NS))], tmp_path / "storage"))
    for kind in ("npz", "raw"):
        (one,) = exported(tmp_path / "storage", tmp_path / "one", "binance", kind)
        (other,) = exported(tmp_path / "storage", tmp_path / "other", "binance", kind)
        assert one.read_bytes() == other.read_bytes()
        assert one.relative_to(tmp_path / "one") == Path(f"binance/btcusdt_20240809.{'gz' if kind == 'raw' else kind}")


# -- raw files ---------------------------------------------------------------------------------------------------------


@recorded
def test_raw_when_exported_then_is_what_the_collector_recorded(tmp_path: Path) -> None:
    """Over midnight: the first lines of a day follow the last ones of the day before."""
    before = RECORDING.with_name("spot-btcusdt-20240808.gz"), RECORDING.with_name("spot-btcusdt-20240809.gz")
    for path in before:
        with gzip.open(path) as file:
            (tmp_path / path.name).write_bytes(gzip.compress(b"".join(islice(file, 3000)), 1))
    run(Order("hftbacktest", [tmp_path / path.name for path in before], tmp_path / "storage"))
    after = exported(tmp_path / "storage", tmp_path / "out", "binance", "raw")
    assert [path.name for path in after] == ["btcusdt_20240808.gz", "btcusdt_20240809.gz"]
    assert [lines_of(path) for path in after] == [lines_of(tmp_path / path.name) for path in before]


def test_raw_when_two_connections_overlap_then_has_each_frame_once(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "storage")
    archive.begin()
    came = [(1, 5), (1, 6), (2, 6), (2, 7), (1, 7), (1, 8), (2, 8), (2, 9)]  # connection, id of the trade
    for seq, (conn, number) in enumerate(came, FIRST + 1):
        ts, payload = trade(DAY + seq, number)
        archive.take([encode(seq, ts, "in", conn=conn, channel="trade", symbol="BTCUSDT", payload=payload)])
    archive.close()
    (path,) = exported(tmp_path / "storage", tmp_path / "out", "binance", "raw")
    assert [orjson.loads(line[20:])["data"]["t"] for line in lines_of(path)] == [5, 6, 7, 8, 9]


def test_raw_when_the_exchange_told_microseconds_then_has_milliseconds(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "storage")
    archive.begin()
    data = b'{"e":"trade","E":%d,"s":"BTCUSDT","t":7,"p":"1.10","q":"2.0","T":%d,"m":true}'
    payload = b'{"stream":"btcusdt@trade","data":' + data + b"}"
    frame = payload % (DAY // 1000 + 123_456, DAY // 1000 + 123_001)
    archive.take([encode(FIRST + 1, DAY, "in", conn=1, channel="trade", symbol="BTCUSDT", payload=frame)])
    archive.close()
    (path,) = exported(tmp_path / "storage", tmp_path / "out", "binance", "raw")
    assert lines_of(path) == [b"%d " % DAY + payload % (DAY // 10**6 + 123, DAY // 10**6 + 123)]


def test_raw_when_asked_of_another_exchange_then_says_what_there_is(tmp_path: Path) -> None:
    job = Job("kraken", "BTC/USD", "raw", DAY, DAY + HOUR_NS)
    with Client(storage=tmp_path) as client, pytest.raises(BadRequestError, match="ask kraken for --kinds npz"):
        FORMATS["hftbacktest"].write(client, job, tmp_path / "a.gz")
    assert not (tmp_path / "a.gz").exists()


# -- hftbacktest itself ------------------------------------------------------------------------------------------------


@recorded
@installed
@pytest.mark.parametrize(("exchange", "recording"), [("binance-usdm", "usdm-btcusdt"), ("binance", "spot-btcusdt")])
def test_npz_when_hftbacktest_runs_it_then_it_is_its_converters_and_shows_the_books_that_were(
    exchange: str, recording: str, tmp_path: Path
) -> None:
    """From a moment on at which the book is known: what came before it, its converter takes for a book too."""
    with gzip.open(RECORDING.with_name(f"{recording}-20240808.gz")) as file:
        lines = list(islice(file, RECORDED))
    (tmp_path / "btcusdt.gz").write_bytes(gzip.compress(b"".join(lines), 1))
    run(Order("hftbacktest", [tmp_path / "btcusdt.gz"], tmp_path / "storage"))
    begin = int(lines[RECORDED // 4][:19])
    npz, raw = exported(tmp_path / "storage", tmp_path / "out", exchange, "npz", "raw", begin=begin)
    sizes = ("0.1", "0.001") if exchange == "binance-usdm" else ("0.01", "0.00001")
    ran = subprocess.run([PYTHON, "-c", DRIVER, npz, raw, *sizes], stdout=subprocess.PIPE, check=True)
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["same"] and told["position"] == 0.001 and len(told["seen"]) >= 20
    with Client(storage=tmp_path / "storage") as client:
        events = list(client.slice(exchange, "BTCUSDT", ["trade", "book"], begin).events())
    shift = told["first"] - events[1]["ts_recv"]
    moments = [ts - shift for ts, *_ in told["seen"]]
    assert [seen for _, *seen in told["seen"]] == list(looked_at(events, moments, Decimal(sizes[0])))


def looked_at(events: list[Event], moments: list[int], tick: Decimal) -> Iterator[list[int]]:
    """The best prices at some moments, in ticks, and how many trades there were since the moment before."""
    sides: tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]] = {}, {}
    left = deque(events)
    for moment in moments:
        trades = 0
        while left and left[0]["ts_recv"] <= moment:
            event = left.popleft()
            trades += event["channel"] == "trade"
            for side, levels in zip(sides, (event["bids"], event["asks"]), strict=True) if "bids" in event else ():
                side.update((Decimal(price), Decimal(amount)) for price, amount in levels)
        bids, asks = ([price for price, amount in side.items() if amount] for side in sides)
        yield [int(max(bids) / tick), int(min(asks) / tick), trades]


DRIVER = """
import gzip, json, sys
import numpy as np
from hftbacktest import GTC, LIMIT, BacktestAsset, HashMapMarketDepthBacktest
from hftbacktest.data import correct_event_order, correct_local_timestamp, validate_event_order
from hftbacktest.data.utils import binancefutures
from hftbacktest.types import BUY_EVENT, DEPTH_EVENT, SELL_EVENT, TRADE_EVENT, event_dtype
from numba import njit

npz, raw, tick, lot = sys.argv[1:]

def spot():
    rows = []
    for line in gzip.open(raw):
        ts, data = int(line[:19]), json.loads(line[20:]).get("data", {})
        if data.get("e") == "trade":
            side = SELL_EVENT if data["m"] else BUY_EVENT
            rows.append((TRADE_EVENT | side, data["T"] * 10**6, ts, float(data["p"]), float(data["q"]), 0, 0, 0))
        for side, levels in ((BUY_EVENT, data["b"]), (SELL_EVENT, data["a"])) if data.get("e") == "depthUpdate" else ():
            rows += [(DEPTH_EVENT | side, data["E"] * 10**6, ts, float(p), float(q), 0, 0, 0) for p, q in levels]
    rows = correct_local_timestamp(np.array(rows, event_dtype), 1)
    orders = [np.argsort(rows[clock], kind="stable") for clock in ("exch_ts", "local_ts")]
    return correct_event_order(rows, *orders)

@njit
def look(backtest, seen):
    count = 0
    while count < len(seen) and backtest.elapse(1_000_000_000) == 0:
        depth = backtest.depth(0)
        seen[count] = backtest.current_timestamp, depth.best_bid_tick, depth.best_ask_tick, len(backtest.last_trades(0))
        backtest.clear_last_trades(0)
        if count == 5:
            backtest.submit_buy_order(0, 1, depth.best_ask * 1.01, 0.001, GTC, LIMIT, False)
        count += 1
    return count

ours = np.load(npz)["data"]
validate_event_order(ours)
theirs = binancefutures.convert(raw, base_latency=1, buffer_size=1_000_000) if tick == "0.1" else spot()
began = int(np.argmax(ours["ev"] & 0xFF < 3))  # after the book before it
asset = BacktestAsset().data([npz]).linear_asset(1.0).constant_order_latency(10**6, 10**6)
asset = asset.risk_adverse_queue_model().no_partial_fill_exchange().trading_value_fee_model(0.0002, 0.0007)
asset = asset.tick_size(float(tick)).lot_size(float(lot)).last_trades_capacity(10_000)
backtest = HashMapMarketDepthBacktest([asset])
seen = np.zeros((60, 4), np.int64)
count = look(backtest, seen)
print(json.dumps({
    "same": bool(len(ours) - began == len(theirs) and (ours[began:] == theirs).all()),
    "seen": seen[:count].tolist(), "position": backtest.position(0),
    "first": int(ours["local_ts"][began]),
}))
"""
