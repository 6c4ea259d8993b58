"""Order books: the levels of each side, by the numbers of their prices, and the rule of an exchange's books."""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import lru_cache
from math import inf
from typing import Any, Literal, NamedTuple

from .events import Level

BEST = 10
"""Levels a side that a check may look at, of a RankedBook."""

ZEROS = frozenset({"0", *("0." + "0" * digits for digits in range(31))})
"""Zero as exchanges mostly write it. `is_zero` knows it however it is written."""

_Index = dict[Decimal | str, str]


class Book:
    """Price to amount, both as the exchange wrote them, one level for each number. About 140 bytes a level.

    A text is the key. While all prices are plain and have the same count of decimals, texts differ only where numbers
    do: a new text needs one look at its shape. A price of another shape brings an index by number into use, until the
    next snapshot. An exchange changes the count with its tick size.
    """

    __slots__ = ("_numbers", "_point", "asks", "bids")

    def __init__(self) -> None:
        self.bids: dict[str, str] = {}
        self.asks: dict[str, str] = {}
        self._point = 0  # where each price has its point, from its end; 0: not all have it there
        self._numbers: tuple[_Index, _Index] | None = ({}, {})  # the price of each number, where there is no such point

    def replace(self, bids: list[Level], asks: list[Level]) -> None:
        self.bids = {price: amount for price, amount in bids if not is_zero(amount)}
        self.asks = {price: amount for price, amount in asks if not is_zero(amount)}
        first = next(iter(self.bids or self.asks), "")
        self._point = first.find(".") - len(first) if "." in first else 0
        if self._point and all(_has_point(price, self._point) for side in (self.bids, self.asks) for price in side):
            self._numbers = None
        else:
            self._numbers = _indexed(self.bids), _indexed(self.asks)

    def apply(self, bids: list[Level], asks: list[Level]) -> None:
        """Absolute amounts; zero removes a level, known or not."""
        if self._numbers is not None:
            self._apply_by_number(bids, asks)
            return
        zeros, point = ZEROS, self._point
        try:
            for side, levels in ((self.bids, bids), (self.asks, asks)):
                for price, amount in levels:
                    if amount in zeros or (not float(amount) and is_zero(amount)):
                        is_known = side.pop(price, None) is not None
                    else:
                        is_known = price in side
                        side[price] = amount
                    if not is_known and not (  # `_has_point` without the call
                        price[point] == "." and (price >= "1" or price[1] == ".")
                        and "E" not in price and "e" not in price
                    ):  # fmt: skip
                        raise IndexError
        except (IndexError, ValueError):
            self._numbers = _indexed(self.bids), _indexed(self.asks)
            self._apply_by_number(bids, asks)  # from the beginning: amounts are absolute

    def _apply_by_number(self, bids: list[Level], asks: list[Level]) -> None:
        for side, numbers, levels in zip((self.bids, self.asks), self._numbers or (), (bids, asks), strict=True):
            for price, amount in levels:
                key = number(price)
                if (known := numbers.get(key, price)) != price:
                    del side[known]
                if is_zero(amount):
                    side.pop(price, None)
                    numbers.pop(key, None)
                else:
                    side[price], numbers[key] = amount, price

    def cut(self, depth: int) -> None:
        """Drop the worst levels of a side beyond a depth."""
        bids, asks = self.top(depth)
        self.replace(bids, asks)

    def top(self, depth: int | None = None) -> tuple[list[Level], list[Level]]:
        """Bids and asks from the best on, at most `depth` levels a side."""
        bids = [(price, self.bids[price]) for price in ranked(self.bids, reverse=True)[:depth]]
        return bids, [(price, self.asks[price]) for price in ranked(self.asks)[:depth]]


class RankedBook(Book):
    """A book that keeps its prices in order, the best first: for exchanges whose rule looks at the best or the worst.

    Prices must be texts of numbers. About 220 bytes a level.
    """

    __slots__ = ("_ask_ranks", "_bid_ranks", "ask_prices", "best_asks", "best_bids", "bid_prices")

    def __init__(self) -> None:
        super().__init__()
        self.best_bids: bytes | None = None  # what a check made of a side's best; None once they may have changed
        self.best_asks: bytes | None = None
        self.bid_prices: list[str] = []
        self.ask_prices: list[str] = []
        self._bid_ranks: list[float] = []  # of each price, rising
        self._ask_ranks: list[float] = []

    def replace(self, bids: list[Level], asks: list[Level]) -> None:
        super().replace(bids, asks)
        self._numbers = None  # prices in order show those of one number
        self.best_bids = self.best_asks = None
        self.bid_prices = ranked(self.bids, reverse=True)
        self.ask_prices = ranked(self.asks)
        self._bid_ranks = [-float(price) for price in self.bid_prices]
        self._ask_ranks = [float(price) for price in self.ask_prices]

    def apply(self, bids: list[Level], asks: list[Level]) -> None:
        if bids:
            if self.best_bids is not None and _touch_best(self._bid_ranks, bids, -1.0):
                self.best_bids = None
            _apply_ranked(self.bids, self.bid_prices, self._bid_ranks, bids, -1)
        if asks:
            if self.best_asks is not None and _touch_best(self._ask_ranks, asks, 1.0):
                self.best_asks = None
            _apply_ranked(self.asks, self.ask_prices, self._ask_ranks, asks, 1)

    def cut(self, depth: int) -> None:
        if len(self.bid_prices) > depth:
            _cut_ranked(self.bids, self.bid_prices, self._bid_ranks, depth)
        if len(self.ask_prices) > depth:
            _cut_ranked(self.asks, self.ask_prices, self._ask_ranks, depth)

    def top(self, depth: int | None = None) -> tuple[list[Level], list[Level]]:
        bids = [(price, self.bids[price]) for price in self.bid_prices[:depth]]
        return bids, [(price, self.asks[price]) for price in self.ask_prices[:depth]]


def is_zero(amount: str) -> bool:
    """Whether an amount removes its level, however it is written: 0, 0.000, 0E-8, -0."""
    if amount in ZEROS:
        return True
    try:
        return amount < "1" and not float(amount) and not Decimal(amount)  # float64 takes tiny amounts for 0
    except (ValueError, ArithmeticError):
        return False


@lru_cache(1 << 12)
def number(price: str) -> Decimal | str:
    """A price's exact number, the same however it is written; the text itself where it is no number."""
    try:
        found = Decimal(price)
    except ArithmeticError:
        return price
    return found if found.is_finite() else price


def ranked(prices: Iterable[str], *, reverse: bool = False) -> list[str]:
    """Prices in the order of their numbers, exact where float64 cannot tell two apart. Raises ValueError."""
    floats = {price: float(price) for price in prices}
    if len(set(floats.values())) < len(floats):
        return sorted(floats, key=Decimal, reverse=reverse)
    return sorted(floats, key=floats.__getitem__, reverse=reverse)


def crossed(book: Book) -> bool:
    """Whether the best bid is at or above the best ask: where orders match at once, proof that deltas were lost."""
    if not book.bids or not book.asks:
        return False
    if isinstance(book, RankedBook):
        best_bid, best_ask = float(book.bid_prices[0]), float(book.ask_prices[0])
    else:
        best_bid, best_ask = max(map(float, book.bids)), min(map(float, book.asks))
    if best_bid != best_ask:
        return best_bid > best_ask
    bids, asks = book.top(1)
    return Decimal(bids[0][0]) >= Decimal(asks[0][0])


def _has_point(price: str, point: int) -> bool:
    """Whether a price is plain, with its point at a place counted from the end: then no two texts are one number.

    Neither a sign nor a zero too many at the beginning, nor an exponent.
    """
    return (
        len(price) >= -point
        and price[point] == "."
        and (price >= "1" or price[1] == ".")
        and "E" not in price
        and "e" not in price
    )


def _indexed(side: dict[str, str]) -> _Index:
    """The price of each number; of several texts of one number the last is kept, in the side too."""
    numbers: _Index = {}
    for price in list(side):
        if (other := numbers.get(key := number(price))) is not None:
            del side[other]
        numbers[key] = price
    return numbers


def _touch_best(ranks: list[float], levels: list[Level], sign: float) -> bool:
    """Whether a change of these levels may be one of the best of a side."""
    worst = ranks[BEST - 1] if len(ranks) >= BEST else inf
    return min([sign * float(price) for price, _ in levels]) <= worst


def _apply_ranked(side: dict[str, str], prices: list[str], ranks: list[float], levels: list[Level], sign: int) -> None:
    zeros = ZEROS
    for price, amount in levels:
        is_gone = amount in zeros or (amount < "1" and not float(amount) and is_zero(amount))
        if price in side and not is_gone:
            side[price] = amount
            continue
        rank = sign * float(price)
        place = bisect_left(ranks, rank)
        found = False
        if place < len(ranks) and ranks[place] == rank:
            found = prices[place] == price
            if not found:
                place, found = _among_equal(prices, ranks, place, price, sign)
        if found:
            del side[prices[place]]
            if is_gone:
                del ranks[place], prices[place]
            else:
                prices[place], side[price] = price, amount
        elif not is_gone:
            ranks.insert(place, rank)
            prices.insert(place, price)
            side[price] = amount


def _among_equal(prices: list[str], ranks: list[float], place: int, price: str, sign: int) -> tuple[int, bool]:
    """The place of a price among those from `place` on that are one float64, and whether that number is there."""
    exact, rank = Decimal(price), ranks[place]
    while place < len(ranks) and ranks[place] == rank:
        other = Decimal(prices[place])
        if other == exact:
            return place, True
        if (other > exact) == (sign > 0):
            break
        place += 1
    return place, False


def _cut_ranked(side: dict[str, str], prices: list[str], ranks: list[float], depth: int) -> None:
    for price in prices[depth:]:
        del side[price]
    del prices[depth:], ranks[depth:]


class BookRule(NamedTuple):
    """How an exchange's books stay in step.

    `snapshot`: it is asked for over `rest`, or by a `request` on the same socket, while deltas are held; or it comes
    first on the subscription (`stream`). `link`: a delta may begin up to the id after the last one (`range`), must
    begin exactly there (`exact`), or nothing is known (`none`). `depth`: levels a side that the exchange keeps; what is
    beyond goes without a word. `check`: whether a book agrees with what a delta's fields say of it, as a checksum. With
    either of the two the book is a RankedBook. `rejoins`: the delta that ends at the snapshot's id is applied, for its
    levels beyond the snapshot's depth. `stream_depth`: levels of the stream that the adapter subscribes to, where it
    reads streams of other depths too.
    """

    snapshot: Literal["rest", "request", "stream"]
    link: Literal["range", "exact", "none"]
    depth: int | None = None
    check: Callable[[Any, dict[str, Any]], bool] | None = None
    rejoins: bool = False
    stream_depth: int = 0

    def book(self) -> Book:
        return Book() if self.depth is None and self.check is None else RankedBook()
