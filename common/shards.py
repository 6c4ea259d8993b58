"""Which streams go over which connection, when it connects, and when it is replaced. Told the time; opens nothing.

waiting ──due──▶ connecting ──▶ live ──lost──▶ waiting (capped, jittered back-off)
                                 │ 24 h near, or the server says that it shuts down
                                 └──▶ connecting a fresh one ──overlap──▶ switch ──▶ live
"""

import random
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from math import inf

from .events import SPARSE, Reply

BACKOFF_FIRST_S = 0.1
WINDOW_S = 300.0
DATA_TIMEOUT_MAX_S = 3600.0
TOO_BIG = 1009  # the close code for a message that is too long

LET_GO_S = 2.0
"""How long frames of a stream may still be on their way after the request to leave it went out."""

REFUSED_WAIT_S = 120.0
"""That a fresh connection waits for what it was refused and the live one has: a listing may have ended meanwhile."""


@dataclass
class Link:
    """One connection's dealings with the exchange: what is still to be subscribed, asked, and agreed."""

    conn: int
    opened_at: float
    to_subscribe: deque[list[str]]
    silent: dict[str, None] = field(default_factory=dict)  # streams that are to be asked for again, in the next round
    again_at: float = 0.0  # when that is
    to_leave: dict[str, None] = field(default_factory=dict)  # streams to be subscribed anew after that
    to_drop: dict[str, None] = field(default_factory=dict)  # streams that are wanted no more
    dropped: dict[str, float] = field(default_factory=dict)  # those that may still bring something, since when
    refused: deque[tuple[float, list[str]]] = field(default_factory=deque)  # to be asked for again, from a time on
    to_send: deque[bytes] = field(default_factory=deque)  # frames that go out as the exchange's pace allows
    next_send_at: float = 0.0
    ping_at: float = 0.0
    asked: dict[int, list[str]] = field(default_factory=dict)  # streams of each request without an answer
    asked_at: dict[int, tuple[float, int]] = field(default_factory=dict)  # when each went out, before which record
    unanswered: dict[str, None] = field(default_factory=dict)  # streams whose request had no answer in time
    last_heard_at: float = 0.0
    data_at: float | None = None  # when market data came last
    subscribed_at: float | None = None  # when everything had been agreed
    shuts_down: bool = False

    def agree(self, now: float) -> None:
        """Note when everything that was to be asked for has been answered."""
        if self.subscribed_at is None:
            waiting = (*self.asked.values(), *self.to_subscribe)
            if all(name in self.unanswered for names in waiting for name in names):  # none of these holds up the others
                self.subscribed_at = now

    def give_up(self, before: float) -> list[tuple[list[str], int]]:
        """Stop waiting for answers to what was asked before a time; returns the names, and before which record."""
        late = [request for request in self.asked if self.asked_at[request][0] < before]
        given_up = [(self.asked.pop(request), self.asked_at[request][1]) for request in late]
        self.asked_at = {request: self.asked_at[request] for request in self.asked}
        return given_up

    def settle(self, names: Iterable[str]) -> None:
        """The exchange agreed to these, or brings their data."""
        for name in names:
            self.unanswered.pop(name, None)

    def drop(self, names: list[str]) -> None:
        """These streams are wanted no more: they are left, and whatever was still to be asked of them is not."""
        self.to_drop |= dict.fromkeys(names)
        self.dropped |= dict.fromkeys(names, inf)
        for name in names:
            self.silent.pop(name, None)
            self.to_leave.pop(name, None)
            self.unanswered.pop(name, None)
        gone = frozenset(names)

        def left(names: list[str]) -> list[str]:
            return [name for name in names if name not in gone]

        self.to_subscribe = deque(filter(None, map(left, self.to_subscribe)))
        self.refused = deque((at, kept) for at, names in self.refused if (kept := left(names)))
        self.asked = {request: left(names) for request, names in self.asked.items()}  # an answer comes all the same

    def let_go(self, now: float) -> None:
        """Forget the dropped streams of which nothing is on its way any more."""
        if not self.to_send:
            self.dropped = {
                name: min(at, now) if name not in self.to_drop else inf
                for name, at in self.dropped.items()
                if now - at <= LET_GO_S
            }

    def not_there(self) -> set[str]:
        """The streams that the exchange has refused."""
        return {name for _, names in self.refused for name in names}

    def not_agreed(self) -> set[str]:
        """The streams that are still to be asked for, wait for an answer, or were refused."""
        return self.not_there().union(*self.to_subscribe, *self.asked.values())

    def answered(self, reply: Reply) -> list[str]:
        """What was asked for that an answer is about: that of its id, that which it names, or what waits longest."""
        names = self._about(reply)
        self.settle(names)
        return names

    def _about(self, reply: Reply) -> list[str]:
        if reply.names:
            found = [name for names in self.asked.values() for name in names if name in reply.names]
            left = {
                request: [name for name in names if name not in reply.names] for request, names in self.asked.items()
            }
            self.asked = {request: names for request, names in left.items() if names}
            return found
        if isinstance(reply.id, int):
            return self.asked.pop(reply.id, [])
        return self.asked.pop(next(iter(self.asked))) if self.asked and reply.id is None else []


@dataclass
class Shard:
    """The streams of one connection, and the connections that carry them: `live`, and `fresh` while it takes over."""

    streams: dict[str, tuple[str, str]]
    path: str = ""
    live: Link | None = None
    fresh: Link | None = None
    connecting: bool = False
    retry_at: float = 0.0
    attempts: int = 0
    replace_at: float = 0.0
    silent: set[str] = field(default_factory=set)  # streams that were asked for again on the live connection
    in_vain: int = 0  # connections, one after the other, that brought no data
    most: int | None = None  # streams in a request, after requests that the exchange has ignored; None: as it allows

    def has_room(self, streams: Collection[str], limit: int, limit_bytes: int) -> bool:
        """Whether the connection may carry these streams as well."""
        names_bytes = sum(len(name.encode()) + 3 for name in (*self.streams, *streams))  # with quotes and comma
        return len(self.streams) + len(streams) <= limit and names_bytes <= limit_bytes


class ShardPolicy:
    """The decisions about shards. `rng` is given, so that a test can seed it."""

    def __init__(
        self,
        connects_per_window: int,
        connect_interval_s: float,
        reconnect_after_s: float,
        overlap_s: float,
        backoff_max_s: float,
        data_timeout_s: float,
        rng: random.Random,
    ) -> None:
        self._connects_max, self._connect_interval_s = connects_per_window, connect_interval_s
        self._reconnect_after_s, self._overlap_s, self._backoff_max_s = reconnect_after_s, overlap_s, backoff_max_s
        self._data_timeout_s, self._rng = data_timeout_s, rng
        self._connects: deque[float] = deque()

    def may_connect(self, now: float, shard: Shard) -> bool:
        """Whether a connection is due, and the exchange's limits of attempts let it be made."""
        if shard.connecting or (self._connects and now < self._connects[-1] + self._connect_interval_s):
            return False
        if shard.live is None:
            due = now >= shard.retry_at
        else:
            leaving = shard.live.shuts_down or now >= shard.replace_at
            due = leaving and shard.fresh is None and now >= shard.retry_at
        while self._connects and self._connects[0] <= now - WINDOW_S:
            self._connects.popleft()
        return due and len(self._connects) < self._connects_max

    def connecting(self, now: float, shard: Shard) -> None:
        shard.connecting = True
        self._connects.append(now)

    def connected(self, now: float, shard: Shard, link: Link) -> None:
        shard.connecting = False
        if shard.live is None:
            self._goes_live(now, shard, link)
        else:
            shard.fresh = link

    def failed(self, now: float, shard: Shard) -> None:
        """An attempt came to nothing."""
        shard.connecting = False
        self._back_off(now, shard)

    def _back_off(self, now: float, shard: Shard) -> None:
        """Wait, longer each time, never in step with others."""
        wait = min(self._backoff_max_s, BACKOFF_FIRST_S * 2**shard.attempts)
        shard.retry_at = now + wait * self._rng.uniform(0.5, 1.0)
        shard.attempts = min(shard.attempts + 1, 30)

    def lost(self, now: float, shard: Shard, link: Link) -> None:
        """A connection ended. A fresh one that was taking over is the live one from now on.

        Only one that lasted begins the back-off anew: else an exchange that accepts and throws out would be asked
        without a pause.
        """
        if link is not shard.fresh and link is not shard.live:
            return
        if link is shard.fresh:
            shard.fresh = None
        elif link is shard.live:
            shard.live, shard.fresh = shard.fresh, None
            if shard.live is not None:
                self._goes_live(now, shard, shard.live)
                return
        if now - link.opened_at > self._backoff_max_s:
            shard.attempts = 0
        self._back_off(now, shard)

    def brings_nothing(self, now: float, shard: Shard, link: Link) -> bool:
        """Whether a connection is open and answers, and none of its streams brings anything, for too long.

        It is counted then; each further one is given twice the time, up to an hour: the market may be that quiet.
        """
        if link.subscribed_at is None:
            return False
        in_vain = shard.in_vain if link.data_at is None else 0
        wait = max(self._data_timeout_s, min(self._data_timeout_s * 2.0 ** min(in_vain, 20), DATA_TIMEOUT_MAX_S))
        if now - max(link.subscribed_at, link.data_at or 0.0) <= wait:
            return False
        waiting = link.not_agreed()
        if all(channel in SPARSE or name in waiting for name, (channel, _) in shard.streams.items()):
            return False
        shard.in_vain = in_vain + 1
        return True

    def learn(self, shard: Shard, link: Link, *, was_ignored: bool) -> None:
        """Halve the requests of the next connection where this one's had no answer."""
        if link.subscribed_at is not None:
            shard.most = None
        elif was_ignored and link.asked:
            shard.most = max(1, max(map(len, link.asked.values())) // 2)

    def is_ready(self, now: float, shard: Shard) -> bool:
        """Whether the fresh connection has delivered beside the live one for long enough to take over.

        What it was refused it is asked for again first, where the live one has it.
        """
        fresh, live = shard.fresh, shard.live
        if fresh is None or fresh.subscribed_at is None or now < fresh.subscribed_at + self._overlap_s:
            return False
        if live is None or now > fresh.subscribed_at + REFUSED_WAIT_S:
            return True
        if fresh.data_at is None and live.data_at is not None and live.data_at > fresh.subscribed_at:
            return False  # it brings nothing of what the live one brings
        return fresh.not_there() | fresh.unanswered.keys() <= live.not_there() | live.unanswered.keys()

    def switched(self, now: float, shard: Shard) -> Link | None:
        """The fresh connection is the live one; returns the old, to be closed."""
        old, shard.live, shard.fresh = shard.live, shard.fresh, None
        if shard.live is not None:
            self._goes_live(now, shard, shard.live)
        return old

    def _goes_live(self, now: float, shard: Shard, link: Link) -> None:
        shard.live = link
        shard.replace_at = link.opened_at + self._reconnect_after_s * self._rng.uniform(0.95, 1.0)


def spread(
    streams: list[dict[str, tuple[str, str]]], limit: int, path: Callable[[str], str], limit_bytes: int = sys.maxsize
) -> list[Shard]:
    """Spread the streams (a dictionary for each symbol, kept together) over as few connections as the limits allow.

    `path` says which of the exchange's addresses serves a stream: each has connections of its own.
    """
    shards: list[Shard] = []
    for served in dict.fromkeys(path(name) for of_symbol in streams for name in of_symbol):
        filling = Shard({}, served)
        shards.append(filling)
        for of_symbol in streams:
            mine = {name: place for name, place in of_symbol.items() if path(name) == served}
            if filling.streams and not filling.has_room(mine, limit, limit_bytes):
                filling = Shard({}, served)
                shards.append(filling)
            filling.streams.update(mine)
    return shards


def batches(names: list[str], size: int) -> deque[list[str]]:
    return deque(names[start : start + size] for start in range(0, len(names), size))
