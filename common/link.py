"""One client's connection to a stand-in exchange: frames out, accounts of them, and the limit on what comes in.

Frames are written to the transport in bulk, past the library's `send`, which costs ten times as much: a server's frame
is a head of 2, 4 or 10 bytes before the payload, without mask or compression.

    | FIN 1, opcode 4 bits | length 7 bits, or 126 and 2 bytes, or 127 and 8 bytes | payload |
"""

import asyncio
import base64
import hashlib
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State

from .standin_dialect import Rate

SENT_BUFFER_BYTES = 1_000_000

POLICY_VIOLATION = 1008
"""The close code with which the exchange ends a connection that passed a limit."""

_COUNTED = (Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG)


def frame(opcode: int, payload: bytes) -> bytes:
    """One whole frame from server to client."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65_536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


class SentFile:
    """One JSON line per data frame sent: `{"conn":1,"ts":…,"payload":"…"}`, or `payload_b64` where it is no UTF-8.

    `ts` is the time of sending in ns.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._lines: list[bytes] = []
        self._bytes = 0

    def add(self, number: int, payloads: Sequence[bytes]) -> None:
        ts = time.time_ns()
        for payload in payloads:
            try:
                line = orjson.dumps({"conn": number, "ts": ts, "payload": payload.decode()})
            except UnicodeDecodeError:
                line = orjson.dumps({"conn": number, "ts": ts, "payload_b64": base64.b64encode(payload).decode()})
            self._lines.append(line + b"\n")
            self._bytes += len(line)
        if self._bytes >= SENT_BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        self._file.write(b"".join(self._lines))
        self._file.flush()
        self._lines, self._bytes = [], 0

    def close(self) -> None:
        self.flush()
        self._file.close()


class Link(ServerConnection):
    """A connection that keeps accounts. It becomes a client's with `join`; REST requests never do."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.number = 0
        self.began_ms = 0
        self.flooded = False
        self.room_bytes = 0
        self.frames = 0
        self.stream_frames = 0
        self._sent: SentFile | None = None
        self._rate: Rate | None = None
        self._all = hashlib.sha256()
        self._streams = hashlib.sha256()
        self._ending: asyncio.Task[None] | None = None

    def join(self, number: int, rate: Rate, room_bytes: int, sent: SentFile | None) -> None:
        """Give the connection its number, the limits of what comes in and what waits, and the file of what goes out."""
        self.number, self._rate, self.room_bytes, self._sent = number, rate, room_bytes, sent

    @property
    def is_open(self) -> bool:
        return self.state is State.OPEN and self._ending is None and not self.transport.is_closing()

    def write(self, opcode: int, payloads: Sequence[bytes], *, stream: bool = False) -> None:
        """Send data frames without waiting. `stream`: they are the market's, not answers or faults."""
        if not payloads or not self.is_open:
            return
        self.transport.write(b"".join([frame(opcode, payload) for payload in payloads]))
        together = b"".join(payloads)
        self._all.update(together)
        self.frames += len(payloads)
        if stream:
            self._streams.update(together)
            self.stream_frames += len(payloads)
        if self._sent is not None:
            self._sent.add(self.number, payloads)

    def end(self, code: int, reason: str) -> None:
        """Begin to close, without waiting."""
        self._ending = self.loop.create_task(self.close(code, reason))

    def cut(self, *, reset: bool) -> None:
        """End the TCP connection without a close frame; `reset` throws away what is still on its way."""
        if reset:
            socket_ = self.transport.get_extra_info("socket")
            socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    @property
    def is_behind(self) -> bool:
        """Whether more waits for the reader than an exchange would bear."""
        return self.is_open and self.transport.get_write_buffer_size() > self.room_bytes

    def account(self) -> dict[str, object]:
        """What was sent so far. The hashes are over all payloads, one behind the other."""
        return {
            "conn": self.number,
            "open": self.is_open,
            "frames": self.frames,
            "stream_frames": self.stream_frames,
            "sha256": self._all.hexdigest(),
            "stream_sha256": self._streams.hexdigest(),
            "waiting_bytes": self.transport.get_write_buffer_size() if self.is_open else 0,
        }

    def process_event(self, event: Request | Response | Frame) -> None:
        if isinstance(event, Frame) and event.opcode in _COUNTED and self._is_flood():
            if not self.flooded:
                self.flooded = True
                self.end(POLICY_VIOLATION, "Too many requests")
            return
        super().process_event(event)

    def _is_flood(self) -> bool:
        return self._rate is not None and self._rate.is_over(self.loop.time())
