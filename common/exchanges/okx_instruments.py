"""OKX's instruments: what their names tell, and what the exchange says of them. Source: as `okx`."""

import re
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import orjson

from ..adapter import statuses
from ..events import Request, Update, instrument
from ..fields import digits, maybe, maybe_ms, text

SPOT, SWAP, FUTURES, OPTION = "SPOT", "SWAP", "FUTURES", "OPTION"
DERIVATIVES = frozenset({SWAP, FUTURES, OPTION})

_QUOTES = ("USDT", "USDC", "USD", "EUR", "BTC", "ETH")
_SYMBOL = re.compile(r"[A-Z0-9]+-[A-Z0-9_]+(-SWAP|-\d{6}(-[\d.]+-[CP])?)?")


def symbol_error(symbol: str) -> str | None:
    """What is wrong with a text as a symbol (an `instId`: BTC-USDT, BTC-USDT-SWAP, BTC-USD-220527), or None."""
    if _SYMBOL.fullmatch(symbol):
        return None
    meant = re.sub(r"[\s/_-]+", "-", symbol.upper().strip()).replace("-PERP", "-SWAP")
    if "-" not in meant:
        quote = next((quote for quote in _QUOTES if meant.endswith(quote) and meant != quote), "")
        meant = f"{meant.removesuffix(quote)}-{quote}"
    return f"{symbol!r} is not a symbol of OKX" + (f": did you mean {meant}?" if _SYMBOL.fullmatch(meant) else "")


def sort_of(symbol: str) -> str:
    """The `instType` that an `instId` tells by its form."""
    parts = symbol.split("-")
    return SPOT if len(parts) < 3 else OPTION if len(parts) > 3 else SWAP if parts[2] == "SWAP" else FUTURES


def has_funding(symbol: str) -> bool:
    """Whether funding is paid: for swaps, and for X-Perps, which are futures by type and swaps by rule.

    An X-Perp's `ruleType` is `xperp`; its name says the same: BTC-USD_UM_XPERP-310404.
    """
    return sort_of(symbol) == SWAP or (sort_of(symbol) == FUTURES and symbol.split("-")[1].endswith("_XPERP"))


def index_of(symbol: str) -> str:
    """The index of a symbol: its underlying, without what the family adds to it (BTC-USD of BTC-USD_UM-SWAP)."""
    return _underlying(symbol).partition("_")[0]


def inquiries(symbols: list[str]) -> list[list[str]]:
    """Symbols that one request can tell of: of one sort, options of one underlying."""
    groups: dict[tuple[str, str], list[str]] = {}
    for symbol in symbols:
        sort = sort_of(symbol)
        groups.setdefault((sort, _underlying(symbol) if sort == OPTION else ""), []).append(symbol)
    return list(groups.values())


def _underlying(symbol: str) -> str:
    return "-".join(symbol.split("-")[:2])


def instruments_request(symbols: list[str]) -> Request:
    """What the exchange says of symbols that lie in one of the groups of `inquiries`."""
    sort = sort_of(symbols[0])
    query = {"instType": sort, **({"instFamily": _underlying(symbols[0])} if sort == OPTION else {})}
    if len(symbols) == 1:
        query["instId"] = symbols[0]
    return Request(f"/api/v5/public/instruments?{urlencode(query)}", 1, {})


def trading_symbols(body: bytes) -> dict[str, str]:
    return statuses(lambda: orjson.loads(body)["data"], _trading)


def _trading(entry: Any) -> tuple[str, str]:
    return text(entry["instId"]), _status(entry["state"]).upper()


def _status(state: object) -> str:
    return "trading" if state == "live" else text(state)


def instrument_of(entry: Any) -> Update | None:
    """One instrument; contracts are worth `ctVal` times `ctMult` of `ctValCcy`."""
    symbol, sort = text(entry["instId"]), entry["instType"]
    name, kind = _unified(symbol, sort)
    if sort == SPOT:
        base, quote = entry["baseCcy"], entry["quoteCcy"]
    else:
        base, quote = text(entry.get("uly") or entry["instFamily"]).partition("_")[0].split("-")
    size = maybe(entry.get("ctVal"))
    if size is not None and entry.get("ctMult") not in (None, "", "1"):
        size = str(Decimal(size) * Decimal(digits(entry["ctMult"])))
    fields = instrument(
        name,
        text(base),
        text(quote),
        type=kind,
        status=_status(entry["state"]),
        settle=maybe(entry.get("settleCcy")),
        expiry=maybe_ms(entry.get("expTime")),
        strike=maybe(entry.get("stk")) if sort == OPTION else None,
        option_type={"C": "call", "P": "put"}[entry["optType"]] if sort == OPTION else None,
        contract_size=size,
        tick_size=maybe(entry.get("tickSz")),
        lot_size=maybe(entry.get("lotSz")),
    )
    return Update("instrument", symbol, 0, 0, None, fields)


def _unified(symbol: str, sort: object) -> tuple[str, str]:
    """The name that all exchanges share, and the type; dates in an `instId` have two digits for the year."""
    parts = symbol.split("-")
    if sort == SPOT and len(parts) == 2:
        return symbol, "spot"
    if sort == SWAP and len(parts) == 3:
        return "-".join([*parts[:2], "PERP"]), "perpetual"
    if sort in (FUTURES, OPTION) and len(parts) == (3 if sort == FUTURES else 5) and len(parts[2]) == 6:
        return "-".join([*parts[:2], "20" + parts[2], *parts[3:]]), "future" if sort == FUTURES else "option"
    raise ValueError
