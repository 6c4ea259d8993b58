"""What `normalise` remembers from record to record: of one topic (a channel of a symbol), and of a symbol."""

from collections import deque
from collections.abc import Collection, Mapping
from itertools import takewhile
from typing import Any, NamedTuple

from .book import BookRule
from .book_sync import BookSync
from .events import GAP, SPARSE, Update, templates, topic

OVERLAP_MAX = 10_000
"""Frames of the other connection that are kept while two feed a topic."""

REPEAT_NS = 30 * 10**9
"""How long what was told before may come again, longest from a connection that lags: then the exchange counts anew."""

ALONE_NS = 5 * 10**9
"""How long another connection may deliver alone until it is followed: the stream moved, and nothing told so."""

TOLD_MAX = 2_000
"""Events of one id that are remembered: a frame of Bybit brings up to 1024 trades."""


class Missing:
    """Ids that were missed and can be fetched: from `next` to `last`, under the gap's id."""

    __slots__ = ("fruitless", "gap", "is_lost", "last", "next", "reason", "since", "ts_from")

    def __init__(
        self,
        gap: int,
        next_id: int,
        last: int,
        reason: str,
        ts_from: int | None,
        fruitless: int = 0,
        since: int = 0,
        is_lost: bool = False,
    ) -> None:
        self.gap, self.next, self.last, self.reason, self.ts_from = gap, next_id, last, reason, ts_from
        self.fruitless = fruitless  # answers that brought nothing of it, since the last that did
        self.since = since  # the time, ns, that answers have come to: who is asked by time may need several
        self.is_lost = is_lost  # another hole of the same gap was given up

    def state(self) -> list[Any]:
        of_asking = self.fruitless, self.since, self.is_lost
        return [self.gap, self.next, self.last, self.reason, self.ts_from, *of_asking]


class Gap:
    """An open gap of a topic: its id is the `seq` that opened it."""

    __slots__ = ("id", "reason", "ts_from")

    def __init__(self, gap_id: int, reason: str, ts_from: int | None) -> None:
        self.id, self.reason, self.ts_from = gap_id, reason, ts_from


class Topic:
    """`last` and `part` are those of the last event, `last` the `start`'s `seq` where there was none since."""

    __slots__ = (
        "again", "alone", "channel", "conn", "depth", "gap", "held", "id", "judged", "keeps_all", "lags", "last",
        "latest", "merged", "missing", "other", "overlaps", "own_depth", "part", "plain", "prefix", "prev", "repeats",
        "seam", "shares", "timed", "told", "ts", "untimed",
    )  # fmt: skip

    def __init__(self, exchange: str, channel: str, symbol: str, start: int) -> None:
        self.channel = channel
        self.prefix = topic(exchange, channel, symbol)
        self.timed, self.untimed = templates(exchange, channel, symbol)
        self.last = start
        self.prev = start  # `last` before the last event
        self.part = 0
        self.judged = start  # the last frame that was more than the next event: it may have given none
        self.ts: int | None = None  # ts_recv of the last event
        self.id: int | None = None  # the exchange's id that the topic has reached
        self.conn: int | None = None  # the connection that is followed; None: the next one that delivers
        self.depth: int | None = None  # of the stream that feeds a book, once it is known; BookRule.stream_depth mostly
        self.own_depth = 0  # of the stream that the adapter subscribes to
        self.seam = True  # nothing newer than `id` came yet from the connection that is followed
        self.lags = False  # it was gone over to while two delivered: what it brings up to `id` was there already
        self.gap: Gap | None = None
        self.plain = False  # nothing is out of the ordinary: no gap, seam or second connection
        self.missing: list[Missing] = []
        self.other: int | None = None  # a second connection that delivers the same, not followed
        self.alone: int | None = None  # since when (ts_recv) the other one delivers, and the followed one does not
        self.held: deque[Update] = deque(maxlen=OVERLAP_MAX)  # what it delivered beyond `id`
        self.keeps_all = False  # `held` is of use only from a snapshot on, whatever its id
        self.shares = False  # several updates may bear one id
        self.repeats = False  # a subscription may begin with events that were told before
        self.told: deque[dict[str, Any]] = deque(maxlen=TOLD_MAX)  # then: of `id`, and not by the other one too
        self.latest: Update | list[Update] | None = None  # of a plain record: `told` when it is needed
        self.again: tuple[int | None, int, int] | None = None  # a repetition: the id reached, its last id, since when
        self.overlaps = False  # it has delivered something that the followed one had: no hole lies between the two
        self.merged: dict[str, Any] | None = None  # the last fields, of a channel whose frames name what has changed

    def message(self, seq: int, ts_recv: int, ts_event: int | None, fields: bytes) -> bytes:
        """The live message of an event, by its fields as a JSON object."""
        if ts_event is None:
            return self.untimed % (seq, self.prev, ts_recv, fields[1:])
        return self.timed % (seq, self.prev, ts_event, ts_recv, fields[1:])

    @property
    def heard(self) -> int:
        """The number of the last frame, also of one that gave no event: it was held back, or told before."""
        return max(self.last, self.judged)

    @property
    def is_seen(self) -> bool:
        """Whether anything has told that it is recorded: behind a hole, topics of all channels are looked for."""
        return self.ts is not None or self.gap is not None

    def follow(self, conn: int, *, lags: bool) -> None:
        self.conn, self.seam, self.lags, self.plain, self.alone = conn, True, lags, False, None

    def take_other(self, conn: int, update: Update) -> None:
        """Keep what a connection that is not followed delivers, should it have to be followed."""
        if conn != self.other:
            self.other, self.overlaps, self.plain = conn, False, False
            self.held.clear()
        if self.keeps_all:
            if update.fields["type"] == "snapshot":
                self.held.clear()
        elif not update.last:
            return  # nothing says whether the followed connection has told it
        elif self.id is not None and update.last <= self.id:
            self.overlaps = True
            if self.had(update):
                return
        if len(self.held) == OVERLAP_MAX:
            self.overlaps = False  # the oldest goes: from here on they no longer meet
        self.held.append(update)

    def is_left(self, ts_recv: int) -> bool:
        """Whether the other connection has delivered alone for so long that the followed one has lost the stream."""
        if self.alone is None:
            self.alone = ts_recv
        return ts_recv - self.alone > ALONE_NS

    def runs_back(self, last: int, ts_recv: int) -> bool:
        """Whether ids below the one reached have come, each above the one before, for longer than a repetition."""
        reached, before, since = self.again or (None, 0, 0)
        if reached != self.id or last <= before:
            since = ts_recv  # a repetition begins
        self.again = None if last == self.id else (self.id, last, since)
        return last != self.id and ts_recv - since > REPEAT_NS

    def had(self, update: Update) -> bool:
        """Whether this was told, as far as ids say. Where several bear one, their fields tell: each stands for one.

        What is not remembered is told twice: better than that another one is not told at all.
        """
        if not update.last:
            return False
        if self.id is None or update.last != self.id or not self.shares:
            return self.id is not None and update.last <= self.id
        told = self._remembered()
        if self.repeats:  # each new subscription may repeat the same events
            return update.fields in told or (not told and self.channel in SPARSE)  # not told: by the run before
        if update.fields not in told:
            return False
        told.remove(update.fields)
        return True

    def reached(self, last: int, fields: dict[str, Any] | None = None) -> None:
        """The followed connection has come to an id: what the other holds up to there is known."""
        if last != self.id or not self.shares:
            self.lags = False
        self.pass_to(last, fields)
        self.seam, self.alone = False, None
        is_alone = self.other is None and not self.lags
        self.plain = is_alone and self.gap is None and self.merged is None
        self.plain = self.plain and (self.depth is None or self.depth == self.own_depth)
        new = []
        while self.held and self.held[0].last <= last and not self.keeps_all:
            self.overlaps = True
            if not self.had(update := self.held.popleft()):
                new.append(update)
        self.held.extendleft(reversed(new))

    def pass_to(self, last: int, fields: dict[str, Any] | None) -> None:
        """Move on to an id, and remember what was told of it where others may bear it."""
        if self.shares and fields is not None:
            told = self._remembered()
            if last != self.id:
                told.clear()
            told.append(fields)
        self.id = last

    def _remembered(self) -> deque[dict[str, Any]]:
        if self.latest is not None:
            updates = (self.latest,) if isinstance(self.latest, Update) else self.latest
            self.told.clear()
            of_id = takewhile(lambda each: each.last == self.id, reversed(updates))
            self.told.extendleft(each.fields for each in of_id)
            self.latest = None
        return self.told

    def merge(self, fields: dict[str, Any]) -> dict[str, Any]:
        """All fields as they are now, by what a frame says of some."""
        if self.merged is None:
            return fields
        self.merged |= fields
        return self.merged.copy()

    def forget_merged(self) -> None:
        """Something is missing: what was not told anew is not known."""
        if self.merged is not None:
            self.merged = dict.fromkeys(self.merged)

    def drop_other(self) -> None:
        self.other, self.overlaps, self.alone = None, False, None
        self.held.clear()

    def state(self) -> dict[str, Any]:
        gap = self.gap
        merged = {"merged": self.merged} if self.merged is not None else {}
        told = {"told": list(self._remembered())} if self.shares else {}
        return {
            "last": self.last,
            "part": self.part,
            "ts": self.ts,
            "id": self.id,
            "conn": self.conn,
            "depth": self.depth,
            "seam": self.seam,
            "lags": self.lags,
            "gap": None if gap is None else [gap.id, gap.reason, gap.ts_from],
            "missing": [miss.state() for miss in self.missing],
            "other": self.other,
            "held": [list(update) for update in self.held],
            "overlaps": self.overlaps,
            **merged,
            **told,
            **({} if self.again is None else {"again": self.again}),
            **({} if self.alone is None else {"alone": self.alone}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.last, self.part, self.ts, self.id = state["last"], state["part"], state["ts"], state["id"]
        self.conn, self.seam, self.lags, self.other = state["conn"], state["seam"], state["lags"], state["other"]
        self.depth = state.get("depth")
        self.overlaps, self.merged = state["overlaps"], state.get("merged")
        self.told.extend(state.get("told", ()))
        self.again = tuple(state["again"]) if state.get("again") else None
        self.alone = state.get("alone")
        self.gap = None if state["gap"] is None else Gap(*state["gap"])
        self.missing = [Missing(*miss) for miss in state["missing"]]
        self.held.extend(Update(*update) for update in state["held"])


class Rules(NamedTuple):
    """What `adapter.Adapter` says of all symbols: BOOK, MERGED, SHARED and REPEATS."""

    book: BookRule
    merged: Mapping[str, tuple[str, ...]]
    shared: frozenset[str]
    repeats: frozenset[str]


class SymbolState:
    """Everything that `normalise` carries for one symbol."""

    __slots__ = ("channels", "gaps", "instrument", "is_behind_hole", "is_known", "name", "sync")

    def __init__(
        self,
        exchange: str,
        name: str,
        start: int,
        channels: Collection[str],
        rules: Rules,
        *,
        is_known: bool = False,
    ) -> None:
        self.name = name
        self.is_known = is_known  # from a `start` or a checkpoint on; else records before the first one may be missing
        self.is_behind_hole = False  # its gaps were told, and a checkpoint ends them
        self.channels = {channel: Topic(exchange, channel, name, start) for channel in channels}
        for channel, topic_ in self.channels.items():
            topic_.shares, topic_.repeats = channel in rules.shared, channel in rules.repeats
            if channel in rules.merged:
                topic_.merged = dict.fromkeys(rules.merged[channel])
        self.gaps = Topic(exchange, GAP, name, start)
        if "book" in self.channels:
            self.channels["book"].own_depth = rules.book.stream_depth
            self.channels["book"].keeps_all = rules.book.snapshot == "stream"
        self.sync = BookSync(rules.book)
        self.instrument: dict[str, Any] | None = None  # what the last `instrument` event said

    def has_reached(self, positions: Mapping[str, int]) -> bool:
        """Whether no topic has an event, by the last number of each, that this state has not seen."""
        return all(
            channel in self.channels and self.channels[channel].last >= last for channel, last in positions.items()
        )

    def state(self) -> dict[str, Any]:
        """As JSON can hold it, for a checkpoint."""
        topics = {channel: topic.state() for channel, topic in self.channels.items()}
        rest = {"instrument": self.instrument} if self.instrument is not None else {}
        return {"topics": topics, "gaps": self.gaps.state(), "book": self.sync.state(), **rest}

    @classmethod
    def restored(cls, exchange: str, name: str, kept: dict[str, Any], rules: Rules) -> "SymbolState":
        state = cls(exchange, name, 0, kept["topics"], rules, is_known=True)
        for channel, of_topic in kept["topics"].items():
            state.channels[channel].restore(of_topic)
        state.gaps.restore(kept["gaps"])
        state.sync = BookSync.restored(kept["book"], rules.book)
        state.instrument = kept.get("instrument")
        return state
