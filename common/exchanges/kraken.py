"""Kraken spot, WebSocket v2: what its frames mean and how to ask for them.

Source of every rule here: docs.kraken.com/api, Spot WebSocket v2 and Spot REST, state of 2026-08.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode, urlsplit
from zlib import crc32

import orjson

from ..adapter import FAULTS, statuses, understood
from ..book import BEST, BookRule, RankedBook
from ..events import Action, Reply, Request, Update, spot
from ..fields import best, digits, loads_exact, maybe_iso, maybe_whole, ns_of_iso, price, side, step, text

NAME = "kraken"
VERSION = 5  # of what normalise gives: raise it when the same record gives other events

loads = loads_exact  # prices are JSON numbers, and their last zeros are part of the checksum

WS_URL = "wss://ws.kraken.com"
REST_URL = "https://api.kraken.com"

STREAMS_PER_CONNECTION = 300
STREAMS_PER_SUBSCRIBE = 50
CONNECTS_PER_5_MIN = 60  # 150 in 10 min are borne, then none for as long
WEIGHT_PER_MIN = 50
REQUEST_INTERVAL_S = 1.1  # one a second is borne
PING = b'{"method":"ping"}'
PING_INTERVAL_S = 25.0  # without anything sent or received for a minute the exchange closes

CHANNELS = ("trade", "book", "quote", "ticker", "candle", "instrument")
DENSE = BACKFILLS = REPEATS = frozenset({"trade"})
"""Trade ids count up by one for each symbol. REST gives trades from a time on, with the same ids."""

WHOLE = {"trade": "proven", "book": "detected"}
"""A book's checksum is over its ten best levels a side: what is lost deeper shows once it gets there, or never."""

BOOK_DEPTH = 1000
CANDLE_INTERVALS = ("1", "5", "15", "30", "60", "240", "1440", "10080", "21600")  # minutes
CANDLE_DEFAULT = "1"

_ROUNDED_NS = 1000  # asked for so much earlier: an answer's times are rounded
_MINUTE_NS = 60 * 10**9
_REST_NAMES = {"BTC": "XBT", "DOGE": "XDG"}  # what REST calls some assets
_WS_NAMES = {rest: ws for ws, rest in _REST_NAMES.items()}
_SYMBOL = re.compile(r"[A-Z0-9.]+x?/[A-Z0-9.]+")  # AAPLx/USD is a share
_QUOTES = re.compile(r"(.+?)(USDT|USDC|USD|EUR|GBP|CAD|AUD|CHF|JPY|BTC|ETH)")
_TYPES = {"snapshot": "snapshot", "update": "delta"}

_PARAMS: dict[str, dict[str, object]] = {
    "trade": {"channel": "trade"},
    "book": {"channel": "book", "depth": BOOK_DEPTH},
    "ticker": {"channel": "ticker", "event_trigger": "bbo"},
    **{f"ohlc-{minutes}": {"channel": "ohlc", "interval": int(minutes)} for minutes in CANDLE_INTERVALS},
}
_KINDS = tuple(_PARAMS)
_KINDS_MAX = 16
"""A stream is a kind and a symbol: `book@BTC/USD`. An error names the symbol alone: `req_id` says the kind besides, as
request * _KINDS_MAX + place in _KINDS."""

_Reader = Callable[[dict[str, Any], dict[str, Any]], tuple[Update, ...]]
_update = tuple.__new__  # as Update(…), in half the time: for what comes most


@lru_cache(1 << 16)
def _bare(price: str, amount: str) -> str:
    return price.replace(".", "").lstrip("0") + amount.replace(".", "").lstrip("0")


def _best(side: dict[str, str], prices: list[str]) -> bytes:
    best = prices[:BEST]
    return "".join(map(_bare, best, map(side.__getitem__, best))).encode()


def _agrees(book: RankedBook, fields: dict[str, Any]) -> bool:
    """CRC32 over the best ten asks, then bids: price and amount of each without point and leading zeros."""
    if (checksum := fields.get("checksum")) is None:
        return True
    if book.best_asks is None:
        book.best_asks = _best(book.asks, book.ask_prices)
    if book.best_bids is None:
        book.best_bids = _best(book.bids, book.bid_prices)
    return bool(crc32(book.best_bids, crc32(book.best_asks)) == checksum)


BOOK = BookRule("stream", "none", depth=BOOK_DEPTH, check=_agrees)


def symbol_error(symbol: str) -> str | None:
    """What is wrong with a text as a symbol, in words, with the nearest that could be one; None where it may be one."""
    base, _, quote = symbol.partition("/")
    if _SYMBOL.fullmatch(symbol) and not {base, quote} & _WS_NAMES.keys():
        return None
    bare = re.sub(r"[\s/_:-]+", "/", symbol.strip().upper())
    if "/" not in bare and (apart := _QUOTES.fullmatch(bare)):
        bare = "/".join(apart.groups())
    meant = "/".join(_WS_NAMES.get(asset, asset) for asset in bare.split("/"))
    return f"{symbol!r} is not a symbol of Kraken" + (f": did you mean {meant}?" if _SYMBOL.fullmatch(meant) else "")


def streams(symbol: str, channels: list[str], candle_intervals: list[str]) -> dict[str, tuple[str, str]]:
    """The streams of one symbol, each with (channel, symbol). Quotes and tickers are one."""
    names: dict[str, tuple[str, str]] = {}
    for channel in ("trade", "book"):
        if channel in channels:
            names[f"{channel}@{symbol}"] = (channel, symbol)
    for channel in ("ticker", "quote"):
        if channel in channels:
            names[f"ticker@{symbol}"] = (channel, symbol)
    if "candle" in channels:
        names |= {f"ohlc-{interval}@{symbol}": ("candle", symbol) for interval in candle_intervals}
    return names


def path(stream: str) -> str:
    return "/v2"


def subscribe(names: list[str], request_id: int) -> list[bytes]:
    return _frames("subscribe", names, request_id)


def unsubscribe(names: list[str], request_id: int) -> list[bytes]:
    return _frames("unsubscribe", names, request_id)


def _frames(method: str, names: list[str], request_id: int) -> list[bytes]:
    """A frame for each kind of stream."""
    symbols: dict[str, list[str]] = {}
    for name in names:
        kind, _, symbol = name.partition("@")
        symbols.setdefault(kind, []).append(symbol)
    frames = []
    for kind, of_kind in symbols.items():
        params = {**_PARAMS[kind], "symbol": of_kind}
        if method == "subscribe" and kind != "ticker":
            params["snapshot"] = kind == "book"  # of trades and candles we would have most already
        frame = {"method": method, "params": params, "req_id": request_id * _KINDS_MAX + _KINDS.index(kind)}
        frames.append(orjson.dumps(frame))
    return frames


def reply(message: object) -> Reply | None:
    """An answer: one for each symbol of a request. Heartbeats, pongs and the system's status answer nothing."""
    if not isinstance(message, dict):
        return None
    method, channel = message.get("method"), message.get("channel")
    if method == "subscribe":
        return _subscribed(message)
    if type(method) is str:
        return Reply(method, None)
    return Reply(channel, None) if channel == "heartbeat" or channel == "status" else None


def _subscribed(message: dict[str, Any]) -> Reply:
    error = None if message.get("success") is True else str(message.get("error"))
    result, number = message.get("result"), message.get("req_id")
    symbol = result.get("symbol") if isinstance(result, dict) else message.get("symbol")
    if type(number) is not int or not 0 <= number % _KINDS_MAX < len(_KINDS):
        return Reply(None, error)
    request, kind = divmod(number, _KINDS_MAX)
    return Reply(request, error, (f"{_KINDS[kind]}@{symbol}",) if type(symbol) is str else ())


def parse(message: Any) -> Update | list[Update] | None:
    """What a frame says of one or several symbols; None where there is nothing to be understood."""
    try:
        read: _Reader = _READERS[message["channel"]]
        data = message["data"]
        if type(data) is not list:
            return None
        if len(data) == 1 and read is not _ticker:
            return read(message, data[0])[0]
        updates = [update for entry in data for update in read(message, entry)]
        if read is _trade:
            updates.sort(key=_by_id)
        return updates or None
    except FAULTS:
        return None


def _by_id(update: Update) -> int:
    return update.last


def _trade(message: dict[str, Any], data: dict[str, Any]) -> tuple[Update]:
    symbol, trade_id, taker = data["symbol"], data["trade_id"], data["side"]
    if type(symbol) is not str or type(trade_id) is not int or (taker != "buy" and taker != "sell"):
        raise TypeError
    fields = {"id": str(trade_id), "price": _number(data["price"]), "amount": _number(data["qty"]), "side": taker}
    return (_update(Update, ("trade", symbol, trade_id, trade_id, maybe_iso(data.get("timestamp")), fields)),)


def _book(message: dict[str, Any], data: dict[str, Any]) -> tuple[Update]:
    """There is no number: a delta is known by its time, and proven by its checksum. A snapshot may have no time."""
    symbol, checksum, time = data["symbol"], maybe_whole(data.get("checksum")), maybe_iso(data.get("timestamp"))
    if type(symbol) is not str or not 0 <= (checksum or 0) < 1 << 32:
        raise TypeError
    bids, asks = _levels(data["bids"]), _levels(data["asks"])
    fields: dict[str, Any] = {"type": _TYPES[message["type"]], "bids": bids, "asks": asks}
    if checksum is not None:
        fields["checksum"] = checksum
    return (_update(Update, ("book", symbol, time or 0, time or 0, time, fields)),)


def _levels(value: list[dict[str, Any]]) -> list[list[str]]:
    found = []
    for level in value:
        price, amount = level["price"], level["qty"]
        if type(price) is not str or type(amount) is not str:
            price, amount = digits(price), digits(amount)
        if not (price.replace(".", "", 1).isdecimal() or float(price) >= 0):
            raise ValueError
        found.append([price, amount])
    return found


def _ticker(message: dict[str, Any], data: dict[str, Any]) -> tuple[Update, Update]:
    """The best prices and the last day's. Of what was never traded the prices are 0 and the time is 1970."""
    symbol, time = text(data["symbol"]), maybe_iso(data.get("timestamp"))
    told = dict(zip(_OF_TICKER, map(_maybe_number, map(data.get, _OF_TICKER)), strict=True))
    bid, bid_amount = best(told["bid"], told["bid_qty"])
    ask, ask_amount = best(told["ask"], told["ask_qty"])
    quote = {"bid_price": bid, "bid_amount": bid_amount, "ask_price": ask, "ask_amount": ask_amount}
    last, high, low = price(told["last"]), price(told["high"]), price(told["low"])
    ticker = {"last": last, "open": None, "high": high, "low": low, "volume": told["volume"], "quote_volume": None}
    number = time or 0
    return (
        _update(Update, ("quote", symbol, number, number, time, quote)),
        _update(Update, ("ticker", symbol, number, number, time, ticker)),
    )


def _candle(message: dict[str, Any], data: dict[str, Any]) -> tuple[Update]:
    """Nothing says that a candle is closed: the next one does. The frame's time is that of the change."""
    minutes, opened = data["interval"], ns_of_iso(data["interval_begin"])
    if type(minutes) is not int:
        raise TypeError
    time = maybe_iso(message.get("timestamp"))
    first, high, low, close, volume = map(_maybe_number, map(data.get, _OF_CANDLE))
    fields: dict[str, Any] = {
        "interval": str(minutes),
        "open_ts": opened,
        "close_ts": opened + minutes * _MINUTE_NS,
        "open": first,
        "high": high,
        "low": low,
        "close": close,
        "volume": volume,
        "quote_volume": None,
        "trades": maybe_whole(data.get("trades")),
        "closed": None,
    }
    last = opened if time is None else time
    return (Update("candle", text(data["symbol"]), last, last, time, fields),)


_OF_TICKER = ("bid", "bid_qty", "ask", "ask_qty", "last", "high", "low", "volume")
_OF_CANDLE = ("open", "high", "low", "close", "volume")

_READERS: dict[str, _Reader] = {"trade": _trade, "book": _book, "ticker": _ticker, "ohlc": _candle}


def _number(value: object) -> str:
    """A price or an amount with its digits, surely a number: books are put in order by it."""
    if type(value) is not str:
        value = digits(value)
    if not (value.replace(".", "", 1).isdecimal() or float(value) >= 0):  # the first, quick, is true of nearly all
        raise ValueError
    return value


def _maybe_number(value: object) -> str | None:
    return None if value is None or value == "" else _number(value)


def request(action: Action, depth: int) -> Request:
    """Trades from a time on, a thousand at most: with them the hole is walked through."""
    base, _, quote = action.symbol.partition("/")
    pair = _REST_NAMES.get(base, base) + _REST_NAMES.get(quote, quote)
    query = {"pair": pair, "since": max(action.since - _ROUNDED_NS, 0), "count": 1000}
    if is_share(action.symbol):
        query |= _SHARES
    return Request(f"/0/public/Trades?{urlencode(query)}", 1, {})


_SHARES = {"aclass_base": "tokenized_asset"}  # without it REST knows currencies only
CATALOGUE = ("/0/public/AssetPairs", f"/0/public/AssetPairs?{urlencode(_SHARES)}")


def is_share(symbol: str) -> bool:
    """Whether a symbol is a tokenised share: AAPLx/USD."""
    return symbol.partition("/")[0].endswith("x")


def inquiries(symbols: list[str]) -> list[list[str]]:
    """Currencies and tokenised shares are asked for apart."""
    shares = [symbol for symbol in symbols if is_share(symbol)]
    return [group for group in ([symbol for symbol in symbols if not is_share(symbol)], shares) if group]


def instruments_request(symbols: list[str]) -> Request:
    """All pairs of the class of the first one: an unknown pair among named ones refuses them all."""
    return Request(CATALOGUE[bool(symbols) and is_share(symbols[0])], 1, {})


def trading_symbols(body: bytes) -> dict[str, str]:
    """Each symbol of an `AssetPairs` answer with its status; empty where it cannot be read."""
    return statuses(lambda: loads_exact(body)["result"].values(), _trading)


def _trading(entry: Any) -> tuple[str, str] | None:
    """Some pairs have no name of the WebSocket: they trade over REST alone, and are left out."""
    if "wsname" not in entry:
        return None
    return _name(entry), "TRADING" if entry["status"] == "online" else text(entry["status"])


def parse_rest(url: str, body: bytes) -> list[Update] | None:
    """What a REST answer brings: trades in the order of their ids, or instruments. Errors have status 200 too."""
    try:
        where, result = urlsplit(url).path, loads_exact(body)["result"]
        if where.endswith("/Trades"):
            (rows,) = (value for key, value in result.items() if key != "last")
            return sorted(map(_rest_trade, rows), key=_by_id)
        if where.endswith("/AssetPairs"):
            return understood(result.values(), _instrument)
    except FAULTS:
        pass
    return None


def _rest_trade(row: list[Any]) -> Update:
    """Price, amount, time in s with decimals, b or s, m or l, remarks, id. Who asks knows the symbol."""
    trade_id = row[6]
    if type(trade_id) is not int:
        raise TypeError
    seconds, _, fraction = digits(row[2]).partition(".")
    if not (seconds.isdecimal() and len(seconds) <= 10 and len(fraction) <= 9):
        raise ValueError
    time = int(seconds) * 10**9 + int(fraction.ljust(9, "0") or 0)
    taker = side(row[3], buy="b", sell="s")
    fields = {"id": str(trade_id), "price": _number(row[0]), "amount": _number(row[1]), "side": taker}
    return Update("trade", "", trade_id, trade_id, time, fields)


def _name(entry: dict[str, Any]) -> str:
    """The v2 symbol of an entry, whose `wsname` is that of v1: XBT/USD is BTC/USD."""
    return "/".join(_WS_NAMES.get(asset, asset) for asset in text(entry["wsname"]).split("/"))


def _instrument(entry: Any) -> Update | None:
    name = _name(entry)
    base, quote = name.split("/")
    tick, lot = _maybe_number(entry.get("tick_size")), step(entry.get("lot_decimals"))
    return spot(name, base, quote, status=text(entry["status"]), tick_size=tick, lot_size=lot)
