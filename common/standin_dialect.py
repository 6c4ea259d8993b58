"""What an exchange's `exchanges/FILE_standin.py` holds: the exchange as it speaks, without its market. Pure.

`standin_recorded.py` serves a recording through it.
"""

import sys
from collections import deque
from collections.abc import Container, Mapping
from typing import Any, Protocol

from .events import Snapshot


class RefusedError(Exception):
    """The exchange would end the connection here, with this close code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason


class Rate:
    """At most `count` in any `seconds`."""

    def __init__(self, count: float, seconds: float) -> None:
        self._count, self._seconds = count, seconds
        self._times: deque[float] = deque()

    def is_over(self, now: float, weight: int = 1) -> bool:
        """Count one more, or so many; whether that is too many."""
        self._times.extend([now] * weight)
        while self._times[0] <= now - self._seconds:
            self._times.popleft()
        return len(self._times) > self._count


class Patience:
    """How long an exchange bears that nothing is said: told the time once a second, as `Session.beat` is."""

    def __init__(self, limit_s: float, code: int = 1008, reason: str = "") -> None:
        self._limit_ms, self._refusal = limit_s * 1000, RefusedError(code, reason)
        self._since: int | None = None  # the first beat after what was heard last

    def hear(self) -> None:
        self._since = None

    def is_over(self, now_ms: int) -> bool:
        self._since = now_ms if self._since is None else self._since
        return now_ms - self._since > self._limit_ms

    def wait(self, now_ms: int) -> None:
        """Raises RefusedError where it is over."""
        if self.is_over(now_ms):
            raise self._refusal


class Session(Protocol):
    """One connection: what it has subscribed to, and what the server says on it by itself.

    `known` are the symbols that there are: of each other one it does what the exchange does.
    """

    streams: dict[str, None]  # a set that keeps the order of subscribing; names as the adapter's `streams` gives them

    def __init__(self, path: str, known: Container[str]) -> None: ...
    def answer(self, frame: bytes) -> list[bytes]: ...  # to one frame of the client; raises RefusedError
    def beat(self, now_ms: int) -> list[bytes]: ...  # once a second; raises RefusedError where it has waited too long
    def greeting(self) -> list[bytes]: ...  # on connect

    # `numbered(payload, stream) -> bytes`: a recorded frame with its number on this connection, where they are counted


class Dialect(Protocol):
    """A module of `exchanges/`. It holds a `Session` beside these."""

    MESSAGES_PER_S: float  # frames of a client, pings among them; more ends the connection

    def stream_of(self, payload: bytes) -> str | None: ...  # of a recorded frame, inflated; None: it is not sent on
    def pack(self, payload: bytes) -> bytes | None: ...  # a binary frame's payload; None: it goes out as text
    def rest(self, path: str, query: dict[str, str], recorded: Mapping[str, bytes]) -> tuple[int, bytes]: ...

    # these may be left out
    IGNORED_BYTES: int  # a longer frame of a client has no effect and no answer
    MESSAGES_TOGETHER: bool  # frames of all connections are counted as one: there is one address here
    CONNECTS: tuple[int, float] | None  # so many new connections in so many seconds; more are answered 429
    REQUESTS: tuple[int, float] | None  # such a weight over REST in so many seconds; more is answered 429
    LIFETIME_S: float | None  # of a connection: then it is ended
    SHUTDOWN: bytes | None  # what tells that the server goes down

    def weight(self, path: str, query: dict[str, str]) -> int: ...  # of a request over REST
    def book(self, snapshot: Snapshot) -> bytes: ...  # the body of the REST answer that brings this book


DEFAULTS: dict[str, Any] = {
    "IGNORED_BYTES": sys.maxsize,
    "MESSAGES_TOGETHER": False,
    "CONNECTS": None,
    "REQUESTS": None,
    "weight": lambda _path, _query: 1,
    "LIFETIME_S": None,
    "SHUTDOWN": None,
    "book": None,
}
