"""Names of tardis.dev and ours."""

import pytest

from common import exchanges
from common.tardis_names import EXCHANGES, of_tardis, to_tardis

NAMES = [
    ("binance", "BTCUSDT", "binance", "BTCUSDT"),
    ("binance-futures", "BTCUSDT", "binance-usdm", "BTCUSDT"),
    ("binance-delivery", "BTCUSD_PERP", "binance-coinm", "BTCUSD_PERP"),
    ("okex", "BTC-USDT", "okx", "BTC-USDT"),
    ("okex-swap", "BTC-USDT-SWAP", "okx", "BTC-USDT-SWAP"),
    ("okex-futures", "BTC-USD-241227", "okx", "BTC-USD-241227"),
    ("bybit", "BTCUSDT", "bybit-linear", "BTCUSDT"),
    ("bybit", "BTCPERP", "bybit-linear", "BTCPERP"),
    ("bybit", "BTC-27DEC24", "bybit-linear", "BTC-27DEC24"),
    ("bybit", "BTCUSD", "bybit-inverse", "BTCUSD"),
    ("bybit", "BTCUSDZ24", "bybit-inverse", "BTCUSDZ24"),
    ("bybit-spot", "BTCUSDC", "bybit-spot", "BTCUSDC"),
    ("coinbase", "BTC-USD", "coinbase", "BTC-USD"),
    ("kraken", "XBT/USD", "kraken", "BTC/USD"),
    ("kraken", "XDG/XBT", "kraken", "DOGE/BTC"),
    ("bitstamp", "BTCUSD", "bitstamp", "btcusd"),
    ("huobi", "BTCUSDT", "htx", "btcusdt"),
]


@pytest.mark.parametrize(("exchange", "symbol", "ours", "own"), NAMES, ids=lambda name: name)
def test_names_when_turned_into_ours_and_back_then_are_the_same(
    exchange: str, symbol: str, ours: str, own: str
) -> None:
    assert of_tardis(exchange, symbol) == (ours, own)
    assert to_tardis(ours, own) == (exchange, symbol)
    assert exchanges.get(ours).symbol_error(own) is None


def test_every_exchange_of_the_list_is_one_of_ours_and_was_tried_above() -> None:
    assert {name[0] for name in NAMES} == EXCHANGES.keys()
    assert set(EXCHANGES.values()) <= set(exchanges.names())


def test_an_exchange_that_the_other_side_has_not_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        of_tardis("deribit", "BTC-PERPETUAL")
    with pytest.raises(KeyError):
        to_tardis("coinbase-advanced", "BTC-USD")
