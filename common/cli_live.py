"""The command on a running feed: `follow`."""

import sys
import time
from collections.abc import Collection, Sequence

import zmq

from . import exchanges
from .events import CHANNELS, GAP, HEARTBEAT, body, topic
from .process import EXIT_OK, ConfigError

QUIET_S = 5.0
"""So long without even a heartbeat (there is one each second) is worth a word."""

HIGH_WATER = 100_000
"""Events that a slow reader of our output may be behind before some are lost."""


def follow(exchange: str, symbols: Sequence[str], channels: Collection[str], endpoint: str, count: int | None) -> int:
    """Print live events until Ctrl-C, or `count` of them. Raises ConfigError."""
    if exchange not in exchanges.names():
        raise ConfigError(f"unknown exchange {exchange!r}: known are {', '.join(exchanges.names())}")
    for channel in channels:
        if channel not in (*CHANNELS, GAP):
            raise ConfigError(f"unknown channel {channel!r}: known are {', '.join(CHANNELS)}")
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.linger = 0
        subscriber.rcvhwm = HIGH_WATER
        for symbol in symbols:
            for channel in (*channels, GAP, HEARTBEAT):
                subscriber.subscribe(topic(exchange, channel, symbol))
        subscriber.subscribe(topic(exchange, HEARTBEAT, None))
        try:
            subscriber.connect(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"{endpoint}: {error}: name the feed's events as --events tcp://HOST:PORT") from None
        try:
            _print_events(subscriber, Quiet(exchange, symbols, endpoint, time.monotonic()), count)
        except KeyboardInterrupt:
            return EXIT_OK
    return EXIT_OK


class Quiet:
    """Says when nothing has come for a while, of the feed or of one symbol: once each time."""

    def __init__(self, exchange: str, symbols: Sequence[str], endpoint: str, now: float) -> None:
        self._exchange, self._endpoint = exchange, endpoint
        self._all = topic(exchange, HEARTBEAT, None)
        self._names = {topic(exchange, HEARTBEAT, symbol): symbol for symbol in symbols}
        self._heard = dict.fromkeys((self._all, *self._names), now)
        self._told: set[bytes] = set()

    def knows(self, name: bytes) -> bool:
        """Whether a topic is that of a heartbeat."""
        return name in self._heard

    def hear(self, beat: bytes, now: float) -> None:
        """A heartbeat came, by its topic."""
        self._heard[beat] = self._heard[self._all] = now
        self._told -= {beat, self._all}

    def check(self, now: float) -> list[str]:
        """What is to be said now."""
        late = [beat for beat, at in self._heard.items() if now - at >= QUIET_S and beat not in self._told]
        if self._all in late:
            self._told |= self._heard.keys()
            return [
                f"{self._exchange} nothing, not even a heartbeat, from {self._endpoint} for {QUIET_S:.0f} s: "
                "see that the feed runs and that --events names its endpoint; waiting"
            ]
        self._told |= set(late)
        return [
            f"{self._exchange} {self._names[beat]} not even a heartbeat from {self._endpoint} for {QUIET_S:.0f} s: "
            "see that the feed records this symbol; waiting"
            for beat in late
        ]


def _print_events(subscriber: "zmq.Socket[bytes]", quiet: Quiet, count: int | None) -> None:
    out, printed, checked = sys.stdout.buffer, 0, time.monotonic()
    while count is None or printed < count:
        came = subscriber.poll(500)
        now = time.monotonic()
        message = subscriber.recv() if came else b""
        name = message[: message.find(b" ") + 1]
        if quiet.knows(name):
            quiet.hear(name, now)
        elif message:
            out.write(body(message) + b"\n")
            out.flush()
            printed += 1
        if now - checked >= 0.5:
            checked = now
            for text in quiet.check(now):
                print(f"trade-archivist: {text}", file=sys.stderr)
