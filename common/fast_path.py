"""The fast path of `normalise`: frames that go on from the ones before, as nearly all do.

Nothing is numbered, opened or closed there. It leads to the same events and the same state as the judged path; what is
out of the ordinary is left to that one.
"""

import orjson

from .adapter import Adapter
from .emission import Emission
from .events import Update
from .judge import Judge
from .topic import SymbolState, Topic


class FastPath:
    """Moves topics on. `symbols` are the normaliser's states, which it shares."""

    def __init__(self, adapter: Adapter, symbols: dict[str, SymbolState], judge: Judge, out: Emission) -> None:
        self._dense, self._symbols, self._judge, self._out = adapter.DENSE, symbols, judge, out

    def one(self, seq: int, ts_recv: int, conn: int, update: Update) -> Topic | None:
        """The common case: an event that goes on from the one before, so that nothing is to be numbered or told.

        Then its topic, moved on; None for everything else.
        """
        channel, symbol, first, last, _, fields = update
        try:
            state = self._symbols[symbol]
            topic = state.channels[channel]
        except KeyError:
            return None
        if not topic.plain or topic.conn != conn or not fields:
            return None
        if (channel in self._dense and first - 1 != topic.id) or (topic.shares and last == topic.id):
            return None  # not the next one, or one more of an id, which joins those that are remembered
        if channel == "book":
            if not state.sync.steps(update):
                return None
            if not state.sync.agrees(fields):
                self._out.seq, self._out.ts = seq, ts_recv
                self._judge.lose_book(state, topic, "checksum")
                return None
        topic.id, topic.prev, topic.last, topic.part, topic.ts = last, topic.last, seq, 0, ts_recv
        topic.latest = update
        return topic

    def several(self, seq: int, ts_recv: int, conn: int, updates: list[Update]) -> list[bytes] | None:
        """The messages of a frame of several updates that all go on, of one topic or each of another; else None.

        Nothing is moved on where it is None.
        """
        topics: dict[Topic, int] = {}  # and the id that each comes to
        for channel, symbol, first, last, _, fields in updates:
            state = self._symbols.get(symbol)
            topic = state.channels.get(channel) if state is not None else None
            if topic is None or not topic.plain or topic.conn != conn or not fields or channel == "book":
                return None
            before = topics.get(topic, topic.id)
            if (channel in self._dense and first - 1 != before) or (topic.shares and last == topic.id):
                return None
            topics[topic] = last
        of = len(updates) if len(topics) == 1 else 1
        if len(topics) * of != len(updates):
            return None
        for (topic, last), update in zip(topics.items(), updates, strict=False):
            topic.id, topic.prev, topic.last, topic.part, topic.ts = last, topic.last, seq, of - 1, ts_recv
            topic.latest = update if of == 1 else updates
        dumps = orjson.dumps
        if of == 1:
            found = sorted(zip((each.prefix for each in topics), topics, updates, strict=True))
            return [each.message(seq, ts_recv, update.ts_event, dumps(update.fields)) for _, each, update in found]
        (only,) = topics
        parts = (b'%b,"part":%d,"of":%d}' % (dumps(each.fields)[:-1], part, of) for part, each in enumerate(updates))
        return [only.message(seq, ts_recv, each.ts_event, part) for each, part in zip(updates, parts, strict=True)]
