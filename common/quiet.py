"""Reports when a feed sends nothing, or no heartbeat: a feed sends one each second, whatever the market does.

The last heartbeat of a replay says that it ends: that is reported, and nothing is waited for.
"""

from collections.abc import Sequence

import orjson

from .events import HEARTBEAT, topic

QUIET_S = 5.0
"""So long without a heartbeat is reported."""
NAMED = 5
"""Symbols that a report names; it counts the others."""


class Quiet:
    """Reports silence of a feed, or missing heartbeats of it or of some symbols: once each time."""

    def __init__(self, exchange: str, symbols: Sequence[str], endpoint: str, now: float) -> None:
        self._exchange, self._endpoint = exchange, endpoint
        self._all = topic(exchange, HEARTBEAT, None)
        self._names = {topic(exchange, HEARTBEAT, symbol): symbol for symbol in symbols}
        self._heard = dict.fromkeys((self._all, *self._names), now)
        self._last = now  # of any message
        self._told: set[bytes] = set()
        self._is_over = False

    def hear(self, name: bytes, message: bytes, now: float) -> None:
        """A message came, by its topic: it may be a heartbeat."""
        self._last = now
        if name not in self._heard:
            return
        self._heard[name] = self._heard[self._all] = now
        self._told -= {name, self._all}
        self._is_over = name == self._all and bool(orjson.loads(message[len(name) :]).get("end"))

    def check(self, now: float) -> list[str]:
        """What is to be reported now."""
        if self._is_over:
            is_told, self._told = self._all in self._told, set(self._heard)
            text = f"{self._exchange} the replay at {self._endpoint} has ended, unless it is told to seek back; waiting"
            return [] if is_told else [text]
        late = [beat for beat, at in self._heard.items() if now - at >= QUIET_S and beat not in self._told]
        if not late:
            return []
        if self._all in late:
            self._told |= self._heard.keys()
            if now - self._last >= QUIET_S:
                what, check = "nothing, not even a heartbeat,", "that the feed runs and that this is its endpoint"
            else:
                what, check = "events, but no heartbeat", "that this is the events endpoint of a feed"
        else:
            self._told |= set(late)
            what, check = f"{self._listed(late)} no heartbeat", "that the feed records every symbol named here"
        return [f"{self._exchange} {what} from {self._endpoint} for {QUIET_S:.0f} s: see {check}; waiting"]

    def _listed(self, late: Sequence[bytes]) -> str:
        symbols = [self._names[beat] for beat in late]
        rest = f" and {len(symbols) - NAMED:,} more" if len(symbols) > NAMED else ""
        return f"{', '.join(symbols[:NAMED])}{rest}:"
