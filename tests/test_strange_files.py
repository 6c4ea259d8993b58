"""What the feed reads of others and cannot: it tells so once, tries again, and records on."""

from collections.abc import Callable
from pathlib import Path

from tests.pipeline import Pipeline, archived, assert_dense, until

MARKET = ("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "2000", "--seed", "7")
BOUND = {"FEED__BINANCE__JOURNAL_MAX_BYTES": "400000", "FEED__BINANCE__JOURNAL_SEGMENT_BYTES": "70000"}


def unreadable(path: Path) -> None:
    """To open it, or to ask for its size, is an error of the disk: a link that leads to itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def test_feed_when_archived_json_cannot_be_read_then_it_records_within_the_journals_bound_and_goes_on_by_it_later(
    make: Callable[..., Pipeline],
) -> None:
    pipeline = make(*MARKET, **BOUND)
    unreadable(pipeline.exchange_dir / "archived.json")
    pipeline.start("feed")
    until(lambda: pipeline.log.read_bytes().count(b"journal full") >= 2, "the bound is kept")
    log = pipeline.log.read_text()
    assert log.count("recording begins without it") == log.count("is not looked after") == 1, log
    (pipeline.exchange_dir / "archived.json").unlink()
    pipeline.start("archiver")
    pipeline.wait_archived()
    unreadable(pipeline.exchange_dir / "archived.json")  # the archiver puts its own in its place
    until(lambda: not (pipeline.exchange_dir / "archived.json").is_symlink(), "it is written anew")
    pipeline.wait_archived()
    pipeline.stop()
    assert_dense(archived(pipeline.exchange_dir), pipeline.exchange_dir)
    assert "Traceback" not in pipeline.log.read_text()
    pipeline.verify()
