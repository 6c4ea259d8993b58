"""A consumer of many symbols: `live` of 2,000 symbols and all channels, beside a publisher that writes as a feed.

    python -m benchmarks.follow_many [--symbols 2000] [--rate 5000] [--seconds 10] [--strict]

The publisher sends events of random topics at a steady rate, and each symbol's heartbeat once a second. It begins when
all subscriptions have arrived. Each event carries the time at which it was sent; the consumer subtracts. Then the
publisher binds its socket anew, as a restarted feed does, and everything is measured again.
"""

import argparse
import itertools
import random
import subprocess
import sys
import time

import orjson
import zmq

from benchmarks.ports import free_port
from common.events import CHANNELS, GAP
from common.following import Endpoint, Following, Wish
from common.transport import Remote

SUBSCRIBED_S = 30.0
HEARTBEAT_S = 1.0


class Publisher:
    """Numbers as a feed's: one event a record, and of each symbol a heartbeat with the last number of each topic."""

    def __init__(self, symbols: list[str]) -> None:
        self._last = {symbol: dict.fromkeys((*CHANNELS, GAP), 1) for symbol in symbols}
        self._random = random.Random(7)
        self.seq = 1_000

    def event(self) -> bytes:
        symbol, channel = self._random.choice(list(self._last)), self._random.choice(CHANNELS)
        lasts = self._last[symbol]
        self.seq += 1
        event = {
            "exchange": "binance", "channel": channel, "symbol": symbol, "seq": self.seq, "prev": lasts[channel],
            "ts_event": None, "ts_recv": time.time_ns(), "price": "61837.64000000", "amount": "0.00100000",
        }  # fmt: skip
        lasts[channel] = self.seq
        return f"binance/{channel}/{symbol} ".encode() + orjson.dumps(event)

    def heartbeat(self, symbol: str) -> bytes:
        topics = {channel: [seq, 0] for channel, seq in self._last[symbol].items()}
        return f"binance/heartbeat/{symbol} ".encode() + orjson.dumps({"at": self.seq, "run": 1, "topics": topics})

    def run(self, socket: "zmq.Socket[bytes]", rate: float, seconds: float) -> None:
        beats = itertools.cycle(self._last)
        began = time.perf_counter()
        each_s, due_beat, due_all = HEARTBEAT_S / len(self._last), began, began
        for number in range(int(rate * seconds)):
            while (early := began + number / rate - time.perf_counter()) > 0:
                time.sleep(early)
            now = time.perf_counter()
            if now >= due_all:
                due_all += HEARTBEAT_S
                socket.send(b"binance/heartbeat " + orjson.dumps({"at": self.seq, "run": 1}))
            while now >= due_beat:
                due_beat += each_s
                socket.send(self.heartbeat(next(beats)))
            socket.send(self.event())
        for symbol in self._last:  # a strict consumer waits for them
            socket.send(self.heartbeat(symbol))


def publish(endpoint: str, symbols: list[str], rate: float, seconds: float) -> None:
    """Runs in a process of its own. It exits with 1 where subscriptions do not arrive."""
    expected = len(symbols) * (len(CHANNELS) + 2) + 1
    publisher = Publisher(symbols)
    for when in ("at first", "after a restart"):
        with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
            socket.set(zmq.SNDHWM, 1_000_000)
            socket.set(zmq.RCVTIMEO, int(SUBSCRIBED_S * 1000))
            socket.bind(endpoint)
            found = 0
            try:
                while found < expected:
                    socket.recv()
                    found += 1
            except zmq.Again:
                print(f"{when}: {found:,} of {expected:,} subscriptions arrived", flush=True)
                sys.exit(1)
            publisher.run(socket, rate, seconds)


def consume(following: Following, count: int) -> list[float]:
    """The delay of each event, ms."""
    delays: list[float] = []
    deadline = time.monotonic() + SUBSCRIBED_S
    while len(delays) < count:
        events = following.poll(0.25)
        now = time.time_ns()
        delays += [(now - event["ts_recv"]) / 1e6 for event in events]
        if events:
            deadline = time.monotonic() + SUBSCRIBED_S
        elif time.monotonic() > deadline:
            sys.exit(f"{len(delays):,} of {count:,} events came; {following.waiting}")
    return delays


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--symbols", type=int, default=2_000)
    parser.add_argument("--rate", type=float, default=5_000, help="events a second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--publish", help=argparse.SUPPRESS)
    args = parser.parse_args()
    symbols = [f"SYM{number:04}USDT" for number in range(args.symbols)]
    if args.publish:
        publish(args.publish, symbols, args.rate, args.seconds)
        return
    measure(symbols, args.rate, args.seconds, args.strict)


def measure(symbols: list[str], rate: float, seconds: float, strict: bool) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "benchmarks.follow_many", "--publish", endpoint, "--symbols", str(len(symbols))]
    process = subprocess.Popen([*command, "--rate", str(rate), "--seconds", str(seconds)])
    nobody = Remote(f"tcp://127.0.0.1:{free_port()}")
    try:
        wish = Wish(tuple(symbols), CHANNELS, strict=strict)
        with Following(nobody, {"binance": Endpoint(endpoint)}, wish, None) as following:
            for when in ("at first", "after a restart"):
                began = time.process_time()
                delays = sorted(consume(following, int(rate * seconds)))
                cpu_s = time.process_time() - began
                median, p99, worst = (delays[at] for at in (len(delays) // 2, len(delays) * 99 // 100, -1))
                print(
                    f"{when:16} {len(symbols):,} symbols x {len(CHANNELS)} channels: {rate:8,.0f} events/s, "
                    f"median {median:.2f} ms, p99 {p99:.2f} ms, max {worst:.2f} ms; CPU {cpu_s / seconds:4.0%}",
                    flush=True,
                )
    finally:
        nobody.close()
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
