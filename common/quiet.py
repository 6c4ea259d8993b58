"""Notices when nothing comes from a feed, which says something once a second whatever the market does."""

from collections.abc import Sequence

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
                "see that the feed runs and that this is its endpoint; waiting"
            ]
        self._told |= set(late)
        return [
            f"{self._exchange} {self._names[beat]} not even a heartbeat from {self._endpoint} for {QUIET_S:.0f} s: "
            "see that the feed records this symbol; waiting"
            for beat in late
        ]
