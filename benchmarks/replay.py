"""How many events a second a replay at full speed brings to one subscriber.

    python -m benchmarks.replay [--trades 400000]

An archive of trades is written, then played: the whole way (the process, to a SUB in this one), and reading it alone.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import orjson
import zmq

from benchmarks.ports import free_port
from common import exchanges
from common.adapter import Adapter, version
from common.archive import ArchiveWriter
from common.disk import Disk
from common.process import boot_id
from common.reader import Reader
from common.record import encode
from common.replay import Part, steps
from common.sealing import seal

NORMALISER = version(exchanges.get("binance"))

ROOT = Path(__file__).resolve().parent.parent
T0 = 1_723_161_600_000_000_000


def write(storage: Path, trades: int) -> None:
    """One symbol's trades, 2,000 a second, sealed as zstd but for the last hour."""
    writer = ArchiveWriter(Disk(), storage / "binance", boot_id=boot_id(), rotate_min_bytes=1)
    writer.open(None)
    payload = orjson.dumps({"subscriptions": {"symbols": ["BTCUSDT"], "channels": ["trade"]}})
    writer.hole(1, 0)
    writer.take([encode(1, T0, "start", head={"last": 0}, payload=payload)])
    for first in range(2, trades + 2, 10_000):
        writer.take([_trade(seq) for seq in range(first, min(first + 10_000, trades + 2))])
    writer.sync(lambda: None)
    for path in writer.sealable():
        seal(Disk(), path, "zstd", 3, 900_000, NORMALISER)
    writer.close()


def _trade(seq: int) -> bytes:
    ms = T0 // 1_000_000 + seq // 2
    data = {
        "e": "trade",
        "E": ms,
        "s": "BTCUSDT",
        "t": seq,
        "p": "61837.64000000",
        "q": "0.00100000",
        "T": ms,
        "m": True,
    }
    payload = orjson.dumps({"stream": "btcusdt@trade", "data": data})
    return encode(seq, T0 + seq * 500_000, "in", conn=1, channel="trade", symbol="BTCUSDT", payload=payload)


def read(storage: Path) -> tuple[int, float]:
    adapter = cast(Adapter, exchanges.get("binance"))
    before = time.perf_counter()
    count = sum(
        len(step.messages)
        for step in steps([Part(adapter, Reader(storage, adapter), ("BTCUSDT",), ("trade",))], 0, 1 << 62)
    )
    return count, time.perf_counter() - before


def played(storage: Path) -> tuple[int, float]:
    port = free_port()
    command = [sys.executable, "-m", "processes.replay", "binance", "BTCUSDT", "--channels=trade", "--speed=max"]
    command += [f"--storage={storage}", f"--bind=127.0.0.1:{port}", "--log-level=ERROR"]
    with (
        subprocess.Popen(command, cwd=ROOT) as process,
        zmq.Context() as context,
        context.socket(zmq.SUB) as subscriber,
    ):
        try:
            subscriber.linger, subscriber.rcvtimeo = 0, 60_000
            subscriber.subscribe(b"")
            subscriber.connect(f"tcp://127.0.0.1:{port}")
            message, count = subscriber.recv(), 1
            before = time.perf_counter()
            while b'"end":true' not in message:
                message, count = subscriber.recv(), count + 1
            return count, time.perf_counter() - before
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trades", type=int, default=400_000)
    trades = parser.parse_args().trades
    with tempfile.TemporaryDirectory() as directory:
        storage = Path(directory)
        write(storage, trades)
        for name, act in (("reading alone", read), ("process to SUB", played)):
            count, took_s = act(storage)
            print(f"{name:<16}{count / took_s:>10,.0f} messages/s ({count:,} in {took_s:.1f} s)")


if __name__ == "__main__":
    main()
