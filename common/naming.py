"""Names that mean symbols: unified ones (BTC-USDT, BTC-USDT-PERP), and patterns of them (*-USDT-PERP)."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from .adapter import Adapter
from .events import Request

_UNIFIED = re.compile(r"[A-Z0-9*?]+(-[A-Z0-9*?.]+)+|\*")


def is_own(adapter: Adapter, symbol: str) -> bool:
    """Whether a text is a symbol as the exchange spells it; else it may be a unified name, or a pattern of some."""
    return adapter.symbol_error(symbol) is None


def may_be_name(text: str) -> bool:
    """Whether a text may be a unified name (BTC-USDT-PERP) or a pattern of some (*-USDT-PERP)."""
    return _UNIFIED.fullmatch(text) is not None


def catalogue(adapter: Adapter) -> list[Request]:
    """What to ask for all instruments of an exchange."""
    return [Request(path, 20, {}) for path in adapter.CATALOGUE] or [adapter.instruments_request([])]


def resolve(adapter: Adapter, wanted: Sequence[str], answers: Mapping[str, bytes]) -> list[str]:
    """The exchange's own symbols that own names, unified names and patterns mean, by the answers to `catalogue`.

    Raises LookupError with a sentence where one means none, or several.
    """
    names: dict[str, list[str]] = {}
    trading: set[str] = set()
    for path, body in answers.items():
        found = adapter.parse_rest(path, body)
        for update in found if isinstance(found, list) else []:
            names.setdefault(update.fields["name"], []).append(update.symbol)
        trading |= {symbol for symbol, status in adapter.trading_symbols(body).items() if status == "TRADING"}
    symbols: dict[str, None] = {}
    for text in wanted:
        if is_own(adapter, text):
            symbols[text] = None
            continue
        meant = sorted(symbol for name, each in names.items() if fnmatchcase(name, text) for symbol in each)
        if "*" in text or "?" in text:
            meant = [symbol for symbol in meant if symbol in trading]
        elif len(meant) > 1:
            raise LookupError(f"{text} means {' and '.join(meant)}: name one of them")
        if not meant:
            raise LookupError(f"{text} means no instrument of {adapter.NAME}")
        symbols |= dict.fromkeys(meant)
    return list(symbols)
