"""Times as people write them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from common.times import iso, parse_time

NOW = 1_723_161_253_937_085_768


@pytest.mark.parametrize(
    ("written", "ns"),
    [
        (0, 0),
        ("0", 0),
        ("1970-01-01", 0),
        ("1969-12-31", 0),
        (10**17, 10**17),
        (str(NOW), NOW),
        ("now", NOW),
        ("-2h", NOW - 7200 * 10**9),
        ("-1.5s", NOW - 15 * 10**8),
        ("-250ms", NOW - 250 * 10**6),
        ("2024-08-08", 1_723_075_200 * 10**9),
        ("2024-08-08T23:50", 1_723_161_000 * 10**9),
        ("2024-08-08T23:50:00.000001Z", 1_723_161_000 * 10**9 + 1000),
        ("2024-08-08T23:50:00.000000001Z", 1_723_161_000 * 10**9 + 1),
        ("2024-08-09T01:50:00.1234567+02:00", 1_723_161_000 * 10**9 + 123_456_700),
        (iso(NOW), NOW),
        ("2024-08-09T01:50+02:00", 1_723_161_000 * 10**9),
        (datetime(2024, 8, 8, 23, 50), 1_723_161_000 * 10**9),
        (datetime(2024, 8, 8, 23, 50, 0, 999_999, UTC), 1_723_161_000 * 10**9 + 999_999_000),
        (datetime(2024, 8, 9, 1, 50, tzinfo=timezone(timedelta(hours=2))), 1_723_161_000 * 10**9),
    ],
)
def test_a_time_is_read_exactly(written: object, ns: int) -> None:
    assert parse_time(written, NOW) == ns


@pytest.mark.parametrize("written", ["", "yesterday", "2h", "-2y", "2024-13-01", None, True, 1.5, [], "1e9", "²"])
def test_what_is_no_time_is_refused_with_the_ways_to_write_one(written: object) -> None:
    with pytest.raises(ValueError, match="ns since the epoch, ISO 8601"):
        parse_time(written, NOW)


@pytest.mark.parametrize("whole", [int, str])
@pytest.mark.parametrize(
    ("number", "unit"),
    [(1_723_161_600, "seconds"), (1_723_161_600_000, "milliseconds"), (1_723_161_600_000_000, "microseconds")],
)
def test_an_integer_in_another_unit_is_refused_and_the_unit_is_named(
    number: int, unit: str, whole: Callable[[int], object]
) -> None:
    with pytest.raises(ValueError, match=f"^{number} looks like {unit}: write 1723161600000000000 .* or 2024-08-09T00"):
        parse_time(whole(number), NOW)


@pytest.mark.parametrize("number", [1, 5, -1, 10**8 - 1, -NOW])
def test_an_integer_that_is_a_time_in_no_unit_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"^{number} is not a time in ns"):
        parse_time(number, NOW)


def test_times_of_data_frames_are_read_to_the_nanosecond() -> None:
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    assert parse_time(numpy.int64(NOW), 0) == NOW
    assert parse_time(pandas.Timestamp(NOW, tz="UTC"), 0) == NOW
