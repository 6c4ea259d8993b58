"""Bitstamp as it speaks: acknowledgements, refusals, the heartbeat that is answered, books and markets over REST. Pure.

Source: www.bitstamp.net/websocket/v2, and recordings of the format in use. Its answer to a pair that there is not
is inferred: its error for channels.
"""

import re
from collections.abc import Container, Mapping
from urllib.parse import urlsplit

import orjson

from ..events import Snapshot
from ..standin_dialect import RefusedError

MESSAGES_PER_S = 100.0  # ours: the exchange tells of none
FRAME_BYTES_MAX = 511
LIFETIME_S = 90 * 86_400.0
REQUESTS = 10_000, 600.0
SHUTDOWN = b'{"event":"bts:request_reconnect","channel":"","data":""}'

_CHANNEL = re.compile(r"(?:live_trades|live_orders|order_book|detail_order_book|diff_order_book)_([^_]+)")


def stream_of(payload: bytes) -> str | None:
    """A frame's channel, if it brings market data."""
    try:
        message = orjson.loads(payload)
        event, channel = message["event"], message["channel"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    return channel if isinstance(channel, str) and channel and not str(event).startswith("bts:") else None


class Session:
    def __init__(self, path: str, known: Container[str]) -> None:
        self._known = known
        self.streams: dict[str, None] = {}

    def answer(self, frame: bytes) -> list[bytes]:
        if len(frame) > FRAME_BYTES_MAX:
            raise RefusedError(1009, "message too big")
        try:
            message = orjson.loads(frame)
            event, data = message["event"], message.get("data")
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            return [_error("Incorrect JSON format.")]
        if event == "bts:heartbeat":
            return [b'{"event":"bts:heartbeat","channel":"","data":{"status":"success"}}']
        channel = data.get("channel") if isinstance(data, dict) else None
        if event not in ("bts:subscribe", "bts:unsubscribe") or not isinstance(channel, str):
            return [_error("Bad subscription string.")]
        found = _CHANNEL.fullmatch(channel)
        if found is None or found[1] not in self._known:
            return [_error("Bad subscription string.")]
        if event == "bts:subscribe":
            self.streams[channel] = None
            return [_succeeded("subscription", channel)]
        self.streams.pop(channel, None)
        return [_succeeded("unsubscription", channel)]

    def beat(self, now_ms: int) -> list[bytes]:
        return []  # it is the client who asks for heartbeats

    def greeting(self) -> list[bytes]:
        return []


def _succeeded(what: str, channel: str) -> bytes:
    return orjson.dumps({"event": f"bts:{what}_succeeded", "channel": channel, "data": {}})


def _error(said: str) -> bytes:
    """An error does not name the channel that it is about."""
    return orjson.dumps({"event": "bts:error", "channel": "", "data": {"code": None, "message": said}})


def pack(payload: bytes) -> bytes | None:
    return None  # all is text


def rest(path: str, query: dict[str, str], recorded: Mapping[str, bytes]) -> tuple[int, bytes]:
    """A recorded answer, with or without the slash at its end; the markets also where they are recorded as pairs."""
    by_path = {urlsplit(url).path.strip("/"): body for url, body in recorded.items()}
    wanted = path.strip("/")
    if wanted in by_path:
        return 200, by_path[wanted]
    if wanted == "api/v2/markets":
        return 200, _markets(by_path.get("api/v2/trading-pairs-info", b"[]"))
    return 404, b'{"status": "error", "reason": "Not found", "code": "API0013"}'


def _markets(pairs: bytes) -> bytes:
    """What `trading-pairs-info` said, as `markets` says it."""
    entries = [dict(entry) for entry in orjson.loads(pairs)]
    for entry in entries:
        entry["market_symbol"] = entry.pop("url_symbol")
        entry["base_currency"], _, entry["counter_currency"] = entry["name"].partition("/")
    return orjson.dumps(entries)


def book(snapshot: Snapshot) -> bytes:
    """The body of the REST answer that brings this book."""
    return orjson.dumps({
        "timestamp": str(snapshot.last // 1_000_000),
        "microtimestamp": str(snapshot.last),
        "bids": snapshot.bids,
        "asks": snapshot.asks,
    })  # fmt: skip
