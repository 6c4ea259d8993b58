"""What exchanges refuse, and whom they leave: each stand-in does as its exchange, and our side does none of it."""

from typing import Any, NamedTuple

import orjson
import pytest

from common import exchanges
from common.standin_dialect import RefusedError

PATHS = {
    "binance-usdm": "/market/stream",
    "binance-coinm": "/stream",
    "kraken": "/v2",
    "bitstamp": "/",
    "coinbase": "/",
    "coinbase-advanced": "/",
    "bybit-spot": "/v5/public/spot",
    "bybit-linear": "/v5/public/linear",
    "bybit-inverse": "/v5/public/inverse",
    "okx": "/ws/v5/public",
    "htx": "/ws",
}
KNOWN = {
    "binance-usdm": "BTCUSDT",
    "binance-coinm": "BTCUSD_PERP",
    "kraken": "BTC/USD",
    "bitstamp": "btcusd",
    "coinbase": "BTC-USD",
    "coinbase-advanced": "BTC-USD",
    "bybit-spot": "BTCUSDT",
    "bybit-linear": "BTCUSDT",
    "bybit-inverse": "BTCUSD",
    "okx": "BTC-USDT",
    "htx": "btcusdt",
}
SECOND_MS = 1000


def session(exchange: str, path: str = "", *known: str) -> Any:
    return exchanges.dialect(exchange).Session(path or PATHS[exchange], {KNOWN[exchange], *known})


class Wrong(NamedTuple):
    """Streams that are asked for by our own frames. `said` is of the error; None: they are agreed to, and silent."""

    exchange: str
    names: list[str]
    said: bytes | None
    path: str = ""


MANY = [f"{number:030}" for number in range(500)]
WRONG = [
    Wrong("binance-usdm", ["btcusdt@depth@100ms", "btcusdt@trade"], None),  # of the other address
    Wrong("binance-usdm", ["btcusdt@aggTrade"], None, "/public/stream"),
    Wrong("binance-usdm", ["btcusdt@markPrice@1s"], None, "/stream"),  # the address of old has the public ones alone
    Wrong("binance-usdm", ["nousdt@aggTrade"], None),
    Wrong("binance-coinm", ["nousd_perp@aggTrade"], None),
    Wrong("kraken", ["trade@NO/USD"], b"Currency pair not supported NO/USD"),
    Wrong("kraken", ["trade@XBT/USD"], b"Currency pair not supported XBT/USD"),
    Wrong("kraken", ["trade@BTCUSD"], b"Currency pair not supported BTCUSD"),
    Wrong("bitstamp", ["trades_btcusd"], b"bts:error"),
    Wrong("bitstamp", ["live_trades_BTC/USD"], b"bts:error"),
    Wrong("bitstamp", ["live_trades_nousd"], b"bts:error"),
    Wrong("coinbase", ["full:BTC-USD"], b"channels now require authentication"),
    Wrong("coinbase", ["trades:BTC-USD"], b"trades is not a valid channel"),
    Wrong("coinbase", ["matches:BTCUSD"], b"BTCUSD is not a valid product"),
    Wrong("coinbase", ["matches:NO-USD"], b"NO-USD is not a valid product"),
    Wrong("coinbase-advanced", ["trades:BTC-USD"], b"channel trades is not supported"),
    Wrong("coinbase-advanced", ["level2:BTCUSD"], b"not valid"),
    Wrong("coinbase-advanced", ["level2:BTC-USD", "level2:NO-USD"], b"not valid"),
    Wrong("bybit-spot", ["allLiquidation.BTCUSDT"], b"Invalid topic: allLiquidation.BTCUSDT"),
    Wrong("bybit-spot", [f"tickers.A{number}" for number in range(11)], b"args size >10"),
    Wrong("bybit-spot", ["tickers.BTCUSDT", "tickers.NOUSDT"], b"Invalid topic: tickers.NOUSDT"),
    Wrong("bybit-linear", ["publicTrade.BTCUSDT", "kline.7.BTCUSDT"], b"Invalid topic: kline.7.BTCUSDT"),
    Wrong("bybit-inverse", [f"publicTrade.{name}" for name in MANY], b"args length >21000"),
    Wrong("okx", ["trades:BTCUSDT"], b'"code":"60018"'),
    Wrong("okx", ["trades:NO-USDT"], b'"code":"60018"'),
    Wrong("okx", ["liquidation-orders:NO"], b'"code":"60018"'),
    Wrong("okx", ["candle1m:BTC-USDT"], b'"code":"60018"'),  # of the other address
    Wrong("okx", ["books:BTC-USDT"], b'"code":"60018"', "/ws/v5/business"),
    Wrong("okx", ["books-l2-tbt:BTC-USDT"], b'"code":"60011"'),
    Wrong("htx", ["market.nousdt.trade.detail"], b"invalid symbol nousdt"),
    Wrong("htx", ["market.btcusdt.trade"], b"invalid topic market.btcusdt.trade"),
    Wrong("htx", ["market.btcusdt.mbp.150"], b"invalid topic"),  # of the other address
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong.exchange} {wrong.names[0]} {wrong.path}")
def test_a_wrong_subscription_is_answered_as_the_exchange_does_and_brings_nothing(wrong: Wrong) -> None:
    adapter, at = exchanges.get(wrong.exchange), session(wrong.exchange, wrong.path, *MANY)
    answers = [answer for frame in adapter.subscribe(wrong.names, 1) for answer in at.answer(frame)]
    assert not at.streams
    if wrong.said is None:
        assert [adapter.reply(adapter.loads(answer)).error for answer in answers] == [None]
        return
    (refused,) = (answer for answer in answers if wrong.said in answer)
    assert adapter.reply(adapter.loads(refused)).error


@pytest.mark.parametrize(
    ("exchange", "path", "names"),
    [
        ("binance-usdm", "", [f"s{number}@aggTrade" for number in range(1025)]),
        ("binance-coinm", "", [f"s{number}usd_perp@aggTrade" for number in range(201)]),
        ("kraken", "/", ["trade@BTC/USD"]),
        ("bybit-linear", "/v5/public/swap", ["publicTrade.BTCUSDT"]),
        ("okx", "", [f"trades:{'A' * 100}{number}-USDT" for number in range(600)]),  # 64 KB
    ],
)
def test_what_goes_beyond_all_bounds_ends_the_connection(exchange: str, path: str, names: list[str]) -> None:
    with pytest.raises(RefusedError):
        session(exchange, path).answer(exchanges.get(exchange).subscribe(names, 1)[0])


PATIENCE_S = {"coinbase": 5, "coinbase-advanced": 5, "okx": 30, "kraken": 60, "bybit-spot": 600, "bybit-linear": 600}


@pytest.mark.parametrize("exchange", PATIENCE_S)
def test_who_is_silent_for_too_long_is_left(exchange: str) -> None:
    at = session(exchange)
    for second in range(PATIENCE_S[exchange] + 1):
        at.beat(second * SECOND_MS)
    with pytest.raises(RefusedError):
        at.beat((PATIENCE_S[exchange] + 1) * SECOND_MS)


@pytest.mark.parametrize("exchange", PATHS)
def test_who_subscribes_at_once_and_pings_and_pongs_as_our_side_does_stays(exchange: str) -> None:
    adapter, at = exchanges.get(exchange), session(exchange)
    names = list(adapter.streams(KNOWN[exchange], ["mark" if exchange == "binance-usdm" else "trade"], []))
    for frame in adapter.subscribe(names, 1):
        at.answer(frame)
    for second in range(1300):
        for payload in at.beat(second * SECOND_MS):
            pong = adapter.answer(orjson.loads(payload))
            assert pong is None or at.answer(pong) == []
        if adapter.PING is not None and second % adapter.PING_INTERVAL_S == 0:
            assert len(at.answer(adapter.PING)) == 1
    assert list(at.streams) == names


@pytest.mark.parametrize(("exchange", "wrong", "spoils"), [
    ("kraken", "NO/USD", False), ("okx", "NO-USDT", False), ("htx", "nousdt", False), ("bitstamp", "nousd", False),
    ("coinbase", "NO-USD", False), ("binance-usdm", "NOUSDT", False), ("bybit-linear", "NOUSDT", True),
    ("coinbase-advanced", "NO-USD", True),
])  # fmt: skip
def test_of_a_batch_with_one_unknown_symbol_all_is_refused_where_the_exchange_does_so_alone(
    exchange: str, wrong: str, spoils: bool
) -> None:
    adapter, at = exchanges.get(exchange), session(exchange, "/market/stream" if exchange == "binance-usdm" else "")
    right, bad = (list(adapter.streams(symbol, ["agg_trade", "trade"], [])) for symbol in (KNOWN[exchange], wrong))
    right = [name for name in right if not name.endswith("@trade")]  # of the other address
    for frame in adapter.subscribe([*right, *bad], 1):
        at.answer(frame)
    assert list(at.streams) == ([] if spoils else right)
