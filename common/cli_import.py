"""The command `import`."""

import argparse
import sys
from pathlib import Path

EPILOG = """\
FORMAT       of
hftbacktest  gzip of its collector, of Binance; other exchanges by --exchange
cryptofeed   text recordings of cryptofeed 2 and the JSON lines of its captures
tardis       CSV of tardis.dev: trades, incremental_book_L2, book_snapshot_N,
             quotes, derivative_ticker, liquidations
archivist    bz2 of the original trade-archivist, both layouts: books

What is exact and what is lost of each: README, "Import and export". Files of
the last two hold events alone, no frames: coverage calls them `unverifiable`.

examples:
  trade-archivist import hftbacktest btcusdt_20240808.gz --storage ./imported
  trade-archivist import cryptofeed COINBASE.http.1.0 COINBASE.ws.2.0 \\
      --storage ./imported
  trade-archivist import tardis binance_trades_2024-08-08_BTCUSDT.csv.gz \\
      --storage ./imported
  trade-archivist import archivist ETHBTC-2023-02-27-08-1677485354492.bz2 \\
      --exchange binance --storage ./imported

All files of one time belong into one command: they are merged by time into one
log. A file that was imported before is passed over; a file that cannot be read
is named, with its line, and nothing is imported. What is imported is never
mixed with what a feed recorded: a directory is the one or the other. `start`
records say where it is from.

exit code: 0 done, 1 a file is damaged or of something else, 2 could not run
"""


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("format", metavar="FORMAT", help="hftbacktest, cryptofeed, tardis, archivist")
    sub.add_argument("files", nargs="+", type=Path, metavar="FILE", help="plain, or compressed (gzip, bz2, zstd)")
    sub.add_argument("--storage", type=Path, required=True, metavar="DIR", help="the storage directory")
    sub.add_argument("--exchange", metavar="NAME", help="of the files, where they do not tell it, or tell of several")
    sub.add_argument("--symbol", metavar="SYMBOL", help="the exchange's own name of it, where the files do not tell it")
    sub.add_argument(
        "--codec", choices=("bz2", "zstd"), default="bz2", help="how the archive is compressed (default: bz2)"
    )


def run(args: argparse.Namespace) -> int:
    """Import; returns the exit code. Raises ConfigError, DamagedError, OSError."""
    from . import imports
    from .process import EXIT_OK
    from .progress import Progress

    order = imports.Order(args.format, args.files, args.storage, args.exchange, args.symbol, args.codec)
    with Progress(args.format) as shown:
        done = imports.run(order, lambda _what, count, total: shown.update(count, total))
    for path in done.passed_over:
        print(f"{path}: was imported before, passed over")
    for looked in done.files:
        print(f"{looked.path}: {looked.items} items, {looked.unknown} frames not understood")
    if done.others:
        print(f"what the files hold of {', '.join(done.others)} is left out: import it by its own --exchange")
    for error, count in done.faults.items():
        print(f"trade-archivist: {error} ({count} times): the records are kept, please report", file=sys.stderr)
    if done.seq is not None:
        first, last = done.seq
        print(f"{done.exchange}: {len(done.files)} files imported, records {first} to {last}")
    return EXIT_OK
