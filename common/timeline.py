"""Plays messages at a pace: as recorded (×1, ×N), or as fast as their readers take them. No sockets."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from .recording import Message

BATCH = 256
"""Messages at most in one turn of the loop: the price of a turn is shared, a request is answered within a few ms."""

POLL_S = 0.02
"""How often a paused timeline looks whether it goes on, and a waiting one sleeps at most so long twice."""

Deliver = Callable[[Sequence[Message]], Awaitable[None]]


class Timeline:
    """One run over a source, shared by all readers. `speed` 0 is as fast as they take it."""

    def __init__(self, source: Callable[[], Iterator[Message]], speed: float, loop: bool) -> None:
        self._source = source
        self._speed = speed
        self._loop = loop
        self.started = False
        self.ended = False
        self.delivered = 0

    async def run(self, deliver: Deliver, held: Callable[[], bool], begin: Callable[[], None]) -> None:
        """Play to the end, or for ever. `held` says when to wait; `begin` is called before each run after the first."""
        self.started = True
        while True:
            before = self.delivered
            await (self._paced(deliver, held) if self._speed else self._fast(deliver, held))
            if not self._loop or self.delivered == before:
                break
            begin()
        self.ended = True

    async def _fast(self, deliver: Deliver, held: Callable[[], bool]) -> None:
        messages = self._source()
        while batch := list(itertools.islice(messages, BATCH)):
            while held():
                await asyncio.sleep(POLL_S)
            await self._deliver(deliver, batch)
            await asyncio.sleep(0)

    async def _paced(self, deliver: Deliver, held: Callable[[], bool]) -> None:
        messages = self._source()
        upcoming = next(messages, None)
        if upcoming is None:
            return
        origin, first = time.monotonic(), upcoming.ts
        while upcoming is not None:
            if held():
                origin += await _slept(POLL_S)
                continue
            elapsed = (time.monotonic() - origin) * self._speed * 1e9
            batch: list[Message] = []
            while upcoming is not None and upcoming.ts - first <= elapsed and len(batch) < BATCH:
                batch.append(upcoming)
                upcoming = next(messages, None)
            if batch:
                before = time.monotonic()
                await self._deliver(deliver, batch)
                waited = time.monotonic() - before
                origin += waited if waited >= POLL_S else 0  # it was paused in the middle of a batch
                await asyncio.sleep(0)
            elif upcoming is not None:
                wait_s = (upcoming.ts - first - elapsed) / 1e9 / self._speed
                await asyncio.sleep(min(wait_s, 2 * POLL_S))

    async def _deliver(self, deliver: Deliver, batch: list[Message]) -> None:
        await deliver(batch)
        self.delivered += len(batch)


async def _slept(duration_s: float) -> float:
    """Sleep, and tell how long it took."""
    before = time.monotonic()
    await asyncio.sleep(duration_s)
    return time.monotonic() - before
