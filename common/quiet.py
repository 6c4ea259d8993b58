"""Notices when nothing comes from a feed, which says something once a second whatever the market does.

A replay says in its last heartbeat that it ends: that is told, and nothing is waited for.
"""

from collections.abc import Sequence

import orjson

from .events import HEARTBEAT, topic

QUIET_S = 5.0
"""So long without even a heartbeat is worth a word."""


class Quiet:
    """Says when nothing has come for a while, of the feed or of one symbol: once each time."""

    def __init__(self, exchange: str, symbols: Sequence[str], endpoint: str, now: float) -> None:
        self._exchange, self._endpoint = exchange, endpoint
        self._all = topic(exchange, HEARTBEAT, None)
        self._names = {topic(exchange, HEARTBEAT, symbol): symbol for symbol in symbols}
        self._heard = dict.fromkeys((self._all, *self._names), now)
        self._told: set[bytes] = set()
        self._is_over = False

    def hear(self, name: bytes, message: bytes, now: float) -> None:
        """A message came, by its topic: it may be a heartbeat."""
        if name not in self._heard:
            return
        self._heard[name] = self._heard[self._all] = now
        self._told -= {name, self._all}
        self._is_over = name == self._all and bool(orjson.loads(message[len(name) :]).get("end"))

    def check(self, now: float) -> list[str]:
        """What is to be said now."""
        if self._is_over:
            is_told, self._told = self._all in self._told, set(self._heard)
            text = f"{self._exchange} the replay at {self._endpoint} has ended, unless it is told to seek back; waiting"
            return [] if is_told else [text]
        late = [beat for beat, at in self._heard.items() if now - at >= QUIET_S and beat not in self._told]
        if self._all in late:
            self._told |= self._heard.keys()
            return [
                f"{self._exchange} nothing, not even a heartbeat, from {self._endpoint} for {QUIET_S:.0f} s: "
                "see that the feed runs and that this is its endpoint; waiting"
            ]
        self._told |= set(late)
        return [
            f"{self._exchange} {self._names[beat]} not even a heartbeat from {self._endpoint} for {QUIET_S:.0f} s: "
            "see that the feed records this symbol; waiting"
            for beat in late
        ]
