"""The replay's control socket: requests and replies, each one JSON object in one frame.

    {"op": "status"}                          where it stands
    {"op": "pause"} {"op": "resume"}          resume also begins one that waits
    {"op": "seek", "time": "2024-08-08T23:50"}   goes on from there, as if begun there
    {"op": "speed", "speed": 10}              or "max"
    {"op": "step", "count": 1}                while paused: so many steps (a record's messages, or a heartbeat)
    {"op": "stop"}                            ends the process

Each reply is the status after it, or {"error": {"code", "message"}}; an "id" is given back. Times are the data's.
"""

import math
from dataclasses import dataclass
from typing import Any

import orjson

from .errors import BadRequestError
from .times import parse_time

STEPS_MAX = 1_000_000
_KEYS = {
    "status": (),
    "pause": (),
    "resume": (),
    "stop": (),
    "seek": ("time",),
    "speed": ("speed",),
    "step": ("count",),
}


@dataclass(frozen=True)
class Request:
    """A checked request; `value` is the time (ns), speed (0: max) or count."""

    op: str
    value: float = 0
    id: Any = None


def speed_of(value: object) -> float:
    """A speed: a number above 0, or `max`, which is 0. Raises ValueError."""
    try:
        speed = 0.0 if value == "max" else float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        speed = math.nan
    if isinstance(value, bool) or not math.isfinite(speed) or (speed <= 0 and value != "max") or speed > 1e9:
        raise ValueError(f"{value!r} is not a speed: give 1, a number of times as fast (10, 0.5), or max")
    return speed


def parse(frames: list[bytes], now_ns: int) -> Request:
    """One request. Raises BadRequestError."""
    try:
        request = orjson.loads(frames[0]) if len(frames) == 1 else None
    except orjson.JSONDecodeError:
        request = None
    if not isinstance(request, dict):
        raise BadRequestError('a request is one frame with one JSON object, as {"op": "status"}', "malformed")
    op = request.get("op")
    if not isinstance(op, str) or op not in _KEYS:
        raise BadRequestError(f"unknown op {str(op)[:40]!r}: known are {', '.join(_KEYS)}", "unknown_op")
    if unknown := sorted(request.keys() - {"op", "id", *_KEYS[op]}):
        raise BadRequestError(f"unknown key {unknown[0][:40]!r} of {op}", "unknown_key")
    try:
        return Request(op, _value(op, request, now_ns), request.get("id"))
    except (ValueError, OverflowError) as error:
        code = "bad_time" if op == "seek" else "bad_value"
        raise BadRequestError(str(error)[:200], code) from None


def _value(op: str, request: dict[str, Any], now_ns: int) -> float:
    if op == "seek":
        return parse_time(request.get("time"), now_ns)
    if op == "speed":
        return speed_of(request.get("speed"))
    if op == "step":
        count = request.get("count", 1)
        if type(count) is not int or not 0 < count <= STEPS_MAX:
            raise ValueError(f"count {count!r} is not an integer from 1 to {STEPS_MAX}")
        return count
    return 0


def reply(request: Request | None, answer: dict[str, Any]) -> bytes:
    about = {} if request is None else {"op": request.op} | ({} if request.id is None else {"id": request.id})
    return orjson.dumps(about | answer)


def failed(error: BadRequestError, frames: list[bytes]) -> bytes:
    """The reply to a request that was not understood, with its id where that can be read."""
    try:
        request = orjson.loads(frames[0])
        about = {"id": request["id"]} if isinstance(request, dict) and "id" in request else {}
    except (orjson.JSONDecodeError, IndexError):
        about = {}
    return orjson.dumps(about | {"error": {"code": error.code, "message": str(error)}})
