"""What an exchange's `parse` understands is what its `streams` ask for, and the other way round."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from common import exchanges


class Spelling(NamedTuple):
    """`symbols`: one of each type of instrument. `reader`: the key of `parse`'s readers for a stream's frames."""

    symbols: dict[str, str]
    reader: Callable[[str], str | None]
    readers: str = "_READERS"


def _binance(stream: str) -> str:
    kind = stream.partition("@")[2].partition("@")[0].partition("_")[0]
    renamed = {"depth": "depthUpdate", "ticker": "24hrTicker", "markPrice": "markPriceUpdate"}
    return renamed.get(kind, kind)


def _htx(stream: str) -> str:
    return stream.split(".", 2)[2]


def _coinbase_advanced(stream: str) -> str:
    kind = stream.partition(":")[0]
    return {"level2": "l2_data"}.get(kind, kind)


def _coinbase(stream: str) -> str:
    kind = stream.partition(":")[0]
    return {"matches": "match", "level2_batch": "l2update"}.get(kind, kind)


def _kraken(stream: str) -> str:
    return stream.partition("@")[0].partition("-")[0]


_BYBIT = {"perpetual": "BTCUSDT", "future": "BTCUSDT-25DEC26"}
SPELLINGS = {
    "binance": Spelling({"spot": "BTCUSDT"}, _binance),
    "binance-usdm": Spelling({"perpetual": "BTCUSDT", "future": "BTCUSDT_261225"}, _binance, "_USD_READERS"),
    "binance-coinm": Spelling({"perpetual": "BTCUSD_PERP", "future": "BTCUSD_261225"}, _binance, "_COIN_READERS"),
    "kraken": Spelling({"spot": "BTC/USD", "share": "AAPLx/USD"}, _kraken),
    "bitstamp": Spelling({"spot": "btcusd", "perpetual": "btcusd-perp"}, lambda stream: stream.rpartition("_")[0]),
    "coinbase": Spelling({"spot": "BTC-USD"}, _coinbase),
    "coinbase-advanced": Spelling({"spot": "BTC-USD"}, _coinbase_advanced),
    "bybit-spot": Spelling({"spot": "BTCUSDT"}, lambda stream: stream.rpartition(".")[0]),
    "bybit-linear": Spelling(_BYBIT, lambda stream: stream.rpartition(".")[0]),
    "bybit-inverse": Spelling({"perpetual": "BTCUSD", "future": "BTCUSDZ26"}, lambda each: each.rpartition(".")[0]),
    "okx": Spelling(
        {"spot": "BTC-USDT", "perpetual": "BTC-USDT-SWAP", "future": "BTC-USD-261225",
         "x-perp": "BTC-USD_UM_XPERP-310404", "option": "BTC-USD-261225-60000-C"},
        lambda stream: stream.partition(":")[0],
    ),
    "htx": Spelling({"spot": "btcusdt"}, _htx),
}  # fmt: skip

NOT_ASKED: dict[str, dict[str, str]] = {
    "bybit-spot": {
        "orderbook.50": "stands in recordings",
        "orderbook.500": "stands in recordings",
        "orderbook.1000": "stands in recordings",
        "allLiquidation": "there are none",
    },
    "bybit-linear": dict.fromkeys(("orderbook.50", "orderbook.500", "orderbook.1000"), "stands in recordings"),
    "bybit-inverse": dict.fromkeys(("orderbook.50", "orderbook.500", "orderbook.1000"), "stands in recordings"),
    "coinbase": {"last_match": "comes with `matches`", "snapshot": "comes with `level2_batch`"},
    "coinbase-advanced": {"ticker_batch": "`ticker` at a slower pace: stands in recordings"},
    "htx": {"depth.step0": "stands in recordings"},
}
"""What `parse` understands although no stream of the exchange is of that name, and why."""

NOT_READ = {"coinbase": {"heartbeat": "only keeps the others alive"}}
"""What is asked for although it gives no event."""

NOT_OF = {
    "okx": {
        "spot": {"mark-price", "open-interest", "liquidation-orders", "funding-rate"},
        "future": {"funding-rate"},
        "option": {"funding-rate"},
    },
}
"""What an exchange has of some types of instruments only."""


def readers(exchange: str) -> set[str]:
    spelling = SPELLINGS[exchange]
    module: Any = importlib.import_module(f"common.exchanges.{exchanges._FILES[exchange]}")
    if exchange == "bitstamp":  # decided by the beginning of a channel's name
        return {module._TRADES.rstrip("_"), module._BOOK.rstrip("_")}
    candles = getattr(module, "_candle_of", {})
    return {"bookTicker" if key is None else key for key in {**getattr(module, spelling.readers), **candles}}


def asked(exchange: str, symbol: str) -> set[str | None]:
    adapter = exchanges.get(exchange)
    names = adapter.streams(symbol, list(adapter.CHANNELS), list(adapter.CANDLE_INTERVALS))
    return {SPELLINGS[exchange].reader(name) for name in names}


@pytest.mark.parametrize("exchange", exchanges.names())
def test_everything_understood_is_asked_for_of_each_type_of_instrument_and_nothing_else(exchange: str) -> None:
    """OKX's funding of X-Perps and its index prices of derivatives were understood, and never asked for."""
    understood, named = readers(exchange), set(NOT_ASKED.get(exchange, ()))
    assert named <= understood
    for sort, symbol in SPELLINGS[exchange].symbols.items():
        assert exchanges.get(exchange).symbol_error(symbol) is None
        without = named | NOT_OF.get(exchange, {}).get(sort, set())
        assert asked(exchange, symbol) - set(NOT_READ.get(exchange, ())) == understood - without, sort


@pytest.mark.parametrize("exchange", exchanges.names())
def test_each_channel_offered_has_a_stream_or_a_poll_or_is_the_catalogue(exchange: str) -> None:
    adapter = exchanges.get(exchange)
    told = set(adapter.POLLS) | {"instrument"}
    for symbol in SPELLINGS[exchange].symbols.values():
        for channel in adapter.CHANNELS:
            if adapter.streams(symbol, [channel], [adapter.CANDLE_DEFAULT]):
                told.add(channel)
    assert told == set(adapter.CHANNELS)
