"""Clients that mean no good: ZMTP by hand on plain sockets, so that nothing of a library holds them back."""

import os
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

DEADLINE_S = 30.0


def greeting() -> bytes:
    return b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)


def ready(kind: bytes = b"SUB") -> bytes:
    body = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    return bytes([4, len(body)]) + body


def frame(data: bytes, *, more: bool = False) -> bytes:
    if len(data) < 256:
        return bytes([int(more), len(data)]) + data
    return bytes([int(more) | 2]) + len(data).to_bytes(8, "big") + data


def subscription(name: bytes) -> bytes:
    return frame(b"\1" + name)


def connected(port: int, kind: bytes = b"SUB") -> socket.socket:
    """A connection that has shaken hands."""
    plain = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
    plain.sendall(greeting() + ready(kind))
    heard = b""
    while b"READY" not in heard:  # who speaks before that is left at once
        if not (more := plain.recv(1000)):
            raise ConnectionResetError
        heard += more
    return plain


def pour(port: int, pieces: Iterable[bytes], kind: bytes = b"SUB", *, and_wait: bool = True) -> int:
    """Send until it is disconnected; returns how many bytes went out."""
    sent = 0
    try:
        with connected(port, kind) as plain:
            for piece in pieces:
                plain.sendall(piece)
                sent += len(piece)
            while and_wait and plain.recv(1 << 16):
                pass
    except OSError:
        pass
    return sent


def names(count: int) -> Iterable[bytes]:
    for number in range(0, count, 1000):
        yield b"".join(subscription(b"binance/trade/NO%08d " % each) for each in range(number, number + 1000))


def branches(count: int, salt: int = 0) -> Iterable[bytes]:
    """Two subscriptions each that make one node of the publisher's tree 256 wide."""
    for number in range(salt * count, (salt + 1) * count, 1000):
        some = (each.to_bytes(3, "big") for each in range(number, number + 1000))
        yield b"".join(subscription(each + b"\0") + subscription(each + b"\xff") for each in some)


def chains(count: int, size: int = 1000) -> Iterable[bytes]:
    """Long ones that share nothing."""
    for _ in range(count):
        yield subscription(os.urandom(size))


class Memory:
    """The most that a process takes while the block runs, in MB above what it was."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self.before = self.most = self.now()

    def now(self) -> float:
        return int(Path(f"/proc/{self._pid}/statm").read_text().split()[1]) * 4096 / 1e6

    @property
    def grown(self) -> float:
        return self.most - self.before

    def __enter__(self) -> "Memory":
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.most = max(self.most, self.now())
