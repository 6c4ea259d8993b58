"""Bybit v5: what its frames mean, that its books hold together, and that nothing it may send does harm."""

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.adapter import Adapter
from common.events import Reply, Update
from common.exchanges import bybit
from common.foreign_recording import read_frames
from common.journal import Journal
from common.normaliser import Normaliser
from common.record import decode, encode
from common.recorder import Recorder
from tests.test_recorder import Memory

SPOT, LINEAR, INVERSE = (cast(Adapter, exchanges.get(f"bybit-{name}")) for name in ("spot", "linear", "inverse"))
RECORDING = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "bybit" / "all.jsonl.gz"
SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "DOGEUSDT", "ROSEUSDT"]
MS = 1_000_000

recorded = pytest.mark.skipif(not RECORDING.exists(), reason="the recording of Bybit is not at hand")

TRADE = b"""{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{"T":1672304486865,
"s":"BTCUSDT","S":"Buy","v":"0.001","p":"16578.50","L":"PlusTick","i":"20f43950-d8dd-5b31-9112-a178eb6023af","BT":false,
"RPI":false,"seq":1783284617}]}"""
DELTA = b"""{"topic":"orderbook.200.BTCUSDT","type":"delta","ts":1687940967466,"data":{"s":"BTCUSDT",
"b":[["30247.20","30.028"],["30240.00","0"]],"a":[["30248.70","0"]],"u":177400507,"seq":66544703342},
"cts":1687940967464}"""
LEVEL_1 = b"""{"topic":"orderbook.1.BTCUSDT","ts":1687940967466,"type":"snapshot","data":{"s":"BTCUSDT",
"b":[["30247.20","30.028"]],"a":[],"u":177400508,"seq":66544703343},"cts":1687940967464}"""
TICKERS = b"""{"topic":"tickers.BTCUSDT","type":"snapshot","data":{"symbol":"BTCUSDT","tickDirection":"ZeroPlusTick",
"price24hPcnt":"0.001624","lastPrice":"65114.30","prevPrice24h":"65008.70","highPrice24h":"65282.30",
"lowPrice24h":"64694.40","prevPrice1h":"65083.80","markPrice":"65117.44","indexPrice":"65137.76",
"openInterest":"59891.732","openInterestValue":"3899996265.01","turnover24h":"1142118412.9021",
"volume24h":"17573.9120","fundingIntervalHour":"8","nextFundingTime":"1786320000000","fundingRate":"0.0001",
"bid1Price":"65114.20","bid1Size":"5.954","ask1Price":"65114.30","ask1Size":"10.470","preOpenPrice":""},
"cs":753843900397,"ts":1786310817583}"""
CHANGES = b"""{"topic":"tickers.BTCUSDT","type":"delta","data":{"symbol":"BTCUSDT","lastPrice":"65114.40",
"markPrice":"0"},"cs":753843907770,"ts":1786310817883}"""
UNTOLD = b"""{"topic":"tickers.BTCUSDT","type":"delta","data":{"symbol":"BTCUSDT","bid1Price":"65114.20",
"bid1Size":"6.054"},"cs":753843907771,"ts":1786310817983}"""
SPOT_TICKER = b"""{"topic":"tickers.BTCUSDT","ts":1673853746003,"type":"snapshot","cs":2588407389,"data":{
"symbol":"BTCUSDT","lastPrice":"21109.77","highPrice24h":"21426.99","lowPrice24h":"20575","prevPrice24h":"20704.93",
"volume24h":"6780.866843","turnover24h":"141946527.22907118","price24hPcnt":"0.0196","usdIndexPrice":""}}"""
CANDLE = b"""{"topic":"kline.1.BTCUSDT","data":[{"start":1786310760000,"end":1786310819999,"interval":"1",
"open":"65119.9","close":"65114.3","high":"65119.9","low":"65114.2","volume":"1.576","turnover":"102627.995",
"confirm":false,"timestamp":1786310818440}],"ts":1786310818440,"type":"snapshot"}"""
LIQUIDATION = b"""{"topic":"allLiquidation.ROSEUSDT","type":"snapshot","ts":1739502303204,"data":[{"T":1739502302929,
"s":"ROSEUSDT","S":"Sell","v":"20000","p":"0.04499"}]}"""
ACK = b'{"success":true,"ret_msg":"","conn_id":"cejre","req_id":"7","op":"subscribe"}'
PONG = b'{"success":true,"ret_msg":"pong","conn_id":"0970","op":"ping"}'

T_TICKERS = 1786310817583 * MS
T_BOOK = 1687940967464 * MS
NO_FUNDING = {"rate": None, "predicted_rate": None, "next_ts": None}

MEANT: dict[bytes, Any] = {
    TRADE: Update(
        "trade", "BTCUSDT", 1783284617, 1783284617, 1672304486865 * MS,
        {"id": "20f43950-d8dd-5b31-9112-a178eb6023af", "price": "16578.50", "amount": "0.001", "side": "buy"},
    ),
    DELTA: Update(
        "book", "BTCUSDT", 177400507, 177400507, T_BOOK,
        {"type": "delta", "bids": [["30247.20", "30.028"], ["30240.00", "0"]], "asks": [["30248.70", "0"]],
         "last_id": "177400507"},
    ),
    LEVEL_1: Update(
        "quote", "BTCUSDT", 66544703343, 66544703343, T_BOOK,
        {"bid_price": "30247.20", "bid_amount": "30.028", "ask_price": None, "ask_amount": None},
    ),
    TICKERS: [
        Update("ticker", "BTCUSDT", T_TICKERS, T_TICKERS, T_TICKERS, {
            "last": "65114.30", "open": "65008.70", "high": "65282.30", "low": "64694.40", "volume": "17573.9120",
            "quote_volume": "1142118412.9021"}),
        Update("mark", "BTCUSDT", T_TICKERS, T_TICKERS, T_TICKERS, {
            "mark_price": "65117.44", "index_price": "65137.76"}),
        Update("funding", "BTCUSDT", T_TICKERS, T_TICKERS, T_TICKERS, {
            "rate": "0.0001", "predicted_rate": None, "next_ts": 1786320000000 * MS}),
        Update("open_interest", "BTCUSDT", T_TICKERS, T_TICKERS, T_TICKERS, {"open_interest": "59891.732"}),
    ],
    CHANGES: [
        Update("ticker", "BTCUSDT", *(T_TICKERS + 300 * MS,) * 3, {"last": "65114.40"}),
        Update("mark", "BTCUSDT", *(T_TICKERS + 300 * MS,) * 3, {"mark_price": "0"}),
    ],
    UNTOLD: Update("ticker", "BTCUSDT", *(T_TICKERS + 400 * MS,) * 3, {}),
    SPOT_TICKER: Update("ticker", "BTCUSDT", *(1673853746003 * MS,) * 3, {
        "last": "21109.77", "open": "20704.93", "high": "21426.99", "low": "20575", "volume": "6780.866843",
        "quote_volume": "141946527.22907118"}),
    CANDLE: [Update("candle", "BTCUSDT", *(1786310818440 * MS,) * 3, {
        "interval": "1", "open_ts": 1786310760000 * MS, "close_ts": 1786310819999 * MS, "open": "65119.9",
        "high": "65119.9", "low": "65114.2", "close": "65114.3", "volume": "1.576", "quote_volume": "102627.995",
        "trades": None, "closed": False})],
    LIQUIDATION: [Update("liquidation", "ROSEUSDT", *(1739502302929 * MS,) * 3, {
        "id": None, "price": "0.04499", "amount": "20000", "side": "buy"})],
}  # fmt: skip


def normaliser(adapter: Adapter = LINEAR) -> Normaliser:
    made = Normaliser(adapter)
    payload = orjson.dumps({"subscriptions": {"symbols": SYMBOLS, "channels": adapter.CHANNELS}})
    made.messages(decode(encode(1, 1, "start", payload=payload)))
    return made


def told(made: Normaliser, frames: Iterable[bytes], first: int = 2, conn: int = 1) -> list[dict[str, Any]]:
    """The events of frames that one connection brings."""
    lines = [encode(seq, seq, "in", conn=conn, payload=frame) for seq, frame in enumerate(frames, first)]
    return [orjson.loads(message.partition(b" ")[2]) for line in lines for message in made.messages(decode(line))]


def changed(frame: bytes, **data: Any) -> bytes:
    """A frame with other values in its data: of a list, in its only element."""
    message = orjson.loads(frame)
    (message["data"][0] if isinstance(message["data"], list) else message["data"]).update(data)
    return orjson.dumps(message)


@pytest.mark.parametrize("frame", MEANT)
def test_a_frame_of_each_topic_gives_every_field_with_the_exchanges_digits(frame: bytes) -> None:
    assert bybit.parse(orjson.loads(frame)) == MEANT[frame]


def test_the_side_of_a_trade_is_the_takers_and_of_a_liquidation_the_orders() -> None:
    """`S` of a liquidation is the position's: a long one (Buy) is sold."""
    for said, trade, forced in (("Buy", "buy", "sell"), ("Sell", "sell", "buy")):
        (event,) = told(normaliser(), [changed(TRADE, S=said)])
        assert event["side"] == trade
        (event,) = told(normaliser(), [changed(LIQUIDATION, S=said)])
        assert event["side"] == forced
    assert bybit.parse(orjson.loads(changed(TRADE, S="None"))) is None


def test_a_block_trade_says_so() -> None:
    assert told(normaliser(), [changed(TRADE, BT=True)])[0]["type"] == "block"


def test_trades_of_a_frame_are_put_in_the_order_of_seq_and_all_of_one_seq_are_kept() -> None:
    one = orjson.loads(TRADE)["data"][0]
    trades = [{**one, "i": name, "seq": seq} for name, seq in (("c", 9), ("a", 8), ("b", 8))]
    events = told(normaliser(), [orjson.dumps({"topic": "publicTrade.BTCUSDT", "data": trades})] * 1)
    assert [(event["id"], event["part"], event["of"]) for event in events] == [("a", 0, 3), ("b", 1, 3), ("c", 2, 3)]


def test_trades_that_a_second_connection_repeats_are_not_told_twice() -> None:
    made = normaliser()
    frames = [changed(TRADE, seq=seq, i=str(seq)) for seq in range(10, 14)]
    assert len(told(made, frames[:2])) == 2
    assert told(made, frames, 10, conn=2) == []
    switched = made.messages(decode(encode(20, 20, "switch", conn=2, head={"from": 1})))
    assert [orjson.loads(each.partition(b" ")[2])["id"] for each in switched] == ["12", "13"]


def book(kind: str, last: int, bids: list[list[str]]) -> bytes:
    message = orjson.loads(changed(DELTA, u=last, b=bids, a=[]))
    return orjson.dumps({**message, "type": kind})


def test_a_book_begins_with_its_snapshot_and_a_hole_is_one_gap_that_the_next_snapshot_closes() -> None:
    made = normaliser()
    before = told(made, [book("delta", 4, [["1", "1"]])])
    assert before == [] and [action.kind for action in made.actions] == ["snapshot"]
    events = told(
        made,
        [
            book("snapshot", 5, [["1", "1"], ["2", "2"]]),
            book("delta", 6, [["1", "0"]]),
            book("delta", 8, [["3", "3"]]),
            book("delta", 9, [["4", "4"]]),
            book("snapshot", 12, [["5", "5"]]),
            book("delta", 13, [["6", "6"]]),
        ],
        10,
    )
    shape = [(event["channel"], event.get("state") or event["last_id"]) for event in events]
    assert shape == [("book", "5"), ("book", "6"), ("gap", "open"), ("book", "12"), ("gap", "closed"), ("book", "13")]
    assert (events[2]["reason"], events[2]["first_id"], events[2]["last_id"]) == ("sequence", "7", "7")
    assert made.symbols["BTCUSDT"].sync.book.bids == {"5": "5", "6": "6"}


@pytest.mark.parametrize("kind", ["snapshot", "delta"])
def test_a_book_of_u_1_is_a_snapshot_whatever_it_is_called(kind: str) -> None:
    made = normaliser()
    told(made, [book("snapshot", 500, [["1", "1"]])])
    events = told(made, [book(kind, 1, [["2", "2"]]), book("delta", 2, [["3", "3"]])], 10)
    assert [event.get("type") for event in events] == ["snapshot", "delta"]
    assert made.symbols["BTCUSDT"].sync.book.bids == {"2": "2", "3": "3"}


def test_what_a_tickers_delta_leaves_out_is_as_it_was() -> None:
    made = normaliser()
    told(made, [TICKERS])
    ticker, mark = sorted(told(made, [UNTOLD, CHANGES], 10), key=lambda event: -len(event))
    assert (ticker["last"], ticker["open"], ticker["volume"]) == ("65114.40", "65008.70", "17573.9120")
    assert (mark["mark_price"], mark["index_price"]) == ("0", "65137.76")


def test_after_a_checkpoint_a_tickers_delta_gives_the_same_events() -> None:
    made, restored = normaliser(), Normaliser(LINEAR)
    told(made, [TICKERS])
    restored.messages(decode(encode(5, 5, "checkpoint", symbol="BTCUSDT", payload=made.checkpoint("BTCUSDT"))))
    assert told(made, [CHANGES], 10) == told(restored, [CHANGES], 10) != []


def test_after_a_disconnect_nothing_old_is_told_as_new() -> None:
    made = normaliser()
    told(made, [TICKERS])
    made.messages(decode(encode(5, 5, "close", conn=1)))
    events = told(made, [CHANGES], 10, conn=2)
    mark = next(event for event in events if event["channel"] == "mark")
    assert (mark["mark_price"], mark["index_price"]) == ("0", None)
    (ticker,) = [event for event in told(made, [TICKERS], 11, conn=2) if event["channel"] == "ticker"]
    assert None not in ticker.values()


def test_a_dated_future_has_no_funding_and_a_time_of_zero_is_none() -> None:
    without = told(normaliser(), [changed(TICKERS, fundingRate="", nextFundingTime="0")])
    assert {event["channel"] for event in without} == {"ticker", "mark", "open_interest"}
    (event,) = told(normaliser(), [changed(UNTOLD, fundingRate="-0.0003")])
    assert {key: event[key] for key in NO_FUNDING} == {**NO_FUNDING, "rate": "-0.0003"}


def test_one_subscription_brings_four_channels_and_is_filed_under_one_asked_for() -> None:
    assert LINEAR.streams("BTCUSDT", list(LINEAR.CHANNELS), ["1", "D"]) == {
        "publicTrade.BTCUSDT": ("trade", "BTCUSDT"),
        "orderbook.200.BTCUSDT": ("book", "BTCUSDT"),
        "orderbook.1.BTCUSDT": ("quote", "BTCUSDT"),
        "tickers.BTCUSDT": ("mark", "BTCUSDT"),
        "allLiquidation.BTCUSDT": ("liquidation", "BTCUSDT"),
        "kline.1.BTCUSDT": ("candle", "BTCUSDT"),
        "kline.D.BTCUSDT": ("candle", "BTCUSDT"),
    }
    assert LINEAR.streams("X", ["funding"], []) == {"tickers.X": ("funding", "X")}
    assert SPOT.streams("X", ["ticker", "mark", "liquidation"], []) == {"tickers.X": ("ticker", "X")}
    assert [each.path("tickers.X") for each in (SPOT, LINEAR, INVERSE)] == [
        "/v5/public/spot", "/v5/public/linear", "/v5/public/inverse",
    ]  # fmt: skip


def test_frames_of_tickers_lie_with_their_symbol_whichever_of_their_channels_was_asked_for() -> None:
    memory = Memory()
    recorder = Recorder(LINEAR, normaliser(), cast(Journal, memory), memory.published, memory.event)
    recorder.file_under({LINEAR.streams("BTCUSDT", ["funding"], [])["tickers.BTCUSDT"]})
    assert recorder.frames(1, 5, [TICKERS.replace(b"\n", b""), UNTOLD.replace(b"\n", b"")]) == []
    assert [decode(line).symbol for line in memory.lines] == ["BTCUSDT", "BTCUSDT"]


def test_subscribe_frames_are_the_documented_ones() -> None:
    names = ["orderbook.200.BTCUSDT", "publicTrade.BTCUSDT"]
    assert bybit.subscribe(names, 7) == [
        b'{"req_id":"7","op":"subscribe","args":["orderbook.200.BTCUSDT","publicTrade.BTCUSDT"]}'
    ]
    assert bybit.unsubscribe(names[:1], 8) == [b'{"req_id":"8","op":"unsubscribe","args":["orderbook.200.BTCUSDT"]}']
    assert orjson.loads(bybit.PING)["op"] == "ping" and SPOT.STREAMS_PER_SUBSCRIBE == 10


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (ACK, Reply(7, None)),
        (ACK.replace(b'"7"', b'""'), Reply(None, None)),
        (b'{"success":true,"ret_msg":"subscribe","conn_id":"x","req_id":"9","op":"subscribe"}', Reply(9, None)),
        (
            b'{"success":false,"ret_msg":"Invalid topic: invalid.topic.BTCUSDT","conn_id":"..","op":"subscribe"}',
            Reply(None, "Invalid topic: invalid.topic.BTCUSDT"),
        ),
        (b'{"success":true,"ret_msg":"","conn_id":"x","req_id":"","op":"unsubscribe"}', Reply("unsubscribe", None)),
        (PONG, Reply("pong", None)),
        (b'{"args":["1672916271846"],"op":"pong"}', Reply("pong", None)),
        (TRADE, None),
        (b"[]", None),
        (b'{"op":["ping"]}', None),
    ],
)
def test_an_answer_is_told_from_market_data_and_a_pong_from_an_acknowledgement(message: bytes, reply: Any) -> None:
    assert bybit.reply(orjson.loads(message)) == reply


def frames() -> list[bytes]:
    return [payload for _, _, payload in read_frames(RECORDING)]


@recorded
def test_the_recording_is_understood_and_its_books_hold_without_a_gap() -> None:
    made = normaliser()
    recording = frames()
    counted = Counter(event["channel"] for event in told(made, recording))
    assert counted == {
        "book": 804, "trade": 127, "mark": 68, "candle": 38, "ticker": 33, "open_interest": 12, "funding": 6,
    }  # fmt: skip
    for frame in recording:
        message = orjson.loads(frame)
        assert (bybit.parse(message) is None) == (bybit.reply(message) is not None)
    for symbol in SYMBOLS[:4]:
        bids, asks = made.symbols[symbol].sync.book.top()
        assert len(bids) == len(asks) == 200 and float(bids[0][0]) < float(asks[0][0])
    assert not made.errors and not made.actions


@recorded
def test_a_delta_taken_out_of_the_recording_is_one_gap_and_a_snapshot_is_asked_for() -> None:
    recording = frames()
    deltas = [place for place, frame in enumerate(recording) if b'"orderbook.200.BTCUSDT","type":"delta"' in frame]
    lost = deltas[random.Random(5).randrange(len(deltas) - 1)]
    made = normaliser()
    gaps = [event for event in told(made, recording[:lost] + recording[lost + 1 :]) if event["channel"] == "gap"]
    last = orjson.loads(recording[lost])["data"]["u"]
    assert [(gap["symbol"], gap["state"], gap["first_id"]) for gap in gaps] == [("BTCUSDT", "open", str(last))]
    assert [(action.kind, action.symbol) for action in made.actions] == [("snapshot", "BTCUSDT")]
    snapshot = next(frame for frame in recording if b'"orderbook.200.BTCUSDT","type":"snapshot"' in frame)
    again = told(made, [snapshot, *(recording[place] for place in deltas[:9])], 10_000)
    assert Counter(event["channel"] for event in again) == {"book": 10, "gap": 1}


ODD = st.one_of(
    st.none(), st.booleans(), st.just([]), st.just({}), st.text(max_size=3), st.integers(-(2**60), 2**60),
    st.just(2**63), st.just("9" * 5000), st.floats(allow_nan=False), st.just([[]]), st.just([["1"]]), st.just([{}]),
    st.just([["1", 2]]), st.just("BTCUSDT"), st.just(1),
)  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A genuine frame with a value replaced, a key taken away, or its end cut off."""
    message = orjson.loads(draw(st.sampled_from([*MEANT, ACK, PONG])))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = message
        while isinstance(place, dict) and place:
            key = draw(st.sampled_from(sorted(place)))
            inner = place[key][0] if isinstance(place[key], list) and place[key] else place[key]
            if isinstance(inner, dict) and draw(st.booleans()):
                place = inner
            elif draw(st.booleans()):
                del place[key]
                break
            else:
                place[key] = draw(ODD)
                break
    payload = orjson.dumps(message)
    return payload[: draw(st.integers(0, len(payload)))] if draw(st.integers(0, 9)) == 0 else payload


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(mangled(), min_size=1, max_size=6))
def test_frames_that_are_not_as_documented_never_raise_nor_cost_the_next_event(odd: list[bytes]) -> None:
    made = normaliser()
    told(made, odd)
    for frame in odd:
        try:
            message = orjson.loads(frame)
        except orjson.JSONDecodeError:
            continue
        bybit.reply(message)
        LINEAR.answer(message)
        found = bybit.parse(message)
        assert found is None or found != []
        bybit.parse_rest("/v5/market/instruments-info?category=linear", frame)
        bybit.trading_symbols(frame)
    made.messages(decode(encode(98, 98, "close", conn=1)))
    good = [event["channel"] for event in told(made, [LEVEL_1], 99, conn=2)]
    assert good[-1] in ("quote", "gap") and "quote" in good and not made.errors
    for symbol in made.symbols:
        orjson.loads(made.checkpoint(symbol))
