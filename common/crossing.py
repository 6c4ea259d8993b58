"""Crossed books: where orders match at once, a best bid at or above the best ask proves that deltas were lost.

It matters for books that neither an id nor a checksum proves. The feed judges it by its clock and records a gap; the
normaliser loses the book by that record, live and later alike, and asks for a new one.
"""

import logging
from collections.abc import Callable

import orjson

from .adapter import Adapter
from .book import crossed
from .normaliser import Normaliser
from .recorder import Recorder

log = logging.getLogger("feed")

CROSSED = "crossed"
CROSSED_S = 5.0  # a book that is crossed for so long: a frame may be half of a change
ROUND_S = 2.5  # between two looks at a book
LOOKS_PER_S = 20.0  # at all books: one of 10,000 levels takes about a millisecond
AGAIN_S, AGAIN_MAX_S = 30.0, 3600.0  # between two gaps of a book that is crossed anew each time, as in an auction


class Crossing:
    """Looks at one book after the other."""

    def __init__(self, adapter: Adapter, normaliser: Normaliser, recorder: Recorder, stamp: Callable[[], int]) -> None:
        self._exchange, self._normaliser, self._recorder, self._stamp = adapter.NAME, normaliser, recorder, stamp
        self._is_needed = adapter.BOOK.link == "none" and adapter.BOOK.check is None
        self._round: list[str] = []
        self._round_at = 0.0
        self._looked_at = 0.0
        self._since: dict[str, float] = {}  # crossed books, and since when
        self._again: dict[str, tuple[float, float]] = {}  # when the next gap may be told, and the pause after it

    def tick(self, now: float) -> None:
        """Look at the books that are due, and record a gap of each that stays crossed."""
        if not self._is_needed:
            return
        if not self._round and now >= self._round_at:
            self._round, self._round_at = list(self._normaliser.symbols), now + ROUND_S
        looks = min(now - self._looked_at, 1.0) * LOOKS_PER_S
        if looks >= 1.0:
            self._looked_at = now
            for _ in range(min(int(looks), len(self._round))):
                self._look(now, self._round.pop())

    def _look(self, now: float, symbol: str) -> None:
        state = self._normaliser.symbols.get(symbol)
        if state is None or "book" not in state.channels or not state.sync.synced or not crossed(state.sync.book):
            self._since.pop(symbol, None)
            return
        since, (again_at, pause) = self._since.setdefault(symbol, now), self._again.get(symbol, (0.0, AGAIN_S))
        if now - since < CROSSED_S or now < again_at:
            return
        del self._since[symbol]
        pause = AGAIN_S if now > again_at + AGAIN_MAX_S else pause
        self._again[symbol] = now + pause, min(2 * pause, AGAIN_MAX_S)
        log.warning("%s %s book is crossed for %.0f s: getting a new one", self._exchange, symbol, now - since)
        payload = orjson.dumps({"state": "open", "reason": CROSSED})
        self._recorder.record(self._stamp(), "gap", channel="book", symbol=symbol, payload=payload)
