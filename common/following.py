"""What happens now, joined to the past: drives `follow.py` with sockets and a clock, for one exchange or several.

SUB     connects  each feed's events     subscribed before anything is asked
DEALER  connects  the history server     what is missing, one page after another
"""

import heapq
import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple

import orjson
import zmq

from .errors import BadRequestError
from .events import Event
from .follow import DEADLINE_S, Follower
from .quiet import QUIET_S, Quiet
from .slices import Query, Slice, check_page
from .sockets import Sockets
from .spelling import spelled
from .transport import Keys, Request, Transport, request

log = logging.getLogger("client")

HIGH_WATER = 100_000
"""Events that a slow consumer may be behind before some are dropped, and asked from history."""
MESSAGES = 1_000
"""Messages that are taken before other sockets are looked at."""
TICK_S = 0.25
CATCH_UP_S = 0.02
HELD_EVENTS = 100_000
HOLD_S = 10.0
"""How long the events of exchanges that are live wait for one that is not, so that they can be merged."""


class Endpoint(NamedTuple):
    """Where an exchange's feed publishes its events, and its public key where it has one."""

    address: str
    key: str | None = None


class Wish(NamedTuple):
    """What to follow of each exchange. `start` in ns or `after` a number; neither: from now on."""

    symbols: tuple[str, ...]
    channels: tuple[str, ...]
    start: int | None = None
    after: int | None = None
    snapshot: bool = True
    strict: bool = False
    on_gap: Literal["wait", "continue"] = "wait"
    on_gap_after_s: float = DEADLINE_S


class Joined:
    """One exchange: its live events and its past. Events come out of `poll`, and `ready` are those not taken yet."""

    def __init__(
        self, transport: Transport, sockets: Sockets, exchange: str, wish: Wish,
        endpoint: Endpoint, keys: Keys | None,
    ) -> None:  # fmt: skip
        self.ready: deque[Event] = deque()
        self._start = wish.start
        self._asked: dict[int, Any] = {}  # the follower's id of each request under way
        self._subscriber = sockets.open(zmq.SUB)
        self._history = transport.dialogue(wait=False)
        try:
            self._subscribe(exchange, wish, endpoint, keys)
            after = wish.after if wish.start is None else _number(transport, exchange, wish)
            if after is not None and "book" in wish.channels and wish.snapshot:
                books = Query(exchange, wish.symbols, ("book",), after=after, to=after)
                self.ready.extend(Slice(transport, [books]))
            self._follower = Follower(
                exchange, wish.symbols, wish.channels, None if after is None else after + 1,
                strict=wish.strict, on_gap=wish.on_gap, deadline_s=wish.on_gap_after_s,
            )  # fmt: skip
        except BaseException:
            self.close()
            raise
        self._told = ""
        self.progress_at = time.monotonic()  # when events came last, or it was live
        self._quiet = Quiet(exchange, wish.symbols, endpoint.address, self.progress_at)
        self._due_check = self.progress_at
        self._is_drained = True  # else the heartbeats may be among the messages that are not taken yet
        self.sockets = (self._subscriber, *self._history.sockets)

    def _subscribe(self, exchange: str, wish: Wish, endpoint: Endpoint, keys: Keys | None) -> None:
        subscriber = self._subscriber
        subscriber.rcvhwm = HIGH_WATER
        subscriber.sndhwm = 0  # a subscription is a message too: beyond the limit, 1,000 by default, it is dropped
        subscriber.set(zmq.RECONNECT_IVL, 50)
        subscriber.set(zmq.RECONNECT_IVL_MAX, 1000)
        if keys is not None and endpoint.key is not None:
            keys.secure(subscriber, endpoint.key)
        for name in Follower(exchange, wish.symbols, wish.channels, None).subscriptions:
            subscriber.subscribe(name)
        try:
            subscriber.connect(endpoint.address)
        except zmq.ZMQError as error:
            message = f"{endpoint.address}: {error}: name the feed's events as tcp://HOST:PORT"
            raise BadRequestError(message) from None

    # -- what comes ------------------------------------------------------------------------------------------------

    def poll(self, now: float) -> None:
        """Take what is there, and ask for what is missing. Never waits."""
        before = len(self.ready)
        follower, receive = self._follower, self._subscriber.recv
        self._is_drained = False
        for _ in range(MESSAGES):
            try:
                message = receive(zmq.NOBLOCK)
            except zmq.Again:
                self._is_drained = True
                break
            name = message[: message.find(b" ") + 1]
            self._quiet.hear(name, message, now)
            if found := follower.take(message, now):
                self._give(found)
        self._ask_history(now)
        self._give(follower.tick(now))
        if len(self.ready) > before or not follower.waiting:
            self.progress_at = now

    def _ask_history(self, now: float) -> None:
        question = self._follower.request(now)
        if question is not None:
            known = [number for number, asked in self._asked.items() if asked == question["id"]]
            if known:
                self._history.ask_again(known[0])
            else:
                self._asked[self._history.ask(question)] = question["id"]
        while (reply := self._history.poll()) is not None:
            number, (header, payload) = reply
            header["id"] = self._asked.pop(number, None)
            if "error" not in header:
                check_page(header, payload, "json")
            events = [orjson.loads(line) for part in payload for line in part.split(b"\n") if line]
            self._give(self._follower.answer(header, events, now))

    def _give(self, events: Sequence[Event]) -> None:
        if self._start is None:
            self.ready.extend(events)
            return
        for index, event in enumerate(events):
            if event["ts_recv"] is not None and event["ts_recv"] >= self._start:
                self._start = None  # numbers go on from here, whatever the clock does
                self.ready.extend(events[index:])
                return

    @property
    def waiting(self) -> str:
        """What it waits for, in words; empty while it is live."""
        return self._follower.waiting

    def complaints(self, now: float) -> list[str]:
        """What is worth a word now: each once."""
        if now < self._due_check:
            return []  # it looks at every symbol, and this is called for every event
        self._due_check = now + TICK_S
        found = self._quiet.check(now) if self._is_drained else []
        if now - self.progress_at < QUIET_S:
            self._told = ""
        elif not found and not self._told and self.waiting:
            self._told = self.waiting
            found = [self._told]
        return found

    def close(self) -> None:
        self._subscriber.close(0)
        self._history.close()


def _number(transport: Transport, exchange: str, wish: Wish) -> int:
    """The number after which everything from a time on lies: asked once, then only numbers count."""
    query = Query(exchange, wish.symbols, wish.channels, start=wish.start)
    question: Request = {"op": "slice", **query.asked(), "format": "json", "snapshot": False, "max_bytes": 1}
    header, _ = request(transport, question)
    return int(header["after"])


class Following(Iterator[Event]):
    """Events without end: each once, in order, or a `gap` event. `with`, or `close`, ends it.

    Of several exchanges the past is merged by `ts_recv`, and live events as they come.
    """

    def __init__(
        self, transport: Transport, endpoints: dict[str, Endpoint], wish: Wish, keys: Keys | None,
        tell: Callable[[str], None] = log.warning,
    ) -> None:  # fmt: skip
        self._tell = tell
        self._events: deque[Event] = deque()
        self._joined: list[Joined] = []
        self._lock = threading.RLock()  # a socket is closed by none but who uses it
        self._closing = False
        sockets = Sockets(self)
        self._end = weakref.finalize(self, _end, self._joined, sockets.close)
        self._end.atexit = False
        self._poller = zmq.Poller()
        try:
            for exchange, endpoint in endpoints.items():
                own = wish._replace(symbols=spelled(transport, exchange, wish.symbols))
                self._joined.append(Joined(transport, sockets, exchange, own, endpoint, keys))
        except BaseException:
            self.close()
            raise
        for socket in (socket for joined in self._joined for socket in joined.sockets):
            self._poller.register(socket, zmq.POLLIN)

    def __iter__(self) -> "Following":
        return self

    def __next__(self) -> Event:
        while not self.is_closed:
            if self._events:
                return self._events.popleft()
            self._events.extend(self.poll(TICK_S))
        raise StopIteration

    def __enter__(self) -> "Following":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close its sockets, from any thread; who iterates comes to the end."""
        self._closing = True
        with self._lock:
            self._end()

    @property
    def is_closed(self) -> bool:
        return self._closing

    @property
    def waiting(self) -> str:
        """What it waits for, in words; empty while it is live."""
        return "; ".join(joined.waiting for joined in self._joined if joined.waiting)

    def poll(self, timeout_s: float) -> list[Event]:
        """The events that are there, many at a time; none where none came within the timeout. Raises ArchivistError."""
        with self._lock:
            return self._poll(time.monotonic() + timeout_s)

    def _poll(self, deadline: float) -> list[Event]:
        while not self._closing:
            now = time.monotonic()
            for joined in self._joined:
                if len(joined.ready) < HELD_EVENTS:
                    joined.poll(now)
                    for text in joined.complaints(now):
                        self._tell(text)
            if (found := self._given(now)) or now >= deadline:
                return found
            wait_s = CATCH_UP_S if any(joined.waiting for joined in self._joined) else TICK_S
            self._poller.poll(math.ceil(max(0.0, min(deadline - now, wait_s)) * 1000))
        return []

    def _given(self, now: float) -> list[Event]:
        """What may go out: of one exchange everything, of several what nothing earlier can come before any more."""
        streams = [joined.ready for joined in self._joined]
        if not any(streams):
            return []
        found: list[Event] = []
        if any(joined.waiting and now - joined.progress_at < HOLD_S for joined in self._joined) and len(streams) > 1:
            while all(streams):
                found.append(min(streams, key=lambda stream: _received(stream[0])).popleft())
            return found
        found.extend(heapq.merge(*streams, key=_received))
        for stream in streams:
            stream.clear()
        return found


def _end(joined: list[Joined], close: Callable[[], object]) -> None:
    while joined:
        joined.pop().close()
    close()


def _received(event: Event) -> int:
    return event["ts_recv"] or 0
