"""A symbol that brings no delta has a book all the same, in a feed that runs."""

from pathlib import Path

from common import exchanges
from common.normaliser import Normaliser
from common.record import Record
from tests.pipeline import Pipeline, archived, until
from tests.standin_client import standin
from tests.test_exchanges import source_of

DEADLINE_S = 60
QUIET = "sgbeur"


def snapshots(pipeline: Pipeline) -> list[Record]:
    return [each for each in archived(pipeline.exchange_dir) if (each.kind, each.symbol) == ("rest", QUIET)]


def test_a_quiet_symbol_has_a_book_live_and_in_its_records(tmp_path: Path) -> None:
    (folder := tmp_path / "source").mkdir()
    source = source_of("bitstamp", folder)
    with standin("--recording", *source.paths, "--speed", "max", exchange="bitstamp") as server:
        pipeline = Pipeline(tmp_path, server, QUIET, "bitstamp")
        try:
            pipeline.start()
            until(lambda: any("subscribed" in each.head for each in snapshots(pipeline)), "a book comes", DEADLINE_S)
            pipeline.wait_archived()
            pipeline.stop()
        finally:
            pipeline.end()
    records = archived(pipeline.exchange_dir)
    normaliser = Normaliser(exchanges.get("bitstamp"))
    books = [event for each in records for _, event in normaliser.record(each) if event["channel"] == "book"]
    (head,) = [each.head for each in snapshots(pipeline)]
    opened = [record.conn for record in records if record.kind == "open"]
    assert head["status"] == 200 and head["subscribed"] in opened
    assert [event["type"] for event in books] == ["snapshot"] and books[0]["bids"]
    pipeline.verify()
