"""Bybit v5 as it speaks: which topics there are, acknowledgements, refusals, pongs, instruments over REST. Pure.

Source: github.com/bybit-exchange/docs, v5/ws/connect and v5/websocket/public, state of 2026-07-24. That a symbol that
there is not is an invalid topic, and has its whole request refused, is inferred: unconfirmed, and the worse case.
"""

import re
from collections.abc import Container, Mapping
from urllib.parse import parse_qs, urlsplit

import orjson

from ..standin_dialect import Patience, RefusedError
from .bybit import CANDLE_INTERVALS

MESSAGES_PER_S = 100.0  # ours: the exchange tells of none
CONNECTS = 500, 300.0
REQUESTS = 600, 5.0
ARGS_CHARS_MAX = 21_000
"""Of all topics of one connection."""

SPOT_ARGS_MAX = 10
"""Topics in one request."""

IDLE_S = 600
"""Without a frame of the client."""

_CONN_ID = "d8bu1olkndm7crnfs1e0-standin"
_COMMON = rf"publicTrade|orderbook\.(1|50|200|1000)|tickers|kline\.({'|'.join(CANDLE_INTERVALS)})"
_SPOT = re.compile(_COMMON)
_CONTRACTS = re.compile(rf"{_COMMON}|allLiquidation")
_TOPICS = {"/v5/public/spot": _SPOT, "/v5/public/linear": _CONTRACTS, "/v5/public/inverse": _CONTRACTS}


def stream_of(payload: bytes) -> str | None:
    """A frame's topic; its keys come in any order."""
    try:
        topic = orjson.loads(payload)["topic"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    return topic if isinstance(topic, str) else None


class Session:
    """One connection to the address of a category."""

    def __init__(self, path: str, known: Container[str]) -> None:
        self._known = known
        self.streams: dict[str, None] = {}
        self._patience = Patience(IDLE_S, 1001, "no traffic for 10 min")
        self._path = urlsplit(path).path

    def answer(self, frame: bytes) -> list[bytes]:
        self._patience.hear()
        try:
            message = orjson.loads(frame)
            op, request_id = message["op"], message.get("req_id")
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            return [_said(False, "Params Error", None, "")]
        if op == "ping":
            return [_said(True, "pong", request_id, "ping")]
        names = message.get("args")
        if op not in ("subscribe", "unsubscribe") or not isinstance(names, list):
            return [_said(False, "Params Error", request_id, op)]
        error = self._subscribe(names) if op == "subscribe" else self._unsubscribe(names)
        return [_said(not error, error, request_id, op)]

    def _subscribe(self, names: list[object]) -> str:
        """What is wrong, as the exchange says it: then nothing of the request is taken."""
        topics = _TOPICS.get(self._path)
        if topics is None:
            raise RefusedError(1008, f"there is nothing at {self._path}")
        if self._path.endswith("/spot") and len(names) > SPOT_ARGS_MAX:
            return f"args size >{SPOT_ARGS_MAX}"
        for name in names:
            kind, _, symbol = str(name).rpartition(".")
            if topics.fullmatch(kind) is None or symbol not in self._known:
                return f"Invalid topic: {name}"
        wanted = self.streams | dict.fromkeys(str(name) for name in names)
        if len(orjson.dumps(list(wanted))) > ARGS_CHARS_MAX:
            return f"args length >{ARGS_CHARS_MAX}"
        self.streams = wanted
        return ""

    def _unsubscribe(self, names: list[object]) -> str:
        for name in names:
            self.streams.pop(str(name), None)
        return ""

    def beat(self, now_ms: int) -> list[bytes]:
        self._patience.wait(now_ms)
        return []  # it is the client who pings

    def greeting(self) -> list[bytes]:
        return []


def _said(success: bool, text: str, request_id: object, op: object) -> bytes:
    own = {"req_id": request_id} if isinstance(request_id, str) else {}
    return orjson.dumps({"success": success, "ret_msg": text, "conn_id": _CONN_ID, **own, "op": op})


def pack(payload: bytes) -> bytes | None:
    return None  # all is text


def rest(path: str, query: dict[str, str], recorded: Mapping[str, bytes]) -> tuple[int, bytes]:
    """The instruments of a category, or the one that is asked for; of anything else nothing is known."""
    category, symbol = query.get("category"), query.get("symbol")
    for url, body in recorded.items():
        parts = urlsplit(url)
        if parts.path == path and parse_qs(parts.query).get("category") == [category]:
            return 200, _only(body, symbol) if symbol else body
    if path == "/v5/market/instruments-info":
        return 200, orjson.dumps({"retCode": 0, "retMsg": "OK", "result": {"category": category, "list": []}})
    return 404, b"404 page not found"


def _only(body: bytes, symbol: str) -> bytes:
    answer = orjson.loads(body)
    answer["result"]["list"] = [entry for entry in answer["result"]["list"] if entry["symbol"] == symbol]
    return orjson.dumps(answer)
