"""A consumer of many symbols: every subscription arrives, after a restart of the feed too."""

import contextlib
import itertools
from collections.abc import Iterator

import orjson
import zmq

from common.client import Client
from common.events import CHANNELS, GAP, Event
from common.following import Following
from tests.pipeline import free_port, until

SYMBOLS = [f"SYM{number:03}" for number in range(400)]
TOPICS = list(itertools.product(CHANNELS, SYMBOLS))
SUBSCRIPTIONS = (
    len(SYMBOLS) * (len(CHANNELS) + 2) + 1
)  # gaps and heartbeats of each symbol, and the exchange's heartbeat

Socket = zmq.Socket[bytes]


@contextlib.contextmanager
def publishing(endpoint: str) -> Iterator[Socket]:
    """A feed's events socket that tells of its subscriptions."""
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.SNDHWM, 0)
        socket.bind(endpoint)
        yield socket


def subscribed(socket: Socket, following: Following) -> set[bytes]:
    """All subscriptions. A consumer's socket sends them again when the consumer next uses it."""
    found: set[bytes] = set()

    def have_come() -> bool:
        assert following.poll(0.01) == []
        with contextlib.suppress(zmq.Again):
            while True:
                found.add(socket.recv(zmq.NOBLOCK))
        return len(found) == SUBSCRIPTIONS

    until(have_come, f"{SUBSCRIPTIONS} subscriptions have arrived")
    return found


def publish(socket: Socket, channel: str, symbol: str, seq: int, prev: int) -> None:
    event = {"exchange": "binance", "channel": channel, "symbol": symbol, "seq": seq, "prev": prev, "ts_recv": seq}
    socket.send(f"binance/{channel}/{symbol} ".encode() + orjson.dumps(event))


def taken(following: Following, count: int) -> list[Event]:
    events: list[Event] = []

    def has_all() -> bool:
        events.extend(following.poll(0.1))
        return len(events) >= count

    until(has_all, f"{count} events have come")
    return events


def test_live_when_many_symbols_are_followed_then_every_topic_s_first_event_comes_after_a_restart_too() -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    nobody = f"127.0.0.1:{free_port()}"
    with Client(nobody, events=endpoint) as client, client.live("binance", SYMBOLS) as following:
        seq = 1000
        for _ in range(3):  # the limit of the socket counted what an earlier connection had sent, too
            with publishing(endpoint) as socket:
                names = subscribed(socket, following)
                assert f"\x01binance/{GAP}/{SYMBOLS[-1]} ".encode() in names
                socket.send(b"binance/heartbeat " + orjson.dumps({"at": seq, "run": 1}))
                for channel, symbol in TOPICS:
                    seq += 1
                    publish(socket, channel, symbol, seq, 1000)
                events = taken(following, len(TOPICS))
                assert [(event["channel"], event["symbol"]) for event in events] == TOPICS
                assert not following.waiting
