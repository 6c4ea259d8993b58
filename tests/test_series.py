"""Bars and book snapshots: equal to what a naive reading says, without a look ahead, live as from a slice."""

import itertools
import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.bars import Bars, bars
from common.book import Book
from common.book_snapshots import BookSnapshots, book_snapshots
from common.errors import BadRequestError
from common.events import Event
from common.observed import Observed

SECOND = 10**9
T0 = 1_723_161_240 * SECOND  # a whole minute
NUMBERS = itertools.count(1)


def event(channel: str, ts: int, symbol: str = "BTCUSDT", **fields: Any) -> Event:
    seq = next(NUMBERS)
    return {
        "exchange": "binance", "channel": channel, "symbol": symbol, "seq": seq, "prev": 0,
        "ts_event": ts - 1000, "ts_recv": ts, **fields,
    }  # fmt: skip


def trade(ts: int, price: str = "100.00", amount: str = "1.5", side: str = "buy", **fields: Any) -> Event:
    return event("trade", ts, price=price, amount=amount, side=side, **fields)


def snapshot(ts: int, bids: list[list[str]], asks: list[list[str]], **fields: Any) -> Event:
    return event("book", ts, type="snapshot", bids=bids, asks=asks, **fields)


def delta(ts: int, bids: list[list[str]], asks: list[list[str]], **fields: Any) -> Event:
    return event("book", ts, type="delta", bids=bids, asks=asks, **fields)


def gap(ts: int | None, state: str, number: int, ts_from: int | None, **fields: Any) -> Event:
    fields = {"reason": "disconnected", "channels": ["trade"], "ts_to": None, **fields}
    return event("gap", ts or 0, gap=number, state=state, ts_from=ts_from, **fields) | {"ts_event": None, "ts_recv": ts}


def same(one: Any, other: Any) -> bool:
    """Equal rows, NaN equal to NaN."""
    return repr(list(one)) == repr(list(other))


PRICES = st.decimals(min_value=1, max_value=10**6, places=8).map(str)
AMOUNTS = st.decimals(min_value="0.00000001", max_value=10**4, places=8).map(str)
SIDES = st.sampled_from(["buy", "sell", "unknown"])
STEPS = st.integers(0, 3 * SECOND)
SYMBOLS = st.sampled_from(["AAA", "BBB"])


# -- bars ----------------------------------------------------------------------------------------------------------


def naive_bars(trades: list[Event], interval: int) -> Iterable[tuple[Any, ...]]:
    """What a bar is, said plainly."""
    first = {symbol: next(one for one in trades if one["symbol"] == symbol) for symbol in {t["symbol"] for t in trades}}
    begin, last = trades[0]["ts_recv"] // interval * interval, trades[-1]["ts_recv"]
    closes = dict.fromkeys(first, math.nan)
    for ts in range(begin, last + 1, interval):
        for symbol in sorted(first):
            if first[symbol]["ts_recv"] >= ts + interval:
                continue
            mine = [one for one in trades if one["symbol"] == symbol and ts <= one["ts_recv"] < ts + interval]
            prices = [float(one["price"]) for one in mine] or [closes[symbol]]
            closes[symbol] = prices[-1]
            amounts = {side: Decimal(0) for side in ("buy", "sell", "unknown")}
            for one in mine:
                amounts[one["side"]] += Decimal(one["amount"])
            volume, value = sum(amounts.values()), sum(Decimal(one["price"]) * Decimal(one["amount"]) for one in mine)
            yield (
                ts, "binance", symbol, prices[0], max(prices), min(prices), prices[-1], float(volume),
                float(amounts["buy"]), float(amounts["sell"]), float(value),
                float(value / volume) if volume else math.nan, len(mine),
                sum(one["side"] == "buy" for one in mine), sum(one["side"] == "sell" for one in mine),
            )  # fmt: skip


@given(st.lists(st.tuples(STEPS, SYMBOLS, PRICES, AMOUNTS, SIDES), min_size=1, max_size=40))
def test_bars_of_any_trades_are_what_a_naive_reading_says(steps: list[tuple[int, str, str, str, str]]) -> None:
    now, trades = T0 + 7, []
    for step, symbol, price, amount, side in steps:
        now += step
        trades.append(trade(now, price, amount, side, symbol=symbol))
    assert same([tuple(bar)[:-1] for bar in bars(trades, "2s")], naive_bars(trades, 2 * SECOND))


def test_empty_intervals_carry_the_close_and_have_no_vwap() -> None:
    found = list(bars([trade(T0 + 1, "100"), trade(T0 + 3 * SECOND, "101", "2", "sell")], "1s"))
    assert [bar.ts for bar in found] == [T0, T0 + SECOND, T0 + 2 * SECOND, T0 + 3 * SECOND]
    empty = found[1]
    assert (empty.open, empty.high, empty.low, empty.close, empty.volume, empty.count) == (100, 100, 100, 100, 0, 0)
    assert math.isnan(empty.vwap)
    assert [bar.whole for bar in found] == [False, True, True, False]  # the first and the last are cut


def test_a_taker_who_is_unknown_counts_in_volume_alone() -> None:
    (bar,) = bars([trade(T0, side="unknown"), trade(T0, side="sell", amount="2")], "1s")
    assert (bar.volume, bar.buy_volume, bar.sell_volume) == (3.5, 0, 2)
    assert (bar.count, bar.buy_count, bar.sell_count) == (2, 0, 1)


def test_sums_have_no_error_of_their_own() -> None:
    (bar,) = bars([trade(T0, "1", "0.1") for _ in range(100_000)], "1s")
    assert (bar.volume, bar.vwap) == (10_000.0, 1.0)


def test_trades_off_the_book_are_left_out() -> None:
    (bar,) = bars([trade(T0, "100"), trade(T0 + 1, "7", type="block")], "1s")
    assert (bar.low, bar.count) == (100, 1)


@pytest.mark.parametrize("price", ["", "abc", "NaN", "Infinity", "1e999999999", None])
def test_a_price_that_is_none_makes_its_bar_not_whole(price: Any) -> None:
    found = list(bars([trade(T0), trade(T0 + SECOND), trade(T0 + SECOND + 1, price), trade(T0 + 3 * SECOND)], "1s"))
    assert [(bar.count, bar.whole) for bar in found] == [(1, True), (1, False), (0, True), (1, False)]


def test_a_clock_set_back_loses_no_trade() -> None:
    found = list(bars([trade(T0 + 5 * SECOND, "1"), trade(T0, "2"), trade(T0 + 6 * SECOND, "3")], "1s"))
    assert [(bar.ts - T0, bar.open, bar.close, bar.count) for bar in found] == [
        (5 * SECOND, 1, 2, 2),
        (6 * SECOND, 3, 3, 1),
    ]


def test_a_clock_that_leaps_over_decades_is_refused_with_a_sentence() -> None:
    with pytest.raises(BadRequestError, match="intervals at once"):
        list(bars([trade(5), trade(T0)], "1s"))


@pytest.mark.parametrize("interval", ["", "1", "-1s", "0s", 0, True, None, "1y", 1.5])
def test_what_is_no_interval_is_refused(interval: Any) -> None:
    with pytest.raises(BadRequestError, match="interval"):
        Bars(interval)
    with pytest.raises(BadRequestError, match="by="):
        Bars("1s", by="ts")


def test_bars_whose_trades_were_missed_are_not_whole_and_go_on_after() -> None:
    stream = [
        trade(T0), trade(T0 + SECOND), gap(T0 + 3 * SECOND, "open", 7, T0 + SECOND),
        gap(T0 + 4 * SECOND + 5, "closed", 7, T0 + SECOND), trade(T0 + 4 * SECOND + 5), trade(T0 + 6 * SECOND),
    ]  # fmt: skip
    assert [bar.whole for bar in bars(stream, "1s")] == [True, False, False, False, False, True, False]
    other = [one | {"channels": ["book"]} if one["channel"] == "gap" else one for one in stream]
    assert [bar.whole for bar in bars(other, "1s")] == [True, True, True, True, True, True, False]


def test_many_gaps_are_told_of_one_by_one_and_cost_little() -> None:
    """A slice's gaps answer for all its rows at the end; a stream remembers the newest."""
    observed, key = Observed("trade", keep_all=True), ("binance", "BTCUSDT")
    machine = Bars("1s", observed=observed)
    for place in range(3000):
        ts = T0 + place * 10 * SECOND
        machine.take(trade(ts))
        machine.take(gap(ts + 2 * SECOND, "open", place, ts + SECOND + 1))
        machine.take(gap(ts + 3 * SECOND, "closed", place, ts + SECOND + 1))
    machine.end()
    observed.settle()
    whole = [observed.whole(key, T0 + each * SECOND, T0 + (each + 1) * SECOND) for each in range(29_990)]
    assert whole == [each % 10 not in (1, 2, 3) for each in range(29_990)]


def test_backfilled_trades_lie_where_they_were_learned_or_by_ts_event_in_their_place() -> None:
    ids = {"reason": "sequence", "first_id": "2", "last_id": "2"}
    late = trade(T0 + 4 * SECOND, "50", late=True, gap=9) | {"ts_event": T0 + SECOND // 2}
    stream = [
        trade(T0), gap(T0 + SECOND, "open", 9, T0, **ids), trade(T0 + SECOND + 1000), trade(T0 + 3 * SECOND), late,
        gap(T0 + 4 * SECOND, "backfilled", 9, T0), trade(T0 + 6 * SECOND),
    ]  # fmt: skip
    found = list(bars(stream, "1s"))
    assert [(bar.count, bar.whole) for bar in found[:6]] == [
        (1, False), (1, False), (0, True), (1, True), (1, False), (0, True),
    ]  # fmt: skip
    theirs = {bar.ts - T0: bar for bar in bars(stream, "1s", by="ts_event", wait="1h")}
    assert (theirs[0].count, theirs[0].low, theirs[4 * SECOND].count) == (1, 50, 0)
    assert theirs[0].whole and theirs[SECOND].whole
    machine = Bars("1s", by="ts_event", wait="1s")
    assert [bar for one in stream for bar in machine.take(one)]
    assert machine.too_late == 1


@pytest.mark.parametrize("by", ["ts_recv", "ts_event"])
def test_a_gap_of_unknown_time_before_anything_else_does_no_harm(by: str) -> None:
    odd = gap(None, "open", 3, None, reason="history does not answer", first_seq=1, last_seq=2)
    assert [bar.count for bar in bars([odd, trade(T0), odd, trade(T0 + SECOND)], "1s", by=by)] == [1, 1]
    assert list(book_snapshots([odd], 2, "1s", by=by)) == []


@given(st.lists(st.tuples(STEPS, SYMBOLS, st.booleans()), min_size=2, max_size=30))
def test_time_that_passes_without_events_gives_the_same_bars(steps: list[tuple[int, str, bool]]) -> None:
    now, machine, found, stream = T0, Bars("1s"), [], []
    for step, symbol, tells in steps:
        now += step
        stream.append(trade(now, symbol=symbol))
        if tells:
            found += machine.advance(now)
        found += machine.take(stream[-1])
    found += machine.end()
    assert same(found, bars(stream, "1s"))


# -- book snapshots ------------------------------------------------------------------------------------------------

LEVELS = st.lists(
    st.tuples(st.integers(1, 12).map(str), st.sampled_from(["0", "0.00", "1.5", "2", "7"])).map(list), max_size=6
)


def naive_levels(events: list[Event], symbol: str, ts: int, depth: int) -> list[float]:
    """The book as `common.book` keeps it, of all events before a time, sorted as a whole."""
    book, known = Book(), False
    for one in events:
        if one["symbol"] == symbol and one["ts_recv"] < ts and one["channel"] == "book":
            if one["type"] == "snapshot":
                known = True
                book.replace(one["bids"], one["asks"])
            elif known:
                book.apply(one["bids"], one["asks"])
    sides = [[*side, *[(math.nan, math.nan)] * depth][:depth] for side in book.top(depth)]
    return [float(cell) for bid, ask in zip(*sides, strict=True) for cell in (*bid, *ask)]


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    now, made = T0 + 3, []
    for step, symbol, is_snapshot, bids, asks in draw(
        st.lists(st.tuples(STEPS, SYMBOLS, st.integers(0, 4).map(lambda n: n == 0), LEVELS, LEVELS), max_size=25)
    ):
        now += step
        made.append((snapshot if is_snapshot else delta)(now, bids, asks, symbol=symbol))
    return made


@given(streams(), st.integers(1, 8))
def test_book_snapshots_are_what_sorting_the_whole_book_says(stream: list[Event], depth: int) -> None:
    for row in book_snapshots(stream, depth, "1s"):
        assert repr(list(row.levels)) == repr(naive_levels(stream, row.symbol, row.ts, depth))


@given(streams(), streams())
def test_no_snapshot_and_no_bar_knows_what_comes_at_its_end_or_later(stream: list[Event], other: list[Event]) -> None:
    """Whatever happens from a moment on, rows up to it stay the same."""
    ends = [row.ts for row in book_snapshots(stream, 3, "1s")]
    for end in ends[:: max(1, len(ends) // 3)]:
        future = [one | {"ts_recv": one["ts_recv"] - T0 + end, "ts_event": None} for one in other]
        changed = [one for one in stream if one["ts_recv"] < end] + [
            snapshot(end, [["9", "9"]], [["10", "9"]]),
            *future,
        ]
        before = [row for row in book_snapshots(stream, 3, "1s") if row.ts <= end]
        assert same((row for row in book_snapshots(changed, 3, "1s") if row.ts <= end), before)


def test_an_event_at_the_end_itself_is_in_the_next_snapshot() -> None:
    stream = [
        snapshot(T0, [["1", "1"]], [["2", "1"]]),
        delta(T0 + SECOND, [["1.5", "1"]], []),
        delta(T0 + 2 * SECOND, [], []),
    ]
    assert [(row.ts - T0, row.levels[0]) for row in book_snapshots(stream, 1, "1s")] == [(SECOND, 1), (2 * SECOND, 1.5)]


def test_a_gap_makes_the_book_unknown_until_its_next_snapshot() -> None:
    book = {"channels": ["book"]}
    stream = [
        snapshot(T0, [["1", "1"]], [["2", "1"]]), delta(T0 + SECOND // 2, [["1.1", "1"]], []),
        gap(T0 + 2 * SECOND + 5, "open", 3, T0 + SECOND + 5, **book),
        event("quote", T0 + 3 * SECOND),
        snapshot(T0 + 4 * SECOND + 5, [["1.2", "1"]], [["2", "1"]]),
        gap(T0 + 4 * SECOND + 5, "closed", 3, T0 + SECOND + 5, **book), delta(T0 + 6 * SECOND, [], []),
    ]  # fmt: skip
    found = list(book_snapshots(stream, 1, "1s"))
    assert [row.whole for row in found] == [True, False, False, False, True, True]
    assert [row.whole for row in found] == [not math.isnan(row.levels[0]) for row in found]
    assert found[0].levels[0] == 1.1 and found[4].levels[0] == 1.2


def test_a_gap_that_never_closes_ends_with_a_snapshot() -> None:
    hole = gap(None, "open", 3, None, reason="history does not answer", first_seq=1, last_seq=2, channels=["book"])
    stream = [
        snapshot(T0, [["1", "1"]], []),
        hole,
        delta(T0 + SECOND, [], []),
        snapshot(T0 + 2 * SECOND, [], [["2", "1"]]),
    ]
    stream.append(delta(T0 + 3 * SECOND, [], []))
    assert [row.whole for row in book_snapshots(stream, 1, "1s")] == [False, False, True]


@pytest.mark.parametrize("level", [["abc", "1"], ["1", None], ["1"]])
def test_a_level_that_is_none_makes_the_book_unknown_until_its_next_snapshot(level: Any) -> None:
    stream = [snapshot(T0, [["1", "1"]], []), delta(T0 + SECOND, [level], []), delta(T0 + 2 * SECOND, [["1", "2"]], [])]
    stream += [snapshot(T0 + 3 * SECOND, [["1", "1"]], []), delta(T0 + 4 * SECOND, [], [])]
    assert [row.whole for row in book_snapshots(stream, 1, "1s")] == [True, False, False, True]


def test_rows_that_were_given_out_do_not_change() -> None:
    machine = BookSnapshots(1, "1s")
    machine.take(snapshot(T0, [["1", "1"]], []))
    (row,) = machine.advance(T0 + SECOND)
    machine.take(delta(T0 + SECOND, [["3", "1"]], []))
    assert row.levels[0] == 1
    row.levels[0] = 7  # a row belongs to who got it
    assert [row.levels[0] for row in machine.advance(T0 + 2 * SECOND)] == [3]


@pytest.mark.parametrize("depth", [0, -1, 10**9])
def test_a_depth_that_no_book_has_is_refused(depth: int) -> None:
    with pytest.raises(BadRequestError, match="depth"):
        BookSnapshots(depth)


# -- gaps of any kind ----------------------------------------------------------------------------------------------

GAPS = st.builds(
    lambda state, number, back, fields: (state, number, back, fields),
    st.sampled_from(["open", "closed", "backfilled", "withdrawn"]), st.integers(1, 4), st.none() | st.integers(0, 9),
    st.sampled_from([{}, {"reason": "restart"}, {"last_id": "7"}, {"first_seq": 1, "last_seq": 2}, {"ts": None}]),
)  # fmt: skip


@given(streams(), st.lists(st.tuples(st.integers(0, 25), GAPS), max_size=6), st.sampled_from(["ts_recv", "ts_event"]))
def test_gaps_change_no_number_but_only_say_what_is_not_whole(
    stream: list[Event], gaps: list[tuple[int, Any]], by: str
) -> None:
    """Of bars the numbers stay; a book is as it was, or not known."""
    stream = [one | {"ts_event": one["ts_recv"] - 5} for one in stream]
    trades = [trade(one["ts_recv"], symbol=one["symbol"]) for one in stream]
    torn, torn_trades = list(stream), list(trades)
    for place, (state, number, back, fields) in gaps:
        if place < len(stream):
            ts = stream[place]["ts_recv"]
            first = None if back is None else ts - back * SECOND // 2
            fields = {"channels": ["trade", "book"], **fields}
            told = gap(ts, state, number, first, **{key: value for key, value in fields.items() if key != "ts"})
            told |= {"ts_recv": fields.get("ts", ts), "symbol": stream[place]["symbol"]}
            torn.insert(torn.index(stream[place]), told)
            torn_trades.insert(torn_trades.index(trades[place]), told)
    plain, seen = list(bars(trades, "1s", by=by)), list(bars(torn_trades, "1s", by=by))
    assert same((bar[:-1] for bar in seen), (bar[:-1] for bar in plain))
    books = list(book_snapshots(stream, 2, "1s", by=by))
    for row, other in zip(book_snapshots(torn, 2, "1s", by=by), books, strict=True):
        assert same([row], [other]) or (row[:3] == other[:3] and not row.whole and all(map(math.isnan, row.levels)))
