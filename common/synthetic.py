"""A generated market: one symbol whose book, trades, statistics and candle agree with one another at each moment.

Everything follows from the seed and the number of ticks; only the candle's minutes and the first ids come from the
clock. Whole numbers throughout: prices in units of 0.01, amounts in units of 0.00001. Pure.
"""

import random
from dataclasses import dataclass, field
from typing import NamedTuple

LEVELS_MIN = 100
"""Levels of a side below which nothing is taken or cancelled any more."""

LEVELS_MAX = 1_000
"""Levels of a side above which the one that is farthest from the market goes."""

START_PRICES = {"BTCUSDT": 60_000_00, "ETHUSDT": 2_600_00, "BNBUSDT": 500_00, "SOLUSDT": 150_00}


def price_text(price: int) -> str:
    """A price with the exchange's 8 decimals."""
    return f"{price // 100}.{price % 100:02d}000000"


def amount_text(amount: int) -> str:
    """An amount with the exchange's 8 decimals."""
    return f"{amount // 100_000}.{amount % 100_000:05d}000"


def value_text(value: int) -> str:
    """Price times amount (units of 0.0000001) with 8 decimals."""
    return f"{value // 10**7}.{value % 10**7:07d}0"


class Trade(NamedTuple):
    """`sells`: the taker sold."""

    id: int
    price: int
    amount: int
    sells: bool


class AggregateTrade(NamedTuple):
    """Trades of one taker at one price, `trades` in the order of their ids."""

    id: int
    trades: tuple[Trade, ...]


@dataclass
class Summary:
    """What happened since `open_us`: a 24 h ticker, a candle. Volumes in units of amount and of value."""

    open_us: int
    open: int
    high: int = 0
    low: int = 0
    last: int = 0
    last_amount: int = 0
    volume: int = 0
    value: int = 0
    taker_buy_volume: int = 0
    taker_buy_value: int = 0
    first_id: int = -1
    last_id: int = -1
    count: int = 0

    def __post_init__(self) -> None:
        self.high = self.low = self.last = self.open

    def add(self, trade: Trade) -> None:
        if not self.count:
            self.first_id = trade.id
        self.count += 1
        self.last_id, self.last, self.last_amount = trade.id, trade.price, trade.amount
        self.high, self.low = max(self.high, trade.price), min(self.low, trade.price)
        self.volume += trade.amount
        self.value += trade.amount * trade.price
        if not trade.sells:
            self.taker_buy_volume += trade.amount
            self.taker_buy_value += trade.amount * trade.price


@dataclass
class Side:
    """One side of the book. `sign` turns prices so that the best is the greatest: 1 for bids, -1 for asks."""

    sign: int
    levels: dict[int, int] = field(default_factory=dict)
    changes: dict[int, int] = field(default_factory=dict)  # since the last delta; absolute, 0 removes
    best: int = 0

    def put(self, price: int, amount: int) -> None:
        """Set one level (0 removes it) and note the change."""
        self.changes[price] = amount
        if amount:
            self.levels[price] = amount
            if len(self.levels) == 1 or self.sign * price > self.sign * self.best:
                self.best = price
        else:
            del self.levels[price]
            if price == self.best:
                self.best = self.sign * max(self.sign * level for level in self.levels)

    def farthest(self) -> int:
        return self.sign * min(self.sign * level for level in self.levels)

    def ordered(self) -> list[tuple[int, int]]:
        """All levels from the best on."""
        return sorted(self.levels.items(), key=lambda level: -self.sign * level[0])


class Delta(NamedTuple):
    first_id: int
    last_id: int
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]


class SyntheticMarket:
    """One symbol. Call `tick` for the next thing that happens."""

    def __init__(self, symbol: str, seed: int, now_us: int) -> None:
        self.symbol = symbol
        self.random = random.Random(f"{seed}/{symbol}")
        self.price = START_PRICES.get(symbol, 100_00)
        self.bids, self.asks = Side(1), Side(-1)
        # Ids grow more slowly than these do: a market that is begun later goes on above those of an earlier one.
        self.update_id, self.trade_id, self.aggregate_id = 2 * now_us, now_us, now_us // 2
        self.day = Summary(now_us, self.price)
        self.candle = Summary(now_us // 60_000_000 * 60_000_000, self.price)
        for distance in range(1, 3 * LEVELS_MIN):
            self._put(self.bids, self.price - distance, self._amount())
            self._put(self.asks, self.price + distance, self._amount())
        self._sellers = 0.5  # share of takers that sell; changes now and then, so that the price wanders
        self._next_first = 0
        self.take_delta()

    @property
    def top(self) -> tuple[int, int, int, int]:
        """Best bid, its amount, best ask, its amount."""
        bid, ask = self.bids.best, self.asks.best
        return bid, self.bids.levels[bid], ask, self.asks.levels[ask]

    def tick(self) -> list[AggregateTrade]:
        """Let one thing happen: an order is placed, cancelled, or taken (then there are trades)."""
        what = self.random.random()
        if what < 0.001:
            self._sellers = self.random.uniform(0.35, 0.65)
        side = self.bids if self.random.random() < self._sellers else self.asks
        if what < 0.2 and len(side.levels) > LEVELS_MIN:
            return self._take(side)
        side = self.bids if self.random.random() < 0.5 else self.asks
        if what < 0.45 and len(side.levels) > LEVELS_MIN:
            self._cancel(side)
        else:
            self._place(side)
        return []

    def take_delta(self) -> Delta:
        """What changed since the last call; `first_id` is behind `last_id` where nothing did."""
        delta = Delta(
            self._next_first, self.update_id, list(self.bids.changes.items()), list(self.asks.changes.items())
        )
        self.bids.changes, self.asks.changes = {}, {}
        self._next_first = self.update_id + 1
        return delta

    def turn_candle(self, now_us: int) -> Summary | None:
        """The candle of the minute before, once, when a new minute has begun."""
        minute = now_us // 60_000_000 * 60_000_000
        if minute <= self.candle.open_us:
            return None
        closed, self.candle = self.candle, Summary(minute, self.candle.last)
        return closed

    def _put(self, side: Side, price: int, amount: int) -> None:
        side.put(price, amount)
        self.update_id += 1

    def _amount(self) -> int:
        return 1 + int(self.random.expovariate(1 / 50_000))

    def _place(self, side: Side) -> None:
        other = self.asks if side is self.bids else self.bids
        gap = side.sign * (other.best - side.best)
        distance = int(self.random.expovariate(1 / 60))
        improve = gap > 1 and self.random.random() < 0.4
        price = side.best + side.sign * self.random.randrange(1, gap) if improve else side.best - side.sign * distance
        if price <= 0:
            return
        self._put(side, price, side.levels.get(price, 0) + self._amount())
        if len(side.levels) > LEVELS_MAX:
            self._put(side, side.farthest(), 0)

    def _cancel(self, side: Side) -> None:
        price = side.best - side.sign * int(self.random.expovariate(1 / 20))
        if amount := side.levels.get(price, 0):
            self._put(side, price, self.random.randrange(amount))

    def _take(self, side: Side) -> list[AggregateTrade]:
        """A taker's order against `side`, over one price or several."""
        left = self._amount()
        taken: list[AggregateTrade] = []
        while left and len(side.levels) > LEVELS_MIN:
            price = side.best
            filled = min(left, side.levels[price])
            left -= filled
            self._put(side, price, side.levels[price] - filled)
            taken.append(self._trades(price, filled, sells=side is self.bids))
        return taken

    def _trades(self, price: int, amount: int, *, sells: bool) -> AggregateTrade:
        parts = [amount]
        if amount > 1 and self.random.random() < 0.3:  # two makers stood at this price
            first = self.random.randrange(1, amount)
            parts = [first, amount - first]
        trades: list[Trade] = []
        for part in parts:
            self.trade_id += 1
            trades.append(Trade(self.trade_id, price, part, sells))
            self.day.add(trades[-1])
            self.candle.add(trades[-1])
        self.aggregate_id += 1
        return AggregateTrade(self.aggregate_id, tuple(trades))
