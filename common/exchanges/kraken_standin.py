"""Kraken's WebSocket v2 as it speaks: an acknowledgement or a refusal for each symbol, pongs, heartbeats. Pure.

Source: docs.kraken.com/api, Spot WebSocket v2, state of 2026-08.
"""

from collections.abc import Container, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from ..fields import loads_exact
from ..standin_dialect import Patience, RefusedError
from .kraken import CANDLE_INTERVALS, is_share

MESSAGES_PER_S = 100.0  # ours: the exchange tells of none
CONNECTS = 150, 600.0
REQUESTS = 10, 10.0
DEPTHS = (10, 25, 100, 500, 1000)
TRIGGERS = ("trades", "bbo")

IDLE_S = 60
"""Without a frame of the client, while it has subscribed to nothing: then there are no heartbeats either."""

_TIMES = {"time_in": "2023-09-25T09:04:31.742599Z", "time_out": "2023-09-25T09:04:31.742648Z"}
_STATUS = (
    b'{"channel":"status","type":"update","data":[{"version":"2.0.9","system":"online","api_version":"v2",'
    b'"connection_id":13834774380200032777}]}'
)


def stream_of(payload: bytes) -> str | None:
    """Channel and symbol of a frame of market data, as the adapter names its streams."""
    try:
        message = loads_exact(payload)
        channel, first = message["channel"], message["data"][0]
        kind = f"ohlc-{first['interval']}" if channel == "ohlc" else channel
        return f"{kind}@{first['symbol']}"
    except (ValueError, LookupError, TypeError):
        return None


class Session:
    """One connection to /v2. Frames are those of the recording, whatever depth or trigger is asked for."""

    def __init__(self, path: str, known: Container[str]) -> None:
        self._known = known
        self.streams: dict[str, None] = {}
        self._path = urlsplit(path).path
        self._patience = Patience(IDLE_S, 1001, "no activity for a minute")

    def answer(self, frame: bytes) -> list[bytes]:
        self._patience.hear()
        if self._path != "/v2":
            raise RefusedError(1008, f"there is nothing at {self._path}")
        try:
            message = orjson.loads(frame)
            method, params = message["method"], message.get("params")
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            return [orjson.dumps({"error": "Malformed request", "success": False, **_TIMES})]
        own = {"req_id": message["req_id"]} if isinstance(message.get("req_id"), int) else {}
        if method == "ping":
            return [orjson.dumps({"method": "pong", **own, **_TIMES})]
        if method not in ("subscribe", "unsubscribe") or not isinstance(params, dict):
            return [orjson.dumps({"error": "Unsupported method", "method": method, "success": False, **own, **_TIMES})]
        symbols = params.get("symbol")
        if not isinstance(symbols, list):
            return [orjson.dumps({"error": "Malformed request", "method": method, "success": False, **own, **_TIMES})]
        return [orjson.dumps({"method": method, **self._one(method, params, each), **own}) for each in symbols]

    def _one(self, method: str, params: dict[str, Any], symbol: object) -> dict[str, Any]:
        """The answer for one symbol."""
        channel, error = params.get("channel"), self._error(params, symbol)
        stream = f"ohlc-{params.get('interval', 1)}@{symbol}" if channel == "ohlc" else f"{channel}@{symbol}"
        if not error and method == "subscribe" and stream in self.streams:
            error = "Already subscribed to one of the symbols"
        if not error and method == "unsubscribe" and stream not in self.streams:
            error = "Subscription Not Found"
        if error:
            return {"error": error, "success": False, "symbol": symbol, **_TIMES}
        if method == "subscribe":
            self.streams[stream] = None
        else:
            del self.streams[stream]
        asked = {key: params[key] for key in ("depth", "interval", "event_trigger", "snapshot") if key in params}
        return {"result": {"channel": channel, **asked, "symbol": symbol}, "success": True, **_TIMES}

    def _error(self, params: dict[str, Any], symbol: object) -> str:
        channel = params.get("channel")
        if not isinstance(symbol, str) or symbol not in self._known:
            return f"Currency pair not supported {symbol}"
        if channel == "book":
            return "" if params.get("depth", 10) in DEPTHS else "Subscription depth not supported"
        if channel == "ohlc":
            return (
                "" if str(params.get("interval", 1)) in CANDLE_INTERVALS else "Subscription ohlc interval not supported"
            )
        if channel == "ticker":
            return "" if params.get("event_trigger", "trades") in TRIGGERS else "Event trigger not supported"
        return "" if channel == "trade" else f"Channel not supported {channel}"

    def beat(self, now_ms: int) -> list[bytes]:
        if self.streams:
            return [b'{"channel":"heartbeat"}']
        self._patience.wait(now_ms)
        return []

    def greeting(self) -> list[bytes]:
        return [_STATUS]


def pack(payload: bytes) -> bytes | None:
    return None  # all is text


def rest(path: str, query: dict[str, str], recorded: Mapping[str, bytes]) -> tuple[int, bytes]:
    """Recorded trades from a time on, and the pairs asked for; errors have status 200."""
    bodies = [body for url, body in recorded.items() if _matches(url, path, query)]
    if path == "/0/public/AssetPairs":
        pairs = {name: entry for body in bodies for name, entry in loads_exact(body)["result"].items()}
        of_shares = query.get("aclass_base") == "tokenized_asset"
        pairs = {name: entry for name, entry in pairs.items() if is_share(entry.get("wsname", "")) == of_shares}
        wanted = query["pair"].split(",") if "pair" in query else list(pairs)
        found = {name: entry for name, entry in pairs.items() if name in wanted or entry["altname"] in wanted}
        if len(found) < len(wanted):
            return 200, b'{"error":["EQuery:Unknown asset pair"]}'
        return 200, orjson.dumps({"error": [], "result": found})
    return (200, bodies[0]) if bodies else (200, b'{"error":["EGeneral:Unknown method"]}')


def _matches(url: str, path: str, query: dict[str, str]) -> bool:
    """Whether a recorded answer is to this path; of trades, to this pair and a time not after the one asked for."""
    parts = urlsplit(url)
    asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
    if parts.path != path:
        return False
    if not path.endswith("/Trades"):
        return True
    if any(asked.get(key) != query.get(key) for key in ("pair", "aclass_base")):
        return False
    return int(asked.get("since", 0)) <= int(query.get("since", 0))
