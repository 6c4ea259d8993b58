"""What must be true of what is missing: every message of the market is archived once, or lies in a declared gap.

Judged of history's events, of the intervals of `coverage`, and of bars, by what the market sent and when.
"""

from collections.abc import Iterable
from typing import NamedTuple

import orjson

from common.bars import Bars
from common.coverage import Coverage
from common.events import GAP, Event, body
from common.normaliser import Normaliser
from common.observed import Observed
from common.reader import Reader
from common.record import decode
from tests.simulated_processes import ADAPTER
from tests.simulated_subscriptions import CHANNELS, POOL, QUIET_ROUNDS, ChangingWorld, Topic
from tests.simulation import SECOND
from tests.truth import STORAGE

BAR_NS = 2 * SECOND
ALL_TIMES = 0, 1 << 63
SUPERSEDE = "restart", "unsubscribed"
"""Reasons of gaps that take the place of all that are open."""


class Seen(NamedTuple):
    """A topic's events as history gives them: by id, those fetched later apart, and its gaps."""

    events: list[tuple[int, Event]]
    late: set[int]
    gaps: list[Event]


def judge(world: ChangingWorld) -> None:
    assert world.archiver is not None
    reader = Reader(STORAGE.parent, ADAPTER, world.calm_disk())
    complete = world.archiver.writer.position
    coverage = Coverage(reader, ADAPTER)
    for symbol in POOL:
        found = [message for _, messages in reader.messages([symbol], 0, complete) for message in messages]
        events = [orjson.loads(body(message)) for message in found]
        judge_live(world, symbol, found)
        for channel in CHANNELS:
            topic = channel, symbol
            seen = seen_of(events, channel)
            if not seen.events:
                continue
            judge_ids(topic, seen, is_torn=world.faults.damage or bool(world.truth.holes()))
            judge_gaps(world, topic, seen)
            judge_coverage(topic, seen, coverage.intervals([symbol], [channel], ALL_TIMES, complete))
            judge_told(topic, seen, coverage.gaps([symbol], [channel], ALL_TIMES, complete))
            judge_bars(world, topic, events, seen)


def seen_of(events: Iterable[Event], channel: str) -> Seen:
    data = [(_id(event), event) for event in events if event["channel"] == channel]
    gaps = [event for event in events if event["channel"] == GAP and channel in event["channels"]]
    late = {id_ for id_, event in data if event.get("late")}
    return Seen([(id_, event) for id_, event in data if not event.get("late")], late, gaps)


def _id(event: Event) -> int:
    return int(event["bid_price"] if event["channel"] == "quote" else event["id"])


def judge_live(world: ChangingWorld, symbol: str, found: list[bytes]) -> None:
    """History's events of a symbol are those of all records, and those that were live."""
    truth = world.truth
    if truth.rotten or truth.holes():
        return
    mark = f"/{symbol} ".encode()
    normaliser = Normaliser(ADAPTER)
    whole = [each for _, line in sorted(truth.contents().items()) for each in normaliser.messages(decode(line))]
    whole = [message for message in whole if message[: message.index(b" ") + 1].endswith(mark)]
    assert found == whole, f"{symbol}: history differs from the records at {_difference(found, whole)}"


def _difference(one: list[bytes], other: list[bytes]) -> str:
    pairs = zip(one, other, strict=False)
    return next((f"{a!r} and {b!r}" for a, b in pairs if a != b), f"{len(one)} and {len(other)} events")


def judge_ids(topic: Topic, seen: Seen, *, is_torn: bool) -> None:
    """Each message gives one event.

    Where records are lost, one that the archive has may be fetched again: the feed does not wait for the archiver's
    next start, which finds it in a file that is being written; and what came after a symbol was removed gives an event
    where the record of the removal is lost.
    """
    ids = [id_ for id_, _ in seen.events]
    assert len(set(ids)) == len(ids), f"{topic}: told twice: {sorted(each for each in ids if ids.count(each) > 1)}"
    again = seen.late.intersection(ids)
    assert is_torn or not again, f"{topic}: fetched although it was there: {again}"


def judge_gaps(world: ChangingWorld, topic: Topic, seen: Seen) -> None:
    """Every message that is missing between two events lies in a gap, by its time too."""
    gaps, times = iter(seen.gaps), lost_at(world, topic)
    waiting, last, since = next(gaps, None), seen.events[0][0], 0
    open_gaps: dict[int, Event] = {}
    for id_, event in [*seen.events, (world.ids[topic] + 1, None)]:
        ended: list[Event] = []
        while waiting is not None and (event is None or waiting["seq"] <= event["seq"]):
            if waiting["state"] != "open" or waiting["reason"] in SUPERSEDE:
                gone = list(open_gaps) if waiting["state"] == "open" else [waiting["gap"]]
                ended += [{**open_gaps.pop(each), "ts_to": waiting["ts_recv"]} for each in gone if each in open_gaps]
            if waiting["state"] == "open":
                open_gaps[waiting["gap"]] = waiting
            else:
                ended.append(waiting)
            waiting = next(gaps, None)
        told = [*ended, *open_gaps.values()]
        missing = [each for each in range(last + 1, id_) if each in times]
        where = f"{topic}: {missing} between {last} and {id_}, record {event and event['seq']}"
        assert not missing or told, f"{where}: no gap"
        for each in missing if not world.faults.clock else ():
            assert any(_covers(gap, times[each], since) for gap in told), (
                f"{where}: {each} at {times[each]} not in {told}"
            )
        since = event["ts_recv"] if event is not None else since
        last = id_


def lost_at(world: ChangingWorld, topic: Topic) -> dict[int, int]:
    """When each message was taken or lost: what is lost at once shows after what was on its way before it."""
    latest, found = 0, {}
    for id_, ts in sorted(world.times[topic].items()):
        found[id_] = latest = max(latest, ts)
    return found


def _covers(gap: Event, ts: int, since: int) -> bool:
    """Whether a time lies in a gap. One that does not know its beginning begins with the last event, of `since`."""
    first = since if gap["ts_from"] is None else gap["ts_from"]
    return bool(first <= ts <= (1 << 63 if gap["ts_to"] is None else gap["ts_to"]))


def judge_coverage(topic: Topic, seen: Seen, intervals: list[dict[str, int]]) -> None:
    """No interval contains a message that is missing; all intervals together hold every event."""
    for interval in intervals:
        first, last = interval["first_seq"], interval["last_seq"]
        ids = [id_ for id_, event in seen.events if first <= event["seq"] <= last]
        missing = set(range(ids[0], ids[-1] + 1)) - set(ids) - seen.late if ids else None
        assert not missing, f"{topic}: coverage has {missing} in {interval}"
    count, told = len(seen.events) + len(seen.late), sum(interval["events"] for interval in intervals)
    assert count == told, f"{topic}: coverage counts {told} events of {count}"


def judge_told(topic: Topic, seen: Seen, gaps: list[Event]) -> None:
    """The answer about gaps is the gaps of history."""
    told, expected = ([(gap["seq"], gap.get("part", 0), gap["gap"]) for gap in some] for some in (gaps, seen.gaps))
    assert told == expected, f"{topic}: {len(gaps)} gap events told of {len(seen.gaps)}"


def judge_bars(world: ChangingWorld, topic: Topic, events: list[Event], seen: Seen) -> None:
    """A bar that is whole has every message of its time. At the end, some bars are."""
    channel, symbol = topic
    if channel == "quote" or world.faults.clock:
        return
    had = {id_ for id_, _ in seen.events}
    missing = [ts for id_, ts in lost_at(world, topic).items() if id_ not in had]
    observed = Observed(channel, keep_all=True)
    machine = Bars(BAR_NS, channel=channel, observed=observed)
    found = [bar for event in events if event["channel"] in (channel, GAP) for bar in machine.take(event)]
    found += machine.end()
    observed.settle()  # as `series.bars_of` does
    found = [bar._replace(whole=observed.whole((bar.exchange, symbol), bar.ts, bar.ts + BAR_NS)) for bar in found]
    for bar in found:
        lost = [ts for ts in missing if bar.ts <= ts < bar.ts + BAR_NS]
        assert not (bar.whole and lost), f"{topic}: the bar at {bar.ts} is whole, but {lost} is missing"
    feed = world.feed
    assert feed is not None
    if world.faults.damage:
        return  # where the record is damaged that tells what is recorded, a gap of more than that is open for ever
    if channel in feed.subscriptions.channels and symbol in feed.subscriptions.symbols:
        at_end = [bar.whole for bar in found[-QUIET_ROUNDS // 2 : -1]]
        assert at_end and at_end[-1], f"{topic}: no bar at the end is whole: {seen.gaps[-4:]}"
