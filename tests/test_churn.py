"""A short schedule of `python -m tests.churn`, which plays longer ones with 300 symbols."""

from pathlib import Path

from tests.churn import churn


def test_pipeline_when_symbols_and_channels_come_and_go_then_all_that_was_sent_is_archived_or_in_a_gap(
    tmp_path: Path,
) -> None:
    print(churn(2, tmp_path, symbols=30, for_s=6.0))
