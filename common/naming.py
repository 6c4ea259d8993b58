"""Names that mean symbols: unified ones (BTC-USDT, BTC-USDT-PERP), and patterns of them (*-USDT-PERP)."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from .adapter import Adapter
from .events import Request, Update

_UNIFIED = re.compile(r"[^\s/\\,-]+(-[^\s/\\,-]+)+|\*")


def is_own(adapter: Adapter, symbol: str) -> bool:
    """Whether a text is a symbol as the exchange spells it; else it may be a unified name, or a pattern of some."""
    return adapter.symbol_error(symbol) is None


def may_be_name(text: str) -> bool:
    """Whether a text may be a unified name (BTC-USDT-PERP) or a pattern of some (*-USDT-PERP).

    Assets have letters of any script and case (AAPLx-USD), points and underscores; but no name is in small letters
    alone: those are misspelled.
    """
    return _UNIFIED.fullmatch(text) is not None and text.isprintable() and not text.islower()


def catalogue(adapter: Adapter) -> list[Request]:
    """What to ask for all instruments of an exchange."""
    return [Request(path, 1, {}) for path in adapter.CATALOGUE] or [adapter.instruments_request([])]


class Meant(NamedTuple):
    """The exchange's own symbols that texts mean, each once; and of those that mean none or several, a sentence."""

    symbols: tuple[str, ...]
    unknown: dict[str, str]


def meant(
    exchange: str,
    wanted: Iterable[str],
    is_known: Callable[[str], bool],
    names: Sequence[tuple[str, str]],
    listed: Collection[str],
) -> Meant:
    """What own names, unified names and patterns of these mean.

    `is_known` tells own names; `names` are pairs of unified name and symbol; a pattern means only what is `listed`.
    """
    symbols: dict[str, None] = {}
    unknown: dict[str, str] = {}
    named: dict[str, list[str]] = {}
    for name, symbol in dict.fromkeys(names):  # several answers may list one instrument
        named.setdefault(name, []).append(symbol)
    for text in wanted:
        found = [text] if is_known(text) else sorted(named.get(text, ()))
        if "*" in text or "?" in text:
            found = found or sorted(symbol for name, symbol in names if fnmatchcase(name, text))
            found = [symbol for symbol in found if symbol in listed]
        elif len(found) > 1:
            unknown[text] = f"{text} means {' and '.join(found)}: name one of them"
            continue
        if not found:
            unknown[text] = f"{text} means no instrument of {exchange}"
        symbols |= dict.fromkeys(found)
    return Meant(tuple(symbols), unknown)


def instruments(adapter: Adapter, path: str, body: bytes) -> list[Update]:
    """The instruments of an answer to `catalogue`; none where it tells of an error instead, whatever its status."""
    found = adapter.parse_rest(path, body)
    return found if isinstance(found, list) else []


def resolve(adapter: Adapter, wanted: Sequence[str], answers: Mapping[str, bytes]) -> Meant:
    """What is `meant` by the exchange's answers to `catalogue`; of patterns, what trades."""
    names: list[tuple[str, str]] = []
    trading: set[str] = set()
    for path, body in answers.items():
        names += [(update.fields["name"], update.symbol) for update in instruments(adapter, path, body)]
        trading |= {symbol for symbol, status in adapter.trading_symbols(body).items() if status == "TRADING"}
    return meant(adapter.NAME, wanted, lambda text: is_own(adapter, text), names, trading)
