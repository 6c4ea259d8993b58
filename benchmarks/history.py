"""The history server, asked over loopback by plain sockets.

    python -m benchmarks.history [--files 10000] [--megabytes 150] [--codec zstd]

An archive with many sealed files is written first: most of them small, one hour dense as a recorded one of a busy
market (120 records/s, ten of them deltas of 40 levels), with checkpoints as a feed writes them. Then the real server is
asked: small slices, the very first one too, books, raw slices, parts of a large table.
"""

import argparse
import hashlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import zmq

from benchmarks.ports import free_port
from common import exchanges
from common.adapter import version
from common.archive import ArchiveWriter
from common.disk import AppendFile, Disk
from common.normaliser import Normaliser
from common.process import boot_id
from common.record import decode, encode
from common.schedule import CHECKPOINT_BYTES, Weights
from common.sealing import Tables, seal

NORMALISER = version(exchanges.get("binance"))

HOUR_NS = 3600 * 10**9
BEGIN_NS = 1_700_000_000 * 10**9 // HOUR_NS * HOUR_NS
SYMBOL = "BTCUSDT"
PART_BYTES = 1024**2


class QuickFile(AppendFile):
    def sync(self) -> None: ...


class QuickDisk(Disk):
    """Without a sync: what is written here is thrown away soon."""

    def open(self, path: Path) -> AppendFile:
        return QuickFile(path)

    def sync_file(self, path: Path) -> None: ...
    def sync_dir(self, directory: Path) -> None: ...


class Writer:
    """An archive of one symbol, as a feed and an archiver leave it."""

    def __init__(self, storage: Path, codec: str) -> None:
        self.disk, self.storage, self.codec = QuickDisk(), storage, codec
        self.archive = ArchiveWriter(self.disk, storage / "binance", boot_id=boot_id(), rotate_min_bytes=1)
        self.archive.open(None)
        self.normaliser, self.weights = Normaliser(exchanges.get("binance")), Weights(CHECKPOINT_BYTES)
        self.seq, self.now, self.ids = 999_999, BEGIN_NS, 1000
        self.archive.hole(1_000_000, 0)
        subscriptions = {"symbols": [SYMBOL], "channels": ["trade", "book"]}
        self.record("start", None, orjson.dumps({"subscriptions": subscriptions}), head={"last": 0})
        self.delta()
        levels = [[f"{price}.00000000", "1.50000000"] for price in range(60_000, 61_000)]
        body = orjson.dumps({"lastUpdateId": self.ids, "bids": levels, "asks": [["70000.00000000", "1.00000000"]]})
        self.record("rest", "book", body, head={"url": f"/api/v3/depth?symbol={SYMBOL}", "status": 200})

    def record(self, kind: str, channel: str | None, payload: bytes, **more: Any) -> None:
        self.seq += 1
        symbol = None if kind == "start" else SYMBOL
        line = encode(self.seq, self.now, kind, channel=channel, symbol=symbol, payload=payload, **more)
        self.archive.take([line])
        self.normaliser.messages(decode(line))
        if kind == "checkpoint":
            self.weights.checkpoint(SYMBOL, len(payload))
        else:
            self.weights.add(SYMBOL, len(payload))

    def trade(self) -> None:
        data = {
            "e": "trade",
            "s": SYMBOL,
            "t": self.seq,
            "p": "61837.64",
            "q": "0.001",
            "T": self.now // 10**6,
            "m": True,
        }
        self.record("in", "trade", orjson.dumps({"stream": "btcusdt@trade", "data": data}), conn=1)

    def delta(self) -> None:
        self.ids += 1
        levels = [[f"{random.randrange(60_000, 61_000)}.00000000", f"{random.random():.8f}"] for _ in range(40)]
        data = {
            "e": "depthUpdate",
            "E": self.now // 10**6,
            "s": SYMBOL,
            "U": self.ids,
            "u": self.ids,
            "b": levels,
            "a": [],
        }
        self.record("in", "book", orjson.dumps({"stream": "btcusdt@depth", "data": data}), conn=1)

    def hour(self, count: int) -> None:
        """The next hour's records, a checkpoint every five minutes and where much was written since the last."""
        begin = self.now // HOUR_NS * HOUR_NS + HOUR_NS
        for index in range(count):
            self.now = begin + index * HOUR_NS // count
            if index % max(1, count // 12) == 0 or self.weights.heavy:
                self.record("checkpoint", None, self.normaliser.checkpoint(SYMBOL))
            (self.delta if index % 12 == 0 else self.trade)()

    def seal(self) -> None:
        self.archive.sync(lambda: None)
        for path in self.archive.sealable():
            seal(self.disk, path, self.codec, 9, 900_000, NORMALISER)

    def table(self, size: int) -> None:
        """Some bytes that pass for a table of the file that is sealed next."""
        self.archive.sync(lambda: None)
        (path, *_) = self.archive.sealable()
        data = random.randbytes(size)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(data)
        files = sorted(path.parents[1].rglob(f"*{path.suffix}"))
        first = int(files[0].read_bytes()[7:14]) if len(files) == 1 else 1
        digest = hashlib.sha256(data).hexdigest()
        table = {"file": f"{path.stem}.trade.parquet", "bytes": size, "sha256": digest, "rows": 1, "events": 1}
        table |= {"seq": [first, first], "ts_recv": [0, BEGIN_NS * 2]}
        line = {"covers": [1, self.seq], "tables": {"trade": table}, "gaps": [], "events": {"trade": 1}}
        tables = Tables({temporary: path.with_name(table["file"])}, line)  # type: ignore[arg-type]  # a name, a text
        seal(self.disk, path, self.codec, 9, 900_000, NORMALISER, lambda path: tables)


class Server:
    """The real process, and a plain REQ socket to it."""

    def __init__(self, storage: Path) -> None:
        self.port = free_port()
        options = ["--storage", str(storage), "--listen", f"127.0.0.1:{self.port}", "--symbols", SYMBOL]
        self.process = subprocess.Popen([sys.executable, "-m", "processes.history", *options, "--log-level", "WARNING"])
        self._context = zmq.Context()
        self.socket = self.connect(zmq.REQ)

    def connect(self, kind: int) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.connect(f"tcp://127.0.0.1:{self.port}")
        return socket

    def ask(self, **question: Any) -> tuple[dict[str, Any], list[bytes]]:
        self.socket.send(orjson.dumps({"exchange": "binance", **question} if question["op"] != "status" else question))
        head, *payload = self.socket.recv_multipart()
        header: dict[str, Any] = orjson.loads(head)
        if "error" in header:
            raise SystemExit(f"{question}: {header['error']}")
        return header, payload

    def wait(self) -> None:
        """Until its workers have started, and have looked around as long as nobody asks."""
        workers = self.ask(op="status")[0]["history"]["workers"]
        before = None
        while before != (ticks := [_ticks(pid) for pid in workers]):
            before = ticks
            time.sleep(1)

    def stop(self) -> None:
        self._context.destroy(linger=0)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def _ticks(pid: int) -> str:
    """Processor time of a process, in hundredths of a second."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11]


def milliseconds(act: Callable[[], object], rounds: int) -> str:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        found.append((time.perf_counter() - began) * 1000)
    return f"median {statistics.median(found):6.1f} ms   worst {max(found):6.1f} ms"


def pages(server: Server, **question: Any) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
    header: dict[str, Any] = {"next": None}
    while True:
        token = {"next": header["next"]} if header["next"] else {}
        header, payload = server.ask(op="slice", symbols=[SYMBOL], **question, **token)
        yield header, payload
        if not header["next"]:
            return


def measure_slices(server: Server, dense_ns: int) -> None:
    def slice_at(begin: int, kind: str) -> Callable[[], object]:
        times = {"start": begin, "end": begin + 60 * 10**9}
        return lambda: server.ask(op="slice", symbols=[SYMBOL], channels=["trade"], format=kind, **times)

    sparse = BEGIN_NS + 500 * HOUR_NS
    print(f"one minute, json, a server's first call  {milliseconds(slice_at(sparse, 'json'), 1)}")
    for kind in ("raw", "json"):
        slice_at(dense_ns, kind)()
        print(f"one minute, {kind:4}, of a small file     {milliseconds(slice_at(sparse, kind), 20)}")
        begin = dense_ns + random.randrange(3000) * 10**9
        print(f"one minute, {kind:4}, of the dense hour   {milliseconds(slice_at(begin, kind), 20)}")

    def book() -> object:
        return server.ask(op="book", symbol=SYMBOL, at=dense_ns + random.randrange(60, 3600) * 10**9)

    print(f"book at a random time of the dense hour  {milliseconds(book, 40)}")
    began = time.perf_counter()
    events = sum(header["events"] for header, _ in pages(server, format="json", start=dense_ns, end=dense_ns + HOUR_NS))
    print(f"json slices: {events / (time.perf_counter() - began):,.0f} events/s, one after another")


def measure_raw(server: Server, dense_ns: int) -> None:
    for times in ({"start": dense_ns, "end": dense_ns + HOUR_NS},) * 3:
        began, records, size = time.perf_counter(), 0, 0
        for header, payload in pages(server, format="raw", **times):
            records, size = records + header["records"], size + len(payload[0])
        taken = time.perf_counter() - began
        print(f"raw slices: {records / taken:,.0f} records/s, {size / taken / 1e6:,.0f} MB/s, {records:,} records")


def measure_chunks(server: Server, storage: Path) -> None:
    plan, _ = server.ask(op="plan", symbols=[SYMBOL], channels=["trade"])
    (file,) = plan["files"]
    socket = server.connect(zmq.DEALER)
    question = {"op": "chunk", "exchange": "binance", "token": file["token"], "sha256": file["sha256"]}
    for under_way in (4, 8):
        offsets = iter(range(0, file["bytes"], PART_BYTES))
        began, done = time.perf_counter(), 0
        for _, offset in zip(range(under_way), offsets, strict=False):
            socket.send_multipart([b"", orjson.dumps({**question, "offset": offset, "bytes": PART_BYTES})])
        while done < file["bytes"]:
            *_, data = socket.recv_multipart(copy=False)
            done += len(data.buffer)
            if (offset := next(offsets, -1)) >= 0:
                socket.send_multipart([b"", orjson.dumps({**question, "offset": offset, "bytes": PART_BYTES})])
        print(f"chunks, {under_way} under way: {done / (time.perf_counter() - began) / 1e9:.2f} GB/s")
    began = time.perf_counter()
    size = sum(len(part) for part in _parts(storage))
    print(f"the same bytes read from disk: {size / (time.perf_counter() - began) / 1e9:.2f} GB/s")


def _parts(storage: Path) -> Iterator[bytes]:
    (path,) = storage.rglob("*.parquet")
    with path.open("rb") as file:
        yield from iter(lambda: file.read(PART_BYTES), b"")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=150)
    parser.add_argument("--codec", choices=("bz2", "zstd"), default="zstd")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        storage = Path(directory)
        writer = Writer(storage, args.codec)
        for _ in range(args.files // 2):
            writer.hour(12)
        dense_ns = writer.now // HOUR_NS * HOUR_NS + HOUR_NS
        writer.hour(120 * 3600)
        for _ in range(args.files // 2):
            writer.hour(12)
        writer.seal()
        writer.hour(1000)
        writer.hour(10)
        writer.table(args.megabytes * 1_000_000)
        server = Server(storage)
        server.wait()
        try:
            measure_slices(server, dense_ns)
            measure_raw(server, dense_ns)
            measure_chunks(server, storage)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
