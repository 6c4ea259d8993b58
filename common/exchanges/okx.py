"""OKX v5, spot and derivatives: what its frames mean and how to ask for them.

Source of every rule here: the v5 API documentation (WebSocket, public data; REST, market data), state of 2026-08.
"""

import re
from itertools import chain
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from zlib import crc32

import orjson

from ..adapter import DEFAULTS, FAULTS, understood
from ..book import Book, BookRule
from ..events import INDEX, Action, Parsed, Reply, Request, Snapshot, Update
from ..fields import best, digits, maybe, maybe_ms, maybe_whole, ns_of_ms, price, text
from . import okx_instruments
from .okx_instruments import DERIVATIVES, SPOT, has_funding, index_of, instrument_of, sort_of

NAME = "okx"
VERSION = 5

WS_URL = "wss://ws.okx.com:8443"
REST_URL = "https://www.okx.com"

STREAMS_PER_CONNECTION = 240
STREAMS_PER_SUBSCRIBE = 100  # 480 requests an hour are allowed
SUBSCRIBE_BYTES = 64_000  # 64 KB of args
AGAIN_INTERVAL_S = 60.0  # so that 240 streams, silent all the time, take 6 requests a minute
CONNECTS_PER_5_MIN = 300
CONNECT_INTERVAL_S = 0.5  # 3 connections a second are allowed
WEIGHT_PER_MIN = 600  # a request is one
REQUEST_INTERVAL_S = 0.11  # the narrowest of those used allows 20 in 2 s

symbol_error = okx_instruments.symbol_error
inquiries = okx_instruments.inquiries
CATALOGUE = tuple(f"/api/v5/public/instruments?instType={sort}" for sort in ("SPOT", "SWAP", "FUTURES"))
instruments_request = okx_instruments.instruments_request
trading_symbols = okx_instruments.trading_symbols

PING, PONG = b"ping", b"pong"  # a connection that is silent for 30 s is ended
PING_INTERVAL_S = 20.0

CHANNELS = (
    "trade", "book", "quote", "ticker", "candle", "funding", "mark", "open_interest", "liquidation", "instrument",
)  # fmt: skip
DENSE = BACKFILLS = frozenset({"trade"})
REPEATS = frozenset({"trade", "liquidation"})
SHARED = DEFAULTS["SHARED"] | {"mark"}  # a mark price and its index may have one time
WHOLE = {"trade": "proven", "book": "proven"}
MERGED = {"mark": ("mark_price", "index_price")}
"""Mark prices and index prices come in streams of their own."""

CANDLE_INTERVALS = (
    "1s", "1m", "3m", "5m", "15m", "30m", "1H", "2H", "4H", "6H", "12H", "1D", "2D", "3D", "5D", "1W", "1M", "3M",
    "6Hutc", "12Hutc", "1Dutc", "2Dutc", "3Dutc", "5Dutc", "1Wutc", "1Mutc", "3Mutc",
)  # fmt: skip
"""From six hours on a candle begins by the clock of Hong Kong where its name does not say UTC."""

BACKFILL_TRADES = 100  # the most that an answer brings
SHUTDOWN = "64008"
DEPTH_CHECKED = 25

_REFUSED = re.compile(r"channel:([\w-]+),inst(?:Id|Type):([\w.-]+)")
_SIDES = frozenset({"buy", "sell"})
_ID_DIGITS = 18  # of an id that 64 bits hold, whatever is added to it
_ID_MAX = 10**_ID_DIGITS
_update = tuple.__new__  # as Update(…), in half the time: for what comes most


def checksum(book: Book) -> int:
    """CRC32, signed, of bid and ask by turns from the best on, 25 a side: `bid price:amount:ask price:amount:…`."""
    bids, asks = book.top(DEPTH_CHECKED)
    parts: list[str] = []
    for place in range(max(len(bids), len(asks))):
        for side in (bids, asks):
            parts += side[place] if place < len(side) else ()
    crc = crc32(":".join(parts).encode())
    return crc - (1 << 32) if crc >> 31 else crc


def _agrees(book: Book, fields: dict[str, Any]) -> bool:
    """Until 2026 each frame had a checksum of the book; since then it is always 0, and says nothing."""
    said = fields.get("checksum")
    return not said or checksum(book) == said


BOOK = BookRule("stream", "exact", check=_agrees)
"""Each frame of `books` names the `seqId` before its own; what leaves the 400 levels is removed by a frame."""


def streams(symbol: str, channels: list[str], candle_intervals: list[str]) -> dict[str, tuple[str, str]]:
    """`trades:BTC-USDT` and the like, each with (channel, symbol).

    `tickers` brings quotes too; an index comes for all of its symbols, liquidations for all symbols of a type at once.
    """
    sort = sort_of(symbol)
    subscribed = {
        "trade": [f"trades:{symbol}"],
        "book": [f"books:{symbol}"],
        "quote": [f"tickers:{symbol}"],
        "ticker": [f"tickers:{symbol}"],
        "mark": [f"index-tickers:{index_of(symbol)}"],
    }
    if sort in DERIVATIVES:
        subscribed["mark"].append(f"mark-price:{symbol}")  # last: the one that is renewed where `mark` is silent
        subscribed["open_interest"] = [f"open-interest:{symbol}"]
        subscribed["liquidation"] = [f"liquidation-orders:{sort}"]
    if has_funding(symbol):
        subscribed["funding"] = [f"funding-rate:{symbol}"]
    names: dict[str, tuple[str, str]] = {}
    for channel in channels:
        for name in subscribed.get(channel, ()):
            names.setdefault(name, (channel, symbol))
    if "candle" in channels:
        names |= {f"candle{interval}:{symbol}": ("candle", symbol) for interval in candle_intervals}
    return names


def path(stream: str) -> str:
    return "/ws/v5/business" if stream.startswith("candle") else "/ws/v5/public"


def subscribe(names: list[str], request_id: int) -> list[bytes]:
    return [_ask("subscribe", names, request_id)]


def unsubscribe(names: list[str], request_id: int) -> list[bytes]:
    return [_ask("unsubscribe", names, request_id)]


def _ask(op: str, names: list[str], request_id: int) -> bytes:
    args = []
    for name in names:
        channel, _, of = name.partition(":")
        args.append({"channel": channel, "instType" if channel == "liquidation-orders" else "instId": of})
    return orjson.dumps({"id": str(request_id), "op": op, "args": args})


def stream(arg: dict[str, Any]) -> str:
    """Our name of what an `arg` says. Raises KeyError."""
    return f"{arg['channel']}:{arg['instId'] if 'instId' in arg else arg['instType']}"


def reply(message: object) -> Reply | None:
    """Each `arg` of a request is agreed to by itself; an error names its one in words, or the request by its id."""
    if not isinstance(message, dict):
        return None
    event = message.get("event")
    try:
        if event == "subscribe":
            return Reply(None, None, (stream(message["arg"]),))
        if event in ("unsubscribe", "channel-conn-count"):
            return Reply(event, None)  # nothing waits for it
        if event == "error":
            said = text(message["msg"])
            named = tuple(f"{channel}:{of.removesuffix('.')}" for channel, of in _REFUSED.findall(said))
            return Reply(_request_id(message.get("id")), f"{message['code']} {said}", named)
    except FAULTS:
        pass
    return None


def _request_id(value: object) -> int | None:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19 else None


def is_shutdown(message: object) -> bool:
    """A notice that the connection will be closed for an upgrade of the service, a minute ahead."""
    return isinstance(message, dict) and message.get("event") == "notice" and message.get("code") == SHUTDOWN


def parse(message: Any) -> Parsed | None:
    """What a frame `{"arg":{"channel":…},"data":[…]}` says; None where there is nothing to be understood."""
    try:
        arg, data = message["arg"], message["data"]
        reader = _READERS[arg["channel"]]
        if len(data) == 1 and reader is not _liquidations:
            return reader(message, arg, data[0]) or None
        found: list[Update] = []
        for entry in data:
            read = reader(message, arg, entry)
            found += [read] if type(read) is Update else read
        if reader is _trade or reader is _liquidations:
            found.sort(key=lambda update: update.last)
        return found or None
    except FAULTS:
        return None


def _trade(_message: Any, _arg: Any, data: Any) -> Update:
    """Trades of one taker at one price in one: `tradeId` is the last of `count` ids."""
    trade_id, price, amount, symbol, side = data["tradeId"], data["px"], data["sz"], data["instId"], data["side"]
    last, time = int(trade_id), maybe_ms(data.get("ts"))
    if type(price) is not str or type(amount) is not str or type(symbol) is not str or side not in _SIDES:
        raise TypeError
    if str(last) != trade_id or not 0 <= last < _ID_MAX or not price or not amount:
        raise ValueError
    count = data.get("count")
    first = last if count is None or count == "" else last - int(count) + 1
    if not -1 <= first <= last:
        raise ValueError
    fields = {"id": trade_id, "price": price, "amount": amount, "side": side}
    return _update(Update, ("trade", symbol, first, last, time, fields))


def _book(message: Any, arg: Any, data: Any) -> Update:
    """A frame without `seqId`, as recorded until 2022, has only its checksum: its ids always go on."""
    action, symbol, time = message["action"], arg["instId"], maybe_ms(data.get("ts"))
    is_linked = data.get("seqId") not in (None, "")
    last, before = (data["seqId"], data["prevSeqId"]) if is_linked else (0, 0)
    check = maybe_whole(data.get("checksum"))
    if type(symbol) is not str or type(last) is not int or type(before) is not int:
        raise TypeError
    if not 0 <= last < _ID_MAX or not -1 <= before < _ID_MAX:
        raise ValueError
    if action not in _ACTIONS:
        raise ValueError
    bids, asks = data["bids"], data["asks"]
    for level in chain(bids, asks):
        price = level[0]
        if type(price) is not str or type(level[1]) is not str or type(level) is not list or not float(price) >= 0:
            raise TypeError
    bids, asks = [level[:2] for level in bids], [level[:2] for level in asks]
    fields: dict[str, Any] = {"type": "delta" if action == "update" else "snapshot", "bids": bids, "asks": asks}
    if is_linked:
        fields["last_id"], fields["prev_id"] = str(last), str(before)
    if check is not None:
        fields["checksum"] = check
    return _update(Update, ("book", symbol, before + 1, last, time, fields))


_ACTIONS = frozenset({"snapshot", "update"})


def _ticker(_message: Any, _arg: Any, data: Any) -> list[Update]:
    """Both the best bid and ask, and the last 24 hours. Volumes of derivatives are contracts, and base currency."""
    symbol, time, get = text(data["instId"]), maybe_ms(data.get("ts")), data.get
    bid, bid_amount = best(get("bidPx"), get("bidSz"))
    ask, ask_amount = best(get("askPx"), get("askSz"))
    quote = {"bid_price": bid, "bid_amount": bid_amount, "ask_price": ask, "ask_amount": ask_amount}
    ticker = {name: price(get(key)) for name, key in _TICKER_PRICES}
    ticker["volume"] = maybe(get("vol24h"))
    ticker["quote_volume"] = maybe(get("volCcy24h")) if (get("instType") or sort_of(symbol)) == SPOT else None
    number = time or 0
    return [
        _update(Update, ("quote", symbol, number, number, time, quote)),
        _update(Update, ("ticker", symbol, number, number, time, ticker)),
    ]


_TICKER_PRICES = (("last", "last"), ("open", "open24h"), ("high", "high24h"), ("low", "low24h"))


def _candle(_message: Any, arg: Any, data: Any) -> Update:
    """`[time, open, high, low, close, volume, …, in quote currency, confirm]`; it has no time of its own."""
    opened, closed = ns_of_ms(data[0]), _CLOSED[data[8] if len(data) > 8 else None]
    fields = {
        "interval": text(arg["channel"]).removeprefix("candle"),
        "open_ts": opened,
        "close_ts": None,
        "open": maybe(data[1]),
        "high": maybe(data[2]),
        "low": maybe(data[3]),
        "close": maybe(data[4]),
        "volume": maybe(data[5]),
        "quote_volume": maybe(data[7]) if len(data) > 7 else None,
        "trades": None,
        "closed": closed,
    }
    last = opened + (closed is True)  # the end of a candle comes after what it was on its way
    return Update("candle", text(arg["instId"]), last, last, None, fields)


_CLOSED = {"0": False, "1": True, "": None, None: None}


def _funding(_message: Any, _arg: Any, data: Any) -> Update:
    due, time = maybe_ms(data.get("fundingTime")), maybe_ms(data.get("ts"))
    fields = {
        "rate": maybe(data.get("fundingRate")),
        "predicted_rate": maybe(data.get("nextFundingRate")),
        "next_ts": due,
    }
    last = (due if time is None else time) or 0
    return Update("funding", text(data["instId"]), last, last, time, fields)


def _mark(_message: Any, _arg: Any, data: Any) -> Update:
    time, fields = maybe_ms(data.get("ts")), {"mark_price": digits(data["markPx"])}
    return Update("mark", text(data["instId"]), time or 0, time or 0, time, fields)


def _index(_message: Any, _arg: Any, data: Any) -> Update:
    """The index by which derivatives of a pair are settled: its name is that of the spot symbol."""
    time, fields = maybe_ms(data.get("ts")), {"index_price": digits(data["idxPx"])}
    return Update(INDEX, text(data["instId"]), time or 0, time or 0, time, fields)


def _open_interest(_message: Any, _arg: Any, data: Any) -> Update:
    """In contracts."""
    time, fields = maybe_ms(data.get("ts")), {"open_interest": digits(data["oi"])}
    return Update("open_interest", text(data["instId"]), time or 0, time or 0, time, fields)


def _liquidations(_message: Any, _arg: Any, data: Any) -> list[Update]:
    """Orders that close a position by force: `side` is the order's, the taker's; `bkPx` the bankruptcy price."""
    symbol, found = text(data["instId"]), []
    for detail in data["details"]:
        side, time = detail["side"], maybe_ms(detail.get("ts"))
        if side not in _SIDES:
            raise ValueError
        fields = {"id": None, "price": price(detail.get("bkPx")), "amount": digits(detail["sz"]), "side": side}
        found.append(Update("liquidation", symbol, time or 0, time or 0, time, fields))
    return found


_READERS: dict[str, Any] = {
    "trades": _trade,
    "books": _book,
    "tickers": _ticker,
    "funding-rate": _funding,
    "mark-price": _mark,
    "index-tickers": _index,
    "open-interest": _open_interest,
    "liquidation-orders": _liquidations,
    **{f"candle{interval}": _candle for interval in CANDLE_INTERVALS},
}


def request(action: Action, depth: int) -> Request:
    """Trades from an id on: those that are older than the id a hundred later. Books come on the stream."""
    query = {"instId": action.symbol, "type": 1, "after": action.from_id + BACKFILL_TRADES, "limit": BACKFILL_TRADES}
    return Request(f"/api/v5/market/history-trades?{urlencode(query)}", 1, {})


def parse_rest(url: str, body: bytes) -> Snapshot | list[Update] | None:
    """Trades in the order of their ids, or instruments. An error has status 200 too, and a `code` that is not "0"."""
    try:
        parts, answer = urlsplit(url), orjson.loads(body)
        if answer["code"] != "0":
            return None
        if parts.path.endswith("/history-trades"):
            symbol = parse_qs(parts.query)["instId"][0]
            trades = [_trade(None, None, {**entry, "instId": symbol}) for entry in answer["data"]]
            return _covering(sorted(trades, key=lambda trade: trade.last))
        if parts.path.endswith("/instruments"):
            return understood(answer["data"], instrument_of)
    except FAULTS:
        pass
    return None


def _covering(trades: list[Update]) -> list[Update]:
    """Trades that lie one after the other: each covers the ids since the one before it, those that do not exist too."""
    firsts = [trade.first for trade in trades[:1]] + [trade.last + 1 for trade in trades[:-1]]
    return [trade._replace(first=first) for trade, first in zip(trades, firsts, strict=True)]
