"""Books key their levels by number and keep the digits, whether they keep prices in order or sort on demand."""

from decimal import Decimal
from math import isnan
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.book import BEST, Book, BookRule, RankedBook, crossed
from common.book_snapshots import BookSnapshots
from common.book_sync import BookSync
from common.events import Snapshot, Update
from common.normaliser import Normaliser
from common.record import decode

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"

LONG = "123456789012345678901234."  # float64 cannot tell apart what comes after the point
SPELLED = st.sampled_from(
    [
        "1", "1.0", "1.00", "01.0", "0.5", "9", "10", "1e1", "10.5", "100", "2e-3", "0.002", "3",
        LONG + "100", LONG + "101", LONG + "1",
    ]
)  # fmt: skip
FIXED = st.integers(1, 12).map(lambda number: f"{number / 4:.2f}")  # the count of decimals stays the same
PRICES = st.one_of(FIXED, FIXED, FIXED, SPELLED)
LEVELS = st.lists(
    st.tuples(PRICES, st.sampled_from(["0", "0.00", "0E-8", "0e0", "-0", "1", "2.50", "0.0010", "1E-400"])), max_size=6
)
STEP = st.tuples(st.sampled_from(["apply", "replace", "cut"]), LEVELS, LEVELS, st.integers(1, 6))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(STEP, max_size=12))
def test_books_have_one_level_for_each_number_in_its_newest_spelling_in_exact_order(
    steps: list[tuple[str, list[tuple[str, str]], list[tuple[str, str]], int]],
) -> None:
    plain, ranked = Book(), RankedBook()
    right: list[dict[Decimal, tuple[str, str]]] = [{}, {}]
    for what, bids, asks, depth in steps:
        for book in (plain, ranked):
            if what == "cut":
                book.cut(depth)
            else:
                getattr(book, what)(bids, asks)
        for side, levels in enumerate((bids, asks)):
            if what == "cut":
                for price in sorted(right[side], reverse=side == 0)[depth:]:
                    del right[side][price]
                continue
            if what == "replace":
                levels = [level for level in levels if Decimal(level[1])]
                right[side].clear()
            for price, amount in levels:
                right[side].pop(Decimal(price), None)
                if Decimal(amount):
                    right[side][Decimal(price)] = (price, amount)
        tops = [[level for _, level in sorted(levels.items(), reverse=side == 0)] for side, levels in enumerate(right)]
        assert list(plain.top()) == list(ranked.top()) == tops
        assert (plain.bids, plain.asks) == (ranked.bids, ranked.asks) == (dict(tops[0]), dict(tops[1]))
        is_crossed = all(right) and max(right[0]) >= min(right[1])
        assert crossed(plain) == crossed(ranked) == is_crossed


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(5, 40))
def test_what_a_check_made_of_the_best_stands_only_while_they_do(seed: int, depth: int) -> None:
    random, book = Random(seed), RankedBook()

    def levels() -> list[tuple[str, str]]:
        prices = ("%d", "%d.0", "%d.00")  # one price, written in several ways
        return [
            (random.choice(prices) % random.randint(1, 20), random.choice("012")) for _ in range(random.randint(0, 3))
        ]

    for _ in range(60):
        book.apply(levels(), levels())
        book.cut(depth)
        bids, asks = (repr(side).encode() for side in book.top(BEST))
        assert book.best_bids in (None, bids) and book.best_asks in (None, asks)
        book.best_bids, book.best_asks = bids, asks


def test_a_book_of_prices_alike_needs_no_index_and_one_of_another_shape_brings_it() -> None:
    """The index costs memory and time: an exchange that keeps to one count of decimals does without."""
    book = Book()
    book.replace([("8442.65", "1"), ("0.10", "2")], [("8443.10", "1")])
    book.apply([("8442.70", "3"), ("0.10", "0.00"), ("7.00", "0")], [("8443.20", "0.001")])
    assert book._numbers is None
    book.apply([("8442.6500", "0E-8")], [("8.44310e3", "0.25")])
    assert book.top() == ([("8442.70", "3")], [("8.44310e3", "0.25"), ("8443.20", "0.001")])


def records(name: str) -> list[bytes]:
    path = CASES / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path.read_bytes().splitlines()


@pytest.mark.parametrize(
    ("exchange", "name", "symbol", "right"),
    [
        (
            "coinbase",
            "price-two-spellings-coinbase.jsonl",
            "BTC-USD",
            ([("8442.60", "3")], [("8443.10000000", "0.25000000"), ("8443.20", "2")]),
        ),
        ("htx", "zero-with-exponent-htx.jsonl", "aidogeusdt", ([("9.4E-11", "5.0")], [("9.489E-11", "1.0")])),
    ],
)
def test_the_book_of_a_case_has_each_level_once_live_restored_and_in_snapshots(
    exchange: str, name: str, symbol: str, right: tuple[list[tuple[str, str]], list[tuple[str, str]]]
) -> None:
    adapter = exchanges.get(exchange)
    normaliser = Normaliser(adapter)
    events = [event for line in records(name) for _, event in normaliser.record(decode(line))]
    sync = normaliser.symbols[symbol].sync
    assert sync.book.top() == BookSync.restored(sync.state(), adapter.BOOK).book.top() == right
    machine = BookSnapshots(2)
    for event in events:
        machine.take(event)
    (row,) = machine.advance(events[-1]["ts_recv"] + 10**9)[-1:]
    pairs = [zip(row.levels[at::4], row.levels[at + 1 :: 4], strict=True) for at in (0, 2)]
    levels = [[pair for pair in side if not isnan(pair[0])] for side in pairs]
    assert levels == [[(float(price), float(amount)) for price, amount in side] for side in right]


def test_a_book_is_ranked_where_its_rule_has_a_depth_or_a_check_and_after_a_checkpoint_too() -> None:
    rule = BookRule("stream", "none", depth=2)
    sync = BookSync(rule)
    sync.begin(Update("book", "X", 1, 1, None, {"type": "snapshot", "bids": [["1", "1"], ["2", "1"]], "asks": []}))
    again = BookSync.restored(sync.state(), rule)
    for each in (sync, again):
        delta = {"type": "delta", "bids": [["3", "1"]], "asks": []}
        assert each.delta(Update("book", "X", 2, 2, None, delta))
        assert each.book.top() == ([("3", "1"), ("2", "1")], []) and isinstance(each.book, RankedBook)
    assert type(BookSync(BookRule("rest", "range")).book) is Book


@pytest.mark.parametrize("exchange", ["binance-usdm", "binance-coinm"])
def test_a_delta_that_ends_with_the_snapshot_brings_its_levels_beyond_the_snapshots_depth(exchange: str) -> None:
    """Drop any event where u is < lastUpdateId in the snapshot. Spot drops u <= lastUpdateId: it has its own test."""
    deep = Update("book", "BNBUSDT", 96, 105, None, {"type": "delta", "bids": [["1.5", "7"]], "asks": []})
    sync = BookSync(exchanges.get(exchange).BOOK)
    sync.delta(deep)
    assert sync.snapshot(Snapshot("BNBUSDT", 105, None, [("2", "1")], [])) == [deep]
    assert sync.book.top() == ([("2", "1"), ("1.5", "7")], []) and not sync.breaks(
        Update("book", "BNBUSDT", 106, 130, None, {})
    )
    sync.rejoin()
    assert not sync.delta(deep), "a second connection brings it again"
