"""Intervals of time, aligned to the epoch, and the clock that finishes them: that of the events themselves.

│ begin             │ begin + ns        │
└ open ─────────────┴ finished at this time + wait
"""

from .errors import BadRequestError
from .events import Event
from .times import parse_interval

By = str
"""`ts_recv` or `ts_event`."""
Interval = str | int
"""`100ms`, `1s`, `5m`, `1h`, `1d`, or ns."""

ROWS_MAX = 5_000_000
"""Intervals that may pass at once: more is a clock that was set, or a start long before the recording."""
AHEAD_NS = 60 * 10**9
BEHIND_NS = 7 * 86_400 * 10**9
"""How far an exchange's time may be from ours to be believed."""


class Grid:
    """Where the time of a stream stands: it never goes back. `begin` is the start of the oldest open interval."""

    __slots__ = ("_by", "begin", "due", "now", "ns", "wait")

    def __init__(self, interval: Interval, by: By = "ts_recv", wait: Interval = 0, start: int | None = None) -> None:
        if by not in ("ts_recv", "ts_event"):
            raise BadRequestError(f"by={by!r}: give ts_recv (when it was received) or ts_event (the exchange's time)")
        try:
            self.ns, self.wait, self._by = parse_interval(interval), parse_interval(wait) if wait else 0, by
        except ValueError as error:
            raise BadRequestError(str(error)) from None
        self.now = self.begin = self.due = -1  # before the first event
        if start is not None:
            self.set(start)

    def set(self, ts: int) -> None:
        """Begin with the interval that holds this time."""
        self.now, self.begin = ts, ts // self.ns * self.ns
        self.due = self.begin + self.ns + self.wait

    def time(self, event: Event) -> int:
        """An event's time. What has none, or one that cannot be, happens when the last one did."""
        received, theirs = event["ts_recv"], event["ts_event"]
        if received is None:  # a gap that was noticed where nothing was received
            return self.now
        if self._by == "ts_recv":
            return int(received)
        if theirs is None or not received - BEHIND_NS <= theirs <= received + AHEAD_NS:
            return self.now if self.now >= 0 else int(received)
        self.now = max(self.now, theirs)
        return int(theirs)

    def passed(self, ts: int) -> range:
        """The beginnings of the intervals that a time finishes. Raises BadRequestError where they are too many."""
        if self.begin < 0:
            self.set(ts)
            return range(0)
        self.now = max(self.now, ts)
        if self.now < self.due:
            return range(0)
        return self.finish(self.now - self.wait)

    def finish(self, upto: int) -> range:
        """The beginnings of all open intervals that end at or before a time."""
        begin, count = self.begin, max(0, (upto - self.begin) // self.ns)
        if count > ROWS_MAX:
            raise BadRequestError(
                f"{count} intervals at once, from {begin} to {upto} ns: begin later, or take longer intervals"
            )
        self.begin += count * self.ns
        self.due = self.begin + self.ns + self.wait
        return range(begin, self.begin, self.ns)
