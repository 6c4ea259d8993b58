"""The client against a history server on loopback: tables in bulk, raw records, events.

    python -m benchmarks.client [--rows 8000000] [--records 600000] [--rounds 5]

Bulk is measured beside polars that reads the very same Parquet files from disk, in turns in one run; both in the best
of some rounds. The tables are written as sealing writes them, the manifest around them is made up.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import polars
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.ports import free_port
from common import exchanges
from common.adapter import version
from common.archive import ArchiveWriter
from common.client import Client
from common.disk import Disk
from common.process import boot_id
from common.record import encode
from common.sealing import seal
from common.storage import MANIFEST, Archived, write_archived
from common.tables import schema
from common.tabling import ZSTD_LEVEL, _encodings

NORMALISER = version(exchanges.get("binance"))

HOUR_NS = 3600 * 10**9
BEGIN_NS = 1_700_000_000 * 10**9 // HOUR_NS * HOUR_NS
FILES = 8
FRAME = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"s":"BTCUSDT","t":%d,"p":"61837.64000000","q":"%.8f",'
    b'"T":%d,"m":true,"M":true}}'
)


def bulk_archive(storage: Path, rows: int) -> list[Path]:
    """Hours of trades: their tables, and a manifest that names them."""
    month = storage / "binance" / "BTCUSDT" / "2023-11"
    month.mkdir(parents=True)
    (storage / "binance" / "_").mkdir()
    paths, lines, each = [], [], rows // FILES
    for hour in range(FILES):
        name = f"BTCUSDT-2023-11-14-{hour:02}-{BEGIN_NS // 10**6 + hour * 3_600_000}"
        path = month / f"{name}.trade.parquet"
        first, last = hour * 2 * each + 1, (hour + 1) * 2 * each
        table = trades(first, each, BEGIN_NS + hour * HOUR_NS)
        pq.write_table(
            table, path, row_group_size=65_536, compression="zstd", compression_level=ZSTD_LEVEL, **_encodings("trade")
        )
        times = [BEGIN_NS + hour * HOUR_NS, BEGIN_NS + (hour + 1) * HOUR_NS - 1]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        about = {"file": path.name, "bytes": path.stat().st_size, "sha256": digest, "rows": each, "events": each}
        about |= {"seq": [first, last], "ts_recv": times, "ts_event": times, "inexact": 0}
        line = {"name": name, "file": f"{name}.zst", "codec": "zstd", "seq": [first, last], "ts_recv": times}
        line |= {"normaliser": NORMALISER, "covers": [first, last], "tables": {"trade": about}, "blocks": []}
        paths.append(path)
        lines.append(orjson.dumps(line) + b"\n")
    (month / MANIFEST).write_bytes(b"".join(lines))
    write_archived(Disk(), storage / "binance", Archived(rows * 2, rows * 2, boot_id()), durable=False)
    return paths


def trades(first: int, count: int, begin_ns: int) -> pa.Table:
    """A random walk of trades, every second number one."""
    rng = np.random.default_rng(first)
    seq = np.arange(first, first + 2 * count, 2)
    ts = begin_ns + np.sort(rng.integers(0, HOUR_NS, count))
    ones = np.ones(count, np.int64)
    columns = {
        "seq": seq, "part": ones * 0, "of": ones, "prev": seq - 2, "ts_event": ts - 10**6, "ts_recv": ts,
        "symbol": pa.DictionaryArray.from_arrays(pa.array(ones * 0, pa.int32()), ["BTCUSDT"]),
        "id": pa.array(seq + 3_000_000_000).cast(pa.string()),
        "price": 60_000 + rng.integers(-5, 6, count).cumsum() / 100,
        "amount": rng.integers(1, 100_000, count) / 100_000,
        "side": pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, 2, count), pa.int32()), ["buy", "sell"]),
    }  # fmt: skip
    return pa.table([pa.array(columns[field.name]) if field.name in columns else pa.nulls(count, field.type)
                     for field in schema("trade")], schema=schema("trade"))  # fmt: skip


def record_archive(storage: Path, count: int) -> None:
    """Records of trades, sealed with zstd but for the last hour."""
    disk = Disk()
    writer = ArchiveWriter(disk, storage / "binance", boot_id=boot_id(), rotate_min_bytes=1)
    writer.open(None)
    writer.hole(1_000_000, 0)
    writer.take([encode(1_000_000, BEGIN_NS, "start", head={"last": 0}, payload=b"{}")])
    for hour in range(3):
        lines = []
        for index in range(count // 3):
            seq, now = 1_000_001 + hour * (count // 3) + index, BEGIN_NS + hour * HOUR_NS + index * 1000
            kind = "in" if index else "checkpoint"
            payload = FRAME % (now // 10**6, seq, random.random(), now // 10**6) if index else b'{"normaliser":"none"}'
            lines.append(encode(seq, now, kind, conn=1, channel="trade", symbol="BTCUSDT", payload=payload))
        writer.take(lines)
        writer.flush()
    writer.sync(lambda: None)
    for path in writer.sealable():
        seal(disk, path, "zstd", 3, 900_000, NORMALISER)
    writer.close()


def fastest(rounds: int, *ways: Callable[[], object], after: Callable[[], object] = lambda: None) -> list[float]:
    """The least seconds of each way, in turns; `after` each, what is not timed."""
    best = [float("inf")] * len(ways)
    for _ in range(rounds):
        for index, way in enumerate(ways):
            began = time.perf_counter()
            way()
            best[index] = min(best[index], time.perf_counter() - began)
            after()
    return best


def served(storage: Path) -> tuple["subprocess.Popen[bytes]", str]:
    server = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "processes.history", "binance", "--storage", str(storage), "--listen", server]
    return subprocess.Popen([*command, "--symbols", "BTCUSDT", "--log-level", "WARNING"]), server


def bulk(directory: Path, rows: int, rounds: int) -> None:
    paths = bulk_archive(directory, rows)
    process, server = served(directory)
    try:
        with Client(server, progress=False) as client:
            asked = client.slice("binance", "BTCUSDT", "trade")
            assert asked.to_polars().height == rows
            bytes_ = sum(path.stat().st_size for path in paths)
            ours, local = fastest(rounds, asked.to_polars, lambda: polars.read_parquet(paths))
            print(f"bulk into polars    {rows / ours / 1e6:6.1f} M rows/s   {bytes_ / ours / 1e6:6.0f} MB/s of Parquet")
            print(f"polars, same files  {rows / local / 1e6:6.1f} M rows/s   ratio {local / ours:.2f}")
        data = [path.read_bytes() for path in paths]
        with Client(server, progress=False) as client:
            asked, fresh = client.slice("binance", "BTCUSDT", "trade"), directory / "fresh"
            ways = lambda: asked.to_directory(fresh), lambda: write(fresh, data), lambda: write(fresh, data, sync=True)
            best = fastest(rounds, *ways, after=lambda: shutil.rmtree(fresh))
        brought, written, synced = (bytes_ / seconds / 1e6 for seconds in best)
        print(f"bulk into files     {brought:6.0f} MB/s of Parquet")
        print(f"the same written    {written:6.0f} MB/s   and synced to the disk {synced:.0f} MB/s")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def write(directory: Path, contents: list[bytes], *, sync: bool = False) -> None:
    directory.mkdir()
    for number, data in enumerate(contents):
        with (directory / f"{number}.parquet").open("wb") as file:
            file.write(data)
            if sync:
                os.fsync(file.fileno())


def lines(directory: Path, count: int, rounds: int) -> None:
    count -= count % 3
    record_archive(directory, count)
    process, server = served(directory)
    try:
        with Client(server, progress=False) as client:
            asked = client.slice("binance", "BTCUSDT")
            assert sum(1 for _ in asked.records(decoded=False)) >= count
            ways: dict[str, Callable[[], object]] = {
                "raw blocks": lambda: sum(block.count(b"\n") for block in asked.blocks("raw")),
                "raw lines": lambda: sum(1 for _ in asked.records(decoded=False)),
                "records": lambda: sum(1 for _ in asked.records()),
                "events as lines": lambda: sum(map(len, asked.blocks("json"))),
                "events": lambda: sum(1 for _ in asked),
            }
            for name, seconds in zip(ways, fastest(rounds, *ways.values()), strict=True):
                print(f"{name:18}  {count / seconds:10,.0f} /s")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8_000_000)
    parser.add_argument("--records", type=int, default=600_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        bulk(Path(directory), args.rows, args.rounds)
    with tempfile.TemporaryDirectory() as directory:
        lines(Path(directory), args.records, max(1, args.rounds // 2))


if __name__ == "__main__":
    main()
