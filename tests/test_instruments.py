"""What every exchange's file makes of a list of instruments: the unified name, whatever else stands in the list."""

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

from common import exchanges
from tests.pipeline import Pipeline, until
from tests.standin_client import standin

FILTERS = [{"filterType": "PRICE_FILTER", "tickSize": "0.10"}, {"filterType": "LOT_SIZE", "stepSize": "0.001"}]
SPOT = {"status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT", "filters": FILTERS}
BYBIT = {"status": "Trading", "baseCoin": "BTC", "quoteCoin": "USDT", "priceFilter": {"tickSize": "0.10"}}
PERPETUAL = {**BYBIT, "contractType": "LinearPerpetual", "settleCoin": "USDT", "lotSizeFilter": {"qtyStep": "0.001"}}
OKX = {"instType": "SPOT", "baseCcy": "BTC", "quoteCcy": "USDT", "state": "live", "tickSz": "0.10", "lotSz": "0.001"}
COINBASE = {"base_currency": "BTC", "quote_currency": "USD", "quote_increment": "0.10", "base_increment": "0.001"}
ADVANCED = {"base_currency_id": "BTC", "quote_currency_id": "USD", "price_increment": "0.10", "base_increment": "0.001"}
HTX = {"symbol": "btcusdt", "state": "online", "bc": "btc", "qc": "usdt", "pp": 1, "ap": 3}
KRAKEN = {"wsname": "XBT/USD", "status": "online", "tick_size": "0.10", "lot_decimals": 3}
BITSTAMP = {"name": "BTC/USD", "market_symbol": "btcusd", "trading": "Enabled", "counter_decimals": 1}
LISTED: dict[str, tuple[str, dict[str, Any], str]] = {
    "binance": ("/api/v3/exchangeInfo", {"symbol": "BTCUSDT", **SPOT}, "BTC-USDT"),
    "binance-usdm": (
        "/fapi/v1/exchangeInfo",
        {"symbol": "BTCUSDT", "contractType": "PERPETUAL", "marginAsset": "USDT", **SPOT},
        "BTC-USDT-PERP",
    ),
    "binance-coinm": (
        "/dapi/v1/exchangeInfo",
        {"symbol": "BTCUSD_261225", "contractType": "CURRENT_QUARTER", "deliveryDate": 1798185600000,
         "marginAsset": "BTC", **SPOT, "quoteAsset": "USD"},
        "BTC-USD-20261225",
    ),
    "kraken": ("/0/public/AssetPairs", KRAKEN, "BTC-USD"),
    "bitstamp": ("/api/v2/markets/", {**BITSTAMP, "base_decimals": 3}, "BTC-USD"),
    "coinbase": ("/products", {"id": "BTC-USD", "status": "online", **COINBASE}, "BTC-USD"),
    "coinbase-advanced": (
        "/api/v3/brokerage/market/products",
        {"product_id": "BTC-USD", "status": "online", "alias": "", "product_type": "SPOT", **ADVANCED},
        "BTC-USD",
    ),
    "bybit-spot": (
        "/v5/market/instruments-info?category=spot",
        {"symbol": "BTCUSDT", **BYBIT, "lotSizeFilter": {"basePrecision": "0.001"}},
        "BTC-USDT",
    ),
    "bybit-linear": (
        "/v5/market/instruments-info?category=linear",
        {"symbol": "BTCUSDT", **PERPETUAL},
        "BTC-USDT-PERP",
    ),
    "bybit-inverse": (
        "/v5/market/instruments-info?category=inverse",
        {"symbol": "BTCUSD", **PERPETUAL, "quoteCoin": "USD", "contractType": "InversePerpetual", "settleCoin": "BTC"},
        "BTC-USD-PERP",
    ),
    "okx": ("/api/v5/public/instruments?instType=SPOT", {"instId": "BTC-USDT", **OKX}, "BTC-USDT"),
    "htx": ("/v1/settings/common/market-symbols", HTX, "BTC-USDT"),
}  # fmt: skip


def answer(exchange: str, entries: list[Any]) -> bytes:
    if exchange in ("coinbase", "bitstamp"):
        return orjson.dumps(entries)
    if exchange == "kraken":
        return orjson.dumps({"error": [], "result": {str(place): entry for place, entry in enumerate(entries)}})
    if exchange.startswith("bybit"):
        return orjson.dumps({"retCode": 0, "result": {"list": entries}})
    key = {"okx": "data", "htx": "data", "coinbase-advanced": "products"}.get(exchange, "symbols")
    return orjson.dumps({"code": "0", "status": "ok", key: entries})


@pytest.mark.parametrize("exchange", exchanges.names())
def test_an_instrument_is_read_whatever_is_wrong_with_others_in_the_list(exchange: str) -> None:
    adapter = exchanges.get(exchange)
    url, entry, name = LISTED[exchange]
    lacking = [{key: value for key, value in entry.items() if key != left_out} for left_out in entry]
    odd = [{**entry, key: None} for key in entry]
    alone, amid = (answer(exchange, entries) for entries in ([entry], [None, [], "x", 7, {}, *lacking, *odd, entry]))
    (update,) = adapter.parse_rest(url, alone)
    fields = update.fields
    assert (update.channel, fields["name"], fields["base"]) == ("instrument", name, "BTC")
    assert (fields["tick_size"].rstrip("0"), fields["lot_size"]) == ("0.1", "0.001")
    assert adapter.symbol_error(update.symbol) is None
    assert adapter.trading_symbols(alone) == {update.symbol: "TRADING"}
    assert adapter.parse_rest(url, amid)[-1] == update
    statuses = adapter.trading_symbols(amid)
    assert statuses[update.symbol] == "TRADING" and {"None", "7"} <= statuses.keys()  # what no symbol names is told of


def test_the_feed_tells_which_instruments_it_does_not_understand(tmp_path: Path) -> None:
    """They trade, but what the exchange says of them is not as documented: they have no unified name."""
    url, entry, _ = LISTED["bitstamp"]
    broken = [{**entry, "name": "BTC", "market_symbol": f"odd{number}usd"} for number in range(4)]
    broken += [{"market_symbol": 7, "name": "BTC/USD"}, None, None]
    (path := tmp_path / "recorded").mkdir()
    trade = (
        b'{"data":{"id":1,"amount_str":"0.1","price_str":"1.0","type":0,"microtimestamp":"1641343699596000"},'
        b'"channel":"live_trades_btcusd","event":"trade"}'
    )
    with gzip.open(path / "made.txt.gz", "wb") as file:
        file.write(b"1641343690.0: " + trade + b"\n")
        file.write(b"https://www.bitstamp.net" + url.encode() + b" -> 1641343690.0: ")
        file.write(answer("bitstamp", [entry, *broken]) + b"\n")
    with standin("--recording", path / "made.txt.gz", exchange="bitstamp") as server:
        pipeline = Pipeline(tmp_path, server, "btcusd", "bitstamp")
        try:
            pipeline.start("feed")
            some = "None, odd0usd, odd1usd, odd2usd, odd3usd, …: instruments that are not understood: 6"
            said = f"bitstamp {some}".encode()
            until(lambda: said in pipeline.log.read_bytes(), "it is told")
        finally:
            pipeline.end()
