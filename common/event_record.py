"""The record kind `event`: what a file of others told that holds events, and no frames that they could be read from.

    {"seq":…,"ts_recv":…,"kind":"event","channel":"trade","symbol":"BTCUSDT","data":{"ts_event":…,"id":"7","price":…}}
                                                                             └ the fields of the channel, as live ┘

Nothing links one to the next, so nothing of them is proven: coverage says `unverifiable`. Keys that are no field of the
channel are kept in the record and passed over. What is not as it should be gives no event.
"""

import re
from collections.abc import Callable
from typing import Any

import orjson

from .events import GAP
from .tables import BACKFILLED, COLUMNS, COMMON, FLAG, INT, NUMBER

_ELSEWHERE = COMMON.keys() | BACKFILLED.keys()
_OF_LEVELS = frozenset({"derived", "side", "price", "amount"})  # columns of a book's table that are not its event's
_MAY_LACK = frozenset({"type", "first_id", "last_id", "prev_id", "checksum"})
_SIDES = ("buy", "sell", "unknown")

FIELDS: dict[str, dict[str, str]] = {
    channel: {
        name: sort
        for name, sort in columns.items()
        if name not in _ELSEWHERE and not (channel == "book" and name in _OF_LEVELS)
    }
    for channel, columns in COLUMNS.items()
    if channel not in (GAP, "instrument")
}
"""The channels that such a record may be of, and of each its fields and the sort of each (a book's levels besides)."""

_INT64 = range(-(1 << 63), 1 << 63)
_is_decimal = re.compile(r"-?\d{1,80}(?:\.\d{1,80})?(?:[eE][-+]?\d{1,3})?", re.ASCII).fullmatch

Told = tuple[int | None, dict[str, Any]]
"""`ts_event` (ns, None where it is not known) and the event's fields."""


def read(channel: str | None, payload: bytes | None) -> Told | None:
    """What an `event` record says; None where it is malformed or of no channel that is known."""
    checks = _CHECKS.get(channel) if type(channel) is str else None
    try:
        data = orjson.loads(payload or b"")
    except orjson.JSONDecodeError:
        return None
    if checks is None or type(data) is not dict or not _is_int(ts_event := data.get("ts_event")):
        return None
    fields: dict[str, Any] = {}
    for name, is_right, may_lack in checks:
        if name in data:
            if not is_right(value := data[name]):
                return None
            fields[name] = value
        elif not may_lack:
            return None
    if channel == "book":
        fields |= {"bids": data.get("bids"), "asks": data.get("asks")}
        return (ts_event, fields) if _is_book(fields) else None
    if "side" in fields and (fields["side"] not in _SIDES or fields["price"] is None or fields["amount"] is None):
        return None
    return ts_event, fields


def _is_int(value: object) -> bool:
    return value is None or (type(value) is int and value in _INT64)


def _is_number(value: object) -> bool:
    return value is None or (type(value) is str and _is_decimal(value) is not None)


def _is_text(value: object) -> bool:
    return value is None or type(value) is str


def _is_flag(value: object) -> bool:
    return value is None or type(value) is bool


_IS_OF: dict[str, Callable[[object], bool]] = {INT: _is_int, NUMBER: _is_number, FLAG: _is_flag}
_CHECKS = {
    channel: [(name, _IS_OF.get(sort, _is_text), name in _MAY_LACK) for name, sort in sorts.items()]
    for channel, sorts in FIELDS.items()
}
"""Of each field, whether a value can be its, and whether it may be left out."""


def _is_book(fields: dict[str, Any]) -> bool:
    return fields.get("type") in ("snapshot", "delta") and _are_levels(fields["bids"]) and _are_levels(fields["asks"])


def _are_levels(levels: object) -> bool:
    return type(levels) is list and all(
        type(level) is list and len(level) == 2 and _are_texts(level) for level in levels
    )


def _are_texts(level: list[Any]) -> bool:
    return all(type(text) is str and _is_decimal(text) is not None for text in level)
