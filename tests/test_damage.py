"""Damaged, foreign and removed files: what is whole stays, the rest is told, and capture goes on."""

import shutil
from collections.abc import Callable

import orjson
import pytest

from common.disk import Disk
from common.storage import read_archived
from tests.pipeline import archived, assert_dense, events_of, until
from tests.test_trouble import GENERATED, Listen, Make, finish, stop, wait_events

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a half line at the end": lambda data: data[: -len(data) // 3],
    "zeros at the end": lambda data: data + b"\0" * 4096,
    "zeros in the middle": lambda data: data[: len(data) // 2] + b"\0" * 500 + data[len(data) // 2 + 500 :],
    "a hole followed by good lines": lambda data: data[: len(data) // 2] + data[len(data) * 2 // 3 :],
    "half a line in the middle": lambda data: data[: len(data) // 2] + data[data.index(b"\n", len(data) // 2) + 1 :],
    "nothing left": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_is_set_aside_and_capture_goes_on(make: Make, live: Listen, damage: str) -> None:
    pipeline = make(*GENERATED)
    subscriber = live(pipeline)
    pipeline.start()
    wait_events(subscriber, 500)
    pipeline.kill("feed", "archiver")
    segment = sorted(pipeline.journal.glob("*.records"))[-1]
    segment.write_bytes(DAMAGES[damage](segment.read_bytes()))
    seen = max(orjson.loads(message.partition(b" ")[2])["seq"] for message in subscriber.messages)
    pipeline.start()
    until(lambda: pipeline.journal_last() > seen, "the next run has begun, with numbers above all that were seen")
    wait_events(subscriber, len(subscriber.messages) + 300)
    stop(pipeline)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_open_file_keeps_its_whole_records_and_the_journal_refills_it(
    make: Make, live: Listen, damage: str
) -> None:
    pipeline = make(*GENERATED, ARCHIVE__ROTATE_S="3600", FEED__BINANCE__JOURNAL_SEGMENT_BYTES="100000000")
    subscriber = live(pipeline)
    pipeline.start()
    wait_events(subscriber, 500)
    last = pipeline.journal_last()
    until(lambda: read_archived(Disk(), pipeline.exchange_dir).fsynced >= last > 0, "it is archived and synced")
    pipeline.kill("archiver")
    path = next(pipeline.exchange_dir.glob("BTCUSDT/*/*.open"))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    pipeline.start("archiver")
    wait_events(subscriber, len(subscriber.messages) + 300)
    finish(pipeline, subscriber)


def test_foreign_files_and_lines_are_passed_over_and_a_removed_file_is_refilled(make: Make) -> None:
    pipeline = make(*GENERATED, FEED__BINANCE__JOURNAL_SEGMENT_BYTES="100000000")
    pipeline.start()
    until(lambda: list(pipeline.exchange_dir.glob("BTCUSDT/*/manifest.jsonl")), "a file is sealed")
    last = pipeline.journal_last()
    until(lambda: read_archived(Disk(), pipeline.exchange_dir).fsynced >= last > 0, "it is archived and synced")
    pipeline.kill("feed", "archiver")
    (pipeline.journal / "backup.records").write_bytes(b"not ours\n")
    manifest = next(pipeline.exchange_dir.glob("BTCUSDT/*/manifest.jsonl"))
    whole = manifest.read_bytes()
    manifest.write_bytes(whole + b'{"name":3}\n[1]\nnot JSON\n')
    for path in pipeline.exchange_dir.glob("ETHUSDT/*/*.open"):
        path.unlink()
    pipeline.start()
    until(lambda: pipeline.journal_last() > last, "the next run has begun")
    pipeline.wait_archived()
    pipeline.stop()
    assert b"crashed" not in pipeline.log.read_bytes()
    text = manifest.read_bytes()
    manifest.write_bytes(text.replace(b'{"name":3}\n[1]\nnot JSON\n', b""))
    pipeline.verify()
    assert_dense(archived(pipeline.exchange_dir), pipeline.exchange_dir)


def test_a_feed_whose_journal_is_removed_says_so_and_its_next_run_begins_a_new_one(make: Make, live: Listen) -> None:
    pipeline = make(*GENERATED)
    subscriber = live(pipeline)
    pipeline.start()
    wait_events(subscriber, 200)
    pipeline.wait_archived()
    shutil.rmtree(pipeline.journal)
    assert pipeline.wait("feed") == 1
    assert b"journal's file was removed" in pipeline.log.read_bytes()
    seen = max(event["seq"] for event in events_of(subscriber.messages))
    pipeline.start("feed")
    until(lambda: pipeline.journal_last() > seen, "the next run has begun, with numbers above all that were seen")
    stop(pipeline)
