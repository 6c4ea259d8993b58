"""HTX spot as an exchange speaks it: gzip frames, pings that must be answered, errors. Pure. Source: as `htx`."""

import gzip
from collections.abc import Container, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from ..fields import loads_exact
from ..standin_dialect import RefusedError
from . import htx

MESSAGES_PER_S = 100.0
PING_INTERVAL_S = 5
UNANSWERED_MAX = 2

_FULL, _INCREMENTAL = ".depth.step0", f".mbp.{htx.DEPTH}"
_LONG, _SHORT = "/v1/common/symbols", "/v1/settings/common/market-symbols"
_KEYS = {"symbol": "symbol", "state": "state", "bc": "base-currency", "qc": "quote-currency", "pp": "price-precision",
         "ap": "amount-precision"}  # fmt: skip


def stream_of(payload: bytes) -> str | None:
    """The topic. The recorded whole books go to who subscribes to the changes, of which there is no recording."""
    try:
        topic = loads_exact(payload).get("ch")
    except (ValueError, AttributeError):
        return None
    return topic.replace(_FULL, _INCREMENTAL) if isinstance(topic, str) else None


class Session:
    """Who does not answer two pings is left."""

    def __init__(self, path: str, known: Container[str]) -> None:
        self._known = known
        self.streams: dict[str, None] = {}
        self._is_feed = urlsplit(path).path == "/feed"
        self._beats = self._unanswered = 0
        self._pinged: int | None = None  # the number of the last ping, which its pong repeats

    def greeting(self) -> list[bytes]:
        return []

    def beat(self, now_ms: int) -> list[bytes]:
        self._beats += 1
        if self._beats % PING_INTERVAL_S:
            return []
        self._unanswered += 1
        if self._unanswered > UNANSWERED_MAX:
            raise RefusedError(1003, "no pong")
        self._pinged = now_ms
        return [b'{"ping":%d}' % now_ms]

    def answer(self, frame: bytes) -> list[bytes]:
        try:
            message = orjson.loads(frame)
            if "pong" in message:
                self._unanswered = 0 if message["pong"] == self._pinged else self._unanswered
                return []
            request = message.get("id")
            asked = next(op for op in ("sub", "unsub", "req") if op in message)
            return [self._answer(asked, message[asked], request)]
        except (ValueError, StopIteration, TypeError, AttributeError):
            return [_error(None, "invalid request")]

    def _answer(self, asked: str, topic: Any, request: object) -> bytes:
        parts = topic.split(".", 2) if isinstance(topic, str) else []
        if len(parts) == 3 and parts[1] not in self._known:
            return _error(request, f"invalid symbol {parts[1]}")
        if len(parts) != 3 or not self._offers(topic, parts[1]):
            return _error(request, f"invalid topic {topic}")
        head = {"id": request, "status": "ok"}
        if asked == "req":  # nothing was recorded of it
            return orjson.dumps({**head, "rep": topic, "data": {"seqNum": 0, "bids": [], "asks": []}})
        if asked == "sub":
            self.streams[topic] = None
            return orjson.dumps({**head, "subbed": topic, "ts": 0})
        self.streams.pop(topic, None)
        return orjson.dumps({**head, "unsubbed": topic, "ts": 0})

    def _offers(self, topic: str, symbol: str) -> bool:
        return topic in htx.streams(symbol, _ALL, _INTERVALS) and self._is_feed == (htx.path(topic) == "/feed")


_ALL, _INTERVALS = list(htx.CHANNELS), list(htx.CANDLE_INTERVALS)


def _error(request: object, said: str) -> bytes:
    return orjson.dumps({"status": "error", "err-code": "bad-request", "err-msg": said, "id": request, "ts": 0})


def pack(payload: bytes) -> bytes | None:
    return gzip.compress(payload, 1)


def rest(path: str, query: dict[str, str], recorded: Mapping[str, bytes]) -> tuple[int, bytes]:
    """Instruments: recorded under the older path with whole words for keys."""
    bodies = [body for url, body in recorded.items() if urlsplit(url).path == _LONG]
    if path == _LONG and bodies:
        return 200, bodies[0]
    if path == _SHORT:
        asked = frozenset(query["symbols"].split(",")) if "symbols" in query else None
        entries = orjson.loads(bodies[0])["data"] if bodies else []
        chosen = [
            {short: entry[long] for short, long in _KEYS.items()}
            for entry in entries
            if asked is None or entry["symbol"] in asked
        ]
        return 200, orjson.dumps({"status": "ok", "data": chosen, "ts": "0", "full": 1})
    return 404, b'{"status":"error","err-code":"invalid-request","err-msg":"not found","data":null}'
