"""Binance futures as they speak: which address serves which stream, subscriptions, answers over REST. Pure.

USD-M streams are split over /public/stream and /market/stream; /stream serves the public ones only. COIN-M's are served
everywhere. What is asked for at the wrong address, or of a symbol that there is not, is agreed to, and silent. Frames
are combined ones: /ws is not spoken.
"""

import re
from collections.abc import Container, Mapping
from urllib.parse import parse_qs, urlsplit

import orjson

from ..events import Snapshot
from ..fields import NS_PER_MS
from ..recording import symbol_of
from ..standin_dialect import RefusedError
from . import binance_standin
from .binance_futures import route

MESSAGES_PER_S = 10.0
IGNORED_BYTES = 4_088  # as spot
LIFETIME_S = 86_400.0
REQUESTS = 2400, 60.0
POLICY_VIOLATION = 1008
COIN_STREAMS_MAX = 200
"""Of one connection; USD-M's are bounded as those of spot are."""

_COIN = re.compile(r"[^@]+usd_(perp|\d{6})@")
_UNKNOWN_SYMBOL = b'{"code":-1121,"msg":"Invalid symbol."}'
_DEPTHS = {"5": 2, "10": 2, "20": 2, "50": 2, "100": 5, "500": 10, "1000": 20}  # that can be asked for, and weights
_BAD_LIMIT = b'{"code":-1130,"msg":"Data sent for parameter \'limit\' is not valid."}'
_UNKNOWN_PATH = b'{"code":-5000,"msg":"Path is invalid"}'


def stream_of(payload: bytes) -> str | None:
    """The stream of a combined frame. One recorded at another pace stands for the one that we subscribe."""
    stream = binance_standin.stream_of(payload)
    return stream.replace("@depth@0ms", "@depth@100ms") if stream else None


class Session:
    """One connection. `streams` holds what it gets, not what it only believes to get."""

    def __init__(self, path: str, known: Container[str]) -> None:
        self._known = known
        parts = urlsplit(path)
        self._route = parts.path.strip("/").rpartition("/")[0] or "public"
        names = "/".join(parse_qs(parts.query).get("streams", [])).split("/")
        self._asked = binance_standin.Session(binance_standin.Path(True, [name for name in names if name], False))
        self.streams: dict[str, None] = {}
        self._serve()

    def answer(self, frame: bytes) -> list[bytes]:
        try:
            answer = self._asked.answer(frame)
        except binance_standin.TooManyStreamsError:
            raise RefusedError(POLICY_VIOLATION, "Too many streams") from None
        self._serve()
        return [answer]

    def beat(self, now_ms: int) -> list[bytes]:
        return []  # its pings are the WebSocket's own

    def greeting(self) -> list[bytes]:
        return []

    def _serve(self) -> None:
        if sum(_COIN.match(name) is not None for name in self._asked.streams) > COIN_STREAMS_MAX:
            raise RefusedError(POLICY_VIOLATION, "Too many streams")
        self.streams = {name: None for name in self._asked.streams if self._brings(name)}

    def _brings(self, name: str) -> bool:
        """Whether anything ever comes; that a symbol is not known is never said."""
        if (symbol := symbol_of(name)) and symbol not in self._known:
            return False
        return _COIN.match(name) is not None or route(name) == self._route


def pack(payload: bytes) -> bytes | None:
    return None  # all is text


def weight(path: str, query: dict[str, str]) -> int:
    """Of a request over REST; books as deep as there are none weigh what the deepest do."""
    if path.endswith("/depth"):
        return _DEPTHS.get(query.get("limit", "500"), 20)
    return 20 if path.endswith("/aggTrades") else 1


def rest(path: str, query: dict[str, str], recorded: Mapping[str, bytes]) -> tuple[int, bytes]:
    """What was recorded for this path and symbol, however much was asked for; nothing else is known."""
    symbol = query.get("symbol", "")
    if path.endswith("/depth") and query.get("limit", "500") not in _DEPTHS:
        return 400, _BAD_LIMIT
    for url, body in recorded.items():
        parts = urlsplit(url)
        if parts.path == path and parse_qs(parts.query).get("symbol", [symbol]) == [symbol]:
            return 200, _from(body, query) if path.endswith("/aggTrades") else body
        if path.endswith("/depth") and f"-{symbol.lower()}-" in url:
            return 200, body  # of a recording that does not tell what was asked for: its name does
    if path.endswith("/aggTrades"):
        return 200, b"[]"
    if path.endswith("/exchangeInfo"):
        return 200, b'{"symbols":[]}'
    return (400, _UNKNOWN_SYMBOL) if path.endswith(("/depth", "/openInterest")) else (404, _UNKNOWN_PATH)


def book(snapshot: Snapshot) -> bytes:
    """A book over REST."""
    time = {} if snapshot.ts_event is None else dict.fromkeys("ET", snapshot.ts_event // NS_PER_MS)
    return orjson.dumps({"lastUpdateId": snapshot.last, **time, "bids": snapshot.bids, "asks": snapshot.asks})


def _from(body: bytes, query: dict[str, str]) -> bytes:
    """Recorded aggregates from the id on that was asked for."""
    first = query.get("fromId", "")
    if not first.isdecimal():
        return body
    return orjson.dumps([trade for trade in orjson.loads(body) if trade["a"] >= int(first)])
