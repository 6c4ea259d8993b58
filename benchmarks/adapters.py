"""What each exchange's file costs: the frames that it sends most, record lines in, encoded events out, on one core.

    python -m benchmarks.adapters [EXCHANGE …] [--seconds 0.5] [--recordings DIR]

Out of a recording where there is one, in its own order and with its snapshots; else the examples of the exchange's
tests, over and over. `events` are those that a frame gives: where it is 0, books wait for a snapshot nobody recorded.
"""

import argparse
import importlib
import statistics
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

from common import exchanges
from common.adapter import FAULTS, Adapter
from common.events import Action, Snapshot
from common.foreign_recording import BINARY, REST, TEXT, Line, read_lines
from common.normaliser import Normaliser
from common.record import encode

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings"
PLACES = {
    "binance": "binance/spot-btcusdt-20240808.gz",
    "binance-usdm": "binance/usdm-*.gz",
    "bybit-linear": "bybit/*.gz",
}
"""Where the name of the folder is not that of the exchange."""

FRAMES_MAX = 50_000  # of one recording
ALWAYS = ("trade", "book")
OTHERS = 1  # the most frequent of the other channels
EXAMPLES = 2_000  # how often an example is repeated
FRAME_BYTES_MAX = 64 * 1024**2


class Frames(NamedTuple):
    """The record lines of one channel of an exchange. `frames` of them are frames, the others REST answers."""

    channel: str
    lines: list[bytes]
    frames: int
    size: int


def recorded(name: str, recordings: Path) -> list[Line]:
    """The frames and answers of the exchange's recording; none where there is none."""
    paths = sorted(recordings.glob(PLACES.get(name, f"{name}/*.gz")))
    lines: list[Line] = []
    for path in paths:
        if not path.name.startswith("instruments"):
            lines += [line for line in read_lines(path) if line.kind in (TEXT, BINARY, REST)]
    return lines[:FRAMES_MAX]


def examples(name: str) -> list[Line]:
    """The frames that the exchange's tests hold as bytes."""
    parse = exchanges.get(name).parse
    own = parse.func if isinstance(parse, partial) else parse
    try:
        module = importlib.import_module(f"tests.test_{own.__module__.rpartition('.')[2]}")
    except ModuleNotFoundError:
        return []
    payloads = dict.fromkeys(each.replace(b"\n", b"") for value in vars(module).values() for each in texts(value))
    return [Line(1, TEXT, payload) for payload in payloads for _ in range(EXAMPLES)]


def texts(value: object) -> Iterable[bytes]:
    """A value that is bytes, or those in a dictionary or list of some."""
    if isinstance(value, dict):
        return [each for each in (*value, *value.values()) if isinstance(each, bytes)]
    return [each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, bytes)]


def by_channel(adapter: Adapter, lines: list[Line]) -> tuple[set[str], list[Frames]]:
    """The symbols, and the record lines of each channel, in their order, those of most frames first."""
    symbols: set[str] = set()
    sizes: dict[str, list[int]] = {}
    records: dict[str, list[bytes]] = {}
    for seq, line in enumerate(lines, 2):
        try:
            payload, head = text_of(adapter, line)
            channel, symbol, record = record_of(adapter, line, payload, head, seq)
        except FAULTS:
            continue
        symbols.add(symbol)
        records.setdefault(channel, []).append(record)
        if line.kind != REST:
            sizes.setdefault(channel, []).append(len(payload))
    found = [Frames(channel, records[channel], len(each), sum(each) // len(each)) for channel, each in sizes.items()]
    return symbols, sorted(found, key=lambda each: -each.frames)


def text_of(adapter: Adapter, line: Line) -> tuple[bytes, dict[str, Any]]:
    """A line's JSON text, and what its record's head says of a frame that was binary."""
    if line.kind != BINARY or adapter.inflate is None:
        return line.payload, {}
    return adapter.inflate(line.payload, FRAME_BYTES_MAX), {"op": "binary", "encoding": adapter.ENCODING}


def record_of(adapter: Adapter, line: Line, payload: bytes, head: dict[str, Any], seq: int) -> tuple[str, str, bytes]:
    """Channel, symbol and record of a frame, or of a book over REST. Raises one of FAULTS where it is neither."""
    if line.kind != REST:
        found = adapter.parse(adapter.loads(payload))
        first: Any = found[0] if isinstance(found, list) else found
        channel = "book" if isinstance(first, Snapshot) else first.channel
        record = encode(seq, line.ts, "in", conn=1, channel=channel, symbol=first.symbol, head=head, payload=payload)
        return channel, first.symbol, record
    url = line.url
    if url.endswith(".gz"):  # of a recording that does not tell what was asked for: its name does
        url = adapter.request(Action("snapshot", "book", url.split("-")[1].upper()), 1000).path
    book = adapter.parse_rest(url, payload)
    if not isinstance(book, Snapshot):
        raise LookupError
    symbol, head = book.symbol, {"url": url, "status": 200}
    return "book", symbol, encode(seq, line.ts, "rest", channel="book", symbol=symbol, head=head, payload=payload)


def measured(adapter: Adapter, symbols: set[str], lines: list[bytes], seconds: float) -> tuple[float, int]:
    """Median of record lines a second, and the events of one round."""
    payload = orjson.dumps({"subscriptions": {"symbols": sorted(symbols), "channels": adapter.CHANNELS}, "owed": {}})
    start = encode(1, 1, "start", head={"last": 0}, payload=payload)
    rates: list[float] = []
    until = time.perf_counter() + seconds
    while not rates or time.perf_counter() < until:
        normaliser = Normaliser(adapter)
        normaliser.all_messages([normaliser.work(start)])
        began = time.perf_counter()
        events = len(normaliser.all_messages(map(normaliser.work, lines)))
        rates.append(len(lines) / (time.perf_counter() - began))
    return statistics.median(rates), events


def rows(name: str, recordings: Path, seconds: float) -> Iterator[tuple[str, ...]]:
    adapter = cast(Adapter, exchanges.get(name))
    lines = recorded(name, recordings)
    source = "recording" if lines else "examples"
    symbols, found = by_channel(adapter, lines or examples(name))
    others = [each for each in found if each.channel not in ALWAYS][:OTHERS]
    for each in [each for each in found if each.channel in ALWAYS] + others:
        rate, events = measured(adapter, symbols, each.lines, seconds)
        per_frame = f"{events / each.frames:.1f}"
        yield name, each.channel, source, f"{each.frames:,}", f"{each.size:,}", per_frame, f"{rate:,.0f}"
    if not found:
        yield name, "-", "nothing", "0", "-", "-", "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("exchanges", nargs="*", metavar="EXCHANGE", help="default: all")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each channel")
    parser.add_argument("--recordings", type=Path, default=RECORDINGS, metavar="DIR")
    args = parser.parse_args()
    layout = "{:<18}  {:<13}  {:<9}  {:>7}  {:>7}  {:>6}  {:>9}"
    print(layout.format("exchange", "channel", "source", "frames", "bytes", "events", "frames/s"))
    for name in args.exchanges or exchanges.names():
        for row in rows(name, args.recordings, args.seconds):
            print(layout.format(*row), flush=True)


if __name__ == "__main__":
    main()
