"""Replay: the past as it was live, whoever takes it, however fast, as often as it is asked for."""

import shutil
from pathlib import Path

import pytest

from common.events import CHANNELS
from common.reader import Reader
from common.replay import LAG_S, Pace, Part, steps
from common.replay_control import Request
from common.replayer import SETTLE_S, Replayer
from tests.archives import FIRST, FIRST_TS, Archive, trade
from tests.record_logs import ADAPTER, SYMBOLS, T0, Log
from tests.replays import (
    END,
    OTHER,
    SECOND_NS,
    TICK_NS,
    body,
    events,
    expected,
    hashed,
    is_beat,
    part,
    played,
    recorded,
)

# -- what is sent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbols", [SYMBOLS, SYMBOLS[:1]])
@pytest.mark.parametrize("step_ns", [TICK_NS, 10 * SECOND_NS], ids=["being written", "sealed"])
def test_steps_of_any_range_are_what_was_live_then(tmp_path: Path, step_ns: int, symbols: tuple[str, ...]) -> None:
    storage, recorded_log = tmp_path, recorded(tmp_path, step_ns=step_ns)
    times = [record.ts_recv for record in recorded_log.records]
    for start, end in ((0, END), (times[137], times[511]), (times[300] + 1, times[301] + 1), (0, times[90])):
        got = played([part(storage, symbols)], start, end)
        assert events(got) == expected(recorded_log, start, end, symbols)
        assert played([part(storage, symbols)], start, end) == got


def test_steps_with_channels_then_those_and_gaps_alone(log: tuple[Path, Log]) -> None:
    storage, recorded_log = log
    got = events(played([part(storage, channels=("trade",))]))
    assert got == [each for each in expected(recorded_log, 0, END) if each.split(b"/")[1] in (b"trade", b"gap")]
    beats = [body(each) for each in played([part(storage, channels=("trade",))]) if is_beat(each)]
    assert {channel for beat in beats for channel in beat.get("topics", ())} == {"trade", "gap"}


def test_steps_begin_with_each_book_and_a_book_kept_from_them_is_that_of_the_archive(log: tuple[Path, Log]) -> None:
    storage, recorded_log = log
    begun = 0
    for place in range(100, len(recorded_log.records), 97):
        start = recorded_log.records[place].ts_recv
        reader = Reader(storage, ADAPTER)
        for symbol in SYMBOLS:
            got = played([part(storage, [symbol], ["book"])], start)
            if not (snapshots := [body(each) for each in got if b'"derived":true' in each]):
                continue
            begun += 1
            first = next(record.seq for record in recorded_log.records if record.ts_recv >= start)
            book = reader.normaliser(symbol, first - 1).symbols[symbol].sync.book
            assert ([*map(tuple, snapshots[0]["bids"])], [*map(tuple, snapshots[0]["asks"])]) == book.top()
            assert [is_beat(got[0]), b'"derived":true' in got[1], len(snapshots)] == [True, True, 1]
    assert begun


def test_heartbeats_come_each_second_of_the_recorded_time_and_say_what_was_sent_before(log: tuple[Path, Log]) -> None:
    storage, _ = log
    whole = list(steps([part(storage)], 0, END))
    beats = [step.ts for step in whole[:-1] if step.messages[0].startswith(b"binance/heartbeat ")]
    assert beats == [beats[0] + index * SECOND_NS for index in range(len(beats))]
    assert beats[-1] <= whole[-1].ts < beats[-1] + SECOND_NS
    assert [step.ts for step in whole] == sorted(step.ts for step in whole)
    last: dict[tuple[str, str], list[int]] = {}
    at = 0
    for message in (message for step in whole for message in step.messages):
        event = body(message)
        if not is_beat(message):
            last[event["symbol"], event["channel"]] = [event["seq"], event.get("part", 0)]
            at = event["seq"]
        elif "symbol" not in event:
            assert event["at"] >= at
        else:
            for channel, place in event["topics"].items():
                assert (
                    place == last.get((event["symbol"], channel), place) or place[0] > last[event["symbol"], channel][0]
                )
                assert place[0] <= event["at"]
    assert body(whole[-1].messages[-1])["end"] is True
    assert sum(b'"end":true' in message for step in whole for message in step.messages) == 1


def test_steps_of_two_exchanges_are_merged_by_time_then_name_and_each_is_as_it_is_alone(tmp_path: Path) -> None:
    log = recorded(tmp_path)
    recorded(tmp_path / "second", seed=4)
    shutil.copytree(tmp_path / "second" / "binance", tmp_path / "other")
    other = Part(OTHER, Reader(tmp_path, OTHER), SYMBOLS, CHANNELS)
    got = played([other, part(tmp_path)])
    assert got == played([part(tmp_path), other])
    for name, alone in (("binance", part(tmp_path)), ("other", other)):
        assert events([each for each in got if each.startswith(name.encode())]) == events(played([alone]))
    merged = [(body(each)["ts_recv"], body(each)["exchange"]) for each in events(got)]
    assert merged == sorted(merged)
    assert len({name for _, name in merged}) == 2
    assert [body(each)["exchange"] for each in got if b'"end":true' in each] == ["binance", "other"]
    assert events(played([part(tmp_path)])) == expected(log, 0, END)


def test_steps_where_a_clock_was_set_back_hold_their_time_and_keep_the_order(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.begin()
    seconds = [0, 5, 2, 3, 6]
    archive.take(trade(FIRST + 1 + place, FIRST_TS + each * SECOND_NS) for place, each in enumerate(seconds))
    archive.close()
    one = part(tmp_path, ["BTCUSDT"])
    found = [step for step in steps([one], 0, END) if not is_beat(step.messages[0])]
    assert [(step.ts - FIRST_TS) // SECOND_NS for step in found] == [0, 5, 5, 5, 6]
    assert [body(step.messages[0])["ts_recv"] for step in found] == [FIRST_TS + each * SECOND_NS for each in seconds]
    inside = events(played([one], FIRST_TS + 2 * SECOND_NS, FIRST_TS + 6 * SECOND_NS))
    assert [(body(each)["ts_recv"] - FIRST_TS) // SECOND_NS for each in inside] == [5, 2, 3]


# -- when it is sent -----------------------------------------------------------------------------------------------


def test_pace_follows_the_datas_clock_times_the_speed() -> None:
    for speed in (0.5, 1.0, 10.0, 1000.0):
        pace = Pace(speed)
        assert pace.wait_s(T0, 100.0) == 0.0
        assert pace.wait_s(T0 + SECOND_NS, 100.0) == pytest.approx(1 / speed)
        assert pace.wait_s(T0 + SECOND_NS, 100.0 + 0.5 / speed) == pytest.approx(0.5 / speed)
        assert pace.wait_s(T0 + SECOND_NS, 100.001 + 1 / speed) == 0.0


def test_pace_when_held_up_then_catches_up_little_and_goes_on_from_there_after_much() -> None:
    pace = Pace(10.0)
    pace.wait_s(T0, 0.0)
    assert pace.wait_s(T0 + 5 * SECOND_NS, LAG_S) == 0.0
    assert pace.wait_s(T0 + 10 * SECOND_NS, LAG_S) == 0.0
    assert pace.wait_s(T0 + 10 * SECOND_NS, 60.0) == 0.0
    assert pace.wait_s(T0 + 20 * SECOND_NS, 60.0) == pytest.approx(1.0)


def drained(replayer: Replayer, now: float) -> list[bytes]:
    found: list[bytes] = []
    while replayer.wait_s(now) == 0.0:
        found += replayer.take()
    return found


def test_replayer_when_paused_changed_and_resumed_then_the_clock_stands_still_meanwhile(log: tuple[Path, Log]) -> None:
    storage, recorded_log = log
    replayer = Replayer([part(storage)], 0, END, 1.0, "subscribed")
    assert replayer.wait_s(0.0) is None
    replayer.subscribed(10.0)
    assert replayer.wait_s(10.0) == pytest.approx(SETTLE_S)
    now = 10.0 + 2 * SETTLE_S
    got = drained(replayer, now)
    got += drained(replayer, now + 1.0)
    first = replayer.status()["at"]
    replayer.act(Request("pause"), now + 1.0)
    assert replayer.state == "paused" and replayer.wait_s(now + 50.0) is None
    replayer.act(Request("step", 3), now + 60.0)
    taken = drained(replayer, now + 61.0)
    assert len(taken) >= 3 and replayer.wait_s(now + 61.0) is None
    got += taken
    replayer.act(Request("speed", 10.0), now + 100.0)
    replayer.act(Request("resume"), now + 200.0)
    got += drained(replayer, now + 200.0)
    got += drained(replayer, now + 200.5)
    assert first < replayer.status()["at"] <= first + 6 * SECOND_NS
    replayer.act(Request("speed", 0), now + 201.0)
    got += drained(replayer, now + 201.0)
    assert replayer.state == "ended"
    assert got == played([part(storage)])
    assert replayer.status()["sha256"] == hashed(got)
    replayer.act(Request("speed", 2.0), now + 300.0)
    middle = recorded_log.records[300].ts_recv
    assert replayer.act(Request("seek", middle), now + 300.0)
    got = drained(replayer, now + 300.0)
    assert 0 < len(got) < 200
    replayer.act(Request("speed", 0), now + 300.0)
    assert got + drained(replayer, now + 300.0) == played([part(storage)], middle)
