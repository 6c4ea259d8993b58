"""Gaps of records that are missing, case by case: subscriptions, holes, checkpoints, what a run owes (rules 19, 20)."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import orjson

from common import exchanges
from common.adapter import Adapter
from common.begin import owed
from common.disk import Disk
from common.events import GAP, Event
from common.journal import Opened
from common.reader import Reader
from common.record import decode
from common.subscribed import Subscribed
from tests.archives import FIRST, FIRST_TS, Archive, trade
from tests.record_logs import delta_frame, quote_frame
from tests.test_normaliser_cases import Run, rest_trades, synced, told

BINANCE = cast(Adapter, exchanges.get("binance"))


def gaps(events: list[Event], channel: str) -> list[tuple[Any, ...]]:
    found = [event for event in events if event["channel"] == GAP and event["channels"] == [channel]]
    return [(event["gap"], event["state"], event["reason"], event["ts_from"], event["ts_to"]) for event in found]


def changed(run: Run, *symbols: str, added: tuple[str, ...] = (), removed: tuple[str, ...] = ()) -> list[Event]:
    payload = {"symbols": symbols, "added": added, "removed": removed, "channels": ["trade", "book", "quote", "candle"]}
    payload["owed"] = {symbol: run.normaliser.away.get(symbol, {}) for symbol in added}
    return run.take("subscriptions", payload=orjson.dumps(payload))


def test_a_removed_symbol_has_one_gap_until_its_first_data_after_it_is_added() -> None:
    run = Run()
    run.trades(1, 5)
    assert gaps(changed(run, removed=("AAA",)), "trade") == [(3, "open", "unsubscribed", 30, None)]
    assert run.trades(1, 6) == []
    assert gaps(changed(run, "AAA", added=("AAA",)), "trade") == [(3, "open", "unsubscribed", 30, None)]
    opened, after = run.trades(1, 9)
    assert (opened["gap"], opened["first_id"], opened["last_id"], after["id"]) == (3, "6", "8", "9")
    ended, *late = run.rest(run.actions()[0], 200, rest_trades(6, 7, 8, 9))
    assert [event["id"] for event in late] == ["6", "7", "8"] and (ended["gap"], ended["state"]) == (3, "backfilled")
    assert run.normaliser.away == {}


def test_a_start_that_records_less_opens_gaps_of_the_rest_and_the_next_one_keeps_them() -> None:
    owes = {"ts": 7, "topics": {"AAA": {"trade": 5, "mark": None}, "BBB": {"trade": 2}}}
    run = Run(owed=owes)
    away = run.normaliser.away
    assert {symbol: {channel: topic.gap for channel, topic in topics.items()} for symbol, topics in away.items()} == {
        "AAA": {"mark": 1}, "BBB": {"trade": 1},
    }  # fmt: skip
    told_away = orjson.loads(orjson.dumps(away))
    again = run.take("start", payload=orjson.dumps({"subscriptions": {"symbols": []}, "owed": {"away": told_away}}))
    assert {(event["gap"], event["state"], event["reason"]) for event in again} == {(1, "open", "unsubscribed")}
    assert orjson.loads(orjson.dumps(run.normaliser.away)) == told_away


def test_a_hole_is_a_gap_from_the_last_event_before_it_to_the_first_one_behind_it() -> None:
    away = {"AAA": {"mark": {"gap": 0, "ts_from": 0, "id": None}}}
    run = Run(owed={"away": away})
    run.trades(1, 5)
    run.normaliser.hole(3, 4)
    run.normaliser.hole(3, 9)
    run.seq = 9
    opened = run.frame(1, quote_frame("AAA", 1))
    assert gaps(opened, "trade") == [(10, "open", "missing", 20, None)]
    holes = {(event["first_seq"], event["last_seq"]) for event in opened if event.get("state") == "open"}
    assert holes == {(3, 9)}
    assert gaps(run.trades(1, 9), "trade") == [(10, "closed", "missing", 20, 110)]


def test_a_topic_that_was_away_before_a_hole_and_is_recorded_behind_it_ends_its_gap() -> None:
    """The record that added it again was in the hole: its gap stayed open for ever."""
    run = Run()
    run.trades(1, 5)
    opened = changed(run, removed=("AAA",))
    for last in (6, 9):  # one right behind the other
        run.normaliser.hole(4, last)
    run.seq = 9
    again, closed, after = (event for event in run.trades(1, 9) if event.get("channels") in (["trade"], None))
    assert [again["gap"], again["state"]] == [3, "open"] and gaps(opened, "trade")[0][0] == 3
    assert (closed["gap"], closed["state"], after["id"]) == (3, "closed", "9")
    assert {key: again[key] for key in ("first_seq", "last_seq")} == {"first_seq": 4, "last_seq": 9}


def test_what_was_dropped_before_a_topic_was_recorded_is_no_gap_of_it() -> None:
    """Bars would take it for observed since that gap."""
    run = Run()
    run.trades(1, 5)
    payload = {
        "subscriptions": {"symbols": ["AAA"], "channels": ["trade", "quote"]},
        "owed": {"topics": {"AAA": {"trade": 5}}},
    }
    run.take("start", payload=orjson.dumps(payload))
    dropped = {"state": "open", "reason": "journal full", "first_seq": 2, "last_seq": 2, "ts_from": 20, "ts_to": 20}
    told = run.take("gap", payload=orjson.dumps(dropped))
    assert {event["channels"][0] for event in told} == {"trade"}


def test_records_that_were_dropped_and_are_missing_right_before_are_one_gap_until_the_next_event() -> None:
    """The end of what was dropped, under the same id, ended the gap of what is missing."""
    run = Run()
    run.trades(1, 5)
    run.normaliser.hole(3, 9)
    run.seq = 9
    dropped = {"state": "open", "reason": "journal full", "first_seq": 2, "last_seq": 8, "ts_from": 15, "ts_to": 80}
    told = gaps(run.take("gap", payload=orjson.dumps(dropped)), "trade")
    assert told == [(10, "open", "missing", 20, None), (10, "open", "missing", 15, None)]
    assert gaps(run.trades(1, 9), "trade") == [(10, "closed", "missing", 15, 110)]


def test_a_checkpoint_of_no_symbol_behind_a_hole_tells_what_is_not_recorded_any_more() -> None:
    """The record of the removal was in the hole: no gap told of the time since."""
    run = Run()
    run.trades(1, 5)
    run.normaliser.hole(3, 9)
    run.seq = 9
    run.trades(1, 6)  # it was on its way when its symbol was removed
    away = {"AAA": {"trade": {"gap": 8, "ts_from": 80, "id": 5}}}
    about = {"run": 1, "symbols": ["BBB"], "channels": ["trade"], "away": away}
    told = run.take("checkpoint", payload=orjson.dumps(about))
    assert gaps(told, "trade") == [(8, "open", "unsubscribed", 80, None)]
    assert orjson.loads(orjson.dumps(run.normaliser.away)) == away


def test_holes_and_drops_are_no_gaps_of_channels_that_nothing_told_of() -> None:
    """They stayed open for ever: behind a hole nothing says which channels are recorded."""
    run = Run()
    run.trades(1, 5)
    for first, last in ((3, 9), (11, 19)):
        run.normaliser.hole(first, last)
        run.seq = last
        events = run.frame(1, quote_frame("AAA", 1))
        opened = {event["channels"][0] for event in events if event.get("state") == "open"}
        assert opened == {"trade", "book", "quote", "candle"}
    dropped = {"state": "open", "reason": "journal full", "first_seq": 11, "last_seq": 21, "ts_from": 15, "ts_to": 80}
    told = run.take("gap", payload=orjson.dumps(dropped))
    assert {event["channels"][0] for event in told} == {"trade", "book", "quote", "candle"}


def test_a_hole_before_a_start_is_told_where_no_gap_of_the_start_does() -> None:
    """What the run before had recorded and lost again, and what it did not record any more at its end."""
    run = Run()
    run.trades(1, 5)
    run.frame(1, quote_frame("AAA", 1))
    changed(run, removed=("AAA",))
    away = orjson.loads(orjson.dumps(run.normaliser.away))
    for owes, expected in (
        ({"AAA": {"trade": 5}}, {"quote", "book", "candle"}),  # of the trades, the restart's gap tells
        ({"AAA": {"trade": 7}}, {"trade", "quote", "book", "candle"}),  # 6 and 7 were in the hole
        ({}, {"trade", "quote", "book", "candle"}),
    ):
        run = Run()
        run.trades(1, 5)
        run.normaliser.hole(3, 9)
        run.seq = 9
        payload = {"subscriptions": {"symbols": ["AAA"], "channels": ["trade"]}, "owed": {"ts": 70, "topics": owes}}
        if not owes:
            payload["owed"] = {"ts": 70, "away": away}
        events = run.take("start", payload=orjson.dumps(payload))
        ended = {each["channels"][0]: each for each in events if each["state"] == "closed"}
        assert ended.keys() == expected and {each["gap"] for each in ended.values()} == {9}
        if "trade" in ended:
            told = ended["trade"]
            assert (told["reason"], told["ts_from"], told["ts_to"]) == ("missing", 20, 100)


def test_a_checkpoint_that_knows_of_events_that_were_not_seen_shows_a_hole() -> None:
    whole, short = Run(), Run()
    for run in (whole, short):
        run.trades(1, 5)
    whole.trades(1, 6, 7)
    checkpoint = whole.normaliser.checkpoint("AAA")
    whole_events = whole.take("checkpoint", symbol="AAA", payload=checkpoint)
    short.seq += 2
    events = short.take("checkpoint", symbol="AAA", payload=checkpoint)
    assert whole_events == []
    assert gaps(events, "trade") == [(5, "open", "missing", 20, None), (5, "closed", "missing", 20, 50)]
    assert gaps(events, "quote") == []
    assert told(short.trades(1, 8)) == [("8",)] == told(whole.trades(1, 8))


def test_a_book_behind_a_hole_goes_on_with_the_checkpoints_and_is_told_as_a_snapshot() -> None:
    whole, short = Run(), Run()
    for run in (whole, short):
        synced(run)
    whole.frame(1, delta_frame("AAA", 6, 6, {"3": "4"}))
    checkpoint = whole.normaliser.checkpoint("AAA")
    short.seq += 1
    short.normaliser.hole(whole.seq, whole.seq)
    events = short.take("checkpoint", symbol="AAA", payload=checkpoint)
    (snapshot,) = [event for event in events if event["channel"] == "book"]
    bids, asks = whole.normaliser.symbols["AAA"].sync.book.top()
    assert (snapshot["type"], snapshot["last_id"]) == ("snapshot", "6")
    assert (snapshot["bids"], snapshot["asks"]) == ([list(each) for each in bids], [list(each) for each in asks])
    assert [state for _, state, _, _, _ in gaps(events, "book")] == ["open", "closed"]
    (delta,) = short.frame(1, delta_frame("AAA", 7, 7, {"3": "5"}))
    assert (delta["prev"], delta["type"]) == (snapshot["seq"], "delta")


def test_what_is_owed_when_the_journal_is_lost_comes_from_the_archive(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.begin()
    archive.take([trade(FIRST + place, FIRST_TS + place, "BTCUSDT", place) for place in range(1, 9)])
    archive.close()
    opened = Opened(FIRST + 100, FIRST + 8, jumped=True, facts={})
    debt = owed(Disk(), tmp_path / "nothing", BINANCE, opened, Reader(archive.storage, BINANCE))
    assert debt["ts"] == FIRST_TS + 8
    assert debt["topics"] == {"BTCUSDT": {"trade": 8}, "ETHUSDT": {"trade": None}}
    not_trusted = replace(opened, last=FIRST + 5)  # the machine lost power: the archiver will cut what lies beyond
    debt = owed(Disk(), tmp_path / "nothing", BINANCE, not_trusted, Reader(archive.storage, BINANCE))
    assert (debt["ts"], debt["topics"]["BTCUSDT"]) == (FIRST_TS + 5, {"trade": 5})


def test_what_a_run_does_not_record_is_known_from_its_start_and_from_each_change() -> None:
    run = Run(owed={"ts": 7, "topics": {"AAA": {"trade": 5}, "BBB": {"trade": 2}}})
    start = {"subscriptions": {"symbols": ["AAA"], "channels": ["trade"]}}
    start["owed"] = {"ts": 7, "topics": {"AAA": {"trade": 5}, "BBB": {"trade": 2}}}

    def record(kind: str, seq: int, payload: Any) -> Any:
        line = b'{"seq":%d,"ts_recv":%d,"kind":"%b","data":%b}\n' % (
            seq,
            seq * 10,
            kind.encode(),
            orjson.dumps(payload),
        )
        return decode(line)

    found = Subscribed(0).after(record("start", 1, start))
    assert found.away == orjson.loads(orjson.dumps(run.normaliser.away))
    change = {"symbols": ["BBB"], "added": ["BBB"], "removed": ["AAA"], "channels": ["trade"]}
    found = found.after(record("subscriptions", 2, change))
    assert found.symbols == ["BBB"] and found.away == {"AAA": {"trade": {"gap": 2, "ts_from": 20, "id": None}}}
    start["owed"]["topics"] |= {"AAA": {"trade": 5, "quote": None}, "BBB": {"trade": 2, "quote": None}}
    found = Subscribed(0).after(record("start", 1, start)).after(record("subscriptions", 2, change))
    of_start = {"gap": 1, "ts_from": 7, "id": None}  # of channels that the change says nothing of
    assert found.away == {
        "AAA": {"quote": of_start, "trade": {"gap": 2, "ts_from": 20, "id": None}}, "BBB": {"quote": of_start},
    }  # fmt: skip
