"""A limit of time over all that a block of code does on sockets: their own timeouts begin anew with each byte.

A server that sends one byte now and then would hold a connect, a handshake or an answer for ever.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Self


class Deadline:
    """Shuts what it watches down when the block has taken `seconds`: whoever reads there gets an error or an end."""

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._cuts: list[Callable[[], object]] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, cut: Callable[[], object]) -> None:
        """Call `cut` in the timer's thread when time is over; at once where it is over. OSErrors are nothing there."""
        self._cuts.append(cut)
        if self.is_over:
            self._cut()

    def _cut(self) -> None:
        self.is_over = True
        for cut in list(self._cuts):
            with contextlib.suppress(OSError):
                cut()


class Cutter:
    """A second handle of a connected socket, to shut it down whoever holds the first one by then, as TLS does."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = socket.socket(fileno=os.dup(sock.fileno()))

    def cut(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()
