"""Servers that drip: a byte now and then, at each stage of a connection. The whole has a limit of time."""

import contextlib
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
import trustme
import websocket

from common.connection import connect
from common.deadline import Deadline
from common.events import Request
from common.rest import Answer, Budget, RestClient

LIMIT_S = 0.4
DRIP_S = 0.05
HEADER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
SERVER_HELLO = b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03" + bytes(200)


class Drip:
    """Takes connections one after the other, and says `text` byte by byte, for ever where it is not over."""

    def __init__(self, text: bytes) -> None:
        self._text, self._server = text, socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.cut = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._drip, args=(connection,), daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            for byte in self._text + b"X-Drip: " + b"x" * 10_000:
                connection.sendall(bytes([byte]))
                time.sleep(DRIP_S)
        self.cut.set()

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def drip() -> Iterator[list[Drip]]:
    drips: list[Drip] = []
    yield drips
    for each in drips:
        each.close()


def test_a_dripped_header_holds_up_the_requests_of_others_no_longer_than_the_limit(
    drip: list[Drip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte came within the socket's own timeout: the one thread that asks for all symbols hung."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    drip.append(Drip(HEADER[:30]))
    answers: queue.Queue[Answer] = queue.Queue()
    rest = RestClient(f"http://127.0.0.1:{drip[0].port}", LIMIT_S, Budget(6000), answers.put)
    rest.start()
    for path in ("/first", "/second"):
        rest.ask(None, Request(path, 1, {}))
    for path in ("/first", "/second"):
        answer = answers.get(timeout=20)
        assert (answer.request.path, answer.status) == (path, 0)
        assert f"not whole after {LIMIT_S} s" in (answer.error or "")
    assert drip[0].cut.wait(20)
    rest.stop()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_dripped_handshake_is_given_up(drip: list[Drip], scheme: str) -> None:
    drip.append(Drip(UPGRADE if scheme == "ws" else SERVER_HELLO))
    context = ssl.create_default_context() if scheme == "wss" else None
    with pytest.raises(TimeoutError, match=f"the handshake is not whole after {LIMIT_S} s"):
        connect(f"{scheme}://127.0.0.1:{drip[0].port}/ws", LIMIT_S, context)
    assert drip[0].cut.wait(20)


def test_a_handshake_in_tls_that_drips_is_given_up(drip: list[Drip]) -> None:
    """TLS is quick, the answer to the upgrade is not."""
    authority = trustme.CA()
    of_server, of_client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(of_server)
    authority.configure_trust(of_client)
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError), of_server.wrap_socket(server.accept()[0], server_side=True) as wrapped:
            for byte in UPGRADE + b"x" * 10_000:
                wrapped.sendall(bytes([byte]))
                time.sleep(DRIP_S)

    threading.Thread(target=serve, daemon=True).start()
    with server, pytest.raises(TimeoutError, match="the handshake is not whole"):
        connect(f"wss://127.0.0.1:{server.getsockname()[1]}/ws", LIMIT_S, of_client)


def test_who_fails_before_the_limit_is_told_why_and_a_limit_that_was_kept_cuts_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises((OSError, websocket.WebSocketException)) as raised:
        connect(f"ws://127.0.0.1:{port}/ws", 5.0)
    assert not isinstance(raised.value, TimeoutError)
    cut = threading.Event()
    deadline = Deadline(0.05)
    with deadline:
        deadline.watch(cut.set)
    assert not cut.wait(0.2) and not deadline.is_over
