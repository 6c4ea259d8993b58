"""What one record gives: its events, with their numbers, and the gaps that they open and close."""

from typing import Any

from .events import Event
from .topic import Gap, SymbolState, Topic

Published = tuple[bytes, Event]  # the topic with its space, and the event


class Emission:
    """Collects the events of the record at hand: `seq` and `ts` are its number and `ts_recv`."""

    def __init__(self, exchange: str) -> None:
        self.seq = self.ts = 0
        self.exchange = exchange
        self._events: list[tuple[Topic, Event]] = []

    def emit(self, state: SymbolState, topic: Topic, ts_event: int | None, fields: dict[str, Any]) -> None:
        event = {
            "exchange": self.exchange,
            "channel": topic.channel,
            "symbol": state.name,
            "seq": self.seq,
            "prev": topic.last,
            "ts_event": ts_event,
            "ts_recv": self.ts,
            **fields,
        }
        self._events.append((topic, event))

    def open_gap(self, state: SymbolState, topic: Topic, reason: str, ids: dict[str, Any] | None = None) -> Gap:
        """Open a gap; where one is open already, tell what more is known of it."""
        topic.gap, topic.plain = topic.gap or Gap(self.seq, reason, topic.ts), False
        self.tell_gap(state, topic, topic.gap, "open", ids)
        return topic.gap

    def close_gap(self, state: SymbolState, topic: Topic) -> None:
        gap, topic.gap = topic.gap, None
        if gap is not None:
            self.tell_gap(state, topic, gap, "closed")

    def tell_gap(
        self, state: SymbolState, topic: Topic, gap: Gap, status: str, known: dict[str, Any] | None = None
    ) -> None:
        """Tell of a gap; `known` is what else is known of it: ids, numbers, its end (`ts_to`)."""
        if status == "open":
            topic.forget_merged()
        fields: dict[str, Any] = {"gap": gap.id, "state": status, "reason": gap.reason, "channels": [topic.channel]}
        fields |= known or {}
        fields |= {"ts_from": gap.ts_from, "ts_to": None if status == "open" else fields.get("ts_to", self.ts)}
        self.emit(state, state.gaps, None, fields)

    def tell_past_gap(self, state: SymbolState, topic: Topic, gap: Gap, known: dict[str, Any]) -> None:
        """Tell of a gap that is over by now."""
        self.tell_gap(state, topic, gap, "open", known)
        self.tell_gap(state, topic, gap, "closed", known)

    def forget(self) -> None:
        self._events = []

    def finish(self) -> list[Published]:
        """Number the parts of the record's events, topic by topic, in the topics' order: live as in any slice."""
        events = self._events
        if not events:
            return []
        self._events = []
        if len(events) == 1:
            topic, event = events[0]
            topic.last, topic.part, topic.ts = self.seq, 0, self.ts
            return [(topic.prefix, event)]
        first = events[0][0]
        if all(topic is first for topic, _ in events):
            for part, (_, event) in enumerate(events):
                event["part"], event["of"] = part, len(events)
            first.last, first.part, first.ts = self.seq, len(events) - 1, self.ts
            return [(first.prefix, event) for _, event in events]
        events.sort(key=lambda item: item[0].prefix)
        counts: dict[bytes, int] = {}
        for topic, event in events:
            event["part"] = counts.get(topic.prefix, 0)
            counts[topic.prefix] = event["part"] + 1
        for topic, event in events:
            of = counts[topic.prefix]
            if of == 1:
                del event["part"]
            else:
                event["of"] = of
            topic.last, topic.part, topic.ts = self.seq, of - 1, self.ts
        return [(topic.prefix, event) for topic, event in events]
