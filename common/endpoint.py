"""Binding a server's socket, as every process does it, and keeping the file of one that is a file (ipc)."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from .private import secure
from .process import LOCK_WAIT_S, ConfigError, LockedError

_AGAIN_S = 0.1
_LOOK_S = 1.0


def bind(socket: "zmq.Socket[bytes]", endpoint: str, goes_on: Callable[[], bool], setting: str) -> None:
    """Bind a socket. An address in use is waited for a little: an orphan of a killed supervisor ends.

    `setting` is what the user gives another address with. Raises LockedError where it stays in use, else ConfigError;
    PermissionError where its directory may be another user's.
    """
    if is_file(endpoint):
        secure(socket_file(endpoint))
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


def is_removed(endpoint: str) -> bool:
    """Whether a bound socket's file is gone: cleaners of temporary directories take what was not read for days."""
    if not is_file(endpoint):
        return False
    try:
        secure(socket_file(endpoint))
        return not socket_file(endpoint).is_socket()
    except OSError:
        return True


def is_file(endpoint: str) -> bool:
    """Whether a socket is a file."""
    return endpoint.startswith("ipc:///")


def socket_file(endpoint: str) -> Path:
    return Path(endpoint.removeprefix("ipc://"))


class SocketFiles:
    """The files of bound sockets. One that somebody removed is bound anew; who is connected already stays so."""

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._due = log, 0.0
        self._bound: list[tuple[zmq.Socket[bytes], str]] = []
        self._told = ""

    def add(self, socket: "zmq.Socket[bytes]", endpoint: str) -> None:
        self._bound.append((socket, endpoint))

    def keep(self, now: float) -> None:
        """To be called often: it looks once a second. `now` is monotonic, in seconds."""
        if now < self._due:
            return
        self._due = now + _LOOK_S
        for socket, endpoint in self._bound:
            if is_removed(endpoint):
                self._bind_again(socket, endpoint)

    def _bind_again(self, socket: "zmq.Socket[bytes]", endpoint: str) -> None:
        try:
            secure(socket_file(endpoint))
            socket_file(endpoint).parent.mkdir(parents=True, exist_ok=True)
            socket.bind(endpoint)  # not unbound before: that would end the connections that there are
        except (OSError, zmq.ZMQError) as error:
            if self._told != str(error):
                self._log.error("%s is not there and cannot be bound (%s): trying again", endpoint, error)
            self._told = str(error)
        else:
            self._log.warning("%s was not there: bound anew", endpoint)
            self._told = ""
