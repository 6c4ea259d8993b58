"""Thousands of schedules in which consumers come early and late, and all are given the same.

`SIM_SEEDS=n` plays n schedules instead of the usual number, `SIM_SEED=k` the one with that seed.
"""

import os
from collections.abc import Iterator

import pytest

from tests.simulated_follow import FollowWorld
from tests.simulated_follow_truth import judge
from tests.simulation import small_steps

SCHEDULES = 200


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_steps():
        yield


def test_followers_when_anything_fails_at_any_time_then_early_and_late_ones_are_given_the_same() -> None:
    one = os.environ.get("SIM_SEED")
    first, _, last = os.environ.get("SIM_SEEDS", str(SCHEDULES)).rpartition("-")
    for seed in [int(one)] if one else range(int(first or 0), int(last)):
        world = FollowWorld(seed)
        try:
            world.run()
            for follower in world.followers:
                judge(world, follower)
        except Exception as error:
            if one:
                raise
            pytest.fail(f"SIM_SEED={seed} {world.faults}: {type(error).__name__}: {error}", pytrace=False)
