"""Half a minute of `python -m tests.soak --chaos`, which goes on for hours."""

from pathlib import Path

from tests.chaos import chaos


def test_a_deployment_to_which_everything_happens_at_once_loses_nothing_in_silence(tmp_path: Path) -> None:
    chaos(0.4, 5, tmp_path)
