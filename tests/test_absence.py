"""Records that are missing, for whatever reason, are a gap in every answer; trades are fetched where ids allow it."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from common import deep, exchanges
from common.adapter import Adapter
from common.client import Client
from common.reader import Reader
from tests.consumers import Consumer, by_topic
from tests.pipeline import Live, Pipeline, events_of, until

ADAPTER = cast(Adapter, exchanges.get("binance"))
GENERATED = ("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "200", "--seed", "5")
CHANNELS = ("trade", "book")
SECOND = 10**9


def configured(path: Path, *symbols: str, channels: tuple[str, ...] = CHANNELS) -> None:
    named = ", ".join(f'"{symbol}"' for symbol in symbols)
    of_channels = ", ".join(f'"{channel}"' for channel in channels)
    path.write_text(f"[feed.binance]\nsymbols = [{named}]\nchannels = [{of_channels}]\n")


@pytest.fixture
def changing(make: Callable[..., Pipeline], tmp_path: Path) -> tuple[Pipeline, Path]:
    """A pipeline whose symbols stand in a file."""
    conf = tmp_path / "my.toml"
    configured(conf, "BTCUSDT", "ETHUSDT")
    return make(*GENERATED, symbols="", CONF=str(conf)), conf


def trades(subscriber: Live, symbol: str = "ETHUSDT") -> int:
    return sum(message.startswith(f"binance/trade/{symbol} ".encode()) for message in list(subscriber.messages))


def wait_for_trades(subscriber: Live, count: int = 20, symbol: str = "ETHUSDT") -> None:
    before = trades(subscriber, symbol)
    until(lambda: trades(subscriber, symbol) > before + count, f"{count} trades of {symbol} come")


def ended(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Stop it, prove the archive, and give the gap events of ETHUSDT."""
    pipeline.wait_archived()
    pipeline.stop()
    pipeline.verify()
    assert list(deep.prove(pipeline.exchange_dir, ADAPTER)) == []
    with Client(storage=pipeline.storage) as client:
        return [gap for gap in client.gaps("binance", "ETHUSDT") if gap["reason"] != "disconnected"]  # as it stops


def archived_ids(pipeline: Pipeline, symbol: str = "ETHUSDT") -> list[int]:
    reader = Reader(pipeline.storage, ADAPTER)
    found = events_of([each for _, some in reader.messages([symbol], 0, reader.complete(), ["trade"]) for each in some])
    return sorted(int(event["id"]) for event in found if event["channel"] == "trade")


def assert_not_whole(
    pipeline: Pipeline, start: int, end: int, symbol: str = "ETHUSDT", channels: tuple[str, ...] = CHANNELS
) -> None:
    """Between two times (ns) without records: no bar and no snapshot is whole.

    No interval of coverage of the `channels`, of which nothing was fetched, reaches into it.
    """
    with Client(storage=pipeline.storage) as client:
        for channel in channels:
            for interval in client.coverage("binance", symbol, channel):
                assert interval["end"] <= start or interval["start"] >= end, (channel, interval)
        middle = (start + end) // 2
        told = client.gaps("binance", symbol, "trade", start=middle, end=middle + 1)
        assert told, "no gap is told of a moment within"
        of_trades = client.slice("binance", symbol, "trade", start=middle - 30 * SECOND, end=end + 30 * SECOND)
        inside = [bar for bar in of_trades.bars("100ms") if bar.ts >= start and bar.ts + SECOND // 10 <= end]
        assert inside and not any(bar.whole for bar in inside)
        of_book = client.slice("binance", symbol, "book", start=middle - 30 * SECOND, end=end + 30 * SECOND)
        rows = [row for row in of_book.book_snapshots(1, "100ms") if start < row.ts < end]
        assert rows and not any(row.whole for row in rows)


def test_a_symbol_that_is_removed_and_added_again_has_a_gap_and_its_trades_are_fetched(
    changing: tuple[Pipeline, Path], live: Callable[[Pipeline], Live]
) -> None:
    pipeline, conf = changing
    subscriber = live(pipeline)
    pipeline.start()
    wait_for_trades(subscriber)
    configured(conf, "BTCUSDT")
    pipeline.kill("feed", signal_number=signal.SIGHUP)
    until(lambda: b"unsubscribed" in b"".join(list(subscriber.messages)), "the removal is told")
    removed = time.time_ns()
    until(lambda: time.time_ns() > removed + 3 * SECOND, "three seconds pass")
    added = time.time_ns()
    configured(conf, "BTCUSDT", "ETHUSDT")
    pipeline.kill("feed", signal_number=signal.SIGHUP)
    wait_for_trades(subscriber)
    until(lambda: b"backfilled" in b"".join(list(subscriber.messages)), "the missed trades are fetched")
    gaps = ended(pipeline)
    states = [gap["state"] for gap in gaps if gap["channels"] == ["trade"] and gap["reason"] == "unsubscribed"]
    assert states[0] == "open" and states[-1] == "backfilled"
    assert {gap["reason"] for gap in gaps if gap["channels"] == ["book"]} == {"unsubscribed"}
    ids = archived_ids(pipeline)
    assert ids == list(range(ids[0], ids[-1] + 1))
    assert_not_whole(pipeline, removed, added, channels=("book",))


def test_a_symbol_that_a_killed_run_recorded_and_the_next_does_not_has_a_gap_until_it_is_added(
    changing: tuple[Pipeline, Path], live: Callable[[Pipeline], Live]
) -> None:
    pipeline, conf = changing
    subscriber = live(pipeline)
    pipeline.start()
    wait_for_trades(subscriber)
    pipeline.kill("feed")
    removed = time.time_ns()
    configured(conf, "BTCUSDT")
    pipeline.start("feed")
    wait_for_trades(subscriber, symbol="BTCUSDT")
    pipeline.kill("feed")
    pipeline.start("feed")
    wait_for_trades(subscriber, symbol="BTCUSDT")
    until(lambda: time.time_ns() > removed + 3 * SECOND, "three seconds pass")
    added, since = time.time_ns(), len(subscriber.messages)
    configured(conf, "BTCUSDT", "ETHUSDT")
    pipeline.kill("feed", signal_number=signal.SIGHUP)
    wait_for_trades(subscriber)
    book = b"binance/book/ETHUSDT "
    until(lambda: any(each.startswith(book) for each in subscriber.messages[since:]), "it is recorded, its book too")
    gaps = ended(pipeline)
    assert {gap["reason"] for gap in gaps if gap["channels"] == ["book"]} == {"unsubscribed"}
    assert [gap["state"] for gap in gaps if gap["channels"] == ["book"]][-1] == "closed"
    assert_not_whole(pipeline, removed, added, channels=("book",))


def test_a_channel_that_is_not_recorded_by_a_later_run_has_an_open_gap(
    changing: tuple[Pipeline, Path], live: Callable[[Pipeline], Live]
) -> None:
    pipeline, conf = changing
    subscriber = live(pipeline)
    pipeline.start()
    wait_for_trades(subscriber)
    pipeline.kill("feed", signal_number=signal.SIGTERM)
    configured(conf, "BTCUSDT", "ETHUSDT", channels=("trade",))
    pipeline.start("feed")
    wait_for_trades(subscriber)
    gaps = ended(pipeline)
    of_book = [(gap["reason"], gap["state"]) for gap in gaps if gap["channels"] == ["book"]]
    assert of_book == [("unsubscribed", "open")]
    with Client(storage=pipeline.storage) as client:
        now = time.time_ns()
        assert [gap["gap"] for gap in client.gaps("binance", "ETHUSDT", "book", start=now, end=now + 1)] == [
            gap["gap"] for gap in gaps if gap["channels"] == ["book"]
        ]


def remove_journal(pipeline: Pipeline) -> None:
    shutil.rmtree(pipeline.journal.parent)


def flip_a_bit(pipeline: Pipeline) -> None:
    path = pipeline.journal / "journal.json"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 128
    path.write_bytes(data)


@pytest.mark.parametrize("lose", [remove_journal, flip_a_bit])
def test_when_the_journal_is_lost_between_two_runs_then_trades_are_fetched_and_books_have_a_gap(
    changing: tuple[Pipeline, Path], live: Callable[[Pipeline], Live], lose: Callable[[Pipeline], None]
) -> None:
    pipeline, _ = changing
    subscriber = live(pipeline)
    pipeline.start()
    wait_for_trades(subscriber)
    pipeline.wait_archived()
    pipeline.kill("feed", "archiver")
    stopped = time.time_ns()
    lose(pipeline)
    until(lambda: time.time_ns() > stopped + 3 * SECOND, "three seconds pass")
    begun = time.time_ns()
    pipeline.start()
    wait_for_trades(subscriber)
    until(lambda: subscriber.messages and b"backfilled" in b"".join(list(subscriber.messages)), "trades are fetched")
    gaps = ended(pipeline)
    assert {gap["reason"] for gap in gaps if gap["channels"] == ["book"]} == {"restart"}
    ids = archived_ids(pipeline)
    assert ids == list(range(ids[0], ids[-1] + 1))
    assert_not_whole(pipeline, stopped, begun, channels=("book",))


def test_what_the_journals_bound_drops_is_a_gap_at_its_place(
    make: Callable[..., Pipeline], live: Callable[[Pipeline], Live]
) -> None:
    bounds = {"FEED__BINANCE__JOURNAL_SEGMENT_BYTES": "100000", "FEED__BINANCE__JOURNAL_MAX_BYTES": "300000"}
    pipeline = make(*GENERATED, **bounds)
    subscriber = live(pipeline)
    pipeline.start()
    wait_for_trades(subscriber)
    pipeline.wait_archived()
    pipeline.kill("archiver")
    until(lambda: pipeline.log.read_bytes().count(b"journal full") >= 5, "the journal is full")
    until(lambda: b'"reason":"journal full"' in b"".join(list(subscriber.messages)), "it is told live")
    pipeline.start("archiver")
    wait_for_trades(subscriber)
    gaps = ended(pipeline)
    dropped = [gap for gap in gaps if gap["reason"] == "journal full" and gap["channels"] == ["trade"]]
    assert dropped and all(gap["ts_from"] is not None for gap in dropped)
    missing = [gap for gap in gaps if gap["reason"] == "missing"]
    assert sorted((gap["channels"][0], gap["state"]) for gap in missing if gap["channels"][0] in CHANNELS) == [
        ("book", "closed"), ("book", "open"), ("trade", "closed"), ("trade", "open"),
    ]  # fmt: skip
    start = max(gap["ts_from"] for gap in missing if gap["channels"][0] in CHANNELS)
    end = min(gap["ts_to"] for gap in missing if gap["ts_to"] is not None)
    assert_not_whole(pipeline, start + 1, end - 1)
    with Client(storage=pipeline.storage) as client, pytest.raises(Exception, match="in sync"):
        client.book("binance", "ETHUSDT", at=(start + end) // 2)


def test_a_follower_is_given_each_event_or_a_gap_while_symbols_come_and_go(
    changing: tuple[Pipeline, Path], live: Callable[[Pipeline], Live]
) -> None:
    pipeline, conf = changing
    subscriber = live(pipeline)
    pipeline.start("archiver", "feed", "history")
    wait_for_trades(subscriber)
    pipeline.wait_archived()
    symbols = ["BTCUSDT", "ETHUSDT"]
    with Client(pipeline.server) as client:
        after = pipeline.complete()
        consumer = Consumer(lambda: client.follow("binance", symbols, CHANNELS, after=after, snapshot=False))
        try:
            for ending in (signal.SIGHUP, signal.SIGHUP, signal.SIGKILL):
                configured(conf, "BTCUSDT")
                pipeline.kill("feed", signal_number=ending)
                if ending == signal.SIGKILL:
                    pipeline.start("feed")
                wait_for_trades(subscriber, symbol="BTCUSDT")
                configured(conf, *symbols)
                pipeline.kill("feed", signal_number=signal.SIGHUP)
                wait_for_trades(subscriber)
            pipeline.wait_archived()
            last = pipeline.complete()
            query = client.slice("binance", symbols, CHANNELS, after=after, to=last, snapshot=False)
            expected = by_topic(query)
            count = sum(map(len, expected.values()))
            until(lambda: sum(event["seq"] <= last for event in list(consumer.events)) >= count, "all came")
            got = by_topic(event for event in consumer.events if event["seq"] <= last)
            assert got == expected
            reasons = [gap["reason"] for gap in expected["gap", "ETHUSDT"] if gap["state"] == "open"]
            assert reasons.count("unsubscribed") >= 2
        finally:
            consumer.stop()


def copied(paths: list[Path], to: Path) -> None:
    """As an operator copies: files that are sealed meanwhile are gone, and `cp` goes on. The journal is left out."""
    subprocess.run(["cp", "-r", *map(str, paths), str(to)], stderr=subprocess.DEVNULL, check=False)


def test_recording_on_from_a_copy_of_a_running_archive_declares_what_the_copy_lacks(
    make: Callable[..., Pipeline], live: Callable[[Pipeline], Live]
) -> None:
    pipeline = make(*GENERATED)
    subscriber = live(pipeline)
    pipeline.start()
    wait_for_trades(subscriber)
    pipeline.wait_archived()
    copy = pipeline.storage.with_name("copy")
    (copy / "binance").mkdir(parents=True)
    copied([pipeline.exchange_dir / "ETHUSDT"], copy / "binance")
    first = time.time_ns()
    wait_for_trades(subscriber, 300)
    pipeline.wait_archived()
    last = time.time_ns()
    copied([path for path in pipeline.exchange_dir.iterdir() if path.name != "ETHUSDT"], copy / "binance")
    pipeline.stop()
    pipeline.storage.rename(pipeline.storage.with_name("original"))
    copy.rename(pipeline.storage)
    pipeline.start()
    wait_for_trades(subscriber)
    gaps = ended(pipeline)
    assert {gap["reason"] for gap in gaps} <= {"missing", "restart"}
    assert_not_whole(pipeline, first, last, channels=("book",))


def test_an_hour_that_is_removed_by_hand_is_a_gap_in_every_answer(
    make: Callable[..., Pipeline],
) -> None:
    pipeline = make(*GENERATED)
    pipeline.start()
    until(lambda: len(list(pipeline.exchange_dir.glob("ETHUSDT/*/*.book.parquet"))) >= 3, "three files are sealed")
    pipeline.wait_archived()
    pipeline.stop()
    files = [file for file in Reader(pipeline.storage, ADAPTER).files("ETHUSDT") if file.is_sealed]
    removed = files[1]
    for path in removed.month.glob(f"{removed.path.stem}.*"):
        path.unlink()
    assert list(deep.prove(pipeline.exchange_dir, ADAPTER)) == []
    with Client(storage=pipeline.storage) as client:
        told = client.gaps("binance", "ETHUSDT")
        assert {gap["reason"] for gap in told} >= {"missing"}
        moment = files[2].ts_recv[1]
        rows = client.slice("binance", "ETHUSDT", "book", end=moment + 1).book_snapshots(5, "100ms").rows()
        (bid, ask) = (client.book("binance", "ETHUSDT", at=rows[-1].ts - 1)[side][0][0] for side in ("bids", "asks"))
        assert rows[-1].whole and (rows[-1].levels[0], rows[-1].levels[2]) == (float(bid), float(ask))
    assert_not_whole(pipeline, removed.ts_recv[0] + SECOND // 5, removed.ts_recv[1] - SECOND // 5)
