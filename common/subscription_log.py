"""Record what a feed subscribes to: in `start`, `subscriptions`, checkpoints of no symbol, and the journal's facts.

The facts are written before the record that changes the subscriptions, too: whatever of the two a kill leaves behind,
the next run owes every topic that may have been recorded (rule 20 of the protocol).
"""

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from .adapter import Adapter, version
from .begin import record_start
from .journal import Journal, Opened
from .normaliser import Normaliser
from .recorder import Recorder


class SubscriptionLog:
    """One run's subscriptions. `run` is the number of its `start`."""

    def __init__(
        self, adapter: Adapter, normaliser: Normaliser, recorder: Recorder, journal: Journal, stamp: Callable[[], int]
    ) -> None:
        self.run = 0
        self.symbols: list[str] = []
        self.channels: list[str] = []
        self._adapter, self._normaliser, self._recorder = adapter, normaliser, recorder
        self._journal, self._stamp = journal, stamp
        self._is_stale = False  # the facts name more than what is subscribed

    def begin(self, opened: Opened, symbols: Sequence[str], channels: Sequence[str], debt: dict[str, Any]) -> int:
        """Append `start` and what belongs to it; returns the number of the first connection. Raises OSError."""
        self.symbols, self.channels = list(symbols), list(channels)
        subscriptions = {"symbols": self.symbols, "channels": self.channels}
        self.run = record_start(self._recorder, self._adapter, self._stamp(), opened, subscriptions, debt)
        if self._recorder.is_behind():  # the facts of the run before are needed until this run's `start` stands
            raise self._journal.error or OSError("the journal has no room for the start of a run")
        first_conn = int(opened.facts.get("next_conn", 1))
        self._journal.remember(subscriptions=self._facts(), connections={}, next_conn=first_conn)
        self.checkpoint(None)
        return first_conn

    def change(self, symbols: Sequence[str], plan: Callable[[], None]) -> tuple[list[str], list[str]]:
        """Record that other symbols are subscribed; returns those added and those removed.

        `plan` is called before the record is written. Raises OSError, with nothing changed, where the facts cannot be
        written or the journal has no room.
        """
        before, away = self.symbols, self._normaliser.away
        added = [symbol for symbol in symbols if symbol not in before]
        removed = [symbol for symbol in before if symbol not in symbols]
        if not added and not removed:
            return added, removed
        if self._recorder.is_behind():
            raise self._journal.error or OSError("the journal has no room")
        self._journal.remember(subscriptions={**self._facts(), "symbols": [*before, *added]})
        self._is_stale = True
        self.symbols = list(symbols)
        plan()
        owed = {symbol: away[symbol] for symbol in added if symbol in away}
        payload = {"symbols": self.symbols, "added": added, "removed": removed, "channels": self.channels, "owed": owed}
        self._recorder.record(self._stamp(), "subscriptions", payload=orjson.dumps(payload))
        self.checkpoint(None)
        return added, removed

    def refresh(self) -> None:
        """Bring the facts up to date once the change stands in the journal. Raises OSError."""
        if self._is_stale and not self._recorder.is_behind():
            self._journal.remember(subscriptions=self._facts())
            self._is_stale = False

    def checkpoint(self, symbol: str | None) -> None:
        """Record a checkpoint of a symbol, or of what is subscribed (None); nothing while the disk is full."""
        if self._recorder.is_behind():
            return
        about = {"normaliser": version(self._adapter), "run": self.run, **self._facts()}
        payload = orjson.dumps(about) if symbol is None else self._normaliser.checkpoint(symbol)
        self._recorder.record(self._stamp(), "checkpoint", symbol=symbol, payload=payload)

    def _facts(self) -> dict[str, Any]:
        return {"symbols": self.symbols, "channels": self.channels, "away": self._normaliser.away}
