"""The memory of a history server while many clients pull from it, and while some of them do not read.

    python -m benchmarks.crowd [--clients 50] [--seconds 10] [--codec zstd]

A third of the clients want raw slices, a third events, a third a large table in parts of 4 MiB; each has four requests
under way. Then as many more ask for the same and never read. Memory is that of all the server's processes (PSS: what
they share counts once).
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import orjson
import zmq

from benchmarks.history import HOUR_NS, SYMBOL, Server, Writer

UNDER_WAY = 4
CHUNK_BYTES = 4 * 1024**2
LOOK_S = 0.1


class Puller:
    """A client that asks for more as soon as it has got something; a deaf one never looks."""

    def __init__(self, server: Server, questions: Iterator[bytes]) -> None:
        self.socket = server.connect(zmq.DEALER)
        self.socket.set(zmq.RCVHWM, 1)
        self.received = 0
        self._questions = questions
        for _ in range(UNDER_WAY):
            self.ask()

    def ask(self) -> None:
        self.socket.send_multipart([b"", next(self._questions)])

    def take(self) -> None:
        _, head, *payload = self.socket.recv_multipart(copy=False)
        if "error" in (header := orjson.loads(head.bytes)) and header["error"]["code"] != "busy":
            raise SystemExit(header["error"]["message"])
        self.received += sum(len(frame.buffer) for frame in payload)
        self.ask()


def wanted(server: Server, dense_ns: int) -> Iterator[Iterator[bytes]]:
    """What each client asks for, one after another."""
    (file,) = server.ask(op="plan", symbols=[SYMBOL], channels=["trade"])[0]["files"]
    part = {"op": "chunk", "token": file["token"], "sha256": file["sha256"], "bytes": CHUNK_BYTES}

    def slices(kind: str) -> Iterator[bytes]:
        while True:
            begin = dense_ns + random.randrange(3000) * 10**9
            yield question(op="slice", symbols=[SYMBOL], format=kind, start=begin, end=begin + 600 * 10**9)

    def chunks() -> Iterator[bytes]:
        for offset in cycle(range(0, file["bytes"], CHUNK_BYTES)):
            yield question(**part, offset=offset)

    for kind in cycle(("raw", "json", "chunk")):
        yield chunks() if kind == "chunk" else slices(kind)


def question(**asked: Any) -> bytes:
    return orjson.dumps({"exchange": "binance", **asked})


def memory_mb(pids: list[int]) -> float:
    found = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            found += int(line.split()[1]) if line.startswith("Pss:") else 0
    return found * 1024 / 1e6


def pull(server: Server, pullers: list[Puller], pids: list[int], seconds: float) -> tuple[float, float]:
    """The most memory, and MB/s."""
    poller = zmq.Poller()
    by_socket = {puller.socket: puller for puller in pullers}
    for socket in by_socket:
        poller.register(socket, zmq.POLLIN)
    most, before = 0.0, sum(puller.received for puller in pullers)
    began = due = time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        for socket, _ in poller.poll(int(LOOK_S * 1000)):
            by_socket[socket].take()
        if now >= due:
            most, due = max(most, memory_mb(pids)), now + LOOK_S
    return most, (sum(puller.received for puller in pullers) - before) / seconds / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--codec", choices=("bz2", "zstd"), default="zstd")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        writer = Writer(Path(directory), args.codec)
        writer.hour(12)
        dense_ns = writer.now // HOUR_NS * HOUR_NS + HOUR_NS
        writer.hour(120 * 3600)
        writer.hour(12)
        writer.seal()
        writer.hour(10)
        writer.table(200_000_000)
        server = Server(Path(directory))
        server.wait()
        try:
            pids = [server.process.pid, *server.ask(op="status")[0]["history"]["workers"]]
            print(f"at rest                       {memory_mb(pids):6.0f} MB in {len(pids)} processes")
            questions = wanted(server, dense_ns)
            pullers = [Puller(server, each) for each in islice(questions, args.clients)]
            most, speed = pull(server, pullers, pids, args.seconds)
            print(f"{args.clients:3} clients pulling           {most:6.0f} MB at most, {speed:,.0f} MB/s")
            deaf = [Puller(server, each) for each in islice(questions, args.clients)]
            most, speed = pull(server, pullers, pids, args.seconds)
            print(f"and {len(deaf):3} that never read        {most:6.0f} MB at most, {speed:,.0f} MB/s for the others")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
