"""Heartbeats, checkpoints and silence: due in time, spread out, never in a burst."""

from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from common.schedule import Checkpoints, Heartbeats, Silence, Weights

SYMBOLS = [f"S{number}" for number in range(9)]
ALL = {None, *SYMBOLS}
HOUR = datetime(2024, 8, 9, 0, tzinfo=UTC).timestamp()


def test_each_symbol_beats_once_in_an_interval_spread_over_it() -> None:
    beats = Heartbeats(SYMBOLS, 1.0, 100.0)
    ticks = [list(beats.due(100.0 + tick * 0.05)) for tick in range(1, 61)]
    assert max(map(len, ticks)) == 1
    for second in range(3):
        told = [symbol for tick in ticks[second * 20 : second * 20 + 20] for symbol in tick]
        assert len(told) == len(ALL) and set(told) == ALL


def test_after_a_stall_each_symbol_beats_once_and_no_more() -> None:
    beats = Heartbeats(SYMBOLS, 1.0, 0.0)
    list(beats.due(0.35))
    burst = list(beats.due(1000.37))
    assert len(burst) == len(ALL) and set(burst) == ALL
    assert list(beats.due(1000.37)) == []


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 300), st.floats(0.05, 10), st.lists(st.floats(0, 5), min_size=1, max_size=40))
def test_whatever_the_ticks_no_symbol_waits_longer_than_an_interval_and_a_tick(
    count: int, interval_s: float, ticks: list[float]
) -> None:
    symbols = [str(number) for number in range(count)]
    beats, now = Heartbeats(symbols, interval_s, 0.0), 0.0
    last: dict[str | None, float] = dict.fromkeys([None, *symbols], 0.0)
    for tick in ticks:
        now += tick
        due = list(beats.due(now))
        assert len(due) <= count + 1 and len(set(due)) == len(due)
        last.update(dict.fromkeys(due, now))
        assert min(last.values()) >= now - interval_s * 1.001 - tick


def test_checkpoints_come_once_in_a_period_for_each_symbol_and_soon_after_the_utc_hour() -> None:
    checkpoints = Checkpoints(SYMBOLS, 600, HOUR - 1800)
    found = [(second, symbol) for second in range(-1800, 3600) for symbol in checkpoints.due(HOUR + second)]
    for begin in range(-1200, 3600, 600):
        period = [(second, symbol) for second, symbol in found if begin <= second < begin + 600]
        assert len(period) == len(ALL) and {symbol for _, symbol in period} == ALL
        assert all(second - begin < 60 for second, _ in period)
        assert len({second for second, _ in period}) > len(ALL) // 2, "spread over the minute"
    assert [symbol for second, symbol in found if second == 0] == [None]


def test_after_a_stall_over_periods_a_checkpoint_comes_once() -> None:
    checkpoints = Checkpoints(SYMBOLS, 600, HOUR)
    assert checkpoints.due(HOUR + 1) == []
    assert set(checkpoints.due(HOUR + 5 * 600 + 100)) == ALL
    assert checkpoints.due(HOUR + 5 * 600 + 101) == []


def test_a_clock_that_is_set_back_brings_checkpoints_again_and_never_stops_them() -> None:
    """More of them do no harm; none until the old time is reached again would."""
    checkpoints = Checkpoints(SYMBOLS, 600, HOUR)
    assert set(checkpoints.due(HOUR - 7200)) == ALL
    assert set(checkpoints.due(HOUR - 7200 + 660)) == ALL


def test_a_short_period_is_spread_over_its_first_half() -> None:
    checkpoints = Checkpoints(SYMBOLS, 2, HOUR)
    found = [(tick, symbol) for tick in range(40) for symbol in checkpoints.due(HOUR + tick / 10)]
    assert {symbol for tick, symbol in found if 20 <= tick <= 30} == ALL
    assert max(tick for tick, _ in found) <= 30


def test_a_symbol_is_heavy_from_its_limit_on_until_its_checkpoint() -> None:
    weights = Weights(100)
    for symbol in ("A", "B", "A"):
        weights.add(symbol, 49)
    assert not weights.heavy
    weights.add("A", 2)
    assert list(weights.heavy) == ["A"]
    weights.checkpoint("A", 5)
    weights.add("A", 99)
    assert not weights.heavy


def test_a_large_checkpoint_waits_until_it_is_a_sixteenth_of_what_was_written() -> None:
    weights = Weights(100)
    weights.checkpoint("A", 50)
    weights.add("A", 799)
    assert not weights.heavy
    weights.add("A", 1)
    assert list(weights.heavy) == ["A"]


def test_a_symbol_that_is_carried_no_more_is_forgotten() -> None:
    weights = Weights(100)
    weights.add("A", 100)
    weights.add("B", 100)
    weights.keep({"B", "C"})
    assert list(weights.heavy) == ["B"]
    weights.add("A", 99)
    assert list(weights.heavy) == ["B"]


def test_silence_is_told_once_then_after_a_doubled_wait_and_anew_after_a_word() -> None:
    silence, topic = Silence(300.0, 0.0), ("trade", "S0")
    assert not silence.check(0.0, topic, 5)
    told = [now for now in range(1, 3000) if silence.check(float(now), topic, 5)]
    assert told == [300, 900, 2100]
    assert not silence.check(3000.0, topic, 6)
    assert [now for now in range(3001, 3700) if silence.check(float(now), topic, 6)] == [3300]


def test_the_wait_after_silence_is_never_more_than_an_hour() -> None:
    silence, topic = Silence(300.0, 0.0), ("trade", "S0")
    told = [now for now in range(0, 40_000, 10) if silence.check(float(now), topic, 5)]
    assert max(later - sooner for sooner, later in pairwise(told)) == 3600
