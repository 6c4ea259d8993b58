"""Who is connected to a bound TCP socket, and how much of this process each may take: connections, bytes, memory.

libzmq bounds the size of a frame and no more: it takes connections while there are descriptors, and a publisher keeps
each subscription in a tree of up to 200 bytes for each byte sent. So a thread beside it watches, which sleeps while
nobody sends or connects:

    monitor  ─▶ accepted, disconnected         a duplicate of each connection's descriptor
    epoll    ─▶ a client sends                 TCP_INFO: how many bytes; statm: how much memory grew meanwhile
    bounds   ─▶ shutdown of that connection    its memory is freed; everyone else notices nothing

On other systems than Linux only the number of connections is bounded. Who is disconnected connects again, by libzmq's
own rule; an honest client that was taken for a bad one loses what was sent within that tenth of a second, and sees it.
"""

import contextlib
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from .process import files_max, give_back_memory, resident_bytes

log = logging.getLogger("clients")

Socket = zmq.Socket[bytes]

HANDSHAKE_MS = 10_000
"""Who has not said by then what it is, is disconnected."""
SAMPLE_S = 0.005
KEYS_BYTES = 256
"""A frame's encryption takes less, and the handshake of keys no more than this and the smallest bound."""
QUIET_S = 0.25
"""So long after a client's last bytes memory that grows is not its own any more."""
LOOK_S = 1.0
SENDERS_MAX = 4
"""So many may send at once: libzmq hands over what all have sent, before a publisher's thread does anything else."""
SENDER_BYTES = 1024
SENDER_S = 0.02
"""Who has sent less (20 subscriptions), or nothing for so long, is none of them."""
YOUNG_S = 1.0
FILES_SPARE = 200
"""Descriptors that clients must leave to everything else."""
AMPLIFIED = 400
"""Bytes of memory that one byte of a subscription can take, at most."""
GROWTH_MAX = 12 * 1024**2
"""Memory that one client may take."""
GROWTH_ALL_MAX = 16 * 1024**2
"""Memory that all clients together may take beyond what they had at first."""

_SILENT_S = 60.0  # one text is logged once in so long: refused clients try again ten times a second
_SORTS_MAX = 100
_BYTES_RECEIVED = 128  # offset in Linux's struct tcp_info
_STOLEN_MAX = 64
_EVENTS = (
    zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)  # fmt: skip
_REASONS: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "it came without keys",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "it has another server's public key, or not the secret of its own",
}


class Bounds(NamedTuple):
    """What clients of one socket may take. `burst_bytes` and `bytes_s` are one client's."""

    frame_bytes: int
    clients: int
    burst_bytes: int
    bytes_s: int
    is_grown: bool = False  # whether what clients send stays in memory, so that its growth is theirs


SUBSCRIBERS = Bounds(256, 32, 4 * 1024**2, 64 * 1024, is_grown=True)
"""Of a publisher. 28,000 subscriptions (2,000 symbols, all channels) are 1 MB. The longest topic has some 220 bytes."""

SUBSCRIPTIONS_AHEAD = 16
READ_BYTES = 1024
"""So little is read of a subscriber at once: what is read is taken in, even when its connection has been ended."""

TAKE_IN_S = 0.001


def bound_in(opened: Socket, bounds: Bounds, *, has_keys: bool) -> None:
    """Bound what libzmq itself can, before a socket is bound."""
    opened.set(zmq.MAXMSGSIZE, bounds.frame_bytes + KEYS_BYTES * has_keys)
    opened.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    if bounds.is_grown:
        opened.set(zmq.RCVHWM, SUBSCRIPTIONS_AHEAD)
        opened.set(zmq.RCVBUF, READ_BYTES)


def take_in(publishers: Iterable[Socket], *, is_busy: bool) -> None:
    """Let publishers take in subscriptions: for a bounded time while clients send, else those that wait."""
    for publisher in publishers:
        until = time.perf_counter() + TAKE_IN_S
        while publisher.get(zmq.EVENTS) and is_busy and time.perf_counter() < until:
            pass


@dataclass
class Guest:
    """One connection."""

    socket: socket.socket  # a duplicate: its number is nobody else's while we have it
    since: float
    seen: float
    total: int = 0  # bytes that it has sent
    recent: int = 0  # of them since it was quiet
    level: float = 0.0  # of them beyond what it may send each second
    grown: float = 0.0  # memory that grew by what it sent
    is_ended: bool = False  # it was disconnected, and libzmq has not told so yet


class Guests:
    """Watches one bound socket, in a thread that ends with it."""

    def __init__(self, bound: Socket, endpoint: str, bounds: Bounds, told: "Told", wake: Callable[[], None]) -> None:
        self.socket, self._endpoint, self._bounds, self._told, self._wake = bound, endpoint, bounds, told, wake
        self.is_busy = False  # whether somebody has sent within the last moment
        self._port = endpoint.rpartition(":")[2]
        self._clients = max(8, min(bounds.clients, (files_max() - FILES_SPARE) // 4))
        self._guests: dict[int, Guest] = {}  # by the number that libzmq's own descriptor has
        self._heard = 0.0
        self._memory = resident_bytes()
        self._freed = False  # a client was disconnected, and malloc keeps what it took
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        monitor = bound.get_monitor_socket(_EVENTS)
        self._thread = threading.Thread(target=self._run, args=(monitor,), name="clients", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        if not self.socket.closed:
            self.socket.disable_monitor()
        self._thread.join(timeout_s)

    def _run(self, monitor: Socket) -> None:
        poller = zmq.Poller()
        poller.register(monitor, zmq.POLLIN)
        if self._epoll is not None:
            poller.register(self._epoll.fileno(), zmq.POLLIN)
        with contextlib.suppress(zmq.ZMQError):
            while True:
                wait_s = SAMPLE_S if self.is_busy else LOOK_S
                poller.poll(int(1000 * wait_s) if self._guests or self._freed else None)
                if not self._hear(monitor):
                    break
                self._weigh(time.monotonic())
                if self.is_busy:
                    self._wake()
                    time.sleep(SAMPLE_S)
        for guest in self._guests.values():
            guest.socket.close()
        if self._epoll is not None:
            self._epoll.close()
        monitor.close(0)

    # -- who comes and goes --------------------------------------------------------------------------------------

    def _hear(self, monitor: Socket) -> bool:
        """Take what the monitor tells; False where the socket is closed."""
        with contextlib.suppress(zmq.Again):
            while True:
                event = recv_monitor_message(monitor, zmq.NOBLOCK)
                if event["event"] == zmq.EVENT_MONITOR_STOPPED:
                    return False
                if event["event"] == zmq.EVENT_ACCEPTED:
                    self._welcome(event["value"], time.monotonic())
                elif event["event"] == zmq.EVENT_DISCONNECTED:
                    self._forget(event["value"])
                else:
                    reason = _REASONS.get(event["value"], "its handshake failed")
                    self._told.tell(f"a client of {self._endpoint} is refused: {reason}")
        return True

    def _welcome(self, number: int, now: float) -> None:
        self._forget(number)
        try:
            duplicate = socket.socket(fileno=os.dup(number))
        except OSError:  # no descriptor is left: it has to go, whoever it is
            self._turn_away(number)
            return
        with contextlib.suppress(OSError):
            if str(duplicate.getsockname()[1]) == self._port:  # else it has gone, and the number is another one's
                duplicate.getpeername()
                self._guests[number] = Guest(duplicate, now, now)
                if self._epoll is not None:
                    self._epoll.register(duplicate, select.EPOLLIN | select.EPOLLET)
        if number not in self._guests:
            duplicate.close()
        elif len(guests := self._present()) > self._clients:
            old = [guest for guest in guests if guest.since < now - YOUNG_S]
            idle = min(old or guests, key=lambda guest: guest.total)
            self._end(idle, f"more than {self._clients} are connected, and it has sent least")

    def _turn_away(self, number: int) -> None:
        with contextlib.suppress(OSError):
            connection = socket.socket(fileno=number)
            try:
                if str(connection.getsockname()[1]) == self._port:
                    connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()

    def _present(self) -> list[Guest]:
        return [guest for guest in self._guests.values() if not guest.is_ended]

    def _forget(self, number: int) -> None:
        if (guest := self._guests.pop(number, None)) is not None:
            guest.socket.close()

    def _end(self, guest: Guest, why: str) -> None:
        """Disconnect a client. Its subscriptions go with it, and libzmq tells that it is gone."""
        self._told.tell(f"a client of {self._endpoint} is disconnected: {why}")
        guest.is_ended = self._freed = True
        with contextlib.suppress(OSError):
            guest.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it is to notice
            guest.socket.shutdown(socket.SHUT_RDWR)
            for _ in range(_STOLEN_MAX):  # what it has sent already is not to be read
                if not guest.socket.recv(1 << 16, socket.MSG_DONTWAIT):
                    break

    # -- what they take ------------------------------------------------------------------------------------------

    def _weigh(self, now: float) -> None:
        """Count what everybody has sent since the last time, and what memory has grown by meanwhile."""
        sent = self._count(now)
        if sent:
            self._heard = now
        self.is_busy = now < self._heard + QUIET_S
        memory = resident_bytes()
        grown, self._memory = memory - self._memory, memory
        if self._bounds.is_grown and self.is_busy:
            self._charge(now, max(0, grown))
        if self._freed and not self.is_busy:
            self._freed = False
            give_back_memory()

    def _count(self, now: float) -> int:
        """Bytes that all have sent since the last time."""
        sent = 0
        has_come = self._epoll is not None and bool(self._epoll.poll(0))
        for guest in self._present() if has_come or self.is_busy else ():
            if more := _received(guest.socket) - guest.total:
                guest.total += more
                guest.recent += more
                guest.level = max(0.0, guest.level - self._bounds.bytes_s * (now - guest.seen)) + more
                guest.seen = now
                sent += more
            elif guest.recent and now > guest.seen + QUIET_S:
                guest.recent = 0
            if guest.level > self._bounds.burst_bytes:
                self._end(guest, f"it sends more than {self._bounds.bytes_s // 1024} KB/s, without end")
        return sent

    def _charge(self, now: float, grown: int) -> None:
        """Memory that grew is shared out to those who sent, by their bytes. Who has too much of it is disconnected."""
        guests = [guest for guest in self._present() if guest.recent]
        recent = sum(guest.recent for guest in guests)
        for guest in guests:
            guest.grown = min(guest.grown + grown * guest.recent / recent, AMPLIFIED * guest.total)
            if guest.grown > GROWTH_MAX:
                self._end(guest, f"what it sent takes more than {GROWTH_MAX // 1024**2} MB of memory")
        many = [each for each in guests if each.recent > SENDER_BYTES and now < each.seen + SENDER_S]
        for guest in sorted(many, key=lambda guest: guest.since)[SENDERS_MAX:]:
            self._end(guest, f"{SENDERS_MAX} others send already")
        taken = sum(guest.grown for guest in self._present())
        if taken > GROWTH_ALL_MAX:
            for guest in sorted(self._present(), key=lambda guest: -guest.grown):
                taken -= guest.grown
                self._end(guest, f"all take more than {GROWTH_ALL_MAX // 1024**2} MB of memory, and it among the most")
                if taken < GROWTH_ALL_MAX / 2:
                    return


def _received(connection: socket.socket) -> int:
    """Bytes that came in on a TCP connection; 0 where the system does not tell."""
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
        return int(struct.unpack_from("=Q", told, _BYTES_RECEIVED)[0])
    except (OSError, struct.error, AttributeError):
        return 0


class Told:
    """Logs a text once in a while. A stranger can make up texts without end, so the memory of them has one."""

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def tell(self, text: str) -> None:
        now = time.monotonic()
        with self._lock:
            if len(self._until) >= _SORTS_MAX:
                self._until = {kept: until for kept, until in self._until.items() if until > now}
            if self._until.get(text, 0.0) > now or len(self._until) >= _SORTS_MAX:
                return
            self._until[text] = now + _SILENT_S
        self._log.warning("%s", text)
