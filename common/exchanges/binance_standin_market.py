"""A generated market in Binance spot's own payloads: trade, aggTrade, depth@100ms, bookTicker, ticker, kline_1m.

Times are given in as µs of the wall clock. Each message is made twice, with its times in ms and in µs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from ..recording import SNAPSHOT, Message, Outline
from ..synthetic import AggregateTrade, Summary, SyntheticMarket, amount_text, price_text, value_text
from .binance_standin import combine

CHANNELS = ("trade", "aggTrade", "depth@100ms", "bookTicker", "ticker", "kline_1m")

DEPTH_US, TICKER_US, KLINE_US = 100_000, 1_000_000, 2_000_000
"""How often the streams of a fixed pace send."""

TICKS_MAX = 20_000
"""Ticks at most in one step: a stand-in that was stopped for long does not make up for all of it."""

Build = Callable[[int], dict[str, Any]]
"""Makes a payload; the argument divides times in µs."""


class Generator:
    """All symbols of a generated market, `rate` ticks per second each."""

    def __init__(self, symbols: Sequence[str], seed: int, rate: float, now_us: int) -> None:
        self._feeds = [_Feed(SyntheticMarket(symbol, seed, now_us), rate, now_us) for symbol in symbols]
        streams = frozenset(f"{symbol.lower()}@{channel}" for symbol in symbols for channel in CHANNELS)
        self.outline = Outline(streams, {}, tuple(symbols))

    def begin(self, now_us: int) -> list[Message]:
        """The first books."""
        return [feed.snapshot(now_us) for feed in self._feeds]

    def advance(self, now_us: int) -> list[Message]:
        """Everything that happened up to now, since the last call."""
        return [message for feed in self._feeds for message in feed.advance(now_us)]

    def skip(self, now_us: int) -> None:
        """Let the time since the last call pass without anything happening."""
        for feed in self._feeds:
            feed.skip(now_us)


class _Feed:
    def __init__(self, market: SyntheticMarket, rate: float, now_us: int) -> None:
        self._market = market
        self._rate = rate
        self._ticked_us = float(now_us)
        self._next = {"depth": now_us + DEPTH_US, "ticker": now_us + TICKER_US, "kline": now_us + KLINE_US}
        self._out: list[Message] = []

    def snapshot(self, now_us: int) -> Message:
        market = self._market
        bids, asks = _levels(market.bids.ordered()), _levels(market.asks.ordered())
        content = {"lastUpdateId": market.update_id, "bids": bids, "asks": asks}
        return Message(now_us * 1000, market.symbol, SNAPSHOT, orjson.dumps(content))

    def skip(self, now_us: int) -> None:
        self._ticked_us = float(now_us)

    def advance(self, now_us: int) -> list[Message]:
        due = int((now_us - self._ticked_us) / 1e6 * self._rate)
        self._ticked_us = float(now_us) if due > TICKS_MAX else self._ticked_us + due * 1e6 / self._rate
        closed = self._market.turn_candle(now_us)
        if closed is not None:
            self._kline(closed, now_us, closed=True)
        for _ in range(min(due, TICKS_MAX)):
            self._tick(now_us)
        if self._is_due("depth", now_us, DEPTH_US):
            self._depth(now_us)
        if self._is_due("ticker", now_us, TICKER_US):
            self._ticker(now_us)
        if self._is_due("kline", now_us, KLINE_US):
            self._kline(self._market.candle, now_us, closed=False)
        out, self._out = self._out, []
        return out

    def _is_due(self, name: str, now_us: int, pace_us: int) -> bool:
        if now_us < self._next[name]:
            return False
        self._next[name] = now_us + pace_us - (now_us - self._next[name]) % pace_us
        return True

    def _send(self, channel: str, now_us: int, build: Build) -> None:
        symbol = self._market.symbol
        stream = f"{symbol.lower()}@{channel}"
        payload, micro = (combine(stream, orjson.dumps(build(scale))) for scale in (1000, 1))
        self._out.append(Message(now_us * 1000, symbol, stream, payload, micro))

    def _tick(self, now_us: int) -> None:
        top = self._market.top
        for taken in self._market.tick():
            self._trades(taken, now_us)
        if self._market.top != top:
            self._book_ticker(now_us)

    def _trades(self, taken: AggregateTrade, now_us: int) -> None:
        symbol = self._market.symbol
        for trade in taken.trades:
            shared = {"p": price_text(trade.price), "q": amount_text(trade.amount)}
            head = {"s": symbol, "t": trade.id, **shared}
            self._send("trade", now_us, _event("trade", now_us, head, trade.sells))
        first, last = taken.trades[0], taken.trades[-1]
        total = amount_text(sum(trade.amount for trade in taken.trades))
        head = {"s": symbol, "a": taken.id, "p": price_text(first.price), "q": total, "f": first.id, "l": last.id}
        self._send("aggTrade", now_us, _event("aggTrade", now_us, head, first.sells))

    def _book_ticker(self, now_us: int) -> None:
        bid, bid_amount, ask, ask_amount = self._market.top
        data = {
            "u": self._market.update_id,
            "s": self._market.symbol,
            "b": price_text(bid),
            "B": amount_text(bid_amount),
            "a": price_text(ask),
            "A": amount_text(ask_amount),
        }
        self._send("bookTicker", now_us, lambda _: data)

    def _depth(self, now_us: int) -> None:
        delta = self._market.take_delta()
        if delta.first_id > delta.last_id:
            return
        ids = {"s": self._market.symbol, "U": delta.first_id, "u": delta.last_id}
        sides = {"b": _levels(delta.bids), "a": _levels(delta.asks)}
        self._send("depth@100ms", now_us, lambda scale: {"e": "depthUpdate", "E": now_us // scale, **ids, **sides})

    def _ticker(self, now_us: int) -> None:
        day = self._market.day
        bid, bid_amount, ask, ask_amount = self._market.top
        change = day.last - day.open
        mean = day.value * 10**6 // day.volume if day.volume else day.open * 10**6  # units of 0.00000001
        body = {
            "s": self._market.symbol,
            "p": _signed(change, price_text),
            "P": f"{change * 100 / day.open:.3f}",
            "w": f"{mean // 10**8}.{mean % 10**8:08d}",
            "x": price_text(day.open),
            "c": price_text(day.last),
            "Q": amount_text(day.last_amount),
            "b": price_text(bid),
            "B": amount_text(bid_amount),
            "a": price_text(ask),
            "A": amount_text(ask_amount),
            "o": price_text(day.open),
            "h": price_text(day.high),
            "l": price_text(day.low),
            "v": amount_text(day.volume),
            "q": value_text(day.value),
        }
        ids = {"F": day.first_id, "L": day.last_id, "n": day.count}
        self._send(
            "ticker",
            now_us,
            lambda scale: {
                "e": "24hrTicker",
                "E": now_us // scale,
                **body,
                "O": day.open_us // scale,
                "C": now_us // scale,
                **ids,
            },
        )

    def _kline(self, candle: Summary, now_us: int, *, closed: bool) -> None:
        symbol = self._market.symbol
        body = {
            "s": symbol,
            "i": "1m",
            "f": candle.first_id,
            "L": candle.last_id,
            "o": price_text(candle.open),
            "c": price_text(candle.last),
            "h": price_text(candle.high),
            "l": price_text(candle.low),
            "v": amount_text(candle.volume),
            "n": candle.count,
            "x": closed,
            "q": value_text(candle.value),
            "V": amount_text(candle.taker_buy_volume),
            "Q": value_text(candle.taker_buy_value),
            "B": "0",
        }
        ends_us = candle.open_us + 60_000_000

        def build(scale: int) -> dict[str, Any]:
            minute = {"t": candle.open_us // scale, "T": ends_us // scale - 1, **body}
            return {"e": "kline", "E": now_us // scale, "s": symbol, "k": minute}

        self._send("kline_1m", now_us, build)


def _event(kind: str, now_us: int, head: dict[str, Any], sells: bool) -> Build:
    def build(scale: int) -> dict[str, Any]:
        return {"e": kind, "E": now_us // scale, **head, "T": now_us // scale, "m": sells, "M": True}

    return build


def _levels(levels: Sequence[tuple[int, int]]) -> list[list[str]]:
    return [[price_text(price), amount_text(amount)] for price, amount in levels]


def _signed(number: int, text: Callable[[int], str]) -> str:
    return f"-{text(-number)}" if number < 0 else text(number)
