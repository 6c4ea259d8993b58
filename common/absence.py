"""Topics whose records are missing: symbols and channels that are not subscribed, and records that were lost.

    start, subscriptions  ─▶ `unsubscribed`: the gap stays open until the topic is recorded again
    a named hole          ─▶ `missing`: told at the first record after it, ends with the next event of the topic
    a checkpoint          ─▶ `missing`: the carried state lacks events that the checkpoint knows of

Rules 19 and 20 of the protocol. One step below `normaliser`: states in, gap events out.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .emission import Emission
from .topic import Gap, SymbolState, Topic

UNSUBSCRIBED, MISSING = "unsubscribed", "missing"
"""Reasons of gaps."""


@dataclass(frozen=True, slots=True)
class Away:
    """A topic that is not recorded: its open gap, since when (ns), and the last id that it had reached."""

    gap: int
    ts_from: int | None
    id: int | None

    @property
    def open_gap(self) -> Gap:
        return Gap(self.gap, UNSUBSCRIBED, self.ts_from)


class Lost(NamedTuple):
    """A symbol's hole, from its first number to its last, and the topics as they were before it."""

    first: int
    last: int
    topics: dict[str, Topic]


class Absence:
    """What a normaliser knows of the topics that have no records now. `away` is by symbol and channel."""

    def __init__(self, out: Emission) -> None:
        self.away: dict[str, dict[str, Away]] = {}
        self._out = out
        self.lost: dict[str, Lost] = {}  # by symbol, the holes whose gaps are not told yet

    # -- subscriptions ---------------------------------------------------------------------------------------------

    def leave(self, state: SymbolState, topics: Iterable[Topic], ts: int | None) -> None:
        """Topics are not recorded from now on: open their gaps, from `ts` (ns) on where none is open."""
        for topic in topics:
            for miss in {miss.gap: miss for miss in topic.missing}.values():  # nobody fetches it any more
                self._out.tell_gap(state, topic, Gap(miss.gap, miss.reason, miss.ts_from), "closed")
            topic.gap = topic.gap or Gap(self._out.seq, UNSUBSCRIBED, ts)
            gap = self._out.open_gap(state, topic, UNSUBSCRIBED)
            self.away.setdefault(state.name, {})[topic.channel] = Away(gap.id, gap.ts_from, topic.id)

    def rejoin(self, state: SymbolState, away: Mapping[str, Any]) -> None:
        """Topics are recorded again: their gaps go on until the next event, and ids are compared with the last ones."""
        for channel, told in sorted(away.items()):
            topic = state.channels.get(channel)
            if topic is None:
                continue
            was = Away(**told)
            topic.gap, topic.id, topic.ts = was.open_gap, was.id, was.ts_from
            self._out.open_gap(state, topic, UNSUBSCRIBED)
            known = self.away.get(state.name, {})
            known.pop(channel, None)
            if not known:
                self.away.pop(state.name, None)

    def remember(self, state: SymbolState, away: Mapping[str, Any]) -> None:
        """Topics were not recorded before a run's start either: tell their gaps again, what opened them may be lost."""
        for channel, told in sorted(away.items()):
            topic = Topic(self._out.exchange, channel, state.name, state.gaps.last)
            was = self.away.setdefault(state.name, {})[channel] = Away(**told)
            self._out.tell_gap(state, topic, was.open_gap, "open")

    def settle(self, states: dict[str, SymbolState], about: Mapping[str, Any]) -> None:
        """Drop the states of symbols that are not recorded, by a checkpoint of no symbol, and tell their gaps."""
        for name in sorted(states.keys() - set(about.get("symbols") or states)):
            self.remember(states.pop(name), (about.get("away") or {}).get(name, {}))

    # -- holes -----------------------------------------------------------------------------------------------------

    def lose(self, states: Iterable[SymbolState], first: int, last: int) -> None:
        """The records `first` to `last` are lost. What was known of the topics counts for their gaps alone."""
        for state in states:
            topics = {channel: topic for channel, topic in state.channels.items() if state.is_known or topic.is_seen}
            self.lost[state.name] = Lost(first, last, {**self._away_of(state.name), **topics})
        for name, lost in self.lost.items():  # one hole right behind another
            self.lost[name] = lost._replace(last=max(lost.last, last))

    def lose_all(self, states: Mapping[str, SymbolState], first: int, last: int) -> None:
        """The same of every symbol: those that were not recorded may be recorded again behind it."""
        for name in self.away.keys() - states.keys() - self.lost.keys():
            self.lost[name] = Lost(first, last, self._away_of(name))
        self.lose(states.values(), first, last)

    def _away_of(self, name: str) -> dict[str, Topic]:
        found = {}
        for channel, was in self.away.get(name, {}).items():
            topic = found[channel] = Topic(self._out.exchange, channel, name, 0)
            topic.gap, topic.ts = was.open_gap, was.ts_from
        return found

    def take_lost(self, names: Collection[str] | None = None) -> dict[str, Lost]:
        """What was known before the holes of some symbols (None: of all). A `start` right behind tells their gaps."""
        found = {name: lost for name, lost in self.lost.items() if names is None or name in names}
        for name in found:
            del self.lost[name]
        return found

    def tell(self, states: Mapping[str, SymbolState | None]) -> None:
        """Open the gaps of the holes, at a symbol's first record behind them. `states` are new, of `lost` symbols."""
        lost = self.take_lost(states)
        for name, state in sorted(states.items()):
            if state is None:
                continue
            first, last, before = lost[name]
            state.is_behind_hole = True
            for topic in (*state.channels.values(), state.gaps):
                topic.last = topic.prev = max(topic.last, last)
            for topic in [topic for channel, topic in state.channels.items() if channel in before]:
                topic.ts = before[topic.channel].ts
                topic.gap = before[topic.channel].gap or Gap(self._out.seq, MISSING, topic.ts)
                self._out.open_gap(state, topic, topic.gap.reason, {"first_seq": first, "last_seq": last})

    def tell_ended(self, state: SymbolState, lost: Lost, owed: Mapping[str, int | None]) -> None:
        """Tell of a hole right before a `start` where no gap of `restart` does: of topics that the run before did not
        record at its end, and of those that had come further in the hole, by the last ids that are owed.

        Such a gap has the number of the last record in the hole, since what is owed has the number of the `start`.
        """
        numbers = {"first_seq": lost.first, "last_seq": lost.last}
        for channel, before in sorted(lost.topics.items()):
            last = owed.get(channel)
            if channel not in owed or (last is not None and (before.id or 0) < last):
                gap = Gap(lost.last, MISSING, before.ts)
                self._out.tell_past_gap(state, before, gap, numbers)

    def compare(self, own: SymbolState, kept: SymbolState) -> None:
        """Go on from a checkpoint's state, which knows of events that the carried state has not seen: tell the gaps.

        A book goes on with the checkpoint's: it is told as a snapshot, or deltas would be applied to the book before.
        """
        kept.gaps.last, kept.gaps.part = max((own.gaps.last, own.gaps.part), (kept.gaps.last, kept.gaps.part))
        for channel, topic in kept.channels.items():
            before = own.channels.get(channel)
            if before is None:
                continue
            is_torn = own.is_known and before.last < topic.last
            if is_torn:
                gap = Gap(self._out.seq, MISSING, before.ts)
                numbers = {"first_seq": before.last + 1, "last_seq": topic.last}
                self._out.tell_past_gap(kept, topic, gap, numbers)
            ended, begun = before.gap, topic.gap
            if ended is not None and begun is not None and ended.id == begun.id:
                ended = begun = None
            if ended is not None:
                self._out.tell_gap(kept, topic, ended, "closed")
            if begun is not None:
                self._out.tell_gap(kept, topic, begun, "open")
            if not is_torn and ended is None:
                continue
            if channel == "book" and kept.sync.synced:
                bids, asks = kept.sync.book.top()
                fields = {"type": "snapshot", "bids": bids, "asks": asks, "last_id": str(kept.sync.id)}
                self._out.emit(kept, topic, None, fields)
