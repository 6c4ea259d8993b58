"""What exchanges, disks and people do to a pipeline: it keeps what it was sent, tells what is missing, and goes on."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
import trustme

from common.record import Record
from tests.pipeline import (
    Live,
    Pipeline,
    archived,
    assert_dense,
    assert_live_equals_archive,
    events_of,
    normalised,
    payloads,
    sha256,
    until,
)

Make = Callable[..., Pipeline]
Listen = Callable[[Pipeline], Live]

GENERATED = ("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "200", "--seed", "7")


def wait_events(live: Live, count: int) -> None:
    until(lambda: len(live.messages) >= count, f"{count} events have been published")


def wait_message(live: Live, *parts: bytes) -> bytes:
    """The first message that has all the parts in it."""
    return until(lambda: next((m for m in live.messages if all(part in m for part in parts)), None), f"{parts} came")


def finish(pipeline: Pipeline, live: Live) -> list[Record]:
    """Stop; what is archived is dense and whole, and the same as what was live."""
    records = stop(pipeline)
    assert_live_equals_archive(live, records, pipeline.exchange_dir)
    return records


def stop(pipeline: Pipeline) -> list[Record]:
    pipeline.wait_archived()
    pipeline.stop()
    records = archived(pipeline.exchange_dir)
    assert_dense(records, pipeline.exchange_dir)
    pipeline.verify()
    return records


def test_frames_that_nobody_understands_are_kept_as_received_and_the_stream_goes_on(make: Make, live: Listen) -> None:
    pipeline = make(*GENERATED)
    subscriber = live(pipeline)
    pipeline.start()
    wait_events(subscriber, 100)
    kinds = ("truncated", "binary", "empty", "unknown", "linebreak", "digits", "utf8", "noise")
    for kind in kinds:
        pipeline.standin.fault(do="garble", kind=kind)
    pipeline.standin.fault(do="garble", kind="huge", bytes=16 * 1024**2)
    pipeline.standin.fault(do="garble", kind="text", text='{"e":"trade","s":"币安人生USDT","t":1}')
    pipeline.standin.fault(
        do="garble", kind="text", text='{"stream":"x","data":{"e":"trade","s":"../../etc/passwd","t":1}}'
    )
    before = len(subscriber.messages)
    wait_events(subscriber, before + 500)
    records = finish(pipeline, subscriber)
    status = pipeline.standin.status()
    told = {conn["conn"]: conn["sha256"] for conn in status["connections"] + status["closed"]}
    assert {conn: sha256(parts) for conn, parts in payloads(records).items()} == told
    sizes = [len(part) for part in payloads(records)[1]]
    assert 0 in sizes and max(sizes) == 16 * 1024**2
    assert [record.kind for record in records].count("open") == 1, "one connection bore it all"
    assert sorted(path.name for path in pipeline.exchange_dir.iterdir() if path.is_dir()) == ["BTCUSDT", "ETHUSDT", "_"]


def test_connections_are_replaced_before_their_end_without_a_hole_or_a_double(make: Make, live: Listen) -> None:
    pipeline = make(*GENERATED, FEED__BINANCE__RECONNECT_AFTER_S="0.5", FEED__BINANCE__OVERLAP_S="2.5")
    subscriber = live(pipeline)
    pipeline.start()
    until(lambda: pipeline.standin.status()["attempts"] >= 4, "it has been replaced three times")
    pipeline.standin.fault(do="shutdown")
    attempts = pipeline.standin.status()["attempts"]
    until(lambda: pipeline.standin.status()["attempts"] > attempts, "it is replaced when the exchange says so")
    records = finish(pipeline, subscriber)
    assert [record.kind for record in records].count("switch") >= 3
    events = events_of(normalised(records))
    assert not [event for event in events if event["channel"] == "gap" and event["reason"] != "disconnected"]
    for symbol in ("BTCUSDT", "ETHUSDT"):
        ids = [int(e["id"]) for e in events if e["channel"] == "trade" and e["symbol"] == symbol]
        assert len(ids) > 50 and ids == list(range(ids[0], ids[-1] + 1))
        deltas = [e for e in events if e["channel"] == "book" and e["symbol"] == symbol and e["type"] == "delta"]
        assert all(int(b["first_id"]) <= int(a["last_id"]) + 1 for a, b in itertools.pairwise(deltas))


def test_a_muted_stream_is_a_gap_until_it_speaks_again(make: Make, live: Listen) -> None:
    pipeline = make(*GENERATED, FEED__BINANCE__SILENCE_S="1")
    subscriber = live(pipeline)
    pipeline.start()
    wait_events(subscriber, 200)
    pipeline.standin.fault(do="mute", stream="btcusdt@bookTicker")
    opened = orjson.loads(wait_message(subscriber, b"/gap/BTCUSDT ", b'"silent"', b'"quote"').partition(b" ")[2])
    assert (opened["state"], opened["channels"]) == ("open", ["quote"])
    until(
        lambda: any(b"UNSUBSCRIBE" in path.read_bytes() for path in pipeline.journal.glob("[0-9]*.records")),
        "it is asked for again",
    )
    pipeline.standin.fault(do="unmute", stream="btcusdt@bookTicker")
    closed = wait_message(subscriber, b"/gap/BTCUSDT ", b'"closed"', b'"gap":%d,' % opened["gap"])
    assert b'"silent"' in closed
    records = finish(pipeline, subscriber)
    asked = [
        orjson.loads(record.payload or b"") for record in records if record.kind == "out" and not record.head.get("op")
    ]
    left = [request for request in asked if request["method"] == "UNSUBSCRIBE"]
    assert any("btcusdt@bookTicker" in request["params"] for request in left), asked


def test_retry_after_is_obeyed_and_the_snapshot_comes_at_last(make: Make, live: Listen) -> None:
    pipeline = make(*GENERATED)
    pipeline.standin.fault(do="rest-429", seconds=2, path="/api/v3/depth", n=1)
    subscriber = live(pipeline)
    pipeline.start()
    wait_message(subscriber, b"/book/BTCUSDT ", b'"snapshot"')
    wait_message(subscriber, b"/book/ETHUSDT ", b'"snapshot"')
    records = finish(pipeline, subscriber)
    answers = [record for record in records if record.kind == "rest" and record.channel == "book"]
    refused = next(record for record in answers if record.head["status"] == 429)
    assert refused.head["headers"]["retry-after"] == "2"
    later = [record for record in answers if record.head["ts_sent"] > refused.head["ts_sent"]]
    assert later and all(record.head["ts_sent"] >= refused.ts_recv + 1_800_000_000 for record in later)


def test_failing_and_late_snapshots_hold_back_one_symbols_book_and_nothing_else(make: Make, live: Listen) -> None:
    pipeline = make(*GENERATED)
    pipeline.standin.fault(do="rest-fail", status=503, path="/api/v3/depth", n=3)
    pipeline.standin.fault(do="rest-late", seconds=0.5, path="/api/v3/depth")
    subscriber = live(pipeline)
    pipeline.start()
    wait_message(subscriber, b"/book/BTCUSDT ", b'"snapshot"')
    wait_message(subscriber, b"/book/ETHUSDT ", b'"snapshot"')
    trades = next(i for i, m in enumerate(subscriber.messages) if b"/trade/" in m)
    snapshot = next(i for i, m in enumerate(subscriber.messages) if b'"snapshot"' in m)
    assert trades < snapshot
    records = finish(pipeline, subscriber)
    assert [record.head["status"] for record in records if record.kind == "rest"].count(503) == 3


def test_an_exchange_that_refuses_connections_is_tried_again_until_it_lets_us_in(make: Make, live: Listen) -> None:
    pipeline = make(*GENERATED)
    pipeline.standin.fault(do="refuse", status=503, n=3)
    subscriber = live(pipeline)
    pipeline.start()
    wait_events(subscriber, 100)
    finish(pipeline, subscriber)
    assert pipeline.standin.status()["attempts"] >= 4


def exit_of(pipeline: Pipeline, name: str) -> tuple[int, str]:
    """Start a process that is expected to end by itself: its exit code and what it said."""
    pipeline.log.write_bytes(b"")
    pipeline.start(name)
    code = pipeline.wait(name)
    return code, pipeline.log.read_text()


def test_a_second_feed_and_a_second_archiver_are_told_so(make: Make, live: Listen) -> None:
    pipeline = make(*GENERATED)
    subscriber = live(pipeline)
    pipeline.start()
    wait_events(subscriber, 50)
    first = pipeline.take("feed", "archiver")
    try:
        for name in ("feed", "archiver"):
            code, said = exit_of(pipeline, name)
            assert code == 1
            assert f"process {first[name].pid} holds" in said and "Traceback" not in said
    finally:
        pipeline.give_back(first)
    finish(pipeline, subscriber)


def test_the_journal_of_another_exchange_is_refused_and_left_alone(make: Make) -> None:
    pipeline = make(*GENERATED)
    pipeline.journal.mkdir(parents=True)
    meta = b'{"format":1,"exchange":"okx","boot_id":"","clean":true,"ceiling":5,"begins":0,"facts":{}}'
    (pipeline.journal / "journal.json").write_bytes(meta)
    code, said = exit_of(pipeline, "feed")
    assert code == 2
    assert "journal of okx" in said and "Traceback" not in said
    assert (pipeline.journal / "journal.json").read_bytes() == meta


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB, mounted for the test."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "storage"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine does not let a test mount a disk")
    yield disk
    until(lambda: subprocess.run(["umount", disk], capture_output=True).returncode == 0, "the disk is unmounted", 10)


def fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_harms_nothing_and_capture_goes_on_when_there_is_room(
    small_disk: Path, make: Make, live: Listen
) -> None:
    pipeline = make(*GENERATED)
    subscriber = live(pipeline)
    pipeline.start()
    wait_events(subscriber, 200)
    fill(small_disk / "ballast")
    until(lambda: b"keeping records in memory" in pipeline.log.read_bytes(), "the feed says that the disk is full")
    time.sleep(0.5)
    (small_disk / "ballast").unlink()
    until(lambda: b"there is room again" in pipeline.log.read_bytes(), "the feed goes on")
    wait_events(subscriber, len(subscriber.messages) + 300)
    records = finish(pipeline, subscriber)
    assert [record.kind for record in records].count("open") == 1, "memory was enough: nothing had to be closed"


def test_a_full_disk_and_a_full_memory_close_the_connections_and_tell_the_gap(
    small_disk: Path, make: Make, live: Listen
) -> None:
    pipeline = make(*GENERATED, FEED__BINANCE__JOURNAL_MEMORY_BYTES="200000")
    subscriber = live(pipeline)
    pipeline.start()
    wait_events(subscriber, 200)
    fill(small_disk / "ballast")
    until(lambda: b"memory full too" in pipeline.log.read_bytes(), "the feed closes its connections")
    (small_disk / "ballast").unlink()
    wait_message(subscriber, b"/gap/BTCUSDT ", b'"closed"', b'"book"')
    records = finish(pipeline, subscriber)
    assert next(r.head["reason"] for r in records if r.kind == "close") == "no room left"


def test_a_read_only_storage_directory_is_told_in_one_line(small_disk: Path, make: Make) -> None:
    pipeline = make(*GENERATED)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for name in ("feed", "archiver"):
        code, said = exit_of(pipeline, name)
        assert code == 1 and "Read-only" in said


def test_past_the_journals_bound_the_oldest_goes_and_is_named_and_the_rest_is_archived(
    make: Make, live: Listen
) -> None:
    bound = {"FEED__BINANCE__JOURNAL_MAX_BYTES": "400000", "FEED__BINANCE__JOURNAL_SEGMENT_BYTES": "70000"}
    pipeline = make(*GENERATED, **bound)
    subscriber = live(pipeline)
    pipeline.start("feed")
    until(lambda: b"journal full" in pipeline.log.read_bytes(), "the bound is reached")
    wait_events(subscriber, len(subscriber.messages) + 300)
    pipeline.start("archiver")
    records = stop(pipeline)
    assert sum(path.stat().st_size for path in pipeline.journal.glob("*.records")) < 1_000_000
    named = [orjson.loads(r.payload or b"") for r in records if r.kind == "gap" and r.symbol is None]
    before = records[0].seq - 1  # the archive may lag behind what it has when more is dropped
    assert any(each["first_seq"] <= before == each["last_seq"] for each in named)
    assert [event["reason"] for event in events_of(subscriber.messages) if event["channel"] == "gap"] >= [
        "journal full"
    ]


def test_everything_works_over_tls_and_a_certificate_of_nobody_we_trust_is_refused(
    make: Make, live: Listen, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    pipeline = make(
        *GENERATED, "--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem", "--sent", tmp_path / "sent"
    )
    pipeline.scheme, pipeline.host = "s", "localhost"
    subscriber = live(pipeline)
    pipeline.start()
    until(lambda: b"CERTIFICATE_VERIFY_FAILED" in pipeline.log.read_bytes(), "an unknown certificate is refused")
    pipeline.kill("feed", signal_number=signal.SIGTERM)
    assert not subscriber.messages
    pipeline.start("feed", SSL_CERT_FILE=str(tmp_path / "ca.pem"))
    wait_message(subscriber, b"/book/BTCUSDT ", b'"snapshot"')
    wait_events(subscriber, 500)
    records = stop(pipeline)
    pipeline.standin.process.send_signal(signal.SIGTERM)  # it writes the rest of what it sent
    pipeline.standin.process.wait()
    sent = [json.loads(line)["payload"].encode() for line in (tmp_path / "sent").read_bytes().splitlines()]
    received = payloads(records)[1]
    assert len(received) > 300 and received == sent[: len(received)]


def test_the_feed_ends_cleanly_on_sigterm_and_the_next_run_goes_on_dense(make: Make, live: Listen) -> None:
    pipeline = make(*GENERATED)
    subscriber = live(pipeline)
    pipeline.start()
    wait_events(subscriber, 100)
    pipeline.kill("feed", signal_number=signal.SIGTERM)
    pipeline.start("feed")
    wait_message(subscriber, b"/gap/BTCUSDT ", b'"restart"', b'"closed"', b'"book"')
    records = stop(pipeline)
    assert [r.head["reason"] for r in records if r.kind == "close"] == ["stopped", "stopped"]
    assert [b.seq - a.seq for a, b in itertools.pairwise(records)] == [1] * (len(records) - 1)
