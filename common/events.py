"""The event: one normalised trading event, and its topic on the wire.

    binance/trade/BTCUSDT {"exchange":"binance","channel":"trade","symbol":"BTCUSDT","seq":…,"prev":…,"ts_event":…,…}
    └───── topic ───────┘ └ JSON, orjson ──────────────────────────────────────────────────────────────────────────┘

Prices and amounts are strings with the exchange's own digits; `side` is the taker's; times are ns; amount zero removes
a book level.
"""

from typing import Any, NamedTuple

import orjson

from .storage import encode_symbol

CHANNELS = (
    "trade", "agg_trade", "book", "quote", "ticker", "candle",
    "funding", "mark", "open_interest", "liquidation", "instrument",
)  # fmt: skip
SPARSE = frozenset({"liquidation", "instrument"})
"""Channels that may be silent for long without anything being wrong."""
INDEX = "index"
"""The channel of an Update that names an index alone: normalise adds it to the `mark` events of the index's symbols."""
GAP = "gap"
SKIPPED = "history does not answer"
"""The reason of a gap that a follower opens: it goes over what history does not have."""
HEARTBEAT = "heartbeat"

Event = dict[str, Any]
Level = tuple[str, str]


class Update(NamedTuple):
    """What an adapter reads out of a frame: one event but for its numbers.

    `first` and `last` are the exchange's ids that it covers (the same where it has one); of channels without an id,
    the exchange's time, so that two connections can be put in order; 0 where neither is told. `fields` are those of
    the event's channel.
    """

    channel: str
    symbol: str
    first: int
    last: int
    ts_event: int | None
    fields: dict[str, Any]


class OtherBook(Update):
    """An update of a book stream of another depth than the one that the adapter subscribes to.

    Recordings of others may hold several streams of one book, each with ids of its own: the deepest feeds the book.
    """

    depth: int


def other_book(update: Update, depth: int) -> OtherBook:
    made = OtherBook(*update)
    made.depth = depth
    return made


def covering(trades: list[Update], from_id: int) -> list[Update]:
    """Trades that were asked for by id: each covers the ids since the one before it, those that do not exist too."""
    firsts = [from_id, *(trade.last + 1 for trade in trades)]
    return [trade._replace(first=first) for trade, first in zip(trades, firsts, strict=False)]


class Snapshot(NamedTuple):
    """A whole book, out of a REST answer: levels from the best on, exact after the exchange's id `last`."""

    symbol: str
    last: int
    ts_event: int | None
    bids: list[Level]
    asks: list[Level]


def instrument(
    name: str,
    base: str,
    quote: str,
    *,
    type: str,
    status: str,
    settle: str | None = None,
    expiry: int | None = None,
    strike: str | None = None,
    option_type: str | None = None,
    contract_size: str | None = None,
    tick_size: str | None = None,
    lot_size: str | None = None,
) -> dict[str, Any]:
    """The fields of an `instrument` event. `name` is the unified one: BTC-USDT, BTC-USDT-PERP, BTC-USD-20261225.

    `type` is spot, perpetual, future or option; `expiry` in ns; sizes are texts with the exchange's digits.
    """
    return {
        "base": base,
        "quote": quote,
        "settle": settle,
        "type": type,
        "expiry": expiry,
        "strike": strike,
        "option_type": option_type,
        "contract_size": contract_size,
        "tick_size": tick_size,
        "lot_size": lot_size,
        "status": status,
        "name": name,
    }


def spot(symbol: str, base: str, quote: str, *, status: str, tick_size: str | None, lot_size: str | None) -> Update:
    """The `instrument` event of a pair of two assets."""
    name = f"{base}-{quote}"
    fields = instrument(name, base, quote, type="spot", status=status, tick_size=tick_size, lot_size=lot_size)
    return Update("instrument", symbol, 0, 0, None, fields)


Parsed = Update | Snapshot | list[Update]
"""What a frame says: mostly one thing."""


class Reply(NamedTuple):
    """An exchange's answer to something sent: `error` is None where it agreed.

    It answers a request by its id, or names the streams (none: all that were asked for last).
    """

    id: int | str | None
    error: str | None
    names: tuple[str, ...] = ()


class Request(NamedTuple):
    """A REST request: the path with its query, and what it weighs in the exchange's count."""

    path: str
    weight: int
    headers: dict[str, str]


class Action(NamedTuple):
    """What the normaliser wants done when it runs live: a `snapshot` of a symbol, or a `backfill` from an id on.

    `since`, ns, is for exchanges that can be asked by time only: what comes next happened about then, or after.
    """

    kind: str
    channel: str
    symbol: str
    from_id: int = 0
    since: int = 0


def topic(exchange: str, channel: str, symbol: str | None) -> bytes:
    """The topic, with the space at its end: `binance/trade/BTCUSDT `, or `binance/heartbeat ` for the exchange."""
    if symbol is None:
        return f"{exchange}/{channel} ".encode()
    return f"{exchange}/{channel}/{encode_symbol(symbol)} ".encode()


def templates(exchange: str, channel: str, symbol: str) -> tuple[bytes, bytes]:
    """Messages of a topic, to be filled in with `%`: of events with the exchange's time, and of those without.

    They take `seq`, `prev`, the time if any, `ts_recv`, and the JSON of the event's fields without its first brace.
    """
    whose = orjson.dumps({"exchange": exchange, "channel": channel, "symbol": symbol})[:-1]
    start = (topic(exchange, channel, symbol) + whose).replace(b"%", b"%%") + b',"seq":%d,"prev":%d,"ts_event":'
    return start + b'%d,"ts_recv":%d,%b', start + b'null,"ts_recv":%d,%b'


def body(message: bytes) -> bytes:
    """The JSON of a live message."""
    return message.partition(b" ")[2]
