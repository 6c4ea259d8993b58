"""The main job, for real: recordings through the stand-in's WebSocket, feed and archiver, killed and cut in between."""

import contextlib
import gzip
import json
import os
import signal
import time
from pathlib import Path

import orjson
import pytest

from common import exchanges
from common.book import Book
from common.normaliser import Normaliser
from common.record import Record
from tests.pipeline import (
    Pipeline,
    archived,
    assert_dense,
    assert_live_equals_archive,
    events_of,
    normalised,
    payloads,
    seeded,
    sha256,
    until,
)
from tests.standin_client import BTC, ETH
from tests.whole import assert_losses_are_told, assert_ordered_part

pytestmark = pytest.mark.skipif(not BTC.exists(), reason="the recordings are not at hand")


def wait_ended(pipeline: Pipeline) -> None:
    until(lambda: pipeline.standin.status()["ended"], "the recording has been sent")


def sent(pipeline: Pipeline) -> dict[int, dict[str, object]]:
    status = pipeline.standin.status()
    return {conn["conn"]: conn for conn in status["connections"] + status["closed"]}


def naive_books(path: Path) -> dict[int, tuple[dict[str, str], dict[str, str]]]:
    """The books that a naive reader of a recording keeps: its snapshot, and after each later delta id, bids, asks."""
    with gzip.open(path) as recording:
        messages = [json.loads(line[20:]) for line in recording]
    snapshot = next(message for message in messages if "lastUpdateId" in message)
    bids, asks = dict(snapshot["bids"]), dict(snapshot["asks"])
    found = {snapshot["lastUpdateId"]: (dict(bids), dict(asks))}
    for delta in (message["data"] for message in messages if "@depth" in message.get("stream", "")):
        if delta["u"] > snapshot["lastUpdateId"]:
            for side, levels in ((bids, delta["b"]), (asks, delta["a"])):
                for price, amount in levels:
                    side[price] = amount
                    if not float(amount):
                        del side[price]
            found[delta["u"]] = (dict(bids), dict(asks))
    return found


def test_a_recording_at_full_speed_is_archived_byte_for_byte_and_equals_what_was_live(make, live) -> None:
    pipeline = make("--recording", BTC, ETH, "--speed", "max", "--start-after", 6)
    subscriber = live(pipeline)
    pipeline.start()
    wait_ended(pipeline)
    until(
        lambda: pipeline.complete() and len(payloads(archived(pipeline.exchange_dir)).get(1, [])) >= 74866,
        "all is there",
    )
    pipeline.stop()
    records = archived(pipeline.exchange_dir)
    assert_dense(records, pipeline.exchange_dir)
    assert {conn: sha256(parts) for conn, parts in payloads(records).items()} == {
        conn: told["sha256"] for conn, told in sent(pipeline).items()
    }
    assert_live_equals_archive(subscriber, records, pipeline.exchange_dir)


def test_the_book_of_the_events_equals_a_naive_readers_at_every_checkpoint(make, live) -> None:
    pipeline = make("--recording", BTC, ETH, "--speed", "90", "--start-after", 6)
    pipeline.start()
    wait_ended(pipeline)
    pipeline.stop()
    records = archived(pipeline.exchange_dir)
    naive = {"BTCUSDT": naive_books(BTC), "ETHUSDT": naive_books(ETH)}
    books: dict[str, tuple[int, Book]] = {}
    compared = dict.fromkeys(naive, 0)
    normaliser = Normaliser(exchanges.get("binance"))
    for record in records:
        if record.kind == "checkpoint" and record.symbol in books:
            last, book = books[record.symbol]
            state = orjson.loads(record.payload or b"")["state"]["book"]
            assert state["id"] == last
            assert (dict(state["bids"]), dict(state["asks"])) == (book.bids, book.asks) == naive[record.symbol][last]
            compared[record.symbol] += 1
        for message in normaliser.messages(record):
            event = orjson.loads(message.partition(b" ")[2])
            if event["channel"] == "book":
                book = Book() if event["type"] == "snapshot" else books[event["symbol"]][1]
                book.apply(event["bids"], event["asks"])
                books[event["symbol"]] = (int(event["last_id"]), book)
    assert all(count >= 3 for count in compared.values()), compared


def test_checkpoints_come_sooner_where_much_is_written(make, live) -> None:
    pipeline = make("--recording", BTC, ETH, "--speed", "90", "--start-after", 6)
    subscriber = live(pipeline)
    feed = "TRADE_ARCHIVIST_FEED__BINANCE__CHECKPOINT_"
    settings = {f"{feed}S": "300", f"{feed}BYTES": "1", "TRADE_ARCHIVIST_ARCHIVE__ROTATE_S": "3600"}
    pipeline.start(**settings)
    wait_ended(pipeline)
    pipeline.stop()
    records = archived(pipeline.exchange_dir)
    written, sizes = dict.fromkeys(("BTCUSDT", "ETHUSDT"), 0), []
    for record in records:
        if record.kind == "in" and record.symbol in written:
            written[record.symbol] += len(record.payload or b"")
        elif record.kind == "checkpoint" and record.symbol in written:
            sizes.append((written[record.symbol], len(record.payload or b"")))
            written[record.symbol] = 0
    before = sum(size for size, _ in sizes)
    assert len(sizes) > 4
    assert sum(size for _, size in sizes[:-2]) < before / 8, "they are a small part of all, however low the limit"
    assert_live_equals_archive(subscriber, records, pipeline.exchange_dir)


def test_a_dropped_delta_gives_one_gap_and_a_new_sync_of_that_symbol_alone(make, live) -> None:
    pipeline = make(
        "--recording",
        BTC,
        ETH,
        "--speed",
        "90",
        "--start-after",
        6,
        "--fault",
        "do=drop&symbol=BTCUSDT&n=1&after=20000",
    )
    pipeline.start()
    wait_ended(pipeline)
    pipeline.stop()
    events = events_of(normalised(archived(pipeline.exchange_dir)))
    gaps = [event for event in events if event["channel"] == "gap" and event["reason"] != "disconnected"]
    assert [(gap["symbol"], gap["state"], gap["reason"], gap["channels"]) for gap in gaps] == [
        ("BTCUSDT", "open", "sequence", ["book"]),
        ("BTCUSDT", "closed", "sequence", ["book"]),
    ]
    snapshots = [event["symbol"] for event in events if event.get("type") == "snapshot"]
    assert sorted(snapshots) == ["BTCUSDT", "BTCUSDT", "ETHUSDT"]
    books: dict[str, Book] = {}
    last: dict[str, int] = {}
    for event in events:
        if event["channel"] == "book":
            if event["type"] == "snapshot":
                books[event["symbol"]] = Book()
            books[event["symbol"]].apply(event["bids"], event["asks"])
            last[event["symbol"]] = int(event["last_id"])
    for symbol, path in (("BTCUSDT", BTC), ("ETHUSDT", ETH)):
        assert (books[symbol].bids, books[symbol].asks) == naive_books(path)[last[symbol]]


def assert_whole(pipeline: Pipeline) -> list[Record]:
    """Everything that the stand-in sent is in the archive once, in order, byte for byte."""
    records = archived(pipeline.exchange_dir)
    assert_dense(records, pipeline.exchange_dir)
    assert {conn: sha256(parts) for conn, parts in payloads(records).items()} == {
        conn: told["sha256"] for conn, told in sent(pipeline).items()
    }
    return records


def test_the_archiver_killed_at_random_moments_loses_and_doubles_nothing(make, live) -> None:
    random = seeded()
    pipeline = make("--recording", BTC, ETH, "--speed", "90", "--start-after", 6)
    subscriber = live(pipeline)
    pipeline.start()
    kills = 0
    while not pipeline.standin.status()["ended"]:
        time.sleep(random.uniform(0.0, 0.5))
        pipeline.kill("archiver")
        kills += 1
        pipeline.start("archiver")
    pipeline.wait_archived()
    pipeline.stop()
    print(f"{kills} kills")
    assert kills > 5
    records = assert_whole(pipeline)
    assert_live_equals_archive(subscriber, records, pipeline.exchange_dir)
    pipeline.verify()


def test_an_archiver_that_was_away_while_files_should_have_turned_reads_the_journal(make, live) -> None:
    pipeline = make("--recording", BTC, ETH, "--speed", "90", "--start-after", 6)
    subscriber = live(pipeline)
    pipeline.start()
    until(lambda: pipeline.complete() > 0, "the archive has begun")
    pipeline.kill("archiver", signal_number=signal.SIGTERM)
    wait_ended(pipeline)
    pipeline.start("archiver")
    pipeline.wait_archived()
    pipeline.stop()
    records = assert_whole(pipeline)
    assert_live_equals_archive(subscriber, records, pipeline.exchange_dir)
    pipeline.verify()


@pytest.mark.parametrize("codec", ["bz2", "zstd"])
def test_sealing_killed_half_way_again_and_again_ends_with_every_file_sealed_once(make, codec: str) -> None:
    random = seeded()
    pipeline = make("--recording", BTC, ETH, "--speed", "90", "--start-after", 6, ARCHIVE__CODEC=codec)
    pipeline.start()
    kills = 0
    while not pipeline.standin.status()["ended"]:
        for pid in pipeline.workers("archiver"):
            time.sleep(random.uniform(0.0, 0.15))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                kills += 1
        if random.random() < 0.01:  # seldom enough to come to the sealing
            pipeline.kill("archiver")
            pipeline.start("archiver")
    pipeline.wait_archived()
    turned = list(pipeline.exchange_dir.glob("*/*/*.open"))
    until(
        lambda: len(list(pipeline.exchange_dir.glob("*/*/*.open"))) <= 3,
        f"all but the current files are sealed: {turned}",
    )
    pipeline.stop()
    assert kills > 0
    assert_whole(pipeline)
    pipeline.verify()


def test_feed_and_archiver_killed_together_and_apart_keep_an_ordered_part_and_tell_what_is_missing(
    make, live, tmp_path
) -> None:
    random = seeded()
    pipeline = make("--recording", BTC, ETH, "--speed", "90", "--start-after", 6, "--sent", tmp_path / "sent")
    pipeline.start()
    until(lambda: pipeline.complete() > 0, "the archive has begun")
    kills = 0
    while not pipeline.standin.status()["ended"]:
        time.sleep(random.uniform(0.1, 0.7))
        names = random.choice([("feed",), ("archiver",), ("feed", "archiver")])
        pipeline.kill(*names)
        kills += 1
        pipeline.start(*random.sample(names, len(names)))
    until(lambda: pipeline.journal_last() > 0, "the last feed has begun")
    pipeline.wait_archived()
    pipeline.stop()
    print(f"{kills} kills")
    records = assert_ordered_part(pipeline, tmp_path / "sent")
    assert_losses_are_told(records)
    killed = [record for record in records if record.kind == "close" and record.head["reason"] == "killed"]
    starts = [record for record in records if record.kind == "start"]
    assert len(starts) > 2 and len(killed) >= len(starts) // 3
    pipeline.verify()


def test_cut_connections_are_told_by_close_and_open_and_their_trades_are_fetched(make, live, tmp_path) -> None:
    pipeline = make("--recording", BTC, ETH, "--speed", "90", "--start-after", 6, "--sent", tmp_path / "sent")
    subscriber = live(pipeline)
    pipeline.start()
    for passed in (5_000, 20_000, 40_000):
        until(lambda passed=passed: pipeline.standin.status()["passed"] > passed, "the recording has come far enough")
        pipeline.standin.fault(do="cut")
    wait_ended(pipeline)
    until(lambda: b'"backfilled"' in b"".join(subscriber.messages), "missed trades have been fetched")
    pipeline.wait_archived()
    pipeline.stop()
    records = assert_ordered_part(pipeline, tmp_path / "sent")
    assert [record.kind for record in records if record.kind in ("open", "close")] == ["open", "close"] * 4
    assert_losses_are_told(records)
    assert_live_equals_archive(subscriber, records, pipeline.exchange_dir)
    events = events_of(normalised(records))
    ids = sorted(int(event["id"]) for event in events if event["channel"] == "trade" and event["symbol"] == "BTCUSDT")
    filled = [
        event["state"]
        for event in events
        if event["channel"] == "gap" and "first_id" in event and "trade" in event["channels"]
    ]
    assert filled and ids == list(range(ids[0], ids[-1] + 1)), "the backfill closes every hole"
