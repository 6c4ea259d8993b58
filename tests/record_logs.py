"""Random record logs of a small exchange: what a feed could have recorded, made with its own normaliser at work.

Two symbols trade; connections come, lag, lose frames, repeat them, overlap, are switched and lost; snapshots and missed
trades are asked for and come late, old, broken or never; runs end and begin; checkpoints are written at any time.
"""

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import orjson

from common import exchanges
from common.adapter import Adapter, version
from common.events import Action
from common.normaliser import Normaliser
from common.record import Record, decode, encode

ADAPTER = cast(Adapter, exchanges.get("binance"))
SYMBOLS = ("AAA", "BBB")
CHANNELS = ("trade", "agg_trade", "book", "quote", "candle")
T0 = 1_700_000_000_000_000_000
MS0 = 1_600_000_000_000
"""The exchange's times: ms from here on."""


def trade_frame(symbol: str, trade_id: int) -> dict[str, Any]:
    return {"e": "trade", "s": symbol, "t": trade_id, "p": "1.50", "q": str(trade_id), "T": MS0 + trade_id, "m": True}


def agg_frame(symbol: str, trade_id: int) -> dict[str, Any]:
    ids = {"a": trade_id, "f": trade_id, "l": trade_id}
    return {"e": "aggTrade", "s": symbol, **ids, "p": "1.50", "q": "1", "T": MS0 + trade_id, "m": False}


def quote_frame(symbol: str, update_id: int) -> dict[str, Any]:
    return {"u": update_id, "s": symbol, "b": "1", "B": str(update_id), "a": "2", "A": "1"}


def candle_frame(symbol: str, time: int, interval: str = "1m") -> dict[str, Any]:
    prices = dict.fromkeys("ochlvq", "1")
    return {
        "e": "kline",
        "E": MS0 + time,
        "s": symbol,
        "k": {"t": 1, "T": 2, "i": interval, "n": 3, "x": False, **prices},
    }


def delta_frame(symbol: str, first: int, last: int, levels: dict[str, str]) -> dict[str, Any]:
    bids = [list(level) for level in levels.items()]
    return {"e": "depthUpdate", "E": MS0 + last, "s": symbol, "U": first, "u": last, "b": bids, "a": []}


@dataclass
class Market:
    """What the exchange knows of one symbol."""

    symbol: str
    trades: int = 100
    quotes: int = 0
    time: int = 0
    changes: dict[int, tuple[str, str]] = field(default_factory=dict)  # of the book, by id
    books: dict[int, dict[str, str]] = field(default_factory=lambda: {500: {"1": "1"}})  # the book after each id

    @property
    def book_id(self) -> int:
        return max(self.books)

    def change_book(self, random: Random) -> None:
        price, amount = str(random.randrange(6)), random.choice(["0.00", "1", "2.5"])
        book = dict(self.books[self.book_id])
        book.pop(price, None)
        if amount != "0.00":
            book[price] = amount
        self.changes[self.book_id + 1] = (price, amount)
        self.books[self.book_id + 1] = book


@dataclass
class Wire:
    """One connection: what waits to be delivered, oldest first; of a book, ids that go out as one delta."""

    number: int
    waiting: deque[tuple[str, str, int]] = field(default_factory=deque)


class Log:
    """Makes `records`, and with each the messages that the live normaliser gave."""

    def __init__(self, seed: int, steps: int = 200, *, repeats: bool = True, step_ns: int = 1) -> None:
        self.random = Random(seed)
        self.lines: list[bytes] = []
        self.records: list[Record] = []
        self.messages: list[list[bytes]] = []
        self.normaliser = Normaliser(ADAPTER)
        self.markets = {symbol: Market(symbol) for symbol in SYMBOLS}
        self._wires: list[Wire] = []
        self._actions: list[Action] = []
        self._seq, self._ts, self._conn = 1000, T0, 0
        self._repeats, self._step_ns = repeats, step_ns
        self._subscribed: tuple[str, ...] = SYMBOLS
        self._channels = CHANNELS
        self._start()
        acts = [
            (self._trade, 40), (self._deliver, 60), (self._open, 6), (self._close, 2), (self._switch, 4),
            (self._answer, 25), (self._gap, 3), (self._checkpoint, 6), (self._garbage, 2), (self._start, 0.7),
            (self._change_symbols, 1),
        ]  # fmt: skip
        for act in self.random.choices([act for act, _ in acts], [weight for _, weight in acts], k=steps):
            act()
        assert not self.normaliser.errors, self.normaliser.errors

    # -- the exchange ----------------------------------------------------------------------------------------------

    def _trade(self) -> None:
        market = self.markets[self.random.choice(SYMBOLS)]
        for _ in range(self.random.randrange(1, 4)):
            market.change_book(self.random)
            self._offer("book", market.symbol, market.book_id)
            market.quotes = market.book_id
            self._offer("quote", market.symbol, market.quotes)
        market.trades += 1
        self._offer("trade", market.symbol, market.trades)
        self._offer("agg_trade", market.symbol, market.trades)
        if self.random.random() < 0.3:
            market.time += self.random.randrange(2)
            self._offer("candle", market.symbol, market.time)

    def _offer(self, channel: str, symbol: str, number: int) -> None:
        for wire in self._wires:
            if self.random.random() < 0.98 or channel in ("quote", "candle"):
                wire.waiting.append((channel, symbol, number))

    def _deliver(self) -> None:
        for wire in self.random.sample(self._wires, len(self._wires)):
            for _ in range(self.random.choice([0, 0, 1, 3, 10])):
                if wire.waiting:
                    self._frame(wire, *wire.waiting.popleft())

    def _frame(self, wire: Wire, channel: str, symbol: str, number: int) -> None:
        last = number
        if channel == "book":
            while self.random.random() < 0.5 and ("book", symbol, last + 1) in wire.waiting:
                last += 1
                wire.waiting.remove(("book", symbol, last))
        frame = self._payload(channel, symbol, number, last)
        self._record("in", conn=wire.number, place=(channel, symbol), payload=frame)
        if self._repeats and self.random.random() < 0.01:
            self._record("in", conn=wire.number, place=(channel, symbol), payload=frame)

    def _payload(self, channel: str, symbol: str, first: int, last: int) -> bytes:
        if channel == "book":
            changes = self.markets[symbol].changes
            return orjson.dumps(delta_frame(symbol, first, last, dict(changes[i] for i in range(first, last + 1))))
        if channel == "candle":
            return orjson.dumps(candle_frame(symbol, first, self.random.choice(["1m", "5m"])))
        frames = {"trade": trade_frame, "agg_trade": agg_frame, "quote": quote_frame}
        return orjson.dumps({"stream": "s", "data": frames[channel](symbol, first)})

    # -- the feed --------------------------------------------------------------------------------------------------

    def _record(self, kind: str, *, place: tuple[str | None, str | None] = (None, None), **more: Any) -> None:
        self._seq, self._ts = self._seq + 1, self._ts + self.random.randrange(3) * self._step_ns
        channel, symbol = place if place[1] in self._subscribed else (None, None)
        self.lines.append(encode(self._seq, self._ts, kind, channel=channel, symbol=symbol, **more))
        record = decode(self.lines[-1])
        self.records.append(record)
        self.messages.append(self.normaliser.messages(record))
        self._actions += self.normaliser.actions
        self.normaliser.actions = []

    def _open(self) -> None:
        if len(self._wires) < 3:
            self._conn += 1
            self._wires.append(Wire(self._conn))
            self._record("open", conn=self._conn)

    def _close(self) -> None:
        if self._wires:
            wire = self._wires.pop(self.random.randrange(len(self._wires)))
            self._record("close", conn=wire.number, head={"reason": "test"})

    def _switch(self) -> None:
        if len(self._wires) >= 2:
            old, new = self.random.sample(self._wires, 2)
            self._record("switch", conn=new.number, head={"from": old.number})
            if self.random.random() < 0.7:
                self._wires.remove(old)
                self._record("close", conn=old.number)

    def _start(self) -> None:
        """A run begins: the connections of the one before are gone, and with them what it had asked for."""
        before = self._seq
        self._seq += self.random.choice([0, 0, 1000])
        owed: dict[str, Any] = {}
        if self.records:
            last = {"trade": self.random.choice([None, 100]), "agg_trade": None, "book": None}
            owed = {"ts": self._ts, "topics": dict.fromkeys(self._subscribed, last), "away": self.normaliser.away}
        self._subscribed = self.random.choice([SYMBOLS, SYMBOLS, SYMBOLS[:1]])
        self._channels = self.random.choice([CHANNELS, CHANNELS[:3]])
        subscriptions = {"symbols": self._subscribed, "channels": self._channels}
        payload = orjson.dumps({"exchange": "binance", "subscriptions": subscriptions, "owed": owed})
        self._record("start", head={"last": before, "normaliser": version(ADAPTER)}, payload=payload)
        for wire in self._wires:
            self._record("close", conn=wire.number, head={"reason": "killed"})
        self._wires, self._actions = [], []

    def _change_symbols(self) -> None:
        """Symbols are removed and added while the run goes on."""
        before, self._subscribed = self._subscribed, self.random.choice([SYMBOLS, SYMBOLS[:1], SYMBOLS[1:]])
        added = [symbol for symbol in self._subscribed if symbol not in before]
        payload = {
            "symbols": self._subscribed, "added": added, "channels": self._channels,
            "removed": [symbol for symbol in before if symbol not in self._subscribed],
            "owed": {symbol: self.normaliser.away.get(symbol, {}) for symbol in added},
        }  # fmt: skip
        self._record("subscriptions", payload=orjson.dumps(payload))

    def _answer(self) -> None:
        """A REST answer: what was asked for, or something else."""
        if not self._actions:
            return
        action = self._actions.pop(self.random.randrange(len(self._actions)))
        place = (action.channel, action.symbol)
        url = ADAPTER.request(action, 5000).path
        fate = self.random.random()
        if fate < 0.15:
            self._record("rest", place=place, head={"url": url, "status": 0, "error": "timeout"})
        elif fate < 0.25:
            self._record("rest", place=place, head={"url": url, "status": 429}, payload=b'{"code":-1003}')
        else:
            body = self._snapshot(action) if action.kind == "snapshot" else self._missed(action)
            self._record("rest", place=place, head={"url": url, "status": 200}, payload=orjson.dumps(body))

    def _snapshot(self, action: Action) -> dict[str, Any]:
        books = self.markets[action.symbol].books
        last = max(500, max(books) - self.random.choice([0, 0, 0, 3, 20]))  # old, at times
        return {"lastUpdateId": last, "bids": [list(level) for level in books[last].items()], "asks": []}

    def _missed(self, action: Action) -> list[dict[str, Any]]:
        end = min(self.markets[action.symbol].trades, action.from_id + self.random.choice([1, 5, 1000]))
        if action.channel == "agg_trade":
            return [agg_frame(action.symbol, number) for number in range(action.from_id, end + 1)]
        fields = {"price": "1.50", "qty": "1", "time": MS0, "isBuyerMaker": True}
        return [{"id": number, **fields} for number in range(action.from_id, end + 1)]

    def _gap(self) -> None:
        channel, symbol = self.random.choice(CHANNELS), self.random.choice(SYMBOLS)
        place = self.random.choice([(channel, symbol), (channel, symbol), (None, symbol), (None, None)])
        self._record("gap", place=place, payload=b'{"state":"open","reason":"silent","first_seq":1,"last_seq":2}')

    def _checkpoint(self) -> None:
        symbol = self.random.choice(self._subscribed)
        self._record("checkpoint", place=(None, symbol), payload=self.normaliser.checkpoint(symbol))

    def _garbage(self) -> None:
        payload = self.random.choice([b"{}", b"no", b"[1]", b'{"e":"trade","s":"AAA"}', b'{"result":null,"id":1}'])
        if self._wires:
            self._record("in", conn=self._wires[0].number, payload=payload)
