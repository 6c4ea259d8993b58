"""Binance spot: what its frames mean, field by field, and that nothing it may send does harm."""

import copy
import json
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.adapter import Adapter
from common.book_sync import BookSync
from common.events import Action, Reply, Snapshot, Update
from common.exchanges import binance
from common.normaliser import Normaliser
from common.record import decode, encode

ADAPTER = cast(Adapter, exchanges.get("binance"))
MS = 1_000_000
US = 1_000

TRADE = b"""{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100","T":1672515782135,
"m":true,"M":true}"""
AGG_TRADE = b"""{"e":"aggTrade","E":1633998523963,"s":"NKNUSDT","a":15683430,"p":"0.35280000","q":"58.00000000",
"f":19862790,"l":19862791,"T":1633998523962,"m":false,"M":true}"""
DEPTH = b"""{"e":"depthUpdate","E":1633998512068,"s":"NKNUSDT","U":499869750,"u":499869752,
"b":[["0.35130000","6195.00000000"],["0.34750000","0.00000000"]],"a":[]}"""
QUOTE = b"""{"u":499869768,"s":"NKNUSDT","b":"0.35210000","B":"672.00000000","a":"0.35260000","A":"3199.00000000"}"""
TICKER = b"""{"e":"24hrTicker","E":1672515782136,"s":"BNBBTC","p":"0.0015","P":"250.00","w":"0.0018","x":"0.0009",
"c":"0.0025","Q":"10","b":"0.0024","B":"10","a":"0.0026","A":"100","o":"0.0010","h":"0.0026","l":"0.0009","v":"10000",
"q":"18.00000000","O":0,"C":86400000,"F":0,"L":18150,"n":18151}"""
CANDLE = b"""{"e":"kline","E":1633998523963,"s":"NKNUSDT","k":{"t":1633998480000,"T":1633998539999,"s":"NKNUSDT",
"i":"1m","f":19862761,"L":19862790,"o":"0.35270000","c":"0.35280000","h":"0.35280000","l":"0.35220000",
"v":"25877.00000000","n":30,"x":false,"q":"9116.04600000","V":"58.00000000","Q":"20.46240000","B":"0"}}"""
SHUTDOWN = b"""{"e":"serverShutdown","E":1770123456789}"""

UPDATES = {
    TRADE: Update(
        "trade", "BNBBTC", 12345, 12345, 1672515782135 * MS,
        {"id": "12345", "price": "0.001", "amount": "100", "side": "sell"},
    ),
    AGG_TRADE: Update(
        "agg_trade", "NKNUSDT", 15683430, 15683430, 1633998523962 * MS,
        {"id": "15683430", "price": "0.35280000", "amount": "58.00000000", "side": "buy",
         "first_id": "19862790", "last_id": "19862791"},
    ),
    DEPTH: Update(
        "book", "NKNUSDT", 499869750, 499869752, 1633998512068 * MS,
        {"type": "delta", "bids": [["0.35130000", "6195.00000000"], ["0.34750000", "0.00000000"]], "asks": [],
         "first_id": "499869750", "last_id": "499869752"},
    ),
    QUOTE: Update(
        "quote", "NKNUSDT", 499869768, 499869768, None,
        {"bid_price": "0.35210000", "bid_amount": "672.00000000", "ask_price": "0.35260000",
         "ask_amount": "3199.00000000"},
    ),
    TICKER: Update(
        "ticker", "BNBBTC", 1672515782136 * MS, 1672515782136 * MS, 1672515782136 * MS,
        {"last": "0.0025", "open": "0.0010", "high": "0.0026", "low": "0.0009", "volume": "10000",
         "quote_volume": "18.00000000"},
    ),
    CANDLE: Update(
        "candle", "NKNUSDT", 1633998523963 * MS, 1633998523963 * MS, 1633998523963 * MS,
        {"interval": "1m", "open_ts": 1633998480000 * MS, "close_ts": 1633998539999 * MS, "open": "0.35270000",
         "high": "0.35280000", "low": "0.35220000", "close": "0.35280000", "volume": "25877.00000000",
         "quote_volume": "9116.04600000", "trades": 30, "closed": False},
    ),
}  # fmt: skip
"""Each stream's payload, and what it means."""

DEPTH_REST = (
    "/api/v3/depth?symbol=NKNUSDT&limit=5000",
    b'{"lastUpdateId":7,"bids":[["1.10","2"]],"asks":[["1.20","3.0"]]}',
)
TRADES_REST = (
    "/api/v3/historicalTrades?symbol=BNBBTC&fromId=28457&limit=1000",
    b'[{"id":28457,"price":"4.00000100","qty":"12.00","quoteQty":"48.0","time":1499865549590,"isBuyerMaker":true,'
    b'"isBestMatch":true},{"id":28460,"price":"4","qty":"1","quoteQty":"4","time":1499865549590123,'
    b'"isBuyerMaker":false,"isBestMatch":true}]',
)
AGG_REST = (
    "https://api.binance.com/api/v3/aggTrades?symbol=BNBBTC&fromId=26129&limit=1000",
    b'[{"a":26129,"p":"0.01","q":"4.70443515","f":27781,"l":27782,"T":1498793709153,"m":true,"M":true}]',
)


def wrapped(payload: bytes) -> bytes:
    return b'{"stream":"some@stream","data":' + payload + b"}"


@pytest.mark.parametrize("payload", UPDATES)
@pytest.mark.parametrize("wrap", [bytes, wrapped])
def test_a_frame_of_each_stream_wrapped_or_raw_gives_every_field_with_the_exchanges_digits(
    payload: bytes, wrap: Any
) -> None:
    update = binance.parse(orjson.loads(wrap(payload)))
    assert update == UPDATES[payload]
    assert type(update) is Update


@pytest.mark.parametrize("payload", [p for p in UPDATES if p != QUOTE])
def test_times_in_us_give_the_same_ns_as_in_ms(payload: bytes) -> None:
    """The connection asks for µs; recordings of others, and some REST answers, are in ms."""

    def in_us(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {key: in_us(each, key) for key, each in value.items()}
        return value * 1000 + 7 if key in "ETt" and type(value) is int and value > 10**12 else value

    micro = binance.parse(in_us(orjson.loads(payload)))
    milli = UPDATES[payload]
    assert micro is not None and micro.ts_event == cast(int, milli.ts_event) + 7 * US
    if "open_ts" in milli.fields:
        assert micro.fields["close_ts"] == milli.fields["close_ts"] + 7 * US


def test_the_takers_side_is_sell_when_the_buyer_was_the_maker() -> None:
    frame = orjson.loads(TRADE)
    for maker, side in ((True, "sell"), (False, "buy")):
        update = binance.parse({**frame, "m": maker})
        assert update is not None and update.fields["side"] == side
    assert binance.parse({**frame, "m": None}) is None


def test_ids_beyond_2_to_the_53_stay_exact_and_beyond_64_bits_are_not_guessed() -> None:
    exact = binance.parse(orjson.loads(TRADE.replace(b"12345", b"18446744073709551615")))
    assert exact is not None and exact.fields["id"] == "18446744073709551615"
    assert binance.parse(orjson.loads(TRADE.replace(b"12345", b"184467440737095516150"))) is None


@pytest.mark.parametrize("levels", [b'["12"]', b'[{"1":0,"2":0}]', b'[["1"]]', b'[["1","2",[]]]', b'[["1",2]]', b"{}"])
def test_levels_that_are_no_pairs_of_texts_are_not_understood(levels: bytes) -> None:
    """A text of two letters, or an object of two keys, unpacks like a pair."""
    assert binance.parse(orjson.loads(DEPTH.replace(b'"a":[]', b'"a":' + levels))) is None
    assert binance.parse_rest(DEPTH_REST[0], b'{"lastUpdateId":7,"bids":[],"asks":' + levels + b"}") is None


@pytest.mark.parametrize("key", ["f", "l", "a"])
def test_ids_of_an_aggregate_that_are_no_numbers_are_not_understood(key: str) -> None:
    for value in ("1", [1], True, 1.5, *([None] if key == "a" else [])):
        assert binance.parse({**orjson.loads(AGG_TRADE), key: value}) is None


def test_streams_names_are_lower_case_and_say_where_they_are_filed() -> None:
    channels = ["trade", "agg_trade", "book", "quote", "ticker", "candle"]
    assert binance.streams("BTCUSDT", channels, ["1m", "1M"]) == {
        "btcusdt@trade": ("trade", "BTCUSDT"),
        "btcusdt@aggTrade": ("agg_trade", "BTCUSDT"),
        "btcusdt@depth@100ms": ("book", "BTCUSDT"),
        "btcusdt@bookTicker": ("quote", "BTCUSDT"),
        "btcusdt@ticker": ("ticker", "BTCUSDT"),
        "btcusdt@kline_1m": ("candle", "BTCUSDT"),
        "btcusdt@kline_1M": ("candle", "BTCUSDT"),
    }


def test_subscribe_frames_are_the_documented_ones() -> None:
    names = ["btcusdt@aggTrade", "btcusdt@depth"]
    assert binance.subscribe(names, 1) == [
        b'{"method":"SUBSCRIBE","params":["btcusdt@aggTrade","btcusdt@depth"],"id":1}'
    ]
    assert binance.unsubscribe(names[1:], 312) == [b'{"method":"UNSUBSCRIBE","params":["btcusdt@depth"],"id":312}']


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (b'{"result":null,"id":1}', Reply(1, None)),
        (b'{"result":["btcusdt@aggTrade"],"id":"a"}', Reply("a", None)),
        (b'{"code":2,"msg":"Invalid request: unknown","id":4}', Reply(4, "2 Invalid request: unknown")),
        (b'{"code":3,"msg":"Invalid JSON: x"}', Reply(None, "3 Invalid JSON: x")),
        (TRADE, None),
        (wrapped(TRADE), None),
        (QUOTE, None),
        (SHUTDOWN, None),
        (b"[]", None),
        (b"null", None),
    ],
)
def test_an_answer_to_something_sent_is_told_from_market_data(message: bytes, reply: Reply | None) -> None:
    assert binance.reply(orjson.loads(message)) == reply


def test_the_announced_shutdown_is_known_in_both_forms() -> None:
    assert binance.is_shutdown(orjson.loads(SHUTDOWN))
    assert binance.is_shutdown(orjson.loads(b'{"stream":"!serverShutdown","data":' + SHUTDOWN + b"}"))
    assert not binance.is_shutdown(orjson.loads(TRADE))
    assert binance.parse(orjson.loads(SHUTDOWN)) is None


def test_rest_answers_give_book_and_trades() -> None:
    assert binance.parse_rest(*DEPTH_REST) == Snapshot("NKNUSDT", 7, None, [["1.10", "2"]], [["1.20", "3.0"]])  # type: ignore[list-item]
    first, second = cast(list[Update], binance.parse_rest(*TRADES_REST))
    assert (first.channel, first.symbol, first.last, first.ts_event) == ("trade", "BNBBTC", 28457, 1499865549590 * MS)
    assert first.fields == {"id": "28457", "price": "4.00000100", "amount": "12.00", "side": "sell"}
    assert (second.last, second.ts_event, second.fields["side"]) == (28460, 1499865549590123 * US, "buy")
    (agg,) = cast(list[Update], binance.parse_rest(*AGG_REST))
    assert (agg.channel, agg.last, agg.ts_event) == ("agg_trade", 26129, 1498793709153 * MS)
    assert (agg.fields["first_id"], agg.fields["last_id"]) == ("27781", "27782")


def test_trades_by_id_say_from_which_id_on_they_are_all_there_are() -> None:
    """Ids that the exchange leaves out are covered by the trade behind them: what was asked for is answered."""
    url, body = TRADES_REST
    first, second = cast(list[Update], binance.parse_rest(url.replace("28457", "28001"), body))
    assert (first.first, second.first) == (28001, 28458)


def test_requests_name_path_weight_and_what_the_answer_is_read_by() -> None:
    snapshot = Action("snapshot", "book", "ÄB&C")
    weights = {depth: binance.request(snapshot, depth).weight for depth in (100, 500, 1000, 5000)}
    assert weights == {100: 5, 500: 25, 1000: 50, 5000: 250}
    read = binance.parse_rest(binance.request(snapshot, 5000).path, DEPTH_REST[1])
    assert isinstance(read, Snapshot) and read.symbol == "ÄB&C"
    trades = binance.request(Action("backfill", "trade", "BNBBTC", 28457), 5000)
    assert (trades.path, trades.weight) == (TRADES_REST[0], 25)
    aggregates = binance.request(Action("backfill", "agg_trade", "BNBBTC", 26129), 5000)
    assert AGG_REST[0].endswith(aggregates.path) and aggregates.weight == 4


def test_trading_symbols_are_read_by_name() -> None:
    body = b'{"symbols":[{"symbol":"A","status":"TRADING"},{"symbol":"B","status":"HALT"}]}'
    assert binance.trading_symbols(body) == {"A": "TRADING", "B": "HALT"}
    assert binance.trading_symbols(b"no") == binance.trading_symbols(b'{"symbols":[]}') == {}


def delta(first: int, last: int) -> Update:
    fields = {"type": "delta", "bids": [["1", str(last)]], "asks": [], "first_id": str(first), "last_id": str(last)}
    return Update("book", "X", first, last, None, fields)


@pytest.mark.parametrize(
    ("snapshot", "deltas", "applied"),
    [
        (499869752, [(499869750, 499869752), (499869753, 499869760)], [499869753]),  # NKNUSDT: discards one
        (259345543, [(259345540, 259345541), (259345542, 259345543), (259345544, 259345544)], [259345544]),  # LRCBTC
        (281916627, [(281916620, 281916627), (281916628, 281916630)], [281916628]),  # BLZETH
        (15602511, [(15602500, 15602511), (15602512, 15602513)], [15602512]),  # RUNEEUR
        (100, [(90, 95), (96, 105), (106, 107)], [96, 106]),  # the snapshot lies within a delta
        (110, [(90, 95), (96, 105)], []),  # the snapshot is ahead of the stream
    ],
)
def test_a_book_begins_with_the_snapshot_and_the_deltas_that_go_on_from_it(
    snapshot: int, deltas: list[tuple[int, int]], applied: list[int]
) -> None:
    """exchanges.md 1.5, with the numbers of genuine recordings."""
    sync = BookSync(binance.BOOK)
    for first, last in deltas:
        assert not sync.breaks(delta(first, last)) and not sync.delta(delta(first, last))
    following = sync.snapshot(Snapshot("X", snapshot, None, [("2", "1")], []))
    assert following is not None and [update.first for update in following] == applied
    assert sync.id == max([snapshot, *(last for first, last in deltas if first in applied)])
    assert sync.book.bids.get("2") == "1" and ("1" in sync.book.bids) == bool(applied)


def test_a_snapshot_older_than_the_first_delta_is_asked_for_again() -> None:
    sync = BookSync(binance.BOOK)
    sync.delta(delta(100, 105))
    assert sync.snapshot(Snapshot("X", 99, None, [], [])) is None and not sync.synced
    assert sync.snapshot(Snapshot("X", 100, None, [], [])) is not None


def test_deltas_behind_the_book_are_passed_over_and_one_beyond_its_next_id_breaks_it() -> None:
    sync = BookSync(binance.BOOK)
    sync.delta(delta(90, 105))
    sync.snapshot(Snapshot("X", 110, None, [], []))
    assert not sync.delta(delta(106, 110)) and sync.id == 110
    assert sync.delta(delta(108, 112)) and sync.id == 112
    assert not sync.breaks(delta(113, 113))
    assert sync.breaks(delta(114, 115))


SYMBOLS = ("BNBBTC", "NKNUSDT")
ODD = st.one_of(
    st.none(), st.booleans(), st.just([]), st.just({}), st.text(max_size=3),
    st.integers(-(2**70), 2**70), st.just(2**63 * 1000), st.floats(allow_nan=False),
    st.lists(st.lists(st.text(max_size=2), max_size=3), max_size=2), st.just("x" * 300), st.just([[[[["1"]]]]]),
)  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A genuine frame with a value replaced, a key taken away, or its end cut off."""
    message = orjson.loads(draw(st.sampled_from([*UPDATES, SHUTDOWN, b'{"result":null,"id":1}'])))
    for _ in range(draw(st.integers(0, 3))):
        place = message
        while isinstance(place, dict) and place:
            key = draw(st.sampled_from(sorted(place)))
            if isinstance(place[key], dict) and draw(st.booleans()):
                place = place[key]
            elif draw(st.booleans()):
                del place[key]
                break
            else:
                place[key] = draw(ODD)
                break
    payload = dumps(message)
    payload = wrapped(payload) if draw(st.booleans()) else payload
    return payload[: draw(st.integers(0, len(payload)))] if draw(st.integers(0, 9)) == 0 else payload


def dumps(value: Any) -> bytes:
    """As orjson, with integers of any size: an exchange may send what orjson would not."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def state_of_one() -> Normaliser:
    normaliser = Normaliser(ADAPTER)
    payload = orjson.dumps({"subscriptions": {"symbols": SYMBOLS, "channels": ["trade", "agg_trade", "book", "quote"]}})
    normaliser.messages(decode(encode(1, 1, "start", payload=payload)))
    return normaliser


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(mangled(), min_size=1, max_size=6))
def test_frames_that_are_not_as_documented_never_raise_nor_cost_the_next_record(frames: list[bytes]) -> None:
    normaliser = state_of_one()
    lines = [encode(10 + place, 5, "in", conn=1, payload=frame) for place, frame in enumerate(frames)]
    normaliser.all_messages(decode(line) for line in lines)
    for frame in frames:
        try:
            message = orjson.loads(frame)
        except orjson.JSONDecodeError:
            continue
        for look in (binance.reply, binance.is_shutdown):
            look(message)
        update = binance.parse(message)
        if update is not None:
            assert orjson.loads(orjson.dumps(update.fields)) == update.fields
    normaliser.messages(decode(encode(98, 6, "close", conn=1)))
    good = normaliser.messages(decode(encode(99, 7, "in", conn=2, payload=wrapped(QUOTE))))
    assert [m for m in good if m.startswith(b"binance/quote/NKNUSDT ")] and not normaliser.errors
    for symbol in SYMBOLS:
        orjson.loads(normaliser.checkpoint(symbol))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_rest_answers_that_are_not_as_documented_never_raise(data: st.DataObject) -> None:
    url, body = data.draw(st.sampled_from([DEPTH_REST, TRADES_REST, AGG_REST]))
    answer = orjson.loads(body)
    entry = answer if isinstance(answer, dict) else data.draw(st.sampled_from(answer))
    broken = copy.copy(entry)
    broken[data.draw(st.sampled_from(sorted(entry)))] = data.draw(ODD)
    answer = data.draw(st.sampled_from([broken, [broken], [entry, broken], data.draw(ODD)]))
    url = data.draw(st.sampled_from([url, url[:20], url.partition("&")[0], "", "//[", url.replace("=2", "=x")]))
    read = binance.parse_rest(url, dumps(answer))
    for update in read if isinstance(read, list) else []:
        assert type(update.last) is int and type(update.first) is int and orjson.dumps(update.fields)
    binance.trading_symbols(dumps(answer))
