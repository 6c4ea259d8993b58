"""The book at the end of each interval, as it was known then, from slices and live alike.

    for snapshot in book_snapshots(client.follow("binance", ["BTCUSDT"], ["book"], start="-10m"), depth=10):
        best_bid, amount, best_ask, amount = snapshot.levels[:4]

A snapshot at `ts` has all events with a time before `ts` in it and none of a later one: nothing looks ahead. The time
is `ts_recv` or, by `ts_event`, the exchange's; an event without one happens with the event before it. Order is always
that of the events.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from math import isfinite, nan
from typing import NamedTuple

from .book import RankedBook
from .errors import BadRequestError
from .events import GAP, Event, Level
from .grid import By, Grid, Interval
from .observed import Key, Observed

DEPTH_MAX = 10_000


class BookSnapshot(NamedTuple):
    """The best levels of one symbol's book at one moment.

    `levels` has depth x 4 float64: bid price, bid amount, ask price, ask amount of the best level, then of the next …;
    NaN where the book has fewer levels. Not `whole`: the book was not known then (before its first snapshot, in a gap
    until the next one, before the stream's beginning), and all levels are NaN.
    """

    ts: int  # the moment, an interval's end, ns
    exchange: str
    symbol: str
    levels: "array[float]"
    whole: bool


class _Book:
    __slots__ = ("book", "known", "levels")

    def __init__(self) -> None:
        self.book = RankedBook()
        self.known = False  # from the first snapshot on
        self.levels: array[float] | None = None  # the best ones as they were asked last; None: changed since

    def take(self, event: Event) -> None:
        """Apply a book event. Raises ValueError or TypeError for what is no level."""
        self.levels = None
        if event["type"] == "snapshot":
            self.known = False  # should it be torn
            self.book.replace(_checked(event["bids"]), _checked(event["asks"]))
            self.known = True
        elif self.known:
            self.book.apply(_checked(event["bids"]), _checked(event["asks"]))

    def top(self, depth: int) -> "array[float]":
        if self.levels is None:
            levels = [nan] * (4 * depth)
            for place, side in enumerate(self.book.top(depth)):
                levels[2 * place : 4 * len(side) : 4] = [float(price) for price, _ in side]
                levels[2 * place + 1 : 4 * len(side) : 4] = [float(amount) for _, amount in side]
            self.levels = array("d", levels)
        return self.levels


def _checked(levels: Iterable[Level]) -> list[Level]:
    """Levels with a finite price. Raises ValueError or TypeError for what is no number."""
    found = ((float(price), float(amount), price, amount) for price, amount in levels)
    return [(price_text, amount_text) for price, _, price_text, amount_text in found if isfinite(price)]


def unknown_levels(depth: int) -> "array[float]":
    """The levels of a book that is not known."""
    return array("d", repeat(nan, 4 * depth))


class BookSnapshots:
    """The state machine: events in their order in, finished snapshots out, symbols apart.

    Events of other channels only move the clock. `start` (ns) and `symbols` (exchange, symbol) make rows from there on.
    Raises BadRequestError for what is no interval or depth.
    """

    def __init__(
        self,
        depth: int = 10,
        interval: Interval = "1s",
        *,
        by: By = "ts_recv",
        start: int | None = None,
        symbols: Iterable[Key] = (),
        observed: Observed | None = None,
    ) -> None:
        if not 1 <= depth <= DEPTH_MAX:
            raise BadRequestError(f"depth={depth}: give how many levels a side there shall be, 1 to {DEPTH_MAX}")
        self._by_event, self._depth, self._grid = by == "ts_event", depth, Grid(interval, by, 0, start)
        self._observed = observed or Observed("book", start)
        self._books: dict[Key, _Book] = {key: _Book() for key in symbols}
        self._unknown = unknown_levels(depth)

    def take(self, event: Event) -> Sequence[BookSnapshot]:
        """Take one event; returns the snapshots of the moments up to its time, without it."""
        grid, key, channel = self._grid, (event["exchange"], event["symbol"]), event["channel"]
        ts = grid.time(event)
        if channel == GAP:
            if ts < 0:
                return ()
            self._take_gap(key, event, ts)
            return self._finished(grid.passed(ts)) if ts >= grid.due and not self._by_event else ()
        if channel == "book":
            self._observed.see(key, event, ts)
        finished = self._finished(grid.passed(ts)) if ts >= grid.due else ()
        if channel == "book":
            self._apply(key, event, max(ts, grid.now))
        return finished

    def advance(self, ts: int) -> Sequence[BookSnapshot]:
        """Nothing before this time (ns) comes any more: returns the snapshots up to it."""
        return self._finished(self._grid.passed(ts))

    def end(self, ts: int | None = None) -> Sequence[BookSnapshot]:
        """The stream ends, at a time or with its last event: the snapshots up to there."""
        if self._grid.begin < 0:
            return ()
        return self._finished(self._grid.finish(self._grid.now if ts is None else max(ts, self._grid.now)))

    def _apply(self, key: Key, event: Event, ts: int) -> None:
        book = self._books.get(key)
        if book is None:
            book = self._books[key] = _Book()
        try:
            book.take(event)
        except (TypeError, ValueError):
            book.known = False  # until the next snapshot
            return
        if event["type"] == "snapshot":
            self._observed.close_all(key, ts)

    def _take_gap(self, key: Key, event: Event, ts: int) -> None:
        if "book" in event.get("channels", ("book",)):
            if self._by_event and event["ts_recv"] is not None:
                ts = event["ts_recv"]  # gaps have no other time
            self._observed.see(key, event, ts)
            self._observed.gap(key, event, ts)

    def _finished(self, begins: range) -> list[BookSnapshot]:
        rows: list[BookSnapshot] = []
        if not begins:
            return rows
        books, depth, unknown, observed = sorted(self._books.items()), self._depth, self._unknown, self._observed
        for ts in range(begins.start + begins.step, begins.stop + begins.step, begins.step):
            for key, book in books:
                whole = book.known and observed.whole(key, ts, ts)
                rows.append(BookSnapshot(ts, *key, (book.top(depth) if whole else unknown)[:], whole))
        return rows


def book_snapshots(
    events: Iterable[Event], depth: int = 10, interval: Interval = "1s", *, by: By = "ts_recv"
) -> Iterator[BookSnapshot]:
    """Snapshots out of any stream of events in their order that has book events. See `BookSnapshot`.

    Live, a moment has come with the first event after it; a gap is known when it is noticed.
    """
    machine = BookSnapshots(depth, interval, by=by)
    for event in events:
        if finished := machine.take(event):
            yield from finished
    yield from machine.end()
