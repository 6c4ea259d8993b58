"""Binance spot's REST answers, out of the messages that its streams have sent so far. Pure.

The book is the naive one: a snapshot with the deltas after it, absolute amounts, zero removes. Its `lastUpdateId` is
the last `u` that went out, so whatever a stream sends next fits behind it.

Source: github.com/binance/binance-spot-api-docs, rest-api.md.
"""

import bisect
import re
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from ..recording import SNAPSHOT, Message

TRADES_MAX = 200_000
"""Trades that are kept of each symbol; older ones are forgotten, oldest first."""

HELD_MAX = 20_000
"""Deltas that are kept of each symbol while its book waits for a snapshot."""

UNSETTLED_MAX = 1_000
"""Book messages that are kept undecoded until someone asks."""

WEIGHT_LIMIT = 6_000
"""Request weight per minute and address."""

QUOTES = ("USDT", "USDC", "FDUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "TRY", "BRL")


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


def error(status: int, code: int, text: str) -> Answer:
    """An error as the exchange words it."""
    return Answer(status, orjson.dumps({"code": code, "msg": text}))


class Book:
    """One symbol's book at the moment. `first` is the snapshot that the source will bring, where one is known."""

    def __init__(self, first: bytes | None) -> None:
        self.bids: dict[str, str] = {}
        self.asks: dict[str, str] = {}
        self.last_id: int | None = None
        self._first = first
        self._lost = False  # a hole in the source's deltas: held ones wait for its next snapshot
        self._held: deque[dict[str, Any]] = deque(maxlen=HELD_MAX)
        self._unsettled: list[bytes] = []

    def add(self, payload: bytes) -> None:
        """Take a combined frame of deltas or a snapshot, as it passes."""
        self._unsettled.append(payload)
        if len(self._unsettled) >= UNSETTLED_MAX:
            self._settle()

    def answer(self, limit: int) -> bytes:
        """The body of `/api/v3/depth`: before the recorded snapshot has passed, that one verbatim."""
        self._settle()
        if self.last_id is None:
            return _cut(self._first, limit) if self._first else b'{"lastUpdateId":0,"bids":[],"asks":[]}'
        bids = sorted(self.bids.items(), key=lambda level: -float(level[0]))[:limit]
        asks = sorted(self.asks.items(), key=lambda level: float(level[0]))[:limit]
        return orjson.dumps({"lastUpdateId": self.last_id, "bids": bids, "asks": asks})

    def _settle(self) -> None:
        for payload in self._unsettled:
            try:
                content = orjson.loads(payload)
            except orjson.JSONDecodeError:
                continue  # a frame that came broken
            if "lastUpdateId" in content:
                self._reset(content)
            else:
                self._update(content["data"])
        self._unsettled.clear()

    def _reset(self, snapshot: dict[str, Any]) -> None:
        if self.last_id is not None and not self._lost and snapshot["lastUpdateId"] <= self.last_id:
            return  # what goes on from the deltas alone is newer, and agrees
        self.bids, self.asks = dict(snapshot["bids"]), dict(snapshot["asks"])
        self.last_id, self._lost = snapshot["lastUpdateId"], False
        held, self._held = self._held, deque(maxlen=HELD_MAX)
        for delta in held:
            if delta["u"] > snapshot["lastUpdateId"]:
                self._apply(delta)

    def _update(self, delta: dict[str, Any]) -> None:
        if self.last_id is None and self._first is None:
            self.last_id = delta["U"] - 1  # a source without snapshots: the book begins empty
        if self.last_id is None or self._lost or delta["U"] > self.last_id + 1:
            self._lost = self.last_id is not None
            self._held.append(delta)
        elif delta["u"] > self.last_id:
            self._apply(delta)

    def _apply(self, delta: dict[str, Any]) -> None:
        for levels, changes in ((self.bids, delta["b"]), (self.asks, delta["a"])):
            for price, amount in changes:
                if amount.strip("0.") == "":
                    levels.pop(price, None)
                else:
                    levels[price] = amount
        self.last_id = delta["u"]


def _cut(snapshot: bytes, limit: int) -> bytes:
    content = orjson.loads(snapshot)
    if max(len(content["bids"]), len(content["asks"])) <= limit:
        return snapshot
    return orjson.dumps({**content, "bids": content["bids"][:limit], "asks": content["asks"][:limit]})


class Market:
    """All symbols as they stand after the messages so far."""

    def __init__(
        self, symbols: Iterable[str], snapshots: Mapping[str, bytes], weight_limit: int = WEIGHT_LIMIT
    ) -> None:
        self.symbols = tuple(symbols)
        self._snapshots = dict(snapshots)
        self._weight_limit = weight_limit
        self.begin()

    def begin(self) -> None:
        """Forget everything: the source starts (again)."""
        self._books = {symbol: Book(self._snapshots.get(symbol)) for symbol in self.symbols}
        self._trades: dict[str, deque[bytes]] = {symbol: deque(maxlen=TRADES_MAX) for symbol in self.symbols}
        self._aggregated: dict[str, deque[bytes]] = {symbol: deque(maxlen=TRADES_MAX) for symbol in self.symbols}
        self._sinks: dict[tuple[str, str], Callable[[bytes], None]] = {}

    def add(self, messages: Iterable[Message]) -> None:
        """Take messages as they pass, sent or held back by a fault."""
        sinks = self._sinks
        for message in messages:
            key = (message.symbol, message.stream)
            (sinks.get(key) or sinks.setdefault(key, self._sink(message)))(message.payload)

    def _sink(self, message: Message) -> Callable[[bytes], None]:
        channel = message.stream.partition("@")[2]
        if message.symbol not in self._books:
            return _ignore
        # streams of several paces may come: absolute amounts bear it
        if message.stream == SNAPSHOT or channel in ("depth", "depth@100ms", "depth@0ms"):
            return self._books[message.symbol].add
        if channel == "trade":
            return self._trades[message.symbol].append
        return self._aggregated[message.symbol].append if channel == "aggTrade" else _ignore

    def answer(self, path: str, params: Mapping[str, str], now_ms: int) -> Answer:
        """The answer to one request; `path` without its query."""
        name = path.removeprefix("/api/v3/")
        try:
            if name == "ping":
                return Answer(200, b"{}")
            if name == "time":
                return Answer(200, b'{"serverTime":%d}' % now_ms)
            if name == "exchangeInfo":
                return self._exchange_info(params, now_ms)
            if name in ("depth", "trades", "historicalTrades", "aggTrades"):
                return self._of_symbol(name, params)
        except _BadRequestError as problem:
            return error(400, problem.code, str(problem))
        return Answer(404, b'{"code":-1000,"msg":"Path not found."}')

    def _of_symbol(self, name: str, params: Mapping[str, str]) -> Answer:
        symbol = params.get("symbol", "")
        if not symbol:
            message = "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
            raise _BadRequestError(-1102, message)
        if symbol not in self._books:
            raise _BadRequestError(-1121, "Invalid symbol.")
        if name == "depth":
            return Answer(200, self._books[symbol].answer(min(_number(params, "limit", 100), 5000)))
        limit = min(_number(params, "limit", 500), 1000)
        from_id = _number(params, "fromId", -1) if name != "trades" else -1
        trades, summed = self._trades[symbol], self._aggregated[symbol]
        if name != "aggTrades":
            return Answer(200, orjson.dumps([_as_trade(trade) for trade in _page(trades, "t", from_id, limit)]))
        page = _page(summed, "a", from_id, limit) if summed else _page(trades, "t", from_id, limit)
        return Answer(200, orjson.dumps([_as_aggregate(trade) for trade in page]))

    def _exchange_info(self, params: Mapping[str, str], now_ms: int) -> Answer:
        wanted: list[str] = list(self.symbols)
        if "symbol" in params:
            wanted = [params["symbol"]]
        elif "symbols" in params:
            try:
                wanted = list(orjson.loads(params["symbols"]))
            except (orjson.JSONDecodeError, TypeError):
                raise _BadRequestError(-1100, "Illegal characters found in parameter 'symbols'.") from None
        if any(symbol not in self._books for symbol in wanted):
            raise _BadRequestError(-1121, "Invalid symbol.")
        info = {
            "timezone": "UTC",
            "serverTime": now_ms,
            "rateLimits": [
                {
                    "rateLimitType": "REQUEST_WEIGHT",
                    "interval": "MINUTE",
                    "intervalNum": 1,
                    "limit": self._weight_limit,
                },
                {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300_000},
            ],
            "exchangeFilters": [],
            "symbols": [_instrument(symbol) for symbol in wanted],
        }
        return Answer(200, orjson.dumps(info))


class _BadRequestError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def _ignore(_: bytes) -> None:
    pass


def _number(params: Mapping[str, str], name: str, default: int) -> int:
    text = params.get(name)
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,20}", text):
        message = f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
        raise _BadRequestError(-1100, message)
    return int(text)


def _page(payloads: Iterable[bytes], key: str, from_id: int, limit: int) -> list[dict[str, Any]]:
    """The newest trades, or those from an id on: ids only grow, so few payloads are decoded."""
    found = list(payloads)
    start = max(len(found) - limit, 0)
    if from_id >= 0:
        start = bisect.bisect_left(found, from_id, key=lambda payload: _data(payload)[key])
    return [_data(payload) for payload in found[start : start + limit]]


def _data(payload: bytes) -> dict[str, Any]:
    data: dict[str, Any] = orjson.loads(payload)["data"]
    return data


def _as_trade(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": data["t"],
        "price": data["p"],
        "qty": data["q"],
        "quoteQty": product(data["p"], data["q"]),
        "time": data["T"],
        "isBuyerMaker": data["m"],
        "isBestMatch": data.get("M", True),
    }


def product(price: str, amount: str) -> str:
    """Price times amount with 8 decimals, cut as the exchange does; exact, no floats."""
    whole = _units(price) * _units(amount) // 10**8
    return f"{whole // 10**8}.{whole % 10**8:08d}"


def _units(number: str) -> int:
    whole, _, fraction = number.partition(".")
    return int(whole + fraction[:8].ljust(8, "0"))


def _as_aggregate(data: dict[str, Any]) -> dict[str, Any]:
    number = data.get("a", data.get("t"))
    first, last = data.get("f", number), data.get("l", number)
    head = {"a": number, "p": data["p"], "q": data["q"], "f": first, "l": last}
    return {**head, "T": data["T"], "m": data["m"], "M": data.get("M", True)}


def _instrument(symbol: str) -> dict[str, Any]:
    quote = next((name for name in QUOTES if symbol.endswith(name) and symbol != name), symbol[-4:])
    return {
        "symbol": symbol,
        "status": "TRADING",
        "baseAsset": symbol.removesuffix(quote),
        "baseAssetPrecision": 8,
        "quoteAsset": quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "isSpotTradingAllowed": True,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": "0.01000000",
                "maxPrice": "1000000.00000000",
                "tickSize": "0.01000000",
            },
            {"filterType": "LOT_SIZE", "minQty": "0.00001000", "maxQty": "9000.00000000", "stepSize": "0.00001000"},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
    }


def weight(path: str, params: Mapping[str, str]) -> int:
    """The request weight of one request."""
    name = path.removeprefix("/api/v3/")
    if name == "depth":
        text = params.get("limit", "100")
        limit = int(text) if text.isdecimal() else 100
        return next((cost for most, cost in ((100, 5), (500, 25), (1000, 50)) if limit <= most), 250)
    return {"exchangeInfo": 20, "trades": 25, "historicalTrades": 25, "aggTrades": 4}.get(name, 1)


class Weights:
    """Counts request weight per minute."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._minute = -1

    def count(self, cost: int, now_ms: int) -> Answer | None:
        """Add the cost of one request; the refusal where the minute's limit is passed."""
        minute, past_ms = divmod(now_ms, 60_000)
        if minute != self._minute:
            self._minute, self.used = minute, 0
        self.used += cost
        if self.used <= self.limit:
            return None
        text = f"Too many requests; current limit is {self.limit} request weight per 1 MINUTE."
        return too_many(text, max(1, (60_000 - past_ms) // 1000))


def too_many(text: str, retry_after_s: int) -> Answer:
    """The exchange's 429."""
    return error(429, -1003, text)._replace(headers={"Retry-After": str(retry_after_s)})


def split(target: str) -> tuple[str, dict[str, str]]:
    """Path and parameters of a request's address."""
    path, _, query = target.partition("?")
    return path, dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
