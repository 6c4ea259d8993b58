"""A book that keeps its prices in order is the same book as one that sorts them when asked."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from common.book import BEST, Book, BookRule, BookSync, RankedBook
from common.events import Update

PRICES = st.sampled_from(["1", "1.0", "1.00", "0.5", "9", "10", "10.5", "100", "2e-3", "0.002", "3", "4", "5", "6"])
LEVELS = st.lists(st.tuples(PRICES, st.sampled_from(["0", "0.00", "1", "2.50", "0.0010"])), max_size=6)
STEP = st.tuples(st.sampled_from(["apply", "replace", "cut"]), LEVELS, LEVELS, st.integers(1, 6))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(STEP, max_size=12))
def test_a_ranked_book_holds_what_a_plain_one_does_in_the_order_of_its_prices(
    steps: list[tuple[str, list[tuple[str, str]], list[tuple[str, str]], int]],
) -> None:
    plain, ranked = Book(), RankedBook()
    for what, bids, asks, depth in steps:
        for book in (plain, ranked):
            if what == "cut":
                book.cut(depth)
            else:
                getattr(book, what)(bids, asks)
        if what == "cut":  # of prices written in two ways either may go
            assert [len(plain.bids), len(plain.asks)] == [len(ranked.bids), len(ranked.asks)]
            plain.bids, plain.asks = dict(ranked.bids), dict(ranked.asks)
        assert (plain.bids, plain.asks) == (ranked.bids, ranked.asks)
        for prices, side, sign in ((ranked.bid_prices, ranked.bids, -1), (ranked.ask_prices, ranked.asks, 1)):
            assert sorted(prices) == sorted(side) and sorted(ranks := [sign * float(p) for p in prices]) == ranks
        floats = [[float(price) for price, _ in side] for side in plain.top(3)]
        assert floats == [[float(price) for price, _ in side] for side in ranked.top(3)]


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
