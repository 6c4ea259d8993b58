"""Whose request is next: the clients by turns, so that a thousand requests of one do not delay the one of another.

Bounded in requests, of each client and of all; and in bytes that a client has been sent but has not taken: who does
not read is not served further, and holds back nobody else.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

CLIENT_WAITING_MAX = 64
"""Requests that one client may have waiting."""
CLIENT_UNSENT_MAX = 8 * 1024**2
"""Bytes not taken yet with which a client's next request waits."""
CLIENTS_MAX = 4_096
"""Clients that are remembered; those who want nothing are forgotten first."""

J = TypeVar("J")


@dataclass
class Client(Generic[J]):
    """One connection: what it asks, and what it has been sent (whether that is gone, and how many bytes)."""

    waiting: deque[J] = field(default_factory=deque)
    unsent: deque[tuple[Callable[[], bool], int]] = field(default_factory=deque)
    unsent_bytes: int = 0
    worker: bytes = b""  # who answered last: it may know how to go on

    def settle(self) -> int:
        """Forget what is gone; returns how many bytes that were."""
        before = self.unsent_bytes
        while self.unsent and self.unsent[0][0]():
            self.unsent_bytes -= self.unsent.popleft()[1]
        return before - self.unsent_bytes


class Turns(Generic[J]):
    """The clients and what they wait for."""

    def __init__(self, waiting_max: int) -> None:
        self.waiting = self.unsent_bytes = 0
        self._waiting_max = waiting_max
        self._clients: OrderedDict[bytes, Client[J]] = OrderedDict()
        self._turns: OrderedDict[bytes, None] = OrderedDict()  # who waits, in the order of turns

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, name: bytes, job: J, *, first: bool = False) -> bool:
        """Queue a request; False where its client, or everybody together, has too many."""
        client = self._client(name)
        if not first and (self.waiting >= self._waiting_max or len(client.waiting) >= CLIENT_WAITING_MAX):
            return False
        client.waiting.insert(0 if first else len(client.waiting), job)
        self.waiting += 1
        self._turns.setdefault(name, None)
        return True

    def take(self) -> tuple[bytes, Client[J], J] | None:
        """The next request, of the client whose turn it is and who reads what it is sent."""
        for name in list(self._turns):
            client = self._clients[name]
            self.unsent_bytes -= client.settle()
            if client.unsent_bytes > CLIENT_UNSENT_MAX:
                continue
            job = client.waiting.popleft()
            self.waiting -= 1
            del self._turns[name]
            if client.waiting:
                self._turns[name] = None
            return name, client, job
        return None

    def sent(self, name: bytes, is_gone: Callable[[], bool], size: int) -> None:
        """A client was sent something that takes memory until it `is_gone`."""
        client = self._client(name)
        client.unsent.append((is_gone, size))
        client.unsent_bytes += size
        self.unsent_bytes += size

    def settle(self) -> None:
        """Look at everything that was sent, and forget clients that want nothing."""
        self.unsent_bytes -= sum(client.settle() for client in self._clients.values())
        for name in self._forgettable(len(self._clients) - CLIENTS_MAX):
            del self._clients[name]

    def _forgettable(self, count: int) -> list[bytes]:
        idle: Iterator[bytes] = (name for name, each in self._clients.items() if not each.waiting and not each.unsent)
        return [name for name, _ in zip(idle, range(count), strict=False)]

    def _client(self, name: bytes) -> Client[J]:
        client = self._clients.setdefault(name, Client())
        self._clients.move_to_end(name)
        return client
