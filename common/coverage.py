"""What is whole and what is missing: the gaps of a symbol's channels, and the intervals between them.

    manifest of a sealed file ─▶ counts and gaps      where its tables are those of this normaliser
    records, normalised       ─▶ the same             of everything else: the hour being written, files without tables

What was derived from records is kept: the next question goes on from there.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson

from .adapter import Adapter, version
from .errors import BadRequestError
from .events import GAP, Event, body
from .listing import ArchiveFile
from .reader import Reader
from .requests import refusal
from .superseded import ended

DERIVE_S = 5.0
"""How long one question may derive from records. What was derived until then is kept for the next."""
DERIVED_MAX = 4_096
GAPS_MAX = 20_000
LATE_NS = 600 * 10**9


@dataclass
class Span:
    """Events of one channel one after another, without a gap between them. `ts_recv` in ns.

    `is_told`: out of records of the kind `event`, which nothing proves. `is_torn`: the event before it is missing.
    """

    channel: str
    seq: tuple[int, int]
    ts_recv: tuple[int, int]
    events: int
    bytes: int = 0
    is_told: bool = False
    is_torn: bool = False


Item = Span | Event
"""A span, or a gap event as it was live."""


@dataclass
class Stretch:
    """What a range of numbers holds of one symbol, in order. `last` is how far it was looked at."""

    first: int
    last: int
    items: list[Item] = field(default_factory=list)

    @property
    def gaps(self) -> Iterator[Event]:
        return (item for item in self.items if isinstance(item, dict))


class Coverage:
    """Answers for one exchange's archive."""

    def __init__(self, reader: Reader, adapter: Adapter) -> None:
        self._reader, self._adapter, self._version = reader, adapter, version(adapter)
        self._derived: OrderedDict[tuple[str, str], Stretch] = OrderedDict()
        self._tails: OrderedDict[str, Stretch] = OrderedDict()
        self._deadline = 0.0

    def gaps(
        self, symbols: Sequence[str], channels: Sequence[str], times: tuple[int, int], complete: int
    ) -> list[Event]:
        """The gap events of some channels that concern the times. Raises BadRequestError where they are too many."""
        self._deadline = time.monotonic() + DERIVE_S
        wanted: set[str] = set(channels)
        found: list[Event] = []
        for symbol in symbols:
            known = {_place(gap): gap for each in self._stretches(symbol, complete, times) for gap in each.gaps}
            asked = {at: gap for at, gap in known.items() if _is_of(gap, wanted) and _concerns(gap, times)}
            told = {(symbol, gap["gap"]) for gap in asked.values()}
            asked |= {_place(gap): gap for gap in self._open_at([symbol], wanted, times[0], complete, told)}
            whole = {**known, **asked}
            found += [gap for gap in ended([whole[at] for at in sorted(whole)]) if _place(gap) in asked]
        if len(found) > GAPS_MAX:
            raise refusal("too_large", f"{len(found)} gap events: at most {GAPS_MAX} are told, ask for less time")
        return sorted(found, key=lambda gap: (gap["seq"], gap["symbol"], gap.get("part", 0)))

    def _open_at(
        self, symbols: Sequence[str], channels: set[str], start: int, complete: int, told: set[tuple[str, int]]
    ) -> Iterator[Event]:
        """The gap events of gaps that opened before a time (ns) and that nothing of the times asked ends."""
        for symbol in symbols:
            files = self._reader.files(symbol)
            if not files or files[0].ts_recv[0] >= start:
                continue
            at = min(self._reader.seq_at(start, [symbol]) - 1, complete)
            state = self._reader.normaliser(symbol, at).symbols.get(symbol)
            topics = state.channels.items() if state is not None else ()
            ids = {channel: topic.gap.id for channel, topic in topics if topic.gap is not None}
            ids |= {
                each: away["gap"] for each, away in (self._reader.subscribed(at).away or {}).get(symbol, {}).items()
            }
            if GAP not in channels:
                ids = {channel: gap for channel, gap in ids.items() if channel in channels}
            for number in sorted({gap for gap in ids.values() if (symbol, gap) not in told}):
                for _, messages in self._reader.messages([symbol], number - 1, number):
                    gaps = [orjson.loads(body(each)) for each in messages if each.split(b"/", 2)[1] == GAP.encode()]
                    yield from (gap for gap in gaps if gap["gap"] == number and ids.keys() & set(gap["channels"]))

    def intervals(
        self, symbols: Sequence[str], channels: Sequence[str], times: tuple[int, int], complete: int
    ) -> list[dict[str, Any]]:
        """The intervals between gaps, by symbol and channel, that overlap the times; each told whole."""
        self._deadline = time.monotonic() + DERIVE_S
        found: list[dict[str, Any]] = []
        for symbol in symbols:
            stretches = list(self._stretches(symbol, complete, None, split=True))
            for channel in channels:
                whole = {True: "unverifiable", False: self._adapter.WHOLE.get(channel, "unverifiable")}
                items = (item for stretch in stretches for item in stretch.items)
                found += [
                    {"symbol": symbol, "channel": channel, **interval.facts(), "whole": whole[interval.is_told]}
                    for interval in _intervals(items, channel)
                    if interval.end >= times[0] and interval.start < times[1]
                ]
        return found

    def late_until(self, symbols: Sequence[str], start: int, end: int, complete: int) -> int:
        """The number up to which events that happened between two times may have been learned: missed, then fetched."""
        last: dict[tuple[str, int], Event] = {}
        try:
            for gap in self.gaps(symbols, (GAP,), (start - LATE_NS, 1 << 63), complete):
                last[gap["symbol"], gap["gap"]] = {**last.get((gap["symbol"], gap["gap"]), {}), **gap}
        except BadRequestError:  # too many, or too long to find out
            return complete
        concerned = [gap for gap in last.values() if gap["state"] != "closed" and (gap["ts_from"] or 0) < end + LATE_NS]
        return max((gap["seq"] if gap["state"] == "backfilled" else complete for gap in concerned), default=0)

    # -- stretches -------------------------------------------------------------------------------------------------

    def _stretches(
        self, symbol: str, complete: int, times: tuple[int, int] | None, *, split: bool = False
    ) -> Iterator[Stretch]:
        """A symbol's past, file by file, then what no sealed file covers. With `split`, spans end at gaps."""
        files, at = self._reader.files(symbol), 0
        for file, following in pairwise(files):
            if not file.is_sealed:
                break
            last = following.first - 1
            if last > complete:
                break
            if times is None or (file.ts_recv[1] >= times[0] or following.ts_recv[0] >= times[0]):
                yield self._sealed(symbol, file, at + 1, last, split=split)
            at = last
        if at < complete:
            yield self._tail(symbol, at + 1, complete)

    def _sealed(self, symbol: str, file: ArchiveFile, first: int, last: int, *, split: bool) -> Stretch:
        line, is_cut = file.manifest or {}, self._reader.is_cut(symbol, first, last)
        is_told = line.get("normaliser") == self._version and line.get("covers") == [first, last] and "tables" in line
        if is_told and not is_cut:
            gaps = line.get("gaps", [])
            if not split or not gaps:
                spans = [
                    Span(channel, (*table["seq"],), (*table["ts_recv"],), table["events"], table["bytes"], file.is_told)
                    for channel, table in line["tables"].items()
                    if channel != GAP and table["events"]
                ]
                return Stretch(first, last, [*spans, *gaps])
        key = symbol, f"{file.path.name}/{line.get('sha256')}/{first}/{last}/{is_cut}"
        stretch = self._derived.get(key) or Stretch(first, first - 1)
        self._keep(self._derived, key, stretch)
        self._extend(stretch, symbol, last)
        for channel, table in line.get("tables", {}).items():
            span = next((span for span in stretch.items if isinstance(span, Span) and span.channel == channel), None)
            if span is not None:
                span.bytes = table["bytes"]
        return stretch

    def _tail(self, symbol: str, first: int, complete: int) -> Stretch:
        known = self._tails.get(symbol)
        if known is None or known.first != first or known.last > complete:
            known = Stretch(first, first - 1)
        self._keep(self._tails, symbol, known)
        self._extend(known, symbol, complete)
        return known

    @staticmethod
    def _keep(kept: OrderedDict[Any, Stretch], key: Any, stretch: Stretch) -> None:
        kept[key] = stretch
        kept.move_to_end(key)
        if len(kept) > DERIVED_MAX:
            kept.popitem(last=False)

    def _extend(self, stretch: Stretch, symbol: str, last: int) -> None:
        """Derive what lies above a stretch. Raises BadRequestError where that takes too long."""
        if stretch.last >= last:
            return
        open_spans = {item.channel: item for item in stretch.items if isinstance(item, Span)}
        for item in stretch.items:
            if isinstance(item, dict):
                for channel in item["channels"]:
                    span = open_spans.get(channel)
                    if span is not None and span.seq[1] < item["seq"]:
                        del open_spans[channel]
        told = [range(file.seq[0], file.seq[1] + 1) for file in self._reader.files(symbol) if file.is_told]
        told = [each for each in told if each.start <= last and each.stop > stretch.first]
        for seq, messages in self._reader.messages([symbol], stretch.last, last):
            for message in gaps_first(messages):
                self._count(stretch, open_spans, seq, message, any(seq in each for each in told))
            stretch.last = seq
            if time.monotonic() > self._deadline:
                place = f"{symbol}: records up to {last} are counted one by one, {seq} is reached"
                raise refusal("too_large", f"{place}: ask again to go on, for less time, or rebuild the tables")
        stretch.last = last

    @staticmethod
    def _count(stretch: Stretch, open_spans: dict[str, Span], seq: int, message: bytes, is_told: bool) -> None:
        channel = message.split(b"/", 2)[1].decode()
        if channel == GAP:
            gap = orjson.loads(body(message))
            stretch.items.append(gap)
            for each in gap["channels"]:
                if (span := open_spans.get(each)) is not None and int(gap.get("last_seq", seq)) >= span.seq[0]:
                    del open_spans[each]
            return
        ts_recv = int(message[(begin := message.index(b'"ts_recv":') + 10) : message.index(b",", begin)])
        prev = int(message[(begin := message.index(b'"prev":') + 7) : message.index(b",", begin)])
        span = open_spans.get(channel)
        is_torn = span is not None and prev > span.seq[1]  # the event before is missing, and no gap tells of it
        if span is None or span.is_told != is_told or is_torn:
            span = open_spans[channel] = Span(channel, (seq, seq), (ts_recv, ts_recv), 0, 0, is_told, is_torn)
            stretch.items.append(span)
        span.seq, span.ts_recv, span.events = (span.seq[0], seq), (span.ts_recv[0], ts_recv), span.events + 1


def gaps_first(messages: Sequence[bytes]) -> list[bytes]:
    """The messages of one record with its gaps in front: what it brings lies behind what it shows to be missing."""
    return sorted(messages, key=lambda message: not message.startswith(GAP.encode(), message.index(b"/") + 1))


# -- intervals -------------------------------------------------------------------------------------------------------


@dataclass
class Interval:
    """From the first event to the last between two gaps; `after` are the gaps before it that are not backfilled."""

    start: int
    end: int
    first_seq: int
    last_seq: int
    events: int
    bytes: int
    after: set[int]
    is_told: bool

    def facts(self) -> dict[str, int | None]:
        """As they are told; `bytes` are those of its tables, None where it has none yet."""
        keys = ("start", "end", "first_seq", "last_seq", "events")
        return {**{key: getattr(self, key) for key in keys}, "bytes": self.bytes or None}

    def add(self, other: "Interval") -> None:
        self.start, self.end = min(self.start, other.start), max(self.end, other.end)
        self.last_seq = max(self.last_seq, other.last_seq)
        self.events += other.events
        self.bytes += other.bytes


def _intervals(items: Iterator[Item], channel: str) -> list[Interval]:
    """The intervals of one channel. A gap that was backfilled is none any more."""
    found: list[Interval] = []
    between: dict[int, bool] = {}  # gaps since the last span, and whether a restart ends them without a word
    is_apart = True
    for item in items:
        if isinstance(item, Span):
            if item.channel != channel:
                continue
            each = Interval(*item.ts_recv, *item.seq, item.events, item.bytes, set(between), item.is_told)
            if is_apart or found[-1].is_told != item.is_told or item.is_torn:
                if not is_apart:
                    each.after.add(_FOR_EVER)
                found.append(each)
            else:
                found[-1].add(each)
            between, is_apart = {}, False
        elif channel in item["channels"]:
            gap, last = item["gap"], item["last_seq"] if "last_seq" in item else item["seq"]
            if found and last < found[-1].first_seq:
                continue  # what is missing lies before
            if item["state"] == "open":
                if item["reason"] == "restart" and gap == item["seq"]:  # what it owes goes back to the last record
                    between = {each: may_end for each, may_end in between.items() if not may_end}
                between[gap] = between.get(gap, True) and "last_seq" not in item
                is_apart = True
            elif item["state"] == "backfilled":
                _join(found, gap)
                if between.pop(gap, None) is not None and not between and found:
                    is_apart = False
            elif gap in between:
                between[gap] = False
    return found


_FOR_EVER = 0
"""Stands for a gap that nothing ends."""


def _join(found: list[Interval], gap: int) -> None:
    """A gap was backfilled: what lies around it is one interval, unless another gap lies there, too."""
    for index in range(len(found) - 1, 0, -1):
        if gap in found[index].after:
            found[index].after.remove(gap)
            if not found[index].after:
                found[index - 1].add(found.pop(index))


def _place(gap: Event) -> tuple[int, int]:
    return gap["seq"], gap.get("part", 0)


def _is_of(gap: Event, channels: set[str]) -> bool:
    return GAP in channels or not channels.isdisjoint(gap["channels"])


def _concerns(gap: Event, times: tuple[int, int]) -> bool:
    begun = gap["ts_recv"] if gap.get("ts_from") is None else gap["ts_from"]
    return bool(min(begun, gap["ts_recv"]) < times[1] and gap["ts_recv"] >= times[0])
