"""From the exchange's socket to a SUB socket: how long a frame takes, at a steady rate.

    python -m benchmarks.latency [--rates 200,5000] [--seconds 10] [--tls]

Each frame carries the time at which it was sent; the subscriber subtracts. Journal, records and events are on.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson
import zmq

from benchmarks.feed_speed import certificate
from benchmarks.ports import free_port


def delays_us(rate: int, seconds: float, tls: bool) -> list[int]:
    count = int(rate * seconds)
    with tempfile.TemporaryDirectory() as directory:
        port, events = free_port(), f"127.0.0.1:{free_port()}"
        exchange = [sys.executable, "-m", "benchmarks.exchange", str(port), str(count), "--rate", str(rate)]
        exchange += ["--tls", *certificate(Path(directory))] if tls else []
        children = [subprocess.Popen(exchange, stdout=subprocess.PIPE)]
        assert children[0].stdout is not None
        children[0].stdout.readline()
        feed = [sys.executable, "-m", "processes.feed", "binance", "--storage", directory, "--symbols", "BTCUSDT"]
        feed += ["--channels", "trade", "--publish", events, "--log-level", "ERROR"]
        feed += ["--ws-url", f"{'wss' if tls else 'ws'}://127.0.0.1:{port}"]
        feed += ["--rest-url", f"http://127.0.0.1:{free_port()}"]
        children.append(subprocess.Popen(feed, env={**os.environ, "SSL_CERT_FILE": f"{directory}/ca.pem"}))
        try:
            return receive(f"tcp://{events}", count)
        finally:
            for child in children:
                child.send_signal(signal.SIGKILL)
                child.wait()


def receive(endpoint: str, count: int) -> list[int]:
    subscriber = zmq.Context.instance().socket(zmq.SUB)
    subscriber.set(zmq.RCVHWM, 0)
    subscriber.set(zmq.RCVTIMEO, 30_000)
    subscriber.subscribe(b"binance/trade/")
    subscriber.connect(endpoint)
    found = []
    for _ in range(count):
        message = subscriber.recv()
        now = time.time_ns()
        found.append((now - orjson.loads(message.partition(b" ")[2])["ts_event"]) // 1000)
    subscriber.close(0)
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rates", default="200,5000")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--tls", action="store_true")
    args = parser.parse_args()
    for rate in map(int, args.rates.split(",")):
        found = delays_us(rate, args.seconds, args.tls)
        median, p99, worst = found[len(found) // 2], found[len(found) * 99 // 100], found[-1]
        print(f"{rate:6,} msg/s: median {median / 1000:.3f} ms, p99 {p99 / 1000:.3f} ms, max {worst / 1000:.3f} ms")


if __name__ == "__main__":
    main()
