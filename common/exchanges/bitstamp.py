"""Bitstamp: what its frames mean and how to ask for them.

Source of every rule here: www.bitstamp.net/websocket/v2 and /api, and recordings of the format in use.
"""

import re
from typing import Any
from urllib.parse import urlsplit

import orjson

from ..adapter import FAULTS, statuses, understood
from ..book import BookRule
from ..events import Action, Reply, Request, Snapshot, Update, instrument
from ..fields import levels, maybe_us, maybe_whole, ns_of_us, step, text, whole

NAME = "bitstamp"
VERSION = 5  # of what normalise gives: raise it when the same record gives other events

WS_URL = "wss://ws.bitstamp.net"
REST_URL = "https://www.bitstamp.net"

STREAMS_PER_CONNECTION = 200
STREAMS_PER_SUBSCRIBE = 1  # an error does not name the stream that it is about: it is the one without an answer
SUBSCRIBE_BYTES = 511  # a longer frame ends the connection (1009)
MESSAGE_INTERVAL_S = 0.05
WEIGHT_PER_MIN = 900  # 10,000 in 10 min
PING = b'{"event":"bts:heartbeat"}'
PING_INTERVAL_S = 20.0

CHANNELS = ("trade", "book", "instrument")
BOOK = BookRule("rest", "none")
"""A delta has nothing but its time in µs, later than that of the one before; a snapshot's is in the same count."""

_TRADES, _BOOK = "live_trades_", "diff_order_book_"
_SYMBOL = re.compile(r"[a-z0-9]+(-perp)?")
_update = tuple.__new__  # as Update(…), in half the time: for what comes most


def symbol_error(symbol: str) -> str | None:
    """What is wrong with a text as a symbol, in words, with the nearest that could be one; None where it may be one."""
    if _SYMBOL.fullmatch(symbol):
        return None
    bare = symbol.strip().lower()
    meant = re.sub(r"[^a-z0-9]", "", bare.removesuffix("-perp")) + ("-perp" if bare.endswith("-perp") else "")
    return f"{symbol!r} is not a symbol of Bitstamp" + (f": did you mean {meant}?" if meant else "")


def streams(symbol: str, channels: list[str], candle_intervals: list[str]) -> dict[str, tuple[str, str]]:
    names = (("trade", _TRADES), ("book", _BOOK))
    return {name + symbol: (channel, symbol) for channel, name in names if channel in channels}


def subscribe(names: list[str], request_id: int) -> list[bytes]:
    return [orjson.dumps({"event": "bts:subscribe", "data": {"channel": name}}) for name in names]


def unsubscribe(names: list[str], request_id: int) -> list[bytes]:
    return [orjson.dumps({"event": "bts:unsubscribe", "data": {"channel": name}}) for name in names]


def reply(message: object) -> Reply | None:
    """`bts:subscription_succeeded` names its channel; `bts:error` mostly does not."""
    if not isinstance(message, dict):
        return None
    event, channel, data = message.get("event"), message.get("channel"), message.get("data")
    names = (channel,) if type(channel) is str and channel else ()
    if event == "bts:subscription_succeeded":
        return Reply(None, None, names)
    if event == "bts:error":
        said = data if isinstance(data, dict) else {}
        return Reply(None, f"{said.get('code')} {said.get('message')}", names)
    if event == "bts:heartbeat" or event == "bts:unsubscription_succeeded":
        return Reply(event, None)
    return None


def is_shutdown(message: object) -> bool:
    """`{"event":"bts:request_reconnect",…}`: the server goes down."""
    return isinstance(message, dict) and message.get("event") == "bts:request_reconnect"


def parse(message: Any) -> Update | None:
    """The update in a frame; None where there is none to be understood."""
    try:
        event, channel, data = message["event"], message["channel"], message["data"]
        if event == "data" and channel.startswith(_BOOK):
            return _book(channel[len(_BOOK) :], data)
        if event == "trade" and channel.startswith(_TRADES):
            return _trade(channel[len(_TRADES) :], data)
    except FAULTS:
        pass
    return None


def _trade(symbol: str, data: dict[str, Any]) -> Update:
    """Ids count the trades of all symbols. The numbers beside the texts are floats: 3651.3000000000002."""
    trade_id, price, amount, kind = maybe_whole(data.get("id")), data["price_str"], data["amount_str"], data["type"]
    if type(price) is not str or type(amount) is not str or type(kind) is not int:
        raise TypeError
    own, number = None if trade_id is None else str(trade_id), trade_id or 0
    fields = {"id": own, "price": price, "amount": amount, "side": _SIDES[kind]}
    return _update(Update, ("trade", symbol, number, number, maybe_us(data.get("microtimestamp")), fields))


_SIDES = {0: "buy", 1: "sell"}  # of the taker


def _book(symbol: str, data: dict[str, Any]) -> Update:
    stamp = data["microtimestamp"]
    time, number = ns_of_us(stamp), whole(stamp)
    fields = {"type": "delta", "bids": levels(data["bids"]), "asks": levels(data["asks"]), "last_id": str(number)}
    return _update(Update, ("book", symbol, number, number, time, fields))


def request(action: Action, depth: int) -> Request:
    """The whole book, whatever the depth."""
    return Request(f"/api/v2/order_book/{action.symbol}/?group=1", 1, {})


def instruments_request(symbols: list[str]) -> Request:
    return Request("/api/v2/markets/", 1, {})


def trading_symbols(body: bytes) -> dict[str, str]:
    """Each symbol of a `markets` answer with its status; empty where it cannot be read."""
    return statuses(lambda: orjson.loads(body), _trading)


def _trading(entry: Any) -> tuple[str, str]:
    return _symbol(entry), "TRADING" if entry["trading"] == "Enabled" else text(entry["trading"])


def parse_rest(url: str, body: bytes) -> Snapshot | list[Update] | None:
    """What a REST answer (status 200) brings: a book, or instruments."""
    try:
        where, data = urlsplit(url).path.strip("/").split("/"), orjson.loads(body)
        if where[:3] == ["api", "v2", "order_book"]:
            stamp = data["microtimestamp"]
            return Snapshot(where[3], whole(stamp), ns_of_us(stamp), levels(data["bids"]), levels(data["asks"]))
        if where == ["api", "v2", "markets"] or where == ["api", "v2", "trading-pairs-info"]:
            return understood(data, _instrument)
    except FAULTS:
        pass
    return None


def _symbol(entry: dict[str, Any]) -> str:
    """Of `markets`, or as it was named in `trading-pairs-info`."""
    return text(entry["market_symbol"] if "market_symbol" in entry else entry["url_symbol"])


def _instrument(entry: Any) -> Update | None:
    symbol = _symbol(entry)
    base, quote = text(entry["name"]).removesuffix("-PERP").split("/")
    is_perpetual = symbol.endswith("-perp")
    fields = instrument(
        f"{base}-{quote}" + ("-PERP" if is_perpetual else ""),
        base,
        quote,
        type="perpetual" if is_perpetual else "spot",
        status=text(entry["trading"]).lower(),
        tick_size=step(entry.get("counter_decimals")),
        lot_size=step(entry.get("base_decimals")),
    )
    return Update("instrument", symbol, 0, 0, None, fields)
