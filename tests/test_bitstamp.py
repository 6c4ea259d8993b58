"""Bitstamp: what its frames mean, that its books begin where they should, and that nothing it may send does harm."""

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.adapter import Adapter
from common.events import GAP, Action, Event, Reply, Snapshot, Update, body
from common.exchanges import bitstamp_standin
from common.foreign_recording import read_frames, read_rest
from common.normaliser import Normaliser
from common.record import decode, encode

ADAPTER = cast(Adapter, exchanges.get("bitstamp"))
FOLDER = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "bitstamp"
recorded = pytest.mark.skipif(not FOLDER.exists(), reason="the recording of Bitstamp is not at hand")
SYMBOLS = ("ethusd", "bateur", "btcusd")

TRADE = b"""{"data":{"id":216000477,"timestamp":"1641343699","amount":0.0792,"amount_str":"0.07920000","price":3805.44,
"price_str":"3805.44","type":0,"microtimestamp":"1641343699596000","buy_order_id":1443875737346049,
"sell_order_id":1443875731320832},"channel":"live_trades_ethusd","event":"trade"}"""
DELTA = b"""{"data":{"timestamp":"1641343691","microtimestamp":"1641343691244908",
"bids":[["1.15979","993.02588113"]],"asks":[["1.16601","1200.00000000"]]},
"channel":"diff_order_book_bateur","event":"data"}"""
ACK = b'{"event":"bts:subscription_succeeded","channel":"live_trades_btcusd","data":{}}'
ERROR = b'{"event":"bts:error","channel":"","data":{"code":4009,"message":"Connection is unauthorized."}}'
BEAT = b'{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}'
SHUTDOWN = b'{"event":"bts:request_reconnect","channel":"","data":""}'
BOOK_REST = (
    "/api/v2/order_book/bateur/?group=1",
    b'{"timestamp":"1641343691","microtimestamp":"1641343691244907","bids":[["1.15","2.0"]],"asks":[]}',
)
MARKETS_REST = (
    "/api/v2/markets/",
    b'[{"name":"BTC/USD","market_symbol":"btcusd","base_decimals":8,"counter_decimals":0,"trading":"Enabled"},'
    b'{"name":"BTC/USD-PERP","market_symbol":"btcusd-perp","base_decimals":8,"counter_decimals":2,'
    b'"trading":"Disabled"},{"name":"BTC"}]',
)


def parsed(frame: bytes) -> Any:
    return ADAPTER.parse(ADAPTER.loads(frame))


def test_a_trade_is_read_from_its_texts_and_a_delta_as_it_is() -> None:
    fields = {"id": "216000477", "price": "3805.44", "amount": "0.07920000", "side": "buy"}
    assert parsed(TRADE) == Update("trade", "ethusd", 216000477, 216000477, 1641343699596000000, fields)
    assert parsed(TRADE.replace(b'"type":0', b'"type":1')).fields["side"] == "sell"
    delta: dict[str, Any] = {"bids": [["1.15979", "993.02588113"]], "asks": [["1.16601", "1200.00000000"]]}
    delta |= {"type": "delta", "last_id": "1641343691244908"}
    number = 1641343691244908
    assert parsed(DELTA) == Update("book", "bateur", number, number, number * 1000, delta)


def test_rest_gives_a_book_of_the_streams_count_and_the_markets() -> None:
    assert ADAPTER.request(Action("snapshot", "book", "bateur"), 5000).path == BOOK_REST[0]
    number = 1641343691244907
    levels: Any = [["1.15", "2.0"]]
    assert ADAPTER.parse_rest(*BOOK_REST) == Snapshot("bateur", number, number * 1000, levels, [])
    assert ADAPTER.instruments_request(["btcusd"]).path == MARKETS_REST[0]
    spot, perpetual = cast(list[Update], ADAPTER.parse_rest(*MARKETS_REST))
    assert (spot.symbol, spot.fields["name"], spot.fields["tick_size"]) == ("btcusd", "BTC-USD", "1")
    assert spot.fields["lot_size"] == "0.00000001"
    assert (perpetual.fields["name"], perpetual.fields["type"]) == ("BTC-USD-PERP", "perpetual")
    known = ADAPTER.trading_symbols(MARKETS_REST[1].replace(b',{"name":"BTC"}', b""))
    assert known == {"btcusd": "TRADING", "btcusd-perp": "Disabled"}


def test_there_is_a_frame_for_each_channel_and_answers_name_it_errors_do_not() -> None:
    assert ADAPTER.streams("btcusd", ["trade", "book", "instrument"], []) == {
        "live_trades_btcusd": ("trade", "btcusd"),
        "diff_order_book_btcusd": ("book", "btcusd"),
    }
    assert ADAPTER.subscribe(["live_trades_a", "live_trades_b"], 1) == [
        b'{"event":"bts:subscribe","data":{"channel":"live_trades_a"}}',
        b'{"event":"bts:subscribe","data":{"channel":"live_trades_b"}}',
    ]
    assert ADAPTER.unsubscribe(["live_trades_a"], 1) == [
        b'{"event":"bts:unsubscribe","data":{"channel":"live_trades_a"}}'
    ]
    assert ADAPTER.reply(orjson.loads(ACK)) == Reply(None, None, ("live_trades_btcusd",))
    assert ADAPTER.reply(orjson.loads(ERROR)) == Reply(None, "4009 Connection is unauthorized.")
    assert ADAPTER.reply(orjson.loads(BEAT)) == Reply("bts:heartbeat", None)
    assert ADAPTER.reply(orjson.loads(TRADE)) is None and ADAPTER.reply(orjson.loads(SHUTDOWN)) is None
    assert ADAPTER.is_shutdown(orjson.loads(SHUTDOWN)) and not ADAPTER.is_shutdown(orjson.loads(TRADE))


@pytest.mark.parametrize(
    ("symbol", "meant"),
    [
        ("btcusd", None),
        ("btcusd-perp", None),
        ("BTC/USD", "btcusd"),
        ("eth-usdt", "ethusdt"),
        ("BTCUSD-PERP", "btcusd-perp"),
    ],
)
def test_a_symbol_in_another_spelling_is_told_with_the_right_one(symbol: str, meant: str | None) -> None:
    error = ADAPTER.symbol_error(symbol)
    assert error is None if meant is None else error is not None and error.endswith(f"did you mean {meant}?")


# -- books, and the recording --------------------------------------------------------------------------------------


class Run:
    """A normaliser after its `start`, and what it makes of one record after the other."""

    def __init__(self, symbols: Iterable[str] = SYMBOLS) -> None:
        self.normaliser = Normaliser(ADAPTER)
        self.seq = 0
        subscriptions = {"symbols": list(symbols), "channels": ["trade", "book"]}
        self.take("start", payload=orjson.dumps({"subscriptions": subscriptions}))

    def take(self, kind: str, **record: Any) -> list[Event]:
        self.seq += 1
        line = encode(self.seq, self.seq, kind, **record)
        return [orjson.loads(body(message)) for message in self.normaliser.messages(decode(line))]

    def frames(self, *frames: bytes, conn: int = 1) -> list[Event]:
        return [event for frame in frames for event in self.take("in", conn=conn, payload=frame)]

    def rest(self, symbol: str, answer: bytes, **head: Any) -> list[Event]:
        url = ADAPTER.request(Action("snapshot", "book", symbol), 0).path
        head = {"url": url, "status": 200, **head}
        return self.take("rest", channel="book", symbol=symbol, head=head, payload=answer)


def delta(number: int, price: str = "1.15") -> bytes:
    data = {"microtimestamp": str(number), "bids": [[price, str(number)]], "asks": []}
    return orjson.dumps({"event": "data", "channel": "diff_order_book_bateur", "data": data})


def answer(number: int) -> bytes:
    return orjson.dumps({"microtimestamp": str(number), "bids": [["1.15", "0.5"], ["1.10", "7"]], "asks": []})


def ids(events: list[Event]) -> list[str]:
    return [event["last_id"] for event in events if event["channel"] == "book"]


def test_a_book_begins_with_a_snapshot_and_the_deltas_after_its_time() -> None:
    run = Run()
    assert run.frames(delta(10), delta(20), delta(30)) == []
    assert run.normaliser.actions == [Action("snapshot", "book", "bateur")]
    assert run.rest("bateur", answer(9)) == [], "a snapshot from before the first delta lacks what lies between the two"
    assert ids(run.rest("bateur", answer(20))) == ["20", "30"]
    assert ids(run.frames(delta(40))) == ["40"]
    assert run.normaliser.symbols["bateur"].sync.book.bids == {"1.15": "40", "1.10": "7"}
    late = Run()
    late.frames(delta(10))
    assert ids(late.rest("bateur", answer(20))) == ["20"]
    assert ids(late.frames(delta(15), delta(21))) == ["21"], "the snapshot has what is older"


def test_a_snapshot_of_a_quiet_book_is_published_where_its_subscription_was_live() -> None:
    """A symbol whose orders do not change brings no delta for hours."""
    run = Run()
    assert run.rest("bateur", answer(20)) == [], "nothing says that deltas would have come"
    assert ids(run.rest("bateur", answer(20), subscribed=1)) == ["20"]
    assert run.frames(delta(15)) == [] and ids(run.frames(delta(21))) == ["21"]
    quiet = Run()
    quiet.rest("bateur", answer(20), subscribed=1)
    (gap,) = quiet.take("close", conn=1, payload=b"{}")
    assert gap["reason"] == "disconnected" and not quiet.normaliser.symbols["bateur"].sync.synced
    found = quiet.rest("bateur", answer(30), subscribed=2)
    assert ids(found) == ["30"] and [event["state"] for event in found if event["channel"] == "gap"] == ["closed"]


def test_a_lost_connection_is_a_gap_until_a_new_snapshot() -> None:
    run = Run()
    run.frames(delta(10))
    run.rest("bateur", answer(10))
    (gap,) = run.take("close", conn=1)
    assert (gap["channel"], gap["state"]) == (GAP, "open")
    assert run.frames(delta(50), conn=2) == []
    events = run.rest("bateur", answer(50))
    assert ids(events) == ["50"] and [e["state"] for e in events if e["channel"] == GAP] == ["closed"]


@recorded
def test_the_recorded_books_begin_within_their_deltas_and_stay_whole() -> None:
    """Numbers rise without a repetition; each book that moved has deltas on both sides of its snapshot."""
    books = {url.split("/")[4]: answer for url, answer in read_rest(FOLDER / "rest.txt.gz").items()}
    run, numbers = Run(books), {symbol: [0] for symbol in books}
    frames = [payload for _, _, payload in read_frames(FOLDER / "ws-1.txt.gz")]
    events: list[Event] = []
    for frame in frames:
        update = parsed(frame)
        if update is not None and update.channel == "book":
            assert update.last > numbers[update.symbol][-1]
            numbers[update.symbol].append(update.last)
        events += run.frames(frame)
        snapshots, run.normaliser.actions = run.normaliser.actions, []
        for action in snapshots:
            events += run.rest(action.symbol, books[action.symbol])
    deltas = sum(parsed(frame) is not None for frame in frames)
    acks = sum(ADAPTER.reply(orjson.loads(frame)) is not None for frame in frames)
    assert deltas + acks == len(frames) and acks == 20 and {e["channel"] for e in events} <= {"book", "trade"}
    assert len(run.normaliser.symbols) == 10 and not run.normaliser.errors
    whole = [symbol for symbol, state in run.normaliser.symbols.items() if state.sync.synced]
    assert len(whole) == 9
    for symbol in whole:
        snapshot = cast(Snapshot, ADAPTER.parse_rest(f"/api/v2/order_book/{symbol}", books[symbol]))
        later = [number for number in numbers[symbol] if number > snapshot.last]
        assert numbers[symbol][1] < snapshot.last < numbers[symbol][-1]
        assert ids([e for e in events if e["symbol"] == symbol]) == [str(n) for n in (snapshot.last, *later)]


@recorded
def test_the_recorded_trades_and_markets_are_understood() -> None:
    frames = [payload for _, _, payload in read_frames(FOLDER / "ws-1.txt.gz")]
    trades = [update for frame in frames if (update := parsed(frame)) is not None and update.channel == "trade"]
    assert trades and [trade.last for trade in trades] == sorted({trade.last for trade in trades})
    for url, answer in read_rest(FOLDER / "instruments.txt.gz").items():
        found = ADAPTER.parse_rest(url, answer)
        assert isinstance(found, list) and len(found) == len(orjson.loads(answer))
        assert ADAPTER.trading_symbols(answer)["btcusd"] == "TRADING"


# -- hostile -------------------------------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(), st.booleans(), st.just([]), st.just({}), st.text(max_size=3), st.integers(-(2**70), 2**70),
    st.floats(), st.just([["1"]]), st.just([["1", 2]]), st.just(["12"]), st.just("9" * 40),
)  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A genuine frame or answer with values replaced or taken away, or its end cut off."""
    frames = [TRADE, DELTA, ACK, ERROR, BEAT, SHUTDOWN, BOOK_REST[1], MARKETS_REST[1]]
    message = json.loads(draw(st.sampled_from(frames)))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = message
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if isinstance(place[key], dict | list) and draw(st.integers(0, 3)):
                place = place[key]
            elif draw(st.booleans()):
                del place[key]
                break
            else:
                place[key] = copy.deepcopy(draw(ODD))  # it may be changed in turn
                break
    payload = json.dumps(message).encode()
    return payload[: draw(st.integers(0, len(payload)))] if draw(st.integers(0, 9)) == 0 else payload


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(mangled(), min_size=1, max_size=6))
def test_frames_that_are_not_as_documented_never_raise_nor_cost_the_next_record(frames: list[bytes]) -> None:
    run = Run()
    run.frames(*frames)
    for frame in frames:
        run.rest("bateur", frame)
        for url in (BOOK_REST[0], MARKETS_REST[0], "//["):
            ADAPTER.parse_rest(url, frame)
        ADAPTER.trading_symbols(frame)
        bitstamp_standin.stream_of(frame)
        bitstamp_standin.Session("", {"btcusd"}).answer(frame)
        try:
            message = orjson.loads(frame)
        except orjson.JSONDecodeError:
            continue
        for look in (ADAPTER.reply, ADAPTER.is_shutdown, ADAPTER.answer):
            look(message)
    run.take("close", conn=1)
    assert [event["id"] for event in run.frames(TRADE, conn=2) if event["channel"] == "trade"] == ["216000477"]
    assert not run.normaliser.errors
    for symbol in SYMBOLS:
        orjson.loads(run.normaliser.checkpoint(symbol))


def test_the_stand_in_answers_our_frames_as_documented() -> None:
    session = bitstamp_standin.Session("", {"btcusd"})
    name = "live_trades_btcusd"
    assert [ADAPTER.subscribe([name], 1)[0]] and session.answer(ADAPTER.subscribe([name], 1)[0]) == [ACK]
    assert list(session.streams) == [name] and session.greeting() == session.beat(0) == []
    (refused,) = session.answer(ADAPTER.subscribe(["live_trades_BTC/USD"], 1)[0])
    reply = ADAPTER.reply(orjson.loads(refused))
    assert reply is not None and reply.error is not None and not reply.names
    assert ADAPTER.PING is not None and session.answer(ADAPTER.PING) == [BEAT]
    session.answer(ADAPTER.unsubscribe([name], 1)[0])
    assert not session.streams
    assert [bitstamp_standin.stream_of(frame) for frame in (TRADE, DELTA, ACK, SHUTDOWN)] == [
        "live_trades_ethusd", "diff_order_book_bateur", None, None,
    ]  # fmt: skip
    pairs = MARKETS_REST[1].replace(b"market_symbol", b"url_symbol").replace(b',{"name":"BTC"}', b"")
    kept = {"/api/v2/order_book/bateur": BOOK_REST[1], "/api/v2/trading-pairs-info/": pairs}
    assert bitstamp_standin.rest("/api/v2/order_book/bateur/", {"group": "1"}, kept) == (200, BOOK_REST[1])
    assert b'"market_symbol":"btcusd"' in bitstamp_standin.rest("/api/v2/markets/", {}, kept)[1]
    assert bitstamp_standin.rest("/api/v2/order_book/no/", {}, kept)[0] == 404
    snapshot = ADAPTER.parse_rest(*BOOK_REST)
    assert isinstance(snapshot, Snapshot)
    assert ADAPTER.parse_rest(BOOK_REST[0], bitstamp_standin.book(snapshot)) == snapshot
