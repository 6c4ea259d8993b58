"""Consumers of real processes: over kills of each process and of all, early and late ones are given the same events."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from common import following as following_module
from common.client import Client
from common.errors import BadRequestError, UnavailableError
from common.events import Event
from common.following import Following
from tests.pipeline import Live, Pipeline, events_of, free_port, seeded, until

GENERATED = ("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "300", "--seed", "7")
SYMBOLS = ["BTCUSDT", "ETHUSDT"]
CHANNELS = ["trade", "book", "quote"]

Make = Callable[..., Pipeline]


class Consumer:
    """Takes what it is given, in a thread."""

    def __init__(self, following: Following) -> None:
        self.events: list[Event] = []
        self.told: list[str] = []
        self._following, self._stop = following, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._following as following:
            while not self._stop.is_set():
                self.events.extend(following.poll(0.05))

    def wait(self, count: int) -> None:
        until(lambda: len(self.events) >= count, f"{count} events have come, {len(self.events)} did")

    def wait_number(self, number: int) -> list[Event]:
        """What came up to a number, once something above it came."""
        until(lambda: self.events and self.events[-1]["seq"] > number, f"events up to {number} have come")
        return [event for event in self.events if event["seq"] <= number]

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def consume() -> Iterator[Callable[[Following], Consumer]]:
    consumers: list[Consumer] = []

    def begin(following: Following) -> Consumer:
        consumers.append(Consumer(following))
        return consumers[-1]

    yield begin
    for consumer in consumers:
        consumer.stop()


Consume = Callable[[Following], Consumer]


def begun(make: Make, **settings: str) -> tuple[Pipeline, Client]:
    """A pipeline that has archived something, and a client of it."""
    pipeline = make(*GENERATED, **settings)
    pipeline.start("archiver", "feed", "history")
    until(lambda: pipeline.complete() > 0, "something is archived")
    return pipeline, Client(pipeline.server)


def by_topic(events: list[Event]) -> dict[tuple[str, str], list[Event]]:
    found: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        found.setdefault((event["channel"], event["symbol"]), []).append(event)
    return found


def test_consumers_when_everything_is_killed_meanwhile_then_early_and_late_ones_end_with_the_same_events(
    make: Make, consume: Consume
) -> None:
    rng = seeded()
    pipeline, client = begun(make)
    with client:
        first = pipeline.complete()
        early = consume(client.follow("binance", SYMBOLS, CHANNELS, after=first, strict=True))
        loose = consume(client.follow("binance", SYMBOLS, CHANNELS, after=first))
        kills = [("feed",), ("archiver",), ("history",), ("feed", "archiver", "history"), ("archiver", "history")]
        for names in rng.sample(kills, len(kills)):
            early.wait(len(early.events) + rng.randrange(50, 300))
            pipeline.kill(*names)
            pipeline.start(*names)
        late = consume(client.follow("binance", SYMBOLS, CHANNELS, after=first, strict=True))
        late.wait(rng.randrange(1, 2000))
        pipeline.kill("history")
        pipeline.start("history")
        until(lambda: pipeline.complete() > early.events[-1]["seq"], "the archive goes on")
        last = pipeline.complete()
        expected = list(client.slice("binance", SYMBOLS, CHANNELS, after=first, to=last))
        assert late.wait_number(last) == expected
        assert early.wait_number(last) == expected
        loose.wait_number(last)
        until(lambda: by_topic(early.events).keys() == by_topic(loose.events).keys(), "all topics have gone on")
        for topic, events in by_topic(expected).items():
            assert [event for event in by_topic(loose.events)[topic] if event["seq"] <= last] == events
        assert any(event["channel"] == "gap" for event in expected)


def test_follow_when_it_begins_in_the_past_then_is_the_slice_and_goes_on_live(
    make: Make, live: Callable[[Pipeline], Live], consume: Consume
) -> None:
    pipeline, client = begun(make)
    subscriber = live(pipeline)
    with client:
        until(lambda: len(subscriber.messages) > 1500, "some time has passed")
        start = time.time_ns() - 10**9
        consumer = consume(client.follow("binance", SYMBOLS, CHANNELS, start))
        consumer.wait(1500)
        last = pipeline.complete()
        got = consumer.wait_number(last)
        expected = [event for event in client.slice("binance", SYMBOLS, CHANNELS, start) if event["seq"] <= last]
        assert got == expected
        assert [event["derived"] for event in got[:2]] == [True, True]
        until(lambda: subscriber.messages[-1].find(b"seq") > 0, "it is live")
        seen = {(event["channel"], event["symbol"], event["seq"]) for event in events_of(subscriber.messages)}
        assert {(event["channel"], event["symbol"], event["seq"]) for event in got[2:]} <= seen


def test_live_when_the_consumer_is_too_slow_then_what_was_dropped_comes_from_history(
    make: Make, consume: Consume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following_module, "HIGH_WATER", 10)
    pipeline, client = begun(make, FEED__BINANCE__EVENTS_HIGH_WATER="10")
    with client:
        following = client.live("binance", SYMBOLS, CHANNELS)
        events = following.poll(30)
        assert events
        before = pipeline.complete()
        until(lambda: pipeline.complete() > before + 2_000, "much more than the sockets hold has been published")
        consumer = consume(following)
        got = [*events, *consumer.wait_number(pipeline.complete())]
        first, last = got[0]["seq"], pipeline.complete()
        consumer.wait_number(last)
        got = [event for event in [*events, *consumer.events] if event["seq"] <= last]
        expected = client.slice("binance", SYMBOLS, CHANNELS, after=first - 1, to=last, snapshot=False)
        assert by_topic(got) == by_topic(list(expected))


def test_live_when_there_is_no_history_server_then_events_come_from_the_named_endpoint(make: Make) -> None:
    pipeline = make(*GENERATED)
    pipeline.start()
    nobody = f"127.0.0.1:{free_port()}"
    with Client(nobody, events=pipeline.endpoint) as client, client.live("binance", "BTCUSDT", "trade") as following:
        assert next(following)["symbol"] == "BTCUSDT"
    with Client(nobody, events=pipeline.endpoint) as client, pytest.raises(UnavailableError, match="no history"):
        client.follow("binance", "BTCUSDT", "trade", "-1s")


def test_follow_when_a_directory_is_read_then_goes_on_live_from_the_named_endpoint(make: Make) -> None:
    pipeline = make(*GENERATED)
    pipeline.start()
    until(lambda: pipeline.complete() > 0, "something is archived")
    with Client(storage=pipeline.storage) as client:
        until(lambda: "BTCUSDT" in client.symbols("binance"), "the symbol is archived")
    with pytest.raises(BadRequestError, match="endpoint"), Client(storage=pipeline.storage) as client:
        client.follow("binance", "BTCUSDT", "trade", "-1m")
    with Client(storage=pipeline.storage, events=pipeline.endpoint) as client:
        following = client.follow("binance", "BTCUSDT", "trade", "-1m")
        events = [next(following) for _ in range(500)]
        following.close()
        assert list(following) == []
        until(lambda: pipeline.complete() >= events[-1]["seq"], "all of it is archived")
        assert events == list(client.slice("binance", "BTCUSDT", "trade", "-1m"))[:500]
