"""The wall clock as the records show it: it never runs back by a little, and a step is told."""

STEP_NS = 1_000_000_000


class Clock:
    """Fed with both clocks by its caller. Over a backward step of up to 1 s it holds still; a greater step is believed.

    `step` is what the wall clock moved by beyond the monotonic one, to be recorded, 0 where it did not.
    """

    def __init__(self) -> None:
        self.step = 0
        self._last = 0
        self._offset: int | None = None

    def stamp(self, wall_ns: int, monotonic_ns: int) -> int:
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
