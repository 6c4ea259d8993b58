"""A stand-in exchange as its own process, and what a test needs to talk to it."""

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
import websocket

ROOT = Path(__file__).resolve().parents[1]
RECORDINGS = ROOT.parent / "shared" / "recordings" / "binance"
BTC = RECORDINGS / "spot-btcusdt-20240808.gz"
ETH = RECORDINGS / "spot-ethusdt-20240808.gz"
STREAMS = ["btcusdt@depth@100ms", "btcusdt@trade", "btcusdt@bookTicker"]
DEADLINE_S = 10.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a true value, up to the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.01)
    return value


class Clients:
    """Clients of what listens on a port, closed at the end."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._http = urllib3.PoolManager()
        self._clients: list[websocket.WebSocket] = []

    def connect(self, path: str = "/stream", subscribe: Iterable[str] = ()) -> websocket.WebSocket:
        # the library checks UTF-8 letter by letter, which costs more than all the rest
        url = f"ws://127.0.0.1:{self.port}{path}"
        client = websocket.create_connection(url, timeout=DEADLINE_S, skip_utf8_validation=True)
        self._clients.append(client)
        if names := list(subscribe):
            assert ask(client, {"method": "SUBSCRIBE", "params": names, "id": 1}) == {"result": None, "id": 1}
        return client

    def get(self, path: str, /, **params: object) -> urllib3.BaseHTTPResponse:
        query = f"?{urlencode(params)}" if params else ""
        url = f"http://127.0.0.1:{self.port}{path}{query}"
        return self._http.request("GET", url, retries=False, timeout=DEADLINE_S)

    def fault(self, **params: object) -> None:
        answer = self.get("/standin/fault", **params)
        assert answer.status == 200, answer.data

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/standin/status").data)
        return found

    def hang_up(self) -> None:
        for client in self._clients:
            with contextlib.suppress(OSError, websocket.WebSocketException):
                client.shutdown()  # type: ignore[no-untyped-call]  # the library has no types here
        self._http.clear()


class Standin(Clients):
    """`python -m processes.standin binance --port 0 …`, with its clients."""

    def __init__(self, *arguments: object, exchange: str = "binance") -> None:
        command = [sys.executable, "-m", "processes.standin", exchange, "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "listening on" in line:
                super().__init__(int(line.rpartition(":")[2]))
                break
        else:
            raise AssertionError("the stand-in ended before it listened")

    def stop(self) -> None:
        self.hang_up()
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, errors
        assert "Traceback" not in errors, errors


@contextlib.contextmanager
def standin(*arguments: object, exchange: str = "binance") -> Iterator[Standin]:
    started = Standin(*arguments, exchange=exchange)
    try:
        yield started
    finally:
        started.stop()


def ask(client: websocket.WebSocket, request: object) -> Any:
    """Send a request and return the reply, passing over the streams' messages."""
    client.send(request if isinstance(request, str) else json.dumps(request))
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        reply = json.loads(client.recv())
        if "stream" not in reply and "e" not in reply:
            return reply
    raise AssertionError("no reply")


def take(client: websocket.WebSocket, count: int) -> list[bytes]:
    """The next payloads, pings answered on the way."""
    return [as_bytes(client.recv()) for _ in range(count)]


def as_bytes(payload: str | bytes) -> bytes:
    return payload.encode() if isinstance(payload, str) else payload


class Reader(threading.Thread):
    """Takes everything that a client gets, until it is closed."""

    def __init__(self, client: websocket.WebSocket) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.payloads: list[bytes] = []
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, websocket.WebSocketException):
            while True:
                self.payloads.append(as_bytes(self.client.recv()))

    def wait_for(self, payload: bytes) -> None:
        """Wait until this is the last that came."""
        until(lambda: self.payloads[-1:] == [payload], f"{payload[:80]!r}")


def timed_lines(path: Path, count: int = 10**9) -> list[bytes]:
    """The lines of a recording."""
    with gzip.open(path) as file:
        return [line.rstrip(b"\n") for _, line in zip(range(count), file, strict=False)]


def lines(path: Path, count: int = 10**9) -> list[bytes]:
    """The payloads of a recording, snapshots among them."""
    return [line[20:] for line in timed_lines(path, count)]


def cut_recording(source: Path, target: Path, count: int) -> Path:
    """The first lines of a recording as a file of their own."""
    with gzip.open(source) as whole, gzip.open(target, "wb", compresslevel=1) as part:
        part.writelines(line for _, line in zip(range(count), whole, strict=False))
    return target


def streamed(payloads: Iterable[bytes]) -> list[bytes]:
    return [payload for payload in payloads if payload.startswith(b'{"stream":')]


class NaiveBook:
    """A client's book by the exchange's own rules: a snapshot, then deltas without a hole."""

    def __init__(self, snapshot: bytes) -> None:
        content = json.loads(snapshot)
        self.last_id: int = content["lastUpdateId"]
        self.bids: dict[str, str] = dict(content["bids"])
        self.asks: dict[str, str] = dict(content["asks"])

    def apply(self, delta: dict[str, Any]) -> None:
        if delta["u"] <= self.last_id:
            return
        assert delta["U"] <= self.last_id + 1, f"a hole: {self.last_id} then {delta['U']}"
        for levels, changes in ((self.bids, delta["b"]), (self.asks, delta["a"])):
            levels.update(changes)
            for price, amount in changes:
                if float(amount) == 0:
                    del levels[price]
        self.last_id = delta["u"]

    def top(self) -> tuple[str, str, str, str]:
        bid, ask = max(self.bids, key=float), min(self.asks, key=float)
        return bid, self.bids[bid], ask, self.asks[ask]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NaiveBook) and vars(self) == vars(other)


def deltas(payloads: Iterable[bytes]) -> list[dict[str, Any]]:
    return [json.loads(payload)["data"] for payload in payloads if b"@depth@100ms" in payload[:60]]


def is_running(process_id: int) -> bool:
    with contextlib.suppress(OSError):
        os.kill(process_id, 0)
        return "zombie" not in Path(f"/proc/{process_id}/status").read_text().partition("State:")[2][:20]
    return False
