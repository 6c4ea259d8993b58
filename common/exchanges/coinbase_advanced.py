"""Coinbase Advanced Trade: what its frames mean and how to ask for them.

Source: docs.cdp.coinbase.com/advanced-trade (WebSocket channels, public products), and a recording of 2026-08-09.
Trade ids are those of Coinbase Exchange, whose trades can be fetched by id.
"""

from typing import Any

import orjson

from ..adapter import FAULTS, statuses, understood
from ..book import BookRule
from ..events import Action, Reply, Request, Snapshot, Update, spot
from ..fields import best, maybe, maybe_iso, maybe_text, price, text, whole
from .coinbase import symbol_error as symbol_error

NAME = "coinbase-advanced"
VERSION = 5

WS_URL = "wss://advanced-trade-ws.coinbase.com"
REST_URL = "https://api.coinbase.com"

STREAMS_PER_CONNECTION = 100
STREAMS_PER_SUBSCRIBE = 20
MESSAGE_INTERVAL_S = 0.15  # 8 messages/s of an address are allowed; each connection's first must come within 5 s
MESSAGES_TOGETHER = True
CONNECT_INTERVAL_S = 0.15  # 8 connections a second are allowed
WEIGHT_PER_MIN = 300

CHANNELS = ("trade", "book", "quote", "ticker", "candle", "instrument")
BOOK = BookRule("stream", "none")  # what is lost shows in the connection's count
DENSE = frozenset({"trade"})
REPEATS = frozenset({"trade", "candle"})  # a subscription begins with the last hundred
WHOLE = dict.fromkeys(("trade", "book", "quote", "ticker", "candle"), "proven")
"""Every message of a connection is counted: none is lost unseen."""

CANDLE_INTERVALS = ("5m",)
CANDLE_DEFAULT = "5m"

PRODUCTS = "/api/v3/brokerage/market/products"

_STREAMS = {"trade": "market_trades", "book": "level2", "quote": "ticker", "ticker": "ticker", "candle": "candles"}
_HEARTBEATS = "heartbeats"
_HEARD = Reply(_HEARTBEATS, None)  # answers nothing that was asked
_SIDES = {"BUY": "sell", "SELL": "buy"}
"""The side that is sent is the maker's: in the recording, each trade sent as SELL lies at the best ask of the moment
before, each sent as BUY at the best bid. (The documentation leaves it open.)"""
_INT64_MAX = 2**63 - 1
_CANDLE_NS = 300 * 10**9
_update = tuple.__new__


def streams(symbol: str, channels: list[str], candle_intervals: list[str]) -> dict[str, tuple[str, str]]:
    """`market_trades:BTC-USD` and the like, with (channel, symbol); quotes come with tickers."""
    names: dict[str, tuple[str, str]] = {}
    for channel, stream in _STREAMS.items():
        if channel in channels:
            names.setdefault(f"{stream}:{symbol}", (channel, symbol))
    return names


def subscribe(names: list[str], request_id: int) -> list[bytes]:
    """One frame for each channel. Heartbeats each time: without them a channel ends after a quiet minute."""
    return [orjson.dumps({"type": "subscribe", "channel": _HEARTBEATS}), *_frames("subscribe", names)]


def unsubscribe(names: list[str], request_id: int) -> list[bytes]:
    return _frames("unsubscribe", names)


def _frames(kind: str, names: list[str]) -> list[bytes]:
    products: dict[str, list[str]] = {}
    for name in names:
        channel, _, product = name.partition(":")
        products.setdefault(channel, []).append(product)
    return [
        orjson.dumps({"type": kind, "product_ids": asked, "channel": channel}) for channel, asked in products.items()
    ]


def reply(message: Any) -> Reply | None:
    """`subscriptions` names all that the connection has by now. An error names nothing."""
    try:
        if message.get("type") == "error":
            return Reply(None, text(message["message"]))
        if message["channel"] == _HEARTBEATS:
            return _HEARD
        if message["channel"] != "subscriptions":
            return None
        names = [
            f"{channel}:{text(product)}"
            for event in message["events"]
            for channel, products in event["subscriptions"].items()
            for product in products
        ]
        return Reply(None, None, tuple(names)) if names else _HEARD
    except FAULTS:
        return None


def count(message: Any) -> int | None:
    """`sequence_num`, which counts all messages of a connection, acks and heartbeats among them, from 0."""
    number = message.get("sequence_num") if type(message) is dict else None
    return number if type(number) is int else None


def parse(message: Any) -> Update | list[Update] | None:
    """What a frame says: mostly one thing, and more where it has several events or products."""
    try:
        found = _READERS[message["channel"]](message)
    except FAULTS:
        return None
    return found[0] if len(found) == 1 else found or None


def _book(message: dict[str, Any]) -> list[Update]:
    return [_levels(event, message.get("timestamp")) for event in message["events"]]


def _levels(event: dict[str, Any], sent: object) -> Update:
    """Absolute amounts. Asks are called `offer`."""
    bids: list[list[str]] = []
    asks: list[list[str]] = []
    symbol, updates = event["product_id"], event["updates"]
    for update in updates:
        side, price, amount = update["side"], update["price_level"], update["new_quantity"]
        if type(price) is not str or type(amount) is not str:
            raise TypeError
        if side == "bid":
            bids.append([price, amount])
        elif side == "offer":
            asks.append([price, amount])
        else:
            raise ValueError
    if type(symbol) is not str:
        raise TypeError
    ts = (maybe_iso(updates[-1].get("event_time")) if updates else None) or maybe_iso(sent)
    fields = {"type": _BOOK_TYPES[event["type"]], "bids": bids, "asks": asks}
    return _update(Update, ("book", symbol, ts or 0, ts or 0, ts, fields))


_BOOK_TYPES = {"snapshot": "snapshot", "update": "delta"}


def _trades(message: dict[str, Any]) -> list[Update]:
    """Trades in the order of their ids; a frame has the newest first."""
    trades = [_trade(trade) for event in message["events"] for trade in event["trades"]]
    return trades if len(trades) == 1 else sorted(trades, key=lambda trade: trade.last)


def _trade(data: dict[str, Any]) -> Update:
    """Ids are those of Coinbase Exchange."""
    trade_id, price, amount, symbol = data["trade_id"], data["price"], data["size"], data["product_id"]
    if type(price) is not str or type(amount) is not str or type(symbol) is not str or type(trade_id) is not str:
        raise TypeError
    number = int(trade_id)
    if str(number) != trade_id or not 0 <= number < _INT64_MAX:
        raise ValueError
    fields = {"id": trade_id, "price": price, "amount": amount, "side": _SIDES[data["side"]]}
    return _update(Update, ("trade", symbol, number, number, maybe_iso(data.get("time")), fields))


def _tickers(message: dict[str, Any]) -> list[Update]:
    ts = maybe_iso(message.get("timestamp"))
    return [
        update for event in message["events"] for ticker in event["tickers"] for update in _quote_and_ticker(ticker, ts)
    ]


def _quote_and_ticker(data: dict[str, Any], ts: int | None) -> tuple[Update, Update]:
    symbol = text(data["product_id"])
    bid, bid_amount = best(data.get("best_bid"), data.get("best_bid_quantity"))
    ask, ask_amount = best(data.get("best_ask"), data.get("best_ask_quantity"))
    quote = {"bid_price": bid, "bid_amount": bid_amount, "ask_price": ask, "ask_amount": ask_amount}
    ticker = {
        "last": price(data.get("price")),
        "open": None,
        "high": price(data.get("high_24_h")),
        "low": price(data.get("low_24_h")),
        "volume": maybe(data.get("volume_24_h")),
        "quote_volume": None,
    }
    number = ts or 0
    return Update("quote", symbol, number, number, ts, quote), Update("ticker", symbol, number, number, ts, ticker)


def _candles(message: dict[str, Any]) -> list[Update]:
    """Five minutes each, in the order of their beginnings; the first frame has the last hundred of a product."""
    ts = maybe_iso(message.get("timestamp"))
    candles = [
        _candle(candle, ts, is_past=event.get("type") == "snapshot")
        for event in message["events"]
        for candle in event["candles"]
    ]
    candles.sort(key=lambda candle: candle.fields["open_ts"])
    return candles


def _candle(data: dict[str, Any], ts: int | None, *, is_past: bool) -> Update:
    """Those that a subscription begins with are ordered by their ends: what ended before the last one told is known."""
    open_ts = whole(data["start"]) * 10**9
    if not 0 <= open_ts <= _INT64_MAX:
        raise ValueError
    fields: dict[str, Any] = {
        "interval": "5m",
        "open_ts": open_ts,
        "close_ts": None,
        "open": maybe(data.get("open")),
        "high": maybe(data.get("high")),
        "low": maybe(data.get("low")),
        "close": maybe(data.get("close")),
        "volume": maybe(data.get("volume")),
        "quote_volume": None,
        "trades": None,
        "closed": None,
    }
    last = min(open_ts + _CANDLE_NS, ts or _INT64_MAX) if is_past else ts or 0
    return Update("candle", text(data["product_id"]), last, last, ts, fields)


_READERS: dict[str, Any] = {
    "l2_data": _book,
    "market_trades": _trades,
    "ticker": _tickers,
    "ticker_batch": _tickers,
    "candles": _candles,
}


def request(action: Action, depth: int) -> Request:
    """Nothing but instruments is asked for. Raises LookupError."""
    raise LookupError(f"{NAME} has no answer to {action.kind} of {action.channel}")


def instruments_request(symbols: list[str]) -> Request:
    return Request(PRODUCTS, 1, {})


def trading_symbols(body: bytes) -> dict[str, str]:
    """Each product with its status, TRADING where it trades; empty where it cannot be read."""
    return statuses(lambda: orjson.loads(body)["products"], _trading)


def _trading(entry: Any) -> tuple[str, str]:
    symbol = text(entry["product_id"])
    if entry.get("alias"):
        return symbol, f"served as {entry['alias']}"
    if entry.get("trading_disabled") is True:
        return symbol, "disabled"
    return symbol, "TRADING" if entry["status"] == "online" else text(entry["status"])


def parse_rest(url: str, body: bytes) -> Snapshot | list[Update] | None:
    """The instruments of a products answer (status 200)."""
    try:
        if url.partition("?")[0] == PRODUCTS:
            return understood(orjson.loads(body)["products"], _instrument)
    except FAULTS:
        return None
    return None


def _instrument(entry: Any) -> Update | None:
    """One product. Others' aliases (BTC-USDC for BTC-USD) are left out: nothing comes under their names."""
    if entry.get("alias") or entry["product_type"] != "SPOT":
        return None
    base, quote = text(entry["base_currency_id"]), text(entry["quote_currency_id"])
    status = text(entry["status"])
    tick, lot = (maybe_text(entry.get(key)) for key in ("price_increment", "base_increment"))
    return spot(text(entry["product_id"]), base, quote, status=status.lower(), tick_size=tick, lot_size=lot)
