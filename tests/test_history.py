"""The history server as a process: over real sockets, hostile clients, killed workers, a live pipeline."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from common import exchanges
from common.adapter import version
from common.requests import REQUEST_BYTES_MAX, SYMBOLS_MAX
from tests.archives import written
from tests.pipeline import Live, Pipeline, archived, free_port, normalised, until
from tests.standin_client import ROOT

NORMALISER = version(exchanges.get("binance"))

DEADLINE_S = 30.0
SLICE = {"op": "slice", "exchange": "binance", "symbols": ["BTCUSDT"]}


class Server:
    """The real process on a storage directory."""

    def __init__(self, storage: Path, **settings: str) -> None:
        self.port, self.storage = free_port(), storage
        self.log = storage.parent / f"history-{self.port}.log"
        environ = {f"TRADE_ARCHIVIST_HISTORY__{key}": value for key, value in settings.items()}
        options = ["--storage", str(storage), "--listen", f"127.0.0.1:{self.port}", "--symbols", "BTCUSDT"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "processes.history", *options], cwd=ROOT, env=os.environ | environ, stderr=log
            )
        self._context = zmq.Context()

    def connect(self, kind: int = zmq.REQ, receive_high_water: int = 1000) -> "zmq.Socket[bytes]":
        opened = self._context.socket(kind)
        opened.linger = 0
        opened.rcvtimeo = int(DEADLINE_S * 1000)
        opened.rcvhwm = receive_high_water
        opened.connect(f"tcp://127.0.0.1:{self.port}")
        return opened

    def ask(self, **question: Any) -> tuple[dict[str, Any], list[bytes]]:
        """As any client can, on a connection of its own: a REQ socket and `json.dumps`."""
        with self.connect() as plain:
            plain.send(json.dumps(question).encode())
            header, *payload = plain.recv_multipart()
        return json.loads(header), payload

    def workers(self) -> list[int]:
        return list(self.ask(op="status")[0]["history"]["workers"])

    def memory_mib(self) -> int:
        """Of the server and its workers."""
        return sum(rss_mib(pid) for pid in (self.process.pid, *self.workers()))

    def stop(self) -> int:
        """Its exit code; a process that was killed before is waited for."""
        self._context.destroy(linger=0)
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


def rss_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("history") / "storage").storage


@pytest.fixture
def serve(storage: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def begin(**settings: str) -> Server:
        started.append(Server(storage, **settings))
        return started[-1]

    yield begin
    for server in started:
        assert server.stop() in (0, -signal.SIGKILL), server.log.read_text()
        assert "Traceback" not in server.log.read_text(), server.log.read_text()


def test_history_when_asked_by_a_plain_socket_then_answers_every_op(serve: Callable[..., Server]) -> None:
    server = serve()
    header, _ = server.ask(op="exchanges", id=5)
    assert header["id"] == 5
    assert header["exchanges"][0] == {
        "name": "binance",
        "events": "tcp://127.0.0.1:9001",
        "events_key": None,
        "complete": 1_000_600,
        "normaliser": NORMALISER,
    }
    header, (payload,) = server.ask(**SLICE, channels=["trade"])
    events = [json.loads(line) for line in payload.splitlines()]
    assert len(events) == header["events"] > 100
    assert {event["channel"] for event in events} == {"trade", "gap"}
    for op, key in (("symbols", "symbols"), ("coverage", "coverage"), ("gaps", "gaps"), ("plan", "tails")):
        symbols = {} if op == "symbols" else {"symbols": ["BTCUSDT"]}
        assert server.ask(op=op, exchange="binance", **symbols)[0][key]
    status = server.ask(op="status")[0]
    assert status["history"]["pid"] == server.process.pid
    assert status["processes"]["binance"]["complete"] == 1_000_600
    assert server.ask(op="book", exchange="binance", symbol="ETHUSDT")[0]["error"]["code"] == "no_book"


def test_history_when_requests_are_hostile_then_each_gets_a_clear_error(serve: Callable[..., Server]) -> None:
    server = serve()
    for frame, code in (
        (b"", "malformed"),
        (os.urandom(1000), "malformed"),
        (b"[" * 100_000, "malformed"),
        (b" " * (REQUEST_BYTES_MAX + 1), "too_large"),
        (json.dumps({**SLICE, "symbols": ["../../etc/passwd"]}).encode(), "unknown_symbol"),
        (json.dumps({**SLICE, "symbols": [f"S{n}" for n in range(SYMBOLS_MAX + 1)]}).encode(), "too_many_symbols"),
        (json.dumps({**SLICE, "symbols": [f"S{n}" for n in range(SYMBOLS_MAX)]}).encode(), "unknown_symbol"),
    ):
        with server.connect() as plain:
            plain.send(frame)
            assert json.loads(plain.recv())["error"]["code"] == code
    with server.connect(zmq.DEALER) as dealer:
        dealer.send_multipart([b"", b"{}", b"{}"])
        assert json.loads(dealer.recv_multipart()[1])["error"]["code"] == "malformed"
        dealer.send_multipart([b'{"op":"status","id":1}'])  # without the empty frame: so is the reply
        assert json.loads(dealer.recv_multipart()[0])["id"] == 1
        dealer.send_multipart([b"hop", b"", b'{"op":"status","id":2}'])
        assert dealer.recv_multipart()[:2] == [b"hop", b""]


def test_history_when_bytes_are_no_zeromq_or_without_end_then_nobody_else_notices(serve: Callable[..., Server]) -> None:
    server = serve()
    before = server.memory_mib()
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(10_000))
        with server.connect(zmq.DEALER) as huge:
            huge.send_multipart([b"", b"x" * 100_000_000], copy=False)
            began = time.monotonic()
            assert "error" not in server.ask(**SLICE)[0]
            assert time.monotonic() - began < 5
            assert not huge.poll(300), "who sends so much is disconnected"
    assert server.memory_mib() < before + 60


@pytest.mark.parametrize("size", [200, 900_000])
def test_history_when_a_message_has_no_end_then_its_connection_is_closed_and_others_are_answered(
    serve: Callable[..., Server], size: int
) -> None:
    """libzmq holds a message until its last frame: no option of it bounds how many there are.

    Of small ones malloc kept the memory: all connections were closed five times a second, for ever.
    """
    server = serve()
    server.ask(op="status")
    part = (bytes([3]) + size.to_bytes(8, "big") + bytes(size)) * (900_000 // size)
    with socket.create_connection(("127.0.0.1", server.port)) as endless:
        endless.settimeout(DEADLINE_S)
        endless.sendall(greeting() + ready())
        heard = b""
        while b"READY" not in heard:  # who speaks before that is left at once
            heard += endless.recv(1000)
        with pytest.raises(ConnectionError):
            for _ in range(5_000):
                endless.sendall(part)
    until(lambda: rss_mib(server.process.pid) < 300, "the memory is given back")
    assert server.ask(**SLICE)[0]["records"] == 451
    assert "is disconnected: it sends more than" in server.log.read_text()


def test_history_when_requests_are_too_large_then_they_take_no_memory_while_others_wait(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    before, most = server.memory_mib(), 0
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect(zmq.DEALER)) for _ in range(8)]
        for _ in range(50):
            for client in clients:
                with suppress(zmq.Again):
                    client.send_multipart([b"", b" " * 900_000], zmq.NOBLOCK, copy=False)
            most = max(most, rss_mib(server.process.pid))
            time.sleep(0.005)
    assert most < before + 200


def test_history_when_a_client_never_reads_or_dies_then_others_are_served_and_memory_is_bounded(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    server.ask(**SLICE)
    question = json.dumps({**SLICE, "format": "raw"}).encode()
    with ExitStack() as stack:
        for _ in range(20):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            asked = b"".join(frame(b"", more=True) + frame(question) for _ in range(60))
            silent.sendall(greeting() + ready() + asked)  # speaks ZeroMQ, and never reads a reply
            dying = server.connect(zmq.DEALER)
            dying.send_multipart([b"", question])
            dying.close(0)
        for _ in range(5):
            began = time.monotonic()
            assert server.ask(**SLICE, format="raw")[0]["records"] == 451
            assert time.monotonic() - began < 5
        assert server.memory_mib() < 300
    until(lambda: server.ask(op="status")[0]["history"]["waiting"] == 0, "nothing of the dead is left")


def greeting() -> bytes:
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)


def ready() -> bytes:
    body = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    return bytes([4, len(body)]) + body


def frame(data: bytes, *, more: bool = False) -> bytes:
    return bytes([int(more), len(data)]) + data


def test_history_when_200_clients_ask_at_once_then_all_are_answered(serve: Callable[..., Server]) -> None:
    server = serve()
    clients = [server.connect(zmq.DEALER) for _ in range(200)]
    for client in clients:
        for number in range(2):
            client.send_multipart([b"", json.dumps({**SLICE, "id": number}).encode()])
    for client in clients:
        replies = [json.loads(client.recv_multipart()[1]) for _ in range(2)]
        assert sorted(reply["id"] for reply in replies) == [0, 1]
        assert all(reply["records"] == 451 for reply in replies)
        client.close()
    assert server.memory_mib() < 300


def test_history_when_one_client_asks_a_thousand_times_then_another_one_is_not_delayed(
    serve: Callable[..., Server],
) -> None:
    server = serve(WORKERS="1")
    server.ask(**SLICE)
    greedy = server.connect(zmq.DEALER)
    for number in range(1_000):
        greedy.send_multipart([b"", json.dumps({**SLICE, "id": number}).encode()])
    for _ in range(3):
        assert server.ask(**SLICE)[0]["records"] == 451
    answers = server.ask(op="status")[0]["history"]["answered"]
    assert answers < 500, "they were not the last ones"
    codes = [json.loads(greedy.recv_multipart()[1]).get("error", {}).get("code") for _ in range(1_000)]
    assert set(codes) == {None, "busy"}, "each is answered, or told to ask again"
    greedy.close()


def test_history_when_a_worker_is_killed_then_its_request_is_answered_and_another_one_starts(
    serve: Callable[..., Server],
) -> None:
    server = serve(WORKERS="1")
    (worker,) = server.workers()
    os.kill(worker, signal.SIGSTOP)  # so that the request is with it when it dies
    with server.connect() as plain:
        plain.send(json.dumps(SLICE).encode())
        assert not plain.poll(200)
        os.kill(worker, signal.SIGKILL)
        assert json.loads(plain.recv_multipart()[0])["records"] == 451
    assert server.workers() != [worker]


def test_history_when_an_answer_takes_too_long_then_an_error_and_another_worker(serve: Callable[..., Server]) -> None:
    server = serve(WORKERS="1", TIMEOUT_S="1")
    (worker,) = server.workers()
    os.kill(worker, signal.SIGSTOP)
    header, _ = server.ask(**SLICE)
    assert header["error"]["code"] == "internal" and "more than 1.0 s" in header["error"]["message"]
    assert server.ask(**SLICE)[0]["records"] == 451


def test_history_when_it_is_killed_then_its_workers_end(serve: Callable[..., Server]) -> None:
    server = serve()
    workers = server.workers()
    server.process.kill()
    server.process.wait(DEADLINE_S)
    until(lambda: not any(map(is_alive, workers)), "the workers end", DEADLINE_S)


def test_history_when_its_port_is_taken_then_says_so_and_ends(storage: Path, serve: Callable[..., Server]) -> None:
    server = serve()
    server.ask(op="status")
    options = ["--storage", str(storage), "--listen", f"127.0.0.1:{server.port}", "--symbols", "BTCUSDT"]
    other = subprocess.run(
        [sys.executable, "-m", "processes.history", *options], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (other.returncode, "give another with --listen" in other.stderr) == (1, True)


def test_two_servers_on_one_directory_answer_each_others_pages(serve: Callable[..., Server]) -> None:
    servers = [serve(), serve()]
    payload, token, page = b"", None, 0
    while page == 0 or token is not None:
        question = {**SLICE, "max_bytes": 20_000, **({"next": token} if token else {})}
        header, (part,) = servers[page % 2].ask(**question)
        payload, token, page = payload + part, header["next"], page + 1
    assert page > 3
    assert payload == servers[0].ask(**SLICE)[1][0]


def test_history_of_a_running_pipeline_is_what_was_live_while_files_are_turned_and_sealed(
    make: Callable[..., Pipeline], live: Callable[[Pipeline], Live]
) -> None:
    """Asked all the time while the archiver writes, turns and seals: always a whole beginning of what was live."""
    pipeline = make("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--seed", 7)
    server = Server(pipeline.storage)
    listening = live(pipeline)
    symbols = ["BTCUSDT", "ETHUSDT"]
    pipeline.start()
    failures: list[object] = []
    stop = threading.Event()
    seen: list[tuple[int, bytes]] = []

    def pull() -> None:
        while not stop.is_set():
            header, payload = server.ask(**{**SLICE, "symbols": symbols}, snapshot=False, max_bytes=16 * 1024**2)
            if "error" not in header and header["next"] is None:
                seen.append((header["covered"], payload[0]))
            elif header.get("error", {}).get("code") not in ("unknown_exchange", "unknown_symbol", None):
                failures.append(header)

    puller = threading.Thread(target=pull)
    puller.start()
    try:
        until(lambda: len(list(pipeline.exchange_dir.rglob("*.bz2"))) >= 3, "files are sealed")
        pipeline.stop()
    finally:
        stop.set()
        puller.join()
    assert not failures
    whole = normalised(archived(pipeline.exchange_dir))
    until(lambda: len(listening.messages) >= len(whole), "the subscriber has everything")
    bodies = [message.partition(b" ")[2] + b"\n" for message in in_order(listening.messages)]
    assert server.ask(**{**SLICE, "symbols": symbols}, snapshot=False, max_bytes=16 * 1024**2)[1][0] == b"".join(bodies)
    assert len(seen) > 3
    for covered, payload in seen:
        expected = b"".join(body for body in bodies if json.loads(body)["seq"] <= covered)
        assert payload == expected
    assert server.stop() == 0


def in_order(messages: list[bytes]) -> list[bytes]:
    return sorted(
        messages, key=lambda message: (json.loads(message.partition(b" ")[2])["seq"], message.partition(b" ")[0])
    )
