"""Exports: what each format and kind takes, beside reading the same slice, and how much memory; in processor time.

    python -m benchmarks.exports [--rows 200000] [--formats csv,tardis-csv]

An archive of made trades and of a book is imported first, and one four times as long: memory must not grow with it.
Each kind of each format is measured in a process of its own, which reads the directory without a server.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.imports import EXCHANGE, tardis_book, tardis_trades
from common.client import Client
from common.export_formats import FORMATS
from common.exports import export, planned
from common.imports import Order, run

SYMBOL = "BTCUSDT"
ARCHIVED = ("trade", "book")
PAIR = "BTC/USDT:USDT"
"""What is imported has no instruments that would tell it."""


def archive(directory: Path, rows: int) -> Path:
    """A storage directory of so many trades, and as many rows of a book, ten a message."""
    files = [make(directory, rows) for make in (tardis_trades, tardis_book)]
    run(Order("tardis", files, directory / "storage", codec="zstd"))
    return directory / "storage"


def kinds(name: str) -> list[str]:
    """The kinds of a format that the archive has something of: no frames, and no instruments."""
    found = [kind for kind, channels in FORMATS[name].kinds.items() if set(channels) & set(ARCHIVED)]
    return [kind for kind in found if kind not in ("raw", "instrument")]


def measure(storage: Path, name: str, kind: str) -> None:
    """Print one line: rows and events exported a second, how long reading alone takes, and the highest memory."""
    format = replace(FORMATS[name], named=lambda *_: PAIR)
    with tempfile.TemporaryDirectory() as out, Client(storage=storage) as client:
        channels = [channel for channel in format.kinds[kind] if channel in ARCHIVED]
        began = time.process_time()
        events = sum(block.count(b"\n") for block in client.slice(EXCHANGE, SYMBOL, channels).blocks("json"))
        read = time.process_time() - began
        jobs = planned(client, format, EXCHANGE, [SYMBOL], [kind], None, None)
        began = time.process_time()
        rows = sum(done.rows for done in export(client, format, jobs, Path(out)))
        took = time.process_time() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rates = f"{rows / took:9,.0f} rows/s {events / took:9,.0f} events/s   reading alone {read / took:4.0%} of it"
    print(f"{name:18} {kind:20} {events:9,} events {rows:9,} rows   {rates}   {memory:5.0f} MiB", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--kinds", help="all that the archive has something of")
    parser.add_argument("--storage", type=Path, help="measure one kind of one format here, in this process")
    args = parser.parse_args(argv)
    if args.storage is not None:
        measure(args.storage, args.formats, args.kinds)
        return
    for rows in (args.rows, 4 * args.rows):
        with tempfile.TemporaryDirectory() as directory:
            storage = archive(Path(directory), rows)
            for name in args.formats.split(","):
                for kind in args.kinds.split(",") if args.kinds else kinds(name):
                    options = ["--storage", str(storage), "--formats", name, "--kinds", kind]
                    subprocess.run([sys.executable, "-m", "benchmarks.exports", *options], check=True)


if __name__ == "__main__":
    main()
