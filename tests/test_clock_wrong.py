"""A clock that is not set: a feed refuses it, and what was recorded under one is still answered whole."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.client import Client
from common.events import Event
from common.record import TS_MAX, encode
from common.verify import verify
from tests.archives import FIRST, FIRST_TS, HOUR_NS, Archive, trade
from tests.pipeline import DEADLINE_S, Pipeline, until
from tests.standin_client import ROOT

SECOND = 10**9
EACH = 100
WRONG = """
import sys, time, pathlib
right, flag, ahead = time.time_ns, pathlib.Path(sys.argv[1]), int(sys.argv[2])
time.time_ns = lambda: right() + (ahead if flag.exists() else 0)
from processes.feed import main
sys.exit(main(sys.argv[3:]))
"""
CENTURIES_NS = 300 * 366 * 24 * HOUR_NS


def feed(pipeline: Pipeline, flag: Path, ahead_ns: int) -> "subprocess.Popen[bytes]":
    """A feed whose clock is that much ahead while a file is there."""
    command = [sys.executable, "-c", WRONG, str(flag), str(ahead_ns), *pipeline.arguments()]
    with pipeline.log.open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=pipeline.environ, stderr=log)


@pytest.mark.parametrize("ahead_ns", [CENTURIES_NS, -CENTURIES_NS])
def test_a_feed_when_the_clock_is_not_set_then_refuses_to_begin_so_that_it_is_tried_again(
    make: Callable[..., Pipeline], tmp_path: Path, ahead_ns: int
) -> None:
    pipeline = make("--synthetic")
    (tmp_path / "wrong").touch()
    process = feed(pipeline, tmp_path / "wrong", ahead_ns)
    assert process.wait(DEADLINE_S) == 1  # supervisord starts it again; after 2 it would not
    assert b"the machine's clock shows" in pipeline.log.read_bytes()
    assert not list(pipeline.storage.rglob("*.journal"))


def test_a_feed_when_the_clock_is_set_beyond_int64_then_goes_on_by_the_time_before_and_says_so(
    make: Callable[..., Pipeline], tmp_path: Path
) -> None:
    pipeline, flag = make("--synthetic", "--rate", 100), tmp_path / "wrong"
    process = feed(pipeline, flag, CENTURIES_NS)
    pipeline.give_back({"feed": process})
    pipeline.start("archiver")
    until(lambda: pipeline.complete() > 0, "something is archived")
    flag.touch()
    until(lambda: b"times go on by the monotonic clock" in pipeline.log.read_bytes(), "the clock is refused")
    before = pipeline.complete()
    until(lambda: pipeline.complete() > before + 200, "it goes on")
    flag.unlink()
    before = pipeline.complete()
    until(lambda: pipeline.complete() > before + 200, "it goes on with the right clock")
    process.terminate()
    pipeline.wait("feed")
    pipeline.stop()
    with Client(storage=pipeline.storage) as client:
        records = list(client.slice("binance", "BTCUSDT").records())
        times = [record.ts_recv for record in records]
        assert times == sorted(times) and times[-1] - times[0] < 2 * DEADLINE_S * SECOND
        (told,) = (record for record in records if record.kind == "clock")
        assert b'"refused":"23' in (told.payload or b"")
        trades = [event for event in client.slice("binance", "BTCUSDT", "trade") if event["channel"] == "trade"]
        assert client.slice("binance", "BTCUSDT", "trade").to_arrow().num_rows == len(trades)


def recorded(storage: Path, far: int) -> Archive:
    """Hours of trades, one of them under a clock that showed a time as `far`."""
    archive, seq = Archive(storage), FIRST
    archive.begin()
    for begin in (FIRST_TS, far, FIRST_TS + HOUR_NS, FIRST_TS + 3 * HOUR_NS):
        none = b'{"normaliser":"none"}'
        lines = [encode(seq + 1, begin, "checkpoint", payload=none)]
        lines.append(encode(seq + 2, begin, "checkpoint", symbol="BTCUSDT", payload=none))
        lines += [trade(seq + 3 + index, begin + index * 10**7) for index in range(EACH)]
        archive.take(lines)
        seq += len(lines)
    archive.close()
    return archive


@pytest.mark.parametrize("far", [(1 << 63) - 50 * 10**7, (1 << 63) + 7 * SECOND, (1 << 64) - 10 * SECOND])
def test_an_archive_when_it_was_recorded_beyond_int64_then_is_answered_whole(tmp_path: Path, far: int) -> None:
    archive = recorded(tmp_path, far)
    assert archive.files(".parquet")
    with Client(storage=tmp_path) as client:
        asked = client.slice("binance", "BTCUSDT", "trade")
        events: list[Event] = [event for event in asked if event["channel"] == "trade"]
        assert len(events) == 4 * EACH
        late = [event["ts_recv"] for event in events[EACH : 2 * EACH]]
        assert late == [min(far + index * 10**7, TS_MAX) for index in range(EACH)]
        assert asked.to_arrow()["ts_recv"].to_pylist() == [event["ts_recv"] for event in events]
        assert sum(span["events"] for span in client.coverage("binance", channels="trade")) == 4 * EACH
        assert client.gaps("binance") == [] or all(gap["ts_recv"] <= TS_MAX for gap in client.gaps("binance"))
        before = client.slice("binance", "BTCUSDT", "trade", FIRST_TS, "2200-01-01")
        assert before.to_arrow().num_rows == 3 * EACH == sum(event["channel"] == "trade" for event in before)
    assert verify(archive.directory, jobs=1).is_whole
