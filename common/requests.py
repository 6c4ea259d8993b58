"""What history can be asked: one JSON object to one typed, frozen request. What it does not know, it refuses.

    {"op":"slice","id":7,"exchange":"binance","symbols":["BTCUSDT"],"channels":["trade"],"start":"-2h","format":"json"}

The keys of an operation are the fields of its class: those without a default must be there. Every error has a code that
stays, and a sentence that says the mend.
"""

import dataclasses
import difflib
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from .errors import BadRequestError
from .events import CHANNELS, GAP
from .times import parse_time

REQUEST_BYTES_MAX = 256 * 1024
SYMBOLS_MAX = 10_000
TEXT_MAX = 1_000
PAGE_BYTES = 4 * 1024**2
PAGE_BYTES_MAX = 16 * 1024**2
CHUNK_BYTES = 1024**2
CHUNK_BYTES_MAX = 4 * 1024**2
DEPTH_MAX = 100_000

FORMATS = ("json", "arrow", "raw")
BYS = ("ts_recv", "ts_event")

_INT64 = 1 << 63
_ECHOED_MAX = 200
_NOT_OF_THE_SLICE = {"id", "next", "max_bytes"}  # what may differ from page to page of one slice


def refusal(code: str, message: str) -> BadRequestError:
    """The error of a request that cannot be answered as it stands."""
    return BadRequestError(message, code)


@dataclass(frozen=True)
class Exchanges:
    """Which exchanges there are, how far each is complete, where its live events are."""


@dataclass(frozen=True)
class Symbols:
    """All that are archived, or those of them that some names and patterns mean."""

    exchange: str
    symbols: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Instruments:
    exchange: str
    symbols: tuple[str, ...] | None = None
    at: int | None = None


@dataclass(frozen=True)
class Coverage:
    """`start` and `end` in ns: what overlaps them is told whole."""

    exchange: str
    symbols: tuple[str, ...]
    channels: tuple[str, ...] = CHANNELS
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Gaps(Coverage):
    """The same is asked."""


@dataclass(frozen=True)
class Slice:
    """Events or records between two times (ns, `end` exclusive) or two numbers (above `after`, up to and with `to`)."""

    exchange: str
    symbols: tuple[str, ...]
    channels: tuple[str, ...] = CHANNELS
    start: int | None = None
    end: int | None = None
    by: str = "ts_recv"
    after: int | None = None
    to: int | None = None
    format: str = "json"
    next: str | None = None
    snapshot: bool = True
    max_bytes: int = PAGE_BYTES
    digest: str = dataclasses.field(default="", metadata={"key": False})
    """Tells one slice from another: every page of a slice is asked with the same words."""


@dataclass(frozen=True)
class Plan:
    exchange: str
    symbols: tuple[str, ...]
    channels: tuple[str, ...] = CHANNELS
    start: int | None = None
    end: int | None = None
    by: str = "ts_recv"


@dataclass(frozen=True)
class Chunk:
    """A part of a table, by the token and the SHA-256 of the plan."""

    exchange: str
    token: str
    sha256: str
    offset: int
    bytes: int = CHUNK_BYTES


@dataclass(frozen=True)
class Book:
    """The book at a moment (ns; None: now), at most `depth` levels a side."""

    exchange: str
    symbol: str
    at: int | None = None
    depth: int | None = None


@dataclass(frozen=True)
class Status:
    """What each process last said about itself."""


Request = Exchanges | Symbols | Instruments | Coverage | Gaps | Slice | Plan | Chunk | Book | Status

OPS: dict[str, type[Request]] = {
    "exchanges": Exchanges, "symbols": Symbols, "instruments": Instruments, "coverage": Coverage, "gaps": Gaps,
    "slice": Slice, "plan": Plan, "chunk": Chunk, "book": Book, "status": Status,
}  # fmt: skip


def read(frame: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises BadRequestError (malformed, too_large)."""
    if len(frame) > REQUEST_BYTES_MAX:
        raise refusal(
            "too_large", f"the request has {len(frame)} bytes: at most {REQUEST_BYTES_MAX} are taken, ask in parts"
        )
    try:
        document = orjson.loads(frame)
    except orjson.JSONDecodeError as error:
        raise refusal("malformed", f"the request is not JSON: {_short(str(error))}: send one object") from None
    if not isinstance(document, dict):
        raise refusal("malformed", 'the request is not a JSON object: send one, as {"op":"status"}')
    return document


def identity(document: Mapping[str, Any]) -> tuple[Any, Any]:
    """`id` and `op` as a reply may echo them; None for what is neither a scalar nor short."""
    found = document.get("id"), document.get("op")
    return tuple(None if isinstance(each, list | dict) or _is_long(each) else each for each in found)  # type: ignore[return-value]  # two of two


def parse(document: Mapping[str, Any], now_ns: int) -> Request:
    """The typed request. `now_ns` is what relative times count from. Raises BadRequestError."""
    op = document.get("op")
    if not isinstance(op, str) or op not in OPS:
        raise refusal("unknown_op", f"unknown op {shown(op)}: give one of {', '.join(OPS)}{hint(op, OPS)}")
    if "id" in document and identity(document)[0] is None and document["id"] is not None:
        raise refusal("bad_value", "id: give a number or a text of at most 200 characters")
    kind = OPS[op]
    fields = {each.name: each for each in dataclasses.fields(kind) if each.metadata.get("key", True)}
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key in ("op", "id"):
            continue
        if key not in fields:
            known = f"it has {', '.join(fields)}" if fields else "it has none"
            raise refusal("unknown_key", f"{op} has no key {shown(key)}: {known}{hint(key, fields)}")
        if value is not None or fields[key].default is dataclasses.MISSING:
            values[key] = _checked(key, value, now_ns)
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in values:
            raise refusal("bad_value", f"{op} needs the key {key}: give it")
    if kind is Slice:
        values["digest"] = _digest(document)
    request = kind(**values)
    _check_range(request)
    return request


def _checked(key: str, value: object, now_ns: int) -> object:
    if key in ("start", "end", "at"):
        return _time(key, value, now_ns)
    return _CHECKS[key](key, value)


def _time(key: str, value: object, now_ns: int) -> int:
    try:
        if isinstance(value, str) and len(value) > 64:
            raise ValueError("too long a text for a time: give ns since the epoch, ISO 8601, -2h or now")
        time = parse_time(value, now_ns)
    except (ValueError, OverflowError) as error:
        raise refusal("bad_time", f"{key}: {_short(str(error))}") from None
    if not -_INT64 <= time < _INT64:
        raise refusal("bad_time", f"{key}: {_short(str(value))} is no time in ns: 64 bits must hold it")
    return time


def _check_range(request: Request) -> None:
    start, end = getattr(request, "start", None), getattr(request, "end", None)
    if start is not None and end is not None and start > end:
        raise refusal("bad_range", f"start {start} lies after end {end}: exchange them")
    if isinstance(request, Slice):
        if request.after is not None and request.to is not None and request.after > request.to:
            raise refusal("bad_range", f"after {request.after} lies above to {request.to}: exchange them")
        by_time = start is not None or end is not None
        if by_time and (request.after is not None or request.to is not None):
            raise refusal("bad_range", "a slice goes by start and end or by after and to: leave one pair out")


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > TEXT_MAX:
        raise refusal("bad_value", f"{key}: {shown(value)} is not a text of 1 to {TEXT_MAX} characters")
    return value


def _texts(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise refusal("bad_value", f"{key}: {shown(value)} is not a list of texts: name at least one")
    if len(value) > SYMBOLS_MAX:
        raise refusal("too_many_symbols", f"{key}: {len(value)} are too many: ask for {SYMBOLS_MAX} at a time")
    return tuple(dict.fromkeys(_text(key, each) for each in value))


def _channels(key: str, value: object) -> tuple[str, ...]:
    channels, known = _texts(key, value), (*CHANNELS, GAP)
    for channel in channels:
        if channel not in known:
            message = f"unknown channel {shown(channel)}: there are {', '.join(known)}{hint(channel, known)}"
            raise refusal("unknown_channel", message)
    return channels


def _whole(lowest: int, highest: int = _INT64 - 1) -> Callable[[str, object], int]:
    def check(key: str, value: object) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise refusal("bad_value", f"{key}: {shown(value)} is not an integer from {lowest} to {highest}")
        return value

    return check


def _bool(key: str, value: object) -> bool:
    if type(value) is not bool:
        raise refusal("bad_value", f"{key}: {shown(value)} is not true or false")
    return value


def _format(key: str, value: object) -> str:
    if value not in FORMATS:
        raise refusal("unsupported_format", f"{key}: {shown(value)} is not one of {', '.join(FORMATS)}")
    return str(value)


def _by(key: str, value: object) -> str:
    if value not in BYS:
        raise refusal("bad_value", f"{key}: {shown(value)} is not one of {', '.join(BYS)}")
    return str(value)


_CHECKS: dict[str, Callable[[str, object], object]] = {
    "exchange": _text,
    "symbol": _text,
    "symbols": _texts,
    "channels": _channels,
    "by": _by,
    "after": _whole(0),
    "to": _whole(0),
    "format": _format,
    "next": _text,
    "snapshot": _bool,
    "max_bytes": _whole(1, PAGE_BYTES_MAX),
    "token": _text,
    "sha256": _text,
    "offset": _whole(0),
    "bytes": _whole(1, CHUNK_BYTES_MAX),
    "depth": _whole(1, DEPTH_MAX),
}


def _digest(document: Mapping[str, Any]) -> str:
    """The words of a slice in 16 characters; a relative time is the same word on every page."""
    words = {key: value for key, value in document.items() if key not in _NOT_OF_THE_SLICE}
    return hashlib.sha256(orjson.dumps(words, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _is_long(value: object) -> bool:
    return isinstance(value, str) and len(value) > _ECHOED_MAX


def _short(text: str) -> str:
    return text if len(text) <= _ECHOED_MAX else text[:_ECHOED_MAX] + "…"


def shown(value: object) -> str:
    """A value as the user wrote it, or nearly."""
    try:
        return _short(orjson.dumps(value).decode())
    except TypeError:  # nested deeper than orjson writes
        return _short(repr(value))


def hint(name: object, known: Iterable[str]) -> str:
    """What a name that is not known may have meant, to be put behind a sentence; empty where nothing is near."""
    close = difflib.get_close_matches(name[:64], list(known), 1) if isinstance(name, str) else []
    return f": did you mean {close[0]}?" if close else ""
