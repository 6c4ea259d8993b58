"""Invariants of an archive's events: what coverage, gaps and bars claim, walked through event by event.

    an interval of coverage   no jump of ids of a dense channel, no missing predecessor, no broken link between deltas,
                              no book that is crossed for seconds
    a gap                     closed, or open at the end
    a bar that is `whole`     no gap and no jump in it

The claims are derived by `coverage` and `observed`; the walk knows only the events' own ids, numbers and levels.
"""

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from .adapter import Adapter
from .bars import Bar, Bars
from .book import Book, crossed
from .coverage import Coverage, gaps_first
from .errors import BadRequestError
from .events import GAP, Event, body
from .inspection import Finding
from .observed import Observed
from .reader import Reader
from .storage import encode_symbol

BAR_NS = 10 * 10**9
CROSSED_NS = 10 * 10**9
"""For so long (ns) a book may be crossed: several messages may make up one change."""
LOOK_NS = 10**9
"""How often a book is looked at."""
COUNTER_DIGITS = 20
FINDINGS_MAX = 1_000
"""Findings of a symbol that are kept."""

_MEND = "this is a fault of the software: please report it with these records"


class Jump(NamedTuple):
    """Two events of a topic, one after the other, between which ids are missing; filled ids are taken away."""

    before: Event
    after: Event
    ids: range


def prove(directory: Path, adapter: Adapter) -> Iterator[Finding]:
    """Walk the events of all symbols of one exchange's directory. Raises CodecError, OSError."""
    reader = Reader(directory.parent, adapter)
    complete = reader.complete()
    for symbol in reader.symbols():
        walk = _Walk(adapter, symbol, _intervals(Coverage(reader, adapter), adapter, symbol, complete))
        for _, messages in reader.messages([symbol], 0, complete):
            for message in gaps_first(messages):
                walk.take(orjson.loads(body(message)))
        for what in walk.end(_still_open(reader, symbol, complete)):
            yield Finding(str(directory / encode_symbol(symbol)), None, what, _MEND)


def _still_open(reader: Reader, symbol: str, complete: int) -> set[int]:
    """The gaps that are open after the last record."""
    state = reader.normaliser(symbol, complete).symbols.get(symbol)
    topics = state.channels.values() if state is not None else ()
    found = {topic.gap.id for topic in topics if topic.gap is not None}
    found |= {miss.gap for topic in topics for miss in topic.missing}
    away = (reader.subscribed(complete).away or {}).get(symbol, {})
    return found | {int(topic["gap"]) for topic in away.values()}


def _intervals(coverage: Coverage, adapter: Adapter, symbol: str, complete: int) -> dict[str, list[tuple[int, int]]]:
    """The first and last numbers of each channel's intervals, as coverage tells them."""
    found: dict[str, list[tuple[int, int]]] = {channel: [] for channel in adapter.CHANNELS}
    times = -(1 << 63), 1 << 63
    while True:
        try:
            told = coverage.intervals([symbol], adapter.CHANNELS, times, complete)
            break
        except BadRequestError:  # it derives a part at a time, and goes on from there
            continue
    for each in told:
        found[each["channel"]].append((each["first_seq"], each["last_seq"]))
    return found


class _Walk:
    """The events of one symbol in their order."""

    def __init__(self, adapter: Adapter, symbol: str, intervals: dict[str, list[tuple[int, int]]]) -> None:
        self._adapter, self._symbol = adapter, symbol
        self._intervals = intervals
        self._found: list[str] = []
        self._last: dict[str, Event] = {}  # of each channel, but those that a backfill brought
        self._seq: dict[str, int] = {}  # of each channel, the last number of an event or gap
        self._jumps: list[Jump] = []
        self._late: dict[str, set[int]] = {}  # ids that a backfill brought
        self._open: dict[tuple[str, int], int] = {}  # gaps by channel and id: the number that opened them
        self._ended: set[tuple[str, int]] = set()
        self._book = Book()
        self._is_known, self._crossed_since, self._looked = False, 0, 0
        self._bars: dict[str, tuple[Bars, Observed, list[Bar]]] = {}
        for channel in {"trade", "agg_trade"}.intersection(adapter.CHANNELS):
            observed = Observed(channel, keep_all=True)
            self._bars[channel] = Bars(BAR_NS, channel=channel, observed=observed), observed, []

    def take(self, event: Event) -> None:
        channel = event["channel"]
        for of_channel, (machine, _, rows) in self._bars.items():
            if channel in (GAP, of_channel):
                rows += machine.take(event)
        if channel == GAP:
            self._take_gap(event)
            return
        before = self._last.get(channel)
        if before is not None and event["prev"] > self._seq[channel]:
            self._claim(channel, before, event, f"the event {event['prev']} before {event['seq']} is missing")
        if event.get("late"):
            self._late.setdefault(channel, set()).add(int(event["id"]))
        elif channel in self._adapter.DENSE and before is not None:
            self._compare_ids(channel, before, event)
        if channel == "book":
            self._take_book(before, event)
        self._seq[channel] = event["seq"]
        if not event.get("late"):
            self._last[channel] = event

    def end(self, still_open: set[int]) -> list[str]:
        """What was found, once all events were taken; `still_open` are the gaps that the last state has open."""
        for (channel, gap), seq in self._open.items():
            if gap not in still_open:
                self._say(f"{channel}: the gap {gap}, told at {seq}, is neither closed nor open at the end")
        jumps = [jump for jump in self._jumps if not self._is_filled(jump)]
        for before, after, ids in jumps:
            text = f"ids {ids.start} to {ids.stop - 1} are missing between {before['seq']} and {after['seq']}"
            self._claim(before["channel"], before, after, text)
        for channel, (machine, observed, rows) in self._bars.items():
            rows += machine.end()
            observed.settle()
            missing = [(each[0]["ts_recv"], each[1]["ts_recv"]) for each in jumps if each[0]["channel"] == channel]
            for row in rows:
                whole = observed.whole((row.exchange, row.symbol), row.ts, row.ts + BAR_NS)
                if whole and any(first < row.ts + BAR_NS and last >= row.ts for first, last in missing):
                    self._say(f"{channel}: the bar at {row.ts} ns is whole, but ids are missing in it")
        return self._found

    def _is_filled(self, jump: Jump) -> bool:
        late = self._late.get(jump.before["channel"], set())
        return len(jump.ids) <= len(late) and late.issuperset(jump.ids)

    def _say(self, what: str) -> None:
        if len(self._found) < FINDINGS_MAX:
            self._found.append(f"{self._symbol} {what}")

    def _claim(self, channel: str, before: Event, after: Event, what: str) -> None:
        """Something is missing between two events: a finding where coverage says that nothing is."""
        if self._is_inside(channel, before["seq"], after["seq"]):
            self._say(f"{channel}: {what}, and coverage has it in one interval")

    def _is_inside(self, channel: str, first: int, last: int) -> bool:
        intervals = self._intervals.get(channel, [])
        place = bisect_right(intervals, first, key=lambda interval: interval[0]) - 1
        return place >= 0 and last <= intervals[place][1]

    def _compare_ids(self, channel: str, before: Event, event: Event) -> None:
        last, first = _last_id(before), _first_id(event)
        if last is not None and first is not None and first > last + 1:
            self._jumps.append(Jump(before, event, range(last + 1, first)))

    def _take_gap(self, event: Event) -> None:
        for channel in event["channels"]:
            self._seq[channel] = event["seq"]
            key = channel, event["gap"]
            if event["state"] == "open":
                if event.get("reason") in ("restart", "unsubscribed"):  # it takes the place of those before
                    self._open = {known: seq for known, seq in self._open.items() if known[0] != channel}
                self._open.setdefault(key, event["seq"])
                if key in self._ended:
                    self._say(f"{channel}: the gap {event['gap']} is open again at {event['seq']}")
            elif self._open.pop(key, None) is None and key not in self._ended:
                self._say(f"{channel}: the gap {event['gap']} is {event['state']} at {event['seq']}, and never opened")
            else:
                self._ended.add(key)
            if channel == "book" and event["state"] == "open":
                self._is_known, self._crossed_since = False, 0

    def _take_book(self, before: Event | None, event: Event) -> None:
        if self._is_known and before is not None and _happened(event) - self._looked >= LOOK_NS:
            self._look(before, event)
        if event["type"] == "snapshot":
            self._book.replace(event["bids"], event["asks"])
            self._is_known, self._crossed_since = True, 0
        elif self._is_known:
            if before is not None and _breaks(self._adapter, before, event):
                self._claim("book", before, event, f"the delta {event['seq']} does not follow {before['seq']}")
            self._book.apply(event["bids"], event["asks"])

    def _look(self, before: Event, event: Event) -> None:
        """Whether the book as it stood between two events was crossed, and for how long."""
        self._looked = now = _happened(event)
        if not crossed(self._book):
            self._crossed_since = 0
            return
        self._crossed_since = self._crossed_since or _happened(before)
        if now - self._crossed_since >= CROSSED_NS:
            self._say(f"book: crossed from {self._crossed_since} ns to {now} ns, and no gap tells of it")
            self._is_known = False  # once is enough


def _happened(event: Event) -> int:
    """The exchange's time, or ours where it sends none: how long a book was crossed is a matter of the market."""
    return int(event["ts_recv"] if event["ts_event"] is None else event["ts_event"])


def _breaks(adapter: Adapter, before: Event, event: Event) -> bool:
    """Whether a delta's ids show that something is missing before it."""
    last = _number(before.get("last_id"))
    if last is None or adapter.BOOK.link == "none":
        return False
    if (
        (prev := _number(event.get("prev_id"))) is not None
        and adapter.BOOK.link == "exact"
        and before["type"] == "delta"
    ):
        return prev != last
    first = _number(event.get("first_id"))
    return first is not None and first > last + 1


def _first_id(event: Event) -> int | None:
    return _number(event.get("first_id", event.get("id")) if event["channel"] == "book" else event.get("id"))


def _last_id(event: Event) -> int | None:
    return _number(event.get("last_id", event.get("id")) if event["channel"] == "book" else event.get("id"))


def _number(text: Any) -> int | None:
    """A counter as a number; None for what is none: longer ids are made of several fields (HTX: 27 digits)."""
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < COUNTER_DIGITS else None
