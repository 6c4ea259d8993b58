"""From the exchange's socket to a SUB socket: how long a frame takes, at a steady rate; the plain loop beside it.

    python -m benchmarks.latency [--rates 200,5000] [--seconds 10] [--tls] [--awake]

Each frame carries the time at which it was sent; the subscriber subtracts. Journal, records and events are on. The
plain loop (that of feed_speed) does nothing but receive, decode and publish: what it takes, the machine takes. At a low
rate that is mostly the waking of sleeping threads: with busy_poll the feed does not sleep nor, as root, any core, and
in the last line the subscriber does not either. With --awake (as root) no core sleeps in any of the lines.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import orjson
import zmq

from benchmarks.feed_speed import certificate
from benchmarks.ports import free_port
from common.process import cores_awake

BUSY = {"TRADE_ARCHIVIST_FEED__BINANCE__BUSY_POLL": "true"}
KINDS = {"plain loop": {}, "feed": {}, "feed, busy_poll": BUSY, "both polling": BUSY}


def delays_us(kind: str, rate: int, seconds: float, tls: bool) -> list[int]:
    """Sorted delays in µs."""
    count = int(rate * seconds)
    with tempfile.TemporaryDirectory() as directory:
        port, events = free_port(), f"127.0.0.1:{free_port()}"
        exchange = [sys.executable, "-m", "benchmarks.exchange", str(port), str(count), "--rate", str(rate)]
        exchange += ["--tls", *certificate(Path(directory))] if tls else []
        children = [subprocess.Popen(exchange, stdout=subprocess.PIPE)]
        assert children[0].stdout is not None
        children[0].stdout.readline()
        url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}"
        if kind == "plain loop":
            call = f"plain_loop('{url}/', 'tcp://{events}')"
            command = [sys.executable, "-c", f"from benchmarks.feed_speed import plain_loop; {call}"]
        else:
            command = [sys.executable, "-m", "processes.feed", "binance", "--storage", directory]
            command += ["--symbols", "BTCUSDT", "--channels", "trade", "--publish", events, "--log-level", "ERROR"]
            command += ["--ws-url", url, "--rest-url", f"http://127.0.0.1:{free_port()}"]
        environ = {**os.environ, **KINDS[kind], "SSL_CERT_FILE": f"{directory}/ca.pem"}
        children.append(subprocess.Popen(command, env=environ))
        try:
            return receive(f"tcp://{events}", count, polls=kind == "both polling")
        finally:
            for child in children:
                child.send_signal(signal.SIGKILL)
                child.wait()


def receive(endpoint: str, count: int, *, polls: bool = False) -> list[int]:
    subscriber = zmq.Context.instance().socket(zmq.SUB)
    subscriber.set(zmq.RCVHWM, 0)
    subscriber.set(zmq.RCVTIMEO, 30_000)
    subscriber.subscribe(b"binance/trade/")
    subscriber.connect(endpoint)
    found = []
    for _ in range(count):
        message = polled(subscriber) if polls else subscriber.recv()
        now = time.time_ns()
        event = orjson.loads(message.partition(b" ")[2])
        sent = event["ts_event"] if "ts_event" in event else event["T"] * 1000
        found.append((now - sent) // 1000)
    subscriber.close(0)
    return sorted(found)


def polled(subscriber: zmq.Socket[bytes]) -> bytes:
    """The next message, by a subscriber that never sleeps."""
    while True:
        try:
            return subscriber.recv(zmq.NOBLOCK)
        except zmq.Again:
            os.sched_yield()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rates", default="200,5000")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--awake", action="store_true", help="as root: keep the cores from falling asleep meanwhile")
    args = parser.parse_args()
    with cores_awake() if args.awake else nullcontext() as error:
        if error is not None:
            print(f"the cores may fall asleep: {error}")
        measure([int(rate) for rate in args.rates.split(",")], args.seconds, args.tls)


def measure(rates: list[int], seconds: float, tls: bool) -> None:
    for rate in rates:
        for kind in KINDS:
            found = delays_us(kind, rate, seconds, tls)
            median, p99, worst = (found[at] / 1000 for at in (len(found) // 2, len(found) * 99 // 100, -1))
            print(
                f"{rate:6,} msg/s {kind:16}: median {median:.3f} ms, p99 {p99:.3f} ms, max {worst:.3f} ms", flush=True
            )


if __name__ == "__main__":
    main()
