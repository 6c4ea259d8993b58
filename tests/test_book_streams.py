"""One stream feeds a book, the deepest, in recordings that hold several streams of one symbol's book."""

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from common import exchanges
from common.client import Client
from common.events import Action
from common.import_hftbacktest import read
from common.imports import Order, run
from common.normaliser import Normaliser
from common.record import decode, encode
from tests.test_book import CASES, records

DEPTHS = {"hftbacktest-bybit-depth-50-and-200.gz": 200, "hftbacktest-bybit-depth-500-of-2024.gz": 500}


def events_of(exchange: str, lines: list[bytes], *, checkpoint: bool = False) -> list[dict[str, Any]]:
    """The events of record lines; with `checkpoint`, the state goes through a checkpoint after each record."""
    normaliser, found = Normaliser(exchanges.get(exchange)), []
    for line in lines:
        record = decode(line)
        found += [event for _, event in normaliser.record(record)]
        if checkpoint and normaliser.symbols:
            (symbol,) = normaliser.symbols
            payload = normaliser.checkpoint(symbol)
            normaliser = Normaliser(exchanges.get(exchange))
            normaliser.record(decode(encode(record.seq, record.ts_recv, "checkpoint", symbol=symbol, payload=payload)))
    assert not normaliser.errors
    return found


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("depths", [(50, 200), (50, 1000), (200, 1000), (50, 500)])
@pytest.mark.parametrize("deepest_first", [False, True])
def test_two_depths_make_one_book_without_a_gap(depths: tuple[int, int], deepest_first: bool, checkpoint: bool) -> None:
    lines = records("two-depths-bybit.jsonl")
    if deepest_first:
        lines[2], lines[3] = lines[3], lines[2]
    names = {50: b"orderbook.%d" % depths[0], 200: b"orderbook.%d" % depths[1]}
    lines = [line.replace(b"orderbook.200", b"orderbook.deep").replace(b"orderbook.50", names[50]) for line in lines]
    lines = [line.replace(b"orderbook.deep", names[200]) for line in lines]
    found = events_of("bybit-linear", lines, checkpoint=checkpoint)
    assert {event["channel"] for event in found} == {"book"}
    assert [event["last_id"] for event in found] == ["5000"] * (not deepest_first) + [str(n) for n in range(900, 906)]


def test_after_a_close_the_next_snapshot_of_any_depth_begins_the_book() -> None:
    lines = records("two-depths-bybit.jsonl")
    seq = orjson.loads(lines[-1])["seq"]
    lines.append(encode(seq + 1, seq + 1, "close", conn=1))
    again = orjson.loads(lines[2]) | {"seq": seq + 2, "conn": 2}
    found = events_of("bybit-linear", [*lines, orjson.dumps(again) + b"\n"])
    assert [event["state"] for event in found if event["channel"] == "gap"] == ["open", "closed"]
    last = [event for event in found if event["channel"] == "book"][-1]
    assert last["last_id"] == "5000" and last["type"] == "snapshot"


@pytest.mark.parametrize("symbol", [None, "BTCUSDT"])
@pytest.mark.parametrize("name", DEPTHS)
def test_hftbacktest_recordings_of_bybit_give_trades_and_the_deepest_book(
    name: str, symbol: str | None, tmp_path: Path
) -> None:
    if not (CASES / name).exists():
        pytest.skip(f"{CASES / name} is not here")
    run(Order("hftbacktest", [CASES / name], tmp_path, "bybit-linear", symbol))
    found = list(Client(storage=tmp_path).slice("bybit-linear", ["BTCUSDT"], channels=["trade", "book", "gap"]))
    kinds = Counter((event["channel"], event.get("type"), event.get("state")) for event in found)
    assert kinds["trade", None, None] == 10 and not kinds["gap", None, "closed"]
    books = [event for event in found if event["channel"] == "book"]
    deltas = [event for event in books if event["type"] == "delta"]
    assert len(deltas) > 50 and all(int(event["last_id"]) < 5000 for event in deltas), "those of the deeper stream"


@pytest.mark.parametrize("exchange", exchanges.names())
def test_a_symbol_given_for_hftbacktest_never_ends_in_a_traceback(exchange: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(b'1722956500010000000 {"a":1}\n')
    (item,) = read(path, exchanges.get(exchange), "BTC/USDT")
    assert item.payload == b'{"a":1}'


def test_partial_books_of_futures_are_no_deltas_of_the_book() -> None:
    adapter = exchanges.get("binance-usdm")
    data = {"e": "depthUpdate", "E": 1, "T": 1, "s": "BTCUSDT", "U": 3, "u": 4, "pu": 2, "b": [], "a": []}
    for stream, is_book in {
        "depth": 1,
        "depth@100ms": 1,
        "depth@0ms": 1,
        "depth20@100ms": 0,
        "rpiDepth@500ms": 0,
    }.items():
        update = adapter.parse({"stream": f"btcusdt@{stream}", "data": data})
        assert (update is not None) == bool(is_book)
    assert adapter.parse(data) is not None


@pytest.mark.parametrize("exchange", ["binance", "binance-usdm"])
@pytest.mark.parametrize("first", ["depth", "depth@100ms"])
def test_two_speeds_of_one_book_are_one_stream_each_the_first_counts(exchange: str, first: str) -> None:
    """The slower one's changes ended below those of the faster one: the book was lost again and again."""
    adapter = exchanges.get(exchange)
    start = {"subscriptions": {"symbols": ["BTCUSDT"], "channels": ["book"]}}
    lines = [encode(1, 1, "start", payload=orjson.dumps(start))]

    def delta(stream: str, begin: int, end: int) -> None:
        data = {"e": "depthUpdate", "E": 1, "T": 1, "s": "BTCUSDT", "U": begin, "u": end, "pu": begin - 1}
        payload = orjson.dumps({"stream": f"btcusdt@{stream}", "data": {**data, "b": [["1.0", str(end)]], "a": []}})
        lines.append(encode(len(lines) + 1, 1, "in", conn=1, channel="book", symbol="BTCUSDT", payload=payload))

    other = "depth@100ms" if first == "depth" else "depth"
    delta(first, 1, 10)
    snapshot = {"lastUpdateId": 10, "bids": [["1.0", "1"]], "asks": [["2.0", "1"]], "E": 1, "T": 1}
    head = {"url": adapter.request(Action("snapshot", "book", "BTCUSDT"), 1000).path, "status": 200}
    place = {"channel": "book", "symbol": "BTCUSDT"}
    lines.append(encode(len(lines) + 1, 1, "rest", head=head, payload=orjson.dumps(snapshot), **place))
    for stream, begin, end in ((other, 1, 12), (first, 11, 20), (other, 13, 15), (first, 21, 30)):
        delta(stream, begin, end)
    for checkpoint in (False, True):
        events = events_of(exchange, lines, checkpoint=checkpoint)
        assert [event["last_id"] for event in events if event["channel"] == "book"][-2:] == ["20", "30"]
        assert not [event for event in events if event["channel"] == "gap"]
