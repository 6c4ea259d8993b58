"""Slices, a page at a time. Between two pages nothing has to be remembered: the token `next` holds it all.

    token = base64url( [format, digest of the request, after, to, at, start, end, events, records, partial] )

Whoever answers the following page (another worker, another server) goes on from the token alone, by replaying from a
checkpoint. Who answered the page before most often has the state still, and goes on from that.
"""

import base64
import binascii
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Any

import orjson

from .adapter import Adapter
from .reader import Reader
from .requests import Plan, Slice, refusal
from .runs import EventRun, RawRun, as_arrow

TOKEN_FORMAT = 1
RUNS_MAX = 4
"""Slices whose state is kept for their following page: each holds some blocks, about 8 MB."""
SKEW_NS = 600 * 10**9
"""How far `ts_event` and `ts_recv` of what is not marked `late` may lie apart."""

_INT64 = 1 << 63

Header = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a slice stands. `to` is its frozen end, `at` the number up to which it was given; times in ns."""

    digest: str
    after: int
    to: int
    at: int
    start: int | None
    end: int | None
    events: int
    records: int
    partial: bool

    def token(self) -> str:
        return base64.urlsafe_b64encode(orjson.dumps([TOKEN_FORMAT, *astuple(self)])).decode()


def place_of_token(request: Slice) -> Place:
    """The place that a token holds. Raises BadRequestError where it is none of this request's."""
    try:
        version, *values = orjson.loads(base64.urlsafe_b64decode(request.next or ""))
        place = Place(*values)
        numbers = (place.after, place.to, place.at, place.events, place.records)
        times = [time for time in (place.start, place.end) if time is not None]
        good = version == TOKEN_FORMAT and type(place.partial) is bool
        good = good and all(type(number) is int and 0 <= number < _INT64 for number in numbers)
        good = good and all(type(time) is int and -_INT64 <= time < _INT64 for time in times)
        good = good and place.after <= place.at <= place.to
    except (binascii.Error, ValueError, TypeError):
        good = False
    if not good:
        raise refusal("bad_value", "next: no token of ours: give the last reply's `next`, or leave it out")
    if place.digest != request.digest:
        raise refusal("bad_value", "next: belongs to another slice: ask with the same words, or leave it out")
    return place


class Pages:
    """Answers the slices of one exchange. `late_until` tells how far events of a time may still have been learned."""

    def __init__(
        self, reader: Reader, adapter: Adapter, late_until: Callable[[tuple[str, ...], int, int, int], int]
    ) -> None:
        self._reader, self._adapter, self._late_until = reader, adapter, late_until
        self._runs: OrderedDict[str, EventRun | RawRun] = OrderedDict()

    def page(self, request: Slice, complete: int, limit: int) -> tuple[Header, list[bytes]]:
        """One page of at most `limit` bytes, but at least one record. Raises BadRequestError, CodecError."""
        place = self._begin(request, complete) if request.next is None else place_of_token(request)
        if place.at < place.to > complete:
            message = f"the archive went back to {complete}, the slice goes to {place.to}: ask for it anew"
            raise refusal("changed", message)
        run = self._runs.pop(request.next or "", None) or self._run(request, place)
        filled = run.fill(limit)
        if request.format == "arrow":
            filled = as_arrow(filled, request.channels)
        at = place.to if filled.is_done else filled.at
        events, records = place.events + filled.events, place.records + filled.records
        following = replace(place, at=at, events=events, records=records)
        token = None if filled.is_done else following.token()
        header: Header = {
            "format": request.format,
            "after": place.at,
            "covered": at,
            "to": place.to,
            "partial": place.partial,
            "events": filled.events,
            "records": filled.records,
            "next": token,
            **filled.header,
        }
        if at > place.at and (missing := self._missing(request, place.at, at)):
            header["missing"] = missing
        if token is None:
            header["total"] = {"events": events, "records": records}
        else:
            self._keep(token, run)
        return header, filled.payload

    def _missing(self, request: Slice, after: int, to: int) -> list[tuple[int, int]]:
        """The ranges of numbers within a page that are not in the archive any more: raw records show no gap."""
        found = {(each.first, each.last) for each in self._reader.missing(request.symbols)}
        return sorted((first, last) for first, last in found if last > after and first <= to)

    def _run(self, request: Slice, place: Place) -> EventRun | RawRun:
        times = (
            None if place.start is None and place.end is None else (_or(place.start, -_INT64), _or(place.end, _INT64))
        )
        if request.format == "raw":
            return RawRun(self._reader, request.symbols, place.at, place.to, times)
        is_new = place.events == 0 if request.by == "ts_event" else place.at == place.after
        snapshot = is_new and request.snapshot and "book" in request.channels
        return EventRun(self._reader, self._adapter, request, place.at, place.to, times, snapshot=snapshot)

    def _keep(self, token: str, run: EventRun | RawRun) -> None:
        self._runs[token] = run
        if len(self._runs) > RUNS_MAX:
            _, oldest = self._runs.popitem(last=False)
            if isinstance(oldest, EventRun):
                oldest.drop()

    # -- what is asked, in numbers -----------------------------------------------------------------------------------

    def _begin(self, request: Slice, complete: int) -> Place:
        start, end = request.start, request.end
        if start is None and end is None:
            after = request.after or 0
            to = complete if request.to is None else min(request.to, complete)
            partial = request.to is not None and request.to > complete
        else:
            after, to = self.span(request, complete)
            partial = end is not None and not self._is_past(request.symbols, end, complete)
        return Place(request.digest, after, max(after, to), after, start, end, 0, 0, partial)

    def span(self, request: Slice | Plan, complete: int) -> tuple[int, int]:
        """The numbers between which everything lies that was received, or happened, between two times."""
        start, end, symbols, reader = request.start, request.end, request.symbols, self._reader
        skew = SKEW_NS if request.by == "ts_event" else 0
        after = 0 if start is None else min(reader.seq_at(start - skew, symbols) - 1, complete)
        if end is None:
            return after, complete
        to = reader.range(symbols, _or(start, -_INT64) - skew, end + skew)[1]
        if request.by == "ts_event":
            to = max(to, self._late_until(symbols, _or(start, -_INT64), end, complete))
        return after, max(after, min(to, complete))

    def _is_past(self, symbols: tuple[str, ...], end: int, complete: int) -> bool:
        """Whether the archive is complete beyond a time: some record within it was received later."""
        if self._reader.seq_at(end, symbols) <= complete:
            return True
        return any(
            file.ts_recv[1] >= end and file.seq[1] <= complete
            for symbol in self._reader.symbols()
            for file in self._reader.newest(symbol)
        )


def _or(value: int | None, other: int) -> int:
    return other if value is None else value
