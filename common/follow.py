"""Following topics of one exchange from any number on: what is live and what history holds become one sequence.

Rules 11 to 17 of the protocol. No socket, file, clock or thread: the caller brings messages, answers and the time, and
takes away events and requests.

    events  <- take(message, now) | answer(header, events, now) | tick(now)         in order, to be delivered
    request <- request(now)                                      to be sent to history now; None while there is nothing
"""

import heapq
import itertools
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, Literal

import orjson

from .events import GAP, HEARTBEAT, SKIPPED, Event, topic

HOLD_BYTES = 64 * 1024**2
"""What is held while history is asked; beyond it, history is asked for that too."""

TIMEOUT_S = 5.0  # until a request counts as lost; doubled each time
TIMEOUT_MAX_S = 60.0
POLL_S = 0.1  # until history is asked again for what it did not have yet; the archiver flushes every 0.2 s
RETRY_S = 1.0  # after an error, and while nothing comes live
LAG_S = 10.0  # how long a topic may stay behind the exchange's heartbeat before history is asked what it missed
DEADLINE_S = 10.0  # how long a hole may wait for history where it may be gone over

LOST = "lost with the machine"
LACKED = "not in the archive"
"""The reasons of gaps that are made here, beside `SKIPPED`: `withdrawn`, and what history lacks without a word."""

_FAR = 1 << 62  # as far as history can
_IDS = itertools.count(1)


class _Topic:
    """`known`: everything up to it was taken. Above it, of a record with several parts, (`seq`, `part`) was last."""

    __slots__ = ("channel", "delivered", "known", "name", "part", "seq", "symbol")

    def __init__(self, name: bytes, channel: str, symbol: str, known: int) -> None:
        self.name, self.channel, self.symbol, self.known = name, channel, symbol, known
        self.seq = self.part = 0  # of the last event taken
        self.delivered = 0  # number of the last one that was given out, where `strict` holds some back


class Follower:
    """One consumer of one exchange: each event of its topics once, in order, or a `gap` event.

    `start` is the first number wanted, None: from the first live message on. `strict` keeps (`seq`, topic, `part`)
    across topics even after a silent drop, at the cost of up to one heartbeat. `on_gap="continue"` goes on, with a
    `gap` event of state `open`, when history did not get on for `deadline_s` while a hole waits to be filled; what
    was lost with the machine meanwhile is then not told. Raises ValueError where there is nothing to follow.
    """

    def __init__(
        self,
        exchange: str,
        symbols: Collection[str],
        channels: Collection[str],
        start: int | None,
        *,
        strict: bool = False,
        on_gap: Literal["wait", "continue"] = "wait",
        deadline_s: float = DEADLINE_S,
        hold_bytes: int = HOLD_BYTES,
    ) -> None:
        self.error = ""  # what history said, while it answers with errors
        if not symbols or not set(channels) - {GAP}:
            raise ValueError("nothing to follow: name at least one symbol and one channel")
        self.symbols, self.strict = tuple(dict.fromkeys(symbols)), strict
        self._exchange, self._start = exchange, start
        self._deadline_s = deadline_s if on_gap == "continue" else None
        self._hold_bytes = hold_bytes
        self._name_topics(channels, 0 if start is None else max(start - 1, 0))
        self._target: int | None = _FAR  # up to where history is wanted; None: all is known, live goes on
        self._joined = False  # a live message was seen
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._out: list[Event] = []
        self._queue: list[tuple[int, bytes, int, Event]] = []  # strict: a heap of what is not given out yet
        self._lag = (0, 0.0)  # what the exchange's heartbeat said, and when, that not every topic has reached
        self._asked: dict[str, Any] | None = None  # the request under way
        self._following: dict[str, Any] | None = None  # the one for the page after the last
        self._due = self._since = float("-inf")  # when to ask (again); since when history did not get on
        self._timeout = TIMEOUT_S
        self._forced = False  # going on over holes
        self._told = 0  # gaps of our own
        self._begun: dict[tuple[str, str], int] = {}  # of each topic, where `prev` began anew or a gap was told last
        self._complete = 0  # what the last answer said, for `waiting` only: it may go back

    def _name_topics(self, channels: Collection[str], known: int) -> None:
        self._symbols: dict[str, list[_Topic]] = {}
        for symbol in self.symbols:
            names = {name: topic(self._exchange, name, symbol).rstrip() for name in (*channels, GAP)}
            self._symbols[symbol] = [_Topic(name, channel, symbol, known) for channel, name in names.items()]
        self._all = [topic_ for topics in self._symbols.values() for topic_ in topics]
        self._topics = {topic_.name: topic_ for topic_ in self._all}
        self._places = {(topic_.channel, topic_.symbol): topic_ for topic_ in self._all}
        self._beats = {topic(self._exchange, HEARTBEAT, symbol).rstrip(): symbol for symbol in (None, *self.symbols)}
        self._order = [(known, index) for index in range(len(self._all))]  # a heap; `known` as it was when put there

    @property
    def subscriptions(self) -> list[bytes]:
        """What to subscribe to, before anything else."""
        return [name + b" " for name in (*self._topics, *self._beats)]

    @property
    def known(self) -> int:
        """The number up to which everything was taken."""
        return self._known()

    @property
    def waiting(self) -> str:
        """What it waits for, in words; empty while live goes on."""
        if self._target is None:
            return ""
        if not self._joined and self._start is None:
            return f"waiting for the first message of {self._exchange}'s feed"
        reason = self.error or f"history said complete to {self._complete} last"
        until = "the first live message" if self._target == _FAR else str(self._target)
        return f"waiting for history of {self._exchange} from {self._known() + 1} up to {until}: {reason}"

    # -- what comes in -----------------------------------------------------------------------------------------

    def take(self, message: bytes, now: float) -> Sequence[Event]:
        """A live message as the socket gives it: an event, or a heartbeat. Returns what is to be delivered."""
        name, _, body = message.partition(b" ")
        topic_ = self._topics.get(name)
        if topic_ is not None and self._target is None:
            event = orjson.loads(body)
            seq = event["seq"]
            if event["prev"] <= topic_.known < seq and "part" not in event:  # by far the most
                topic_.known = topic_.seq = seq
                if not self.strict:
                    return (event,)
                heapq.heappush(self._queue, (seq, name, 0, event))
                return self._given()
            hole = self._judge(topic_, event)
        elif topic_ is None and name not in self._beats:
            return ()
        elif self._target is None:
            hole = self._beat(name, orjson.loads(body), now)
        else:
            return self._hold(message, now)
        if hole:
            self._begin_hole(message, hole, now)
        return self._given()

    def answer(self, header: dict[str, Any], events: Sequence[Event], now: float) -> Sequence[Event]:
        """A reply of history and its events. Any but the one to the request under way is dropped."""
        asked = self._asked
        if asked is None or header.get("id") != asked["id"]:
            return ()
        self._asked = self._following = None
        if (error := header.get("error")) is not None:
            self.error = f"{error.get('code')}: {error.get('message')}"
            self._due = now + RETRY_S
            return ()
        self.error, self._timeout, self._complete = "", TIMEOUT_S, header["complete_to"]
        covered, before = min(header["covered"], asked["to"]), self._known()
        self._take_past(header.get("starts", ()), events, covered)
        if self._known() > before:
            self._since = now
        if header.get("next") is not None:  # history goes on from there without beginning anew
            self._following = {**asked, "next": header["next"]}
        got_all = covered >= min(asked["to"], header["complete_to"])
        self._due = now + (POLL_S if self._joined else RETRY_S) if got_all else now
        if self._target is not None and self._known() >= self._target:
            self._following = None
            self._go_on(now)
        return self._given()

    def tick(self, now: float) -> Sequence[Event]:
        """To be called every so often. Only with `on_gap="continue"` are there events to be delivered."""
        if self._since == float("-inf"):
            self._since = now
        if self._deadline_s is None or not self._held or now - self._since < self._deadline_s:
            return ()
        self._asked, self._following, self._forced = None, None, True
        self._go_on(now)
        self._forced = False
        return self._given()

    def request(self, now: float) -> dict[str, Any] | None:
        """The request that is to be sent now. A lost one is given again under its own id: a late reply still counts."""
        if self._target is None or now < self._due or (not self._joined and self._start is None):
            return None
        if self._asked is None and self._following is not None:
            self._asked = {**self._following, "id": next(_IDS)}
        elif self._asked is None:
            self._asked = {
                "op": "slice", "id": next(_IDS), "exchange": self._exchange, "symbols": list(self.symbols),
                "channels": list(dict.fromkeys(topic_.channel for topic_ in self._all if topic_.channel != GAP)),
                "after": self._known(), "to": self._target, "format": "json", "snapshot": False,
            }  # fmt: skip
        else:
            self._timeout = min(2 * self._timeout, TIMEOUT_MAX_S)
        self._due = now + self._timeout
        return self._asked

    # -- live --------------------------------------------------------------------------------------------------

    def _judge(self, topic_: _Topic, event: Event) -> int:
        """Take an event that follows. Returns the number at which it shows a hole, 0 where it shows none (rule 11)."""
        seq, part = event["seq"], event.get("part", 0)
        if _is_taken(topic_, seq, part):
            return 0
        follows = event["prev"] <= topic_.known if part == 0 else (topic_.seq, topic_.part) == (seq, part - 1)
        if not follows:
            if not self._forced:
                return int(seq)
            self._open_gap(topic_, seq if part else seq - 1, seq, event["ts_recv"])
        self._accept(topic_, event)
        return 0

    def _beat(self, name: bytes, beat: dict[str, Any], now: float) -> int:
        """A heartbeat: what was reached is known further; returns the number of the hole that it shows (rule 12)."""
        symbol, at = self._beats[name], beat["at"]
        if symbol is None:
            return self._check_lag(at, now)
        lasts = {channel: seq for channel, (seq, _) in beat["topics"].items()}
        unfed = min(lasts.values(), default=at)  # not before the run's start, and what it does not feed is older
        hole = 0
        for topic_ in self._symbols[symbol]:
            last = lasts.get(topic_.channel, unfed)
            if last > topic_.known:
                if not self._forced:
                    hole = at
                    continue
                self._open_gap(topic_, last, last, None)
            topic_.known = max(topic_.known, at)
        return hole

    def _check_lag(self, at: int, now: float) -> int:
        """A symbol whose heartbeats do not come (nobody feeds it, or they get lost) is asked for now and then."""
        noted, since = self._lag
        if self._forced or self._known() >= noted:
            self._lag = (at, now)
        elif now - since >= LAG_S:
            self._lag = (at, now)
            return at
        return 0

    def _begin_hole(self, message: bytes, target: int, now: float) -> None:
        """Something is missing before `target`: hold everything, and ask history (rule 13)."""
        self._target = target
        self._due = self._since = now
        self._held.appendleft(message)
        self._held_bytes += len(message)

    def _hold(self, message: bytes, now: float) -> Sequence[Event]:
        if not self._joined:
            number = self._number(message)
            if self._start is None:
                return self._begin_live(message, number, now)
            if number < self._known():
                return ()
            self._joined, self._target, self._since = True, number, now
            if number == self._known():
                self._asked = self._following = self._target = None
                return ()
            if self._asked is None:
                self._due = now
        self._held.append(message)
        self._held_bytes += len(message)
        if self._held_bytes > self._hold_bytes:
            self._target = max(self._target or 0, self._number(message))
            self._held.clear()
            self._held_bytes = 0
        return ()

    def _begin_live(self, message: bytes, number: int, now: float) -> Sequence[Event]:
        """Without a start, it begins with the first message: an event itself, or what comes after a heartbeat."""
        known = number if message.partition(b" ")[0] in self._beats else number - 1
        for topic_ in self._all:
            topic_.known = known
        self._joined, self._target = True, None
        return self.take(message, now)

    def _number(self, message: bytes) -> int:
        name, _, body = message.partition(b" ")
        return int(orjson.loads(body)["at" if name in self._beats else "seq"])

    def _go_on(self, now: float) -> None:
        """The hole is filled: take what was held, as if it came now, until it shows another one."""
        self._target = None
        while self._held and self._target is None:
            message = self._held.popleft()
            self._held_bytes -= len(message)
            name, _, body = message.partition(b" ")
            topic_, content = self._topics.get(name), orjson.loads(body)
            hole = self._judge(topic_, content) if topic_ is not None else self._beat(name, content, now)
            if hole:  # one more: whatever is held is asked for at once, or many holes would take a round trip each
                last = self._number(self._held[-1]) if self._held else 0
                self._begin_hole(message, max(hole, last), now)

    # -- the past ----------------------------------------------------------------------------------------------

    def _take_past(self, starts: Sequence[dict[str, Any]], events: Sequence[Event], covered: int) -> None:
        """Take what history gave, up to and with `covered`: there it counts, whatever was held (rule 14)."""
        runs = deque(start for start in starts if start["seq"] <= covered)
        for event in events:
            seq = event["seq"]
            while runs and runs[0]["seq"] <= seq:
                self._pass_start(runs.popleft())
            topic_ = self._places.get((event["channel"], event["symbol"]))
            if topic_ is None or seq > covered or _is_taken(topic_, seq, event.get("part", 0)):
                continue
            if topic_.channel == GAP:
                self._begun |= dict.fromkeys([(channel, topic_.symbol) for channel in event.get("channels", ())], seq)
            begun = self._begun.get((topic_.channel, topic_.symbol), 0)
            if event["prev"] > max(topic_.known, topic_.seq, begun):
                self._open_gap(topic_, event["prev"], seq, event["ts_recv"], LACKED)
            self._accept(topic_, event)
        for start in runs:
            self._pass_start(start)
        for topic_ in self._all:
            topic_.known = max(topic_.known, covered)

    def _pass_start(self, start: dict[str, Any]) -> None:
        """A run began. What was given out beyond the number before it is lost with the machine (rule 16)."""
        seq, last = start["seq"], start["last"]
        self._begun = dict.fromkeys(self._places, seq)
        self._queue = [entry for entry in self._queue if not last < entry[0] < seq or not entry[1]]  # but our own gaps
        heapq.heapify(self._queue)
        for symbol, topics in self._symbols.items():
            lost = [topic_ for topic_ in topics if last < (topic_.delivered if self.strict else topic_.seq) < seq]
            for topic_ in lost:  # of what is left it may have been given all
                topic_.delivered = topic_.seq = last
            if lost:
                gap = self._gap(symbol, "withdrawn", LOST, seq, start.get("ts_recv"))
                channels = {"channels": [topic_.channel for topic_ in lost]}
                self._tell(gap | channels | {"first_seq": last + 1, "last_seq": seq - 1})

    # -- what goes out -----------------------------------------------------------------------------------------

    def _accept(self, topic_: _Topic, event: Event) -> None:
        seq, part = event["seq"], event.get("part", 0)
        topic_.seq, topic_.part = seq, part
        if part + 1 >= event.get("of", 1):
            topic_.known = seq
        self._give(seq, topic_.name, part, event)

    def _give(self, seq: int, name: bytes, part: int, event: Event) -> None:
        if self.strict:
            heapq.heappush(self._queue, (seq, name, part, event))
        else:
            self._out.append(event)

    def _tell(self, gap: Event) -> None:
        """Give out a gap of our own: before the other events of its number."""
        self._told += 1
        self._give(gap["seq"], b"", self._told, gap)

    def _given(self) -> Sequence[Event]:
        """What is to be delivered now: strictly, what no topic can bring anything before any more (rule 15)."""
        out, queue = self._out, self._queue
        if queue:
            floor = self._known()
            while queue and queue[0][0] <= floor:
                seq, name, _, event = heapq.heappop(queue)
                if (topic_ := self._topics.get(name)) is not None:
                    topic_.delivered = seq
                out.append(event)
        if not out:
            return ()
        self._out = []
        return out

    def _known(self) -> int:
        """The number up to which every topic is known. A topic is sorted again only once it comes out as the lowest."""
        order = self._order
        while True:
            noted, index = order[0]
            known = self._all[index].known
            if known == noted:
                return known
            heapq.heapreplace(order, (known, index))

    def _open_gap(self, topic_: _Topic, last: int, seq: int, ts_recv: int | None, reason: str = SKIPPED) -> None:
        """Going on without what history did not give (rule 17), or does not have and tells no gap of (rule 19)."""
        gap = self._gap(topic_.symbol, "open", reason, seq, ts_recv)
        gap |= {"channels": [topic_.channel], "first_seq": topic_.known + 1, "last_seq": last}
        self._tell(gap)
        if reason == LACKED:
            self._tell(gap | {"state": "closed", "ts_to": ts_recv})

    def _gap(self, symbol: str, state: str, reason: str, seq: int, ts_recv: int | None) -> Event:
        return {
            "exchange": self._exchange, "channel": GAP, "symbol": symbol, "seq": seq, "prev": self._known(),
            "ts_event": None, "ts_recv": ts_recv, "gap": seq, "state": state, "reason": reason,
            "ts_from": None, "ts_to": None,
        }  # fmt: skip


def _is_taken(topic_: _Topic, seq: int, part: int) -> bool:
    return seq <= topic_.known or (seq, part) <= (topic_.seq, topic_.part)
