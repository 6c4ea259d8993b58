"""The continuity of an order book: take deltas and snapshots, and detect what does not link.

A delta is the range of ids that it covers. Where each delta names the id before it, its range begins right after that.
"""

from typing import Any

from .book import BookRule
from .events import Snapshot, Update

HELD_MAX = 10_000
"""Deltas kept while a snapshot is on its way (a quarter of an hour at 100 ms); then the oldest go."""


class BookSync:
    """One book, checked on every delta for ever.

    Each method returns what to publish: updates that apply now, in order, or nothing.
    """

    __slots__ = ("asked", "at_snapshot", "book", "held", "id", "linked", "rule", "stream_last")

    def __init__(self, rule: BookRule) -> None:
        self.rule = rule
        self.book = rule.book()
        self.id: int | None = None  # the book is exact after this id; None while it is not in step
        self.held: list[Update] = []  # deltas that wait for a snapshot, without a hole between them
        self.asked = False  # a snapshot is on its way
        self.stream_last = 0  # the id that the stream itself has reached
        self.at_snapshot = False  # the book is a snapshot that was asked for, and no delta yet
        self.linked = False  # a delta has gone on from the snapshot: from now on each must go on from the one before

    @property
    def synced(self) -> bool:
        return self.id is not None

    def breaks(self, delta: Update) -> bool:
        """Whether a delta shows that something before it is missing, or that the stream ran back."""
        if self.id is None or self.rule.link == "none":
            return False
        if self.rule.link == "exact" and self.linked:
            return delta.first != self.id + 1
        return delta.first > self.id + 1 or delta.last < self.stream_last

    def delta(self, delta: Update) -> bool:
        """Take a delta that does not break the book; returns whether it applies (else it is old, or held)."""
        self.stream_last = delta.last
        if self.id is None:
            if self.rule.snapshot != "stream":
                self._hold(delta)
            return False
        is_old = self._is_in(delta, self.id) if self.at_snapshot else delta.last <= self.id
        if is_old and (self.rule.link == "range" or not self.linked):
            return False
        self._apply(delta)
        return True

    def steps(self, delta: Update) -> bool:
        """Take a delta that goes on from the one before, as nearly all do; False: it is not such a one, nor taken."""
        before, (_, _, first, last, _, fields) = self.id, delta
        if before is None or not self.linked or fields["type"] == "snapshot":
            return False
        rule, link = self.rule, self.rule.link
        if link == "exact":
            if first != before + 1:
                return False
        elif link == "range" and (first > before + 1 or last <= before or last < self.stream_last):
            return False
        self.book.apply(fields["bids"], fields["asks"])
        if rule.depth is not None:
            self.book.cut(rule.depth)
        self.id = self.stream_last = last
        return True

    def agrees(self, fields: dict[str, Any]) -> bool:
        """Whether the book is what a delta or snapshot, taken just now, says of it."""
        return self.rule.check is None or self.rule.check(self.book, fields)

    def begin(self, snapshot: Update) -> None:
        """Take a snapshot that came on the stream: whatever was before, the book is this."""
        self.book.replace(snapshot.fields["bids"], snapshot.fields["asks"])
        self.id = self.stream_last = snapshot.last
        self.held, self.asked, self.linked = [], False, True

    def told(self, fields: dict[str, Any], ts: int) -> bool:
        """Take a book event that nothing links to the one before; returns whether it applies: not before a snapshot."""
        if fields["type"] == "snapshot":
            self.book.replace(fields["bids"], fields["asks"])
        elif self.id is None:
            return False
        else:
            self.book.apply(fields["bids"], fields["asks"])
        self.id = ts
        return True

    def rejoin(self) -> None:
        """Go on with another connection: it may bring what the book has already, or begin in the middle of it."""
        self.stream_last, self.linked = 0, False

    def lose(self) -> None:
        """The book is out of step: begin again with the next delta and a new snapshot."""
        self.id = None
        self.held = []
        self.asked = self.linked = self.at_snapshot = False
        self.stream_last = 0
        self.book = self.rule.book()

    def snapshot(self, snapshot: Snapshot, *, is_current: bool = False) -> list[Update] | None:
        """Take a snapshot: the held deltas that go on from it, or None where it does not fit (ask again).

        `is_current`: it was asked for while the subscription was live, so that it is the book where no delta has come.
        It must not be older than the first delta; older deltas are dropped; the first of the rest must contain the id
        after the snapshot's. Where a delta names the id before it, a snapshot of just that one fits too.
        """
        self.asked = False
        if self.id is not None or not (self.held or is_current):
            return None
        if self.held and snapshot.last < self.held[0].first - (self.rule.link == "exact"):
            return None
        following = [delta for delta in self.held if not self._is_in(delta, snapshot.last)]
        if following and following[0].first > snapshot.last + 1 and self.rule.link != "none":
            return None
        self.book.replace(snapshot.bids, snapshot.asks)
        self.id, self.at_snapshot = snapshot.last, True
        self.held = []
        for delta in following:
            self._apply(delta)
        return following

    def _is_in(self, delta: Update, snapshot: int) -> bool:
        """Whether a delta is in a snapshot, by the snapshot's id."""
        return delta.last < snapshot if self.rule.rejoins else delta.last <= snapshot

    def _apply(self, delta: Update) -> None:
        self.book.apply(delta.fields["bids"], delta.fields["asks"])
        if self.rule.depth is not None:
            self.book.cut(self.rule.depth)
        self.id, self.linked, self.at_snapshot = delta.last, True, False

    def _hold(self, delta: Update) -> None:
        if self.rule.link != "none" and self._is_torn(delta):
            self.held = []  # a hole, or ids that ran back: what lies before it is of no use
        self.held.append(delta)
        if len(self.held) > HELD_MAX:
            del self.held[: HELD_MAX // 10]

    def _is_torn(self, delta: Update) -> bool:
        if not self.held:
            return False
        last = self.held[-1].last
        return delta.first != last + 1 if self.rule.link == "exact" else delta.first > last + 1 or delta.last < last

    def state(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "linked": self.linked,
            "at_snapshot": self.at_snapshot,
            "stream_last": self.stream_last,
            "held": [list(delta) for delta in self.held],
            "bids": list(self.book.bids.items()),
            "asks": list(self.book.asks.items()),
        }

    @classmethod
    def restored(cls, state: dict[str, Any], rule: BookRule) -> "BookSync":
        sync = cls(rule)
        sync.id, sync.stream_last, sync.linked = state["id"], state["stream_last"], state.get("linked", True)
        sync.at_snapshot = state.get("at_snapshot", False)
        sync.held = [Update(*delta) for delta in state["held"]]
        sync.book.replace(state["bids"], state["asks"])
        return sync
