"""Imports: what a file of each format takes to read, to import whole, and how much memory; in processor time, one core.

    python -m benchmarks.imports [--rows 200000] [--codec zstd] [--formats tardis-book,archivist]

Each format is measured in a process of its own, with a file and with one four times as long: memory must not grow with
it. Whole is: looked through, written, compressed, tables made, committed.
"""

import argparse
import bz2
import gzip
import itertools
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common import exchanges, import_format
from common.imports import Order, run

US = 1_723_161_253_937_085
EXCHANGE = "binance-usdm"
RANDOM = random.Random(1)


def _times(step_us: int) -> Iterator[int]:
    return itertools.count(US, step_us)


def _tardis(path: Path, columns: str, rows: Iterator[str]) -> None:
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(f"exchange,symbol,timestamp,local_timestamp,{columns}\n")
        file.writelines(f"binance-futures,BTCUSDT,{row}\n" for row in rows)


def tardis_trades(directory: Path, rows: int) -> Path:
    path = directory / "binance-futures_trades_2024-08-08_BTCUSDT.csv.gz"
    lines = (f"{us - 900},{us},{us % 10**9},buy,{_price()},0.001" for us in itertools.islice(_times(5_000), rows))
    _tardis(path, "id,side,price,amount", lines)
    return path


def tardis_book(directory: Path, rows: int) -> Path:
    """Messages of five asks and five bids, the first one a snapshot."""
    path = directory / "binance-futures_incremental_book_L2_2024-08-08_BTCUSDT.csv.gz"
    lines = (
        f"{us - 900},{us},{str(us == US).lower()},{side},{_price()},{RANDOM.randrange(1000) / 1000}"
        for us in itertools.islice(_times(50_000), rows // 10)
        for side in ["ask"] * 5 + ["bid"] * 5
    )
    _tardis(path, "is_snapshot,side,price,amount", lines)
    return path


def archivist(directory: Path, rows: int) -> Path:
    """Blocks of ten levels, of floats."""
    path = directory / "BTCUSDT-2024-08-08-23-1723161253937.bz2"
    with bz2.open(path, "wb", compresslevel=1) as file:
        for us in itertools.islice(_times(50_000), rows // 10):
            levels = (struct.pack("dId", (-1) ** level * _price(), level, 1.5) for level in range(10))
            file.write(struct.pack("BdI", 1, us / 10**6, 10) + b"".join(levels))
    return path


def _frames(rows: int) -> Iterator[tuple[int, str]]:
    """Quotes, trades and deltas of ten levels as in genuine recordings, 2 : 1 : 1; a book first. Times in us."""
    for number, us in enumerate(itertools.islice(_times(2_000), rows), 1):
        about = f'"E":{us // 1000},"T":{us // 1000},"s":"BTCUSDT"'
        if number == 2:
            yield us, '{"lastUpdateId":0,"bids":[["60000.0","1"]],"asks":[["60200.0","1"]]}'
        elif number % 4 == 1:
            side = ",".join(f'["{_price()}","{RANDOM.randrange(1000) / 1000}"]' for _ in range(5))
            ids = f'"U":{number - 3},"u":{number},"pu":{number - 4}'
            data = f'"e":"depthUpdate",{about},{ids},"b":[{side}],"a":[{side}]'
            yield us, f'{{"stream":"btcusdt@depth@0ms","data":{{{data}}}}}'
        elif number % 4 == 3:
            data = f'"e":"trade",{about},"t":{number // 4},"p":"{_price()}","q":"0.006","X":"MARKET","m":true'
            yield us, f'{{"stream":"btcusdt@trade","data":{{{data}}}}}'
        else:
            data = f'"e":"bookTicker","u":{number},{about},"b":"{_price()}","B":"1","a":"{_price()}","A":"2"'
            yield us, f'{{"stream":"btcusdt@bookTicker","data":{{{data}}}}}'


def hftbacktest(directory: Path, rows: int) -> Path:
    path = directory / "btcusdt_20240808.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.writelines(f"{us}000 {payload}\n" for us, payload in _frames(rows))
    return path


def cryptofeed(directory: Path, rows: int) -> Path:
    path = directory / "BINANCE_FUTURES.ws.1.0"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.write(f"wss://fstream.binance.com/stream <-> {US / 1e6}\n")
        for us, payload in _frames(rows):
            asked = "https://fapi.binance.com/fapi/v1/depth?symbol=BTCUSDT -> " if payload.startswith('{"last') else ""
            file.write(f"{asked}{us // 10**6}.{us % 10**6:06}: {payload}\n")
    return path


def _price() -> float:
    return RANDOM.randrange(600_000, 601_000) / 10


FORMATS: dict[str, tuple[str, Callable[[Path, int], Path]]] = {
    "hftbacktest": ("hftbacktest", hftbacktest),
    "cryptofeed": ("cryptofeed", cryptofeed),
    "tardis-trades": ("tardis", tardis_trades),
    "tardis-book": ("tardis", tardis_book),
    "archivist": ("archivist", archivist),
}
"""Each with the name of its format and what writes a file of so many rows."""


def measure(name: str, rows: int, codec: str) -> None:
    """Print one line: rows read and imported a second, and the highest memory."""
    form, make = FORMATS[name]
    with tempfile.TemporaryDirectory() as directory:
        path = make(Path(directory), rows)
        began = time.process_time()
        items = sum(1 for _ in import_format.get(form).read(path, exchanges.get(EXCHANGE), None))
        read = time.process_time()
        run(Order(form, [path], Path(directory) / "storage", EXCHANGE, codec=codec))
        whole = time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rates = f"read {rows / (read - began):10,.0f} rows/s   whole {rows / (whole - read):9,.0f} rows/s"
    print(f"{name:14} {rows:9,} rows {items:9,} records   {rates}   {memory:5.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--codec", choices=("bz2", "zstd"), default="zstd")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--one", action="store_true", help="measure here, in this process")
    args = parser.parse_args()
    for name in args.formats.split(","):
        if args.one:
            measure(name, args.rows, args.codec)
            continue
        for rows in (args.rows, 4 * args.rows):
            options = ["--one", "--formats", name, "--rows", str(rows), "--codec", args.codec]
            subprocess.run([sys.executable, "-m", "benchmarks.imports", *options], check=True)


if __name__ == "__main__":
    main()
