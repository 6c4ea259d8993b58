"""Past events in the live format: merged, with the heartbeats of their time, and paced. No sockets, and told the time.

What goes out is a function of the archive and of what is asked, never of the speed or of our clock:

    each exchange    one heartbeat, the books before the first event (`derived`), then its events in order of `seq`
    several          by `ts_recv`, ties by name; an exchange's clock that is set back holds still here
    heartbeats       every second of that time, spread over the symbols, from the exchange's first event on
    at the end       a last heartbeat of each symbol, then of each exchange, this one with "end": true
"""

import heapq
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from .adapter import Adapter, version
from .events import GAP, HEARTBEAT, body, topic
from .normaliser import Normaliser
from .reader import Reader
from .record import FORMAT, Record
from .runs import derived_snapshot

HEARTBEAT_NS = 10**9
LAG_S = 1.0
"""So far behind, the pace is not caught up with: somebody held us up."""

Positions = dict[str, tuple[int, int]]
"""The last (`seq`, `part`) by channel."""


class Part(NamedTuple):
    """What is replayed of one exchange: events of some symbols and channels received in [start, end), ns."""

    adapter: Adapter
    reader: Reader
    symbols: tuple[str, ...]
    channels: tuple[str, ...]


class Item(NamedTuple):
    """One record's messages, at the data's time. `opening` holds the positions before an exchange's first record."""

    ts: int
    exchange: str
    seq: int
    run: int
    messages: list[bytes]
    opening: dict[str, Positions] | None = None


class Step(NamedTuple):
    """What is sent next, and when in the data's time."""

    ts: int
    messages: list[bytes]


# -- what is sent --------------------------------------------------------------------------------------------------


def steps(parts: Sequence[Part], start: int, end: int) -> Iterator[Step]:
    """Everything that is sent, in order. Raises CodecError where the archive is corrupt."""
    pulses: dict[str, Pulse] = {}
    due: list[tuple[int, str]] = []
    last = start
    by_name = {part.adapter.NAME: part for part in parts}
    for item in heapq.merge(*(_items(part, start, end) for part in parts)):
        while due and due[0][0] <= item.ts:
            at, name = due[0]
            yield Step(at, [pulses[name].beat()])
            heapq.heapreplace(due, (pulses[name].due, name))
        if item.opening is not None:
            pulse = pulses[item.exchange] = Pulse(by_name[item.exchange], item)
            yield Step(item.ts, [pulse.beat()])
            heapq.heappush(due, (pulse.due, item.exchange))
        else:
            pulses[item.exchange].take(item)
        if item.messages:
            yield Step(item.ts, item.messages)
        last = item.ts
    for name in sorted(pulses):
        yield Step(last, pulses[name].last_beats())


def _items(part: Part, start: int, end: int) -> Iterator[Item]:
    """One exchange's records that give events, after an opening one."""
    adapter, reader, symbols = part.adapter, part.reader, part.symbols
    normaliser = Normaliser(adapter, symbols)
    wanted = {topic(adapter.NAME, each, one) for each in (*part.channels, GAP) for one in symbols}
    after, to = reader.range(symbols, start, end)
    run, _ = reader.run(after)
    clock = start
    opening: Item | None = None
    is_open = False
    for seq, line in reader.replayed(normaliser, symbols, after, min(to, reader.complete())):
        work = normaliser.work(line)
        if work is None:
            continue
        is_start = isinstance(work, Record) and work.kind == "start"
        run = seq if is_start else run
        ts = work.ts_recv if isinstance(work, Record) else work[1]
        counts = seq > after and start <= ts < end
        if counts and not is_open and opening is None:
            opening = _opening(part, normaliser, seq - 1, run)
        found = normaliser.messages(work)
        normaliser.actions.clear()
        if not counts:
            continue
        if is_start and not is_open:
            opening = _opening(part, normaliser, seq, run)
        if found := [message for message in found if message[: message.index(b" ") + 1] in wanted]:
            clock = max(clock, ts)
            if opening is not None:
                yield opening._replace(ts=clock)
                opening, is_open = None, True
            yield Item(clock, adapter.NAME, seq, run, found)


def _opening(part: Part, normaliser: Normaliser, seq: int, run: int) -> Item:
    """What is known before the first event: the books, and how far each topic is."""
    channels = {*part.channels, GAP}
    known = {symbol: normaliser.positions(symbol) for symbol in part.symbols if symbol in normaliser.symbols}
    opening = {
        symbol: {channel: place for channel, place in places.items() if channel in channels}
        for symbol, places in known.items()
    }
    books = [derived_snapshot(normaliser, symbol) for symbol in part.symbols if "book" in channels]
    messages = [topic(part.adapter.NAME, "book", book["symbol"]) + orjson.dumps(book) for book in books if book]
    return Item(0, part.adapter.NAME, seq, run, messages, opening)


class Pulse:
    """The heartbeats of one exchange: its own, then each symbol's, evenly spread over a second, and again."""

    def __init__(self, part: Part, opening: Item) -> None:
        self._adapter, self._symbols = part.adapter, part.symbols
        self._channels = (*part.channels, GAP)
        self._origin, self._count = opening.ts, 0
        self._at, self._run = opening.seq, opening.run
        self._positions = opening.opening or {}
        self._last: dict[bytes, bytes] = {}  # the last message by topic

    @property
    def due(self) -> int:
        """When the next one is due, in the data's time."""
        return self._origin + self._count * HEARTBEAT_NS // (len(self._symbols) + 1)

    def take(self, item: Item) -> None:
        """A record's messages are about to go out."""
        if item.run != self._run:  # a run begins anew: its topics go on from its start
            self._run, self._last = item.run, {}
            self._positions = {
                symbol: dict.fromkeys(places, (item.run, 0)) for symbol, places in self._positions.items()
            }
        self._at = item.seq
        for message in item.messages:
            self._last[message[: message.index(b" ") + 1]] = message

    def beat(self) -> bytes:
        """The next heartbeat."""
        index = self._count % (len(self._symbols) + 1)
        self._count += 1
        return self._of_symbol(self._symbols[index - 1]) if index else self._of_exchange()

    def last_beats(self) -> list[bytes]:
        """One of each symbol, and the exchange's, which says that this is the end."""
        return [*map(self._of_symbol, self._symbols), self._of_exchange(end=True)]

    def _of_symbol(self, symbol: str) -> bytes:
        name = self._adapter.NAME
        positions: dict[str, Any] = dict(self._positions.get(symbol, {}))
        for channel in self._channels:
            if (message := self._last.get(topic(name, channel, symbol))) is not None:
                event = orjson.loads(body(message))
                positions[channel] = (event["seq"], event.get("part", 0))
        beat = {"exchange": name, "channel": HEARTBEAT, "symbol": symbol, "at": self._at, "topics": positions}
        return topic(name, HEARTBEAT, symbol) + orjson.dumps(beat)

    def _of_exchange(self, **more: bool) -> bytes:
        name, about = self._adapter.NAME, {"format": FORMAT, "normaliser": version(self._adapter)}
        beat = {"exchange": name, "channel": HEARTBEAT, "at": self._at, "run": self._run, **about, **more}
        return topic(name, HEARTBEAT, None) + orjson.dumps(beat)


# -- when it is sent -----------------------------------------------------------------------------------------------


class Pace:
    """Where the data's clock stands. `speed` 0 is as fast as it is taken. Told the time (monotonic, s)."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.at: int | None = None  # the data's time, ns; None before the first step
        self._then = 0.0

    def wait_s(self, ts: int, now: float) -> float:
        """How long until what stands at `ts` is due; 0: now."""
        if not self.speed:
            return 0.0
        if self.at is None:
            self.at, self._then = ts, now
        self.advance(now)
        lag_s = (self.at - ts) / 1e9 / self.speed
        if lag_s > LAG_S:
            self.at = ts
        return max(0.0, -lag_s)

    def advance(self, now: float) -> None:
        """Time has passed."""
        if self.at is not None:
            self.at += int((now - self._then) * 1e9 * self.speed)
        self._then = now

    def hold(self, now: float) -> None:
        """Time has passed, but not the data's."""
        self._then = now

    def change(self, speed: float, now: float, *, is_held: bool) -> None:
        (self.hold if is_held else self.advance)(now)
        if not speed or not self.speed:
            self.jump()
        self.speed = speed

    def jump(self) -> None:
        """Go on with the next step, wherever it stands."""
        self.at = None
