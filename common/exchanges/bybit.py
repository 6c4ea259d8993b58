"""Bybit v5: spot, linear and inverse contracts, each with an address of its own.

Source of every rule here: github.com/bybit-exchange/docs, v5 (websocket/public, market), state of 2026-07-24.
"""

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import orjson

from ..adapter import FAULTS, statuses, understood
from ..book import BookRule
from ..events import Action, Reply, Request, Update, instrument, other_book
from ..fields import (
    best,
    day,
    digits,
    levels,
    maybe,
    maybe_flag,
    maybe_ms,
    maybe_text,
    maybe_whole,
    ns_of_ms,
    price,
    side,
    text,
)

VERSION = 5  # of what normalise gives: raise it when the same record gives other events

WS_URL = "wss://stream.bybit.com"
REST_URL = "https://api.bybit.com"

STREAMS_PER_CONNECTION = 400
STREAMS_BYTES = 20_900  # 21,000 characters of args are allowed
STREAMS_PER_SUBSCRIBE = 10  # the most for spot; elsewhere without a limit, but one bad name may fail them all
CONNECTS_PER_5_MIN = 300  # of 500
WEIGHT_PER_MIN = 600  # that many are allowed in 5 s
PING = b'{"req_id":"ping","op":"ping"}'
PING_INTERVAL_S = 20.0

DEPTH = 200  # of the book that is subscribed to; recordings hold others too: 500 levels until 2025
BOOK = BookRule("stream", "exact", stream_depth=DEPTH)
"""`u` counts up by one (stated for the full book, and so in recordings of 200 levels); a snapshot begins it anew."""

WHOLE = {"book": "proven"}
"""Trades have no ids that count: `seq` only grows."""

SHARED = frozenset({"trade", "candle", "liquidation"})
"""Trades of several messages may bear one `seq`."""

CANDLE_INTERVALS = ("1", "3", "5", "15", "30", "60", "120", "240", "360", "720", "D", "W", "M")
CANDLE_DEFAULT = "1"

_SPOT = ("trade", "book", "quote", "ticker", "candle", "instrument")
_CONTRACTS = (*_SPOT, "mark", "funding", "open_interest", "liquidation")
_STREAM = {
    "trade": "publicTrade",
    "book": f"orderbook.{DEPTH}",  # every 100 ms; 1000 levels come every 200 ms
    "quote": "orderbook.1",
    "mark": "tickers",  # brings four channels: filed under that which always moves
    "ticker": "tickers",
    "funding": "tickers",
    "open_interest": "tickers",
    "liquidation": "allLiquidation",
}
_TICKERS = {
    "ticker": {
        "last": "lastPrice",
        "open": "prevPrice24h",
        "high": "highPrice24h",
        "low": "lowPrice24h",
        "volume": "volume24h",
        "quote_volume": "turnover24h",
    },
    "mark": {"mark_price": "markPrice", "index_price": "indexPrice"},
    "funding": {"rate": "fundingRate", "predicted_rate": "", "next_ts": "nextFundingTime"},
    "open_interest": {"open_interest": "openInterest"},
}
_PRICES = frozenset({"lastPrice", "prevPrice24h", "highPrice24h", "lowPrice24h"})
MERGED = {channel: tuple(names) for channel, names in _TICKERS.items()}
"""A `tickers` delta names what has changed: the normaliser adds what it has not."""

_update = tuple.__new__  # as Update(…), in half the time: for what comes most
_seq_of = itemgetter(2)


def _symbol_error(category: str, symbol: str) -> str | None:
    """What is wrong with a text as a symbol: BTCUSDT; contracts also BTCPERP, BTCUSD, BTCUSDZ26, BTCUSDT-25DEC26."""
    front, dash, date = symbol.partition("-")
    is_dated = category == "linear" and len(date) in (6, 7) and date[:1].isdigit() and date[-2:].isdigit()
    if front and front.isalnum() and front == front.upper() and (not dash or (is_dated and date == date.upper())):
        return None
    parts = "".join(char if char.isalnum() else " " for char in symbol.upper()).split()
    if category != "spot" and parts[-1:] == ["PERP"]:
        parts = [parts[0], "PERP"] if parts[1:-1] == ["USDC"] else parts[:-1]
    meant = "".join(parts)
    return f"{symbol!r} is not a symbol of Bybit's {category} market" + (f": did you mean {meant}?" if meant else "")


def _streams(
    offered: tuple[str, ...], symbol: str, channels: list[str], candle_intervals: list[str]
) -> dict[str, tuple[str, str]]:
    """The topics of one symbol, each with (channel, symbol)."""
    names: dict[str, tuple[str, str]] = {}
    for channel, stream in _STREAM.items():
        if channel in channels and channel in offered:
            names.setdefault(f"{stream}.{symbol}", (channel, symbol))
    if "candle" in channels:
        names |= {f"kline.{interval}.{symbol}": ("candle", symbol) for interval in candle_intervals}
    return names


def _path(category: str, stream: str) -> str:
    return f"/v5/public/{category}"


def subscribe(names: list[str], request_id: int) -> list[bytes]:
    return [orjson.dumps({"req_id": str(request_id), "op": "subscribe", "args": names})]


def unsubscribe(names: list[str], request_id: int) -> list[bytes]:
    return [orjson.dumps({"req_id": str(request_id), "op": "unsubscribe", "args": names})]


def reply(message: object) -> Reply | None:
    """`{"success":true,"ret_msg":"","conn_id":…,"req_id":"1","op":"subscribe"}`; pongs come in the same form."""
    if not isinstance(message, dict) or "topic" in message:
        return None
    op, success, said = message.get("op"), message.get("success"), message.get("ret_msg")
    if op in ("ping", "pong") or said == "pong":
        return Reply("pong", None)
    if type(success) is not bool:
        return None
    own = message.get("req_id")
    request_id = None if op == "subscribe" else str(op)  # without an id it answers what was asked longest ago
    if type(own) is str and own.isascii() and own.isdecimal() and len(own) < 19:
        return Reply(int(own), None if success else str(said))
    return Reply(request_id, None if success else str(said))


def parse(message: Any) -> Update | list[Update] | None:
    """What a frame says; None where there is nothing to be understood."""
    try:
        kind, _, symbol = message["topic"].rpartition(".")
        return _READERS[kind](symbol, message)
    except FAULTS:
        return None


def _trades(symbol: str, message: dict[str, Any]) -> Update | list[Update]:
    """Up to 1024 trades; several, of several messages even, may share one `seq`."""
    trades = [_trade(symbol, trade) for trade in message["data"]]
    if len(trades) == 1:
        return trades[0]
    trades.sort(key=_seq_of)
    return _some(trades)


def _trade(symbol: str, trade: dict[str, Any]) -> Update:
    """Until 2025 trades had no `seq`: they are put in order by their time."""
    trade_id, price, amount, taker, time = (
        maybe_text(trade.get("i")),
        trade["p"],
        trade["v"],
        trade["S"],
        trade.get("T"),
    )
    if type(price) is not str or type(amount) is not str or not price or not amount:
        raise TypeError
    if (trade.get("s") or symbol) != symbol:
        raise ValueError
    ts, seq = maybe_ms(time), maybe_whole(trade.get("seq")) or maybe_whole(time) or 0
    fields = {"id": trade_id, "price": price, "amount": amount, "side": side(taker, buy="Buy", sell="Sell")}
    if trade.get("BT") is True:
        fields["type"] = "block"
    return _update(Update, ("trade", symbol, seq, seq, ts, fields))


def _book(symbol: str, message: dict[str, Any]) -> Update:
    """A delta, or a snapshot, which may come at any time; `u` is 1 where the service began anew: a snapshot too."""
    data, kind = message["data"], message["type"]
    last = data["u"]
    if type(last) is not int or (data.get("s") or symbol) != symbol or (kind != "delta" and kind != "snapshot"):
        raise ValueError
    kind = "snapshot" if last == 1 else kind
    fields = {"type": kind, "bids": levels(data["b"]), "asks": levels(data["a"]), "last_id": str(last)}
    return _update(Update, ("book", symbol, last, last, _book_time(message), fields))


def _other_book(depth: int, symbol: str, message: dict[str, Any]) -> Update:
    """A book of another depth: each stream of a symbol counts its `u` by itself."""
    return other_book(_book(symbol, message), depth)


def _quote(symbol: str, message: dict[str, Any]) -> Update:
    """The first level, always whole: sent again after 3 s without a change. Ordered by `seq`, which outlives `u`."""
    data = message["data"]
    seq, bids, asks = maybe_whole(data.get("seq")) or 0, levels(data.get("b") or []), levels(data.get("a") or [])
    if (data.get("s") or symbol) != symbol or (message.get("type") or "snapshot") != "snapshot":
        raise ValueError
    bid_price, bid_amount = best(*bids[0]) if bids else (None, None)
    ask_price, ask_amount = best(*asks[0]) if asks else (None, None)
    fields = {"bid_price": bid_price, "bid_amount": bid_amount, "ask_price": ask_price, "ask_amount": ask_amount}
    return _update(Update, ("quote", symbol, seq, seq, _book_time(message), fields))


def _book_time(message: dict[str, Any]) -> int | None:
    """`cts` is the matching engine's time, `ts` that of the message."""
    return maybe_ms(message.get("cts")) or maybe_ms(message.get("ts"))


def _tickers(symbol: str, message: dict[str, Any]) -> Update | list[Update]:
    """A snapshot tells everything; a delta what has changed: of our channels perhaps nothing, which is said as such."""
    data, time, kind = message["data"], maybe_ms(message.get("ts")), message["type"]
    number = time or 0
    if (data.get("symbol") or symbol) != symbol or (kind != "delta" and kind != "snapshot"):
        raise ValueError
    found: list[Update] = []
    for channel, names in _TICKERS.items():
        fields = {name: _told(key, data[key]) for name, key in names.items() if key in data}
        if kind == "snapshot" and any(value is not None for value in fields.values()):
            fields = {**dict.fromkeys(names), **fields}
        elif kind == "snapshot":
            continue  # there is no such thing, as funding of a dated future
        if fields:
            found.append(Update(channel, symbol, number, number, time, fields))
    return found if len(found) > 1 else found[0] if found else Update("ticker", symbol, number, number, time, {})


def _told(key: str, value: object) -> str | int | None:
    """An empty text is nothing; a time or a price of zero is none."""
    if key == "nextFundingTime":
        return maybe_ms(value)
    return price(value) if key in _PRICES else maybe(value)


def _candles(symbol: str, message: dict[str, Any]) -> list[Update]:
    return _some([_candle(symbol, candle) for candle in message["data"]])


def _candle(symbol: str, candle: dict[str, Any]) -> Update:
    time = maybe_ms(candle.get("timestamp"))
    fields: dict[str, Any] = {
        "interval": text(candle["interval"]),
        "open_ts": ns_of_ms(candle["start"]),
        "close_ts": maybe_ms(candle.get("end")),
        "open": maybe(candle.get("open")),
        "high": maybe(candle.get("high")),
        "low": maybe(candle.get("low")),
        "close": maybe(candle.get("close")),
        "volume": maybe(candle.get("volume")),
        "quote_volume": maybe(candle.get("turnover")),
        "trades": None,
        "closed": maybe_flag(candle.get("confirm")),
    }
    return Update("candle", symbol, time or 0, time or 0, time, fields)


def _liquidations(symbol: str, message: dict[str, Any]) -> list[Update]:
    return _some(sorted((_liquidation(symbol, each) for each in message["data"]), key=_seq_of))


def _liquidation(symbol: str, data: dict[str, Any]) -> Update:
    """`S` is the position's side: who held a long one (Buy) was sold out. `p` is the price of bankruptcy."""
    time = maybe_ms(data.get("T"))
    if (data.get("s") or symbol) != symbol:
        raise ValueError
    taker = side(data["S"], buy="Sell", sell="Buy")
    fields = {"id": None, "price": price(data.get("p")), "amount": digits(data["v"]), "side": taker}
    return Update("liquidation", symbol, time or 0, time or 0, time, fields)


def _some(updates: list[Update]) -> list[Update]:
    if not updates:
        raise ValueError
    return updates


_READERS: dict[str, Callable[[str, Any], Update | list[Update]]] = {
    "publicTrade": _trades,
    "orderbook.1": _quote,
    **{f"orderbook.{depth}": partial(_other_book, depth) for depth in (50, 500, 1000)},
    f"orderbook.{DEPTH}": _book,
    "tickers": _tickers,
    "allLiquidation": _liquidations,
    **{f"kline.{interval}": _candles for interval in CANDLE_INTERVALS},
}


def request(action: Action, depth: int) -> Request:
    raise LookupError(f"nothing is asked for over REST: {action}, {depth}")


def _instruments_request(category: str, symbols: list[str]) -> Request:
    """One symbol by itself, several with all the category (800 linear ones in 2026): there is nothing in between."""
    only = {"symbol": symbols[0]} if len(symbols) == 1 else {}
    return Request(f"/v5/market/instruments-info?{urlencode({'category': category, 'limit': 1000, **only})}", 1, {})


def trading_symbols(body: bytes) -> dict[str, str]:
    """Each symbol of an `instruments-info` answer with its status; empty where it cannot be read."""
    return statuses(lambda: orjson.loads(body)["result"]["list"], _trading)


def _trading(entry: Any) -> tuple[str, str]:
    return text(entry["symbol"]), "TRADING" if entry["status"] == "Trading" else text(entry["status"])


def parse_rest(url: str, body: bytes) -> list[Update] | None:
    """The instruments of an `instruments-info` answer; entries that are not understood are passed over."""
    try:
        parts = urlsplit(url)
        if not parts.path.endswith("/instruments-info"):
            return None
        is_spot = parse_qs(parts.query)["category"] == ["spot"]
        entries = orjson.loads(body)["result"]["list"]
        return understood(entries, partial(_instrument, is_spot))
    except FAULTS:
        return None


def _instrument(is_spot: bool, entry: Any) -> Update | None:
    base, quote, lots = text(entry["baseCoin"]), text(entry["quoteCoin"]), entry.get("lotSizeFilter") or {}
    name, sort, expiry = f"{base}-{quote}", "spot", None
    if not is_spot:
        sort = "future" if text(entry["contractType"]).endswith("Futures") else "perpetual"
        expiry = ns_of_ms(entry["deliveryTime"]) if sort == "future" else None
        name += f"-{day(expiry)}" if expiry is not None else "-PERP"
    fields = instrument(
        name,
        base,
        quote,
        type=sort,
        status=text(entry["status"]).lower(),
        settle=None if is_spot else maybe_text(entry.get("settleCoin")),
        expiry=expiry,
        tick_size=maybe_text((entry.get("priceFilter") or {}).get("tickSize")),
        lot_size=maybe_text(lots.get("basePrecision" if is_spot else "qtyStep")),
    )
    return Update("instrument", text(entry["symbol"]), 0, 0, None, fields)


def _variant(category: str, channels: tuple[str, ...]) -> dict[str, Any]:
    return {
        "NAME": f"bybit-{category}",
        "CHANNELS": channels,
        "symbol_error": partial(_symbol_error, category),
        "streams": partial(_streams, channels),
        "path": partial(_path, category),
        "instruments_request": partial(_instruments_request, category),
    }


VARIANTS = {
    "bybit-spot": _variant("spot", _SPOT),
    "bybit-linear": _variant("linear", _CONTRACTS),
    "bybit-inverse": _variant("inverse", _CONTRACTS),
}
