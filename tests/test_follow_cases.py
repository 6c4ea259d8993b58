"""One case by hand for each failure that rules 11 to 17 of the protocol name."""

from typing import Any

import orjson

from common.events import GAP, Event
from common.follow import LAG_S, POLL_S, TIMEOUT_S, Follower
from tests.simulated_cases import calm, feed_of

START = 5


def event(channel: str, seq: int, prev: int, part: int | None = None, of: int = 1, symbol: str = "AAA") -> Event:
    parts = {} if part is None else {"part": part, "of": of}
    return {"exchange": "x", "channel": channel, "symbol": symbol, "seq": seq, "prev": prev, "ts_recv": seq, **parts}


def name(content: Event) -> tuple[Any, ...]:
    """What the cases compare: channel, number and part; of a gap its state and range."""
    if "state" in content:
        return content["state"], content["symbol"], content["first_seq"], content["last_seq"]
    return content["channel"], content["seq"], *([content["part"]] if "part" in content else [])


class Talk:
    """A follower of `trade` and `quote` of a symbol, what it was told and what it gave."""

    def __init__(self, start: int | None = START, symbols: tuple[str, ...] = ("AAA",), **options: Any) -> None:
        self.follower = Follower("x", symbols, ("trade", "quote"), start, **options)
        self.given: list[tuple[Any, ...]] = []
        self.now = 100.0

    def _give(self, events: Any) -> None:
        self.given += map(name, events)

    def live(self, *events: Event) -> None:
        for content in events:
            topic = f"x/{content['channel']}/{content['symbol']} ".encode()
            self._give(self.follower.take(topic + orjson.dumps(content), self.now))

    def beat(self, at: int, symbol: str = "AAA", **lasts: int) -> None:
        topics = {channel: [lasts.get(channel, 1), 0] for channel in ("trade", "quote", GAP)}
        body = orjson.dumps({"symbol": symbol, "at": at, "topics": topics})
        self._give(self.follower.take(f"x/heartbeat/{symbol} ".encode() + body, self.now))

    def beat_of_all(self, at: int) -> None:
        self._give(self.follower.take(b"x/heartbeat " + orjson.dumps({"at": at, "run": 1}), self.now))

    def asked(self, wait_s: float = POLL_S) -> dict[str, Any]:
        self.now += wait_s
        request = self.follower.request(self.now)
        assert request is not None, "nothing is asked"
        return request

    def page(self, request: dict[str, Any], covered: int, *events: Event, **header: Any) -> None:
        whole = {"id": request["id"], "covered": covered, "complete_to": covered, "next": None, **header}
        self._give(self.follower.answer(whole, events, self.now))

    def heal(self, after: int, to: int, *events: Event, **header: Any) -> None:
        request = self.asked()
        assert (request["after"], request["to"]) == (after, to)
        self.page(request, to, *events, **header)

    def join(self, at: int = 10) -> "Talk":
        self.beat(at)
        self.heal(START - 1, at)
        assert not self.follower.waiting
        return self


# -- rule 11 -----------------------------------------------------------------------------------------------------------


def test_rule_11_when_the_last_part_of_three_is_lost_then_the_next_event_shows_it() -> None:
    talk = Talk().join()
    talk.live(event("trade", 11, 1, 0, 3), event("trade", 11, 1, 1, 3), event("trade", 12, 11))
    assert talk.given == [("trade", 11, 0), ("trade", 11, 1)]
    parts = [event("trade", 11, 1, part, 3) for part in range(3)]
    talk.heal(10, 12, *parts, event("trade", 12, 11))
    assert talk.given == [("trade", 11, 0), ("trade", 11, 1), ("trade", 11, 2), ("trade", 12)]


def test_rule_11_when_prev_is_smaller_than_what_is_known_then_nothing_is_missing() -> None:
    talk = Talk().join(at=15)
    talk.live(event("trade", 20, 11))
    assert talk.given == [("trade", 20)]
    assert talk.follower.request(talk.now + 1) is None


def test_rule_11_when_an_event_comes_again_then_it_is_dropped() -> None:
    talk = Talk().join()
    parts = [event("trade", 11, 1, part, 3) for part in range(3)]
    talk.live(parts[0], parts[0], parts[1], parts[0], parts[2], parts[2], parts[1], event("trade", 9, 1))
    assert talk.given == [("trade", 11, 0), ("trade", 11, 1), ("trade", 11, 2)]


def test_rule_11_when_the_first_part_is_lost_then_the_second_shows_it() -> None:
    talk = Talk().join()
    talk.live(event("trade", 11, 1, 1, 2))
    talk.heal(10, 11, event("trade", 11, 1, 0, 2), event("trade", 11, 1, 1, 2))
    assert talk.given == [("trade", 11, 0), ("trade", 11, 1)]


# -- rule 12 -----------------------------------------------------------------------------------------------------------


def test_rule_12_when_a_topic_never_has_an_event_then_the_join_does_not_wait_for_it() -> None:
    talk = Talk(strict=True)
    talk.live(event("trade", 8, 1))
    talk.heal(4, 8, event("trade", 8, 1))
    talk.live(event("trade", 9, 8))
    assert talk.given == [("trade", 8)]
    talk.beat(12, trade=9)
    assert talk.given == [("trade", 8), ("trade", 9)]
    assert talk.follower.known == 12


def test_rule_12_when_nothing_came_yet_then_the_feed_s_heartbeat_holds_every_topic_with_the_start_s_number() -> None:
    feed = feed_of(calm())
    message = feed.recorder.heartbeat("AAA", feed.run_seq)
    assert message is not None
    beat = orjson.loads(message.partition(b" ")[2])
    assert {channel: last[0] for channel, last in beat["topics"].items()} == dict.fromkeys(
        ("trade", "quote", "gap"), feed.run_seq
    )
    assert beat["at"] == feed.recorder.published >= feed.run_seq


def test_rule_12_when_the_feed_does_not_feed_a_channel_then_it_counts_from_the_run_s_start_on() -> None:
    follower = Follower("x", ["AAA"], ["trade", "candle"], None, strict=True)
    beats = [{"at": at, "topics": {"trade": [last, 0], "gap": [2, 0]}} for at, last in ((10, 2), (12, 11))]
    follower.take(b"x/heartbeat/AAA " + orjson.dumps(beats[0]), 1.0)
    assert not follower.take(b"x/trade/AAA " + orjson.dumps(event("trade", 11, 2)), 1.0)
    assert [name(found) for found in follower.take(b"x/heartbeat/AAA " + orjson.dumps(beats[1]), 1.0)] == [
        ("trade", 11)
    ]


def test_rule_12_when_the_last_message_before_a_silence_is_lost_then_the_heartbeat_shows_it() -> None:
    talk = Talk().join()
    talk.beat(14, trade=13)
    talk.heal(10, 14, event("trade", 13, 1))
    assert talk.given == [("trade", 13)]
    assert not talk.follower.waiting


def test_rule_12_when_no_heartbeat_of_a_symbol_comes_then_history_is_asked_now_and_then() -> None:
    talk = Talk(None, ("AAA", "ZZZ"), strict=True)
    talk.beat_of_all(10)
    for at in (12, 14):
        talk.beat(at)
        talk.beat_of_all(at)
        assert talk.follower.request(talk.now) is None
        talk.now += 0.6 * LAG_S
    talk.beat(16)
    talk.beat_of_all(16)
    talk.heal(10, 16)
    assert talk.follower.known == 16


# -- rule 13 -----------------------------------------------------------------------------------------------------------


def test_rule_13_when_the_first_message_shows_no_hole_then_it_is_one_all_the_same() -> None:
    talk = Talk()
    talk.live(event("trade", 8, 1))
    assert not talk.given
    talk.heal(4, 8, event("quote", 6, 1), event("trade", 8, 1))
    assert talk.given == [("quote", 6), ("trade", 8)]


def test_rule_13_when_the_record_gave_an_event_on_another_topic_just_before_then_it_is_asked_for_too() -> None:
    talk = Talk()
    talk.live(event("trade", 8, 1))
    talk.heal(4, 8, event("quote", 8, 1), event("trade", 8, 1))
    assert talk.given == [("quote", 8), ("trade", 8)]


def test_rule_13_when_more_comes_than_is_held_then_history_is_asked_for_that_too() -> None:
    talk = Talk(hold_bytes=600).join()
    talk.live(event("trade", 12, 11), *(event("trade", seq, seq - 1) for seq in range(13, 20)))
    request = talk.asked()
    talk.live(event("trade", 20, 19))
    talk.page(request, 12, event("trade", 11, 1), event("trade", 12, 11), complete_to=30)
    request = talk.asked()
    assert request["after"] == 12
    talk.page(request, request["to"], *(event("trade", seq, seq - 1) for seq in range(13, request["to"] + 1)))
    assert talk.given == [("trade", seq) for seq in range(11, 21)]


def test_rule_13_when_nothing_comes_live_then_history_is_given_as_far_as_it_is() -> None:
    talk = Talk()
    talk.page(talk.asked(), 9, event("trade", 7, 1))
    assert talk.given == [("trade", 7)]
    talk.live(event("trade", 12, 7))
    talk.heal(9, 12, event("quote", 11, 1), event("trade", 12, 7))
    assert talk.given == [("trade", 7), ("quote", 11), ("trade", 12)]


def test_rule_13_when_more_holes_were_held_meanwhile_then_one_request_fills_them_all() -> None:
    """One round trip for each: who lost events faster than that never came back to live."""
    talk = Talk().join()
    trades = {seq: event("trade", seq, seq - 1) for seq in range(11, 21)}
    talk.live(*(trades[seq] for seq in range(12, 21, 2)))
    talk.heal(10, 12, trades[11], trades[12])
    talk.heal(12, 20, *(trades[seq] for seq in range(13, 21)))
    assert talk.given == [("trade", seq) for seq in trades]
    assert not talk.follower.waiting


# -- rule 14 -----------------------------------------------------------------------------------------------------------


def test_rule_14_when_the_target_rose_meanwhile_then_a_reply_covers_what_was_asked_and_no_more() -> None:
    talk = Talk(hold_bytes=50).join()
    talk.live(event("trade", 12, 11))
    talk.live(event("trade", 19, 18))
    request = talk.asked()
    talk.live(event("trade", 30, 19))
    talk.page(request, 19, event("trade", 11, 1), event("trade", 12, 11), event("trade", 19, 12), complete_to=40)
    talk.heal(19, 30, event("trade", 25, 19), event("trade", 30, 25))
    assert talk.given == [("trade", seq) for seq in (11, 12, 19, 25, 30)]


def test_rule_14_when_a_page_says_that_it_covers_more_than_was_asked_then_only_that_counts() -> None:
    talk = Talk().join()
    talk.live(event("trade", 12, 11))
    talk.page(talk.asked(), 20, event("trade", 11, 1), event("trade", 12, 11), event("trade", 15, 12))
    talk.live(event("quote", 14, 1), event("trade", 15, 12))
    assert talk.given == [("trade", 11), ("trade", 12), ("quote", 14), ("trade", 15)]


def test_rule_14_when_a_reply_is_doubled_late_or_another_s_then_it_is_dropped() -> None:
    talk = Talk().join()
    talk.live(event("trade", 12, 11))
    request = talk.asked()
    talk.page({"id": "another's"}, 12, event("trade", 12, 11))
    assert not talk.given
    talk.page(request, 11, event("trade", 11, 1))
    following = talk.asked()
    talk.page(request, 12, event("trade", 11, 1))
    assert talk.follower.waiting
    talk.page(following, 12, event("trade", 12, 11))
    talk.page(following, 12, event("trade", 12, 11))
    assert talk.given == [("trade", 11), ("trade", 12)]


def test_rule_14_when_a_reply_is_lost_then_the_request_is_sent_again_under_its_id() -> None:
    talk = Talk().join()
    talk.live(event("trade", 12, 11))
    first = talk.asked()
    assert talk.follower.request(talk.now + TIMEOUT_S - 0.1) is None
    assert talk.asked(TIMEOUT_S) == first
    assert talk.follower.request(talk.now + TIMEOUT_S) is None, "it waits longer each time"
    talk.page(first, 12, event("trade", 11, 1), event("trade", 12, 11))
    assert talk.given == [("trade", 11), ("trade", 12)]


def test_rule_14_when_complete_to_goes_back_then_it_is_asked_again_until_the_target() -> None:
    talk = Talk().join()
    talk.live(event("trade", 14, 13))
    talk.page(talk.asked(), 12, event("trade", 11, 1))
    talk.page(talk.asked(), 3, complete_to=3)
    assert talk.follower.waiting
    talk.heal(12, 14, event("trade", 13, 11), event("trade", 14, 13))
    assert talk.given == [("trade", 11), ("trade", 13), ("trade", 14)]


def test_rule_14_when_held_events_are_in_the_answer_then_history_wins() -> None:
    talk = Talk().join()
    talk.live(event("trade", 12, 11), event("quote", 13, 1), event("trade", 14, 12))
    talk.heal(10, 12, event("trade", 11, 1), event("trade", 12, 11))
    assert talk.given == [("trade", 11), ("trade", 12), ("quote", 13), ("trade", 14)]


def test_rule_14_when_there_is_a_next_page_then_it_is_asked_for_by_its_token() -> None:
    talk = Talk().join()
    talk.live(event("trade", 14, 13))
    request = talk.asked()
    talk.page(request, 11, event("trade", 11, 1), next="token", complete_to=20)
    following = talk.asked(0.0)
    assert following == {**request, "next": "token", "id": following["id"]}
    assert following["id"] != request["id"]
    talk.page(following, 11, error={"code": "changed", "message": "ask anew"})
    talk.now += 1.0
    talk.heal(11, 14, event("trade", 13, 11), event("trade", 14, 13))
    assert talk.given == [("trade", 11), ("trade", 13), ("trade", 14)]


# -- rule 15 -----------------------------------------------------------------------------------------------------------


def silently_dropped(talk: Talk) -> list[tuple[Any, ...]]:
    """`quote` 12 is dropped at the high-water mark, and shown only by the quote after it."""
    talk.live(event("trade", 11, 1), event("trade", 13, 11), event("quote", 14, 12))
    talk.heal(10, 14, event("quote", 12, 1), event("trade", 13, 11), event("quote", 14, 12))
    talk.beat(15, trade=13, quote=14)
    return talk.given


def test_rule_15_when_an_event_is_dropped_silently_then_the_order_across_topics_is_exact_where_it_is_strict() -> None:
    exact = [("trade", 11), ("quote", 12), ("trade", 13), ("quote", 14)]
    assert silently_dropped(Talk(strict=True).join()) == exact
    late = silently_dropped(Talk().join())
    assert sorted(late, key=lambda found: found[1]) == exact
    assert [found for found in late if found[0] == "trade"] == [("trade", 11), ("trade", 13)]


# -- rule 16 -----------------------------------------------------------------------------------------------------------


def lost_with_the_machine(talk: Talk) -> list[tuple[Any, ...]]:
    """11 and 12 were seen live; then the power went, and the run that starts at 100 knows of 11 only."""
    talk.live(event("trade", 11, 1), event("trade", 12, 11), event("quote", 101, 100))
    starts = [{"seq": 100, "last": 11, "ts_recv": 7}]
    talk.page(talk.asked(), 101, event("gap", 100, 100), event("quote", 101, 100), starts=starts)
    talk.beat(101, trade=100, quote=101, gap=100)
    return talk.given


def test_rule_16_when_what_was_given_is_lost_with_the_machine_then_it_is_withdrawn_before_anything_newer() -> None:
    given = lost_with_the_machine(Talk().join())
    withdrawn = ("withdrawn", "AAA", 12, 99)
    assert given == [("trade", 11), ("trade", 12), withdrawn, ("gap", 100), ("quote", 101)]


def test_rule_16_when_the_power_goes_twice_then_only_what_was_given_since_is_withdrawn_again() -> None:
    talk = Talk().join()
    lost_with_the_machine(talk)
    talk.live(event("quote", 201, 200))
    request = talk.asked()
    starts = [{"seq": 200, "last": 11, "ts_recv": 8}]
    head = {"id": request["id"], "covered": 201, "complete_to": 201, "starts": starts}
    withdrawn, newer = talk.follower.answer(head, [event("quote", 201, 200)], talk.now)
    assert (name(withdrawn), withdrawn["channels"]) == (("withdrawn", "AAA", 12, 199), ["quote", "gap"])
    assert name(newer) == ("quote", 201)


def test_rule_16_when_it_was_not_given_out_yet_then_it_never_is() -> None:
    talk = Talk(strict=True).join()
    talk.live(event("trade", 11, 1))
    talk.beat(11, trade=11)
    assert lost_with_the_machine(talk) == [("trade", 11), ("gap", 100), ("quote", 101)]


def test_rule_16_when_nothing_of_a_symbol_is_lost_then_nothing_is_withdrawn() -> None:
    talk = Talk(symbols=("AAA", "BBB")).join()
    assert ("withdrawn", "AAA", 12, 99) in lost_with_the_machine(talk)
    assert not [found for found in talk.given if found[:2] == ("withdrawn", "BBB")]


# -- rule 17 -----------------------------------------------------------------------------------------------------------


def test_rule_17_when_history_does_not_answer_then_it_waits_and_says_so() -> None:
    talk = Talk().join()
    talk.live(event("trade", 12, 11))
    for _ in range(100):
        talk.now += 10.0
        talk.follower.request(talk.now)
        talk._give(talk.follower.tick(talk.now))
    assert not talk.given
    assert talk.follower.waiting.startswith("waiting for history of x from 11 up to 12")


def test_rule_17_when_it_is_to_go_on_then_it_does_after_the_deadline_with_an_open_gap() -> None:
    talk = Talk(on_gap="continue", deadline_s=5.0).join()
    talk.live(event("trade", 14, 12), event("quote", 15, 1), event("trade", 16, 14))
    talk._give(talk.follower.tick(talk.now + 4.0))
    assert not talk.given
    talk._give(talk.follower.tick(talk.now + 5.0))
    assert talk.given == [("open", "AAA", 11, 13), ("trade", 14), ("quote", 15), ("trade", 16)]
    talk.live(event("trade", 17, 16))
    assert talk.given[-1] == ("trade", 17)


def test_rule_17_when_history_gets_on_then_the_deadline_begins_anew() -> None:
    talk = Talk(on_gap="continue", deadline_s=5.0).join()
    talk.live(event("trade", 14, 13))
    talk.now += 4.0
    talk.page(talk.asked(), 11, event("trade", 11, 1))
    talk.now += 4.0
    talk._give(talk.follower.tick(talk.now))
    assert talk.given == [("trade", 11)]
