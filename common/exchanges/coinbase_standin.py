"""Coinbase Exchange as it speaks: subscriptions, acks, errors, heartbeats. Pure.

Source: docs.cdp.coinbase.com/exchange, WebSocket overview, channels and errors. That one unknown product has the whole
frame refused is inferred: the error names one, and there is no ack of a part.
"""

from collections.abc import Container, Mapping
from typing import Any

import orjson

from ..fields import NS_PER_MS, iso
from ..standin_dialect import Patience

MESSAGES_PER_S, MESSAGES_TOGETHER = 100.0, True
REQUESTS = 10, 1.0
CONNECTS = 20, 2.5  # 8 a second, and 20 at once: inferred to be a bucket that fills again
SUBSCRIBE_WITHIN_S = 5

_CHANNELS = ("level2_batch", "matches", "ticker", "ticker_batch", "heartbeat", "status")
_LOCKED = ("level2", "level3", "full", "user")
_LOCK = (
    "level2, level3, and full channels now require authentication. "
    "https://docs.cloud.coinbase.com/exchange/docs/websocket-auth"
)
_STREAMS = {
    "match": "matches",
    "last_match": "matches",
    "snapshot": "level2_batch",
    "l2update": "level2_batch",
    "ticker": "ticker",
}


def stream_of(payload: bytes) -> str | None:
    """The stream of a recorded frame; a recording of `level2` stands for `level2_batch`."""
    try:
        message = orjson.loads(payload)
        if message["type"] == "status":
            return "status"
        return f"{_STREAMS[message['type']]}:{message['product_id']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def pack(payload: bytes) -> bytes | None:
    return None


def rest(path: str, query: dict[str, str], recorded: Mapping[str, bytes]) -> tuple[int, bytes]:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    body = recorded.get(f"{path}?{asked}" if asked else path)
    return (404, b'{"message":"NotFound"}') if body is None else (200, body)


class _RefusedError(Exception):
    """What is answered to a frame that asks for what there is not."""


class Session:
    """What one connection has subscribed to, and the answers to what it sends."""

    def __init__(self, path: str, known: Container[str]) -> None:
        self._known = known
        self.streams: dict[str, None] = {}
        self._patience: Patience | None = Patience(SUBSCRIBE_WITHIN_S, 1008, "no subscription within 5 s")

    def greeting(self) -> list[bytes]:
        return []

    def answer(self, frame: bytes) -> list[bytes]:
        try:
            request = orjson.loads(frame)
        except orjson.JSONDecodeError:
            return [_error("Malformed JSON")]
        kind = request.get("type") if isinstance(request, dict) else None
        if kind not in ("subscribe", "unsubscribe"):
            return [_error("Type has to be either subscribe or unsubscribe")]
        try:
            names = self._names(request)
        except _RefusedError as error:
            return [_error(f"Failed to {kind}", str(error))]
        self._patience = None
        if kind == "subscribe":
            self.streams |= dict.fromkeys(names)
        else:
            self.streams = {name: None for name in self.streams if name not in names}
        return [self._subscriptions()]

    def _names(self, request: dict[str, Any]) -> list[str]:
        """The streams that a frame asks for. Raises _RefusedError."""
        channels, common = request.get("channels"), request.get("product_ids", [])
        if not isinstance(channels, list) or not channels:
            raise _RefusedError("channels is required")
        names: list[str] = []
        for each in channels:
            channel = each if isinstance(each, dict) else {"name": each}
            name, products = channel.get("name"), channel.get("product_ids", common)
            if name in _LOCKED:
                raise _RefusedError(_LOCK)
            if name not in _CHANNELS:
                raise _RefusedError(f"{name} is not a valid channel")
            if name == "status":
                names.append("status")
                continue
            if not isinstance(products, list) or not products:
                raise _RefusedError("product_ids is required")
            for product in products:
                if not isinstance(product, str) or product not in self._known:
                    raise _RefusedError(f"{product} is not a valid product")
                names.append(f"{name}:{product}")
        return names

    def _subscriptions(self) -> bytes:
        """All that the connection has by now."""
        channels: dict[str, list[str]] = {}
        for name in self.streams:
            channel, _, product = name.partition(":")
            channels.setdefault(channel, []).extend([product] if product else [])
        listed = [{"name": channel, "product_ids": products} for channel, products in channels.items()]
        return orjson.dumps({"type": "subscriptions", "channels": listed})

    def beat(self, now_ms: int) -> list[bytes]:
        """A heartbeat for each product that asked for it."""
        if self._patience is not None:
            self._patience.wait(now_ms)
        time = iso(now_ms * NS_PER_MS)
        beat = {"type": "heartbeat", "sequence": now_ms, "last_trade_id": 0}
        return [
            orjson.dumps({**beat, "product_id": name.partition(":")[2], "time": time})
            for name in self.streams
            if name.startswith("heartbeat:")
        ]


def _error(message: str, reason: str | None = None) -> bytes:
    return orjson.dumps({"type": "error", "message": message, **({"reason": reason} if reason else {})})
