"""`normalise`, case by case: switches, holes and what fills them, gaps, restarts, seams."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.events import GAP, Action, Event, Update, body
from common.judge import FRUITLESS_MAX
from common.normaliser import Normaliser
from common.record import decode, encode
from tests.record_logs import ADAPTER, candle_frame, delta_frame, quote_frame, trade_frame


class Run:
    """A normaliser after its `start`, and what it makes of one record after the other."""

    def __init__(self, **payload: Any) -> None:
        self.normaliser = Normaliser(ADAPTER)
        self.seq = 0
        subscriptions = {"symbols": ["AAA"], "channels": ["trade", "book", "quote", "candle"]}
        self.take("start", payload=orjson.dumps({"subscriptions": subscriptions, **payload}))

    def take(self, kind: str, **record: Any) -> list[Event]:
        self.seq += 1
        line = encode(self.seq, self.seq * 10, kind, **record)
        return [orjson.loads(body(message)) for message in self.normaliser.messages(decode(line))]

    def frame(self, conn: int, frame: dict[str, Any]) -> list[Event]:
        return self.take("in", conn=conn, payload=orjson.dumps(frame))

    def trades(self, conn: int, *ids: int) -> list[Event]:
        return [event for number in ids for event in self.frame(conn, trade_frame("AAA", number))]

    def rest(self, action: Action, status: int, answer: Any) -> list[Event]:
        head = {"url": ADAPTER.request(action, 5000).path, "status": status}
        place = {"channel": action.channel, "symbol": action.symbol}
        return self.take("rest", head=head, payload=orjson.dumps(answer), **place)

    def actions(self) -> list[Action]:
        actions, self.normaliser.actions = self.normaliser.actions, []
        return [action._replace(since=0) for action in actions]  # Binance is asked by id


def told(events: list[Event]) -> list[tuple[Any, ...]]:
    """Events in short: a gap's state and reason, a trade's id, whatever else has."""
    return [
        (event["state"], event["reason"]) if event["channel"] == GAP else (event.get("id") or event.get("last_id"),)
        for event in events
    ]


def rest_trades(*ids: int) -> list[dict[str, Any]]:
    return [{"id": number, "price": "1", "qty": "1", "time": 1, "isBuyerMaker": True} for number in ids]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_a_switch_of_two_connections_that_together_had_all_gives_each_trade_once_in_order(data: st.DataObject) -> None:
    """Make before break: the new one subscribes while the old one delivers; either may be ahead at the switch."""
    end = data.draw(st.integers(3, 12))
    old_stop = data.draw(st.integers(1, end))
    new_first = data.draw(st.integers(1, old_stop + 1))
    switch_at = data.draw(st.integers(0, end))
    old, new = list(range(1, old_stop + 1)), list(range(new_first, end + 1))
    run, events = Run(), []
    ahead = new[:switch_at]
    for conn in data.draw(st.permutations([1] * len(old) + [2] * len(ahead))):
        events += run.trades(conn, (old if conn == 1 else ahead).pop(0))
    planned = data.draw(st.booleans())
    if planned:
        events += run.take("switch", conn=2, head={"from": 1})
        events += run.trades(1, *range(old_stop + 1, data.draw(st.integers(old_stop, end)) + 1))
    events += run.take("close", conn=1)
    events += run.trades(2, *new[switch_at:])
    trades = [int(event["id"]) for event in events if event["channel"] == "trade"]
    first = trades[0]
    assert trades == list(range(first, end + 1)) and first in (1, new_first)
    assert planned is False or [event for event in events if event["channel"] == GAP] == []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_a_book_goes_on_by_its_ids_over_a_switch_without_a_new_snapshot(data: st.DataObject) -> None:
    """The two connections cut the same changes into other deltas: one that covers an id twice is absolute anyway."""
    run = Run()
    run.frame(1, delta_frame("AAA", 1, 2, {"1": "2"}))
    events = run.rest(run.actions()[0], 200, {"lastUpdateId": 2, "bids": [["1", "2"]], "asks": []})
    cuts = [sorted(data.draw(st.sets(st.integers(3, 19), max_size=8)) | {2, 20}) for _ in range(2)]
    deltas = {
        conn: [delta_frame("AAA", a + 1, b, {str(i % 4): str(i) for i in range(a + 1, b + 1)}) for a, b in pairs(cut)]
        for conn, cut in zip((1, 2), cuts, strict=True)
    }
    before = {conn: data.draw(st.integers(0, len(deltas[conn]))) for conn in deltas}
    for conn in data.draw(st.permutations([1] * before[1] + [2] * before[2])):
        events += run.frame(conn, deltas[conn].pop(0))
    events += run.take("switch", conn=2, head={"from": 1})
    events += run.take("close", conn=1)
    for delta in deltas[2]:
        events += run.frame(2, delta)
    state = run.normaliser.symbols["AAA"]
    assert {event["channel"] for event in events} <= {"book"} and not run.actions()
    assert state.sync.id == 20 and state.sync.book.bids == {str(i % 4): str(i) for i in (17, 18, 19, 20)}


def pairs(cut: list[int]) -> Iterator[tuple[int, int]]:
    return pairwise(cut)


def synced(run: Run) -> None:
    run.frame(1, delta_frame("AAA", 1, 5, {}))
    assert told(run.rest(run.actions()[0], 200, {"lastUpdateId": 5, "bids": [], "asks": []})) == [("5",)]


def test_an_answer_to_a_later_hole_does_not_pass_for_the_first_ones() -> None:
    """The first hole's request failed and waited; the second's answer came, lay behind it, and closed it unfilled."""
    run = Run()
    run.trades(1, 1, 4, 7)
    assert run.actions() == [Action("backfill", "trade", "AAA", 2)]
    assert run.rest(Action("backfill", "trade", "AAA", 5), 200, rest_trades(5, 6, 7)) == []
    assert run.rest(Action("backfill", "trade", "AAA", 2), 500, {}) == []
    assert run.actions() == [Action("backfill", "trade", "AAA", 2)] * 2
    first = run.rest(Action("backfill", "trade", "AAA", 2), 200, rest_trades(2, 3, 4))
    assert told(first) == [("backfilled", "sequence"), ("2",), ("3",)]
    assert [event.get("late") for event in first] == [None, True, True]
    (second,) = run.actions()
    assert told(run.rest(second, 200, rest_trades(5, 6, 7))) == [("backfilled", "sequence"), ("5",), ("6",)]
    assert run.actions() == []


def test_ids_that_the_exchange_leaves_out_are_passed_over_once_it_says_so() -> None:
    run = Run()
    assert told(run.trades(1, 1, 9)) == [("1",), ("open", "sequence"), ("9",)]
    assert told(run.rest(run.actions()[0], 200, rest_trades(4, 9))) == [("backfilled", "sequence"), ("4",)]


def test_a_hole_of_more_than_one_answer_is_asked_for_on_and_on() -> None:
    run = Run()
    run.trades(1, 1, 9)
    assert told(run.rest(run.actions()[0], 200, rest_trades(2, 3, 4))) == [("2",), ("3",), ("4",)]
    assert run.actions() == [Action("backfill", "trade", "AAA", 5)]
    assert run.rest(Action("backfill", "trade", "AAA", 5), 200, []) == []
    assert run.actions() == [Action("backfill", "trade", "AAA", 5)]


@pytest.mark.parametrize(("status", "nothing"), [(200, []), (400, {"code": -1, "msg": "no such ids"})])
def test_what_the_exchange_says_again_and_again_that_it_does_not_have_is_given_up(status: int, nothing: Any) -> None:
    """The gap ends as closed. Failures count for nothing, and what comes meanwhile begins the count anew."""
    run = Run()
    run.trades(1, 1, 5, 8)
    asked = Action("backfill", "trade", "AAA", 2)
    for _ in range(2 * FRUITLESS_MAX):
        assert run.rest(asked, 500, {}) == run.rest(asked, 200, "no trades") == []
    fruitless = [(status, nothing)] * (FRUITLESS_MAX - 1)
    assert [run.rest(asked, *each) for each in fruitless] == [[]] * len(fruitless)
    assert told(run.rest(asked, 200, rest_trades(2))) == [("2",)]
    asked = run.actions()[-1]
    assert asked.from_id == 3 and [run.rest(asked, *each) for each in fruitless] == [[]] * len(fruitless)
    assert told(run.rest(asked, status, nothing)) == [("closed", "sequence")]
    asked = run.actions()[-1]
    assert asked.from_id == 6, "the next hole has its turn"
    assert told(run.rest(asked, 200, rest_trades(6, 7))) == [("backfilled", "sequence"), ("6",), ("7",)]
    assert not run.actions() and told(run.trades(1, 9)) == [("9",)]


def test_a_gap_of_several_holes_is_not_called_whole_where_one_was_given_up_even_after_a_checkpoint() -> None:
    run = Run()
    run.trades(1, 1)
    run.trades(2, 3, 5)
    run.take("close", conn=1)
    first = run.actions()[0]
    for _ in range(FRUITLESS_MAX):
        assert run.rest(first, 200, []) == []
    (second,) = run.actions()[-1:]
    anew = Run()
    anew.normaliser, anew.seq = Normaliser(ADAPTER), run.seq
    anew.take("checkpoint", symbol="AAA", payload=run.normaliser.checkpoint("AAA"))
    assert told(anew.rest(second, 200, rest_trades(4, 5))) == [("closed", "sequence"), ("4",)]


def test_a_book_that_breaks_while_a_gap_is_open_tells_more_of_that_gap() -> None:
    """The gap `silent` was replaced by the new one, and never ended."""
    run = Run()
    synced(run)
    (silent,) = run.take("gap", channel="book", symbol="AAA", payload=b'{"state":"open","reason":"silent"}')
    (broken,) = run.frame(1, delta_frame("AAA", 8, 9, {}))
    assert (broken["gap"], broken["state"], broken["first_id"], broken["last_id"]) == (silent["gap"], "open", "6", "7")
    _, closed = run.rest(run.actions()[0], 200, {"lastUpdateId": 9, "bids": [], "asks": []})
    assert (closed["gap"], closed["state"]) == (silent["gap"], "closed")


def test_deltas_whose_ids_run_back_break_the_book_without_naming_impossible_ids() -> None:
    run = Run()
    synced(run)
    run.frame(1, delta_frame("AAA", 6, 9, {}))
    (broken,) = run.frame(1, delta_frame("AAA", 2, 3, {}))
    assert broken["reason"] == "sequence" and "first_id" not in broken
    assert [action.kind for action in run.actions()] == ["snapshot"]


def test_after_a_switch_what_the_new_connection_brings_with_one_time_is_all_there() -> None:
    """Candles of several intervals come with the same time: none comes twice, and none is left out."""
    run = Run()
    run.frame(1, candle_frame("AAA", 1))
    run.frame(1, candle_frame("AAA", 2))
    for time in (1, 2):
        run.frame(2, candle_frame("AAA", time))
    again = run.take("switch", conn=2, head={"from": 1})
    assert again == []
    run.frame(1, candle_frame("AAA", 3))
    new = [run.frame(2, candle_frame("AAA", time, interval)) for time, interval in ((2, "5m"), (3, "1m"), (3, "5m"))]
    assert [[event["interval"] for event in events] for events in new] == [["5m"], ["1m"], ["5m"]]


def test_what_a_third_connection_had_proves_nothing_of_the_one_gone_over_to() -> None:
    run = Run()
    run.frame(1, quote_frame("AAA", 5))
    run.frame(2, quote_frame("AAA", 5))
    assert told(run.take("switch", conn=3, head={"from": 1})) == [("open", "unverifiable"), ("closed", "unverifiable")]


def test_more_from_the_other_connection_than_is_kept_is_a_seam_that_nothing_proves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The followed one is silent, the other goes on; what was kept of it no longer begins where that one stopped."""
    monkeypatch.setattr("common.topic.OVERLAP_MAX", 3)
    for count, states in ((3, []), (4, ["open", "closed"])):
        run = Run()
        run.frame(1, quote_frame("AAA", 5))
        for update in range(5, 6 + count):
            run.frame(2, quote_frame("AAA", update))
        events = run.take("close", conn=1)
        assert [event["state"] for event in events if event["channel"] == GAP] == states
        assert len([event for event in events if event["channel"] == "quote"]) == 3


def test_behind_a_hole_of_the_archive_the_next_checkpoint_is_taken_up() -> None:
    """Without it the book stayed unknown until the next start: no snapshot was asked for that the records hold."""
    run = Run()
    synced(run)
    checkpoint = run.normaliser.checkpoint("AAA")
    later = [
        decode(encode(20, 1, "in", conn=1, payload=orjson.dumps(trade_frame("AAA", 9)))),
        decode(encode(21, 1, "checkpoint", symbol="AAA", payload=checkpoint)),
        decode(encode(22, 1, "in", conn=1, payload=orjson.dumps(delta_frame("AAA", 6, 7, {"1": "1"})))),
    ]
    run.normaliser.hole(10, 19)
    last = [orjson.loads(body(message)) for message in run.normaliser.all_messages(later)][-1]
    assert (last["channel"], last["seq"], last["last_id"]) == ("book", 22, "7")


def test_a_restart_is_a_gap_from_the_last_frame_that_ends_with_what_lies_between() -> None:
    run = Run(owed={"ts": 7, "topics": {"AAA": {"trade": 5, "quote": None, "book": None}}})
    gaps = run.normaliser.symbols["AAA"].channels
    assert {channel for channel, topic in gaps.items() if topic.gap} == {"trade", "quote", "book"}
    assert told(run.trades(1, 5)) == []
    opened, trade = run.trades(1, 8)
    assert (opened["gap"], opened["reason"], opened["ts_from"]) == (1, "restart", 7)
    assert (opened["first_id"], opened["last_id"], trade["id"]) == ("6", "7", "8")
    ended, *late = run.rest(run.actions()[0], 200, rest_trades(6, 7, 8))
    assert [event["id"] for event in late] == ["6", "7"] and (ended["gap"], ended["state"]) == (1, "backfilled")


def test_trade_ids_far_below_the_last_one_are_counted_anew_and_the_seam_is_told() -> None:
    run = Run()
    run.trades(1, 20_000)
    run.take("close", conn=1)
    assert run.trades(2, 15_000, 19_999, 20_000) == []
    run.take("close", conn=2)
    assert told(run.trades(3, 1, 2)) == [("closed", "disconnected"), ("1",), ("2",)]
    assert told(run.trades(3, 1)) == [("open", "ids ran back"), ("closed", "ids ran back"), ("1",)]


@pytest.mark.parametrize("symbol", ["100%d%b", "币安人生USDT", 'A"\\'])
def test_the_event_of_a_frame_read_already_is_that_of_its_record_whatever_its_symbol(symbol: str) -> None:
    frames = [trade_frame(symbol, 1), trade_frame(symbol, 2), quote_frame(symbol, 1), quote_frame(symbol, 2)]
    subscriptions = {"symbols": [symbol], "channels": ["trade", "quote"]}
    lines = [encode(1, 10, "start", payload=orjson.dumps({"subscriptions": subscriptions}))]
    lines += [encode(seq, 20, "in", conn=1, payload=orjson.dumps(frame)) for seq, frame in enumerate(frames, 2)]
    ahead, apart = Normaliser(ADAPTER), Normaliser(ADAPTER)
    messages = ahead.all_messages(map(ahead.work, lines))
    assert messages == apart.all_messages(map(decode, lines))
    assert [orjson.loads(body(message))["symbol"] for message in messages] == [symbol] * 4


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.tuples(st.sampled_from(["trade", "quote"]), st.sampled_from("AB"), st.integers(0, 2)))))
def test_a_frame_of_several_updates_gives_the_same_ahead_and_as_events(
    frames: list[list[tuple[str, str, int]]],
) -> None:
    """Some go on, some repeat (0) or leave one out (2), of one topic or of several, in any order."""
    subscriptions = orjson.dumps({"subscriptions": {"symbols": ["A", "B"], "channels": ["trade", "quote"]}})
    start = decode(encode(1, 10, "start", payload=subscriptions))
    ahead, apart = Normaliser(ADAPTER), Normaliser(ADAPTER)
    assert ahead.messages(start) == [] == list(apart.record(start))
    ids: dict[tuple[str, str], int] = {}
    for seq, frame in enumerate(frames, 2):
        updates = []
        for channel, symbol, step in frame:
            number = ids[channel, symbol] = ids.get((channel, symbol), 0) + step
            time = number if channel == "trade" else None
            updates.append(Update(channel, symbol, number, number, time, {"id": str(number)}))
        expected = [prefix + orjson.dumps(event) for prefix, event in apart.update(seq, seq * 10, 1, updates)]
        assert ahead.messages((seq, seq * 10, 1, updates)) == expected
        assert [ahead.symbols[each].state() for each in "AB"] == [apart.symbols[each].state() for each in "AB"]


def test_a_fault_costs_one_records_events_and_is_counted() -> None:
    run = Run()
    assert run.take("gap", payload=b"[1]") == [] and sum(run.normaliser.errors.values()) == 1
    assert told(run.trades(1, 1)) == [("1",)]


def test_a_trade_that_is_repeated_is_no_event_and_no_gap() -> None:
    run = Run()
    assert told(run.trades(1, 1, 2, 2, 3)) == [("1",), ("2",), ("3",)]


def test_several_holes_in_one_record_are_one_gap_that_ends_with_the_last_of_them() -> None:
    """What another connection had kept is gone over to in one record, whose number is the gap's id."""
    run = Run()
    run.trades(1, 1)
    run.trades(2, 3, 5)
    assert told(run.take("close", conn=1)) == [("open", "sequence"), ("open", "sequence"), ("3",), ("5",)]
    assert told(run.rest(run.actions()[0], 200, rest_trades(2, 3))) == [("2",)]
    assert told(run.rest(run.actions()[0], 200, rest_trades(4, 5))) == [("backfilled", "sequence"), ("4",)]
