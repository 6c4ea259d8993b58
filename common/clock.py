"""The wall clock as the records show it: it never runs back by a little, and a step is told."""

from .times import iso

STEP_NS = 1_000_000_000
EARLIEST_NS = 946_684_800 * 10**9
LATEST_NS = 7_258_118_400 * 10**9
"""2000-01-01 and 2200-01-01: a clock that shows another time is not set. int64 ns end in 2262."""


def why_unset(wall_ns: int) -> str | None:
    """What is wrong with a clock that cannot be right; None where it can be."""
    if EARLIEST_NS <= wall_ns < LATEST_NS:
        return None
    return f"the machine's clock shows {iso(wall_ns)}, not between 2000 and 2200: set it (timedatectl, an NTP service)"


class Clock:
    """Fed with both clocks by its caller. Over a backward step of up to 1 s it holds still; a greater step is believed.

    `step` is what the wall clock moved by beyond the monotonic one, to be recorded, 0 where it did not. While the wall
    clock cannot be right, time goes on by the monotonic one; `refused` is the time that it showed then, to be recorded.
    """

    def __init__(self) -> None:
        self.step = 0
        self.refused: int | None = None
        self._is_refused = False
        self._last = 0
        self._offset: int | None = None

    def stamp(self, wall_ns: int, monotonic_ns: int) -> int:
        """The time of a record. Raises ValueError where the first wall time of all cannot be right."""
        if not EARLIEST_NS <= wall_ns < LATEST_NS:
            wall_ns = self._gone_on(wall_ns, monotonic_ns)
        else:
            self._is_refused = False
        offset = wall_ns - monotonic_ns
        if self._offset is None:
            self._offset = offset
        moved = offset - self._offset
        if abs(moved) > STEP_NS:
            self.step, self._offset, self._last = moved, offset, wall_ns
            return wall_ns
        if wall_ns < self._last:
            return self._last
        self._last = wall_ns
        return wall_ns

    def _gone_on(self, wall_ns: int, monotonic_ns: int) -> int:
        """What the wall clock would show, had it not been set to a time that cannot be right."""
        if self._offset is None:
            raise ValueError(why_unset(wall_ns))
        if not self._is_refused:
            self._is_refused, self.refused = True, wall_ns
        return monotonic_ns + self._offset
