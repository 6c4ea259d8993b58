"""When checkpoints and heartbeats are due, spread out over the symbols. Told the time."""

from collections.abc import Iterator, Set

CHECKPOINT_BYTES = 2 * 1024**2
"""What is written of one symbol between two checkpoints, about."""


class Heartbeats:
    """Each symbol once in an interval, evenly spread over it."""

    def __init__(self, symbols: list[str], interval_s: float, now: float) -> None:
        self._symbols, self._interval_s = symbols, interval_s
        self._count = 0
        self._began = now

    def due(self, now: float) -> Iterator[str | None]:
        """The symbols whose heartbeat is due; None stands for the exchange's own."""
        slots = len(self._symbols) + 1
        until = int((now - self._began) / self._interval_s * slots)
        for slot in range(max(self._count, until - slots), until):
            index = slot % slots
            yield self._symbols[index - 1] if index else None
        self._count = max(self._count, until)


class Checkpoints:
    """Each symbol once in `interval_s` of wall time, soon after its multiple, spread over `spread_s`."""

    def __init__(self, symbols: list[str], interval_s: int, now: float) -> None:
        self._interval_s = interval_s
        spread = min(60.0, interval_s / 2)
        self._offsets: list[tuple[str | None, float]] = [
            (symbol, spread * index / (len(symbols) + 1)) for index, symbol in enumerate([None, *symbols])
        ]
        self._done: dict[str | None, int] = {symbol: self._period(now, offset) for symbol, offset in self._offsets}

    def due(self, now: float) -> list[str | None]:
        """The symbols that are due; None stands for the records of no symbol."""
        found = []
        for symbol, offset in self._offsets:
            period = self._period(now, offset)
            if period != self._done[symbol]:
                self._done[symbol] = period
                found.append(symbol)
        return found

    def _period(self, now: float, offset: float) -> int:
        return int((now - offset) // self._interval_s)


class Weights:
    """How much was written of each symbol since its last checkpoint: `heavy` are those of which much was.

    What history has to replay is bounded so, in a busy market too. A checkpoint that is large itself waits for more:
    at most a share of a log is checkpoints.
    """

    SHARE = 1 / 16

    def __init__(self, limit_bytes: int) -> None:
        self.heavy: dict[str, None] = {}
        self._limit = limit_bytes
        self._limits: dict[str, int] = {}  # of symbols whose checkpoint is large
        self._written: dict[str, int] = {}

    def add(self, symbol: str, size: int) -> None:
        size += self._written.get(symbol, 0)
        self._written[symbol] = size
        if size >= self._limit and size >= self._limits.get(symbol, 0):
            self.heavy[symbol] = None

    def keep(self, symbols: Set[str]) -> None:
        """Forget all others."""
        for symbol in self._written.keys() - symbols:
            del self._written[symbol]
            self._limits.pop(symbol, None)
            self.heavy.pop(symbol, None)

    def checkpoint(self, symbol: str, size: int) -> None:
        """One of so many bytes was written."""
        self._written[symbol] = 0
        self._limits[symbol] = int(size / self.SHARE)
        self.heavy.pop(symbol, None)


class Silence:
    """Which topics brought nothing for too long. Asks again after a doubled wait, up to an hour."""

    def __init__(self, limit_s: float, now: float) -> None:
        self._limit_s = limit_s
        self._seen: dict[tuple[str, str], tuple[int, float, float]] = {}  # last seq, since when, the wait
        self._began = now

    def check(self, now: float, topic: tuple[str, str], last: int) -> bool:
        """Whether a topic (channel, symbol), whose last frame is number `last`, has just been silent for too long."""
        seen = self._seen.get(topic)
        if seen is None or seen[0] != last:
            self._seen[topic] = (last, now, self._limit_s)
            return False
        _, since, wait = seen
        if now < since + wait:
            return False
        self._seen[topic] = (last, now, min(wait * 2, 3600.0))
        return True
