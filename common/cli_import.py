"""The command `import`."""

import argparse
import sys
from pathlib import Path

EPILOG = """\
FORMAT       what is exact                              what is lost
hftbacktest  every payload, times (ns), REST books      when connections opened and were lost, what was sent
cryptofeed   every payload, what was sent, REST         times below a us; when connections were lost
tardis       every digit, times (us), order, snapshots  rows of bids and asks between each other; deltas before
                                                        the first snapshot; that funding, mark and such stay the same
archivist    decimals, order counts, times (ms or s)    floats are what Python's repr says; the exchange's own times

hftbacktest  gzip of its collector, of Binance; other exchanges by --exchange
cryptofeed   text recordings of cryptofeed 2 and the JSON lines of its captures: of exchanges that have an adapter here
tardis       CSV of tardis.dev: trades, incremental_book_L2, book_snapshot_N, quotes, derivative_ticker, liquidations
archivist    bz2 of the original trade-archivist, both layouts (Archivist, PyStruct): books
Of these two there are events alone, no frames: coverage calls them `unverifiable`.

examples:
  trade-archivist import hftbacktest btcusdt_20240808.gz btcusdt_20240809.gz --storage ./imported
  trade-archivist import cryptofeed COINBASE.http.1.0 COINBASE.ws.2.0 --storage ./imported
  trade-archivist import tardis binance-futures_trades_2024-08-08_BTCUSDT.csv.gz --storage ./imported
  trade-archivist import archivist ETHBTC-2023-02-27-08-1677485354492.bz2 --exchange binance --storage ./imported

All files of one time belong into one command: they are merged by time into one log. A file that was imported before is
passed over; a file that cannot be read is named, with its line, and nothing is imported. What is imported is never
mixed with what a feed recorded: a directory is the one or the other. `start` records say where it is from.

exit code: 0 done, 1 a file is damaged or of something else, 2 could not run
"""


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("format", metavar="FORMAT", help="hftbacktest, cryptofeed, tardis, archivist")
    sub.add_argument("files", nargs="+", type=Path, metavar="FILE", help="plain, or compressed (gzip, bz2, zstd)")
    sub.add_argument("--storage", type=Path, required=True, metavar="DIR", help="the storage directory")
    sub.add_argument("--exchange", metavar="NAME", help="where the files do not tell it, or tell of several")
    sub.add_argument("--symbol", metavar="S", help="where the files do not tell it, as the exchange spells it")
    sub.add_argument("--codec", choices=("bz2", "zstd"), default="bz2", help="how it is compressed (bz2)")


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
