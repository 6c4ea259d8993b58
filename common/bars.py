"""Bars out of trades: what was traded in each interval, from slices and live alike.

    for bar in bars(client.follow("binance", ["BTCUSDT"], ["trade"]), "1m"):
        print(bar.symbol, bar.close, bar.volume)

Intervals are aligned to the epoch (UTC). By default a trade counts when it was received (`by="ts_recv"`): then nothing
in a bar was known later than its end, and trades that a backfill brought lie where they were learned, in an interval
that is not `whole`. With `by="ts_event"` each lies where the exchange says that it happened.

Sums are exact (`decimal`, 38 digits); prices, volumes and vwap are the float64 nearest to the exact value.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from math import nan
from typing import NamedTuple

from .events import GAP, SKIPPED, Event
from .grid import By, Grid, Interval
from .observed import Key, Observed

WAIT = "2s"
"""How long a bar of `ts_event` stays open for trades that come out of order."""

_EXACT = Context(prec=38, Emax=300, Emin=-300, traps=[DivisionByZero, InvalidOperation, Overflow])
_NOTHING, _UNREAD = Decimal(), Decimal("NaN")


class Bar(NamedTuple):
    """One interval of one symbol. Prices in the quote currency, amounts in the base currency (or contracts).

    An interval without trades has count 0, volume 0, vwap NaN, and the last close before it as all four prices, as
    exchanges' own candles do; NaN before the first trade. A trade whose taker is not known counts in `volume` and
    `count` alone. `whole`: the interval was observed from its beginning to its end, and no gap lies in it.
    """

    ts: int  # the interval's beginning, ns
    exchange: str
    symbol: str
    open: float
    high: float
    low: float
    close: float
    volume: float
    buy_volume: float  # the taker bought
    sell_volume: float
    quote_volume: float  # the sum of price times amount
    vwap: float  # quote_volume / volume
    count: int  # type: ignore[assignment]  # trades; nobody needs the tuple's own count
    buy_count: int
    sell_count: int
    whole: bool


class _Sum:
    """What was traded in one interval so far."""

    __slots__ = (
        "buy_count", "buys", "close", "count", "first", "high", "last", "low", "open", "sell_count", "sells", "value",
        "volume",
    )  # fmt: skip

    def __init__(self, price: Decimal) -> None:
        self.open = self.high = self.low = self.close = price
        self.first, self.last = 1 << 63, -1  # times of `open` and `close`
        self.volume = self.buys = self.sells = self.value = _NOTHING
        self.count = self.buy_count = self.sell_count = 0

    def add(self, ts: int, price: Decimal, amount: Decimal, value: Decimal, side: str) -> None:
        add = _EXACT.add
        self.count += 1
        self.volume, self.value = add(self.volume, amount), add(self.value, value)
        if side == "buy":
            self.buy_count += 1
            self.buys = add(self.buys, amount)
        elif side == "sell":
            self.sell_count += 1
            self.sells = add(self.sells, amount)
        if price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        if ts >= self.last:
            self.close, self.last = price, ts
        if ts < self.first:
            self.open, self.first = price, ts

    def bar(self, ts: int, key: Key, *, whole: bool) -> Bar:
        return Bar(
            ts, key[0], key[1], float(self.open), float(self.high), float(self.low), float(self.close),
            float(self.volume), float(self.buys), float(self.sells), float(self.value),
            float(_EXACT.divide(self.value, self.volume)) if self.volume else nan,
            self.count, self.buy_count, self.sell_count, whole,
        )  # fmt: skip


class Bars:
    """The state machine: events in their order in, finished bars out, symbols apart.

    `channel` is `trade` or `agg_trade`; other events only move the clock, so that a quiet symbol's intervals end too.
    Trades off the book (those with a `type`) are left out, as in exchanges' candles. `wait`, by ts_event: how long
    after its end a bar stays open for trades out of order; what comes even later is left out and counted in `too_late`.
    By ts_recv, what comes after the clock was set back counts as received at the last time before. `start` (ns) and
    `symbols` (exchange, symbol) make rows from there on, before the first event too. Raises BadRequestError for what is
    no interval.
    """

    def __init__(
        self,
        interval: Interval,
        *,
        by: By = "ts_recv",
        channel: str = "trade",
        wait: Interval = WAIT,
        start: int | None = None,
        symbols: Iterable[Key] = (),
        observed: Observed | None = None,
    ) -> None:
        self.too_late = 0
        self._by_event, self._channel = by == "ts_event", channel
        self._grid = Grid(interval, by, wait if self._by_event else 0, start)
        self._observed = observed or Observed(channel, start)
        self._closes: dict[Key, float] = dict.fromkeys(symbols, nan)
        self._open: dict[int, dict[Key, _Sum]] = {}

    def take(self, event: Event) -> Sequence[Bar]:
        """Take one event; returns the bars that it shows to be over."""
        grid, key = self._grid, (event["exchange"], event["symbol"])
        ts = grid.time(event) if self._by_event or event["channel"] == GAP else event["ts_recv"]
        if event["channel"] == self._channel:
            self._observed.see(key, event, ts)
            finished = self._finished(grid.passed(ts)) if ts >= grid.due else ()
            if event.get("type") is None:
                self._add(key, event, ts)
            return finished
        if event["channel"] == GAP:
            if ts >= 0:
                self._take_gap(key, event, ts)
            if ts < 0 or self._by_event:
                return ()
        return self._finished(grid.passed(ts)) if ts >= grid.due else ()

    def advance(self, ts: int) -> Sequence[Bar]:
        """Nothing before this time (ns) comes any more: returns the bars that end there."""
        return self._finished(self._grid.passed(ts))

    def end(self, ts: int | None = None) -> Sequence[Bar]:
        """The stream ends, at a time or with its last event: the rest, an interval that is cut there not `whole`."""
        grid = self._grid
        if grid.begin < 0:
            return ()
        until = self._observed.until = grid.now if ts is None else max(ts, grid.now)
        finished = self._finished(grid.finish(until))
        if until > grid.begin or grid.begin in self._open:
            finished += self._finished(grid.finish(grid.begin + grid.ns))
        return finished

    def _add(self, key: Key, event: Event, ts: int) -> None:
        """Count a trade in its bar."""
        grid = self._grid
        if not self._by_event:
            if ts < grid.now:
                ts = grid.now
            grid.now = ts
        begin = ts - ts % grid.ns
        if begin < grid.begin:
            self.too_late += 1
            return
        try:
            price, amount = _EXACT.create_decimal(event["price"]), _EXACT.create_decimal(event["amount"])
            value = _EXACT.multiply(price, amount)
        except (ArithmeticError, TypeError, ValueError):
            value = _UNREAD
        if not value.is_finite():
            self._closes.setdefault(key, nan)
            self._observed.spoil(key, ts)
            return
        sums = self._open.get(begin)
        if sums is None:
            sums = self._open[begin] = {}
        found = sums.get(key)
        if found is None:
            found = sums[key] = _Sum(price)
            self._closes.setdefault(key, nan)
        found.add(ts, price, amount, value, event["side"])

    def _take_gap(self, key: Key, event: Event, ts: int) -> None:
        if self._channel not in event.get("channels", (self._channel,)):
            return
        observed = self._observed
        if self._by_event and event["ts_recv"] is not None:
            ts = event["ts_recv"]  # gaps have no other time
        observed.see(key, event, ts)
        observed.gap(key, event, ts, repaired=self._by_event and event["state"] == "backfilled")
        if "last_id" in event or event.get("reason") == SKIPPED:  # what is missing ends before the event that shows it
            observed.close(key, event["gap"], ts)

    def _finished(self, begins: range) -> list[Bar]:
        rows: list[Bar] = []
        if not begins:
            return rows
        closes, observed, keys = self._closes, self._observed, sorted(self._closes)
        for begin in begins:
            sums = self._open.pop(begin, {})
            for key in keys:
                whole = observed.whole(key, begin, begin + begins.step)
                found = sums.get(key)
                if found is not None:
                    rows.append(found.bar(begin, key, whole=whole))
                    closes[key] = rows[-1].close
                else:
                    last = closes[key]
                    rows.append(Bar(begin, *key, last, last, last, last, 0.0, 0.0, 0.0, 0.0, nan, 0, 0, 0, whole))
        return rows


def bars(
    events: Iterable[Event],
    interval: Interval = "1m",
    *,
    by: By = "ts_recv",
    channel: str = "trade",
    wait: Interval = WAIT,
) -> Iterator[Bar]:
    """Bars out of any stream of events in their order: a slice's, a follower's, a replay's. See `Bar` and `Bars`.

    Live, an interval ends with the first event after it (follow a busy channel beside a quiet one); a gap is known
    when it is noticed, so that a bar may have been given out as `whole` that a slice will not call so.
    """
    machine = Bars(interval, by=by, channel=channel, wait=wait)
    for event in events:
        if finished := machine.take(event):
            yield from finished
    yield from machine.end()
