"""One WebSocket, as the feed reads it: whole data frames are split in bulk out of what the socket holds.

websocket-client makes the connection (TLS, proxies, handshake) and does everything that is rare: control frames and
their answers, fragmented messages, sending. The frame, as a server sends it:

     0               1               2               3
    +-+-+-+-+-------+-+-------------+-------------------------------+
    |F|R|R|R|opcode |M| length (7)  |  length (16, if 126; 64, 127) |
    +-+-+-+-+-------+-+-------------+-------------------------------+
    0x81: whole text frame; the mask bit M is never set by a server.
"""

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

import websocket

from .deadline import Deadline
from .tls import BulkContext, TlsStream

DRAIN_BYTES = 256 * 1024
DRAIN_NS = 1_000_000

_TEXT = 0x81
_TEXT_SHORT, _TEXT_MEDIUM = 0x8100, 0x817E  # a text frame's first two bytes, as one number: of no length, of 16 bits
_two = struct.Struct(">HH").unpack_from
_OPCODES = {0x1: None, 0x2: "binary", 0x8: "close", 0x9: "ping", 0xA: "pong"}


class Frame(NamedTuple):
    """A frame that is not a whole text frame: its `op` is None where fragments made a text message."""

    op: str | None
    payload: bytes


class Drain(NamedTuple):
    """What one read brought: when, its whole text frames and others, in order."""

    ts: int
    frames: list[bytes | Frame]
    has_rare: bool = False  # whether any of them is not a whole text frame


class ConnectionLostError(Exception):
    """The connection ended: `code` is the close frame's, None where there was none."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code


def connect(url: str, timeout_s: float, context: ssl.SSLContext | None = None) -> websocket.WebSocket:
    """Open a WebSocket; blocks, for `timeout_s` at most from the moment on that the host's address is known.

    `wss://` needs a `context`, which checks the exchange's certificate. Raises OSError or websocket.WebSocketException.
    """
    deadline = Deadline(timeout_s)
    ws = websocket.WebSocket(
        skip_utf8_validation=True,
        sockopt=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        sslopt={"context": BulkContext(context, deadline)} if context is not None else None,
    )

    def cut() -> None:
        if isinstance(ws.sock, socket.socket):  # of TLS, the socket below it is watched
            ws.sock.shutdown(socket.SHUT_RDWR)

    deadline.watch(cut)
    try:
        with deadline:
            ws.connect(url, timeout=timeout_s)  # type: ignore[no-untyped-call]
    except (OSError, websocket.WebSocketException, ValueError) as error:
        if deadline.is_over:
            raise TimeoutError(f"the handshake is not whole after {timeout_s} s") from error
        raise
    return ws


class Connection:
    """A connected WebSocket, number `number`, never blocking."""

    def __init__(self, number: int, ws: websocket.WebSocket, url: str, max_frame_bytes: int) -> None:
        self.number, self.url = number, url
        self.sent_pongs: list[bytes] = []  # pongs that websocket-client sent by itself, to be recorded
        self._ws, self._max = ws, max_frame_bytes
        if ws.sock is None:
            raise ConnectionLostError("not connected")
        self._sock: socket.socket | TlsStream = ws.sock
        self._sock.settimeout(0)
        self._chunks: list[bytes] = []  # what belongs to a frame that is not whole yet
        self._have = self._need = 0
        self._has_rare = False
        self._fragmented = 0  # how many bytes of a fragmented message have come
        self._rare = b""  # a frame on its way through websocket-client
        self._failure: ConnectionLostError | None = None  # of sending: what was received before comes first
        ws.frame_buffer.recv = self._recv_rare
        self._pong, self._send_close = ws.pong, ws.send_close
        ws.pong = self._answer_ping  # type: ignore[method-assign]  # websocket-client calls both while it reads
        ws.send_close = self._answer_close  # type: ignore[method-assign, assignment]

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, payload: bytes) -> None:
        """Send a text frame. Raises ConnectionLostError; so does `drain` then, once nothing is left to be read."""
        if self._failure is not None:
            raise self._failure
        try:
            self._ws.send(payload.decode())
        except (OSError, websocket.WebSocketException) as error:
            self._failure = ConnectionLostError(f"send failed: {error}")
            raise self._failure from None

    def close(self) -> None:
        self._answer_close()
        self._sock.close()

    def _answer_ping(self, payload: str | bytes = "") -> None:
        try:
            self._pong(payload)
        except (OSError, websocket.WebSocketException) as error:
            self._failure = self._failure or ConnectionLostError(f"send failed: {error}")
        else:
            self.sent_pongs.append(bytes(payload) if not isinstance(payload, str) else payload.encode())

    def _answer_close(self, *_: object) -> None:
        with contextlib.suppress(OSError, websocket.WebSocketException):  # it is lost anyway
            self._send_close()

    def drain(self, stamp: Callable[[], int], take: Callable[[Drain], None]) -> None:
        """Read until the socket would block, or for 256 KiB, or 1 ms; `take` gets what each read brought.

        Raises ConnectionLostError.
        """
        taken, deadline, sock = 0, time.monotonic_ns() + DRAIN_NS, self._sock
        tls = sock if isinstance(sock, TlsStream) else None
        while (taken < DRAIN_BYTES and time.monotonic_ns() < deadline) or (tls is not None and tls.is_over):
            try:
                data = sock.recv(DRAIN_BYTES) if tls is None else tls.recv_all()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                raise ConnectionLostError(f"{type(error).__name__}: {error}") from None
            if not data:
                raise ConnectionLostError("ended without a close frame")
            ts, frames = stamp(), list[bytes | Frame]()
            try:
                self._split(data, frames)
            finally:  # what came before a frame that breaks the protocol was received too
                if frames:
                    take(Drain(ts, frames, self._has_rare))
            taken += len(data)
            if len(data) < DRAIN_BYTES // 4 and not (tls is not None and tls.is_over):
                break  # the socket was emptied: asking again would only tell that
        else:
            return  # there may be more
        if self._failure is not None:
            raise self._failure

    def _split(self, data: bytes, frames: list[bytes | Frame]) -> None:
        """Append the whole frames up to here to `frames`; the rest waits for more bytes."""
        if self._chunks:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
        self._has_rare = False
        place, end = 0, len(data)
        while place + 2 <= end:
            if not self._fragmented and (past := _whole_texts(data, place, frames)) > place:
                place = past
                continue
            first, length = data[place], data[place + 1]
            start = place + 2
            if length >= 126:
                start, length = self._long(data, place, length)
            stop = start + length
            if stop > end or start > end:
                break
            if first == _TEXT and not self._fragmented:
                frames.append(data[start:stop])
            elif (frame := self._rarely(first, data[place:stop])) is not None:
                frames.append(frame)
                self._has_rare = True
            place = stop
        if place < end:
            self._wait_for(data, place)

    def _long(self, data: bytes, place: int, length: int) -> tuple[int, int]:
        """Where the payload starts, and its length, where that takes more than seven bits (or is masked: an error)."""
        if length & 0x80:
            raise ConnectionLostError("a masked frame from the server", 1002)
        size = 2 if length == 126 else 8
        field = data[place + 2 : place + 2 + size]
        if len(field) < size:
            return place + 2 + size, len(data)  # the length itself is not here yet
        length = int.from_bytes(field, "big")
        if length > self._max:
            raise ConnectionLostError(f"a frame of {length} bytes: max_frame_bytes is {self._max}", 1009)
        return place + 2 + size, length

    def _wait_for(self, data: bytes, place: int) -> None:
        """Keep the beginning of a frame, and know how many bytes make it whole."""
        rest = data[place:]
        self._chunks, self._have = [rest], len(rest)
        self._need = 2
        if len(rest) >= 2:
            size = {126: 2, 127: 8}.get(rest[1], 0)
            length = int.from_bytes(rest[2 : 2 + size], "big") if size else rest[1]
            self._need = 2 + size + (length if len(rest) >= 2 + size else 0)
        self._need = max(self._need, self._have + 1)

    def _rarely(self, first: int, frame: bytes) -> Frame | None:
        """Give one whole frame to websocket-client; what comes out of it, if that is a message."""
        if first == 0x82 and not self._fragmented:
            return Frame("binary", frame[_header(frame) :])
        self._rare = frame
        try:
            opcode, message = self._ws.recv_data_frame(control_frame=True)
        except websocket.WebSocketTimeoutException:
            self._fragmented += len(frame)  # of a message whose last fragment is still to come
            if self._fragmented > self._max:
                raise ConnectionLostError(f"a message in fragments: max_frame_bytes is {self._max}", 1009) from None
            return None
        except (OSError, websocket.WebSocketException, ValueError) as error:
            raise ConnectionLostError(f"{type(error).__name__}: {error}", 1002) from None
        payload = bytes(message.data)
        if opcode in (1, 2):
            self._fragmented = 0
        return Frame(_OPCODES[opcode], payload)

    def _recv_rare(self, size: int) -> bytes:
        """What websocket-client reads from instead of the socket."""
        if not self._rare:
            raise websocket.WebSocketTimeoutException("the message goes on in a later frame")
        data, self._rare = self._rare[:size], self._rare[size:]
        return data


def _whole_texts(data: bytes, place: int, frames: list[bytes | Frame]) -> int:
    """Append the whole text frames that lie at `place` one after another; returns where anything else begins.

    Frames of 64 KiB and more are anything else, and what has fewer than four bytes.
    """
    append, last = frames.append, len(data) - 4
    while place <= last:
        kind, length = _two(data, place)
        if kind == _TEXT_MEDIUM:
            start = place + 4
        elif _TEXT_SHORT <= kind < _TEXT_MEDIUM:
            start, length = place + 2, kind - _TEXT_SHORT
        else:
            break
        stop = start + length
        if stop > last + 4:
            break
        append(data[start:stop])
        place = stop
    return place


def close_code(payload: bytes) -> tuple[int | None, str]:
    """Code and reason of a close frame's payload."""
    if len(payload) < 2:
        return None, ""
    return struct.unpack("!H", payload[:2])[0], payload[2:].decode(errors="replace")


def _header(frame: bytes) -> int:
    return 2 + {126: 2, 127: 8}.get(frame[1], 0)
