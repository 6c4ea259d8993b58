"""A replay's course: what is sent next and when, and what the control's requests do. No sockets, told the time."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from .errors import BadRequestError
from .replay import Pace, Part, Step, steps
from .replay_control import Request
from .times import iso

SETTLE_S = 0.2
"""From the last subscription that came to the first message: a subscriber asks for one topic after the other."""


class Replayer:
    """One run over the parts, from `start` to `end` (ns). `speed` 0 is as fast as it is taken.

    `begin` says when: at the first subscription (`subscribed`), `now`, or when it is resumed (`paused`).
    """

    def __init__(self, parts: Sequence[Part], start: int, end: int, speed: float, begin: str) -> None:
        self._parts, self._start, self._end = parts, start, end
        self._steps: Iterator[Step]
        self._upcoming: Step | None
        self._pace = Pace(speed)
        self._waiting, self._paused = begin == "subscribed", begin == "paused"
        self._settled_at: float | None = None
        self._allowed = 0  # steps that are asked for while paused
        self._digest = hashlib.sha256()
        self._sent = 0
        self._play(*self._opened(start))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing at all to be sent."""
        return self._upcoming is None and not self._sent

    @property
    def state(self) -> str:
        if self._waiting:
            return "waiting"
        if self._upcoming is None:
            return "ended"
        return "paused" if self._paused else "playing"

    def subscribed(self, now: float) -> None:
        """A subscription came."""
        self._settled_at = now + SETTLE_S

    def wait_s(self, now: float) -> float | None:
        """How long until the next step is due; None: until something is asked or subscribed."""
        upcoming = self._upcoming
        if self._waiting:
            if self._settled_at is None:
                return None
            if now < self._settled_at:
                return self._settled_at - now
            self._waiting = False
        if upcoming is None:
            return None
        if self._paused:
            self._pace.hold(now)
            return 0.0 if self._allowed else None
        return self._pace.wait_s(upcoming.ts, now)

    def take(self) -> list[bytes]:
        """The messages that are due now."""
        step = self._upcoming
        assert step is not None
        if self._allowed:
            self._allowed -= 1
            self._pace.jump()
        self._at = step.ts
        self._sent += len(step.messages)
        self._digest.update(b"\n".join(step.messages) + b"\n")
        self._upcoming = next(self._steps, None)
        return step.messages

    def act(self, request: Request, now: float) -> bool:
        """Do what is asked. Returns whether what was taken and not sent yet is void. Raises BadRequestError."""
        if request.op == "seek":
            self._seek(int(request.value))
            return True
        if request.op == "pause":
            if self._upcoming is not None and not self._paused:
                self._pace.advance(now)
            self._paused, self._waiting = True, False
        elif request.op == "resume":
            self._pace.hold(now)
            self._paused = self._waiting = False
            self._allowed = 0
        elif request.op == "speed":
            self._pace.change(request.value, now, is_held=self.state != "playing")
        elif request.op == "step":
            if self.state != "paused":
                raise BadRequestError(f"step is for a replay that is paused, not {self.state}: ask for pause first")
            self._allowed = int(request.value)
        return False

    def status(self) -> dict[str, Any]:
        """Where it stands. `sha256` is of all messages since the beginning or the last seek, each with a line break."""
        return {
            "state": self.state,
            "speed": self._pace.speed or "max",
            "start": self._start,
            "end": self._end,
            "at": self._at,
            "time": iso(self._at),
            "sent": self._sent,
            "sha256": self._digest.hexdigest(),
        }

    def _seek(self, ts: int) -> None:
        if not self._start <= ts < self._end:
            raise BadRequestError(f"{iso(ts)} is not within {iso(self._start)} to {iso(self._end)}", "bad_time")
        opened, upcoming = self._opened(ts)
        if upcoming is None:
            raise BadRequestError(
                f"nothing is recorded from {iso(ts)} to {iso(self._end)}: seek an earlier", "bad_time"
            )
        self._play(opened, upcoming)

    def _opened(self, ts: int) -> tuple[Iterator[Step], Step | None]:
        found = steps(self._parts, ts, self._end)
        return found, next(found, None)

    def _play(self, opened: Iterator[Step], upcoming: Step | None) -> None:
        self._steps, self._upcoming = opened, upcoming
        self._digest = hashlib.sha256()
        self._sent = self._allowed = 0
        self._at = self._start if upcoming is None else upcoming.ts
        self._pace.jump()
