"""Order books: the levels, and how a book stays in step with its exchange.

An exchange's file says with a `BookRule` where its snapshots come from and what links one delta to the next; a delta is
the range of ids that it covers. Where each delta names the id before it, its range begins right after that.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from heapq import nlargest, nsmallest
from math import inf
from typing import Any, Literal, NamedTuple

from .events import Level, Snapshot, Update

HELD_MAX = 10_000
"""Deltas kept while a snapshot is on its way (a quarter of an hour at 100 ms); then the oldest go."""

BEST = 10
"""Levels a side that a check may look at, of a RankedBook."""

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

    def cut(self, depth: int) -> None:
        """Drop the worst levels of a side beyond a depth."""
        if (over := len(self.bids) - depth) > 0:
            for price in nsmallest(over, self.bids, key=float):
                del self.bids[price]
        if (over := len(self.asks) - depth) > 0:
            for price in nlargest(over, self.asks, key=float):
                del self.asks[price]

    def top(self, depth: int | None = None) -> tuple[list[Level], list[Level]]:
        """Bids and asks from the best on, at most `depth` levels a side."""
        bids = sorted(self.bids.items(), key=lambda level: -float(level[0]))
        asks = sorted(self.asks.items(), key=lambda level: float(level[0]))
        return bids[:depth], asks[:depth]


class RankedBook(Book):
    """A book that keeps its prices in order, the best first: for exchanges whose rule looks at the best or the worst.

    Prices must be texts of numbers. About 220 bytes a level.
    """

    __slots__ = ("_ask_ranks", "_bid_ranks", "ask_prices", "best_asks", "best_bids", "bid_prices")

    def __init__(self) -> None:
        super().__init__()
        self.best_bids: bytes | None = None  # what a check made of a side's best; None once they may have changed
        self.best_asks: bytes | None = None
        self.bid_prices: list[str] = []
        self.ask_prices: list[str] = []
        self._bid_ranks: list[float] = []  # of each price, rising
        self._ask_ranks: list[float] = []

    def replace(self, bids: list[Level], asks: list[Level]) -> None:
        super().replace(bids, asks)
        self.best_bids = self.best_asks = None
        self.bid_prices = sorted(self.bids, key=float, reverse=True)
        self.ask_prices = sorted(self.asks, key=float)
        self._bid_ranks = [-float(price) for price in self.bid_prices]
        self._ask_ranks = [float(price) for price in self.ask_prices]

    def apply(self, bids: list[Level], asks: list[Level]) -> None:
        if bids:
            if self.best_bids is not None and _touch_best(self._bid_ranks, bids, -1.0):
                self.best_bids = None
            _apply_ranked(self.bids, self.bid_prices, self._bid_ranks, bids, -1.0)
        if asks:
            if self.best_asks is not None and _touch_best(self._ask_ranks, asks, 1.0):
                self.best_asks = None
            _apply_ranked(self.asks, self.ask_prices, self._ask_ranks, asks, 1.0)

    def cut(self, depth: int) -> None:
        if len(self.bid_prices) > depth:
            _cut_ranked(self.bids, self.bid_prices, self._bid_ranks, depth)
        if len(self.ask_prices) > depth:
            _cut_ranked(self.asks, self.ask_prices, self._ask_ranks, depth)

    def top(self, depth: int | None = None) -> tuple[list[Level], list[Level]]:
        bids = [(price, self.bids[price]) for price in self.bid_prices[:depth]]
        return bids, [(price, self.asks[price]) for price in self.ask_prices[:depth]]


def _touch_best(ranks: list[float], levels: list[Level], sign: float) -> bool:
    """Whether a change of these levels may be one of the best of a side."""
    worst = ranks[BEST - 1] if len(ranks) >= BEST else inf
    return min([sign * float(price) for price, _ in levels]) <= worst


def _apply_ranked(
    side: dict[str, str], prices: list[str], ranks: list[float], levels: list[Level], sign: float
) -> None:
    zeros = ZEROS
    for price, amount in levels:
        if amount not in zeros:
            if price not in side:
                rank = sign * float(price)
                place = bisect_right(ranks, rank)
                ranks.insert(place, rank)
                prices.insert(place, price)
            side[price] = amount
        elif side.pop(price, None) is not None:
            place = bisect_left(ranks, sign * float(price))
            while prices[place] != price:  # written otherwise, as 1.0 and 1.00
                place += 1
            del ranks[place], prices[place]


def _cut_ranked(side: dict[str, str], prices: list[str], ranks: list[float], depth: int) -> None:
    for price in prices[depth:]:
        del side[price]
    del prices[depth:], ranks[depth:]


class BookRule(NamedTuple):
    """How an exchange's books stay in step.

    `snapshot`: it is asked for over `rest`, or by a `request` on the same socket, while deltas are held; or it comes
    first on the subscription (`stream`). `link`: a delta may begin up to the id after the last one (`range`), must
    begin exactly there (`exact`), or nothing is known (`none`). `depth`: levels a side that the exchange keeps; what is
    beyond goes without a word. `check`: whether a book agrees with what a delta's fields say of it, as a checksum.
    With either of the two the book is a RankedBook.
    """

    snapshot: Literal["rest", "request", "stream"]
    link: Literal["range", "exact", "none"]
    depth: int | None = None
    check: Callable[[Any, dict[str, Any]], bool] | None = None

    def book(self) -> Book:
        return Book() if self.depth is None and self.check is None else RankedBook()


class BookSync:
    """One book, checked on every delta for ever.

    Each method returns what to publish: updates that apply now, in order, or nothing.
    """

    __slots__ = ("asked", "book", "held", "id", "linked", "rule", "stream_last")

    def __init__(self, rule: BookRule) -> None:
        self.rule = rule
        self.book = rule.book()
        self.id: int | None = None  # the book is exact after this id; None while it is not in step
        self.held: list[Update] = []  # deltas that wait for a snapshot, without a hole between them
        self.asked = False  # a snapshot is on its way
        self.stream_last = 0  # the id that the stream itself has reached
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
        if delta.last <= self.id and (self.rule.link == "range" or not self.linked):
            return False  # the book has it
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
        self.asked = self.linked = False
        self.stream_last = 0
        self.book = self.rule.book()

    def snapshot(self, snapshot: Snapshot) -> list[Update] | None:
        """Take a snapshot: the held deltas that go on from it, or None where it does not fit (ask again).

        Steps 3 to 5: it must not be older than the first delta; older deltas are dropped; the first of the rest must
        contain the id after the snapshot's. Where a delta names the id before it, a snapshot of just that one fits too.
        """
        self.asked = False
        if self.id is not None or not self.held:
            return None
        if snapshot.last < self.held[0].first - (self.rule.link == "exact"):
            return None
        following = [delta for delta in self.held if delta.last > snapshot.last]
        if following and following[0].first > snapshot.last + 1 and self.rule.link != "none":
            return None
        self.book.replace(snapshot.bids, snapshot.asks)
        self.id = snapshot.last
        self.held = []
        for delta in following:
            self._apply(delta)
        return following

    def _apply(self, delta: Update) -> None:
        self.book.apply(delta.fields["bids"], delta.fields["asks"])
        if self.rule.depth is not None:
            self.book.cut(self.rule.depth)
        self.id, self.linked = delta.last, True

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
            "stream_last": self.stream_last,
            "held": [list(delta) for delta in self.held],
            "bids": list(self.book.bids.items()),
            "asks": list(self.book.asks.items()),
        }

    @classmethod
    def restored(cls, state: dict[str, Any], rule: BookRule) -> "BookSync":
        sync = cls(rule)
        sync.id, sync.stream_last, sync.linked = state["id"], state["stream_last"], state.get("linked", True)
        sync.held = [Update(*delta) for delta in state["held"]]
        sync.book.replace(state["bids"], state["asks"])
        return sync
