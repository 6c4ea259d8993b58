"""What must be true of what a follower was given: the oracle of the simulation's second half."""

from collections import defaultdict
from itertools import pairwise

import orjson

from common.events import Event
from common.follow import LACKED, LOST, SKIPPED
from common.normaliser import Normaliser
from common.record import decode
from tests.simulated_follow import FollowWorld, SimFollower
from tests.simulated_processes import ADAPTER

Place = tuple[str, str]
Key = tuple[int, int]


def place_of(event: Event) -> Place:
    return event["channel"], event["symbol"]


def key_of(event: Event) -> Key:
    return event["seq"], event.get("part", 0)


def order_of(event: Event) -> tuple[int, str, int]:
    """Across topics: the events of one number by topic. A follower's own gaps are before them."""
    own = is_own(event)
    return event["seq"], "" if own else f"binance/{event['channel']}/{event['symbol']} ", event.get("part", 0)


def is_own(event: Event) -> bool:
    return event["channel"] == "gap" and event["reason"] in (LACKED, LOST, SKIPPED)


def archived(world: FollowWorld, follower: SimFollower) -> list[Event]:
    """What everybody is given who begins at this follower's start, and never saw anything else: all is normalised."""
    normaliser = Normaliser(ADAPTER)
    found: list[Event] = []
    for seq, line in sorted(world.truth.contents().items()):
        messages = normaliser.messages(decode(line))
        if seq >= (follower.start or 0):
            events = [orjson.loads(message.partition(b" ")[2]) for message in messages]
            found += [event for event in events if event["symbol"] in follower.follower.symbols]
    return found


def judge(world: FollowWorld, follower: SimFollower) -> None:
    if follower.start is None:
        assert not follower.events
        return
    given = follower.events
    by_topic: dict[Place, list[Event]] = defaultdict(list)
    for event in given:
        if not is_own(event):
            by_topic[place_of(event)].append(event)
    for place, events in by_topic.items():
        for before, event in pairwise(events):
            assert key_of(before) < key_of(event), f"{place}: {key_of(event)} after {key_of(before)}"
    if world.truth.rotten or world.truth.holes():
        return  # what was seen live may be in no archive, and no power loss tells so
    goes_on = follower.options.get("on_gap") == "continue"
    judge_events(given, archived(world, follower), by_topic, goes_on=goes_on)
    if follower.follower.strict or not (follower.dropped or goes_on):
        for before, event in pairwise(given):
            begins = before["seq"] == follower.start  # live, it may have begun between two messages of a record
            later = order_of(before) < order_of(event) or is_own(before) or begins
            assert later, f"{order_of(event)} was given after {order_of(before)}"


def judge_events(
    given: list[Event], expected: list[Event], by_topic: dict[Place, list[Event]], *, goes_on: bool
) -> None:
    """Every topic's events are those of the archive, but for what is withdrawn, and for open gaps."""
    truth: dict[Place, dict[Key, Event]] = defaultdict(dict)
    for event in expected:
        truth[place_of(event)][key_of(event)] = event
    if not goes_on:
        judge_lost(given, truth)
    skipped = [event for event in given if is_own(event) and event["state"] == "open"]
    for place, events in truth.items():
        had = {key_of(event) for event in by_topic.get(place, ())}
        for event in by_topic.get(place, ()):
            same = events.get(key_of(event))
            assert same is None or same == event, f"given {event}, the archive has {same}"
        for missing in events.keys() - had:
            named = any(
                gap["first_seq"] <= missing[0] <= gap["last_seq"]
                for gap in skipped
                if gap["symbol"] == place[1] and place[0] in gap["channels"]
            )
            assert named, f"{place}: {missing} was never given"


def judge_lost(given: list[Event], truth: dict[Place, dict[Key, Event]]) -> None:
    """What is in no archive was withdrawn before anything newer came; nothing else was withdrawn."""
    lost: dict[str, list[Event]] = defaultdict(list)  # by symbol: given, in no archive, not withdrawn yet
    withdrawn: set[str] = set()
    for event in given:
        symbol = event["symbol"]
        if is_own(event) and event["state"] == "withdrawn":
            taken = [one for one in lost[symbol] if event["first_seq"] <= one["seq"] <= event["last_seq"]]
            again = symbol in withdrawn  # what was given before the last loss is not known any more
            assert taken or again, f"withdrawn without need: {event}"
            assert {one["channel"] for one in taken} <= set(event["channels"])
            withdrawn.add(symbol)
            lost[symbol] = [one for one in lost[symbol] if one not in taken]
        elif not is_own(event):
            is_lost = key_of(event) not in truth[place_of(event)]
            if not is_lost:
                newer = [one for one in lost[symbol] if one["seq"] < event["seq"]]
                assert not newer, f"{event} was given before {newer} was withdrawn"
            else:
                lost[symbol].append(event)
    left = [one for ones in lost.values() for one in ones]
    assert not left, f"given, in no archive, and never withdrawn: {left}"
