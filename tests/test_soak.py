"""Some of the schedules of `python -m tests.soak`, which plays hundreds of them."""

from pathlib import Path

import pytest

from tests.soak import Schedule, soak


@pytest.mark.parametrize("seed", [17, 28])
def test_pipeline_when_a_schedule_of_faults_is_over_then_archive_live_and_all_consumers_agree(
    seed: int, tmp_path: Path
) -> None:
    schedule = Schedule.of(seed)
    print(schedule)
    print(soak(schedule, tmp_path))
