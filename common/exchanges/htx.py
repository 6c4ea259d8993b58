"""HTX spot: what its frames mean and how to ask for them.

Source of every rule here: HTX's spot API documentation (WebSocket market data, reference data), state of 2026-08.
Numbers are JSON numbers, trade ids have 27 digits, and every frame is gzip.
"""

import zlib
from functools import partial
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from ..adapter import FAULTS, statuses, understood
from ..book import BookRule
from ..events import Action, Parsed, Reply, Request, Snapshot, Update, other_book, spot
from ..fields import best, digits, loads_exact, maybe, maybe_ms, ns_of_ms, pairs, price, step, text, whole

NAME = "htx"
VERSION = 5

loads = loads_exact
ENCODING = "gzip"

WS_URL = "wss://api-aws.huobi.pro"
REST_URL = "https://api.huobi.pro"

STREAMS_PER_CONNECTION = 100
STREAMS_PER_SUBSCRIBE = 1  # a frame asks for one, and an error names only the frame
MESSAGE_INTERVAL_S = 0.05  # 50 to 100 a second are allowed

CHANNELS = ("trade", "book", "quote", "ticker", "candle", "instrument")
DENSE = REPEATS = frozenset({"trade"})
"""`tradeId` counts up by one for each symbol; a subscription begins with the last ones. None can be asked for by it."""

WHOLE = {"trade": "proven", "book": "proven"}
CANDLE_INTERVALS = ("1min", "5min", "15min", "30min", "60min", "4hour", "1day", "1week", "1mon", "1year")
CANDLE_DEFAULT = "1min"

DEPTH = 150
SNAPSHOT_DEPTH_MAX = DEPTH  # of a side; a snapshot has as many levels as its stream
BOOK = BookRule("request", "exact", DEPTH, stream_depth=DEPTH)
"""Each frame of `mbp` names the `seqNum` before its own; the book is asked for on the same socket."""

_TOPICS = {"trade": "trade.detail", "book": f"mbp.{DEPTH}", "quote": "bbo", "ticker": "detail"}
_SIDES = frozenset({"buy", "sell"})
_ID_MAX = 10**18  # below it 64 bits hold an id and what is added to it
_GZIP = 31  # zlib's word for it, with the largest window
_update = tuple.__new__  # as Update(…), in half the time: for what comes most


def inflate(payload: bytes, limit: int) -> bytes:
    """The JSON text of a frame. Raises ValueError if it is no gzip, torn, or more than `limit` bytes."""
    inflater = zlib.decompressobj(_GZIP)
    try:
        inflated = inflater.decompress(payload, limit + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(inflated) > limit or not inflater.eof or inflater.unused_data:
        raise ValueError(f"no whole gzip stream of at most {limit} bytes")
    return inflated


def symbol_error(symbol: str) -> str | None:
    """What is wrong with a text as a symbol, in words; None where it may be one: btcusdt, in small letters."""
    if symbol.isascii() and symbol.isalnum() and symbol == symbol.lower():
        return None
    meant = "".join(char for char in symbol.lower() if char.isalnum() and char.isascii())
    return f"{symbol!r} is not a symbol of HTX" + (f": did you mean {meant}?" if meant else "")


def streams(symbol: str, channels: list[str], candle_intervals: list[str]) -> dict[str, tuple[str, str]]:
    """The exchange's topics of one symbol, each with (channel, symbol)."""
    names = {f"market.{symbol}.{_TOPICS[channel]}": (channel, symbol) for channel in channels if channel in _TOPICS}
    if "candle" in channels:
        names |= {f"market.{symbol}.kline.{interval}": ("candle", symbol) for interval in candle_intervals}
    return names


def path(stream: str) -> str:
    return "/feed" if ".mbp." in stream else "/ws"


def subscribe(names: list[str], request_id: int) -> list[bytes]:
    return [orjson.dumps({"sub": name, "id": str(request_id)}) for name in names]


def unsubscribe(names: list[str], request_id: int) -> list[bytes]:
    return [orjson.dumps({"unsub": name, "id": str(request_id)}) for name in names]


def snapshot_frame(symbol: str, request_id: int) -> bytes:
    return orjson.dumps({"req": f"market.{symbol}.{_TOPICS['book']}", "id": str(request_id)})


def reply(message: object) -> Reply | None:
    """`{"id":"1","status":"ok","subbed":"market.…"}`, or an error with the request's id."""
    if not isinstance(message, dict) or message.get("status") not in ("ok", "error"):
        return None
    request_id = _request_id(message.get("id"))
    if message["status"] == "error":
        return Reply(request_id, f"{message.get('err-code')} {message.get('err-msg')}")
    if type(name := message.get("subbed")) is str:
        return Reply(request_id, None, (name,))
    return Reply(request_id, None) if "unsubbed" in message else None


def _request_id(value: object) -> int | None:
    """As we sent it, a number in a text; the exchange may also answer with a number."""
    try:
        found = whole(value)
    except (TypeError, ValueError):
        return None
    return found if 0 <= found < _ID_MAX else None


def answer(message: object) -> bytes | None:
    """`{"ping":…}` comes every five seconds: who leaves two without `{"pong":…}` is cut off."""
    if not isinstance(message, dict) or type(number := message.get("ping")) is not int or not 0 <= number < _ID_MAX:
        return None
    return b'{"pong":%d}' % number


def parse(message: Any) -> Parsed | None:
    """What a frame `{"ch":"market.btcusdt.…","tick":{…}}` says, or a book that was asked for; else None."""
    try:
        if "rep" in message:
            return _requested(message)
        _, symbol, topic = message["ch"].split(".", 2)
        return (_READERS.get(topic) or _candle_of[topic])(symbol, message, message["tick"])
    except FAULTS:
        return None


def _trades(symbol: str, _message: Any, tick: Any) -> Update | list[Update]:
    """A frame's trades: they may stand in it with the newest first."""
    data = tick["data"]
    if len(data) == 1:
        return _trade(symbol, data[0])
    trades = [_trade(symbol, trade) for trade in data]
    if not trades:
        raise ValueError
    trades.sort(key=lambda trade: trade.last)
    return trades


def _trade(symbol: str, trade: Any) -> Update:
    number, price, amount, side = trade["tradeId"], trade["price"], trade["amount"], trade["direction"]
    if type(number) is not int or not 0 <= number < _ID_MAX:
        raise TypeError
    if side not in _SIDES:
        raise ValueError
    fields = {
        "id": maybe(trade.get("id")),
        "price": price if type(price) is str and price else digits(price),
        "amount": amount if type(amount) is str and amount else digits(amount),
        "side": side,
    }
    return _update(Update, ("trade", symbol, number, number, maybe_ms(trade.get("ts")), fields))


def _delta(symbol: str, message: Any, tick: Any) -> Update:
    last, before = tick["seqNum"], tick["prevSeqNum"]
    if type(last) is not int or type(before) is not int:
        raise TypeError
    if not 0 <= before <= last < _ID_MAX:
        raise ValueError
    fields = {
        "type": "delta",
        "bids": _levels(tick.get("bids")),
        "asks": _levels(tick.get("asks")),
        "last_id": str(last),
        "prev_id": str(before),
    }
    return _update(Update, ("book", symbol, before + 1, last, maybe_ms(message.get("ts")), fields))


def _levels(value: Any) -> list[list[str]]:
    """A side of a book, which may be missing. Numbers as sent; a price that is no number is none here."""
    if type(value) is not list:
        if value is None:
            return []
        raise TypeError
    for level in value:
        price, amount = level
        if type(price) is not str or type(amount) is not str or type(level) is not list:
            return _checked(pairs(value))
        if not float(price) >= 0:
            raise ValueError
    return value


def _checked(read: list[list[str]]) -> list[list[str]]:
    for level in read:
        if not float(level[0]) >= 0:
            raise ValueError
    return read


def _whole_book(symbol: str, message: Any, tick: Any) -> Update:
    """`depth.step0`, as it stands in recordings: each frame is the whole book, with ids of its own."""
    number = _id(tick["version"])
    fields = {
        "type": "snapshot",
        "bids": _levels(tick["bids"]),
        "asks": _levels(tick["asks"]),
        "last_id": str(number),
    }
    return other_book(Update("book", symbol, number, number, maybe_ms(tick.get("ts")), fields), 0)


def _requested(message: Any) -> Snapshot | None:
    _, symbol, topic = message["rep"].split(".", 2)
    if topic != _TOPICS["book"] or message["status"] != "ok":
        return None
    data = message["data"]
    bids, asks = _levels(data["bids"]), _levels(data["asks"])
    time = maybe_ms(message.get("ts"))
    return Snapshot(symbol, _id(data["seqNum"]), time, bids, asks)  # type: ignore[arg-type]  # pairs, as JSON has them


def _quote(symbol: str, _message: Any, tick: Any) -> Update:
    number, time = _maybe_id(tick.get("seqId")) or 0, maybe_ms(tick.get("quoteTime"))
    bid, bid_amount = best(tick.get("bid"), tick.get("bidSize"))
    ask, ask_amount = best(tick.get("ask"), tick.get("askSize"))
    fields = {"bid_price": bid, "bid_amount": bid_amount, "ask_price": ask, "ask_amount": ask_amount}
    return _update(Update, ("quote", symbol, number, number, time, fields))


def _ticker(symbol: str, message: Any, tick: Any) -> Update:
    """The last 24 hours; `amount` is in the base asset, `vol` in the quote asset."""
    time = maybe_ms(message.get("ts"))
    fields = {
        "last": price(tick.get("close")),
        "open": price(tick.get("open")),
        "high": price(tick.get("high")),
        "low": price(tick.get("low")),
        "volume": maybe(tick.get("amount")),
        "quote_volume": maybe(tick.get("vol")),
    }
    return Update("ticker", symbol, time or 0, time or 0, time, fields)


def _candle(interval: str, symbol: str, message: Any, tick: Any) -> Update:
    """`id` is when it begins, in seconds. Whether it has ended is not told."""
    time = maybe_ms(message.get("ts"))
    fields = {
        "interval": interval,
        "open_ts": ns_of_ms(_id(tick["id"]) * 1000),
        "close_ts": None,
        "open": maybe(tick.get("open")),
        "high": maybe(tick.get("high")),
        "low": maybe(tick.get("low")),
        "close": maybe(tick.get("close")),
        "volume": maybe(tick.get("amount")),
        "quote_volume": maybe(tick.get("vol")),
        "trades": _maybe_id(tick.get("count")),
        "closed": None,
    }
    return Update("candle", symbol, time or 0, time or 0, time, fields)


def _maybe_id(value: object) -> int | None:
    return None if value is None or value == "" else _id(value)


def _id(value: object) -> int:
    number = whole(value)
    if not 0 <= number < _ID_MAX:
        raise ValueError
    return number


_READERS: dict[str, Any] = {
    "trade.detail": _trades,
    _TOPICS["book"]: _delta,
    "depth.step0": _whole_book,
    "bbo": _quote,
    "detail": _ticker,
}
_candle_of = {f"kline.{interval}": partial(_candle, interval) for interval in CANDLE_INTERVALS}


def request(action: Action, depth: int) -> Request:
    """Nothing is asked for one by one: the book comes on the socket, and trades are not to be had by id."""
    raise LookupError(f"HTX has no request for {action}")


CATALOGUE = ("/v1/settings/common/market-symbols",)


def instruments_request(symbols: list[str]) -> Request:
    return Request(f"/v1/settings/common/market-symbols?{urlencode({'symbols': ','.join(symbols)})}", 1, {})


def trading_symbols(body: bytes) -> dict[str, str]:
    return statuses(lambda: orjson.loads(body)["data"], _trading)


def _trading(entry: Any) -> tuple[str, str]:
    return text(entry["symbol"]), _status(entry["state"]).upper()


def _status(state: object) -> str:
    return "trading" if state == "online" else text(state)


def parse_rest(url: str, body: bytes) -> Snapshot | list[Update] | None:
    """Instruments. An error has status 200 too, and says `"status":"error"`."""
    try:
        answer = loads_exact(body)
        if answer["status"] == "ok" and urlsplit(url).path in ("/v1/settings/common/market-symbols", _LONG_NAMES_AT):
            return understood(answer["data"], _instrument)
    except FAULTS:
        pass
    return None


_LONG_NAMES_AT = "/v1/common/symbols"  # the older request, as recorded: the same with whole words for keys


def _instrument(entry: Any) -> Update | None:
    """Steps of price and amount are told as numbers of decimals."""
    base = text(entry["bc"] if "bc" in entry else entry["base-currency"]).upper()
    quote = text(entry["qc"] if "qc" in entry else entry["quote-currency"]).upper()
    tick = step(entry["pp"] if "pp" in entry else entry.get("price-precision"))
    lot = step(entry["ap"] if "ap" in entry else entry.get("amount-precision"))
    return spot(text(entry["symbol"]), base, quote, status=_status(entry["state"]), tick_size=tick, lot_size=lot)
