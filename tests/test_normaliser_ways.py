"""Events that go on from the one before take a short way through the normaliser: it leads where the long one does."""

from collections.abc import Iterator
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.adapter import Adapter
from common.book import BookRule
from common.events import Parsed, Snapshot, Update
from common.fast_path import FastPath
from common.normaliser import Normaliser, Work
from common.record import Record, decode, encode
from common.topic import Topic

SYMBOL = "X"
CHANNELS = ("trade", "book", "quote")
CHECKED = BookRule("stream", "none", depth=5, check=lambda _book, fields: bool(fields["checksum"]))
ADAPTERS = {
    **{name: exchanges.get(name) for name in ("binance", "bybit-linear", "okx", "htx")},
    "checksum": SimpleNamespace(**{**vars(exchanges.get("kraken")), "BOOK": CHECKED}),
    "checksum over REST": SimpleNamespace(
        **{**vars(exchanges.get("binance")), "BOOK": CHECKED._replace(snapshot="rest", link="range")}
    ),
}


class NoPath(FastPath):
    """Nothing goes on from the one before."""

    def one(self, seq: int, ts_recv: int, conn: int, update: Update) -> Topic | None:
        return None

    def several(self, seq: int, ts_recv: int, conn: int, updates: list[Update]) -> list[bytes] | None:
        return None


class Long(Normaliser):
    """One that judges everything."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__(adapter)
        self._fast_path = NoPath(adapter, self.symbols, self._judge, self._out)


class Market:
    """What connections of an exchange bring: mostly what goes on, sometimes repeated, torn, or run back."""

    def __init__(self, adapter: Adapter, random: Random) -> None:
        self.rule, self.random = adapter.BOOK, random
        self.last = dict.fromkeys(CHANNELS, 10)
        self.said: list[Parsed] = []
        self.conn = 1

    def works(self, count: int) -> Iterator[Work]:
        for seq in range(2, count):
            rare = self.random.random()
            if rare < 0.85:
                conn = self.conn if self.random.random() < 0.9 else self.random.randint(1, 3)
                yield seq, seq, conn, self.frame()
            elif rare < 0.9:
                yield record(seq, "close", conn=self.random.randint(1, 3))
            elif rare < 0.95:
                before, self.conn = self.conn, self.random.randint(1, 3)
                yield record(seq, "switch", conn=self.conn, head={"from": before})
            else:
                yield record(seq, "gap", channel=self.random.choice(CHANNELS), symbol=SYMBOL)

    def frame(self) -> Parsed:
        sort = self.random.random()
        found: Parsed
        if self.said and sort < 0.1:
            found = self.random.choice(self.said)
        elif sort < 0.2 and self.rule.snapshot != "stream":
            found = Snapshot(SYMBOL, self.last["book"] - self.random.randint(0, 1), None, [("5", "1")], [("40", "1")])
        elif sort < 0.7:
            found = self.update(self.random.choice(CHANNELS))
        elif sort < 0.85:
            found = [self.update("trade") for _ in range(self.random.randint(1, 4))]
        else:
            found = [self.update("trade"), self.update("quote")]
        self.said.append(found)
        return found

    def update(self, channel: str) -> Update:
        last = self.last[channel]
        first = last + self.random.choice((1, 1, 1, 1, 1, 1, 0, -1, 3))
        self.last[channel] = max(last, first)
        fields: dict[str, Any] = {"id": "1", "price": self.random.choice("12"), "amount": "1", "side": "buy"}
        if channel == "book":
            levels = [[self.random.choice("1234567"), self.random.choice("012")] for _ in range(2)]
            is_snapshot = self.rule.snapshot == "stream" and self.random.random() < 0.15
            fields = {"type": "snapshot" if is_snapshot else "delta", "bids": levels, "asks": []}
            fields["checksum"] = self.random.random() < 0.9
        return Update(channel, SYMBOL, first, first, first, fields)


def record(seq: int, kind: str, payload: bytes = b'{"reason":"silent"}', **head: Any) -> Record:
    return decode(encode(seq, seq, kind, payload=payload, **head))


def begun(kind: type[Normaliser], adapter: Adapter, first: Record) -> Normaliser:
    made = kind(adapter)
    made.messages(first)
    return made


@pytest.mark.parametrize("name", ADAPTERS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_the_short_way_gives_the_events_and_checkpoints_of_the_long_one_wherever_it_begins(
    name: str, seed: int
) -> None:
    adapter, random = cast(Adapter, ADAPTERS[name]), Random(seed)
    start = record(1, "start", orjson.dumps({"subscriptions": {"symbols": [SYMBOL], "channels": CHANNELS}}))
    normalisers = [begun(Long, adapter, start), begun(Normaliser, adapter, start)]
    for work in Market(adapter, random).works(80):
        messages, *others = (each.messages(work) for each in normalisers)
        assert others == [messages] * len(others)
        if random.random() < 0.3:
            payload, *payloads = (each.checkpoint(SYMBOL) for each in normalisers)
            assert payloads == [payload] * len(payloads)
            later = record(1, "checkpoint", payload, symbol=SYMBOL)
            normalisers[2:] = [begun(Normaliser, adapter, later), *normalisers[2:4]]
    assert not any(each.errors for each in normalisers)
