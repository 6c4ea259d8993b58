"""tardis.dev's CSV out and in again: the same bytes for every kind, and the events but for what is said to be lost."""

import gzip
from pathlib import Path
from random import Random
from typing import Any

import pytest

from common.client import Client
from common.events import Event
from common.exports import DAY_NS, export, planned
from common.imports import Order, run
from tests.test_export_tardis import DAY, FORMAT, NOT_TOLD, US, Told, archived

CHANNELS = {
    "trades": ("trade",),
    "incremental_book_L2": ("book",),
    "book_snapshot_5": ("book",),
    "book_snapshot_25": ("book",),
    "quotes": ("quote",),
    "derivative_ticker": ("funding", "mark", "open_interest", "ticker"),
    "liquidations": ("liquidation",),
}
LOST = ("seq", "prev", "part", "of", "type", "last_id")
LENGTH = 600


def market(random: Random) -> list[Told]:
    """Two days of everything: messages at the same µs, times that the exchange does not send, books lost and found."""
    found: list[Told] = []
    ts, funding = DAY + US, {"rate": "0.0001", "predicted_rate": None, "next_ts": DAY + DAY_NS}
    for index in range(LENGTH):
        ts += random.choice((0, 0, 1, 700, 5 * US, 15 * DAY_NS // LENGTH))
        ts_event = random.choice((ts - 5 * US, ts - 7 * US, None))
        found.append((ts, *told(random, index, funding)))
        found[-1][2]["ts_event"] = ts_event
    return found


def told(random: Random, index: int, funding: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    number = f"{random.randrange(1, 40)}.{random.choice(('0', '50', '125'))}"
    trade = {"id": str(index), "price": number, "amount": "0.010", "side": random.choice(("buy", "sell", "unknown"))}
    quote = {"bid_price": "9.0", "bid_amount": number, "ask_price": None, "ask_amount": None}
    sides = [
        [[f"{price}.{random.choice('05')}", random.choice(("0", "0.0", "1.50", number))] for price in prices]
        for prices in (
            random.sample(range(1, 40), random.randrange(4)),
            random.sample(range(41, 80), random.randrange(4)),
        )
    ]
    if not any(sides):
        sides[0] = [["1.0", "1"]]
    kind = "delta" if index and random.randrange(40) else "snapshot"
    book = {"type": kind, "bids": sides[0], "asks": sides[1]}
    return random.choice([
        ("trade", trade), ("liquidation", {**trade, "id": None}), ("quote", quote),
        *[("book", book)] * 4,
        ("funding", {**funding, "rate": number}), ("mark", {"mark_price": number, "index_price": None}),
        ("open_interest", {"open_interest": number}), ("ticker", {"last": number, **NOT_TOLD}),
    ])  # fmt: skip


def files(client: Client, directory: Path, kind: str) -> list[Path]:
    jobs = planned(client, FORMAT, "binance-usdm", ["BTCUSDT"], [kind], None, None)
    return [done.path for done in export(client, FORMAT, jobs, directory)]


def events(client: Client, channel: str) -> list[Event]:
    """The events without what is lost, times in µs, one without the exchange's time as at its arrival."""
    found = [event for event in client.slice("binance-usdm", "BTCUSDT", channel) if event["channel"] == channel]
    return [
        {name: value for name, value in event.items() if name not in LOST}
        | {"ts_recv": event["ts_recv"] // US, "ts_event": (event["ts_event"] or event["ts_recv"]) // US}
        for event in found
    ]


def book(client: Client) -> tuple[Any, Any]:
    found = client.book("binance-usdm", "BTCUSDT")
    return found["bids"], found["asks"]


@pytest.mark.parametrize("seed", [1])
def test_every_kind_when_exported_imported_and_exported_then_is_the_same_to_the_byte(seed: int, tmp_path: Path) -> None:
    with archived(tmp_path / "storage", market(Random(seed))) as client:
        for kind, channels in CHANNELS.items():
            out = files(client, tmp_path / "out", kind)
            assert len(out) >= 2 and all(gzip.decompress(path.read_bytes()).count(b"\n") > 3 for path in out[:2])
            storage = tmp_path / kind
            run(Order("tardis", out, storage))
            with Client(storage=storage) as again:
                back = files(again, tmp_path / "back", kind)
                assert [path.name for path in back] == [path.name for path in out]
                for before, after in zip(out, back, strict=True):
                    assert gzip.decompress(after.read_bytes()) == gzip.decompress(before.read_bytes()), before.name
                    assert after.read_bytes() == before.read_bytes()
                if kind in ("trades", "quotes", "liquidations"):
                    assert events(again, channels[0]) == events(client, channels[0])
                if kind == "incremental_book_L2":
                    assert book(again) == book(client)
