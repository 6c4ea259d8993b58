"""Kraken's WebSocket v2: what its frames mean, that books agree with checksums, that nothing it sends does harm."""

import copy
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, cast
from zlib import crc32

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.adapter import Adapter
from common.book import RankedBook
from common.events import GAP, Action, Event, Reply, Update, body
from common.exchanges import kraken, kraken_standin
from common.fields import loads_exact
from common.judge import FRUITLESS_MAX
from common.normaliser import Normaliser
from common.record import decode, encode

ADAPTER = cast(Adapter, exchanges.get("kraken"))
SYMBOL = "BTC/USD"
NS = 1696613755440295000  # 2023-10-06T17:35:55.440295Z

TRADE = b"""{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy","price":105944.20,
"qty":0.00027625,"ord_type":"limit","trade_id":10218208,"timestamp":"2023-10-06T17:35:55.440295Z"}]}"""
BOOK = b"""{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[{"price":105944.20,"qty":0.250}],
"asks":[{"price":105945,"qty":0}],"checksum":2114181697,"timestamp":"2023-10-06T17:35:55.440295Z"}]}"""
SNAPSHOT = b"""{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD","bids":[{"price":1.50,"qty":0.00100000}],
"asks":[],"checksum":1}]}"""
TICKER = b"""{"channel":"ticker","type":"update","data":[{"symbol":"BTC/USD","bid":105944.2,"bid_qty":0.10000000,
"ask":105944.3,"ask_qty":2,"last":105944.20,"volume":1502.56400000,"vwap":105000.1,"low":0,"high":106000.0,
"change":-10.5,"change_pct":-0.01,"timestamp":"2023-10-06T17:35:55.440295Z"}]}"""
CANDLE = b"""{"channel":"ohlc","type":"update","timestamp":"2023-10-06T17:35:55.440295Z","data":[{"symbol":"BTC/USD",
"open":1.50,"high":1.60,"low":1.40,"close":1.55,"trades":12,"volume":30927.68066226,"vwap":1.5,
"interval_begin":"2023-10-06T17:35:00.000000000Z","interval":5,"timestamp":"2023-10-06T17:40:00.000000Z"}]}"""
HEARTBEAT = b'{"channel":"heartbeat"}'
STATUS = kraken_standin.Session("/v2", {"BTC/USD"}).greeting()[0]
PONG = b'{"method":"pong","req_id":42,"time_in":"2023-09-25T09:05:00.123456Z","time_out":"2023-09-25T09:05:00.2Z"}'
ACK = b"""{"method":"subscribe","result":{"channel":"ticker","symbol":"BTC/USD","snapshot":true},"success":true,
"time_in":"2023-09-25T09:04:31.742599Z","time_out":"2023-09-25T09:04:31.742648Z","req_id":18}"""
ERROR = b"""{"error":"Currency pair not supported XBT/USD","method":"subscribe","success":false,"symbol":"XBT/USD",
"time_in":"2023-09-25T09:04:31.742599Z","time_out":"2023-09-25T09:04:31.742648Z","req_id":17}"""
TRADES_REST = (
    "/0/public/Trades?pair=XBTUSD&since=1762795400000000000&count=1000",
    b'{"error":[],"result":{"XXBTZUSD":[["105433.70000","0.1",1762795434.5,"s","m","",10218209],'
    b'["105433.60000","0.00027625",1762795433.9717445,"b","l","",10218208]],"last":"1762795434500000000"}}',
)
PAIRS_REST = (
    "/0/public/AssetPairs",
    b'{"error":[],"result":{"XXBTZUSD":{"altname":"XBTUSD","wsname":"XBT/USD","base":"XXBT","quote":"ZUSD",'
    b'"pair_decimals":1,"lot_decimals":8,"tick_size":"0.1","status":"online"},"XDGEUR":{"altname":"XDGEUR",'
    b'"wsname":"XDG/EUR","base":"XXDG","quote":"ZEUR","lot_decimals":0,"tick_size":"0.00001","status":"cancel_only"},'
    b'"BAD":{"altname":"BAD"}}}',
)


def parsed(frame: bytes) -> Any:
    return ADAPTER.parse(ADAPTER.loads(frame))


def test_a_trade_and_a_delta_keep_the_digits_of_the_wire() -> None:
    trade = {"id": "10218208", "price": "105944.20", "amount": "0.00027625", "side": "buy"}
    assert parsed(TRADE) == Update("trade", SYMBOL, 10218208, 10218208, NS, trade)
    delta = {"type": "delta", "bids": [["105944.20", "0.250"]], "asks": [["105945", "0"]], "checksum": 2114181697}
    assert parsed(BOOK) == Update("book", SYMBOL, NS, NS, NS, delta)
    snapshot = {"type": "snapshot", "bids": [["1.50", "0.00100000"]], "asks": [], "checksum": 1}
    assert parsed(SNAPSHOT) == Update("book", SYMBOL, 0, 0, None, snapshot)


def test_a_ticker_is_a_quote_and_a_ticker_and_what_was_never_traded_has_no_time() -> None:
    quote = {"bid_price": "105944.2", "bid_amount": "0.10000000", "ask_price": "105944.3", "ask_amount": "2"}
    ticker = {"last": "105944.20", "open": None, "high": "106000.0", "low": None, "volume": "1502.56400000"}
    ticker["quote_volume"] = None
    updates = [Update("quote", SYMBOL, NS, NS, NS, quote), Update("ticker", SYMBOL, NS, NS, NS, ticker)]
    assert parsed(TICKER) == updates
    never = parsed(TICKER.replace(b"2023-10-06T17:35:55.440295Z", b"1970-01-01T00:00:00.000000Z"))
    assert [update.ts_event for update in never] == [None, None]


def test_a_candle_has_its_bounds_and_the_time_of_its_change() -> None:
    opened = NS - 55_440_295_000
    fields = {
        "interval": "5", "open_ts": opened, "close_ts": opened + 300 * 10**9, "open": "1.50", "high": "1.60",
        "low": "1.40", "close": "1.55", "volume": "30927.68066226", "quote_volume": None, "trades": 12, "closed": None,
    }  # fmt: skip
    assert parsed(CANDLE) == Update("candle", SYMBOL, NS, NS, NS, fields)


def test_subscribe_frames_are_the_documented_ones_and_answers_name_their_streams() -> None:
    names = ADAPTER.streams(SYMBOL, ["trade", "book", "quote", "ticker", "candle"], ["1", "60"])
    assert names == {
        "trade@BTC/USD": ("trade", SYMBOL),
        "book@BTC/USD": ("book", SYMBOL),
        "ticker@BTC/USD": ("quote", SYMBOL),
        "ohlc-1@BTC/USD": ("candle", SYMBOL),
        "ohlc-60@BTC/USD": ("candle", SYMBOL),
    }
    assert ADAPTER.path("trade@BTC/USD") == "/v2"
    assert ADAPTER.subscribe(["book@BTC/USD", "book@ETH/USD", "ticker@BTC/USD"], 1) == [
        b'{"method":"subscribe","params":{"channel":"book","depth":1000,"symbol":["BTC/USD","ETH/USD"],'
        b'"snapshot":true},"req_id":17}',
        b'{"method":"subscribe","params":{"channel":"ticker","event_trigger":"bbo","symbol":["BTC/USD"]},"req_id":18}',
    ]
    assert ADAPTER.unsubscribe(["ohlc-60@BTC/USD"], 2) == [
        b'{"method":"unsubscribe","params":{"channel":"ohlc","interval":60,"symbol":["BTC/USD"]},"req_id":39}'
    ]
    for frame, reply in (
        (ACK, Reply(1, None, ("ticker@BTC/USD",))),
        (ERROR, Reply(1, "Currency pair not supported XBT/USD", ("book@XBT/USD",))),
        (PONG, Reply("pong", None)),
        (HEARTBEAT, Reply("heartbeat", None)),
        (STATUS, Reply("status", None)),
        (b'{"method":"unsubscribe","error":"Subscription Not Found","success":false}', Reply("unsubscribe", None)),
        (b'{"method":"subscribe","success":false,"error":"no"}', Reply(None, "no")),
        (TRADE, None),
        (b"[]", None),
    ):
        assert ADAPTER.reply(orjson.loads(frame)) == reply


@pytest.mark.parametrize(
    ("symbol", "meant"),
    [("BTC/USD", None), ("AAPLx/USD", None), ("XBT/USD", "BTC/USD"), ("btc-usdt", "BTC/USDT"), ("XDGEUR", "DOGE/EUR")],
)
def test_a_symbol_in_another_spelling_is_told_with_the_right_one(symbol: str, meant: str | None) -> None:
    error = ADAPTER.symbol_error(symbol)
    assert error is None if meant is None else error is not None and error.endswith(f"did you mean {meant}?")


def test_rest_gives_trades_in_the_order_of_their_ids_and_instruments() -> None:
    request = ADAPTER.request(Action("backfill", "trade", SYMBOL, 10218208, 1762795400000001000), 0)
    assert request.path == TRADES_REST[0]
    first, second = cast(list[Update], ADAPTER.parse_rest(*TRADES_REST))
    fields = {"id": "10218208", "price": "105433.60000", "amount": "0.00027625", "side": "buy"}
    assert first == Update("trade", "", 10218208, 10218208, 1762795433971744500, fields)
    assert (second.last, second.fields["side"]) == (10218209, "sell")
    assert ADAPTER.instruments_request([SYMBOL, "DOGE/EUR"]).path == PAIRS_REST[0]
    assert ADAPTER.trading_symbols(PAIRS_REST[1]) == {"BTC/USD": "TRADING", "DOGE/EUR": "cancel_only"}
    btc, doge = cast(list[Update], ADAPTER.parse_rest(*PAIRS_REST))
    assert (btc.symbol, btc.fields["name"], btc.fields["tick_size"]) == (SYMBOL, "BTC-USD", "0.1")
    assert (btc.fields["lot_size"], doge.fields["lot_size"]) == ("0.00000001", "1")
    for url in (TRADES_REST[0], PAIRS_REST[0]):
        assert ADAPTER.parse_rest(url, b'{"error":["EAPI:Rate limit exceeded"]}') is None


# -- books ---------------------------------------------------------------------------------------------------------

Side = dict[str, str]


def checksum(asks: Side, bids: Side) -> int:
    """As the documentation tells, in the plainest way: digits alone, from the first that is not zero."""
    levels = sorted(asks.items(), key=lambda level: Decimal(level[0]))[:10]
    levels += sorted(bids.items(), key=lambda level: -Decimal(level[0]))[:10]
    texts = [str(int(number.replace(".", ""))) for level in levels for number in level]
    return crc32("".join(texts).encode("ascii"))


def book_frame(kind: str, both: list[Side], crc: int, moment: int) -> bytes:
    sides = (",".join(f'{{"price":{price},"qty":{amount}}}' for price, amount in side.items()) for side in both)
    stamp = f"2023-10-06T17:35:55.{moment:06d}Z"
    text = '{"channel":"book","type":"%s","data":[{"symbol":"BTC/USD","bids":[%s],"asks":[%s],"checksum":%d,'
    return (text % (kind, *sides, crc) + f'"timestamp":"{stamp}"}}]}}').encode()


def test_the_documented_levels_are_summed_over_their_digits() -> None:
    """Price 45285.2 and amount 0.00100000 are 452852100000."""
    book = RankedBook()
    book.replace([], [("45285.2", "0.00100000")])
    assert checksum(book.asks, {}) == crc32(b"452852100000")
    assert kraken.BOOK.check is not None and kraken.BOOK.check(book, {"checksum": crc32(b"452852100000")})


def market(data: st.DataObject, depth: int, count: int) -> list[bytes]:
    """Frames of a book of so many levels: a level beyond goes without a word."""
    draw, frames = data.draw, []
    sides = [{f"{100 - i}.{i}0": "0.0010" for i in range(depth)}, {f"{101 + i}.{i}0": "10.50" for i in range(depth)}]
    frames.append(book_frame("snapshot", sides, checksum(sides[1], sides[0]), 0))
    for moment in range(1, count):
        changes: list[Side] = [{}, {}]
        for _ in range(draw(st.integers(1, 3))):
            index = draw(st.integers(0, 1))
            known = list(sides[index])
            new = f"{101 if index else 100 - depth}.{draw(st.integers(0, 99)):02d}"
            price = draw(st.sampled_from([*known, new]))
            changes[index][price] = draw(st.sampled_from(["0.0000", "0.0250", "12.00", "3", "0.00000001"]))
        for index, side in enumerate(sides):
            side.update(changes[index])
            left = [price for price in side if Decimal(side[price]) != 0]
            left.sort(key=Decimal, reverse=index == 0)
            sides[index] = {price: side[price] for price in left[:depth]}
        frames.append(book_frame("update", changes, checksum(sides[1], sides[0]), moment))
    return frames


class Run:
    """A normaliser after its `start`, and what it makes of one frame after the other."""

    def __init__(self, channels: Sequence[str], adapter: Adapter = ADAPTER) -> None:
        self.normaliser = Normaliser(adapter)
        self.seq = 0
        self.take("start", payload=orjson.dumps({"subscriptions": {"symbols": [SYMBOL], "channels": channels}}))

    def take(self, kind: str, **record: Any) -> list[Event]:
        self.seq += 1
        line = encode(self.seq, NS + self.seq, kind, **record)
        return [orjson.loads(body(message)) for message in self.normaliser.messages(decode(line))]

    def frames(self, *frames: bytes, conn: int = 1) -> list[Event]:
        return [event for frame in frames for event in self.take("in", conn=conn, payload=frame)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_books_agree_with_checksums_reckoned_apart_and_a_lost_change_of_the_best_levels_is_found(
    data: st.DataObject,
) -> None:
    depth = data.draw(st.integers(1, 14))
    shallow = exchanges.get("kraken").__dict__ | {"BOOK": kraken.BOOK._replace(depth=depth)}
    adapter = cast(
        Adapter, type("Shallow", (), {key: staticmethod(v) if callable(v) else v for key, v in shallow.items()})
    )
    frames = market(data, depth, 12)
    whole = Run(["book"], adapter)
    events = whole.frames(*frames)
    assert [event["channel"] for event in events] == ["book"] * len(frames) and not whole.normaliser.actions
    for lost in range(1, len(frames) - 1):
        run = Run(["book"], adapter)
        events = run.frames(*frames[:lost], *frames[lost + 1 :])
        gaps = [event for event in events if event["channel"] == GAP]
        assert [gap["reason"] for gap in gaps] in ([], ["checksum"]), "one gap until a snapshot comes, if it shows"
        if not gaps:
            books = [each.normaliser.symbols[SYMBOL].sync.book.top(10) for each in (run, whole)]
            assert books[0] == books[1]
        else:
            assert run.normaliser.actions == [Action("snapshot", "book", SYMBOL)]
            again = run.frames(frames[0])
            assert [event.get("state") for event in again] == [None, "closed"] and not run.normaliser.errors


# -- trades --------------------------------------------------------------------------------------------------------


def trades(kind: str, *ids: int) -> bytes:
    entry = orjson.loads(TRADE)["data"][0]
    return orjson.dumps({"channel": "trade", "type": kind, "data": [entry | {"trade_id": number} for number in ids]})


def numbers(events: list[Event]) -> list[int]:
    return [int(event["id"]) for event in events if event["channel"] == "trade"]


def test_trades_of_a_frame_come_in_order_and_those_that_a_snapshot_repeats_come_once() -> None:
    run = Run(["trade"])
    assert numbers(run.frames(trades("update", 3, 2, 1), trades("update", 4))) == [1, 2, 3, 4]
    assert run.frames(trades("snapshot", 4, 3, 2)) == [], "subscribed anew on the same connection"
    run.take("close", conn=1)
    assert numbers(run.frames(trades("snapshot", 5, 4, 3, 2), trades("update", 6), conn=2)) == [5, 6]
    assert not run.normaliser.actions


def answered(run: Run, action: Action, page: list[tuple[int, int]]) -> list[Event]:
    """What an answer to a backfill gives: a page of trades, each with its id and time in s."""
    run.normaliser.actions.clear()
    rows = [["1.0", "2.0", orjson.Fragment(b"%d.5" % time), "b", "l", "", number] for number, time in page]
    head = {"url": ADAPTER.request(action, 0).path, "status": 200}
    answer = orjson.dumps({"error": [], "result": {"XXBTZUSD": rows, "last": "1"}})
    return run.take("rest", channel="trade", symbol=SYMBOL, head=head, payload=answer)


def test_pages_that_come_nearer_to_a_hole_are_gone_on_with_and_a_way_that_never_gets_there_is_given_up() -> None:
    run = Run(["trade"])
    run.frames(trades("update", 97), trades("update", 99))
    (action,) = run.normaliser.actions
    for number in range(1, 2 * FRUITLESS_MAX):
        assert answered(run, action, [(number, number)]) == []
        (action,) = run.normaliser.actions
        assert action.since == number * 10**9 + 5 * 10**8
    told: list[Event] = []
    while not told:
        told = answered(run, action, []) or answered(run, run.normaliser.actions[0], [(1, 1)])
    assert [event["state"] for event in told] == ["closed"] and not run.normaliser.actions


def test_missed_trades_are_asked_for_by_time_page_after_page() -> None:
    run = Run(["trade"])
    run.frames(trades("update", 7), trades("update", 12))
    (action,) = run.normaliser.actions
    assert action == Action("backfill", "trade", SYMBOL, 8, NS + 2 - 30 * 10**9)
    pages = [[(5, 1), (6, 2), (7, 3), (8, 4), (9, 5)], [(9, 5), (10, 6), (11, 6), (12, 7)]]
    found: list[int] = []
    for page in pages:
        events = answered(run, action, page)
        found += numbers(events)
        if page is pages[0]:
            (action,) = run.normaliser.actions
            assert action == Action("backfill", "trade", SYMBOL, 10, 5_500_000_000)
    assert found == [8, 9, 10, 11] and "backfilled" in [event.get("state") for event in events]
    assert not run.normaliser.actions


# -- hostile -------------------------------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(), st.booleans(), st.just([]), st.just({}), st.text(max_size=3), st.integers(-(2**70), 2**70),
    st.floats(), st.just([[["1"]]]), st.just([{"price": "x", "qty": 1}]), st.just([{"price": 1}]), st.just("x" * 99),
)  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A genuine frame with values replaced or taken away, or its end cut off."""
    frames = [TRADE, BOOK, SNAPSHOT, TICKER, CANDLE, HEARTBEAT, STATUS, PONG, ACK, ERROR]
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
    run = Run(["trade", "book", "quote", "ticker", "candle"])
    run.frames(*frames)
    for frame in frames:
        try:
            message = loads_exact(frame)
        except ValueError:
            continue
        for look in (ADAPTER.reply, ADAPTER.is_shutdown, ADAPTER.answer):
            look(message)
        assert ADAPTER.parse(message) != []
        for url in (TRADES_REST[0], PAIRS_REST[0], "//["):
            ADAPTER.parse_rest(url, frame)
        ADAPTER.trading_symbols(frame)
        kraken_standin.stream_of(frame)
        kraken_standin.Session("/v2", {"BTC/USD"}).answer(frame)
    run.take("close", conn=1)
    good = run.frames(TICKER, conn=2)
    assert [event["channel"] for event in good if event["channel"] != GAP] == ["quote", "ticker"]
    assert not run.normaliser.errors
    orjson.loads(run.normaliser.checkpoint(SYMBOL))


# -- the stand-in --------------------------------------------------------------------------------------------------


def test_the_stand_in_answers_our_frames_as_documented() -> None:
    session = kraken_standin.Session("/v2", {"BTC/USD"})
    names = list(ADAPTER.streams(SYMBOL, list(ADAPTER.CHANNELS), ["1"]))
    replies = [
        ADAPTER.reply(orjson.loads(said)) for frame in ADAPTER.subscribe(names, 3) for said in session.answer(frame)
    ]
    assert replies == [Reply(3, None, (name,)) for name in names] and list(session.streams) == names
    assert {kraken_standin.stream_of(frame) for frame in (TRADE, BOOK, TICKER)} == set(names) - {"ohlc-1@BTC/USD"}
    assert kraken_standin.stream_of(CANDLE) == "ohlc-5@BTC/USD" and kraken_standin.stream_of(ACK) is None
    (refused,) = session.answer(ADAPTER.subscribe(["book@XBT/USD"], 4)[0])
    assert ADAPTER.reply(orjson.loads(refused)) == Reply(4, "Currency pair not supported XBT/USD", ("book@XBT/USD",))
    session.answer(ADAPTER.unsubscribe(names[:1], 5)[0])
    assert list(session.streams) == names[1:] and session.beat(0) == [HEARTBEAT]
    assert ADAPTER.PING is not None and b'"pong"' in session.answer(ADAPTER.PING)[0]
    recorded = dict([TRADES_REST, PAIRS_REST])
    assert kraken_standin.rest("/0/public/AssetPairs", {"pair": "XBTUSD"}, recorded)[1].count(b"altname") == 1
    assert b"Unknown asset pair" in kraken_standin.rest("/0/public/AssetPairs", {"pair": "NO"}, recorded)[1]
    query = {"pair": "XBTUSD", "since": "1762795400000000000"}
    assert kraken_standin.rest("/0/public/Trades", query, recorded) == (200, TRADES_REST[1])
