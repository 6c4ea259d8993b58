"""What a subscription begins with may have been told before: it is told once, and a loss is still a gap."""

from typing import Any

import orjson
import pytest

from common import exchanges
from common.normaliser import Normaliser
from common.record import decode, encode
from tests.exchange_runs import Run

OKX, ADVANCED = exchanges.get("okx"), exchanges.get("coinbase-advanced")
SWAP = "BTC-USDT-SWAP"


def liquidated(*sold: tuple[int, str]) -> bytes:
    """A frame of forced orders, each with its time in ms and its amount."""
    details = [{"bkPx": "100", "side": "sell", "sz": amount, "ts": str(ms)} for ms, amount in sold]
    data = {"details": details, "instId": SWAP, "instType": "SWAP"}
    return orjson.dumps({"arg": {"channel": "liquidation-orders", "instType": "SWAP"}, "data": [data]})


def amounts(run: Run) -> list[str]:
    return [event["amount"] for event in run.of("liquidation")]


def test_a_liquidation_that_each_new_connection_repeats_is_told_once() -> None:
    run = Run(OKX, SWAP)
    for conn in (1, 2, 3):
        run.take(liquidated((1000, "1"), (1000, "2")), conn)
        run.close(conn)
    assert amounts(run) == ["1", "2"]
    assert run.gaps() == [("open", "disconnected"), ("closed", "disconnected")] * 2 + [("open", "disconnected")]


def test_a_new_liquidation_in_the_first_frame_of_a_connection_is_told() -> None:
    run = Run(OKX, SWAP)
    run.take(liquidated((1000, "1"), (900, "2")))
    run.close(1)
    run.take(liquidated((1000, "1"), (900, "2")), 2)
    run.take(liquidated((1000, "3"), (1001, "1")), 2)
    assert amounts(run) == ["2", "1", "3", "1"]


def test_orders_that_are_alike_in_one_frame_are_each_told() -> None:
    run = Run(OKX, SWAP)
    run.take(liquidated((1000, "1"), (1000, "1")))
    run.close(1)
    run.take(liquidated((1000, "1"), (1000, "1")), 2)
    assert amounts(run) == ["1", "1"]


def test_a_connection_that_takes_over_repeats_nothing() -> None:
    """Make before break: the fresh connection begins with what the live one has told."""
    run = Run(OKX, SWAP)
    run.take(liquidated((1000, "1")))
    run.take(liquidated((1000, "1")), 2)
    run.take(liquidated((2000, "2")), 2)
    run.close(1)
    run.close(2)
    run.take(liquidated((2000, "2")), 3)
    assert amounts(run) == ["1", "2"]


def test_a_run_after_a_restart_repeats_nothing_that_the_run_before_has_told() -> None:
    normaliser = Normaliser(OKX)  # type: ignore[arg-type]  # a namespace of all that an Adapter has
    owed = {"ts": 1, "topics": {SWAP: {"liquidation": 1000 * 10**6}}}
    start = {"subscriptions": {"symbols": [SWAP], "channels": ["liquidation"]}, "owed": owed}
    lines = [
        encode(1, 1, "start", payload=orjson.dumps(start), head={"last": 0}),
        encode(2, 2, "in", conn=1, payload=liquidated((1000, "1"))),
        encode(3, 3, "in", conn=1, payload=liquidated((1001, "2"))),
    ]
    told = [orjson.loads(each.partition(b" ")[2]) for line in lines for each in normaliser.messages(decode(line))]
    assert [event["amount"] for event in told if event["channel"] == "liquidation"] == ["2"]


def candles(kind: str, second: int, *started: tuple[int, str], number: int = 0) -> bytes:
    """A frame of candles, each with the second at which it begins and its close."""
    told: list[dict[str, Any]] = [
        {"start": str(start), "high": "1", "low": "1", "open": "1", "close": close, "volume": "1",
         "product_id": "BTC-USD"} for start, close in started
    ]  # fmt: skip
    stamp = f"1970-01-01T00:{second // 60:02}:{second % 60:02}Z"
    events = [{"type": kind, "candles": told}]
    return orjson.dumps({"channel": "candles", "timestamp": stamp, "sequence_num": number, "events": events})


def test_candles_that_a_subscription_begins_with_are_told_only_where_they_are_news() -> None:
    """The last hundred came again with each connection. What ended while there was none is news."""
    run = Run(ADVANCED, "BTC-USD")
    run.take(candles("snapshot", 700, (600, "a"), (300, "b"), (0, "c")))
    run.take(candles("update", 710, (600, "d")))
    run.close(1)
    run.take(candles("snapshot", 1300, (1200, "g"), (900, "f"), (600, "e"), (300, "b"), (0, "c")), 2)
    run.close(2)
    assert "".join(event["close"] for event in run.of("candle")) == "cbadefg"


@pytest.mark.parametrize("exchange", exchanges.names())
def test_each_channel_that_may_be_repeated_is_offered(exchange: str) -> None:
    adapter = exchanges.get(exchange)
    assert set(adapter.CHANNELS) >= adapter.REPEATS
