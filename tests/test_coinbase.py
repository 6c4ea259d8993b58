"""Coinbase Exchange: what its frames mean, field by field, and that nothing it may send does harm."""

import json
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.adapter import Adapter
from common.book_sync import BookSync
from common.events import GAP, Action, Event, Reply, Update
from common.exchanges import coinbase, coinbase_standin
from tests.coinbase_run import Run, payloads, recorded, told

ADAPTER = cast(Adapter, exchanges.get("coinbase"))
TIME = 1618677817089723000  # 2021-04-17T16:43:37.089723Z

MATCH = b"""{"type":"match","trade_id":280232,"maker_order_id":"2a0da34e-61f7-4c36-88e5-c9dd15927b16",
"taker_order_id":"3c82abaa-c01e-4608-be59-6a1e69742891","side":"sell","size":"985","price":"0.00001305",
"product_id":"SKL-BTC","sequence":177100030,"time":"2021-04-17T16:43:37.089723Z"}"""
DELTA = b"""{"type":"l2update","product_id":"SKL-BTC","changes":[["sell","0.00001306","660.5"],
["buy","0.00001305","0.0"],["buy","0.00001303","12"]],"time":"2021-04-17T16:43:37.089723Z"}"""
SNAPSHOT = b"""{"type":"snapshot","product_id":"SKL-BTC","asks":[["0.00001306","660.5"],["0.5","0.-10000"]],
"bids":[["0.00001305","7"]]}"""
TICKER = b"""{"type":"ticker","sequence":177100017,"product_id":"SKL-BTC","price":"0.00001303","open_24h":"0.00001144",
"volume_24h":"7366729.40000000","low_24h":"0.00001122","high_24h":"0.00001337","volume_30d":"137080311.50000000",
"best_bid":"0.00001302","best_bid_size":"0.00","best_ask":"0.00001305","side":"buy",
"time":"2021-04-17T16:43:37.089723Z","trade_id":280231,"last_size":"0.4"}"""
HEARTBEAT = b"""{"type":"heartbeat","sequence":90,"last_trade_id":20,"product_id":"BTC-USD",
"time":"2014-11-07T08:19:28.464459Z"}"""
ACK = b"""{"type":"subscriptions","channels":[{"name":"level2_batch","product_ids":["BTC-USD","ETH-USD"]},
{"name":"status","product_ids":[]}]}"""
LOCKED = b"""{"type":"error","message":"Failed to subscribe","reason":"level2, level3, and full channels now require
 authentication. https://docs.cloud.coinbase.com/exchange/docs/websocket-auth"}""".replace(b"\n", b"")
STATUS = b"""{"type":"status","products":[{"id":"BTC-USD","base_currency":"BTC","quote_currency":"USD",
"base_increment":"0.00000001","quote_increment":"0.01","status":"online"},{"id":"X"}],"currencies":[]}"""
PRODUCTS = b"""[{"id":"BTC-USD","base_currency":"BTC","quote_currency":"USD","quote_increment":"0.01",
"base_increment":"0.00000001","status":"online","trading_disabled":false},{"id":"OLD-USD","status":"delisted"},
{"id":"OFF-USD","status":"online","trading_disabled":true}]"""


def parsed(payload: bytes, **changed: Any) -> Any:
    return ADAPTER.parse({**orjson.loads(payload), **changed})


def match(trade_id: int, kind: str = "match") -> bytes:
    return orjson.dumps({**orjson.loads(MATCH), "trade_id": trade_id, "type": kind})


def test_a_match_gives_the_takers_side_and_the_digits_as_sent() -> None:
    fields = {"id": "280232", "price": "0.00001305", "amount": "985", "side": "buy"}  # the maker sold
    assert parsed(MATCH) == Update("trade", "SKL-BTC", 280232, 280232, TIME, fields)
    assert parsed(MATCH, side="buy").fields["side"] == "sell"
    assert parsed(MATCH, type="last_match") == parsed(MATCH)
    assert parsed(MATCH, side=None) is parsed(MATCH, side=[]) is parsed(MATCH, trade_id="1") is None


def test_a_delta_keeps_each_sides_order_and_zeros() -> None:
    bids, asks = [["0.00001305", "0.0"], ["0.00001303", "12"]], [["0.00001306", "660.5"]]
    assert parsed(DELTA) == Update("book", "SKL-BTC", TIME, TIME, TIME, {"type": "delta", "bids": bids, "asks": asks})
    assert parsed(DELTA, changes=[["up", "1", "1"]]) is None


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00.000000Z", None])
def test_a_delta_without_a_time_counts_all_the_same(time: str | None) -> None:
    run = Run("coinbase", "SKL-BTC")
    delta = orjson.dumps({**orjson.loads(DELTA), "time": time})
    first, second = run.frames(1, SNAPSHOT, delta)
    assert (first["type"], second["type"], second["ts_event"]) == ("snapshot", "delta", None)


def test_levels_whose_amount_is_garbage_are_dropped_alone() -> None:
    assert parsed(SNAPSHOT).fields == {
        "type": "snapshot",
        "bids": [["0.00001305", "7"]],
        "asks": [["0.00001306", "660.5"]],
    }
    assert parsed(DELTA, changes=[["sell", "1", "0.-10000"], ["sell", "2", "3"]]).fields["asks"] == [["2", "3"]]
    assert parsed(SNAPSHOT, bids=["12"]) is parsed(SNAPSHOT, bids=[["1"]]) is None


def test_a_ticker_is_a_quote_too_and_what_is_missing_is_not_zero() -> None:
    quote, ticker = parsed(TICKER)
    assert (quote.channel, quote.symbol, quote.last, quote.ts_event) == ("quote", "SKL-BTC", 177100017, TIME)
    assert quote.fields == {
        "bid_price": "0.00001302", "bid_amount": "0.00", "ask_price": "0.00001305", "ask_amount": None,
    }  # fmt: skip
    assert ticker.fields == {
        "last": "0.00001303", "open": "0.00001144", "high": "0.00001337", "low": "0.00001122",
        "volume": "7366729.40000000", "quote_volume": None,
    }  # fmt: skip


def test_instruments_come_over_rest_and_by_status_and_are_told_when_they_change() -> None:
    run = Run("coinbase", "BTC-USD")
    head = {"url": ADAPTER.instruments_request(["BTC-USD"]).path, "status": 200}
    (event,) = run.record("rest", head=head, payload=PRODUCTS)
    assert (event["name"], event["tick_size"], event["lot_size"]) == ("BTC-USD", "0.01", "0.00000001")
    assert (event["base"], event["quote"], event["type"], event["status"]) == ("BTC", "USD", "spot", "online")
    assert run.frames(1, STATUS, STATUS) == []
    (changed,) = run.frames(1, STATUS.replace(b"online", b"offline"))
    assert changed["channel"] == "instrument" and changed["status"] == "offline"
    assert ADAPTER.trading_symbols(PRODUCTS) == {
        "BTC-USD": "TRADING", "OLD-USD": "delisted", "OFF-USD": "disabled",
    }  # fmt: skip
    assert ADAPTER.trading_symbols(b"no") == ADAPTER.trading_symbols(b"[]") == {}


def test_streams_and_frames_are_the_documented_ones() -> None:
    names = ADAPTER.streams("BTC-USD", list(coinbase.CHANNELS), [])
    assert names == {
        "status": ("trade", "BTC-USD"),
        "heartbeat:BTC-USD": ("trade", "BTC-USD"),
        "matches:BTC-USD": ("trade", "BTC-USD"),
        "level2_batch:BTC-USD": ("book", "BTC-USD"),
        "ticker:BTC-USD": ("quote", "BTC-USD"),
    }
    assert {place: name for name, place in names.items()}["trade", "BTC-USD"] == "matches:BTC-USD"
    assert ADAPTER.streams("BTC-USD", ["instrument"], []) == {}
    assert ADAPTER.subscribe([*names, "matches:ETH-USD"], 7) == [
        b'{"type":"subscribe","channels":[{"name":"status"}]}',
        b'{"type":"subscribe","product_ids":["BTC-USD"],"channels":["heartbeat","matches","level2_batch","ticker"]}',
        b'{"type":"subscribe","product_ids":["ETH-USD"],"channels":["matches"]}',
    ]
    assert ADAPTER.unsubscribe(["level2_batch:BTC-USD"], 8) == [
        b'{"type":"unsubscribe","product_ids":["BTC-USD"],"channels":["level2_batch"]}'
    ]


def test_acks_and_errors_name_what_they_are_about() -> None:
    names = ("level2_batch:BTC-USD", "level2_batch:ETH-USD", "status")
    assert ADAPTER.reply(orjson.loads(ACK)) == Reply(None, None, names)
    assert ADAPTER.reply(orjson.loads(ACK.replace(b"level2_batch", b"level2_50"))) == Reply(None, None, names)
    locked = ADAPTER.reply(orjson.loads(LOCKED))
    assert locked is not None and locked.names == () and "require authentication" in str(locked.error)
    unknown = {"type": "error", "message": "Failed to subscribe", "reason": "NO-USD is not a valid product"}
    refused = ADAPTER.reply(unknown)
    assert refused is not None and "matches:NO-USD" in refused.names and "NO-USD" in str(refused.error)
    assert ADAPTER.reply(orjson.loads(MATCH)) is None
    beat = ADAPTER.reply(orjson.loads(HEARTBEAT))
    assert beat is not None and isinstance(beat.id, str) and beat.error is None  # it answers nothing


@pytest.mark.parametrize(
    ("symbol", "error"),
    [
        ("BTC-USD", None),
        ("1INCH-EUR", None),
        ("btc/usd", "'btc/usd' is not a product of Coinbase: did you mean BTC-USD?"),
        ("BTCUSD", "'BTCUSD' is not a product of Coinbase"),
        ("", "'' is not a product of Coinbase"),
    ],
)
def test_a_symbol_is_a_product_id(symbol: str, error: str | None) -> None:
    assert ADAPTER.symbol_error(symbol) == error


def trades(*ids: int) -> bytes:
    trade = {"side": "sell", "size": "1.0", "price": "2.50", "time": "2021-04-17T16:43:37.089723Z"}
    return orjson.dumps([{**trade, "trade_id": number} for number in sorted(ids, reverse=True)])


def test_the_last_match_of_a_new_connection_shows_what_was_missed_and_rest_brings_it() -> None:
    run = Run("coinbase", "SKL-BTC")
    assert told(run.frames(1, match(5, "last_match"), match(6))) == [("trade", "5"), ("trade", "6")]
    run.record("close", conn=1)
    lost = run.frames(2, match(9, "last_match"), match(10))
    assert [event["id"] for event in lost if event["channel"] == "trade"] == ["9", "10"]
    assert [(event["first_id"], event["last_id"]) for event in lost if "first_id" in event] == [("7", "8")]
    (action,) = run.actions()
    request = ADAPTER.request(action, 5000)
    assert request.path == "/products/SKL-BTC/trades?limit=1000&after=1007"
    found = run.rest(action, trades(*range(4, 12)))
    assert sorted(told(found)) == [("trade", "7"), ("trade", "8"), ("trade", "backfilled", "disconnected")]
    assert [(event["id"], event["side"]) for event in found if "id" in event] == [("7", "buy"), ("8", "buy")]
    run.record("close", conn=2)
    assert told(run.frames(3, match(10, "last_match"), match(11))) == [
        ("trade", "closed", "disconnected"), ("trade", "11"),
    ]  # fmt: skip
    assert not run.actions() and run.again()


def test_an_answer_without_the_trades_asked_for_proves_nothing() -> None:
    url = ADAPTER.request(Action("backfill", "trade", "SKL-BTC", 7), 0).path
    assert ADAPTER.parse_rest(url, trades(3, 4)) == ADAPTER.parse_rest(url, b"[]") == []
    assert ADAPTER.parse_rest(url, b'{"message":"NotFound"}') is ADAPTER.parse_rest("/else", b"[]") is None


def gaps(events: list[Event]) -> list[tuple[Any, ...]]:
    return [each for each, event in zip(told(events), events, strict=True) if event["channel"] == GAP]


def test_the_recording_gives_whole_books_and_every_trade_once() -> None:
    frames = payloads(recorded("coinbase/ws-28.txt.gz"))
    messages = [orjson.loads(frame) for frame in frames]
    symbols = sorted({message["product_id"] for message in messages if "product_id" in message})
    run = Run("coinbase", *symbols)
    events = run.frames(1, *frames)
    assert not gaps(events) and not run.actions()
    assert sum(event["channel"] == "book" for event in events) == 3900
    assert sum(event["channel"] == "trade" for event in events) == 37
    assert sum(event["channel"] == "quote" for event in events) == 37
    for symbol in symbols:
        bids, asks = run.normaliser.symbols[symbol].sync.book.top()
        assert bids and asks and float(bids[0][0]) < float(asks[0][0])
    assert run.again() == events


def test_a_trade_taken_out_of_the_recording_is_one_gap() -> None:
    frames = payloads(recorded("coinbase/ws-28.txt.gz"))
    matches = [frame for frame in frames if b'"type":"match"' in frame and b"SKL-USD" in frame]
    assert len(matches) > 2
    run = Run("coinbase", "SKL-USD")
    events = run.frames(1, *(frame for frame in frames if frame != matches[1]))
    missing = str(orjson.loads(matches[1])["trade_id"])
    (gap,) = [event for event in events if event["channel"] == GAP]
    assert (gap["state"], gap["reason"], gap["first_id"], gap["last_id"]) == ("open", "sequence", missing, missing)
    (action,) = run.actions()
    assert action[:4] == ("backfill", "trade", "SKL-USD", int(missing))


def test_the_stand_in_answers_as_documented() -> None:
    session = coinbase_standin.Session("/", {"BTC-USD"})
    (ack,) = session.answer(ADAPTER.subscribe(["matches:BTC-USD", "heartbeat:BTC-USD"], 1)[0])
    assert ADAPTER.reply(orjson.loads(ack)) == Reply(None, None, ("matches:BTC-USD", "heartbeat:BTC-USD"))
    session.answer(ADAPTER.unsubscribe(["matches:BTC-USD"], 2)[0])
    assert list(session.streams) == ["heartbeat:BTC-USD"]
    (beat,) = session.beat(1618677817089)
    assert ADAPTER.parse(orjson.loads(beat)) is None and ADAPTER.reply(orjson.loads(beat)) is not None
    for asked in (["level2:BTC-USD"], ["matches:btc"], ["nothing:BTC-USD"]):
        (error,) = session.answer(ADAPTER.subscribe(asked, 3)[0])
        assert orjson.loads(error)["type"] == "error"
    (error,) = session.answer(ADAPTER.subscribe(["level2:BTC-USD"], 3)[0])
    assert orjson.loads(error)["reason"] == orjson.loads(LOCKED)["reason"]
    for broken in (b"", b"[]", b"{}", b'{"type":"subscribe","channels":[[]]}', b'{"type":"subscribe","channels":5}'):
        assert orjson.loads(session.answer(broken)[0])["type"] == "error"
    assert coinbase_standin.stream_of(DELTA) == "level2_batch:SKL-BTC"
    assert coinbase_standin.stream_of(match(1, "last_match")) == "matches:SKL-BTC"
    assert coinbase_standin.stream_of(ACK) is coinbase_standin.stream_of(b"x") is None


ODD = st.one_of(
    st.none(), st.booleans(), st.just([]), st.just({}), st.text(max_size=3), st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False), st.lists(st.lists(st.text(max_size=2), max_size=4), max_size=2), st.just("x" * 300),
)  # fmt: skip
FRAMES = [MATCH, DELTA, SNAPSHOT, TICKER, HEARTBEAT, ACK, LOCKED, STATUS]


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A genuine frame with a value replaced, a key taken away, or its end cut off."""
    message = orjson.loads(draw(st.sampled_from(FRAMES)))
    for _ in range(draw(st.integers(0, 3))):
        place = message
        while isinstance(place, dict | list) and place:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.booleans()):
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
    run = Run("coinbase", "SKL-BTC", "BTC-USD")
    run.frames(1, *frames)
    for frame in frames:
        try:
            message = orjson.loads(frame)
        except orjson.JSONDecodeError:
            continue
        ADAPTER.reply(message)
        coinbase_standin.stream_of(frame)
        coinbase_standin.Session("/", {"BTC-USD"}).answer(frame)
    run.record("close", conn=1)
    assert [event["channel"] for event in run.frames(2, TICKER) if event["channel"] == "quote"]
    for symbol in run.normaliser.symbols:
        orjson.loads(run.normaliser.checkpoint(symbol))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from([orjson.loads(trades(7, 8)), orjson.loads(PRODUCTS)]), st.data())
def test_rest_answers_that_are_not_as_documented_never_raise(answer: Any, data: st.DataObject) -> None:
    entry = data.draw(st.sampled_from(answer))
    broken = {**entry, data.draw(st.sampled_from(sorted(entry))): data.draw(ODD)}
    body = json.dumps(data.draw(st.sampled_from([[broken], broken, [entry, broken], data.draw(ODD)])))
    for url in ("/products", "/products/SKL-BTC/trades?limit=1000&after=1007", "/trades", "//[", "/trades?after=x"):
        for update in cast("list[Update] | None", ADAPTER.parse_rest(url, body.encode(errors="replace"))) or []:
            assert orjson.dumps(update.fields)
    ADAPTER.trading_symbols(body.encode(errors="replace"))


def test_a_book_begins_with_its_snapshot_alone() -> None:
    sync = BookSync(coinbase.BOOK)
    assert not sync.breaks(parsed(DELTA)) and not sync.delta(parsed(DELTA)) and not sync.held
