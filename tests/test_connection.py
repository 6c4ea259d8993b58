"""Frames out of a socket: whole, in order, however the bytes are cut, and refused where they break the protocol."""

import base64
import contextlib
import hashlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, cast

import pytest
import trustme
import websocket
from hypothesis import given, settings
from hypothesis import strategies as st

from common.connection import Connection, ConnectionLostError, Drain, Frame, close_code, connect
from common.tls import TlsStream

MAX = 1_000_000
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
OPS = {BINARY: "binary", CLOSE: "close", PING: "ping", PONG: "pong"}
SIZES = [0, 1, 125, 126, 127, 65535, 65536]


def frame(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, mask: bool = False) -> bytes:
    """As a server sends it."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    size, masked = len(payload), mask << 7
    if size < 126:
        head += bytes([masked | size])
    elif size < 65536:
        head += bytes([masked | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([masked | 127]) + size.to_bytes(8, "big")
    return head + (b"\0\0\0\0" if mask else b"") + payload


class Ends:
    """A connection, and the server's end of its socket."""

    def __init__(self, max_frame_bytes: int = MAX) -> None:
        self.server, client = socket.socketpair()
        for end in (self.server, client):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
        ws = websocket.WebSocket(skip_utf8_validation=True)
        ws.sock, ws.connected = client, True
        self.connection = Connection(7, ws, "ws://there/", max_frame_bytes)
        self.drains: list[Drain] = []
        self._count = 0

    def stamp(self) -> int:
        self._count += 1
        return self._count

    def drain(self, data: bytes) -> None:
        self.server.sendall(data)
        self.connection.drain(self.stamp, self.drains.append)

    @property
    def frames(self) -> list[bytes | Frame]:
        return [each for drain in self.drains for each in drain.frames]

    def received(self) -> list[tuple[int, bytes]]:
        """Opcode and payload of each frame that the server's end has got."""
        self.server.setblocking(False)
        try:
            data = self.server.recv(2**20)
        except BlockingIOError:
            data = b""
        found = []
        while data:
            size, mask, data = data[1] & 0x7F, data[2:6], bytes([data[0]]) + data[6:]
            found.append((data[0] & 0xF, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data[1 : 1 + size]))))
            data = data[1 + size :]
        return found

    def close(self) -> None:
        self.connection.close()
        self.server.close()


@contextmanager
def connected(max_frame_bytes: int = MAX) -> Iterator[Ends]:
    ends = Ends(max_frame_bytes)
    try:
        yield ends
    finally:
        ends.close()


Sent = tuple[list[bytes], list[bytes | Frame], list[bytes]]
"""Frames, what they are read as, and the payloads of the pings among them."""


@st.composite
def traffic(draw: st.DrawFn) -> Sent:
    random = Random(draw(st.integers(0, 2**32)))
    wire: list[bytes] = []
    read: list[bytes | Frame] = []
    pings: list[bytes] = []

    def control() -> None:
        opcode, payload = random.choice([PING, PONG]), random.randbytes(random.choice([0, 4, 125]))
        wire.append(frame(opcode, payload))
        read.append(Frame(OPS[opcode], payload))
        if opcode == PING:
            pings.append(payload)

    for _ in range(random.randrange(1, 30)):
        kind = random.choice(["text"] * 6 + ["binary", "control", "fragments"])
        payload = random.randbytes(random.choice([*range(1, 6), 200, *SIZES[: random.choice([5, 5, 7])]]))
        if kind == "control":
            control()
        elif kind == "fragments":
            opcode, parts = random.choice([TEXT, BINARY]), [payload[i::3] for i in range(random.randrange(2, 4))]
            for place, part in enumerate(parts):
                wire.append(frame(opcode if place == 0 else 0, part, fin=place == len(parts) - 1))
                if place < len(parts) - 1 and random.random() < 0.5:
                    control()
            read.append(Frame(OPS.get(opcode), b"".join(parts)))
        else:
            wire.append(frame(TEXT if kind == "text" else BINARY, payload))
            read.append(payload if kind == "text" else Frame("binary", payload))
    return wire, read, pings


def chunks(data: bytes, seed: int) -> Iterator[bytes]:
    random = Random(seed)
    size = random.choice([1, 3, 100, 5000, 60_000]) if len(data) < 20_000 else random.choice([5000, 60_000])
    while data:
        cut = random.randrange(1, size + 1)
        yield data[:cut]
        data = data[cut:]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(traffic(), st.integers(0, 2**32))
def test_frames_come_whole_and_in_order_however_their_bytes_are_cut(sent: Sent, seed: int) -> None:
    wire, read, pings = sent
    with connected() as ends:
        for chunk in chunks(b"".join(wire), seed):
            ends.drain(chunk)
        assert ends.frames == read
        assert ends.received() == [(PONG, payload) for payload in pings]
        assert ends.connection.sent_pongs == pings
        for _, frames, has_rare in ends.drains:
            assert has_rare == any(isinstance(each, Frame) for each in frames)


@pytest.mark.parametrize("size", [*SIZES, 300_000, MAX])
def test_a_frame_of_any_size_up_to_the_limit_comes_whole_beside_others(size: int) -> None:
    """The largest are bigger than one read."""
    payload = Random(size).randbytes(size)
    with connected() as ends:
        data = frame(TEXT, b"before") + frame(TEXT, payload) + frame(TEXT, b"after")
        for start in range(0, len(data), 60_000):
            ends.drain(data[start : start + 60_000])
        assert ends.frames == [b"before", payload, b"after"]


def test_the_time_of_a_read_is_that_of_the_bytes_that_made_a_frame_whole() -> None:
    with connected() as ends:
        whole = frame(TEXT, b"one") + frame(TEXT, b"two")
        ends.drain(whole[:7])
        ends.drain(whole[7:])
        assert [(drain.ts, drain.frames) for drain in ends.drains] == [(1, [b"one"]), (2, [b"two"])]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(TEXT, b"x", mask=True), 1002),
        (frame(TEXT, b"x" * 200, mask=True), 1002),
        (frame(TEXT, b"x", rsv=4), 1002),
        (frame(BINARY, b"x", rsv=1), 1002),
        (frame(0x3, b"x"), 1002),  # an opcode that does not exist
        (frame(0, b"x"), 1002),  # goes on with what never began
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),  # begins within another
        (frame(TEXT, b"x", fin=False) + frame(BINARY, b"y"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(CLOSE, b"x"), 1002),
        (frame(TEXT, b"x" * 70_001), 1009),
        (b"\x81\x7f" + b"\xff" * 8, 1009),
        (frame(TEXT, b"x" * 60_000, fin=False) + frame(0, b"x" * 60_000, fin=False), 1009),
    ],
)
def test_a_frame_that_breaks_the_protocol_ends_the_connection_after_what_came_before(bad: bytes, code: int) -> None:
    """All in one read: the good frames were received, and must not go with the bad one. Fragments are limited too."""
    with connected(70_000) as ends:
        with pytest.raises(ConnectionLostError) as lost:
            ends.drain(frame(TEXT, b"good") + frame(PING, b"p") + bad)
        assert lost.value.code == code
        assert ends.frames == [b"good", Frame("ping", b"p")] and ends.drains[0].has_rare


def test_a_close_frame_is_answered_and_told_with_code_and_reason() -> None:
    with connected() as ends:
        ends.drain(frame(TEXT, b"last") + frame(CLOSE, b"\x03\xe9going away"))
        text, close = ends.frames
        assert text == b"last" and isinstance(close, Frame) and close.op == "close"
        assert close_code(close.payload) == (1001, "going away")
        assert ends.received()[0][0] == CLOSE
    assert close_code(b"") == close_code(b"\x03") == (None, "")


def test_an_end_without_a_close_frame_is_told_after_the_last_frame() -> None:
    with connected() as ends:
        ends.server.sendall(frame(TEXT, b"last") + b"\x81")
        ends.server.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionLostError, match="without a close frame"):
            for _ in range(2):
                ends.connection.drain(ends.stamp, ends.drains.append)
        assert ends.frames == [b"last"]


def test_what_is_sent_is_one_text_frame_and_a_lost_socket_is_told() -> None:
    with connected() as ends:
        ends.connection.send('{"id":1,"ä":2}'.encode())
        assert ends.received() == [(TEXT, '{"id":1,"ä":2}'.encode())]
        ends.server.close()
        with pytest.raises(ConnectionLostError, match="send failed"):
            for _ in range(3):
                ends.connection.send(b"{}")


def test_a_drain_ends_after_its_share_and_leaves_the_rest_in_the_socket() -> None:
    with connected() as ends:
        ends.server.settimeout(5)
        many = frame(TEXT, b"x" * 1000)
        sender = threading.Thread(target=ends.server.sendall, args=(many * 600,))
        sender.start()
        count = turns = 0
        while count < 600:
            turns += 1
            ends.connection.drain(ends.stamp, ends.drains.append)
            count = len(ends.frames)
        sender.join()
        assert turns > 1 and max(sum(map(len, drain.frames)) for drain in ends.drains) <= 300_000


def test_what_came_behind_a_ping_is_kept_where_the_answer_to_it_cannot_be_sent() -> None:
    """The exchange is gone already: the failed pong took with it the frames of the same read."""
    with connected() as ends:
        ends.server.sendall(frame(TEXT, b"one") + frame(PING, b"p") + frame(TEXT, b"two"))
        ends.server.close()
        with pytest.raises(ConnectionLostError):
            for _ in range(2):
                ends.connection.drain(ends.stamp, ends.drains.append)
        assert ends.frames == [b"one", Frame("ping", b"p"), b"two"] and not ends.connection.sent_pongs


def test_what_was_received_comes_before_a_failure_to_send() -> None:
    with connected() as ends:
        ends.server.sendall(frame(TEXT, b"last"))
        ends.server.shutdown(socket.SHUT_RD)
        with pytest.raises(ConnectionLostError, match="send failed"):
            ends.connection.send(b"{}")
        with pytest.raises(ConnectionLostError, match="send failed"):
            ends.connection.drain(ends.stamp, ends.drains.append)
        assert ends.frames == [b"last"]


# -- TLS ---------------------------------------------------------------------------------------------------------------


class TlsServer:
    """Accepts one WebSocket over TLS, says `first` in one breath with its greeting, then `then` when told to."""

    def __init__(self, first: bytes, then: bytes) -> None:
        authority = trustme.CA()
        self.client_context = ssl.create_default_context()
        authority.configure_trust(self.client_context)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(self._context)
        self._first, self._then = first, then
        self.more, self.got = threading.Event(), b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"wss://localhost:{self._listener.getsockname()[1]}/stream"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the client may go at any time
            self._serve()

    def _serve(self) -> None:
        raw, _ = self._listener.accept()
        raw.settimeout(10)
        with self._listener, raw, self._context.wrap_socket(raw, server_side=True) as sock:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += sock.recv(4096)
            key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
            accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            greeting = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            sock.sendall(greeting + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + self._first)
            self.more.wait(10)
            sock.sendall(self._then)
            self.got = sock.recv(4096)

    def join(self) -> None:
        self._thread.join()


def drain_until(connection: Connection, drains: list[Drain], count: int) -> list[bytes | Frame]:
    """Wait for the socket as the feed does, and drain it: while it is not readable, nothing may be left in it."""
    while len(have := [each for drain in drains for each in drain.frames]) < count:
        assert select.select([connection], [], [], 10)[0], f"{len(have)} of {count} frames"
        connection.drain(lambda: 0, drains.append)
    return have


def test_over_tls_nothing_that_was_decrypted_waits_for_more_to_come() -> None:
    """The first frames may come in one piece with the greeting; later ones, many in one read of the socket."""
    first = [b"one", b"two"]
    then = [Random(size).randbytes(size) for size in [*SIZES, 300_000, 3, 3]]
    server = TlsServer(b"".join(frame(TEXT, each) for each in first), b"".join(frame(TEXT, each) for each in then))
    connection = Connection(1, connect(server.url, 10, server.client_context), server.url, MAX)
    with contextlib.closing(connection):
        drains: list[Drain] = []
        connection.drain(lambda: 0, drains.append)
        assert [each for drain in drains for each in drain.frames] == first
        server.more.set()
        assert drain_until(connection, drains, len(first) + len(then)) == first + then
        connection.send(b"{}")
        server.join()
        assert len(server.got) == 8
        with pytest.raises(ConnectionLostError):
            drain_until(connection, drains, 99)


def test_over_tls_a_certificate_that_nobody_trusts_is_refused() -> None:
    server = TlsServer(b"", b"")
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(server.url, 10, ssl.create_default_context())
    server.join()


class Broken:
    """A connection over TLS whose server sends frames in one piece with what ends it."""

    def __init__(self) -> None:
        authority = trustme.CA()
        context, server = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.configure_trust(context)
        authority.issue_cert("localhost").configure_cert(server)
        self.raw, client = socket.socketpair()
        self.raw.settimeout(10)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = server.wrap_bio(self._in, self._out, server_side=True)
        thread = threading.Thread(target=self._shake)
        thread.start()
        ws = websocket.WebSocket(skip_utf8_validation=True)
        ws.sock, ws.connected = cast(Any, TlsStream(client, context, "localhost")), True
        thread.join()
        self.connection = Connection(1, ws, "wss://there/", MAX)

    def _shake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.raw.sendall(self._out.read())
                self._in.write(self.raw.recv(65_536))
        self.raw.sendall(self._out.read())

    def records(self, payloads: list[bytes]) -> bytes:
        """Each frame in a TLS record of its own, as they are on their way."""
        for payload in payloads:
            self._tls.write(frame(TEXT, payload))
        return self._out.read()

    def goodbye(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._out.read()


@pytest.mark.parametrize("end", ["garbage", "flipped", "goodbye"])
def test_over_tls_what_was_decrypted_is_taken_before_what_ends_the_connection_in_the_same_read(end: str) -> None:
    """The error threw away all frames of its read; after a goodbye the end was told only once the socket closed."""
    broken, payloads, drains = Broken(), [b"one", b"two", b"three"], list[Drain]()
    wire = broken.records(payloads)
    if end == "flipped":
        bad = bytearray(broken.records([b"bad"]))
        bad[-1] ^= 1
        wire += bytes(bad)
    else:
        wire += broken.goodbye() if end == "goodbye" else b"\x17\x03\x03\x00\x20" + b"x" * 32
    broken.raw.sendall(wire)
    with contextlib.closing(broken.connection), broken.raw, pytest.raises(ConnectionLostError):
        broken.connection.drain(lambda: 0, drains.append)
    assert [each for drain in drains for each in drain.frames] == payloads
