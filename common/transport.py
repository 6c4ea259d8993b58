"""How requests reach a history server: over ZeroMQ, or, for a directory, the same answers in this process.

    DEALER  connects  the server      ["", JSON request]  →  ["", JSON header, payload …]

A dialogue is for one thread at a time; any number of dialogues may be open. What was lost on its way (a worker or the
whole server was killed) is asked again: the server keeps no state, so any reply can be asked for twice.
"""

import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import orjson
import zmq
from zmq.utils.monitor import recv_monitor_message

from .errors import BadRequestError, UnavailableError, error_of
from .sockets import Socket, Sockets

Request = dict[str, Any]
Reply = tuple[dict[str, Any], list[bytes]]
"""The header and the payload frames."""

CONNECT_S = 3.0
"""How long the first connection may take: who is not there is told soon."""
TIMEOUT_S = 60.0
"""How long one answer may take, with all tries."""
ASK_AGAIN_S = 10.0
"""An answer that has not come by then is asked for again."""
POLL_MS = 250
"""How soon a wait ends when another thread closes the client."""
BUSY_S = 0.2
"""Pause before a busy server is asked again."""


class Dialogue(Protocol):
    """Requests and their answers; several may be under way."""

    sockets: tuple[Socket, ...]
    """What to poll before `poll`."""

    def ask(self, request: Request) -> int:
        """Send a request, now or as soon as the server is there. Returns its number."""

    def answer(self) -> Reply:
        """Wait for the answer to the earliest request that has none yet. Raises ArchivistError."""

    def ask_again(self, number: int) -> None:
        """Send a request once more, should it be lost."""

    def poll(self) -> tuple[int, Reply] | None:
        """An answer that is there, errors too, with its request's number. Never waits."""

    def close(self) -> None: ...


class Transport(Protocol):
    """A way to a history server; `name` for messages."""

    name: str

    def dialogue(self, *, wait: bool = True) -> Dialogue: ...
    def close(self) -> None: ...


def request(transport: Transport, question: Request) -> Reply:
    """One request and its answer. Raises ArchivistError."""
    dialogue = transport.dialogue()
    try:
        dialogue.ask(question)
        return dialogue.answer()
    finally:
        dialogue.close()


def closed() -> UnavailableError:
    return UnavailableError("this client is closed: make a new one", "closed")


def _checked(header: dict[str, Any], payload: list[bytes]) -> Reply:
    if "error" in header:
        raise error_of(header["error"]["code"], header["error"]["message"])
    return header, payload


class Keys:
    """CURVE: the server's public key and one's own pair, each a file of `trade-archivist keys`. See `curve.py`."""

    def __init__(self, server_key: str | Path, key: str | Path) -> None:
        from . import curve

        try:
            self._server, self._own = curve.public_key(server_key), curve.load(Path(key))
        except ValueError as error:
            raise BadRequestError(str(error), "bad_key") from None

    def secure(self, socket: Socket, server: str | None = None) -> None:
        """Encrypt a socket before it connects. `server` is another server's public key."""
        from . import curve

        curve.secure_client(socket, self._server if server is None else curve.public_key(server), self._own)


# -- over ZeroMQ -------------------------------------------------------------------------------------------------------


class Remote:
    """A history server at `tcp://HOST:PORT`. Threads and forked processes may share it; any of them may close it."""

    def __init__(self, endpoint: str, timeout_s: float = TIMEOUT_S, keys: Keys | None = None) -> None:
        self.name, self.timeout_s, self.keys = endpoint, timeout_s, keys
        self.was_there = False  # then it is worth waiting for
        self.is_closed = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()  # the collector may close a dialogue in the middle of any call
        self._sockets: Sockets | None = None
        self._idle: list[tuple[Socket, Socket]] = []  # no dialogues: each would keep this alive, in a cycle
        self._used = 0

    def dialogue(self, *, wait: bool = True) -> "RemoteDialogue":
        """A dialogue for one thread; without `wait` the server need not be there yet. Raises ArchivistError."""
        if self._pid != os.getpid():
            self._begin()  # a forked process must not touch its parent's sockets
        with self._lock:
            if self.is_closed:
                raise closed()
            self._used += 1
            if self._idle:
                return RemoteDialogue(self, *self._idle.pop())
            sockets = self._sockets = self._sockets or Sockets(self)
            socket, monitor = _opened(sockets)
        dialogue = RemoteDialogue(self, socket, monitor)
        try:
            dialogue.connect(wait=wait)
        except BaseException:
            self.take_back(socket, monitor, is_free=False)
            raise
        return dialogue

    def take_back(self, socket: Socket, monitor: Socket, *, is_free: bool) -> None:
        """A dialogue is done; free sockets wait for the next one, so that nobody need connect again."""
        if self._pid != os.getpid() or self._sockets is None or socket not in self._sockets:
            return  # a dialogue from before a fork
        with self._lock:
            self._used -= 1
            if is_free and not self.is_closed:
                self._idle.append((socket, monitor))
            else:
                self._drop(socket, monitor)
            if self.is_closed:
                self._end()

    def close(self) -> None:
        """Dialogues of other threads end by themselves: a socket is touched by none but its user."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if self.is_closed:
                return
            self.is_closed = True
            while self._idle:
                self._drop(*self._idle.pop())
            self._end()

    def _end(self) -> None:
        if self._sockets is not None and not self._used:
            self._sockets.close()

    def _drop(self, socket: Socket, monitor: Socket) -> None:
        if self._sockets is not None:
            socket.disable_monitor()
            self._sockets.end(monitor, socket)


def _opened(sockets: Sockets) -> tuple[Socket, Socket]:
    """A DEALER that connects again by itself, and what tells that it lost its connection."""
    socket = sockets.open(zmq.DEALER)
    socket.set(zmq.IMMEDIATE, 1)  # nothing is queued for who is not there
    socket.set(zmq.RECONNECT_IVL, 50)
    socket.set(zmq.RECONNECT_IVL_MAX, 1000)
    socket.set(zmq.HEARTBEAT_IVL, 2000)
    return socket, sockets.open_monitor(socket, zmq.EVENT_DISCONNECTED)


class RemoteDialogue:
    """Requests over one DEALER socket. What was under way when its connection was lost is asked again."""

    _numbers = itertools.count(1)  # of all dialogues: an answer that comes twice must not be taken for a later one's

    def __init__(self, transport: Remote, socket: Socket, monitor: Socket) -> None:
        self._transport = transport
        self._waiting: dict[int, bytes] = {}  # what has not been handed out, in the order of asking
        self._sent: set[int] = set()  # of these, what the server must have
        self._answered: dict[int, Reply] = {}
        self._socket, self._monitor = socket, monitor
        self._poller = zmq.Poller()
        self._poller.register(monitor, zmq.POLLIN)
        self.sockets: tuple[Socket, ...] = (socket, monitor)

    def connect(self, *, wait: bool) -> None:
        """Connect; without `wait` the server need not be there yet. Raises ArchivistError."""
        transport = self._transport
        try:
            if transport.keys is not None:
                transport.keys.secure(self._socket)
            self._socket.connect(transport.name)
        except zmq.ZMQError as error:
            raise BadRequestError(f"{transport.name}: {error}: name the server as HOST:PORT") from None
        if not wait:
            return
        wait_s = transport.timeout_s if transport.was_there else min(CONNECT_S, transport.timeout_s)
        deadline = time.monotonic() + wait_s
        while not self._socket.poll(min(POLL_MS, int(wait_s * 1000)), zmq.POLLOUT):
            if transport.is_closed:
                raise closed()
            if time.monotonic() < deadline:
                continue
            raise UnavailableError(
                f"no history server at {transport.name}: see that it runs (processes.archive starts one), that this "
                "is its address and that it knows your key if it wants one, or read the directory itself (storage=DIR, "
                "--storage DIR)"
            )
        transport.was_there = True

    def ask(self, request: Request) -> int:
        number = next(self._numbers)
        self._waiting[number] = orjson.dumps({**request, "id": number})
        self._send()
        return number

    def ask_again(self, number: int) -> None:
        self._sent.discard(number)
        self._send()

    def poll(self) -> tuple[int, Reply] | None:
        self._send()
        self._receive(0)
        if not self._answered:
            return None
        number = next(iter(self._answered))
        del self._waiting[number]
        return number, self._answered.pop(number)

    def answer(self) -> Reply:
        """The answer to the earliest request that has none yet. Raises ArchivistError."""
        wanted = next(iter(self._waiting))
        deadline = time.monotonic() + self._transport.timeout_s
        while True:
            header, payload = self._await(wanted, deadline)
            is_busy = "error" in header and header["error"]["code"] == "busy"
            if not is_busy or time.monotonic() + BUSY_S > deadline:
                del self._waiting[wanted]
                return _checked(header, payload)
            time.sleep(BUSY_S)
            self._sent.discard(wanted)

    def close(self) -> None:
        """Give the socket back for the next; with answers still to come, which nobody waits for, it is closed."""
        self._transport.take_back(self._socket, self._monitor, is_free=not self._waiting)

    def _await(self, wanted: int, deadline: float) -> Reply:
        again = time.monotonic() + ASK_AGAIN_S
        while wanted not in self._answered:
            if self._transport.is_closed:
                raise closed()
            now = time.monotonic()
            if now >= deadline:
                raise UnavailableError(
                    f"{self._transport.name}: no answer within {self._transport.timeout_s:.0f} s: see that the history "
                    "server runs; for long work give a longer timeout_s",
                    "timeout",
                )
            if now >= again:  # the server is there, but who had the request may have been killed
                self._sent.clear()
                again = now + ASK_AGAIN_S
            self._send()
            self._receive(min(deadline, again) - now)
        return self._answered.pop(wanted)

    def _send(self) -> None:
        for number, frame in self._waiting.items():
            if number not in self._sent and number not in self._answered:
                try:
                    self._socket.send_multipart([b"", frame], zmq.NOBLOCK)
                except zmq.Again:
                    return  # not connected: it goes out when the server is back
                self._sent.add(number)

    def _receive(self, wait_s: float) -> None:
        has_all = all(number in self._sent or number in self._answered for number in self._waiting)
        self._poller.register(self._socket, zmq.POLLIN if has_all else zmq.POLLIN | zmq.POLLOUT)
        ready = dict(self._poller.poll(min(POLL_MS, math.ceil(max(0.0, wait_s) * 1000))))
        if self._monitor in ready:
            recv_monitor_message(self._monitor)
            self._sent.clear()  # what was under way went with the connection
        if ready.get(self._socket, 0) & zmq.POLLIN:
            _, head, *payload = self._socket.recv_multipart()
            header = orjson.loads(head)
            if (number := header.get("id")) in self._waiting:  # else it was asked twice, and answered twice
                self._sent.discard(number)
                self._answered[number] = header, payload


# -- in this process ---------------------------------------------------------------------------------------------------


class Local:
    """A storage directory, read by this process with the very code of the server."""

    def __init__(self, storage: Path) -> None:
        from .answers import Answers

        if not storage.is_dir():
            raise BadRequestError(f"{storage}: no such directory: name the storage directory")
        self.name = str(storage)
        self._answers = Answers(storage)
        self._lock = threading.Lock()

    def dialogue(self, *, wait: bool = True) -> "LocalDialogue":
        return LocalDialogue(self._answer)

    def _answer(self, question: bytes) -> list[bytes]:
        with self._lock:
            return self._answers.answer(question)

    def close(self) -> None:
        pass


class LocalDialogue:
    """Answers when the answer is wanted, not before: nothing is read that nobody takes."""

    def __init__(self, answer: Callable[[bytes], list[bytes]]) -> None:
        self._answer = answer
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._last = 0
        self.sockets: tuple[Socket, ...] = ()

    def ask(self, request: Request) -> int:
        self._last += 1
        self._waiting.append((self._last, orjson.dumps(request)))
        return self._last

    def ask_again(self, number: int) -> None:
        pass  # nothing is lost here

    def answer(self) -> Reply:
        return _checked(*self._next()[1])

    def poll(self) -> tuple[int, Reply] | None:
        return self._next() if self._waiting else None

    def _next(self) -> tuple[int, Reply]:
        number, question = self._waiting.popleft()
        head, *payload = self._answer(question)
        return number, (orjson.loads(head), payload)

    def close(self) -> None:
        self._waiting.clear()
