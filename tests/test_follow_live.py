"""Consumers of real processes: from the past into what is live, too slow, and without history. Kills: `soak.py`."""

import time
from collections.abc import Callable, Iterator

import pytest

from common import following as following_module
from common.client import Client
from common.errors import BadRequestError, UnavailableError
from common.events import Event
from common.following import Following
from tests.consumers import Consumer, by_topic
from tests.pipeline import Live, Pipeline, events_of, free_port, until

GENERATED = ("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "300", "--seed", "7")
SYMBOLS = ["BTCUSDT", "ETHUSDT"]
CHANNELS = ["trade", "book", "quote"]

Make = Callable[..., Pipeline]


@pytest.fixture
def consume() -> Iterator[Callable[[Following], Consumer]]:
    consumers: list[Consumer] = []

    def begin(following: Following) -> Consumer:
        consumers.append(Consumer(lambda: following))
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


def test_follow_when_it_begins_in_the_past_then_is_the_slice_and_goes_on_live(
    make: Make, live: Callable[[Pipeline], Live], consume: Consume
) -> None:
    pipeline, client = begun(make)
    subscriber = live(pipeline)
    with client:
        until(lambda: len(subscriber.messages) > 1500, "some time has passed")
        start = time.time_ns() - 10**9
        consumer = consume(client.follow("binance", SYMBOLS, CHANNELS, start))
        consumer.wait_count(1500)
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
        expected = by_topic(client.slice("binance", SYMBOLS, CHANNELS, after=first - 1, to=last, snapshot=False))

        def come() -> list[Event]:
            return [event for event in [*events, *consumer.events] if event["seq"] <= last]

        count = sum(map(len, expected.values()))
        until(lambda: len(come()) >= count, "each topic has come to there: heartbeats tell of what was dropped last")
        assert by_topic(come()) == expected


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


def test_follow_when_symbols_are_unified_names_and_patterns_then_follows_what_they_mean(make: Make) -> None:
    _, client = begun(make)
    with client:
        until(lambda: len(client.instruments("binance")) == len(SYMBOLS), "the instruments are known")
        for wanted, meant in (
            ("BTC-USDT", {"BTCUSDT"}),
            ("*-USDT", set(SYMBOLS)),
            (["BTC-USDT", "ETHUSDT"], set(SYMBOLS)),
        ):
            with client.live("binance", wanted, "trade") as events:
                assert {next(events)["symbol"] for _ in range(200)} == meant
        with pytest.raises(BadRequestError, match="XRP-USDT means no instrument of binance"):
            client.live("binance", ["BTCUSDT", "XRP-USDT"], "trade")
