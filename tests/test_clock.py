"""The clock of the records: still over a small step back, believed and told over a great one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.clock import EARLIEST_NS, LATEST_NS, STEP_NS, Clock, why_unset

T0 = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def clock() -> Clock:
    begun = Clock()
    assert begun.stamp(T0, 5) == T0 and begun.step == 0
    return begun


def test_time_goes_on_with_the_wall_clock() -> None:
    steady = clock()
    assert [steady.stamp(T0 + passed, 5 + passed) for passed in (0, 1, 10 * SECOND)] == [T0, T0 + 1, T0 + 10 * SECOND]
    assert steady.step == 0


def test_a_step_back_of_up_to_a_second_is_waited_out() -> None:
    for step in (1, SECOND // 2, STEP_NS):
        held = clock()
        stamps = [held.stamp(T0 - step + passed, 5 + passed) for passed in (0, step - 1, step, step + 1)]
        assert stamps == [T0, T0, T0, T0 + 1] and held.step == 0


def test_a_greater_step_back_is_believed_and_told_once() -> None:
    set_back = clock()
    assert set_back.stamp(T0 - 3600 * SECOND, 5) == T0 - 3600 * SECOND
    assert set_back.step == -3600 * SECOND
    set_back.step = 0
    assert set_back.stamp(T0 - 3600 * SECOND + 7, 12) == T0 - 3600 * SECOND + 7
    assert set_back.step == 0


def test_a_greater_step_forward_is_believed_and_told() -> None:
    set_forward = clock()
    assert set_forward.stamp(T0 + SECOND + 10, 14) == T0 + SECOND + 10
    assert set_forward.step == SECOND + 1


def test_a_step_forward_of_up_to_a_second_is_nothing_to_tell() -> None:
    slewed = clock()
    assert slewed.stamp(T0 + SECOND, 5) == T0 + SECOND and slewed.step == 0


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 10**10), st.integers(-3 * SECOND, 3 * SECOND)), max_size=30))
def test_time_runs_back_only_where_a_step_is_told(passed: list[tuple[int, int]]) -> None:
    random_walk, wall, monotonic, last = clock(), T0, 5, T0
    for passes, moves in passed:
        wall, monotonic = wall + passes + (moves if abs(moves) > SECOND // 4 else 0), monotonic + passes
        random_walk.step = 0
        stamp = random_walk.stamp(wall, monotonic)
        assert stamp >= last or random_walk.step < -STEP_NS
        assert stamp == wall or (stamp == last and last - wall <= 2 * STEP_NS)
        last = stamp


@pytest.mark.parametrize("wrong", [-1, 0, EARLIEST_NS - 10 * SECOND, LATEST_NS, 1 << 63, 1 << 64, 1 << 70])
def test_a_time_that_cannot_be_right_is_refused_and_told_once_and_time_goes_on(wrong: int) -> None:
    steady = clock()
    assert [steady.stamp(wrong + passed, 5 + passed) for passed in (1, SECOND, 2 * SECOND)] == [
        T0 + 1, T0 + SECOND, T0 + 2 * SECOND,
    ]  # fmt: skip
    assert (steady.refused, steady.step) == (wrong + 1, 0)
    steady.refused = None
    assert steady.stamp(wrong, 5 + 3 * SECOND) == T0 + 3 * SECOND and steady.refused is None
    assert steady.stamp(T0 + 4 * SECOND, 5 + 4 * SECOND) == T0 + 4 * SECOND and steady.step == 0
    steady.stamp(wrong, 5 + 4 * SECOND)
    assert steady.refused == wrong


def test_a_first_time_that_cannot_be_right_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"shows 2262-04-11T23:47:16[.]854775808Z, not between 2000 and 2200: set it"):
        Clock().stamp(1 << 63, 5)
    assert why_unset(T0) is None and "1970-01-01" in str(why_unset(0))
