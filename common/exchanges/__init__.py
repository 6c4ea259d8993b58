"""One file per exchange: what it sends and how to ask for it. Pure: no socket, clock, thread or logging."""

import importlib
from functools import cache
from types import SimpleNamespace

from ..adapter import DEFAULTS
from ..standin_dialect import DEFAULTS as DIALECT

_FILES = {
    "binance": "binance",
    "binance-usdm": "binance_futures",
    "binance-coinm": "binance_futures",
    "kraken": "kraken",
    "bitstamp": "bitstamp",
    "coinbase": "coinbase",
    "coinbase-advanced": "coinbase_advanced",
    "bybit-spot": "bybit",
    "bybit-linear": "bybit",
    "bybit-inverse": "bybit",
    "okx": "okx",
    "htx": "htx",
}
"""Which file holds an exchange; one file may hold several, which its VARIANTS tell apart."""


def names() -> tuple[str, ...]:
    """The exchanges that can be recorded."""
    return tuple(_FILES)


@cache
def get(name: str) -> SimpleNamespace:
    """The Adapter of an exchange: its file's facts over what is usual. Raises LookupError for an unknown name."""
    if name not in _FILES:
        raise LookupError(f"unknown exchange {name!r}: known are {', '.join(_FILES)}")
    module = importlib.import_module(f".{_FILES[name]}", __package__)
    facts = {**DEFAULTS, **vars(module), **vars(module).get("VARIANTS", {}).get(name, {})}
    return SimpleNamespace(**{key: value for key, value in facts.items() if not key.startswith("_")})


@cache
def dialect(name: str) -> SimpleNamespace:
    """How a stand-in speaks for an exchange, as `standin_dialect.Dialect`. Raises LookupError where it cannot."""
    file = f"{_FILES[get(name).NAME]}_standin"
    try:
        module = importlib.import_module(f".{file}", __package__)
    except ModuleNotFoundError:
        raise LookupError(f"there is no stand-in for {name}: {file}.py is missing") from None
    return SimpleNamespace(**{**DIALECT, **vars(module), **vars(module).get("VARIANTS", {}).get(name, {})})
