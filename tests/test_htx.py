"""What the frames of HTX mean: genuine ones of 2021, and those of its incremental book as documented."""

import gzip
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.events import Action, Reply, Snapshot, Update
from common.exchanges import htx, htx_standin
from common.foreign_recording import BINARY, read_frames, read_rest
from common.standin_dialect import RefusedError
from tests.exchange_runs import Run, dumps, mangled

MS = 1_000_000
LIMIT = 1 << 20
ADAPTER = exchanges.get("htx")
RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "htx"
recorded = pytest.mark.skipif(not RECORDINGS.exists(), reason=f"no recordings at {RECORDINGS}")

TRADE = (
    b'{"ch":"market.trioeth.trade.detail","ts":1618678027942,"tick":{"id":100182534526,"ts":1618678027940,"data":[{"id":'
    b'100182534526255757567432481,"ts":1618678027940,"tradeId":100045088885,"amount":20995.88,"price":9.2E-7,'
    b'"direction":"buy"}]}}'
)
TRADES = (
    b'{"ch":"market.zeneth.trade.detail","ts":1618678006267,"tick":{"id":100373972746,"ts":1618678006262,"data":[{"id":'
    b'100373972746255757500235867,"ts":1618678006262,"tradeId":100039973212,"amount":7.20,"price":0.051598,"direction":'
    b'"sell"},{"id":100373972746255757533397552,"ts":1618678006262,"tradeId":100039973211,"amount":7.2,"price":0.051598,'
    b'"direction":"sell"}]}}'
)
DELTA = (
    b'{"ch":"market.btcusdt.mbp.150","ts":1573199608679,"tick":{"seqNum":109409288160,"prevSeqNum":109409288130,"asks":'
    b'[[9138.6,0.010259],[9139,0.0]],"bids":[]}}'
)
SNAPSHOT = (
    b'{"id":"1","rep":"market.btcusdt.mbp.150","status":"ok","data":{"seqNum":109409288130,"bids":[[9137.50,1]],"asks":'
    b"[[9139,2.5]]}}"
)
WHOLE_BOOK = (
    b'{"ch":"market.trioeth.depth.step0","ts":1618678069870,"tick":{"bids":[[9.121E-7,92730.24],[1.0E-10,2.2E8]],"asks":'
    b'[[9.28E-7,4342.25]],"version":100182534697,"ts":1618678069868}}'
)
QUOTE = (
    b'{"ch":"market.btcusdt.bbo","ts":1629788763752,"tick":{"seqId":137005210233,"ask":52665.02,"askSize":1.502181,"bid":'
    b'52665.010,"bidSize":0,"quoteTime":1629788763750,"symbol":"btcusdt"}}'
)
TICKER = (
    b'{"ch":"market.btcusdt.detail","ts":1494496390000,"tick":{"amount":12224.2922,"open":9790.52,"close":10195.00,'
    b'"high":10300.00,"id":1494496390,"count":15195,"low":9657.00,"version":1494496390,"vol":121906001.754751}}'
)
CANDLE = (
    b'{"ch":"market.ethbtc.kline.1min","ts":1489474082831,"tick":{"id":1489464480,"amount":0.0,"count":0,"open":7962.62,'
    b'"close":7962.62,"low":7962.62,"high":7962.62,"vol":0.0}}'
)
PING = b'{"ping":1618678073643}'
ACK = b'{"id":"1","status":"ok","subbed":"market.btcusdt.trade.detail","ts":1489474081631}'
ERROR = b'{"status":"error","err-code":"bad-request","err-msg":"invalid symbol x","id":"7","ts":1489474081631}'
INSTRUMENTS = (
    "/v1/settings/common/market-symbols?symbols=btcusdt",
    b'{"status":"ok","data":[{"symbol":"btcusdt","state":"online","bc":"btc","qc":"usdt","pp":2,"ap":6,"sp":"main"},'
    b'{"symbol":"oldusdt","state":"offline","bc":"old","qc":"usdt","pp":0,"ap":4}],"ts":"1641880897191","full":1}',
)


def tick(channel: str, symbol: str, number: int, ms: int, fields: dict[str, Any]) -> Update:
    return Update(channel, symbol, number, number, ms * MS, fields)


PARSED: dict[bytes, Any] = {
    TRADE: tick(
        "trade", "trioeth", 100045088885, 1618678027940,
        {"id": "100182534526255757567432481", "price": "9.2E-7", "amount": "20995.88", "side": "buy"},
    ),
    TRADES: [
        tick("trade", "zeneth", 100039973211, 1618678006262,
             {"id": "100373972746255757533397552", "price": "0.051598", "amount": "7.2", "side": "sell"}),
        tick("trade", "zeneth", 100039973212, 1618678006262,
             {"id": "100373972746255757500235867", "price": "0.051598", "amount": "7.20", "side": "sell"}),
    ],
    DELTA: Update(
        "book", "btcusdt", 109409288131, 109409288160, 1573199608679 * MS,
        {"type": "delta", "bids": [], "asks": [["9138.6", "0.010259"], ["9139", "0.0"]], "last_id": "109409288160",
         "prev_id": "109409288130"},
    ),
    SNAPSHOT: Snapshot("btcusdt", 109409288130, None, [["9137.50", "1"]], [["9139", "2.5"]]),  # type: ignore[list-item]
    WHOLE_BOOK: tick(
        "book", "trioeth", 100182534697, 1618678069868,
        {"type": "snapshot", "bids": [["9.121E-7", "92730.24"], ["1.0E-10", "2.2E8"]],
         "asks": [["9.28E-7", "4342.25"]], "last_id": "100182534697"},
    ),
    QUOTE: tick(
        "quote", "btcusdt", 137005210233, 1629788763750,
        {"bid_price": "52665.010", "bid_amount": "0", "ask_price": "52665.02", "ask_amount": "1.502181"},
    ),
    TICKER: tick(
        "ticker", "btcusdt", 1494496390000 * MS, 1494496390000,
        {"last": "10195.00", "open": "9790.52", "high": "10300.00", "low": "9657.00", "volume": "12224.2922",
         "quote_volume": "121906001.754751"},
    ),
    CANDLE: tick(
        "candle", "ethbtc", 1489474082831 * MS, 1489474082831,
        {"interval": "1min", "open_ts": 1489464480000 * MS, "close_ts": None, "open": "7962.62", "high": "7962.62",
         "low": "7962.62", "close": "7962.62", "volume": "0.0", "quote_volume": "0.0", "trades": 0, "closed": None},
    ),
}  # fmt: skip


def frames() -> list[bytes]:
    """The recording's frames, inflated."""
    found = list(read_frames(RECORDINGS / "ws-44.txt.gz"))
    assert all(kind == BINARY for _, kind, _ in found)
    return [htx.inflate(payload, LIMIT) for _, _, payload in found]


def delta(before: int, last: int, *bids: list[float]) -> bytes:
    message = orjson.loads(DELTA)
    message["tick"] = {"seqNum": last, "prevSeqNum": before, "asks": [], "bids": bids}
    return orjson.dumps(message)


def snapshot(last: int) -> bytes:
    message = orjson.loads(SNAPSHOT)
    message["data"]["seqNum"] = last
    return orjson.dumps(message)


@pytest.mark.parametrize("payload", PARSED)
def test_a_frame_of_each_topic_gives_every_field_with_the_exchanges_digits(payload: bytes) -> None:
    assert htx.parse(htx.loads(payload)) == PARSED[payload]


def test_a_side_of_a_quote_that_is_not_there_is_none() -> None:
    quote = cast(Update, htx.parse(htx.loads(QUOTE.replace(b"52665.02", b"null"))))
    assert quote.fields["ask_price"] is None and quote.fields["bid_amount"] == "0"


def test_a_frame_is_inflated_whole_within_its_bound_or_refused() -> None:
    packed = gzip.compress(TRADE)
    assert htx.inflate(packed, len(TRADE)) == TRADE
    bomb = gzip.compress(bytes(50_000_000))
    for bad in (packed[:-1], packed + b"x", packed + packed, b"", TRADE, b"\x1f\x8b", bomb):
        with pytest.raises(ValueError):
            htx.inflate(bad, len(TRADE))
    with pytest.raises(ValueError):
        htx.inflate(packed, len(TRADE) - 1)


def test_trades_of_a_frame_are_put_in_order_and_what_a_subscription_repeats_is_not_told_twice() -> None:
    run = Run(ADAPTER, "zeneth")
    run.take(TRADES)
    run.take(TRADES)
    assert [event["id"][-4:] for event in run.of("trade")] == ["7552", "5867"] and not run.of("gap")
    run.close(1)
    run.take(TRADES, conn=2)
    run.take(TRADES.replace(b"100039973212", b"100039973215").replace(b"100039973211", b"100039973214"), conn=2)
    assert len(run.of("trade")) == 4
    lost = [event for event in run.of("gap") if event.get("first_id")]
    assert [(each["first_id"], each["last_id"]) for each in lost] == [("100039973213", "100039973213")]
    assert not run.normaliser.actions  # nothing can be fetched by id


def test_a_book_joins_the_snapshot_asked_for_and_goes_on_by_prev_ids() -> None:
    run = Run(ADAPTER, "btcusdt")
    run.take(delta(90, 100, [1.0, 1.0]))
    run.take(delta(100, 110, [2.0, 1.0]))
    assert not run.events and run.normaliser.actions == [Action("snapshot", "book", "btcusdt")]
    run.take(snapshot(100))
    run.take(delta(110, 120, [1.0, 0.0]))
    assert [event["last_id"] for event in run.of("book")] == ["100", "110", "120"]
    sync = run.normaliser.symbols["btcusdt"].sync
    assert sync.book.bids == {"9137.5": "1", "2.0": "1.0"} and not run.of("gap")
    run.take(delta(121, 130))
    run.take(delta(130, 140))
    assert run.gaps() == [("open", "sequence")] and len(run.normaliser.actions) == 2
    run.take(snapshot(95))  # too old: asked for again
    assert len(run.normaliser.actions) == 3 and not sync.synced
    run.take(snapshot(130))
    assert run.gaps() == [("open", "sequence"), ("closed", "sequence")]
    assert [event["last_id"] for event in run.of("book")][3:] == ["130", "140"]


def test_a_snapshot_that_only_meets_the_first_change_is_enough() -> None:
    """The first update whose prevSeqNum is the snapshot's seqNum goes on from it."""
    run = Run(ADAPTER, "btcusdt")
    run.take(delta(90, 100))
    run.take(snapshot(90))
    assert [event["last_id"] for event in run.of("book")] == ["90", "100"]


def test_a_snapshot_that_no_change_follows_is_a_book_and_changes_go_on_from_it() -> None:
    run = Run(ADAPTER, "btcusdt")
    run.take(snapshot(90))
    assert [event["type"] for event in run.of("book")] == ["snapshot"] and not run.gaps()
    run.take(delta(90, 100))
    run.take(snapshot(90), conn=2)  # of a connection that is not followed
    assert [event["last_id"] for event in run.of("book")] == ["90", "100"]
    run.close(1)
    run.take(snapshot(110), conn=2)
    run.take(delta(110, 120), conn=2)
    assert [event["last_id"] for event in run.of("book")][2:] == ["110", "120"]
    assert run.gaps() == [("open", "disconnected"), ("closed", "disconnected")]


@recorded
def test_the_recordings_trades_are_whole_and_every_book_is_told() -> None:
    sent = frames()
    symbols = sorted({orjson.loads(p)["ch"].split(".")[1] for p in sent if b'"ch"' in p})
    run = Run(ADAPTER, *symbols)
    for payload in sent:
        run.take(payload)
    assert not run.of("gap") and not run.normaliser.errors and not run.normaliser.actions
    assert len(run.of("book")) == sum(b"depth.step0" in p and b'"ch"' in p for p in sent)
    numbers = sorted(int(trade["tradeId"]) for p in sent if b"fil3susdt.trade.detail" in p and b'"ch"' in p
                     for trade in orjson.loads(p)["tick"]["data"])  # fmt: skip
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert sum(event["symbol"] == "fil3susdt" for event in run.of("trade")) == len(numbers)
    assert all(len(event["id"]) >= 20 for event in run.of("trade"))
    others = [message for p in sent if htx.parse(message := htx.loads(p)) is None]
    assert len(others) == 21 and all(htx.reply(each) or htx.answer(each) for each in others)


@recorded
def test_a_trade_taken_out_of_the_recording_is_one_gap_of_its_id() -> None:
    run = Run(ADAPTER, "fil3susdt")
    sent = [p for p in frames() if b"fil3susdt.trade.detail" in p and b'"ch"' in p]
    gone = orjson.loads(sent[3])["tick"]["data"]
    for payload in sent[:3] + sent[4:]:
        run.take(payload)
    opened, closed = run.of("gap")
    ids = sorted(trade["tradeId"] for trade in gone)
    assert (opened["first_id"], opened["last_id"]) == (str(ids[0]), str(ids[-1])) and closed["state"] == "closed"


def test_topics_are_the_exchanges_and_the_book_has_a_path_of_its_own() -> None:
    assert htx.streams("btcusdt", list(ADAPTER.CHANNELS), ["1min"]) == {
        "market.btcusdt.trade.detail": ("trade", "btcusdt"),
        "market.btcusdt.mbp.150": ("book", "btcusdt"),
        "market.btcusdt.bbo": ("quote", "btcusdt"),
        "market.btcusdt.detail": ("ticker", "btcusdt"),
        "market.btcusdt.kline.1min": ("candle", "btcusdt"),
    }
    assert htx.path("market.btcusdt.mbp.150") == "/feed" and htx.path("market.btcusdt.bbo") == "/ws"


def test_frames_to_the_exchange_are_the_documented_ones() -> None:
    assert htx.subscribe(["market.btcusdt.bbo"], 1) == [b'{"sub":"market.btcusdt.bbo","id":"1"}']
    assert htx.unsubscribe(["market.btcusdt.bbo"], 2) == [b'{"unsub":"market.btcusdt.bbo","id":"2"}']
    assert htx.snapshot_frame("btcusdt", 3) == b'{"req":"market.btcusdt.mbp.150","id":"3"}'
    assert htx.answer(htx.loads(PING)) == b'{"pong":1618678073643}'
    assert htx.answer(htx.loads(TRADE)) is None and htx.answer({"ping": 1 << 80}) is None


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (ACK, Reply(1, None, ("market.btcusdt.trade.detail",))),
        (b'{"id":3,"status":"ok","subbed":"market.x.bbo","ts":1}', Reply(3, None, ("market.x.bbo",))),
        (b'{"id":"2","status":"ok","unsubbed":"market.x.bbo","ts":1}', Reply(2, None)),
        (ERROR, Reply(7, "bad-request invalid symbol x")),
        (TRADE, None), (PING, None), (b"[]", None), (b"null", None),
    ],
)  # fmt: skip
def test_an_answer_to_something_sent_is_told_from_market_data(message: bytes, reply: Reply | None) -> None:
    assert htx.reply(htx.loads(message)) == reply


def test_symbols_are_spelt_in_small_letters_with_the_nearest_named() -> None:
    assert htx.symbol_error("btcusdt") is None and htx.symbol_error("1inchusdt") is None
    for wrong in ("BTCUSDT", "btc-usdt", "BTC/USDT"):
        assert str(htx.symbol_error(wrong)).endswith("did you mean btcusdt?")
    assert htx.symbol_error("") == "'' is not a symbol of HTX"


def test_instruments_are_read_from_short_keys_and_steps_from_decimals() -> None:
    assert htx.instruments_request(["btcusdt"]).path == INSTRUMENTS[0]
    first, second = cast(list[Update], htx.parse_rest(*INSTRUMENTS))
    assert (first.symbol, first.fields["name"], first.fields["status"]) == ("btcusdt", "BTC-USDT", "trading")
    assert (first.fields["tick_size"], first.fields["lot_size"]) == ("0.01", "0.000001")
    assert (second.fields["tick_size"], second.fields["status"]) == ("1", "offline")
    assert htx.trading_symbols(INSTRUMENTS[1]) == {"btcusdt": "TRADING", "oldusdt": "OFFLINE"}
    assert (
        htx.trading_symbols(b"no") == htx.trading_symbols(ERROR) == {} and htx.parse_rest(INSTRUMENTS[0], ERROR) is None
    )


@recorded
def test_recorded_instruments_are_all_read_and_the_stand_in_gives_them_as_today() -> None:
    bodies = read_rest(RECORDINGS / "instruments.txt.gz")
    (url, answer), *_ = bodies.items()
    found = cast(list[Update], htx.parse_rest(url, answer))
    assert len(found) == len(orjson.loads(answer)["data"]) > 100
    status, today = htx_standin.rest("/v1/settings/common/market-symbols", {"symbols": "trioeth"}, bodies)
    assert status == 200
    assert htx.parse_rest(INSTRUMENTS[0], today) == [each for each in found if each.symbol == "trioeth"]


def test_the_stand_in_agrees_refuses_and_leaves_who_does_not_answer_pings() -> None:
    session = htx_standin.Session("/ws", {"btcusdt"})
    names = ["market.btcusdt.trade.detail", "market.btcusdt.mbp.150", "market.BTC.bbo"]
    said = [htx.reply(orjson.loads(each)) for name in names for each in session.answer(htx.subscribe([name], 1)[0])]
    assert [reply.error is None for reply in said if reply] == [True, False, False] and list(session.streams) == names[
        :1
    ]
    feed = htx_standin.Session("/feed", {"btcusdt"})
    assert isinstance(htx.parse(orjson.loads(feed.answer(htx.snapshot_frame("btcusdt", 4))[0])), Snapshot)
    packed = htx_standin.pack(PING)
    assert packed is not None and htx.inflate(packed, 100) == PING
    for _ in range(30):
        for ping in session.beat(1618678073643):
            assert session.answer(cast(bytes, htx.answer(orjson.loads(ping)))) == []
    assert session.streams
    for second in range(14):
        assert len(session.beat(second)) == (second in (4, 9))
        assert session.answer(b'{"pong":7}') == [], "of no ping"
    with pytest.raises(RefusedError):
        session.beat(14)
    assert htx_standin.stream_of(TRADE) == "market.trioeth.trade.detail"
    assert htx_standin.stream_of(WHOLE_BOOK) == "market.trioeth.mbp.150" and htx_standin.stream_of(PING) is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(mangled([*PARSED, PING, ACK, ERROR]), min_size=1, max_size=6))
def test_frames_that_are_not_as_documented_never_raise_nor_cost_the_next_event(sent: list[bytes]) -> None:
    run = Run(ADAPTER, "btcusdt", "trioeth", "zeneth")
    for place, payload in enumerate(sent):
        run.take(payload, conn=1 + place % 2)
        try:
            message = htx.loads(payload)
        except ValueError:
            continue
        htx.reply(message)
        htx.answer(message)
        assert htx.parse(message) != []
    for conn in (1, 2):
        run.close(conn)
    for good, channel in ((QUOTE, "quote"), (WHOLE_BOOK, "book")):
        assert [event for event in run.take(good, conn=3) if event["channel"] == channel]
    assert not run.normaliser.errors
    for symbol in run.normaliser.symbols:
        orjson.loads(run.normaliser.checkpoint(symbol))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(mangled([INSTRUMENTS[1]]), st.sampled_from([INSTRUMENTS[0], "/v1/common/symbols", "", "//["]))
def test_rest_answers_that_are_not_as_documented_never_raise(answer: bytes, url: str) -> None:
    read = htx.parse_rest(url, answer)
    assert read is None or (isinstance(read, list) and orjson.dumps([each.fields for each in read]))
    htx.trading_symbols(dumps(answer.decode()))
    htx.trading_symbols(answer)
