"""Binance spot: what its frames mean and how to ask for them.

Source of every rule here: binance-spot-api-docs (web-socket-streams.md, rest-api.md), state of 2026-07-21.
"""

from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import orjson

from ..adapter import FAULTS, statuses, understood
from ..book import BookRule
from ..events import Action, Reply, Request, Snapshot, Update, covering, other_book, spot
from ..fields import best, levels, maybe, maybe_flag, maybe_text, maybe_whole, price, text

NAME = "binance"
VERSION = 5  # of what normalise gives: raise it when the same record gives other events

loads = orjson.loads  # prices and amounts come as texts
ENCODING = ""  # nothing is compressed

WS_URL = "wss://stream.binance.com:9443"
REST_URL = "https://api.binance.com"

STREAMS_PER_CONNECTION = 1024
STREAMS_PER_SUBSCRIBE = 200
SUBSCRIBE_BYTES = 4_000  # not documented: public reports agree that frames above about 4,088 bytes get no answer
MESSAGE_INTERVAL_S = 0.25  # 5 messages/s are allowed, pongs among them
CONNECTS_PER_5_MIN = 300
WEIGHT_PER_MIN = 6000

CHANNELS = ("trade", "agg_trade", "book", "quote", "ticker", "candle", "instrument")
BOOK = BookRule("rest", "range")  # web-socket-streams.md, "How to manage a local order book correctly", of 2025-11-12
DENSE = BACKFILLS = frozenset({"trade", "agg_trade"})
"""Channels whose ids count up by one for each symbol: a hole is a loss, and can be fetched by id."""

WHOLE = {"trade": "proven", "agg_trade": "proven", "book": "proven"}
"""How sure it is that nothing is missing between two gaps: `proven` by ids that count up, `detected` where a loss shows
but not always, else `unverifiable`. Quotes, tickers and candles have no ids of their own that tell.
"""

CANDLE_INTERVALS = (
    "1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M",
)  # fmt: skip
CANDLE_DEFAULT = "1m"
"""The lengths of a candle that there are. Source: web-socket-streams.md, kline intervals."""

SNAPSHOT_DEPTH_MAX = 5000
"""The most levels of a side that a snapshot brings. Source: rest-api.md, order book."""

SLOWER = -1  # the depth of a book stream that brings the same changes less often: where both are there, one counts

_STREAM = {"trade": "trade", "agg_trade": "aggTrade", "book": "depth@100ms", "quote": "bookTicker", "ticker": "ticker"}
_update = tuple.__new__  # as Update(…), in half the time: for what comes most
_MILLISECONDS_MAX = 9_223_372_036_854  # the last ms that 64 bits of ns hold, in the year 2262: above it are µs
_MICROSECONDS_MAX = _MILLISECONDS_MAX * 1000


def symbol_error(symbol: str) -> str | None:
    """What is wrong with a text as a symbol, in words, with the nearest that could be one; None where it may be one.

    Symbols are in capitals, without anything between the two assets. They need not be ASCII: there is 币安人生USDT.
    """
    if symbol and not any(char.isspace() or char in "/-*?" or "a" <= char <= "z" for char in symbol):
        return None
    meant = "".join(symbol.upper().translate(dict.fromkeys(map(ord, "/-*?"), " ")).split())
    return f"{symbol!r} is not a symbol of Binance" + (f": did you mean {meant}?" if meant else "")


def streams(symbol: str, channels: list[str], candle_intervals: list[str]) -> dict[str, tuple[str, str]]:
    """The stream names of one symbol, each with (channel, symbol)."""
    names = {f"{symbol.lower()}@{_STREAM[channel]}": (channel, symbol) for channel in channels if channel in _STREAM}
    if "candle" in channels:
        names |= {f"{symbol.lower()}@kline_{interval}": ("candle", symbol) for interval in candle_intervals}
    return names


def path(stream: str) -> str:
    return "/stream?timeUnit=MICROSECOND"


def subscribe(names: list[str], request_id: int) -> list[bytes]:
    return [orjson.dumps({"method": "SUBSCRIBE", "params": names, "id": request_id})]


def unsubscribe(names: list[str], request_id: int) -> list[bytes]:
    return [orjson.dumps({"method": "UNSUBSCRIBE", "params": names, "id": request_id})]


def reply(message: object) -> Reply | None:
    """The answer to a subscribe frame: `{"result":null,"id":1}`, or an error with code and msg."""
    if not isinstance(message, dict) or "e" in message or "stream" in message:
        return None
    error = message.get("error", message)  # seen both bare and wrapped
    if isinstance(error, dict) and "msg" in error and "code" in error:
        return Reply(message.get("id"), f"{error['code']} {error['msg']}")
    return Reply(message.get("id"), None) if "result" in message else None


def is_shutdown(message: object) -> bool:
    """The server says that it will close soon: `{"e":"serverShutdown",…}`, wrapped or not."""
    if not isinstance(message, dict):
        return False
    data = message.get("data", message)
    return isinstance(data, dict) and data.get("e") == "serverShutdown"


def parse(message: Any) -> Update | None:
    """The update in a frame, wrapped (`{"stream":…,"data":{…}}`) or not; None where there is none to be understood."""
    try:
        data = message.get("data", message)
        kind = data.get("e")
        if kind == "depthUpdate" and (message.get("stream") or "").endswith("@depth"):
            return other_book(_book(data), SLOWER)
        return quote(data) if kind is None else _READERS[kind](data)
    except FAULTS:
        return None


def trade(data: dict[str, Any]) -> Update:
    trade_id, price, amount, symbol, time = data["t"], data["p"], data["q"], data["s"], data.get("T")
    if type(trade_id) is not int or type(price) is not str or type(amount) is not str or type(symbol) is not str:
        raise TypeError
    fields = {"id": str(trade_id), "price": price, "amount": amount, "side": taker_side(data["m"])}
    return _update(Update, ("trade", symbol, trade_id, trade_id, maybe_ns(time), fields))


def agg_trade(data: dict[str, Any]) -> Update:
    symbol, fields = data["s"], agg_fields(data)
    if type(symbol) is not str:
        raise TypeError
    return Update("agg_trade", symbol, data["a"], data["a"], maybe_ns(data.get("T")), fields)


def agg_fields(data: dict[str, Any]) -> dict[str, Any]:
    agg_id = data["a"]
    if type(agg_id) is not int:
        raise TypeError
    return {
        "id": str(agg_id),
        "price": text(data["p"]),
        "amount": text(data["q"]),
        "side": taker_side(data["m"]),
        "first_id": _maybe_id(data.get("f")),
        "last_id": _maybe_id(data.get("l")),
    }


def _maybe_id(value: object) -> str | None:
    if type(value) is int:
        return str(value)
    if value is None or value == "":
        return None
    raise TypeError


def _book(data: dict[str, Any]) -> Update:
    first, last, symbol = data["U"], data["u"], data["s"]
    if type(first) is not int or type(last) is not int or type(symbol) is not str:
        raise TypeError
    bids, asks = levels(data["b"]), levels(data["a"])
    fields = {"type": "delta", "bids": bids, "asks": asks, "first_id": str(first), "last_id": str(last)}
    return Update("book", symbol, first, last, maybe_ns(data.get("E")), fields)


def quote(data: dict[str, Any], time: int | None = None) -> Update:
    """Spot's `bookTicker` has neither `e` nor a time; `u` is of the same id space as the depth stream's."""
    try:
        symbol, number = data["s"], data["u"]
        bid, bid_amount, ask, ask_amount = data["b"], data["B"], data["a"], data["A"]
    except KeyError:
        return _partial_quote(data, time)
    if (
        type(number) is not int or type(symbol) is not str
        or type(bid) is not str or type(bid_amount) is not str or not bid_amount
        or type(ask) is not str or type(ask_amount) is not str or not ask_amount
        or not (bid >= "1" or (bid >= "0" and float(bid))) or not (ask >= "1" or (ask >= "0" and float(ask)))
    ):  # fmt: skip
        return _partial_quote(data, time)
    fields = {"bid_price": bid, "bid_amount": bid_amount, "ask_price": ask, "ask_amount": ask_amount}
    return _update(Update, ("quote", symbol, number, number, time, fields))


def _partial_quote(data: dict[str, Any], time: int | None) -> Update:
    """A quote that lacks something, or has a price of zero."""
    symbol, number = text(data["s"]), maybe_whole(data.get("u")) or 0
    bid, ask = data.get("b"), data.get("a")
    if bid and ask and bid[0] != "0" != ask[0]:
        bid, ask = text(bid), text(ask)
    bid, bid_amount = best(bid, data.get("B"))
    ask, ask_amount = best(ask, data.get("A"))
    fields = {"bid_price": bid, "bid_amount": bid_amount, "ask_price": ask, "ask_amount": ask_amount}
    return Update("quote", symbol, number, number, time, fields)


def ticker(data: dict[str, Any]) -> Update:
    time = maybe_ns(data.get("E"))
    fields = {
        "last": price(data.get("c")),
        "open": price(data.get("o")),
        "high": price(data.get("h")),
        "low": price(data.get("l")),
        "volume": maybe(data.get("v")),
        "quote_volume": maybe(data.get("q")),
    }
    return Update("ticker", text(data["s"]), time or 0, time or 0, time, fields)


def candle(data: dict[str, Any]) -> Update:
    candle, time = data["k"], maybe_ns(data.get("E"))
    fields: dict[str, Any] = {
        "interval": text(candle["i"]),
        "open_ts": ns(candle["t"]),
        "close_ts": maybe_ns(candle.get("T")),
        "open": maybe(candle.get("o")),
        "high": maybe(candle.get("h")),
        "low": maybe(candle.get("l")),
        "close": maybe(candle.get("c")),
        "volume": maybe(candle.get("v")),
        "quote_volume": maybe(candle.get("q")),
        "trades": maybe_whole(candle.get("n")),
        "closed": maybe_flag(candle.get("x")),
    }
    return Update("candle", text(data["s"]), time or 0, time or 0, time, fields)


_READERS = {
    "trade": trade,
    "aggTrade": agg_trade,
    "depthUpdate": _book,
    "24hrTicker": ticker,
    "kline": candle,
    "bookTicker": quote,
}


def request(action: Action, depth: int) -> Request:
    """The REST request for what the normaliser wants. Weights: rest-api.md."""
    if action.kind == "snapshot":
        weight = 5 if depth <= 100 else 25 if depth <= 500 else 50 if depth <= 1000 else 250
        return Request(f"/api/v3/depth?{urlencode({'symbol': action.symbol, 'limit': depth})}", weight, {})
    query = urlencode({"symbol": action.symbol, "fromId": action.from_id, "limit": 1000})
    path, weight = ("historicalTrades", 25) if action.channel == "trade" else ("aggTrades", 4)
    return Request(f"/api/v3/{path}?{query}", weight, {"X-MBX-TIME-UNIT": "MICROSECOND"})


def instruments_request(symbols: list[str]) -> Request:
    """About some symbols; none named: about all."""
    chosen = f"?{urlencode({'symbols': orjson.dumps(symbols).decode()})}" if symbols else ""
    return Request(f"/api/v3/exchangeInfo{chosen}", 20, {})


def trading_symbols(body: bytes) -> dict[str, str]:
    """Each symbol of an `exchangeInfo` answer with its status; empty where it cannot be read."""
    return statuses(lambda: orjson.loads(body)["symbols"], _trading)


def _trading(entry: Any) -> tuple[str, str]:
    return text(entry["symbol"]), text(entry["status"])


def parse_rest(url: str, body: bytes) -> Snapshot | list[Update] | None:
    """What a REST answer (status 200) brings: a book, or trades in the order of their ids."""
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        data = orjson.loads(body)
        symbol = query.get("symbol", [""])[0]
        if parts.path.endswith("/depth"):
            if type(data["lastUpdateId"]) is not int:
                return None
            return Snapshot(symbol, data["lastUpdateId"], None, levels(data["bids"]), levels(data["asks"]))
        if parts.path.endswith("/historicalTrades"):
            return covering([_rest_trade(symbol, each) for each in data], int(query["fromId"][0]))
        if parts.path.endswith("/aggTrades"):
            trades = [Update("agg_trade", symbol, t["a"], t["a"], maybe_ns(t.get("T")), agg_fields(t)) for t in data]
            return covering(trades, int(query["fromId"][0]))
        if parts.path.endswith("/exchangeInfo"):
            return understood(data["symbols"], _instrument)
    except FAULTS:
        return None
    return None


def _instrument(entry: Any) -> Update | None:
    """One entry of `exchangeInfo`; filters are found by their `filterType`, never by their place."""
    base, counter = text(entry["baseAsset"]), text(entry["quoteAsset"])
    tick, lot = steps(entry)
    status = text(entry["status"]).lower()
    return spot(text(entry["symbol"]), base, counter, status=status, tick_size=tick, lot_size=lot)


def steps(entry: dict[str, Any]) -> tuple[str | None, str | None]:
    """The steps of prices and amounts, as the filters of an instrument have them."""
    filters = {each["filterType"]: each for each in entry.get("filters") or ()}
    tick = filters.get("PRICE_FILTER", {}).get("tickSize")
    return maybe_text(tick), maybe_text(filters.get("LOT_SIZE", {}).get("stepSize"))


def _rest_trade(symbol: str, trade: dict[str, Any]) -> Update:
    trade_id = trade["id"]
    if type(trade_id) is not int:
        raise TypeError
    fields = {
        "id": str(trade_id),
        "price": text(trade["price"]),
        "amount": text(trade["qty"]),
        "side": taker_side(trade["isBuyerMaker"]),
    }
    return Update("trade", symbol, trade_id, trade_id, maybe_ns(trade.get("time")), fields)


def taker_side(buyer_is_maker: object) -> str:
    """The taker's side: if the buyer was the maker, the taker sold."""
    if buyer_is_maker is True:
        return "sell"
    if buyer_is_maker is False:
        return "buy"
    raise TypeError


def maybe_ns(time: Any) -> int | None:
    """As `ns`, or None where no time is told: null, an empty text, or zero."""
    if type(time) is int and _MILLISECONDS_MAX < time <= _MICROSECONDS_MAX:
        return time * 1000  # as most
    return None if time is None or time == "" else ns(time) or None


def ns(time: Any) -> int:
    """ns from ms or, as the connection asked for, µs."""
    if type(time) is int:
        if _MILLISECONDS_MAX < time <= _MICROSECONDS_MAX:
            return time * 1000
        if 0 <= time <= _MILLISECONDS_MAX:
            return time * 1_000_000
    raise TypeError
