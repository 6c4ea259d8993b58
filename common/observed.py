"""What a stream of events has shown of a channel: since when each symbol is observed, and where something is missing.

Bars and book snapshots ask it whether an interval is whole. Times are ns of their clock.
"""

from bisect import bisect_left
from collections.abc import Mapping

from .events import Event

Key = tuple[str, str]
"""Exchange and symbol."""

KEPT_MAX = 100
"""Gaps of a symbol that are remembered while the stream goes on; the oldest go."""

_FAR = 1 << 63


class _Span:
    __slots__ = ("firsts", "gaps", "is_seen", "last", "lasts", "open", "seq", "since")

    def __init__(self, since: int, seq: int) -> None:
        self.is_seen = False  # an event of the channel came: before its first one, gaps alone prove nothing
        self.since = self.last = since  # `last`: of the last event
        self.seq = seq  # of the last event or gap
        self.open: dict[int, int] = {}  # by the gap's id, from when on something is missing
        self.gaps: list[tuple[int, int, int]] = []  # from, to, the gap's id
        self.firsts: list[int] | None = None  # when settled: all of them, apart and in order
        self.lasts: list[int] = []

    def settle(self) -> None:
        self.firsts, self.lasts = [], []
        for first, last in sorted([gap[:2] for gap in self.gaps] + [(first, _FAR) for first in self.open.values()]):
            if self.lasts and first <= self.lasts[-1]:
                self.lasts[-1] = max(last, self.lasts[-1])
            else:
                self.firsts.append(first)
                self.lasts.append(last)

    def misses(self, begin: int, end: int) -> bool:
        """Whether a gap lies in [begin, end): before it is settled, one of the newest."""
        if self.firsts is not None:
            place = bisect_left(self.lasts, begin)
            return place < len(self.lasts) and self.firsts[place] < end
        if self.open and any(first < end for first in self.open.values()):
            return True
        return any(first < end and last >= begin for first, last, _ in self.gaps[-KEPT_MAX:])


class Observed:
    """The spans of one channel.

    `start` and `afters` are those of a slice: what follows on its topic a record up to the number `afters[exchange]`
    was observed from `start` on. With `keep_all`, no gap is forgotten, so that all count once it is settled.
    """

    def __init__(
        self, channel: str, start: int | None = None, afters: Mapping[str, int] | None = None, *, keep_all: bool = False
    ) -> None:
        self.until: int | None = None  # where the stream ended; None: it goes on
        self._channel, self._start, self._afters = channel, start, {} if afters is None else afters
        self._kept = 0 if keep_all else KEPT_MAX
        self._spans: dict[Key, _Span] = {}

    def see(self, key: Key, event: Event, ts: int) -> None:
        """An event of the channel, or a gap, came."""
        span = self._spans.get(key)
        if span is None:
            span = self._spans[key] = _Span(self._since(event, ts), event["seq"])
        if event["channel"] == self._channel:
            if not span.is_seen:
                span.is_seen, span.since = True, self._since(event, ts)
            if event["prev"] > span.seq:  # the event before it was not seen, and no gap tells of it (rule 19)
                self._add(span, span.last, ts, 0)
            span.last = ts
        if event["seq"] > span.seq:
            span.seq = event["seq"]

    def gap(self, key: Key, event: Event, ts: int, *, repaired: bool = False) -> None:
        """A `gap` event. `repaired`: what was missing has come, and stands in its place."""
        span = self._spans[key]
        first = event.get("ts_from") or span.last
        number = event["gap"]
        if event["state"] in ("closed", "backfilled"):
            # what a backfill brings was learned now, whenever it was missing
            first = span.open.pop(number, first if event["state"] == "closed" else ts)
            if repaired:
                span.gaps = [known for known in span.gaps if known[2] != number]
            else:
                self._add(span, first, ts if event.get("ts_to") is None else event["ts_to"], number)
            return
        if event.get("reason") in ("restart", "unsubscribed"):  # takes the place of all that were open before it
            self.close_all(key, ts)
        if len(span.open) < KEPT_MAX:  # who follows on over holes may open some for ever; one is enough
            span.open.setdefault(number, first)

    def close(self, key: Key, number: int, ts: int) -> None:
        span = self._spans[key]
        if (first := span.open.pop(number, None)) is not None:
            self._add(span, first, ts, number)

    def close_all(self, key: Key, ts: int) -> None:
        for number in list(self._spans[key].open):
            self.close(key, number, ts)

    def spoil(self, key: Key, ts: int) -> None:
        """An event could not be read: its moment is not whole."""
        self._add(self._spans[key], ts, ts, 0)

    def settle(self) -> None:
        """The stream is over: all gaps that were kept answer from now on, however many."""
        for span in self._spans.values():
            span.settle()

    def whole(self, key: Key, begin: int, end: int) -> bool:
        """Whether everything in [begin, end) was seen, as far as is known now."""
        span = self._spans.get(key)
        if span is None or begin < span.since or (self.until is not None and end > self.until):
            return False
        return not span.misses(begin, end)

    def _since(self, event: Event, ts: int) -> int:
        if event.get("ts_from") is not None:
            return int(event["ts_from"])
        if self._start is not None and event["prev"] <= self._afters.get(event["exchange"], -1):
            return self._start
        return ts

    def _add(self, span: _Span, first: int, last: int, number: int) -> None:
        span.gaps.append((first, last, number))
        if self._kept:
            del span.gaps[: -self._kept]
