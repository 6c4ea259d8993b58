"""Binding a server's socket, as every process does it."""

import time
from collections.abc import Callable

import zmq

from .process import LOCK_WAIT_S, ConfigError, LockedError

_AGAIN_S = 0.1


def bind(socket: "zmq.Socket[bytes]", endpoint: str, goes_on: Callable[[], bool], setting: str) -> None:
    """Bind a socket. An address in use is waited for a little: an orphan of a killed supervisor ends.

    `setting` is what the user gives another address with. Raises LockedError where it stays in use, else ConfigError.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            socket.bind(endpoint)
            return
        except zmq.ZMQError as error:
            used = error.errno == zmq.EADDRINUSE
            if not (used and time.monotonic() < deadline and goes_on()):
                message = f"{endpoint} cannot be bound ({error}): give another with {setting}"
                raise (LockedError if used else ConfigError)(message) from None
        time.sleep(_AGAIN_S)
