"""The pure function alone: record lines in, encoded events out, on one core.

    python -m benchmarks.normalise [--recording FILE] [--rounds 7]

Also what orjson alone takes for the same lines, and the parts that `normalise` spends its time in.
"""

import argparse
import gzip
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from common import exchanges
from common.exchanges import binance
from common.normaliser import Normaliser
from common.record import decode, encode

RECORDING = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "binance" / "spot-btcusdt-20240808.gz"
CHANNELS = ["trade", "agg_trade", "book", "quote", "ticker", "candle"]


def record_lines(recording: Path) -> list[bytes]:
    """The recording as our records: `start`, then each line of it."""
    start = orjson.dumps({"subscriptions": {"symbols": ["BTCUSDT"], "channels": CHANNELS}, "owed": {}})
    lines = [encode(1, 1, "start", head={"last": 0}, payload=start)]
    with gzip.open(recording) as file:
        recorded = file.readlines()
    for seq, line in enumerate(recorded, 2):
        ts, payload = int(line[:19]), line[20:].rstrip(b"\n")
        update = binance.parse(orjson.loads(payload))
        if update is None:
            head = {"url": "/api/v3/depth?symbol=BTCUSDT&limit=1000", "status": 200}
            lines.append(encode(seq, ts, "rest", channel="book", symbol="BTCUSDT", head=head, payload=payload))
        else:
            lines.append(encode(seq, ts, "in", conn=1, channel=update.channel, symbol=update.symbol, payload=payload))
    return lines


def normalise(lines: list[bytes]) -> int:
    normaliser = Normaliser(exchanges.get("binance"))
    batches = (lines[start : start + 1000] for start in range(0, len(lines), 1000))
    return sum(len(normaliser.all_messages(map(normaliser.work, batch))) for batch in batches)


def rate(act: Callable[[list[bytes]], object], lines: list[bytes], rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        act(lines)
        found.append(len(lines) / (time.perf_counter() - began))
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recording", type=Path, default=RECORDING)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    lines = record_lines(args.recording)
    print(f"{len(lines):,} records give {normalise(lines):,} events")
    for name, act in (
        ("normalise, decode and encode included", normalise),
        ("decode alone", lambda lines: [None for _ in map(decode, lines)]),
        ("orjson.loads alone, whole lines", lambda lines: [None for _ in map(orjson.loads, lines)]),
    ):
        found = rate(act, lines, args.rounds)
        print(f"{name:40} median {statistics.median(found):9,.0f}/s   best {found[-1]:9,.0f}/s")


if __name__ == "__main__":
    main()
