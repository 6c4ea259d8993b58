"""Times as people write them, to ns since the epoch."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from operator import index
from typing import SupportsIndex

_RELATIVE = re.compile(r"-(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_BEYOND_MICROSECONDS = re.compile(r"(?<=[.,]\d{6})\d+")  # of a second: datetime drops them in silence
_UNITS = (("seconds", 10**9), ("milliseconds", 10**6), ("microseconds", 1000))
_UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86_400 * 10**9, "w": 604_800 * 10**9}


EARLIEST_NS = 10**17
"""1973-03-03. A smaller integer is no time in ns: since 1973 the seconds, ms and µs of every date are below it."""


def parse_time(value: object, now_ns: int) -> int:
    """ns as an integer; ISO 8601 (UTC where no zone is given), as text or datetime; or relative to now, as `-2h`.

    0, and every date before 1973-03-03, means the beginning. Other integers below `EARLIEST_NS` are refused: they are
    in another unit. Raises ValueError with a sentence that says what is understood.
    """
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        return _whole_ns(index(value))  # NumPy's integers too
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return _whole_ns(int(value))
    time = _written_ns(value, now_ns)
    return time if time >= EARLIEST_NS else 0


def _whole_ns(number: int) -> int:
    """An integer that is ns. Raises ValueError, which names the unit that was probably meant."""
    if number == 0 or number >= EARLIEST_NS:
        return number
    for name, unit_ns in _UNITS:
        if EARLIEST_NS <= number * unit_ns < 1 << 63:
            time = number * unit_ns
            raise ValueError(f"{number} looks like {name}: write {time} (ns since the epoch) or {iso(time)}")
    raise ValueError(
        f"{number} is not a time in ns since the epoch: write {EARLIEST_NS} (1973-03-03) or more, "
        "0 for the beginning, or ISO 8601 (2024-08-08T23:50)"
    )


def _written_ns(value: object, now_ns: int) -> int:
    if isinstance(value, datetime):
        return _datetime_ns(value)
    if isinstance(value, str):
        if value == "now":
            return now_ns
        if match := _RELATIVE.fullmatch(value):
            return now_ns - int(float(match[1]) * _UNITS_NS[match[2]])
        try:
            beyond = _BEYOND_MICROSECONDS.search(value)
            nanoseconds = 0 if beyond is None else int(beyond[0][:3].ljust(3, "0"))
            return _datetime_ns(datetime.fromisoformat(_BEYOND_MICROSECONDS.sub("", value))) + nanoseconds
        except ValueError:
            pass
    raise ValueError(f"not a time: {value!r}: give ns since the epoch, ISO 8601 (2024-08-08T23:50) or -2h, -10m, now")


def parse_interval(value: object) -> int:
    """A length of time in ns: text as `100ms`, `1s`, `5m`, `1h`, `1d`, `1w`, or ns as an integer. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and (match := _RELATIVE.fullmatch(f"-{value}")):
        interval = int(float(match[1]) * _UNITS_NS[match[2]])
        if interval > 0:
            return interval
    raise ValueError(f"not an interval: {value!r}: give 100ms, 1s, 5m, 1h, 1d, or ns as an integer")


def with_times(argv: Sequence[str]) -> list[str]:
    """Arguments with `--start -10m` written as `--start=-10m`: argparse takes the time for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in ("--start", "--end", "--at") and word[:1] == "-" and word[1:2].isdigit():
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _datetime_ns(time: datetime) -> int:
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    whole = time.replace(microsecond=0)
    nanosecond: int = getattr(time, "nanosecond", 0)  # of pandas' Timestamp
    return int(whole.timestamp()) * 10**9 + time.microsecond * 1000 + nanosecond


def iso(time_ns: int) -> str:
    """ISO 8601 in UTC with all nine digits; the number itself where no calendar has it."""
    try:
        whole = datetime.fromtimestamp(time_ns // 10**9, UTC)
    except (ValueError, OverflowError, OSError):
        return str(time_ns)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09d}Z"
