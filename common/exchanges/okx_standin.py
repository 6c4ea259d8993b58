"""OKX v5 as an exchange speaks it: subscriptions, agreements, errors, pongs. Pure. Source: as `okx`.

Each `arg` is agreed to or refused by itself: for refusals that is inferred from the agreements.
"""

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from ..standin_dialect import Patience, Rate, RefusedError
from . import okx
from .okx_instruments import DERIVATIVES, index_of

MESSAGES_PER_S = 10.0
CONNECTS = 3, 1.0
REQUESTS = 20, 2.0
REQUESTS_MAX = 480
"""Subscribing and unsubscribing requests of a connection in an hour."""

REQUEST_BYTES_MAX = 64 * 1024
CONN_ID = "accb8e21"
SHUTDOWN = orjson.dumps(
    {
        "event": "notice",
        "code": okx.SHUTDOWN,
        "msg": "The connection will soon be closed for a service upgrade. Please reconnect.",
        "connId": CONN_ID,
    }
)

_BUSINESS = frozenset({"trades-all", *(f"candle{interval}" for interval in okx.CANDLE_INTERVALS)})
_PUBLIC = frozenset({
    "trades", "books", "books5", "bbo-tbt", "tickers", "mark-price", "index-tickers", "funding-rate", "open-interest",
    "liquidation-orders",
})  # fmt: skip
_INSTRUMENTS = "/api/v5/public/instruments"
_LOGIN = frozenset({"books-l2-tbt", "books50-l2-tbt"})

IDLE_S = 30
"""Without a frame of the client. The exchange counts its own, too: here a ping that is missing shows in any case."""


def stream_of(payload: bytes) -> str | None:
    try:
        message = orjson.loads(payload)
        return okx.stream(message["arg"]) if "data" in message else None
    except (ValueError, KeyError, TypeError):
        return None


class Session:
    def __init__(self, path: str, known: Collection[str]) -> None:
        self._known, self._indices = known, frozenset(map(index_of, known))
        self.streams: dict[str, None] = {}
        self._patience = Patience(IDLE_S, 4004, "No data received in 30s.")
        self._offered = {"/ws/v5/public": _PUBLIC, "/ws/v5/business": _BUSINESS}.get(urlsplit(path).path, frozenset())
        self._requests, self._now = Rate(REQUESTS_MAX, 3600), 0.0

    def greeting(self) -> list[bytes]:
        return []

    def beat(self, now_ms: int) -> list[bytes]:
        self._now = now_ms / 1000
        self._patience.wait(now_ms)
        return []

    def answer(self, frame: bytes) -> list[bytes]:
        self._patience.hear()
        if frame == okx.PING:
            return [okx.PONG]
        if self._requests.is_over(self._now) or len(frame) > REQUEST_BYTES_MAX:
            raise RefusedError(4008, "too many requests")
        try:
            message = orjson.loads(frame)
            op, args, request = message["op"], message["args"], message.get("id")
            return [self._answer(op, arg, request) for arg in args]
        except (ValueError, KeyError, TypeError, AttributeError):
            return [_error("60012", f"Invalid request: {frame.decode(errors='replace')}", None)]

    def _answer(self, op: str, arg: dict[str, str], request: str | None) -> bytes:
        channel, name = arg["channel"], okx.stream(arg)
        if op not in ("subscribe", "unsubscribe"):
            return _error("60012", f"Invalid request: {op}", request)
        if channel in _LOGIN:
            return _error("60011", "Please log in", request)
        of = arg.get("instId", arg.get("instType", ""))
        by_type = channel == "liquidation-orders"
        named = DERIVATIVES if by_type else self._indices if channel == "index-tickers" else self._known
        is_known = ("instType" in arg) == by_type and of in named
        if channel not in self._offered or not is_known:
            said = f"Wrong URL or channel:{channel},instId:{of} doesn't exist. Please use the correct URL, channel and "
            return _error("60018", said + "parameters referring to API document.", request)
        if op == "subscribe":
            self.streams[name] = None
        else:
            self.streams.pop(name, None)
        return orjson.dumps({**_echo(request), "event": op, "arg": arg, "connId": CONN_ID})


def _echo(request: str | None) -> dict[str, str]:
    return {} if request is None else {"id": request}


def _error(code: str, said: str, request: str | None) -> bytes:
    return orjson.dumps({**_echo(request), "event": "error", "code": code, "msg": said, "connId": CONN_ID})


def pack(payload: bytes) -> bytes | None:
    return None


def rest(path: str, query: dict[str, str], recorded: Mapping[str, bytes]) -> tuple[int, bytes]:
    """Instruments as recorded; of trades that were missed there is no recording."""
    if path == _INSTRUMENTS:
        return _instruments(query, recorded)
    if path == "/api/v5/market/history-trades":
        return 200, _said([])
    return 404, b'{"code":"404","data":[],"msg":"Not Found"}'


def _instruments(query: dict[str, str], recorded: Mapping[str, bytes]) -> tuple[int, bytes]:
    sort, family, symbol = query.get("instType"), query.get("instFamily"), query.get("instId")
    if sort is None or (sort == "OPTION" and family is None):
        return 400, b'{"code":"50014","data":[],"msg":"Parameter instType can not be empty."}'
    found: list[Any] = []
    for url, body in recorded.items():
        parts = urlsplit(url)
        if parts.path == _INSTRUMENTS and parse_qs(parts.query).get("instType") == [sort]:
            found += orjson.loads(body)["data"]
    if family is not None:
        found = [entry for entry in found if family in (entry.get("uly"), entry.get("instFamily"))]
    if symbol is not None:
        found = [entry for entry in found if entry.get("instId") == symbol]
        if not found:
            return 200, b'{"code":"51001","data":[],"msg":"Instrument ID does not exist."}'
    return 200, _said(found)


def _said(data: list[Any]) -> bytes:
    return orjson.dumps({"code": "0", "data": data, "msg": ""})
