"""Binance futures: what their frames mean and how to ask for them. `binance-usdm` (USD-M) and `binance-coinm` (COIN-M).

Sources: developers.binance.com, derivatives trading (USD-M and COIN-M), and binance-connector-python, of 2026-08-21.
What they share with the spot exchange is taken from its file.
"""

import re
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import orjson

from ..adapter import FAULTS, statuses, understood
from ..book import BookRule
from ..events import Action, Parsed, Request, Snapshot, Update, instrument, other_book
from ..fields import day, digits, levels, maybe, maybe_text, price, text
from . import binance
from .binance import SLOWER, agg_fields, agg_trade, candle, maybe_ns, ns, quote, steps, ticker, trade

VERSION = 5

STREAMS_PER_CONNECTION = 200  # COIN-M's limit; USD-M's is 1024
STREAMS_PER_SUBSCRIBE = 100
SUBSCRIBE_BYTES = 4_000  # as spot
MESSAGE_INTERVAL_S = 0.15  # 10 messages/s are allowed, pongs among them
WEIGHT_PER_MIN = 2400  # of both exchanges together: each answer says how much is used

CHANNELS = (
    "trade", "agg_trade", "book", "quote", "ticker", "candle",
    "funding", "mark", "open_interest", "liquidation", "instrument",
)  # fmt: skip
BOOK = BookRule("rest", "exact", rejoins=True)
"""Each delta names the id before it (`pu`); ids themselves are of all symbols together and jump. The first delta after
a snapshot has `pu` <= its id <= `u`: it contains the id, ends with it, or goes on right after it. One that ends with it
may hold levels beyond the snapshot's depth ("drop any event where u is < lastUpdateId").
"""

DENSE = BACKFILLS = frozenset({"agg_trade"})
"""The ids of aggregates count up by one. Those of single trades may leave some out (of trades off the book), their
stream is not documented, and to fetch them takes a key: `first_id` and `last_id` of the aggregates cover them.
"""

WHOLE = {"agg_trade": "proven", "book": "proven"}
"""Liquidations are lossy by design: of each symbol, only the last one of a second is sent."""

POLLS = {"open_interest": 30.0}  # a weight of one for each symbol
CANDLE_INTERVALS = tuple(interval for interval in binance.CANDLE_INTERVALS if interval != "1s")
SNAPSHOT_DEPTH_MAX = 1000

subscribe, unsubscribe = binance.subscribe, binance.unsubscribe
reply, is_shutdown = binance.reply, binance.is_shutdown

_DEPTHS = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}  # those there are, with their weights
_STREAM = {
    "trade": "trade", "agg_trade": "aggTrade", "book": "depth@100ms", "quote": "bookTicker", "ticker": "ticker",
    "funding": "markPrice@1s", "mark": "markPrice@1s", "liquidation": "forceOrder",
}  # fmt: skip
_OTHER_BOOK = re.compile(r"@(?:depth\d|rpiDepth)")
_UNSPLIT = "/stream"
_PUBLIC = ("depth", "bookTicker", "trade", "rpiDepth")
_update = tuple.__new__  # as Update(…), in half the time: for what comes most


def streams(symbol: str, channels: list[str], candle_intervals: list[str]) -> dict[str, tuple[str, str]]:
    """The stream names of one symbol, each with (channel, symbol). One brings mark prices and funding rates."""
    chosen = [channel for channel in _STREAM if channel in channels]
    names = {f"{symbol.lower()}@{_STREAM[channel]}": (channel, symbol) for channel in chosen}
    if "candle" in channels:
        names |= {f"{symbol.lower()}@kline_{interval}": ("candle", symbol) for interval in candle_intervals}
    return names


def route(stream: str) -> str:
    """Which part of USD-M's streams serves one: on the other it is agreed to, and nothing ever comes.

    Single trades are public although no page says so: on /market they are silent.
    """
    return "public" if stream.partition("@")[2].startswith(_PUBLIC) else "market"


def _split(stream: str) -> str:
    return f"/{route(stream)}/stream"


def _symbol_error(coin: bool, symbol: str) -> str | None:
    meant = "".join(char for char in symbol.upper() if not (char.isspace() or char in "/-"))
    if coin:
        meant = meant if not meant or "_" in meant else meant.removesuffix("PERP") + "_PERP"
    else:
        meant = meant.removesuffix("_PERP")
        meant = meant.removesuffix("PERP") if "-" in symbol else meant
    if symbol and symbol == meant:
        return None
    exchange = "Binance COIN-M" if coin else "Binance USD-M"
    return f"{symbol!r} is not a symbol of {exchange}" + (f": did you mean {meant}?" if meant else "")


def _parse(market: int, readers: dict[str, Any], message: Any) -> Parsed | None:
    """What a frame says, wrapped (`{"stream":…,"data":…}`) or not; None where there is nothing to be understood.

    The streams of all symbols are arrays that mix both exchanges: `st` tells them apart.
    """
    try:
        data = message.get("data", message)
        if type(data) is dict:
            kind, stream = data["e"], message.get("stream") or "@depth@"
            if kind == "depthUpdate" and "@depth@" not in stream and _OTHER_BOOK.search(stream):
                return None  # the best levels alone (`@depth20`), or a book with other orders (`@rpiDepth`)
            if kind == "depthUpdate" and stream.endswith(("@depth", "@depth@250ms", "@depth@500ms")):
                return other_book(_book(data), SLOWER)
            return readers[kind](data)  # type: ignore[no-any-return]  # all of them return Parsed
        found: list[Update] = []
        for entry in data:
            if entry.get("st", market) == market:
                parsed = readers[entry["e"]](entry)
                found += [parsed] if type(parsed) is Update else parsed
        return found or None
    except FAULTS:
        return None


def _trade(data: dict[str, Any]) -> Update:
    """`X` is MARKET for a trade of the book; others (INSURANCE_FUND, ADL, NA) came about beside it."""
    update, sort = trade(data), data.get("X")
    if sort != "MARKET" and sort is not None:
        update.fields["type"] = text(sort).lower()
    return update


def _book(data: dict[str, Any]) -> Update:
    first, last, before, symbol = data["U"], data["u"], data["pu"], data["s"]
    if type(first) is not int or type(last) is not int or type(before) is not int or type(symbol) is not str:
        raise TypeError
    if before >= last:
        raise ValueError  # the id after it may be beyond 64 bits
    fields = {
        "type": "delta",
        "bids": levels(data["b"]),
        "asks": levels(data["a"]),
        "first_id": str(first),
        "last_id": str(last),
        "prev_id": str(before),
    }
    return _update(Update, ("book", symbol, before + 1, last, maybe_ns(data.get("T")), fields))


def _quote(data: dict[str, Any]) -> Update:
    return quote(data, maybe_ns(data.get("T")))


def _mark(data: dict[str, Any]) -> Update | list[Update]:
    """`T` is when funding is next paid: 0 for contracts that are delivered, which have none."""
    symbol, time = text(data["s"]), maybe_ns(data.get("E"))
    prices = {"mark_price": maybe(data.get("p")), "index_price": maybe(data.get("i"))}
    mark = Update("mark", symbol, time or 0, time or 0, time, prices)
    rate, following = maybe(data.get("r")), maybe_ns(data.get("T"))
    if rate is None or (following is None and "T" in data):
        return mark
    funding = {"rate": rate, "predicted_rate": None, "next_ts": following}
    return [mark, Update("funding", symbol, time or 0, time or 0, time, funding)]


def _liquidation(data: dict[str, Any]) -> Update:
    """The forced order, with its own side: SELL closes a long position. It has no id."""
    order = data["o"]
    side = {"BUY": "buy", "SELL": "sell"}[order["S"]]
    time = maybe_ns(order.get("T"))
    fields = {"id": None, "price": price(order.get("p")), "amount": digits(order["q"]), "side": side}
    return Update("liquidation", text(order["s"]), time or 0, time or 0, time, fields)


def _coin_ticker(data: dict[str, Any]) -> Update:
    return _without_quote_volume(ticker(data))


def _coin_candle(data: dict[str, Any]) -> Update:
    return _without_quote_volume(candle(data))


def _without_quote_volume(update: Update) -> Update:
    """Of COIN-M, `v` counts contracts, and `q` is the volume in the base asset, not in the quoted one."""
    update.fields["quote_volume"] = None
    return update


_USD_READERS = {
    "trade": _trade,
    "aggTrade": agg_trade,
    "depthUpdate": _book,
    "bookTicker": _quote,
    "24hrTicker": ticker,
    "kline": candle,
    "markPriceUpdate": _mark,
    "forceOrder": _liquidation,
}
_COIN_READERS = {**_USD_READERS, "24hrTicker": _coin_ticker, "kline": _coin_candle}


def _request(root: str, action: Action, depth: int) -> Request:
    """The REST request for what the normaliser wants: a book, missed aggregates, open interest."""
    symbol = {"symbol": action.symbol}
    if action.kind == "snapshot":
        limit = min((each for each in _DEPTHS if each >= depth), default=SNAPSHOT_DEPTH_MAX)
        return Request(f"{root}/depth?{urlencode({**symbol, 'limit': limit})}", _DEPTHS[limit], {})
    if action.kind == "poll":
        return Request(f"{root}/openInterest?{urlencode(symbol)}", 1, {})
    return Request(f"{root}/aggTrades?{urlencode({**symbol, 'fromId': action.from_id, 'limit': 1000})}", 20, {})


def _instruments_request(root: str, symbols: list[str]) -> Request:
    return Request(f"{root}/exchangeInfo", 1, {})  # of all symbols: it cannot be asked for some


def trading_symbols(body: bytes) -> dict[str, str]:
    """Each symbol of an `exchangeInfo` answer with its status; empty where it cannot be read."""
    return statuses(lambda: orjson.loads(body)["symbols"], _trading)


def _trading(entry: Any) -> tuple[str, str]:
    return text(entry["symbol"]), _status(entry)


def _status(entry: dict[str, Any]) -> str:
    return text(entry["status"] if "status" in entry else entry["contractStatus"])  # the latter is COIN-M's


def parse_rest(url: str, body: bytes) -> Snapshot | list[Update] | None:
    """What a REST answer (status 200) brings: a book, aggregates in the order of their ids, or what was polled."""
    try:
        parts = urlsplit(url)
        data = orjson.loads(body)
        symbol = parse_qs(parts.query).get("symbol", [""])[0]
        if parts.path.endswith("/depth"):
            if type(data["lastUpdateId"]) is not int:
                return None
            time = maybe_ns(data.get("T"))
            return Snapshot(symbol, data["lastUpdateId"], time, levels(data["bids"]), levels(data["asks"]))
        if parts.path.endswith("/aggTrades"):
            return [Update("agg_trade", symbol, t["a"], t["a"], maybe_ns(t.get("T")), agg_fields(t)) for t in data]
        if parts.path.endswith("/openInterest"):
            time = maybe_ns(data.get("time"))
            fields = {"open_interest": digits(data["openInterest"])}
            return [Update("open_interest", text(data["symbol"]), time or 0, time or 0, time, fields)]
        if parts.path.endswith("/exchangeInfo"):
            return understood(data["symbols"], _instrument)
    except FAULTS:
        return None
    return None


def _instrument(entry: Any) -> Update | None:
    """One entry of `exchangeInfo`. `pricePrecision` is no tick size: the filters have it."""
    kind, base, counter = text(entry["contractType"]), text(entry["baseAsset"]), text(entry["quoteAsset"])
    tick, lot = steps(entry)
    name, sort, expiry = f"{base}-{counter}-PERP", "perpetual", None
    if "QUARTER" in kind or "MONTH" in kind:
        expiry = ns(entry["deliveryDate"])
        name = f"{base}-{counter}-{day(expiry)}"
        sort = "future"
    elif "PERPETUAL" not in kind:
        return None
    fields = instrument(
        name,
        base,
        counter,
        type=sort,
        status=_status(entry).lower(),
        settle=maybe_text(entry.get("marginAsset")),
        expiry=expiry,
        contract_size=maybe(entry.get("contractSize")),
        tick_size=tick,
        lot_size=lot,
    )
    return Update("instrument", text(entry["symbol"]), 0, 0, None, fields)


VARIANTS: dict[str, dict[str, Any]] = {
    "binance-usdm": {
        "NAME": "binance-usdm",
        "WS_URL": "wss://fstream.binance.com",
        "REST_URL": "https://fapi.binance.com",
        "symbol_error": partial(_symbol_error, False),
        "path": _split,
        "ROUTES": ("split", "unsplit"),
        "routes": lambda stream: (_split(stream), _UNSPLIT),
        "parse": partial(_parse, 1, _USD_READERS),
        "request": partial(_request, "/fapi/v1"),
        "instruments_request": partial(_instruments_request, "/fapi/v1"),
    },
    "binance-coinm": {
        "NAME": "binance-coinm",
        "WS_URL": "wss://dstream.binance.com",
        "REST_URL": "https://dapi.binance.com",
        "symbol_error": partial(_symbol_error, True),
        "path": lambda _stream: _UNSPLIT,  # as far as is known; one report of 2026-05 says otherwise
        "ROUTES": ("unsplit", "split"),
        "routes": lambda stream: (_UNSPLIT, _split(stream)),
        "parse": partial(_parse, 2, _COIN_READERS),
        "request": partial(_request, "/dapi/v1"),
        "instruments_request": partial(_instruments_request, "/dapi/v1"),
    },
}
"""What differs between the two. Amounts of COIN-M are numbers of contracts."""
