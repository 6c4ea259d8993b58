"""Bars and book snapshots out of a recording's events, on one core; and what other ways of doing the same take.

python -m benchmarks.series [--recording FILE] [--rounds 5]
"""

import argparse
import heapq
import statistics
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path

import orjson

from benchmarks.normalise import RECORDING, record_lines
from common import exchanges
from common.bars import bars
from common.book import Book
from common.book_snapshots import book_snapshots
from common.events import Event, body
from common.normaliser import Normaliser

TRADES = 300_000


def recorded(recording: Path) -> list[Event]:
    normaliser = Normaliser(exchanges.get("binance"))
    return [orjson.loads(body(m)) for m in normaliser.all_messages(map(normaliser.work, record_lines(recording)))]


def repeated(events: list[Event], count: int) -> list[Event]:
    """At least so many events: the same again and again, each time later."""
    length = events[-1]["ts_recv"] - events[0]["ts_recv"] + 10**6
    rounds = -(-count // len(events))
    return [{**event, "ts_recv": event["ts_recv"] + turn * length} for turn in range(rounds) for event in events]


def decimal_bars(events: Iterable[Event]) -> dict[int, list[Decimal]]:
    """Volume and value by minute, exact: what Decimal alone takes."""
    found: dict[int, list[Decimal]] = {}
    for event in events:
        sums = found.setdefault(event["ts_recv"] // (60 * 10**9), [Decimal(), Decimal()])
        price, amount = Decimal(event["price"]), Decimal(event["amount"])
        sums[0] += amount
        sums[1] += price * amount
    return found


def searched_snapshots(events: Iterable[Event], depth: int, interval_ns: int) -> int:
    """Snapshots by looking through the whole book each time (heapq.nsmallest); the number of them."""
    book, due, count = Book(), 0, 0
    for event in events:
        if event["ts_recv"] >= due:
            due, count = event["ts_recv"] // interval_ns * interval_ns + interval_ns, count + 1
            heapq.nlargest(depth, map(float, book.bids))
            heapq.nsmallest(depth, map(float, book.asks))
        (book.replace if event["type"] == "snapshot" else book.apply)(event["bids"], event["asks"])
    return count


def rate(act: Callable[[], object], count: int, rounds: int) -> str:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        found.append(count / (time.perf_counter() - began))
    return f"median {statistics.median(found):11,.0f}/s   best {max(found):11,.0f}/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recording", type=Path, default=RECORDING)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    events = recorded(args.recording)
    trades = repeated([event for event in events if event["channel"] == "trade"], TRADES)
    books = [event for event in events if event["channel"] == "book"]
    levels = sum(len(event["bids"]) + len(event["asks"]) for event in books)
    print(f"{len(trades):,} trades; {len(books):,} book events with {levels:,} levels")
    for name, count, act in (
        ("trades into bars of 1 s", len(trades), lambda: sum(1 for _ in bars(trades, "1s"))),
        ("trades into bars of 1 m", len(trades), lambda: sum(1 for _ in bars(trades, "1m"))),
        ("  two sums with Decimal, nothing else", len(trades), lambda: decimal_bars(trades)),
        ("book events into 10 levels a second", len(books), lambda: sum(1 for _ in book_snapshots(books, 10, "1s"))),
        ("  the same, levels", levels, lambda: sum(1 for _ in book_snapshots(books, 10, "1s"))),
        ("book events into 10 levels each 100 ms", len(books), lambda: list(book_snapshots(books, 10, "100ms"))),
        ("  by searching the whole book, 100 ms", len(books), lambda: searched_snapshots(books, 10, 10**8)),
    ):
        print(f"{name:42} {rate(act, count, args.rounds)}")


if __name__ == "__main__":
    main()
