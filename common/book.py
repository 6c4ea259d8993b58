"""Order books: the levels, and how a book stays in step where the exchange numbers its deltas.

`RangeSync` is the strategy of exchanges whose deltas carry a range of ids and whose snapshots come by REST.
"""

from typing import Any

from .events import Level, Snapshot, Update

HELD_MAX = 10_000
"""Deltas kept while a snapshot is on its way (a quarter of an hour at 100 ms); then the oldest go."""

ZEROS = frozenset({"0", *("0." + "0" * digits for digits in range(31))})
"""Zero, however an exchange writes it: an amount among these removes its level."""


class Book:
    """Price to amount, both as the exchange wrote them. About 140 bytes a level."""

    __slots__ = ("asks", "bids")

    def __init__(self) -> None:
        self.bids: dict[str, str] = {}
        self.asks: dict[str, str] = {}

    def replace(self, bids: list[Level], asks: list[Level]) -> None:
        self.bids = {price: amount for price, amount in bids if amount not in ZEROS}
        self.asks = {price: amount for price, amount in asks if amount not in ZEROS}

    def apply(self, bids: list[Level], asks: list[Level]) -> None:
        """Absolute amounts; zero removes a level, known or not."""
        zeros = ZEROS
        for side, levels in ((self.bids, bids), (self.asks, asks)):
            for price, amount in levels:
                if amount in zeros:
                    side.pop(price, None)
                else:
                    side[price] = amount

    def top(self, depth: int | None = None) -> tuple[list[Level], list[Level]]:
        """Bids and asks from the best on, at most `depth` levels a side."""
        bids = sorted(self.bids.items(), key=lambda level: -float(level[0]))
        asks = sorted(self.asks.items(), key=lambda level: float(level[0]))
        return bids[:depth], asks[:depth]


class RangeSync:
    """A book kept by id ranges, as Binance spot says (exchanges.md 1.5), checked on every delta for ever.

    Each method returns what to publish: updates that apply now, in order, or nothing.
    """

    __slots__ = ("asked", "book", "held", "id", "stream_last")

    def __init__(self) -> None:
        self.book = Book()
        self.id: int | None = None  # the book is exact after this id; None while it is not in step
        self.held: list[Update] = []  # deltas that wait for a snapshot, without a hole between them
        self.asked = False  # a snapshot is on its way
        self.stream_last = 0  # the id that the stream itself has reached

    @property
    def synced(self) -> bool:
        return self.id is not None

    def breaks(self, delta: Update) -> bool:
        """Whether a delta shows that something before it is missing, or that the stream ran back."""
        return self.id is not None and (delta.first > self.id + 1 or delta.last < self.stream_last)

    def delta(self, delta: Update) -> bool:
        """Take a delta that does not break the book; returns whether it applies (else it is old, or held)."""
        self.stream_last = delta.last
        if self.id is None:
            self._hold(delta)
            return False
        if delta.last <= self.id:
            return False
        self.book.apply(delta.fields["bids"], delta.fields["asks"])
        self.id = delta.last
        return True

    def lose(self) -> None:
        """The book is out of step: begin again with the next delta and a new snapshot."""
        self.id = None
        self.held = []
        self.asked = False
        self.stream_last = 0
        self.book = Book()

    def snapshot(self, snapshot: Snapshot) -> list[Update] | None:
        """Take a snapshot: the held deltas that go on from it, or None where it does not fit (ask again).

        Steps 3 to 5: it must not be older than the first delta; older deltas are dropped; the first of the rest must
        contain the id after the snapshot's.
        """
        self.asked = False
        if self.id is not None or not self.held or snapshot.last < self.held[0].first:
            return None
        following = [delta for delta in self.held if delta.last > snapshot.last]
        if following and following[0].first > snapshot.last + 1:
            return None
        self.book.replace(snapshot.bids, snapshot.asks)
        self.id = snapshot.last
        self.held = []
        for delta in following:
            self.book.apply(delta.fields["bids"], delta.fields["asks"])
            self.id = delta.last
        return following

    def _hold(self, delta: Update) -> None:
        if self.held and (delta.first > self.held[-1].last + 1 or delta.last < self.held[-1].last):
            self.held = []  # a hole, or ids that ran back: what lies before it is of no use
        self.held.append(delta)
        if len(self.held) > HELD_MAX:
            del self.held[: HELD_MAX // 10]

    def state(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "stream_last": self.stream_last,
            "held": [list(delta) for delta in self.held],
            "bids": list(self.book.bids.items()),
            "asks": list(self.book.asks.items()),
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "RangeSync":
        sync = cls()
        sync.id, sync.stream_last = state["id"], state["stream_last"]
        sync.held = [Update(*delta) for delta in state["held"]]
        sync.book.bids, sync.book.asks = dict(state["bids"]), dict(state["asks"])
        return sync
