"""Coinbase Advanced Trade as it speaks: one channel per subscription, heartbeats, all messages counted. Pure.

Source: docs.cdp.coinbase.com/advanced-trade, WebSocket overview and channels; a recording of 2026-08-09. That an
unknown product has its whole frame refused is inferred: an error is documented, and names nothing.
"""

import re
from collections.abc import Container, Mapping
from typing import Any

import orjson

from ..fields import NS_PER_MS, iso
from ..standin_dialect import Patience

MESSAGES_PER_S, MESSAGES_TOGETHER = 8.0, True
CONNECTS = 8, 1.0
SUBSCRIBE_WITHIN_S = 5
QUIET_S = 60
"""After so long without an update (60 to 90 are told) a channel is closed, where the client does not hear heartbeats.
That nothing says so is inferred."""

_CHANNELS = ("level2", "market_trades", "ticker", "ticker_batch", "candles", "status")
_STREAMS = {"l2_data": "level2", "market_trades": "market_trades", "ticker": "ticker", "candles": "candles"}
_LISTS = ("trades", "tickers", "candles")
_NUMBER = re.compile(rb'"sequence_num":\d+')


def stream_of(payload: bytes) -> str | None:
    """The stream of a recorded frame, by its first product."""
    try:
        message = orjson.loads(payload)
        event = message["events"][0]
        listed = next((event[name] for name in _LISTS if name in event), [event])
        return f"{_STREAMS[message['channel']]}:{listed[0]['product_id']}"
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return None


def pack(payload: bytes) -> bytes | None:
    return None


def rest(path: str, query: dict[str, str], recorded: Mapping[str, bytes]) -> tuple[int, bytes]:
    body = recorded.get(path)
    return (404, b'{"error":"NOT_FOUND","message":"not found"}') if body is None else (200, body)


class Session:
    """What one connection has subscribed to, the answers to what it sends, and the number of each message."""

    def __init__(self, path: str, known: Container[str]) -> None:
        self._known = known
        self.streams: dict[str, None] = {}
        self._patience: Patience | None = Patience(SUBSCRIBE_WITHIN_S, 1008, "no subscription within 5 s")
        self._hears = False  # heartbeats
        self._quiet: dict[str, Patience] = {}  # each channel's, for its next update
        self._beats = self._next = 0
        self._time = "1970-01-01T00:00:00Z"  # of the last beat

    def greeting(self) -> list[bytes]:
        return []

    def numbered(self, payload: bytes, stream: str = "") -> bytes:
        """A recorded frame with its number on this connection."""
        self._quiet.pop(_channel(stream), None)
        self._next += 1
        return _NUMBER.sub(b'"sequence_num":%d' % (self._next - 1), payload, count=1)

    def answer(self, frame: bytes) -> list[bytes]:
        try:
            request = orjson.loads(frame)
        except orjson.JSONDecodeError:
            return [_error("failed to parse message")]
        kind = request.get("type") if isinstance(request, dict) else None
        if kind not in ("subscribe", "unsubscribe"):
            return [_error("type must be subscribe or unsubscribe")]
        channel, products = request.get("channel"), request.get("product_ids", [])
        if channel == "heartbeats":
            self._hears = kind == "subscribe"
        elif channel not in _CHANNELS:
            return [_error(f"channel {channel} is not supported")]
        elif not isinstance(products, list) or not products or not all(map(self._knows, products)):
            return [_error("product_ids are missing or not valid")]
        elif kind == "subscribe":
            self._quiet.pop(channel, None)
            self.streams |= {f"{channel}:{product}": None for product in products}
        else:
            for product in products:
                self.streams.pop(f"{channel}:{product}", None)
        self._patience = None
        return [self._message("subscriptions", [{"subscriptions": self._subscriptions()}])]

    def _knows(self, product: object) -> bool:
        return isinstance(product, str) and product in self._known

    def _subscriptions(self) -> dict[str, list[str]]:
        listed: dict[str, list[str]] = {"heartbeats": ["heartbeats"]} if self._hears else {}
        for name in self.streams:
            channel, _, product = name.partition(":")
            listed.setdefault(channel, []).append(product)
        return dict(sorted(listed.items()))

    def beat(self, now_ms: int) -> list[bytes]:
        """A heartbeat, where it was asked for; it keeps the channels open."""
        now = iso(now_ms * NS_PER_MS)
        self._time = now.replace("Z", "000Z")
        if self._patience is not None:
            self._patience.wait(now_ms)
        if not self._hears:
            self._close_quiet(now_ms)
            return []
        self._quiet.clear()
        self._beats += 1
        event = {"current_time": f"{now[:-1].replace('T', ' ')} +0000 UTC m=+1.0", "heartbeat_counter": self._beats}
        return [self._message("heartbeats", [event])]

    def _close_quiet(self, now_ms: int) -> None:
        for channel in {_channel(name) for name in self.streams}:
            if self._quiet.setdefault(channel, Patience(QUIET_S)).is_over(now_ms):
                self.streams = {name: None for name in self.streams if _channel(name) != channel}
                del self._quiet[channel]

    def _message(self, channel: str, events: list[dict[str, Any]]) -> bytes:
        message = {"channel": channel, "timestamp": self._time, "sequence_num": 0, "events": events}
        return self.numbered(orjson.dumps(message))


def _channel(stream: str) -> str:
    return stream.partition(":")[0]


def _error(message: str) -> bytes:
    return orjson.dumps({"type": "error", "message": message})
