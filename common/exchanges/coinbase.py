"""Coinbase Exchange: what its frames mean and how to ask for them.

Source: docs.cdp.coinbase.com/exchange (WebSocket channels, REST products and trades). `level2` itself needs a key since
August 2023; `level2_batch`, the same each 50 ms, does not.
"""

from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import orjson

from ..adapter import FAULTS, statuses, understood
from ..book import BookRule
from ..events import Action, Reply, Request, Snapshot, Update, covering, spot
from ..fields import best, levels, maybe, maybe_iso, maybe_text, maybe_whole, price, text

NAME = "coinbase"
VERSION = 5

WS_URL = "wss://ws-feed.exchange.coinbase.com"
REST_URL = "https://api.exchange.coinbase.com"

STREAMS_PER_CONNECTION = 100
MESSAGE_INTERVAL_S = 0.05  # 100 messages/s of an address are allowed; each connection's first must come within 5 s
MESSAGES_TOGETHER = True
CONNECT_INTERVAL_S = 0.15  # 8 connections a second are allowed
WEIGHT_PER_MIN = 300  # each request weighs 1
REQUEST_INTERVAL_S = 0.11  # 10/s are said to be allowed, unconfirmed

CHANNELS = ("trade", "book", "quote", "ticker", "instrument")
BOOK = BookRule("stream", "none")  # no number, no checksum: a loss within a connection cannot be seen
DENSE = BACKFILLS = REPEATS = frozenset({"trade"})  # a subscription begins with the last trade
WHOLE = {"trade": "proven"}

TRADES_MAX = 1000
"""The most trades that one REST answer holds."""

_STREAMS = {"trade": ("matches",), "book": ("level2_batch",), "quote": ("ticker",), "ticker": ("ticker",)}
_ACKED = {"level2_50": "level2_batch"}  # by the batches' 50 ms: some acks are said to call it so, unconfirmed
_TAKER = {"sell": "buy", "buy": "sell"}  # a match names the maker's side
_HEARD = Reply("heartbeat", None)  # answers nothing that was asked
_update = tuple.__new__


def symbol_error(symbol: str) -> str | None:
    """What is wrong with a text as a product id (BTC-USD), with the nearest that could be one; None where it may be."""
    base, _, other = symbol.partition("-")
    if _is_asset(base) and all(map(_is_asset, other.split("-"))):
        return None
    meant = "-".join(symbol.upper().replace("/", " ").replace("-", " ").replace("_", " ").split())
    return f"{symbol!r} is not a product of Coinbase" + (f": did you mean {meant}?" if "-" in meant else "")


def _is_asset(part: str) -> bool:
    return part.isalnum() and part == part.upper()


def streams(symbol: str, channels: list[str], candle_intervals: list[str]) -> dict[str, tuple[str, str]]:
    """`matches:BTC-USD` and the like, with (channel, symbol).

    `heartbeat`, and `status` for instruments, go along under another's place, first: whoever looks for the stream of
    that place finds the other. Status tells only changes, and is not missed where it is silent.
    """
    carried = [channel for channel in _STREAMS if channel in channels]
    if not carried:
        return {}
    beside = (carried[0], symbol)
    names = {"status": beside} if "instrument" in channels else {}
    names[f"heartbeat:{symbol}"] = beside
    for channel in carried:
        for stream in _STREAMS[channel]:
            names.setdefault(f"{stream}:{symbol}", (channel, symbol))
    return names


def subscribe(names: list[str], request_id: int) -> list[bytes]:
    return _frames("subscribe", names)


def unsubscribe(names: list[str], request_id: int) -> list[bytes]:
    return _frames("unsubscribe", names)


def _frames(kind: str, names: list[str]) -> list[bytes]:
    """A frame for each product: one that is not known there refuses all that it came with."""
    products: dict[str, list[str]] = {}
    for name in names:
        channel, _, product = name.partition(":")
        products.setdefault(product, []).append(channel)
    return [
        orjson.dumps({"type": kind, "product_ids": [product], "channels": channels})
        if product
        else orjson.dumps({"type": kind, "channels": [{"name": channel} for channel in channels]})
        for product, channels in products.items()
    ]


def reply(message: Any) -> Reply | None:
    """`subscriptions` names all that the connection has by now; an error may name a product in its reason."""
    try:
        kind = message["type"]
        if kind == "heartbeat":
            return _HEARD
        if kind == "subscriptions":
            return Reply(None, None, tuple(_subscribed(message["channels"]))) if message["channels"] else _HEARD
        if kind == "error":
            return _refusal(text(message["message"]), message.get("reason"))
    except FAULTS:
        return None
    return None


def _subscribed(channels: list[dict[str, Any]]) -> list[str]:
    """The streams of an ack: a channel without products, as `status`, is a stream by itself."""
    names = []
    for channel in channels:
        products = channel.get("product_ids") or [""]
        name = _ACKED.get(channel["name"], text(channel["name"]))
        names += [f"{name}:{text(product)}" if product else name for product in products]
    return names


def _refusal(said: str, reason: object) -> Reply:
    error = f"{said}: {reason}" if type(reason) is str and reason else said
    product, found, _ = str(reason).partition(" is not a valid product")
    if not found or symbol_error(product) is not None:
        return Reply(None, error)
    return Reply(None, error, tuple(f"{name}:{product}" for name in ("heartbeat", "matches", "level2_batch", "ticker")))


def parse(message: Any) -> Update | list[Update] | None:
    """What a frame says; a ticker is a quote too. None where there is nothing to be understood."""
    try:
        return _READERS[message["type"]](message)  # type: ignore[no-any-return]
    except FAULTS:
        return None


def _match(data: dict[str, Any]) -> Update:
    """A trade; `last_match`, the one before the subscription, shows what was missed between two connections."""
    trade_id, price, amount, symbol = data["trade_id"], data["price"], data["size"], data["product_id"]
    if type(trade_id) is not int or type(price) is not str or type(amount) is not str or type(symbol) is not str:
        raise TypeError
    fields = {"id": str(trade_id), "price": price, "amount": amount, "side": _TAKER[data["side"]]}
    return _update(Update, ("trade", symbol, trade_id, trade_id, maybe_iso(data.get("time")), fields))


def _delta(data: dict[str, Any]) -> Update:
    symbol, ts = data["product_id"], maybe_iso(data.get("time"))
    bids: list[list[str]] = []
    asks: list[list[str]] = []
    if type(symbol) is not str:
        raise TypeError
    for change in data["changes"]:
        side, price, amount = change
        if type(price) is not str or type(amount) is not str or type(change) is not list:
            raise TypeError
        if not amount.replace(".", "", 1).isdecimal():
            continue
        if side == "buy":
            bids.append([price, amount])
        elif side == "sell":
            asks.append([price, amount])
        else:
            raise ValueError
    fields = {"type": "delta", "bids": bids, "asks": asks}
    return _update(Update, ("book", symbol, ts or 0, ts or 0, ts, fields))


def _snapshot(data: dict[str, Any]) -> Update:
    ts = maybe_iso(data.get("time"))
    fields = {"type": "snapshot", "bids": _levels(data["bids"]), "asks": _levels(data["asks"])}
    return Update("book", text(data["product_id"]), ts or 0, ts or 0, ts, fields)


def _levels(value: object) -> list[list[str]]:
    """Levels without those whose amount is garbage, as `0.-10000`: seen in snapshots."""
    return [level for level in levels(value) if level[1].replace(".", "", 1).isdecimal()]


def _ticker(data: dict[str, Any]) -> list[Update]:
    """`sequence` grows with each event of the product, most of which are not sent. No time before the first trade."""
    symbol, ts = text(data["product_id"]), maybe_iso(data.get("time"))
    sequence = maybe_whole(data.get("sequence")) or 0
    bid, bid_amount = best(data.get("best_bid"), data.get("best_bid_size"))
    ask, ask_amount = best(data.get("best_ask"), data.get("best_ask_size"))
    quote_ = {"bid_price": bid, "bid_amount": bid_amount, "ask_price": ask, "ask_amount": ask_amount}
    ticker = {
        "last": price(data.get("price")),
        "open": price(data.get("open_24h")),
        "high": price(data.get("high_24h")),
        "low": price(data.get("low_24h")),
        "volume": maybe(data.get("volume_24h")),
        "quote_volume": None,
    }
    return [
        Update("quote", symbol, sequence, sequence, ts, quote_),
        Update("ticker", symbol, sequence, sequence, ts, ticker),
    ]


def _status(data: dict[str, Any]) -> list[Update] | None:
    return understood(data["products"], _instrument) or None


_READERS: dict[str, Any] = {
    "l2update": _delta,
    "match": _match,
    "last_match": _match,
    "snapshot": _snapshot,
    "ticker": _ticker,
    "status": _status,
}


def request(action: Action, depth: int) -> Request:
    """Trades from an id on: `after` gives the newest of those below it."""
    query = urlencode({"limit": TRADES_MAX, "after": action.from_id + TRADES_MAX})
    return Request(f"/products/{quote(action.symbol, safe='')}/trades?{query}", 1, {})


def instruments_request(symbols: list[str]) -> Request:
    return Request("/products", 1, {})


def trading_symbols(body: bytes) -> dict[str, str]:
    """Each product of a `products` answer with its status, TRADING where it trades; empty where it cannot be read."""
    return statuses(lambda: orjson.loads(body), _trading)


def _trading(entry: Any) -> tuple[str, str]:
    if entry.get("trading_disabled") is True:
        return text(entry["id"]), "disabled"
    return text(entry["id"]), "TRADING" if entry["status"] == "online" else text(entry["status"])


def parse_rest(url: str, body: bytes) -> Snapshot | list[Update] | None:
    """What a REST answer (status 200) brings: trades in the order of their ids, or instruments."""
    try:
        parts = urlsplit(url)
        data = orjson.loads(body)
        if parts.path == "/products":
            return understood(data, _instrument)
        if parts.path.endswith("/trades"):
            symbol = unquote(parts.path.split("/")[-2])
            from_id = int(parse_qs(parts.query)["after"][0]) - TRADES_MAX
            trades = sorted((_match({**trade, "product_id": symbol}) for trade in data), key=lambda trade: trade.last)
            return covering([trade for trade in trades if trade.last >= from_id], from_id)
    except FAULTS:
        return None
    return None


def _instrument(entry: Any) -> Update | None:
    """One product, of `status` on the socket as of REST."""
    base, counter = text(entry["base_currency"]), text(entry["quote_currency"])
    status = text(entry["status"])
    tick, lot = (maybe_text(entry.get(key)) for key in ("quote_increment", "base_increment"))
    return spot(text(entry["id"]), base, counter, status=status.lower(), tick_size=tick, lot_size=lot)
