"""Binance futures: what their frames mean, how their books join, and that nothing they may send does harm."""

import copy
import json
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.adapter import Adapter
from common.book_sync import BookSync
from common.events import Action, Reply, Snapshot, Update, instrument
from common.foreign_recording import TEXT, Line, read_lines
from common.normaliser import Normaliser
from common.record import decode, encode
from common.shards import spread

USDM, COINM = (cast(Adapter, exchanges.get(name)) for name in ("binance-usdm", "binance-coinm"))
RECORDING = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "binance" / "usdm-btcusdt-20240808.gz"
MS = 1_000_000

TRADE = b"""{"e":"trade","E":1679851564490,"T":1679851564486,"s":"BTCUSDT","t":3493102749,"p":"27785.00","q":"0.014",
"X":"MARKET","m":true}"""
AGG_TRADE = b"""{"e":"aggTrade","E":1571889248277,"s":"BNBUSDT","a":5933014,"p":"0.001","q":"100","nq":"90","f":100,
"l":105,"T":1571889248270,"m":false,"st":1}"""
DEPTH = b"""{"e":"depthUpdate","E":1571889248277,"T":1571889248276,"s":"BNBUSDT","U":157,"u":160,"pu":149,
"b":[["0.0024","10"]],"a":[["0.0026","0.000"]],"ps":"BTCUSDT","st":1}"""
COIN_DEPTH = b"""{"e":"depthUpdate","E":1591270260907,"T":1591270260891,"s":"BTCUSD_200626","ps":"BTCUSD",
"U":17285681,"u":17285702,"pu":17285675,"b":[["9517.6","10"]],"a":[["9518.5","45"]],"st":2}"""
QUOTE = b"""{"e":"bookTicker","u":600859600576,"s":"SUSHIUSDT","b":"7.6110","B":"2","a":"7.6120","A":"297",
"T":1626992741012,"E":1626992741017}"""
MARK = b"""{"e":"markPriceUpdate","E":1562305380000,"s":"BTCUSDT","p":"11794.15","i":"11784.62659091",
"P":"11784.25641265","r":"0.00038167","ap":"11794.15","T":1562306400000,"st":1}"""
DELIVERED_MARK = b"""{"e":"markPriceUpdate","E":1591261236000,"s":"BTCUSD_200626","p":"10934.62615417",
"P":"10962.17178236","r":"","T":0,"st":2}"""
FORCED = b"""{"e":"forceOrder","E":1568014460893,"o":{"s":"BTCUSDT","S":"SELL","o":"LIMIT","f":"IOC","q":"0.014",
"p":"9910","ap":"9911","X":"FILLED","l":"0.014","z":"0.014","T":1568014460890},"ps":"BTCUSDT","st":1}"""
TICKER = b"""{"e":"24hrTicker","E":1591268262453,"s":"BTCUSD_200626","ps":"BTCUSD","p":"-43.4","P":"-0.452",
"w":"0.00147974","c":"9548.5","Q":"2","o":"9591.9","h":"10000.0","l":"7000.0","v":"487850","q":"32968676323.46222700",
"O":1591181820000,"C":1591268262442,"F":512014,"L":615289,"n":103272,"st":2}"""
CANDLE = b"""{"e":"kline","E":1591261542539,"s":"BTCUSD_200626","k":{"t":1591261500000,"T":1591261559999,
"s":"BTCUSD_200626","i":"1m","f":606400,"L":606430,"o":"9638.9","c":"9639.8","h":"9639.8","l":"9638.6","v":"156",
"n":31,"x":false,"q":"1.61836886","V":"73","Q":"0.75731156","B":"0"}}"""


def at(ms: int) -> tuple[int, int, int]:
    """First, last and ts_event of what has no id."""
    return ms * MS, ms * MS, ms * MS


def delta(before: int, first: int, last: int, bids: list[list[str]], asks: list[list[str]]) -> dict[str, Any]:
    ids = {"first_id": str(first), "last_id": str(last), "prev_id": str(before)}
    return {"type": "delta", "bids": bids, "asks": asks, **ids}


PRICES = {"mark_price": "11794.15", "index_price": "11784.62659091"}
FUNDING = {"rate": "0.00038167", "predicted_rate": None, "next_ts": 1562306400000 * MS}
UPDATES: dict[bytes, Update | list[Update]] = {
    TRADE: Update(
        "trade", "BTCUSDT", 3493102749, 3493102749, 1679851564486 * MS,
        {"id": "3493102749", "price": "27785.00", "amount": "0.014", "side": "sell"},
    ),
    AGG_TRADE: Update(
        "agg_trade", "BNBUSDT", 5933014, 5933014, 1571889248270 * MS,
        {"id": "5933014", "price": "0.001", "amount": "100", "side": "buy", "first_id": "100", "last_id": "105"},
    ),
    DEPTH: Update(
        "book", "BNBUSDT", 150, 160, 1571889248276 * MS,
        delta(149, 157, 160, [["0.0024", "10"]], [["0.0026", "0.000"]]),
    ),
    QUOTE: Update(
        "quote", "SUSHIUSDT", 600859600576, 600859600576, 1626992741012 * MS,
        {"bid_price": "7.6110", "bid_amount": "2", "ask_price": "7.6120", "ask_amount": "297"},
    ),
    MARK: [
        Update("mark", "BTCUSDT", *at(1562305380000), PRICES),
        Update("funding", "BTCUSDT", *at(1562305380000), FUNDING),
    ],
    FORCED: Update(
        "liquidation", "BTCUSDT", *at(1568014460890), {"id": None, "price": "9910", "amount": "0.014", "side": "sell"}
    ),
}  # fmt: skip
COIN_UPDATES: dict[bytes, Update | list[Update]] = {
    COIN_DEPTH: Update(
        "book", "BTCUSD_200626", 17285676, 17285702, 1591270260891 * MS,
        delta(17285675, 17285681, 17285702, [["9517.6", "10"]], [["9518.5", "45"]]),
    ),
    DELIVERED_MARK: Update(
        "mark", "BTCUSD_200626", *at(1591261236000), {"mark_price": "10934.62615417", "index_price": None}
    ),
    TICKER: Update(
        "ticker", "BTCUSD_200626", *at(1591268262453),
        {"last": "9548.5", "open": "9591.9", "high": "10000.0", "low": "7000.0", "volume": "487850",
         "quote_volume": None},
    ),
    CANDLE: Update(
        "candle", "BTCUSD_200626", *at(1591261542539),
        {"interval": "1m", "open_ts": 1591261500000 * MS, "close_ts": 1591261559999 * MS, "open": "9638.9",
         "high": "9639.8", "low": "9638.6", "close": "9639.8", "volume": "156", "quote_volume": None, "trades": 31,
         "closed": False},
    ),
}  # fmt: skip
"""`quote_volume`: COIN-M tells the volume in the base asset."""

REST: dict[str, bytes] = {
    "/fapi/v1/depth?symbol=BTCUSDT&limit=1000": b"""{"lastUpdateId":7,"E":1589436922972,"T":1589436922959,
"bids":[["4.0","431.000"]],"asks":[["4.2","12"]]}""",
    "/fapi/v1/aggTrades?symbol=BTCUSDT&fromId=26129&limit=1000": b"""[{"a":26129,"p":"0.01","q":"4.70443515",
"nq":"4.7","f":27781,"l":27783,"T":1498793709153,"m":true}]""",
    "/fapi/v1/openInterest?symbol=BTCUSDT": b"""{"openInterest":"10659.509","symbol":"BTCUSDT","time":1589437530011}""",
    "/fapi/v1/exchangeInfo": b"""{"symbols":[{"symbol":"BTCUSDT","pair":"BTCUSDT","contractType":"PERPETUAL",
"deliveryDate":4133404800000,"status":"TRADING","baseAsset":"BTC","quoteAsset":"USDT","marginAsset":"USDT",
"pricePrecision":2,"filters":[{"filterType":"LOT_SIZE","stepSize":"0.001"},{"filterType":"PRICE_FILTER",
"tickSize":"0.10"}]},{"symbol":"BTCUSDT_251226","contractType":"CURRENT_QUARTER","deliveryDate":1766736000000,
"status":"PENDING_TRADING","baseAsset":"BTC","quoteAsset":"USDT","marginAsset":"USDT","filters":[{"filterType":
"PRICE_FILTER","tickSize":"0.1"},{"filterType":"LOT_SIZE","stepSize":"0.001"}]},{"symbol":"BAD"},
{"symbol":"DELIVERED","contractType":"","status":"SETTLING"}]}""",
    "/dapi/v1/exchangeInfo": b"""{"symbols":[{"symbol":"BTCUSD_PERP","pair":"BTCUSD","contractType":"PERPETUAL",
"deliveryDate":4133404800000,"contractStatus":"TRADING","contractSize":100,"baseAsset":"BTC","quoteAsset":"USD",
"marginAsset":"BTC","filters":[{"filterType":"PRICE_FILTER","tickSize":"0.1"},{"filterType":"LOT_SIZE",
"stepSize":"1"}]}]}""",
}  # fmt: skip


def wrapped(payload: bytes) -> bytes:
    return b'{"stream":"some@stream","data":' + payload + b"}"


@pytest.mark.parametrize("wrap", [bytes, wrapped])
def test_a_frame_of_each_stream_gives_every_field_with_the_exchanges_digits(wrap: Any) -> None:
    for adapter, updates in ((USDM, UPDATES), (COINM, COIN_UPDATES)):
        for payload, expected in updates.items():
            assert adapter.parse(orjson.loads(wrap(payload))) == expected


def test_a_trade_beside_the_book_says_so() -> None:
    for sort in ("INSURANCE_FUND", "ADL", "NA"):
        update = USDM.parse({**orjson.loads(TRADE), "X": sort})
        assert isinstance(update, Update) and update.fields["type"] == sort.lower()


def test_funding_of_zero_is_a_rate_and_none_is_none() -> None:
    frame = orjson.loads(MARK)
    zero = USDM.parse({**frame, "r": "0.00000000"})
    assert isinstance(zero, list) and zero[1].fields["rate"] == "0.00000000"
    for none in ({"r": "", "T": 0}, {"r": "0", "T": 0}, {"r": ""}):
        update = USDM.parse({**frame, **none})
        assert isinstance(update, Update) and update.channel == "mark"


def test_an_array_of_all_symbols_gives_those_of_the_exchange_alone() -> None:
    """Since both share one gateway, the streams of all symbols mix them."""
    mixed = {"stream": "!markPrice@arr@1s", "data": [orjson.loads(MARK), orjson.loads(DELIVERED_MARK)]}
    assert USDM.parse(mixed) == UPDATES[MARK]
    assert COINM.parse(mixed) == [COIN_UPDATES[DELIVERED_MARK]]
    assert USDM.parse({"stream": "!markPrice@arr@1s", "data": [orjson.loads(DELIVERED_MARK)]}) is None


def test_streams_lie_on_the_address_that_serves_them() -> None:
    names = USDM.streams("BTCUSDT", list(USDM.CHANNELS), ["1m"])
    by_path = {shard.path: shard.streams for shard in spread([names], 200, USDM.path)}
    assert by_path == {
        "/public/stream": {
            "btcusdt@trade": ("trade", "BTCUSDT"),
            "btcusdt@depth@100ms": ("book", "BTCUSDT"),
            "btcusdt@bookTicker": ("quote", "BTCUSDT"),
        },
        "/market/stream": {
            "btcusdt@aggTrade": ("agg_trade", "BTCUSDT"),
            "btcusdt@ticker": ("ticker", "BTCUSDT"),
            "btcusdt@markPrice@1s": ("mark", "BTCUSDT"),
            "btcusdt@forceOrder": ("liquidation", "BTCUSDT"),
            "btcusdt@kline_1m": ("candle", "BTCUSDT"),
        },
    }
    assert USDM.streams("BTCUSDT", ["funding"], []) == {"btcusdt@markPrice@1s": ("funding", "BTCUSDT")}
    assert {COINM.path(name) for name in COINM.streams("BTCUSD_PERP", ["book", "mark"], [])} == {"/stream"}


def test_a_symbol_spelled_otherwise_is_told_with_the_right_one() -> None:
    usdm, coinm = ("btcusdt", "BTC-USDT-PERP", "BTC/USDT", "BTCUSDT_PERP"), ("BTCUSD", "BTC-USD-PERP", "btcusd_perp")
    for adapter, right, wrongs in ((USDM, "BTCUSDT", usdm), (COINM, "BTCUSD_PERP", coinm)):
        assert adapter.symbol_error(right) is None and adapter.symbol_error("") is not None
        for wrong in wrongs:
            assert f"did you mean {right}?" in (adapter.symbol_error(wrong) or "")
    assert COINM.symbol_error("BTCUSD_251226") is None


def test_subscribing_speaks_as_documented() -> None:
    assert USDM.subscribe(["a@trade"], 1) == [b'{"method":"SUBSCRIBE","params":["a@trade"],"id":1}']
    assert USDM.unsubscribe(["a@trade"], 2) == [b'{"method":"UNSUBSCRIBE","params":["a@trade"],"id":2}']
    assert USDM.reply({"result": None, "id": 1}) == Reply(1, None)
    assert USDM.reply({"code": 2, "msg": "no", "id": 4}) == Reply(4, "2 no")
    assert all(USDM.reply(orjson.loads(payload)) is None for payload in UPDATES)


def test_rest_answers_give_book_trades_open_interest_and_instruments() -> None:
    book, trades, interest, contracts, coins = (USDM.parse_rest(url, body) for url, body in REST.items())
    assert book == Snapshot("BTCUSDT", 7, 1589436922959 * MS, [["4.0", "431.000"]], [["4.2", "12"]])  # type: ignore[list-item]
    assert isinstance(trades, list) and (trades[0].first, trades[0].last) == (26129, 26129)
    assert (trades[0].fields["first_id"], trades[0].fields["side"]) == ("27781", "sell")
    assert interest == [Update("open_interest", "BTCUSDT", *at(1589437530011), {"open_interest": "10659.509"})]
    usdt: dict[str, Any] = {"base": "BTC", "quote": "USDT", "settle": "USDT", "lot_size": "0.001"}
    usd: dict[str, Any] = {"base": "BTC", "quote": "USD", "settle": "BTC", "lot_size": "1"}
    expected = {
        "BTCUSDT": instrument("BTC-USDT-PERP", type="perpetual", status="trading", tick_size="0.10", **usdt),
        "BTCUSDT_251226": instrument(
            "BTC-USDT-20251226", type="future", status="pending_trading", expiry=1766736000 * 10**9, tick_size="0.1",
            **usdt,
        ),
        "BTCUSD_PERP": instrument(
            "BTC-USD-PERP", type="perpetual", status="trading", contract_size="100", tick_size="0.1", **usd
        ),
    }  # fmt: skip
    found = {update.symbol: update.fields for update in [*cast(list[Update], contracts), *cast(list[Update], coins)]}
    assert found == expected
    assert COINM.trading_symbols(REST["/dapi/v1/exchangeInfo"]) == {"BTCUSD_PERP": "TRADING"}
    assert COINM.trading_symbols(b"no") == {}


def test_requests_name_path_weight_and_a_depth_that_there_is() -> None:
    snapshot = Action("snapshot", "book", "BTCUSDT")
    asked = {depth: USDM.request(snapshot, depth) for depth in (7, 100, 400, 1000, 5000)}
    assert {depth: request.weight for depth, request in asked.items()} == {7: 2, 100: 5, 400: 10, 1000: 20, 5000: 20}
    assert asked[5000].path == "/fapi/v1/depth?symbol=BTCUSDT&limit=1000" and asked[400].path.endswith("limit=500")
    for action in (Action("poll", "open_interest", "BTCUSDT"), Action("backfill", "agg_trade", "BTCUSDT", 26129)):
        assert USDM.request(action, 0).path in REST
    assert COINM.instruments_request(["BTCUSD_PERP"]).path in REST


def book_update(before: int, last: int, first: int | None = None) -> Update:
    frame = {**orjson.loads(DEPTH), "U": first or before + 3, "u": last, "pu": before, "b": [["1", str(last)]]}
    return cast(Update, USDM.parse(frame))


@pytest.mark.parametrize(
    ("snapshot", "deltas", "applied"),
    [
        (100, [(90, 100), (100, 120)], [100, 120]),  # one that ends at the snapshot, then pu == id, U > id + 1
        (100, [(100, 120), (120, 130)], [120, 130]),  # the very first delta goes on from the snapshot
        (100, [(90, 95), (95, 105), (105, 107)], [105, 107]),  # the snapshot lies within a delta
        (99, [(90, 95), (95, 105)], [105]),  # pu <= id < u, though U may be beyond id + 1
        (110, [(90, 95), (95, 105)], []),  # the snapshot is ahead of the stream
    ],
)
def test_a_book_joins_at_pu(snapshot: int, deltas: list[tuple[int, int]], applied: list[int]) -> None:
    """exchanges.md 2.5, held before the snapshot came or after it."""
    sync = BookSync(USDM.BOOK)
    for before, last in deltas:
        assert not sync.breaks(book_update(before, last)) and not sync.delta(book_update(before, last))
    following = sync.snapshot(Snapshot("BNBUSDT", snapshot, None, [("2", "1")], []))
    assert following is not None and [update.last for update in following] == applied
    later = BookSync(USDM.BOOK)
    later.delta(book_update(*deltas[0]))
    assert later.snapshot(Snapshot("BNBUSDT", snapshot, None, [("2", "1")], [])) is not None
    for before, last in deltas[1:]:
        assert not later.breaks(book_update(before, last))
        later.delta(book_update(before, last))
    assert later.book.top() == sync.book.top() and later.id == sync.id


def test_a_snapshot_that_nothing_goes_on_from_is_asked_for_again() -> None:
    sync = BookSync(USDM.BOOK)
    sync.delta(book_update(100, 110))
    assert sync.snapshot(Snapshot("BNBUSDT", 99, None, [], [])) is None and not sync.synced
    assert sync.snapshot(Snapshot("BNBUSDT", 115, None, [], [])) is not None
    assert sync.breaks(book_update(117, 120)) and not sync.breaks(book_update(110, 120))
    sync.delta(book_update(110, 120))
    assert sync.breaks(book_update(115, 125)), "from here on pu is the id before, exactly"
    assert USDM.parse({**orjson.loads(DEPTH), "pu": 2**64 - 1}) is None, "the id after it is beyond 64 bits"


def record(normaliser: Normaliser, seq: int, kind: str, payload: bytes | None = None, **more: Any) -> list[Any]:
    messages = normaliser.messages(decode(encode(seq, seq, kind, payload=payload, **more)))
    return [orjson.loads(message.partition(b" ")[2]) for message in messages]


def begun(adapter: Adapter, symbol: str) -> Normaliser:
    normaliser = Normaliser(adapter)
    subscriptions = {"symbols": [symbol], "channels": list(adapter.CHANNELS)}
    record(normaliser, 1, "start", orjson.dumps({"subscriptions": subscriptions}))
    return normaliser


def test_a_connection_that_lags_behind_the_one_it_replaces_does_not_break_the_book() -> None:
    normaliser, head = begun(USDM, "BNBUSDT"), {"url": "/fapi/v1/depth?symbol=BNBUSDT", "status": 200}
    chain = [{**orjson.loads(DEPTH), "pu": last - 10, "U": last - 5, "u": last} for last in range(100, 160, 10)]
    frames = [orjson.dumps(frame) for frame in chain]
    record(normaliser, 2, "in", frames[0], conn=1)
    book = b'{"lastUpdateId":95,"bids":[],"asks":[]}'
    events = record(normaliser, 3, "rest", book, channel="book", symbol="BNBUSDT", head=head)
    for seq, frame in enumerate(frames[1:4], 4):
        events += record(normaliser, seq, "in", frame, conn=1)
    record(normaliser, 8, "in", frames[1], conn=2)
    record(normaliser, 9, "switch", conn=2, head={"from": 1})
    for seq, frame in enumerate(frames[2:], 10):
        events += record(normaliser, seq, "in", frame, conn=2)
    assert [event["channel"] for event in events] == ["book"] * 7
    assert [event["last_id"] for event in events] == ["95", "100", "110", "120", "130", "140", "150"]


@pytest.fixture(scope="module")
def recorded() -> list[Line]:
    if not RECORDING.exists():
        pytest.skip(f"{RECORDING.name} is not at hand")
    return list(islice(read_lines(RECORDING), 12_000))


def replay(normaliser: Normaliser, lines: list[Line], seq: int = 2) -> list[Any]:
    events = []
    for number, line in enumerate(lines, seq):
        if line.kind == TEXT:
            events += record(normaliser, number, "in", line.payload, conn=1)
        else:
            head = {"url": "/fapi/v1/depth?symbol=BTCUSDT&limit=1000", "status": 200}
            events += record(normaliser, number, "rest", line.payload, channel="book", symbol="BTCUSDT", head=head)
    return events


def test_the_recording_gives_all_of_its_events_and_no_gap(recorded: list[Line]) -> None:
    normaliser = begun(USDM, "BTCUSDT")
    events = replay(normaliser, recorded)
    books = [event for event in events if event["channel"] == "book"]
    assert {event["channel"] for event in events} == {"trade", "quote", "book"} and not normaliser.errors
    assert len(events) - len(books) == sum(b'"depthUpdate"' not in line.payload for line in recorded) - 1
    assert (books[0]["type"], books[0]["last_id"]) == ("snapshot", "5123107852948")
    assert (books[1]["prev_id"], books[1]["last_id"]) == ("5123107850146", "5123107853551")
    assert all(after["prev_id"] == before["last_id"] for before, after in pairwise(books[1:]))
    assert next(event for event in events if event["channel"] == "trade")["ts_event"] == 1723161256322 * MS
    bids, asks = normaliser.symbols["BTCUSDT"].sync.book.top(1)
    assert float(bids[0][0]) < float(asks[0][0])


def test_a_frame_taken_out_of_the_recording_is_one_gap_until_the_next_snapshot(recorded: list[Line]) -> None:
    depths = [place for place, line in enumerate(recorded) if b'"depthUpdate"' in line.payload]
    lost, joined = depths[100], depths[104]
    whole, holed = begun(USDM, "BTCUSDT"), begun(USDM, "BTCUSDT")
    replay(whole, recorded[: joined + 1])
    sync = whole.symbols["BTCUSDT"].sync
    bids, asks = sync.book.top()
    book = orjson.dumps({"lastUpdateId": sync.id, "bids": bids, "asks": asks})
    snapshot = recorded[0]._replace(kind="rest", payload=book)
    replay(whole, recorded[joined + 1 :], 20_000)
    without = recorded[:lost] + recorded[lost + 1 : joined + 20] + [snapshot] + recorded[joined + 20 :]
    gaps = [event for event in replay(holed, without) if event["channel"] == "gap"]
    assert [(gap["state"], gap["channels"]) for gap in gaps] == [("open", ["book"]), ("closed", ["book"])]
    assert Action("snapshot", "book", "BTCUSDT") in holed.actions
    assert holed.symbols["BTCUSDT"].sync.book.top() == whole.symbols["BTCUSDT"].sync.book.top()


ODD = st.one_of(
    st.none(), st.booleans(), st.just([]), st.just({}), st.text(max_size=3), st.integers(-(2**70), 2**70),
    st.just(2**63 * 1000), st.floats(allow_nan=False), st.just([["1"]]), st.just([{"e": "trade"}, 1]),
)  # fmt: skip


def mangled(data: st.DataObject, message: Any) -> Any:
    """A genuine message with some values replaced or keys taken away, however deep."""
    message = copy.deepcopy(message)
    for _ in range(data.draw(st.integers(0, 3))):
        place = message
        while isinstance(place, dict | list) and place:
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if isinstance(place[key], dict | list) and data.draw(st.booleans()):
                place = place[key]
                continue
            if data.draw(st.booleans()):
                del place[key]
            else:
                place[key] = copy.deepcopy(data.draw(ODD))
            break
    return message


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_what_is_not_as_documented_never_raises_nor_costs_the_next_record(data: st.DataObject) -> None:
    adapter, updates = data.draw(st.sampled_from([(USDM, UPDATES), (COINM, COIN_UPDATES)]))
    normaliser = begun(adapter, "SUSHIUSDT")
    payload = data.draw(st.sampled_from([*updates, b'{"result":null,"id":1}', b"[]", b'{"stream":"x","data":[{}]}']))
    message = mangled(data, orjson.loads(wrapped(payload) if data.draw(st.booleans()) else payload))
    for look in (adapter.reply, adapter.answer, adapter.is_shutdown, adapter.parse):
        look(message)
    frame = json.dumps(message).encode()
    record(normaliser, 2, "in", frame[: data.draw(st.integers(0, len(frame)))], conn=1)
    record(normaliser, 3, "in", frame, conn=1)
    assert [event["channel"] for event in record(normaliser, 5, "in", QUOTE, conn=1)][-1] == "quote"
    orjson.loads(normaliser.checkpoint("SUSHIUSDT"))
    assert not normaliser.errors
    url, body = data.draw(st.sampled_from(sorted(REST.items())))
    body = json.dumps(mangled(data, orjson.loads(body))).encode()
    read = adapter.parse_rest(data.draw(st.sampled_from([url, url[:20], "//["])), body)
    for update in read if isinstance(read, list) else []:
        assert type(update.last) is int and orjson.dumps(update.fields)
    adapter.trading_symbols(body)
