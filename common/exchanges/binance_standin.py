"""Binance spot as an exchange speaks it: stream names, subscriptions, acknowledgements, errors. Pure.

Source: github.com/binance/binance-spot-api-docs, web-socket-streams.md.
"""

import urllib.parse
from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from ..recording import SNAPSHOT, Message
from ..standin_dialect import RefusedError

MESSAGES_PER_S = 5
"""Incoming frames per connection and second, pings and pongs included; more ends the connection."""

IGNORED_BYTES = 4_088  # not documented: so several public reports tell

CONNECTS = 300, 300.0
LIFETIME_S = 86_400.0

STREAMS_MAX = 1024
"""Streams per connection."""

POLICY_VIOLATION = 1008

METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")

_STREAM = b'{"stream":"'
_DATA = b'","data":'


def stream_of(payload: bytes) -> str | None:
    """The stream that a payload belongs to; SNAPSHOT for a book over REST, None for anything else."""
    if payload.startswith(_STREAM):
        end = payload.find(b'"', len(_STREAM))
        whole = payload[end : end + len(_DATA)] == _DATA and payload.endswith(b"}")
        return payload[len(_STREAM) : end].decode() if whole else None
    return SNAPSHOT if payload.startswith(b'{"lastUpdateId":') else None


def inner(stream: str, payload: bytes) -> bytes:
    """What a raw connection gets of a combined frame: its data, cut out byte for byte."""
    return payload[len(_STREAM) + len(stream.encode()) + len(_DATA) : -1]


def combine(stream: str, data: bytes) -> bytes:
    """A combined frame around a raw payload."""
    return b'{"stream":"%b","data":%b}' % (stream.encode(), data)


def shutdown_event(now_ms: int) -> tuple[str, bytes]:
    """The stream and the payload that tell that the server goes down."""
    return "!serverShutdown", b'{"e":"serverShutdown","E":%d}' % now_ms


class Path(NamedTuple):
    """A connection's address, taken apart."""

    combined: bool
    streams: list[str]
    micro: bool


def parse_path(target: str) -> Path | None:
    """Take `/ws/a/b` or `/stream?streams=a/b` apart, `timeUnit` included; None for any other address."""
    path, _, query = target.partition("?")
    options = dict(urllib.parse.parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))  # kline_1d@+08:00
    micro = options.get("timeUnit", "").lower() == "microsecond"
    parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
    if parts[0] == "ws":
        return Path(False, [part for part in parts[1:] if part], micro)
    if parts == ["stream"]:
        return Path(True, [part for part in options.get("streams", "").split("/") if part], micro)
    return None


class TooManyStreamsError(RefusedError):
    """More than STREAMS_MAX: the exchange ends the connection."""

    def __init__(self) -> None:
        super().__init__(POLICY_VIOLATION, "Too many streams")


class _BadRequestError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Session:
    """What one connection has subscribed to, and the answers to what it sends."""

    def __init__(self, path: Path) -> None:
        self.combined = path.combined
        self.micro = path.micro
        self.streams: dict[str, None] = {}  # a set that keeps the order of subscribing
        self._subscribe(path.streams)

    def answer(self, text: str | bytes) -> bytes:
        """The reply to one incoming text. Raises TooManyStreamsError."""
        request_id: object = None
        try:
            try:
                request = orjson.loads(text)
            except orjson.JSONDecodeError as error:
                raise _BadRequestError(3, f"Invalid JSON: {error}") from None
            if not isinstance(request, dict):
                raise _BadRequestError(2, "Invalid request: expected an object")
            request_id = _checked_id(request.get("id"))
            result = self._handle(request.get("method"), request.get("params"))
        except _BadRequestError as error:
            reply: dict[str, object] = {"code": error.code, "msg": str(error)}
            return orjson.dumps(reply if request_id is None else {**reply, "id": request_id})
        return orjson.dumps({"result": result, "id": request_id})

    def _handle(self, method: object, params: object) -> Any:
        if method is None:
            raise _BadRequestError(2, "Invalid request: missing field `method`")
        if method not in METHODS:
            wanted = ", ".join(f"`{name}`" for name in METHODS)
            raise _BadRequestError(2, f"Invalid request: unknown variant `{method}`, expected one of {wanted}")
        if method == "LIST_SUBSCRIPTIONS":
            return list(self.streams)
        if not isinstance(params, list):
            raise _BadRequestError(2, "Invalid request: params must be an array")
        if method in ("SUBSCRIBE", "UNSUBSCRIBE"):
            if not all(isinstance(name, str) for name in params):
                raise _BadRequestError(2, "Invalid request: stream name must be a string")
            return self._subscribe(params) if method == "SUBSCRIBE" else self._unsubscribe(params)
        return self._property(params, wanted=2 if method == "SET_PROPERTY" else 1)

    def _subscribe(self, names: list[str]) -> None:
        self.streams.update(dict.fromkeys(names))
        if len(self.streams) > STREAMS_MAX:
            raise TooManyStreamsError

    def _unsubscribe(self, names: list[str]) -> None:
        for name in names:
            self.streams.pop(name, None)

    def _property(self, params: list[Any], wanted: int) -> bool | None:
        if len(params) != wanted:
            raise _BadRequestError(2, f"Invalid request: expected {wanted} parameters, got {len(params)}")
        if not isinstance(params[0], str):
            raise _BadRequestError(2, "Invalid request: property name must be a string")
        if params[0] != "combined":
            raise _BadRequestError(0, "Unknown property")
        if wanted == 1:
            return self.combined
        if not isinstance(params[1], bool):
            raise _BadRequestError(1, "Invalid value type: expected Boolean")
        self.combined = params[1]
        return None


def _checked_id(value: object) -> int | str | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and len(value) <= 36 and (value == "" or value.isalnum()):
        return value
    raise _BadRequestError(
        2, "Invalid request: request ID must be an integer, an alphanumeric string of up to 36, or null"
    )


def forms(session: Session, messages: Iterable[Message]) -> list[bytes]:
    """The payloads that a connection gets of these messages."""
    streams = session.streams
    if session.combined and not session.micro:
        return [message.payload for message in messages if message.stream in streams]
    chosen = [message for message in messages if message.stream in streams]
    payloads = [(session.micro and message.micro) or message.payload for message in chosen]
    if session.combined:
        return payloads
    return [inner(message.stream, payload) for message, payload in zip(chosen, payloads, strict=True)]
