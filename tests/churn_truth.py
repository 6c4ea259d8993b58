"""What must be true after real symbols and channels came and went, by the account of the exchange."""

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import orjson

from common import exchanges
from common.adapter import Adapter
from common.bars import Bars
from common.coverage import Coverage
from common.events import GAP, Event, Update, body
from common.observed import Observed
from common.reader import Reader
from common.record import Record

ADAPTER = cast(Adapter, exchanges.get("binance"))
SECOND = 1_000_000_000
SLACK_NS = SECOND
"""How far the exchange's time of sending and ours of receiving may lie apart."""
NEAR_NS = SECOND // 4
ALL_TIMES = 0, 1 << 63
JUDGED = ("trade", "agg_trade", "quote", "book", "ticker")

Topic = tuple[str, str]


class Lost(NamedTuple):
    """A message without an event: when it was sent (ns; None: never), and the events before and after it."""

    id: int
    ts: int | None
    before: Event
    after: Event | None


def judge(storage: Path, records: list[Record], sent: Path, pool: tuple[str, ...], subscribed: tuple[str, ...]) -> str:
    times = told_by(sent, records)
    ids_of = {record.seq: update for record in records if (update := _update(record)) is not None}
    reader = Reader(storage, ADAPTER)
    with reader.at_once():
        complete = reader.complete()
        coverage = Coverage(reader, ADAPTER)
        count = whole = 0
        for symbol in pool:
            found = [message for _, messages in reader.messages([symbol], 0, complete) for message in messages]
            events = [orjson.loads(body(message)) for message in found]
            for channel in JUDGED:
                topic = channel, symbol
                data = [event for event in events if event["channel"] == channel]
                gaps = [event for event in events if event["channel"] == GAP and channel in event["channels"]]
                if not data:
                    continue
                lost = lost_of(topic, data, times[topic], ids_of)
                judge_gaps(topic, lost, gaps)
                intervals = coverage.intervals([symbol], [channel], ALL_TIMES, complete)
                judge_coverage(topic, data, lost, intervals)
                told = coverage.gaps([symbol], [channel], ALL_TIMES, complete)
                assert numbers_of(told) == numbers_of(gaps), f"{topic}: other gaps are told"
                whole += judge_bars(topic, data, gaps, lost, is_subscribed=symbol in subscribed)
                count += len(lost)
    return f"{sum(map(len, times.values()))} messages sent, {count} without a live event, {whole} whole bars"


def numbers_of(gaps: list[Event]) -> list[tuple[int, int, int]]:
    """Which gap events there are. What they say of their state may be judged by those that follow."""
    return [(gap["seq"], gap.get("part", 0), gap["gap"]) for gap in gaps]


def told_by(sent: Path, records: list[Record]) -> defaultdict[Topic, dict[int, int]]:
    """When each message was sent, by topic and id. What is archived of a connection begins what was sent on it."""
    connections: dict[int, list[tuple[int, bytes]]] = {}
    with sent.open("rb") as told:
        for line in told:
            frame = json.loads(line)
            connections.setdefault(frame["conn"], []).append((frame["ts"], frame["payload"].encode()))
    parts: dict[tuple[int, int], list[bytes]] = {}
    run = 0
    for record in records:
        run = record.seq if record.kind == "start" else run
        if record.kind == "in" and record.head.get("op") in (None, "binary") and record.conn is not None:
            parts.setdefault((run, record.conn), []).append(record.payload or b"")
    left = {conn: [payload for _, payload in frames] for conn, frames in connections.items()}
    for key, archived in sorted(parts.items(), key=lambda part: -len(part[1])):  # those begun at once come in any order
        conn = next((conn for conn, frames in left.items() if frames[: len(archived)] == archived), None)
        assert conn is not None, f"connection {key}: what is archived is not what was sent"
        del left[conn]
    times: defaultdict[Topic, dict[int, int]] = defaultdict(dict)
    for frames in connections.values():
        for ts, payload in frames:
            update = ADAPTER.parse(orjson.loads(payload))
            if isinstance(update, Update):
                times[update.channel, update.symbol][update.last] = ts
    return times


def _update(record: Record) -> Update | None:
    if record.kind != "in" or not record.payload or record.channel is None:
        return None
    update = ADAPTER.parse(orjson.loads(record.payload))
    return update if isinstance(update, Update) else None


def lost_of(topic: Topic, data: list[Event], times: Mapping[int, int], ids_of: Mapping[int, Update]) -> list[Lost]:
    """The messages from the first event on that gave none: never sent, lost on the way, or not asked for."""
    channel = topic[0]
    live = [event for event in data if not event.get("late") and event["seq"] in ids_of]
    ids = [ids_of[event["seq"]].last for event in live]
    if channel != "ticker":
        assert ids == sorted(set(ids)), f"{topic}: told twice, or out of order"
    if channel == "book":  # what is held back until a snapshot comes is there, and gives no event
        filed = {update.last for update in ids_of.values() if update[:2] == topic}
        return [
            Lost(each, ts, live[place - 1], live[place] if place < len(live) else None)
            for each, ts in sorted(times.items())
            if each not in filed and (place := bisect_right(ids, each)) > 0
        ]
    had, first = set(ids), ids[0]
    if channel in ADAPTER.DENSE:  # what a closing connection alone has brought is told with its close
        had |= {int(event["id"]) for event in data if not event.get("late")}
    expected = set(times) | (set(range(first, ids[-1] + 1)) if channel in ADAPTER.DENSE else set())
    return [
        Lost(each, times.get(each), live[place - 1], live[place] if place < len(live) else None)
        for each in sorted(expected - had)
        if (place := bisect_right(ids, each)) > 0
    ]


def judge_gaps(topic: Topic, lost: list[Lost], gaps: list[Event]) -> None:
    """Each lies in a gap that is told between the events around it, or was open then."""
    open_from: dict[int, int] = {}
    spans: list[tuple[int, int, Event]] = []  # the records from which to which a gap counts
    for gap in gaps:
        if gap["state"] == "open":
            open_from.setdefault(gap["gap"], gap["seq"])
        else:
            spans.append((open_from.pop(gap["gap"], gap["seq"]), gap["seq"], gap))
    spans += [(first, 1 << 63, gap) for gap in gaps if (first := open_from.get(gap["gap"])) is not None]
    for each in lost:
        after = 1 << 63 if each.after is None else each.after["seq"]
        told = [gap for first, last, gap in spans if first <= after and last >= each.before["seq"]]
        where = f"{topic}: {each.id} sent {each.ts} between records {each.before['seq']} and {after}"
        assert told, f"{where}: no gap"
        in_time = each.ts is None or any(_covers(gap, each.ts) for gap in told)
        assert in_time, f"{where}: none of {told} holds its time"


def _covers(gap: Event, ts: int) -> bool:
    last = (1 << 63) - 1 - SLACK_NS if gap["state"] == "open" or gap["ts_to"] is None else gap["ts_to"]
    return gap["ts_from"] is not None and gap["ts_from"] - SLACK_NS <= ts <= last + SLACK_NS


def judge_coverage(topic: Topic, data: list[Event], lost: list[Lost], intervals: list[dict[str, int]]) -> None:
    late = {int(event["id"]) for event in data if event.get("late")}
    for each in lost:
        if each.id in late or each.after is None:
            continue
        around = each.before["seq"], each.after["seq"]
        holds = [one for one in intervals if one["first_seq"] <= around[0] and around[1] <= one["last_seq"]]
        assert not holds, f"{topic}: coverage has {each.id}, missing between {around}, in {holds[0]}"
    told = sum(interval["events"] for interval in intervals)
    assert told == len(data), f"{topic}: coverage counts {told} events of {len(data)}"


def judge_bars(topic: Topic, data: list[Event], gaps: list[Event], lost: list[Lost], *, is_subscribed: bool) -> int:
    """No whole bar holds both events around what is missing; the topic's last full bars are whole."""
    channel, symbol = topic
    if channel not in ("trade", "agg_trade"):
        return 0
    observed = Observed(channel, keep_all=True)
    machine = Bars(SECOND, channel=channel, observed=observed)
    found = [bar for event in sorted([*data, *gaps], key=_order) for bar in machine.take(event)] + list(machine.end())
    observed.settle()  # as `series.bars_of` does
    whole = {bar.ts for bar in found if observed.whole(("binance", symbol), bar.ts, bar.ts + SECOND)}
    for each in lost:
        if each.after is None:
            continue
        begin = each.before["ts_recv"] - each.before["ts_recv"] % SECOND
        same = each.after["ts_recv"] < begin + SECOND
        assert not (same and begin in whole), f"{topic}: the bar {begin} is whole without {each.id}"
        for bar in whole if each.ts is not None else ():
            between = each.before["ts_recv"] < bar and bar + SECOND < each.after["ts_recv"]
            is_in = between and bar + NEAR_NS < each.ts < bar + SECOND - NEAR_NS
            assert not is_in, f"{topic}: the bar {bar} is whole without {each.id}, sent in it"
    closed = max((gap["ts_recv"] for gap in gaps if gap["seq"] <= data[-1]["seq"]), default=0)
    at_end = [event["ts_recv"] for event in data if event["ts_recv"] > closed]
    if is_subscribed and at_end and at_end[-1] - at_end[0] > 2 * SECOND:
        assert any(ts >= at_end[0] for ts in whole), f"{topic}: no bar at the end is whole: {gaps[-3:]}"
    return len(whole)


def _order(event: Event) -> tuple[int, bool]:
    return event["seq"], event["channel"] != GAP
