"""What the frames of OKX mean: genuine ones of 2022, and those of today as documented."""

from pathlib import Path
from typing import Any, cast
from zlib import crc32

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.book import Book
from common.events import Action, Reply, Snapshot, Update
from common.exchanges import okx, okx_standin
from common.foreign_recording import read_frames, read_rest
from tests.exchange_runs import Run, dumps, mangled

MS = 1_000_000
ADAPTER = exchanges.get("okx")
RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "okx"
recorded = pytest.mark.skipif(not RECORDINGS.exists(), reason=f"no recordings at {RECORDINGS}")

TRADE = (
    b'{"arg":{"channel":"trades","instId":"BTC-USD-220527"},"data":[{"instId":"BTC-USD-220527","tradeId":"7849",'
    b'"px":"30218.8","sz":"1","side":"buy","ts":"1652459199958"}]}'
)
SUM = (
    b'{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474",'
    b'"px":"42219.90","sz":"0.12060306","side":"sell","ts":"1630048897897","count":"3","source":"0","seqId":1234}]}'
)
SNAPSHOT = (
    b'{"arg":{"channel":"books","instId":"BTC-USDT"},"action":"snapshot","data":[{"asks":[["8476.98","415","0","13"]],'
    b'"bids":[["8476.97","256","0","12"]],"ts":"1597026383085","checksum":0,"prevSeqId":-1,"seqId":123456}]}'
)
DELTA = (
    b'{"arg":{"channel":"books","instId":"BTC-USDT"},"action":"update","data":[{"asks":[["8476.98","0","0","0"]],'
    b'"bids":[],"ts":"1597026383185","checksum":0,"prevSeqId":123456,"seqId":123461}]}'
)
TICKER = (
    b'{"arg":{"channel":"tickers","instId":"BTC-USDT"},"data":[{"instType":"SPOT","instId":"BTC-USDT","last":"30236",'
    b'"lastSz":"0.0002","askPx":"30228.7","askSz":"1.55896972","bidPx":"30228.6","bidSz":"0.23393",'
    b'"open24h":"29700.4","high24h":"31073","low24h":"28020.3","sodUtc0":"29028.8","sodUtc8":"30337.7",'
    b'"volCcy24h":"525802090.62716611","vol24h":"17602.13085371","ts":"1652459224956"}]}'
)
CANDLE = (
    b'{"arg":{"channel":"candle1D","instId":"BTC-USDT"},"data":[["1629993600000","42500","48199.9","41006.1","41006.1",'
    b'"3587.41204591","166741046.22583129","166741046.22583130","0"]]}'
)
FUNDING = (
    b'{"arg":{"channel":"funding-rate","instId":"BTC-USDT-SWAP"},"data":[{"instId":"BTC-USDT-SWAP","fundingRate":'
    b'"0.0001","nextFundingRate":"","fundingTime":"1744590349506","nextFundingTime":"1744590359506","ts":'
    b'"1744590340000"}]}'
)
MARK = (
    b'{"arg":{"channel":"mark-price","instId":"BTC-USDT-SWAP"},"data":[{"instType":"SWAP","instId":"BTC-USDT-SWAP",'
    b'"markPx":"42310.6","ts":"1630049139746"}]}'
)
INDEX = (
    b'{"arg":{"channel":"index-tickers","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","idxPx":"0.10","ts":'
    b'"1597026383085"}]}'
)
OPEN_INTEREST = (
    b'{"arg":{"channel":"open-interest","instId":"BTC-USDT-SWAP"},"data":[{"instId":"BTC-USDT-SWAP","instType":"SWAP",'
    b'"oi":"565474","oiCcy":"5654.74","ts":"1743041250440"}]}'
)
LIQUIDATION = (
    b'{"arg":{"channel":"liquidation-orders","instType":"FUTURES"},"data":[{"details":[{"bkLoss":"0","bkPx":"0.55205",'
    b'"ccy":"","posSide":"short","side":"buy","sz":"39","ts":"1680173247614"}],"instFamily":"XRP-USD","instId":'
    b'"XRP-USD-230929","instType":"FUTURES","uly":"XRP-USD"},{"details":[{"bkLoss":"0","bkPx":"1800","ccy":"",'
    b'"posSide":"long","side":"sell","sz":"2","ts":"1680173247700"}],"instFamily":"ETH-USD","instId":"ETH-USD-230929",'
    b'"instType":"FUTURES","uly":"ETH-USD"}]}'
)
NOTICE = (
    b'{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade. Please '
    b'reconnect.","connId":"a4d3ae55"}'
)
ACK = b'{"event":"subscribe","arg":{"channel":"tickers","instId":"BTC-USD-220527"},"connId":"accb8e21"}'
TRADES_REST = (
    "/api/v5/market/history-trades?instId=BTC-USDT&type=1&after=130639575&limit=100",
    b'{"code":"0","msg":"","data":[{"instId":"BTC-USDT","side":"sell","sz":"0.00001","px":"29963.2","tradeId":"242720724",'
    b'"ts":"1654161646974"},{"instId":"BTC-USDT","side":"buy","sz":"0.1","px":"29964.10","tradeId":"242720720","ts":'
    b'"1654161641568"}]}',
)
PARSED: dict[bytes, Any] = {
    TRADE: Update(
        "trade", "BTC-USD-220527", 7849, 7849, 1652459199958 * MS,
        {"id": "7849", "price": "30218.8", "amount": "1", "side": "buy"},
    ),
    SUM: Update(
        "trade", "BTC-USDT", 130639472, 130639474, 1630048897897 * MS,
        {"id": "130639474", "price": "42219.90", "amount": "0.12060306", "side": "sell"},
    ),
    SNAPSHOT: Update(
        "book", "BTC-USDT", 0, 123456, 1597026383085 * MS,
        {"type": "snapshot", "bids": [["8476.97", "256"]], "asks": [["8476.98", "415"]], "last_id": "123456",
         "prev_id": "-1", "checksum": 0},
    ),
    DELTA: Update(
        "book", "BTC-USDT", 123457, 123461, 1597026383185 * MS,
        {"type": "delta", "bids": [], "asks": [["8476.98", "0"]], "last_id": "123461", "prev_id": "123456",
         "checksum": 0},
    ),
    TICKER: [
        Update("quote", "BTC-USDT", 1652459224956 * MS, 1652459224956 * MS, 1652459224956 * MS,
               {"bid_price": "30228.6", "bid_amount": "0.23393", "ask_price": "30228.7", "ask_amount": "1.55896972"}),
        Update("ticker", "BTC-USDT", 1652459224956 * MS, 1652459224956 * MS, 1652459224956 * MS,
               {"last": "30236", "open": "29700.4", "high": "31073", "low": "28020.3", "volume": "17602.13085371",
                "quote_volume": "525802090.62716611"}),
    ],
    CANDLE: Update(
        "candle", "BTC-USDT", 1629993600000 * MS, 1629993600000 * MS, None,
        {"interval": "1D", "open_ts": 1629993600000 * MS, "close_ts": None, "open": "42500", "high": "48199.9",
         "low": "41006.1", "close": "41006.1", "volume": "3587.41204591", "quote_volume": "166741046.22583130",
         "trades": None, "closed": False},
    ),
    FUNDING: Update(
        "funding", "BTC-USDT-SWAP", 1744590340000 * MS, 1744590340000 * MS, 1744590340000 * MS,
        {"rate": "0.0001", "predicted_rate": None, "next_ts": 1744590349506 * MS},
    ),
    MARK: Update("mark", "BTC-USDT-SWAP", 1630049139746 * MS, 1630049139746 * MS, 1630049139746 * MS,
                 {"mark_price": "42310.6"}),
    INDEX: Update("index", "BTC-USDT", 1597026383085 * MS, 1597026383085 * MS, 1597026383085 * MS,
                  {"index_price": "0.10"}),
    OPEN_INTEREST: Update("open_interest", "BTC-USDT-SWAP", 1743041250440 * MS, 1743041250440 * MS,
                          1743041250440 * MS, {"open_interest": "565474"}),
    LIQUIDATION: [
        Update("liquidation", "XRP-USD-230929", 1680173247614 * MS, 1680173247614 * MS, 1680173247614 * MS,
               {"id": None, "price": "0.55205", "amount": "39", "side": "buy"}),
        Update("liquidation", "ETH-USD-230929", 1680173247700 * MS, 1680173247700 * MS, 1680173247700 * MS,
               {"id": None, "price": "1800", "amount": "2", "side": "sell"}),
    ],
}  # fmt: skip


def frames() -> list[bytes]:
    return [payload for _, _, payload in read_frames(RECORDINGS / "ws-1.txt.gz")]


@pytest.mark.parametrize("payload", PARSED)
def test_a_frame_of_each_channel_gives_every_field_with_the_exchanges_digits(payload: bytes) -> None:
    assert okx.parse(orjson.loads(payload)) == PARSED[payload]


def test_volumes_of_derivatives_are_no_quote_volumes() -> None:
    """`volCcy24h` of a derivative is in the base currency."""
    found = cast(list[Update], okx.parse(orjson.loads(TICKER.replace(b'"SPOT"', b'"SWAP"'))))
    assert found[1].fields["volume"] == "17602.13085371" and found[1].fields["quote_volume"] is None


def test_sides_of_a_quote_that_are_empty_are_none_and_zero_is_zero() -> None:
    frame = TICKER.replace(b'"30228.7"', b'""').replace(b'"1.55896972"', b'"0"')
    quote = cast(list[Update], okx.parse(orjson.loads(frame)))[0]
    assert (quote.fields["ask_price"], quote.fields["ask_amount"]) == (None, "0")


def test_trades_of_a_frame_come_in_the_order_of_their_ids_and_a_hole_between_sums_is_a_gap() -> None:
    message = orjson.loads(SUM)
    one = message["data"][0]
    message["data"] = [{**one, "tradeId": "130639480", "count": "4"}, {**one, "tradeId": "130639476", "count": "2"}]
    run = Run(ADAPTER, "BTC-USDT")
    run.take(SUM)
    run.take(SUM)
    run.take(dumps(message))
    assert [event["id"] for event in run.of("trade")] == ["130639474", "130639476", "130639480"] and not run.of("gap")
    run.take(SUM.replace(b"130639474", b"130639484"))
    (gap,) = run.of("gap")
    assert (gap["first_id"], gap["last_id"]) == ("130639481", "130639481")
    assert run.normaliser.actions == [Action("backfill", "trade", "BTC-USDT", 130639481)]


def test_a_book_goes_on_by_prev_ids_over_keep_alives_and_one_reset_and_breaks_where_one_is_missing() -> None:
    def update(before: int, last: int, *bids: list[str]) -> bytes:
        message = orjson.loads(DELTA)
        message["data"][0] |= {"prevSeqId": before, "seqId": last, "bids": bids}
        return orjson.dumps(message)

    run = Run(ADAPTER, "BTC-USDT")
    run.take(SNAPSHOT)
    for before, last in ((123456, 123461), (123461, 123461), (123461, 7), (7, 12)):
        assert run.take(update(before, last))[0]["prev_id"] == str(before)
    assert not run.of("gap") and not run.normaliser.actions
    run.take(update(13, 15))
    assert [event["state"] for event in run.of("gap")] == ["open"]
    assert run.normaliser.actions == [Action("snapshot", "book", "BTC-USDT")]
    assert not [event for event in run.take(update(15, 16)) if event["channel"] == "book"]
    run.take(SNAPSHOT)
    run.take(update(123456, 123458, ["8476.90", "1", "0", "1"]))
    assert [event["state"] for event in run.of("gap")] == ["open", "closed"]
    book = run.normaliser.symbols["BTC-USDT"].sync.book
    assert book.bids == {"8476.97": "256", "8476.90": "1"}


def test_the_checksum_is_the_documented_one_and_zero_is_never_checked() -> None:
    book = Book()
    book.replace([("3366.1", "7"), ("3366", "6")], [("3366.8", "9"), ("3368", "8"), ("3372", "8")])
    crc = crc32(b"3366.1:7:3366.8:9:3366:6:3368:8:3372:8")
    check = crc - (1 << 32) if crc >> 31 else crc
    agrees = okx.BOOK.check
    assert okx.checksum(book) == check and agrees is not None
    assert agrees(book, {"checksum": check}) and not agrees(book, {"checksum": check + 1})
    assert agrees(book, {"checksum": 0}) and agrees(book, {})


@recorded
def test_the_recordings_books_agree_with_all_their_checksums_and_its_trades_are_whole() -> None:
    run = Run(ADAPTER, "BTC-USD-220527", "UNI-USD-SWAP", "BTC-USDT")
    sent = frames()
    for payload in sent:
        run.take(payload)
    books = run.of("book")
    assert len(books) == sum(b'"channel":"books"' in p and b'"data"' in p for p in sent) > 100
    assert all(event["checksum"] for event in books) and not run.of("gap") and not run.normaliser.errors
    ids = [int(event["id"]) for event in run.of("trade") if event["symbol"] == "BTC-USDT"]
    assert ids == list(range(ids[0], ids[0] + len(ids))) and len(ids) > 20
    assert all(okx.parse(orjson.loads(p)) is not None or okx.reply(orjson.loads(p)) is not None for p in sent)


@recorded
def test_a_frame_taken_out_of_the_recording_is_one_gap_until_the_book_comes_anew() -> None:
    run = Run(ADAPTER, "BTC-USDT")
    books = [p for p in frames() if b'"channel":"books","instId":"BTC-USDT"' in p and b'"data"' in p]
    for payload in [*books[:5], *books[6:9]]:
        run.take(payload)
    assert [(event["state"], event["reason"]) for event in run.of("gap")] == [("open", "checksum")]
    assert run.normaliser.actions == [Action("snapshot", "book", "BTC-USDT")]
    for payload in books[:5]:  # subscribed anew
        run.take(payload)
    assert [event["state"] for event in run.of("gap")] == ["open", "closed"]


def test_streams_are_named_after_their_args_and_candles_have_a_path_of_their_own() -> None:
    every = list(ADAPTER.CHANNELS)
    assert okx.streams("BTC-USDT", every, ["1m"]) == {
        "trades:BTC-USDT": ("trade", "BTC-USDT"),
        "books:BTC-USDT": ("book", "BTC-USDT"),
        "tickers:BTC-USDT": ("quote", "BTC-USDT"),
        "index-tickers:BTC-USDT": ("mark", "BTC-USDT"),
        "candle1m:BTC-USDT": ("candle", "BTC-USDT"),
    }
    swap = okx.streams("BTC-USDT-SWAP", ["funding", "mark", "open_interest", "liquidation"], [])
    assert list(swap) == [
        "funding-rate:BTC-USDT-SWAP", "index-tickers:BTC-USDT", "mark-price:BTC-USDT-SWAP",
        "open-interest:BTC-USDT-SWAP", "liquidation-orders:SWAP",
    ]  # fmt: skip
    assert list(okx.streams("BTC-USD-220527", ["liquidation", "funding"], [])) == ["liquidation-orders:FUTURES"]
    assert okx.path("candle1m:BTC-USDT") == "/ws/v5/business" and okx.path("trades:BTC-USDT") == "/ws/v5/public"


def test_subscribe_frames_are_the_documented_ones() -> None:
    names = ["books:BTC-USDT", "liquidation-orders:SWAP"]
    args = b'"args":[{"channel":"books","instId":"BTC-USDT"},{"channel":"liquidation-orders","instType":"SWAP"}]}'
    assert okx.subscribe(names, 1512) == [b'{"id":"1512","op":"subscribe",' + args]
    assert okx.unsubscribe(names, 1) == [b'{"id":"1","op":"unsubscribe",' + args]


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (ACK, Reply(None, None, ("tickers:BTC-USD-220527",))),
        (b'{"event":"subscribe","arg":{"channel":"liquidation-orders","instType":"SWAP"}}',
         Reply(None, None, ("liquidation-orders:SWAP",))),
        (b'{"event":"unsubscribe","arg":{"channel":"books","instId":"X"}}', Reply("unsubscribe", None)),
        (b'{"event":"error","msg":"Please log in","code":"60011"}', Reply(None, "60011 Please log in")),
        (b'{"id":"7","event":"error","code":"60012","msg":"Invalid request: x"}', Reply(7, "60012 Invalid request: x")),
        (b'{"event":"error","code":"60018","msg":"Wrong URL or channel:trades,instId:X-Y doesn\'t exist. Please"}',
         Reply(None, "60018 Wrong URL or channel:trades,instId:X-Y doesn't exist. Please", ("trades:X-Y",))),
        (TRADE, None), (NOTICE, None), (b"[]", None), (b'{"event":"error"}', None),
    ],
)  # fmt: skip
def test_an_answer_to_something_sent_is_told_from_market_data(message: bytes, reply: Reply | None) -> None:
    assert okx.reply(orjson.loads(message)) == reply
    assert okx.is_shutdown(orjson.loads(message)) == (message is NOTICE)


def test_symbols_are_spelt_as_the_exchange_does_with_the_nearest_named() -> None:
    for symbol in ("BTC-USDT", "BTC-USDT-SWAP", "BTC-USD-220527", "BTC-USD-220514-22000-C", "1INCH-USDT"):
        assert okx.symbol_error(symbol) is None
    for wrong, meant in (("btc/usdt", "BTC-USDT"), ("BTCUSDT", "BTC-USDT"), ("BTC-USDT-PERP", "BTC-USDT-SWAP")):
        assert str(okx.symbol_error(wrong)).endswith(f"did you mean {meant}?")
    assert okx.symbol_error("") == "'' is not a symbol of OKX"


def test_missed_trades_are_asked_for_by_the_id_a_hundred_later_and_come_in_order() -> None:
    request = okx.request(Action("backfill", "trade", "BTC-USDT", 130639475), 0)
    assert request.path == TRADES_REST[0]
    first, second = cast(list[Update], okx.parse_rest(*TRADES_REST))
    assert [(each.first, each.last) for each in (first, second)] == [(242720720, 242720720), (242720721, 242720724)]
    assert first.fields == {"id": "242720720", "price": "29964.10", "amount": "0.1", "side": "buy"}
    assert okx.parse_rest(TRADES_REST[0], b'{"code":"51001","msg":"Instrument ID does not exist","data":[]}') is None


def test_instruments_are_asked_for_by_sort_and_options_by_underlying() -> None:
    symbols = ["BTC-USDT", "BTC-USDT-SWAP", "ETH-USDT", "BTC-USD-220527", "BTC-USD-220514-22000-C"]
    asked = [okx.instruments_request(group).path.partition("?")[2] for group in okx.inquiries(symbols)]
    assert asked == [
        "instType=SPOT",
        "instType=SWAP&instId=BTC-USDT-SWAP",
        "instType=FUTURES&instId=BTC-USD-220527",
        "instType=OPTION&instFamily=BTC-USD&instId=BTC-USD-220514-22000-C",
    ]


@recorded
def test_recorded_instruments_have_unified_names_and_their_sizes() -> None:
    found: dict[str, dict[str, Any]] = {}
    for url, answer in read_rest(RECORDINGS / "instruments.txt.gz").items():
        updates = cast(list[Update], okx.parse_rest(url, answer))
        assert len(updates) == len(orjson.loads(answer)["data"])
        assert okx.trading_symbols(answer).keys() == {update.symbol for update in updates}
        found |= {update.symbol: update.fields for update in updates}
    assert found["BTC-USDT"]["name"] == "BTC-USDT" and found["BTC-USDT"]["tick_size"] == "0.1"
    swap, future, option = (found[each] for each in ("UNI-USD-SWAP", "BTC-USD-220527", "BTC-USD-220514-22000-C"))
    assert (swap["name"], swap["type"], swap["base"], swap["settle"]) == ("UNI-USD-PERP", "perpetual", "UNI", "UNI")
    assert (future["name"], future["contract_size"]) == ("BTC-USD-20220527", "100")
    assert (future["expiry"], future["status"]) == (1653638400000 * MS, "trading")
    assert (option["name"], option["strike"]) == ("BTC-USD-20220514-22000-C", "22000")
    assert (option["contract_size"], option["option_type"]) == ("0.1", "call")


def test_the_stand_in_agrees_refuses_and_pongs_as_the_exchange() -> None:
    session = okx_standin.Session("/ws/v5/public", {"BTC-USDT"})
    assert session.answer(okx.PING) == [okx.PONG]
    names = ["trades:BTC-USDT", "candle1m:BTC-USDT", "trades:btcusdt", "liquidation-orders:SWAP"]
    replies = [okx.reply(orjson.loads(said)) for said in session.answer(okx.subscribe(names, 1)[0])]
    assert [reply.names for reply in replies if reply and not reply.error] == [(names[0],), (names[3],)]
    assert [reply.names for reply in replies if reply and reply.error] == [(names[1],), (names[2],)]
    assert list(session.streams) == [names[0], names[3]]
    session.answer(okx.unsubscribe(names[:1], 2)[0])
    assert list(session.streams) == [names[3]] and okx_standin.stream_of(TRADE) == "trades:BTC-USD-220527"
    assert okx_standin.stream_of(ACK) is None and okx.is_shutdown(orjson.loads(okx_standin.SHUTDOWN))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(mangled([*PARSED, NOTICE, ACK]), min_size=1, max_size=6))
def test_frames_that_are_not_as_documented_never_raise_nor_cost_the_next_event(sent: list[bytes]) -> None:
    run = Run(ADAPTER, "BTC-USDT", "BTC-USD-220527")
    for place, payload in enumerate(sent):
        run.take(payload, conn=1 + place % 2)
        try:
            message = orjson.loads(payload)
        except ValueError:
            continue
        for look in (okx.reply, okx.is_shutdown):
            look(message)
        assert okx.parse(message) != []
    for conn in (1, 2):
        run.close(conn)
    for good, channel in ((SNAPSHOT, "book"), (INDEX, "mark")):
        assert [event for event in run.take(good, conn=3) if event["channel"] == channel]
    assert not run.normaliser.errors
    for symbol in run.normaliser.symbols:
        orjson.loads(run.normaliser.checkpoint(symbol))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(mangled([TRADES_REST[1]]), st.sampled_from([TRADES_REST[0], "/api/v5/public/instruments", "", "//["]))
def test_rest_answers_that_are_not_as_documented_never_raise(answer: bytes, url: str) -> None:
    read = okx.parse_rest(url, answer)
    assert read is None or (not isinstance(read, Snapshot) and orjson.dumps([each.fields for each in read]))
    okx.trading_symbols(answer)
