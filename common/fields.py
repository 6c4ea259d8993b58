"""Reading an exchange's fields: times to ns, digits kept, levels checked.

What is not as it should be raises TypeError or ValueError, which an exchange's `parse` turns into None: the record is
kept, and gives no event.
"""

import json
from calendar import timegm
from datetime import UTC, datetime
from functools import lru_cache
from json.scanner import make_scanner
from typing import Any, cast

NS_PER_MS = 1_000_000
NS_PER_US = 1_000
_TIME_MAX = 9_223_372_036_854_775_807


_exactly = json.JSONDecoder(parse_float=str)
# a third faster than `decode`, which looks for blanks around
_scan_exactly: Any = make_scanner(cast(Any, _exactly))


def loads_exact(payload: bytes) -> Any:
    """JSON whose fractions are texts with the digits as sent (1.50, 9.2E-7); integers are exact at any length.

    Raises ValueError where it is none, or nested too deeply.
    """
    text = payload.decode()
    try:
        try:
            value, end = _scan_exactly(text, 0)
        except StopIteration:
            end = -1
        return value if end == len(text) else _exactly.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def text(value: object) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def digits(value: object) -> str:
    """A price or an amount as it was sent, as a text or as a JSON number read by `loads_exact`."""
    if type(value) is str:
        if not value:
            raise ValueError
        return value
    if type(value) is int:
        return str(value)
    raise TypeError


def maybe(value: object) -> str | None:
    """As `digits`, or None where nothing is told: null or an empty text."""
    if type(value) is str:
        return value or None
    return None if value is None else digits(value)


def price(value: object) -> str | None:
    """A price, or None where none is told: as `maybe`, and zero, by which exchanges write that there is none."""
    if type(value) is str and value >= "1":
        return value  # as most
    told = maybe(value)
    return None if told is not None and told[0] in "0." and float(told) == 0 else told


def best(price_: object, amount: object) -> tuple[str | None, str | None]:
    """The best price of a side and its amount: neither, where the price is zero."""
    told = price(price_)
    return (None, None) if told is None and price_ is not None and price_ != "" else (told, maybe(amount))


def maybe_text(value: object) -> str | None:
    """A text, or None where nothing is told: null or an empty one."""
    return text(value) or None if value is not None else None


def maybe_flag(value: object) -> bool | None:
    """A flag, or None where nothing is told: null or an empty text."""
    if value is None or value == "":
        return None
    if type(value) is not bool:
        raise TypeError
    return value


def maybe_whole(value: object) -> int | None:
    """As `whole`, or None where nothing is told: null or an empty text."""
    return None if value is None or value == "" else whole(value)


def whole(value: object) -> int:
    """An integer, as a number or as a text of digits."""
    if type(value) is int:
        return value
    if type(value) is str and value.removeprefix("-").isdecimal() and value.isascii():
        return int(value)
    raise TypeError


def ns_of_ms(value: object) -> int:
    """ns of milliseconds, as a number or a text."""
    return _ns(whole(value) * NS_PER_MS)


def ns_of_us(value: object) -> int:
    return _ns(whole(value) * NS_PER_US)


def maybe_ms(value: object) -> int | None:
    """As `ns_of_ms`, or None where no time is told: null, an empty text, or zero."""
    return None if value is None or value == "" else ns_of_ms(value) or None


def maybe_us(value: object) -> int | None:
    """As `ns_of_us`, or None where no time is told: null, an empty text, or zero."""
    return None if value is None or value == "" else ns_of_us(value) or None


def maybe_iso(value: object) -> int | None:
    """As `ns_of_iso`, or None where no time is told: null, an empty text, or the beginning of 1970 or of the year 1."""
    if value is None or value == "" or (type(value) is str and value.startswith("0001-")):
        return None
    return ns_of_iso(value) or None


def ns_of_iso(value: object) -> int:
    """ns of RFC 3339 in UTC, with any number of decimals: 2023-10-06T17:35:55.440295Z."""
    if type(value) is not str:
        raise TypeError
    second, fraction = _second_of_iso(value[:20]), value[20:-1]
    if fraction.isdecimal() and value[-1] == "Z" and value[19] == ".":
        return second + int(fraction) * _SCALES[len(fraction)]
    if value[19:] != "Z":
        raise ValueError
    return second


_SCALES: dict[int, int] = {digits: 10 ** (9 - digits) for digits in range(1, 10)}


@lru_cache(64)  # events come in the order of their times: most are of the second of the one before
def _second_of_iso(stamp: str) -> int:
    """ns of the beginning of a second: 2023-10-06T17:35:55 and one character more."""
    if len(stamp) != 20 or stamp[10] != "T":
        raise ValueError
    return _ns(10**9 * timegm((
        int(stamp[:4]), int(stamp[5:7]), int(stamp[8:10]), int(stamp[11:13]), int(stamp[14:16]), int(stamp[17:19]),
    )))  # fmt: skip


def day(ns: int) -> str:
    """The UTC day of a time in ns, as unified names write it: 20261225."""
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y%m%d}"


def iso(ns: int) -> str:
    """A time in ns as RFC 3339 in UTC, to the µs: 2023-10-06T17:35:55.440295Z."""
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 10**9 // 1000:06}Z"


def _ns(ns: int) -> int:
    if not 0 <= ns <= _TIME_MAX:
        raise ValueError
    return ns


def levels(value: object) -> list[Any]:
    """Levels [[price, amount], …] of texts, checked, as they are."""
    if type(value) is not list:
        raise TypeError
    for level in value:
        price, amount = level
        if type(price) is not str or type(amount) is not str or type(level) is not list:
            raise TypeError
    return value


def pairs(value: object) -> list[list[str]]:
    """Levels that carry more than price and amount, or carry them as numbers: [[price, amount], …] of texts."""
    if type(value) is not list:
        raise TypeError
    return [[digits(level[0]), digits(level[1])] for level in value]


def side(value: object, *, buy: object, sell: object) -> str:
    """The taker's side, by what the exchange says for a buyer and for a seller."""
    if type(value) is type(buy) and value == buy:
        return "buy"
    if type(value) is type(sell) and value == sell:
        return "sell"
    raise TypeError


def step(decimals: object) -> str | None:
    """The smallest step of a number with so many decimals: 0.01 of two. None where none are told."""
    if decimals is None or decimals == "":
        return None
    if type(decimals) is not int or not 0 <= decimals <= 30:
        raise ValueError
    return f"0.{'1':0>{decimals}}" if decimals else "1"
