"""An exchange whose ids run back: for as long as a repetition may last nothing is told twice, then it is a gap."""

from collections.abc import Callable
from typing import Any

import orjson

from common import exchanges
from common.events import body
from common.normaliser import Normaliser
from common.record import Record, decode, encode
from common.topic import REPEAT_NS
from tests.pipeline import Live, Pipeline, events_of, until
from tests.record_logs import trade_frame
from tests.standin_client import Standin

SECOND = 10**9
KRAKEN_TIME = "2026-08-01T12:00:00.000000Z"


def kraken_frame(*ids: int) -> dict[str, Any]:
    trade = {"symbol": "AAA/USD", "side": "buy", "price": 1, "qty": 1, "ord_type": "limit", "timestamp": KRAKEN_TIME}
    return {"channel": "trade", "type": "update", "data": [{**trade, "trade_id": number} for number in ids]}


class Run:
    """Records of one symbol with the time of each, in seconds, and the events they give."""

    def __init__(self, exchange: str, symbol: str) -> None:
        self.adapter, self.symbol = exchanges.get(exchange), symbol
        self.normaliser, self.records = Normaliser(self.adapter), list[Record]()
        self.events: list[dict[str, Any]] = []
        subscriptions = {"symbols": [symbol], "channels": ["trade"]}
        self.take(0.0, "start", payload=orjson.dumps({"subscriptions": subscriptions}))

    def take(self, second: float, kind: str, **record: Any) -> None:
        self.records.append(decode(encode(len(self.records) + 1, round(second * SECOND), kind, **record)))
        self.events += [orjson.loads(body(message)) for message in self.normaliser.messages(self.records[-1])]

    def frame(self, second: float, conn: int, frame: dict[str, Any]) -> None:
        self.take(second, "in", conn=conn, payload=orjson.dumps(frame))

    def checkpoint(self, second: float) -> None:
        self.take(second, "checkpoint", symbol=self.symbol, payload=self.normaliser.checkpoint(self.symbol))

    def ids(self) -> list[int]:
        return [int(event["id"]) for event in self.events if event["channel"] == "trade"]

    def gaps(self) -> list[tuple[str, str]]:
        return [(event["state"], event["reason"]) for event in self.events if event["channel"] == "gap"]


def test_ids_that_run_back_at_a_new_connection_are_a_gap_and_go_on_after_the_time_of_a_repetition() -> None:
    """A generated market that began anew: 269 frames gave no event, and the feed would have dropped 10,000."""
    run = Run("binance", "AAA")
    for number in range(1000, 1100):
        run.frame(number / 100, 1, trade_frame("AAA", number))
    run.take(11.0, "close", conn=1)
    for second in range(60):
        run.frame(12.0 + second, 2, trade_frame("AAA", 500 + second))
        if second == 20:
            run.checkpoint(32.5)
    wait_s = REPEAT_NS // SECOND + 1
    assert run.ids() == [*range(1000, 1100), *range(500 + wait_s, 560)]
    assert run.gaps() == [("open", "disconnected"), ("closed", "disconnected")]
    closed = [event for event in run.events if event["channel"] == "gap"][-1]
    assert (closed["ts_from"], closed["ts_to"]) == (round(10.99 * SECOND), (12 + wait_s) * SECOND)
    place = next(index for index, record in enumerate(run.records) if record.kind == "checkpoint")
    later = Normaliser(run.adapter).all_messages(run.records[place:])
    assert [orjson.loads(body(message)) for message in later] == run.events[-len(later) :] and len(later) > 20


def test_a_connection_that_lags_for_long_tells_nothing_twice() -> None:
    run = Run("binance", "AAA")
    for number in range(1, 101):
        run.frame(number / 10, 1, trade_frame("AAA", number))
    run.take(10.5, "close", conn=1)
    for number in range(1, 151):
        run.frame(11 + number / 10, 2, trade_frame("AAA", number))
    assert run.ids() == list(range(1, 151))


def test_what_each_subscription_begins_with_again_is_a_repetition_whenever_it_comes() -> None:
    """Kraken's subscription begins with the last trades: asked for again each hour of a quiet market, or a busy one."""
    run = Run("kraken", "AAA/USD")
    run.frame(1.0, 1, kraken_frame(*range(1, 51)))
    for hour in range(1, 5):
        run.frame(3600.0 * hour, 1, kraken_frame(*range(1, 50)))
    for number in range(51, 101):
        run.frame(20_000.0 + number, 1, kraken_frame(number))
    run.frame(20_200.0, 1, kraken_frame(*range(60, 101)))
    assert run.ids() == list(range(1, 101)) and not run.gaps()


def test_times_that_run_back_on_the_connection_that_takes_over_are_a_gap_too() -> None:
    """Bybit's trades are in the order of a number that only grows."""
    run = Run("bybit-linear", "AAAUSDT")

    def frame(number: int) -> dict[str, Any]:
        trade = {
            "T": 1,
            "s": "AAAUSDT",
            "S": "Buy",
            "v": "1",
            "p": "1",
            "L": "PlusTick",
            "i": f"i{number}",
            "BT": False,
        }
        return {"topic": "publicTrade.AAAUSDT", "type": "snapshot", "ts": 1, "data": [{**trade, "seq": number}]}

    run.frame(1.0, 1, frame(1000))
    run.frame(1.0, 2, frame(1000))
    run.take(2.0, "switch", conn=2, head={"from": 1})
    for second in range(60):
        run.frame(3.0 + second, 2, frame(500 + second))
    assert len(run.events) > 20 and run.gaps() == [("open", "times ran back"), ("closed", "times ran back")]


def test_a_generated_market_that_is_started_again_goes_on_above_the_ids_that_are_archived(
    make: Callable[..., Pipeline], live: Callable[[Pipeline], Live]
) -> None:
    """As Ctrl-C and `make run` again: its ids began anew, and the feed dropped its trades as repetitions."""
    arguments = ("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "100")
    pipeline = make(*arguments)

    def trades(since: int) -> list[int]:
        messages = [each for each in subscriber.messages[since:] if each.startswith(b"binance/trade/BTCUSDT ")]
        return [int(event["id"]) for event in events_of(messages)]

    subscriber = live(pipeline)
    pipeline.start()
    until(lambda: len(trades(0)) > 20, "trades come")
    pipeline.wait_archived()
    pipeline.stop()
    pipeline.standin.stop()
    before, since = trades(0), len(subscriber.messages)
    pipeline.standin = Standin(*arguments)
    pipeline.start()
    until(lambda: len(trades(since)) > 20, "trades come again", 20.0)
    sent = orjson.loads(pipeline.standin.get("/api/v3/trades", symbol="BTCUSDT", limit=1000).data)
    pipeline.stop()
    assert min(trade["id"] for trade in sent) > max(before) and min(trades(since)) > max(before)
