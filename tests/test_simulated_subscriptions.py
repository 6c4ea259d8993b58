"""Schedules in which symbols and channels come and go: `python -m tests.simulated_subscriptions` plays thousands.

`SIM_SEEDS=n` plays n schedules instead of the usual number, `SIM_SEED=k` the one with that seed.
"""

import os

from tests.simulated_subscriptions import play

SCHEDULES = 100
FOUND = (202,)
"""Schedules that showed a fault once."""


def test_subscriptions_when_they_change_at_random_then_nothing_is_missing_without_a_gap() -> None:
    one = os.environ.get("SIM_SEED")
    seeds = [int(one)] if one else [*FOUND, *range(int(os.environ.get("SIM_SEEDS", SCHEDULES)))]
    for seed in seeds:
        why = play(seed)
        assert why is None, f"SIM_SEED={seed}: {why}"
