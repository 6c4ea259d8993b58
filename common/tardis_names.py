"""How tardis.dev names exchanges and symbols, and what they are called here. Its symbols are in capitals."""

import re

EXCHANGES = {
    "binance": "binance",
    "binance-futures": "binance-usdm",
    "binance-delivery": "binance-coinm",
    "okex": "okx",
    "okex-swap": "okx",
    "okex-futures": "okx",
    "bybit": "bybit-linear",  # its inverse contracts too: here they are bybit-inverse
    "bybit-spot": "bybit-spot",
    "coinbase": "coinbase",
    "kraken": "kraken",
    "bitstamp": "bitstamp",
    "huobi": "htx",
}
"""Their names: ours. Source: api.tardis.dev/v1/exchanges."""

_OURS = {"bybit-inverse": "bybit", **{ours: theirs for theirs, ours in EXCHANGES.items() if ours != "okx"}}
_LOWER = frozenset({"bitstamp", "htx"})
_KRAKEN = {"XBT": "BTC", "XDG": "DOGE"}  # its first WebSocket API, which tardis.dev records, and its second
_is_inverse = re.compile(r"[A-Z0-9]+USD(?:[FGHJKMNQUVXZ]\d\d)?", re.ASCII).fullmatch  # BTCUSD, BTCUSDH25


def of_tardis(exchange: str, symbol: str) -> tuple[str, str]:
    """Our exchange, and the symbol as that exchange writes it. Raises KeyError for an exchange that is not known."""
    ours = EXCHANGES[exchange]
    if exchange == "bybit" and _is_inverse(symbol):
        return "bybit-inverse", symbol
    if ours == "kraken":
        return ours, _mapped(symbol, _KRAKEN)
    return ours, symbol.lower() if ours in _LOWER else symbol


def to_tardis(exchange: str, symbol: str) -> tuple[str, str]:
    """Their exchange and symbol for one of ours. Raises KeyError for an exchange that tardis.dev has not."""
    if exchange == "okx":
        kind = symbol.split("-")[2:]
        return "okex" if not kind else "okex-swap" if kind == ["SWAP"] else "okex-futures", symbol
    if exchange == "kraken":
        return exchange, _mapped(symbol, {ours: theirs for theirs, ours in _KRAKEN.items()})
    return _OURS[exchange], symbol.upper()


def _mapped(symbol: str, assets: dict[str, str]) -> str:
    return "/".join(assets.get(asset, asset) for asset in symbol.split("/"))
