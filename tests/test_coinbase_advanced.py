"""Coinbase Advanced Trade: what its frames mean, that a lost message is noticed, that nothing it sends does harm."""

import json
from collections import Counter
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.adapter import Adapter
from common.events import GAP, Action, Event, Reply, Update
from common.exchanges import coinbase_advanced, coinbase_advanced_standin
from common.foreign_recording import REST
from tests.coinbase_run import Run, payloads, recorded, told
from tests.test_coinbase import ODD

ADAPTER = cast(Adapter, exchanges.get("coinbase-advanced"))
RECORDING = "coinbase-advanced/all.jsonl.gz"
TIME = 1786309548228568804  # 2026-08-09T21:05:48.228568804Z
EVENT_TIME = 1786309548170326000
FOLLOWED = ("trade", "book", "quote", "ticker", "candle")


def frame(channel: str, number: int, *events: dict[str, Any]) -> bytes:
    envelope = {"channel": channel, "timestamp": "2026-08-09T21:05:48.228568804Z", "sequence_num": number}
    return orjson.dumps({**envelope, "events": events})


def trade(number: int, product: str = "BTC-USD") -> dict[str, Any]:
    return {
        "product_id": product, "trade_id": str(number), "price": "65083.67", "size": "0.01034361",
        "time": "2026-08-09T21:05:48.170326Z", "side": "SELL",
    }  # fmt: skip


def trades(number: int, *ids: int, kind: str = "update") -> bytes:
    return frame("market_trades", number, {"type": kind, "trades": [trade(each) for each in ids]})


def levels(product: str = "BTC-USD", kind: str = "update", **amounts: str) -> dict[str, Any]:
    time = "2026-08-09T21:05:48.170326Z"
    updates = [
        {"side": side, "event_time": time, "price_level": price, "new_quantity": amount}
        for side, price, amount in (("bid", "65083.66", amounts.get("bid")), ("offer", "65083.70", amounts.get("ask")))
        if amount is not None
    ]
    return {"type": kind, "product_id": product, "updates": updates}


def ticker(product: str = "BTC-USD") -> dict[str, Any]:
    return {
        "type": "ticker", "product_id": product, "price": "65086.18", "volume_24_h": "2867.54532609",
        "low_24_h": "64675.22", "high_24_h": "65252.99", "best_bid": "65083.66", "best_ask": "65083.67",
        "best_bid_quantity": "0", "best_ask_quantity": "",
    }  # fmt: skip


def candle(start: int, product: str = "BTC-USD") -> dict[str, Any]:
    return {
        "start": str(start), "high": "1919.6", "low": "1919.27", "open": "1919.58", "close": "1919.41",
        "volume": "36.36630914", "product_id": product,
    }  # fmt: skip


TRADES = trades(9, 7, 6)
BOOK = frame("l2_data", 14, levels(bid="0.00583", ask="0"))
BEGIN = frame("l2_data", 13, levels(kind="snapshot", bid="1.0", ask="2.0"))
TICKER = frame("ticker", 6, {"type": "snapshot", "tickers": [ticker()]})
CANDLES = frame("candles", 3, {"type": "snapshot", "candles": [candle(1786309800), candle(1786309500)]})
BEAT = frame("heartbeats", 35, {"current_time": "2026-08-09 21:05:48 +0000 UTC m=+1.2", "heartbeat_counter": 41691})
ACK = frame("subscriptions", 24, {"subscriptions": {"heartbeats": ["heartbeats"], "level2": ["BTC-USD", "ETH-USD"]}})
ERROR = b'{"type":"error","message":"something"}'
PRODUCT = {
    "product_id": "BTC-USD", "base_currency_id": "BTC", "quote_currency_id": "USD", "alias": "", "status": "online",
    "price_increment": "0.01", "base_increment": "0.00000001", "product_type": "SPOT", "trading_disabled": False,
}  # fmt: skip


def parsed(payload: bytes) -> Any:
    return ADAPTER.parse(orjson.loads(payload))


def test_trades_come_in_the_order_of_their_ids_and_the_side_sent_is_the_makers() -> None:
    first, second = parsed(TRADES)
    fields = {"id": "6", "price": "65083.67", "amount": "0.01034361", "side": "buy"}
    assert first == Update("trade", "BTC-USD", 6, 6, EVENT_TIME, fields)
    assert (second.fields["id"], second.last) == ("7", 7)
    assert parsed(trades(1, 2**63)) is parsed(trades(1, -1)) is parsed(trades(1)) is None
    assert parsed(TRADES.replace(b"SELL", b"HOLD")) is None


def test_a_delta_has_asks_that_are_called_offers_and_zeros() -> None:
    fields = {"type": "delta", "bids": [["65083.66", "0.00583"]], "asks": [["65083.70", "0"]]}
    assert parsed(BOOK) == Update("book", "BTC-USD", EVENT_TIME, EVENT_TIME, EVENT_TIME, fields)
    assert parsed(BEGIN).fields["type"] == "snapshot"
    untimed = BOOK.replace(b"2026-08-09T21:05:48.170326Z", b"1970-01-01T00:00:00Z")
    assert parsed(untimed).ts_event == TIME
    assert parsed(BOOK.replace(b"offer", b"ask")) is parsed(BOOK.replace(b'"0"', b"0")) is None


def test_several_events_and_products_in_one_frame_are_all_told() -> None:
    run = Run("coinbase-advanced", "BTC-USD", "ETH-USD")
    both = frame("l2_data", 0, levels(kind="snapshot", bid="1"), levels("ETH-USD", "snapshot", bid="2"))
    events = run.frames(1, both)
    assert [(event["symbol"], event["bids"]) for event in events] == [
        ("BTC-USD", [["65083.66", "1"]]), ("ETH-USD", [["65083.66", "2"]]),
    ]  # fmt: skip
    mixed = [{"type": "update", "trades": [trade(9, "ETH-USD"), trade(4)]}, {"type": "update", "trades": [trade(3)]}]
    events = run.frames(1, frame("market_trades", 1, *mixed))
    assert [(event["symbol"], event["id"]) for event in events] == [
        ("BTC-USD", "3"), ("BTC-USD", "4"), ("ETH-USD", "9"),
    ]  # fmt: skip


def test_a_ticker_is_a_quote_too_and_what_is_missing_is_not_zero() -> None:
    quote, told_ = parsed(TICKER)
    assert (quote.channel, quote.last, quote.ts_event, told_.channel) == ("quote", TIME, TIME, "ticker")
    assert quote.fields == {
        "bid_price": "65083.66", "bid_amount": "0", "ask_price": "65083.67", "ask_amount": None,
    }  # fmt: skip
    assert told_.fields == {
        "last": "65086.18", "open": None, "high": "65252.99", "low": "64675.22", "volume": "2867.54532609",
        "quote_volume": None,
    }  # fmt: skip


def test_candles_are_of_five_minutes_and_in_order() -> None:
    first, second = parsed(CANDLES)
    assert first.fields == {
        "interval": "5m", "open_ts": 1786309500 * 10**9, "close_ts": None, "open": "1919.58", "high": "1919.6",
        "low": "1919.27", "close": "1919.41", "volume": "36.36630914", "quote_volume": None, "trades": None,
        "closed": None,
    }  # fmt: skip
    assert second.fields["open_ts"] == 1786309800 * 10**9 and first.ts_event == TIME


def test_streams_and_frames_are_the_documented_ones() -> None:
    names = ADAPTER.streams("BTC-USD", list(coinbase_advanced.CHANNELS), ["5m"])
    assert names == {
        "market_trades:BTC-USD": ("trade", "BTC-USD"),
        "level2:BTC-USD": ("book", "BTC-USD"),
        "ticker:BTC-USD": ("quote", "BTC-USD"),
        "candles:BTC-USD": ("candle", "BTC-USD"),
    }
    assert ADAPTER.subscribe(["level2:BTC-USD", "ticker:BTC-USD", "level2:ETH-USD"], 7) == [
        b'{"type":"subscribe","channel":"heartbeats"}',
        b'{"type":"subscribe","product_ids":["BTC-USD","ETH-USD"],"channel":"level2"}',
        b'{"type":"subscribe","product_ids":["BTC-USD"],"channel":"ticker"}',
    ]
    assert ADAPTER.unsubscribe(["level2:BTC-USD"], 8) == [
        b'{"type":"unsubscribe","product_ids":["BTC-USD"],"channel":"level2"}'
    ]


def test_acks_errors_and_heartbeats_are_told_apart() -> None:
    names = ("heartbeats:heartbeats", "level2:BTC-USD", "level2:ETH-USD")
    assert ADAPTER.reply(orjson.loads(ACK)) == Reply(None, None, names)
    assert ADAPTER.reply(orjson.loads(ERROR)) == Reply(None, "something")
    beat = ADAPTER.reply(orjson.loads(BEAT))
    assert beat is not None and isinstance(beat.id, str) and beat.error is None  # it answers nothing
    assert ADAPTER.reply(orjson.loads(BOOK)) is None and ADAPTER.parse(orjson.loads(BEAT)) is None
    assert ADAPTER.count is not None
    counts = [ADAPTER.count(orjson.loads(each)) for each in (ACK, BEAT, ERROR, b"[]", b'{"sequence_num":true}')]
    assert counts == [24, 35, None, None, None]


def test_products_are_instruments_but_those_that_come_under_another_name() -> None:
    alias = {**PRODUCT, "product_id": "BTC-USDC", "quote_currency_id": "USDC", "alias": "BTC-USD"}
    body = orjson.dumps({"products": [PRODUCT, alias, {**PRODUCT, "product_type": "FUTURE"}, 5]})
    (found,) = cast(list[Update], ADAPTER.parse_rest(ADAPTER.instruments_request([]).path, body))
    assert (found.symbol, found.fields["name"], found.fields["tick_size"]) == ("BTC-USD", "BTC-USD", "0.01")
    listed = orjson.dumps({"products": [PRODUCT, alias]})
    assert ADAPTER.trading_symbols(listed) == {"BTC-USD": "TRADING", "BTC-USDC": "served as BTC-USD"}
    assert ADAPTER.trading_symbols(b"[]") == {} and ADAPTER.parse_rest("/else", body) is None


def test_trades_that_a_subscription_repeats_are_told_once() -> None:
    run = Run("coinbase-advanced", "BTC-USD")
    assert told(run.frames(1, trades(0, 3, 2, 1, kind="snapshot"), trades(1, 5, 4))) == [
        ("trade", "1"), ("trade", "2"), ("trade", "3"), ("trade", "4"), ("trade", "5"),
    ]  # fmt: skip
    assert run.frames(1, trades(2, 5, 4, 3, 2, kind="snapshot")) == []  # subscribed again while it was silent
    run.record("close", conn=1)
    again = run.frames(2, trades(0, 7, 6, 5, 4, kind="snapshot"))
    assert told(again) == [("trade", "closed", "disconnected"), ("trade", "6"), ("trade", "7")]


def test_a_lost_message_is_a_gap_of_all_topics_of_its_connection_and_the_book_is_asked_for() -> None:
    run = Run("coinbase-advanced", "BTC-USD", "ETH-USD", "SOL-USD")
    filled: list[dict[str, Any]] = [
        {"type": "snapshot", "trades": [trade(1), trade(1, "ETH-USD")]},
        {"type": "snapshot", "tickers": [ticker(), ticker("ETH-USD")]},
        {"type": "snapshot", "candles": [candle(300), candle(300, "ETH-USD")]},
    ]
    channels = ("market_trades", "ticker", "candles")
    for number, (channel, event) in enumerate(zip(channels, filled, strict=True)):
        run.frames(1, frame(channel, number, event))
    run.frames(1, frame("l2_data", 3, levels(kind="snapshot", bid="1"), levels("ETH-USD", "snapshot", bid="1")))
    run.frames(2, frame("l2_data", 0, levels("SOL-USD", "snapshot", bid="1")))
    assert run.actions() == []

    lost = run.frames(1, frame("heartbeats", 6, {"heartbeat_counter": 1}))
    assert {(event["symbol"], *event["channels"]) for event in lost} == {
        (symbol, channel) for symbol in ("BTC-USD", "ETH-USD") for channel in FOLLOWED
    }
    assert {(event["state"], event["reason"]) for event in lost} == {("open", "sequence of the connection")}
    asked = {Action("snapshot", "book", symbol) for symbol in ("BTC-USD", "ETH-USD")}
    assert set(run.actions()) == asked
    gap = orjson.loads(run.lines[-2])
    assert (gap["kind"], gap["conn"], gap["data"]["first_id"], gap["data"]["last_id"]) == ("gap", 1, "4", "5")

    assert run.frames(1, frame("l2_data", 7, levels(bid="3"))) == []  # of a book that is out of step
    whole = run.frames(1, frame("l2_data", 8, levels(kind="snapshot", bid="4")), trades(9, 2))
    assert sorted(told(whole)) == [
        ("book",), ("book", "closed", "sequence of the connection"),
        ("trade", "2"), ("trade", "closed", "sequence of the connection"),
    ]  # fmt: skip
    assert run.again()


def test_a_new_connection_counts_anew() -> None:
    run = Run("coinbase-advanced", "BTC-USD")
    run.frames(1, trades(8, 1), trades(9, 2))
    run.recorder.closed(1)
    run.record("close", conn=1)
    assert told(run.frames(2, trades(0, 3), trades(1, 4)))[-2:] == [("trade", "3"), ("trade", "4")]
    assert run.normaliser.symbols["BTC-USD"].channels["trade"].gap is None


def test_the_recording_has_no_hole_and_gives_whole_books_and_every_trade_once() -> None:
    frames = payloads(recorded(RECORDING))
    run = Run("coinbase-advanced", "BTC-USD", "ETH-USD")
    events = run.frames(1, *frames)
    channels = Counter(event["channel"] for event in events)
    assert channels == {"book": 299, "trade": 240, "quote": 65, "ticker": 65, "candle": 202}
    for symbol in ("BTC-USD", "ETH-USD"):
        ids = [int(event["id"]) for event in events if event["channel"] == "trade" and event["symbol"] == symbol]
        assert ids == list(range(ids[0], ids[-1] + 1))
        bids, asks = run.normaliser.symbols[symbol].sync.book.top(1)
        assert float(bids[0][0]) < float(asks[0][0])
    assert run.again() == events and not run.recorder.unknown


def test_takers_of_the_recording_buy_at_the_ask_and_sell_at_the_bid_of_the_moment_before() -> None:
    """What proves that the side which is sent is the maker's: levels and trades by the exchange's own time."""
    moments: list[tuple[str, str, dict[str, Any]]] = []
    for message in map(orjson.loads, payloads(recorded(RECORDING))):
        for each in message.get("events", ()):
            begins = each.get("type") == "snapshot"
            for level in each.get("updates", ()):
                moments.append((message["timestamp"] if begins else level["event_time"], each["product_id"], level))
            moments += [(trade["time"], trade["product_id"], trade) for trade in each.get("trades", ()) if not begins]
    books: dict[str, dict[str, dict[float, float]]] = {}
    seen: Counter[str] = Counter()
    for _, product, entry in sorted(moments, key=lambda moment: (moment[0], "trade_id" not in moment[2])):
        book = books.setdefault(product, {"bid": {}, "offer": {}})
        if "price_level" in entry:
            book[entry["side"]][float(entry["price_level"])] = float(entry["new_quantity"])
            continue
        bid, ask = ([price for price, amount in book[side].items() if amount] for side in ("bid", "offer"))
        if bid and ask:
            trade = parsed(frame("market_trades", 1, {"type": "update", "trades": [entry]}))
            taker = "buy" if float(entry["price"]) >= min(ask) else "sell" if float(entry["price"]) <= max(bid) else ""
            assert trade.fields["side"] == taker
            seen[taker] += 1
    assert seen["buy"] > 10 and seen["sell"] > 10


@pytest.mark.parametrize("channel", [b'"l2_data"', b'"ticker"', b'"heartbeats"'])
def test_a_frame_taken_out_of_the_recording_is_one_gap_for_each_topic_and_the_book_comes_back(channel: bytes) -> None:
    frames = payloads(recorded(RECORDING))
    begin = next(each for each in frames if b'"snapshot","product_id":"BTC-USD"' in each)
    place = next(place for place, each in enumerate(frames) if place > 100 and channel in each[:40])
    run = Run("coinbase-advanced", "BTC-USD")
    run.frames(1, *frames[:place])
    after = run.frames(1, *frames[place + 1 :])
    opened = [event for event in after if event["channel"] == GAP and event["state"] == "open"]
    assert Counter(event["channels"][0] for event in opened) == dict.fromkeys(FOLLOWED, 1)
    assert run.actions() == [Action("snapshot", "book", "BTC-USD")]
    last = orjson.loads(frames[-1])["sequence_num"]
    again = run.frames(1, orjson.dumps({**orjson.loads(begin), "sequence_num": last + 1}))
    assert sorted(told(again)) == [("book",), ("book", "closed", "sequence of the connection")]


def test_the_recordings_products_are_read() -> None:
    (body,) = (line.payload for line in recorded(RECORDING) if line.kind == REST)
    found = cast(list[Update], ADAPTER.parse_rest(coinbase_advanced.PRODUCTS, body))
    names = {update.symbol: update.fields["name"] for update in found}
    assert names["ETH-USD"] == "ETH-USD" and "BTC-USDC" not in names and len(names) == len(found) > 500
    assert ADAPTER.trading_symbols(body)["BTC-USD"] == "TRADING"


def test_the_stand_in_counts_all_that_it_sends_on_a_connection() -> None:
    session = coinbase_advanced_standin.Session("/", {"BTC-USD"})
    assert session.beat(0) == []
    sent = [
        said
        for asked in ADAPTER.subscribe(["level2:BTC-USD", "market_trades:BTC-USD"], 1)
        for said in session.answer(asked)
    ]
    sent += [session.numbered(BOOK), *session.beat(1786309548228), session.numbered(TRADES)]
    sent += session.answer(ADAPTER.unsubscribe(["level2:BTC-USD"], 2)[0])
    assert list(session.streams) == ["market_trades:BTC-USD"]
    assert ADAPTER.count is not None
    assert [ADAPTER.count(orjson.loads(each)) for each in sent] == list(range(7))
    assert orjson.loads(sent[3]) == {**orjson.loads(BOOK), "sequence_num": 3}
    acked = ADAPTER.reply(orjson.loads(sent[2]))
    assert acked is not None and set(acked.names) >= {"level2:BTC-USD", "market_trades:BTC-USD"}
    for broken in (b"", b"[]", b"{}", b'{"type":"subscribe","channel":"level2"}', b'{"type":"subscribe","channel":[]}'):
        (error,) = session.answer(broken)
        assert ADAPTER.reply(orjson.loads(error)) is not None and orjson.loads(error)["type"] == "error"
    streams = [coinbase_advanced_standin.stream_of(each) for each in (BOOK, TRADES, TICKER, CANDLES, BEAT, ACK, b"x")]
    assert streams == [f"{name}:BTC-USD" for name in ("level2", "market_trades", "ticker", "candles")] + [None] * 3


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A genuine frame with a value replaced, a key taken away, or its end cut off."""
    message = orjson.loads(draw(st.sampled_from([TRADES, BOOK, BEGIN, TICKER, CANDLES, BEAT, ACK, ERROR])))
    for _ in range(draw(st.integers(0, 3))):
        place = message
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
            if isinstance(place[key], dict | list) and draw(st.integers(0, 3)):
                place = place[key]
            elif draw(st.booleans()):
                del place[key]
                break
            else:
                place[key] = draw(ODD)
                break
    payload = json.dumps(message, ensure_ascii=False).encode(errors="replace")
    return payload[: draw(st.integers(0, len(payload)))] if draw(st.integers(0, 9)) == 0 else payload


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(mangled(), min_size=1, max_size=6))
def test_frames_that_are_not_as_documented_never_raise_nor_cost_the_next_one(frames: list[bytes]) -> None:
    run = Run("coinbase-advanced", "BTC-USD")
    run.frames(1, *frames)
    for each in frames:
        try:
            message = orjson.loads(each)
        except orjson.JSONDecodeError:
            continue
        ADAPTER.reply(message)
        coinbase_advanced_standin.stream_of(each)
        coinbase_advanced_standin.Session("/", {"BTC-USD"}).answer(each)
    run.record("close", conn=1)
    good: list[Event] = run.frames(2, TICKER, BEGIN)
    assert {"quote", "ticker", "book"} <= {event["channel"] for event in good}
    orjson.loads(run.normaliser.checkpoint("BTC-USD"))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(PRODUCT)), ODD, st.booleans())
def test_products_that_are_not_as_documented_never_raise(key: str, odd: Any, is_list: bool) -> None:
    broken = json.dumps({"products": [PRODUCT, {**PRODUCT, key: odd}] if is_list else odd}).encode(errors="replace")
    for update in cast("list[Update] | None", ADAPTER.parse_rest(coinbase_advanced.PRODUCTS, broken)) or []:
        assert orjson.dumps(update.fields)
    ADAPTER.trading_symbols(broken)
