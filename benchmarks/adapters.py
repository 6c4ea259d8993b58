"""What each exchange's file costs: the frames that it sends most, record lines in, encoded events out, on one core.

    python -m benchmarks.adapters [EXCHANGE …] [--seconds 0.5] [--recordings DIR]

Out of a recording where there is one, in its own order; where there is none, made up in the documented format, or the
examples of the exchange's tests over and over. Times are of the processor, the median of several rounds. The snapshots
that books begin with are taken before the clock starts. `bytes`, `levels` and `events` are those of a frame.
"""

import argparse
import importlib
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson

from benchmarks.made import MADE
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
    "binance-coinm": "binance/usdm-*.gz",
    "bybit-spot": "bybit/*.gz",
    "bybit-linear": "bybit/*.gz",
    "bybit-inverse": "bybit/*.gz",
}
"""Where the name of the folder is not that of the exchange: some send what another's recording holds."""

FRAMES_MAX = 50_000  # of one recording
ALWAYS = ("trade", "book")
OTHERS = 1  # the most frequent of the other channels
EXAMPLES = 2_000  # how often an example is repeated
FRAME_BYTES_MAX = 64 * 1024**2
ROUNDS_MIN = 3


class Frames(NamedTuple):
    """The record lines of one channel of an exchange, those of `begins` first: up to the books' snapshots."""

    channel: str
    lines: list[bytes]
    begins: int
    size: float  # bytes of a frame
    levels: float  # of a frame


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


class Read(NamedTuple):
    """What a frame or an answer says, and its record."""

    channel: str
    symbol: str
    is_snapshot: bool
    levels: int
    record: bytes


def by_channel(adapter: Adapter, lines: list[Line]) -> tuple[set[str], list[Frames]]:
    """The symbols, and the record lines of each channel, in their order, those of most frames first."""
    found: dict[str, list[tuple[Read, int]]] = {}
    for seq, line in enumerate(lines, 2):
        try:
            payload, head = text_of(adapter, line)
            read = record_of(adapter, line, payload, head, seq)
        except FAULTS:
            continue
        found.setdefault(read.channel, []).append((read, len(payload)))
    channels = [frames_of(channel, *zip(*each, strict=True)) for channel, each in found.items()]
    symbols = {read.symbol for each in found.values() for read, _ in each}
    return symbols, sorted(channels, key=lambda each: -len(each.lines))


def frames_of(channel: str, reads: Sequence[Read], sizes: Sequence[int]) -> Frames:
    snapshots = [place for place, read in enumerate(reads) if read.is_snapshot and place < len(reads) // 2]
    begins = snapshots[-1] + 1 if snapshots and len(snapshots) < len(reads) // 2 else 0
    timed = len(reads) - begins
    levels = sum(read.levels for read in reads[begins:])
    return Frames(channel, [read.record for read in reads], begins, sum(sizes[begins:]) / timed, levels / timed)


def text_of(adapter: Adapter, line: Line) -> tuple[bytes, dict[str, Any]]:
    """A line's JSON text, and what its record's head says of a frame that was binary."""
    if line.kind != BINARY or adapter.inflate is None:
        return line.payload, {}
    return adapter.inflate(line.payload, FRAME_BYTES_MAX), {"op": "binary", "encoding": adapter.ENCODING}


def record_of(adapter: Adapter, line: Line, payload: bytes, head: dict[str, Any], seq: int) -> Read:
    """A frame, or a book over REST. Raises one of FAULTS where it is neither."""
    if line.kind != REST:
        said = adapter.parse(adapter.loads(payload))
        first: Any = said[0] if isinstance(said, list) else said
        channel = "book" if isinstance(first, Snapshot) else first.channel
        record = encode(seq, line.ts, "in", conn=1, channel=channel, symbol=first.symbol, head=head, payload=payload)
        return Read(channel, first.symbol, *shape(first), record)
    url = line.url
    if url.endswith(".gz"):  # of a recording that does not tell what was asked for: its name does
        url = adapter.request(Action("snapshot", "book", url.split("-")[1].upper()), 1000).path
    book = adapter.parse_rest(url, payload)
    if not isinstance(book, Snapshot):
        raise LookupError
    symbol, head = book.symbol, {"url": url, "status": 200}
    record = encode(seq, line.ts, "rest", channel="book", symbol=symbol, head=head, payload=payload)
    return Read("book", symbol, *shape(book), record)


def shape(update: Any) -> tuple[bool, int]:
    """Whether it is a snapshot of a book, and how many levels it has."""
    if isinstance(update, Snapshot):
        return True, len(update.bids) + len(update.asks)
    fields = update.fields
    return fields.get("type") == "snapshot", len(fields.get("bids", ())) + len(fields.get("asks", ()))


def measured(adapter: Adapter, symbols: set[str], frames: Frames, seconds: float) -> tuple[float, int]:
    """Median of frames a second, and the events of one round."""
    payload = orjson.dumps({"subscriptions": {"symbols": sorted(symbols), "channels": adapter.CHANNELS}, "owed": {}})
    start = encode(1, 1, "start", head={"last": 0}, payload=payload)
    before, lines = [start, *frames.lines[: frames.begins]], frames.lines[frames.begins :]
    rates: list[float] = []
    until = time.perf_counter() + seconds
    while len(rates) < ROUNDS_MIN or time.perf_counter() < until:
        normaliser = Normaliser(adapter)
        normaliser.all_messages(map(normaliser.work, before))
        began = time.process_time()
        events = len(normaliser.all_messages(map(normaliser.work, lines)))
        rates.append(len(lines) / (time.process_time() - began))
    return statistics.median(rates), events


def sources(name: str, recordings: Path) -> Iterator[tuple[str, list[Line]]]:
    """What there is to measure by, the best first."""
    yield "recording", recorded(name, recordings)
    yield "made", [Line(1, TEXT, payload) for payload in MADE[name]()] if name in MADE else []
    yield "examples", examples(name)


def rows(name: str, recordings: Path, seconds: float) -> Iterator[tuple[str, ...]]:
    adapter = cast(Adapter, exchanges.get(name))
    done: set[str] = set()
    others = OTHERS
    for source, lines in sources(name, recordings):
        symbols, found = by_channel(adapter, lines)
        for each in sorted(found, key=lambda each: each.channel not in ALWAYS):
            is_whole_books = each.channel == "book" and not each.begins and name in MADE and source == "recording"
            if each.channel in done or is_whole_books or (each.channel not in ALWAYS and not others):
                continue
            done.add(each.channel)
            others -= each.channel not in ALWAYS
            rate, events = measured(adapter, symbols, each, seconds)
            timed = len(each.lines) - each.begins
            per_frame = f"{each.size:,.0f}", f"{each.levels:.1f}", f"{events / timed:.1f}"
            yield name, each.channel, source, f"{timed:,}", *per_frame, f"{rate:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("exchanges", nargs="*", metavar="EXCHANGE", help="default: all")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each channel")
    parser.add_argument("--recordings", type=Path, default=RECORDINGS, metavar="DIR")
    args = parser.parse_args()
    layout = "{:<18}  {:<13}  {:<9}  {:>7}  {:>6}  {:>6}  {:>6}  {:>9}"
    print(layout.format("exchange", "channel", "source", "frames", "bytes", "levels", "events", "frames/s"))
    for name in args.exchanges or exchanges.names():
        for row in rows(name, args.recordings, args.seconds):
            print(layout.format(*row), flush=True)


if __name__ == "__main__":
    main()
