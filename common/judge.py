"""Judging what arrives against what its topic knows: it goes on, was there already, lies beyond a hole, breaks a book.

One step below `normaliser`: an update or an answer and the state of its symbol in, events and wishes out.
"""

from collections.abc import Iterable
from typing import Any

from .adapter import Adapter
from .emission import Emission
from .events import Action, OtherBook, Snapshot, Update
from .topic import Gap, Missing, SymbolState, Topic

FRUITLESS_MAX = 10
"""Answers without what was asked for, one after the other, until it is asked for no more: the feed takes about two
minutes over so many. What an exchange shows live it may have for REST some seconds later."""

_MISSING_MAX = 100  # outstanding backfills of a topic
_BACK_NS = 30 * 10**9  # trades are asked for from so much before our time of the last one: clocks differ
_RESET_BELOW = 10_000  # an id so far below the last one is no repetition: the exchange counts anew


class Judge:
    """`actions` are what is to be fetched, where somebody can."""

    def __init__(self, adapter: Adapter, out: Emission) -> None:
        self.actions: list[Action] = []
        self._adapter, self._dense, self._out = adapter, adapter.DENSE, out

    def deliver(self, state: SymbolState, topic: Topic, conn: int, update: Update) -> None:
        """An update of any connection: the first that delivers is followed."""
        if topic.channel == "book" and not self._feeds(topic, conn, update):
            return
        if topic.conn is None:
            topic.follow(conn, lags=False)
        if topic.conn == conn:
            self.take(state, topic, update)
        else:
            topic.take_other(conn, update)
            if topic.held and topic.is_left(self._out.ts):
                self.go_over(state, topic, conn)

    def take(self, state: SymbolState, topic: Topic, update: Update) -> None:
        """An update of the followed connection, with everything that may be out of the ordinary."""
        if update.channel == "book":
            self._take_delta(state, topic, update)
            return
        if update.channel in self._dense:
            if topic.id is not None and not self._goes_on(state, topic, update):
                return
        elif (topic.lags or (topic.seam and topic.repeats)) and topic.had(update):
            if not topic.runs_back(update.last, self._out.ts):
                if topic.gap is not None:
                    self._out.close_gap(state, topic)  # the subscription delivers, if nothing new so far
                return
            if topic.gap is None:
                self._out.open_gap(state, topic, "times ran back")
        if not update.fields:
            return  # nothing new is said
        if topic.gap is not None:
            self._out.close_gap(state, topic)
        topic.reached(update.last, update.fields)
        self._out.emit(state, topic, update.ts_event, topic.merge(update.fields))

    def take_index(self, states: Iterable[SymbolState], conn: int, update: Update) -> None:
        """The price of an index, for the `mark` topic of each of its symbols.

        Only mark prices decide which connection a topic follows: another one may carry the index without them.
        """
        for state in states:
            topic = state.channels.get("mark")
            if topic is None:
                continue
            topic.judged, own = self._out.seq, update._replace(channel="mark", symbol=state.name)
            if topic.conn is None and state.name == update.symbol:
                topic.follow(conn, lags=False)  # this symbol has no mark price: the index is all there is
            if topic.conn == conn:
                self.take(state, topic, own)
            elif topic.other == conn or state.name == update.symbol:
                topic.take_other(conn, own)

    def _goes_on(self, state: SymbolState, topic: Topic, update: Update) -> bool:
        """Judge an id against the last one: repeated (drop it), beyond a hole (say so), or counted anew."""
        last = topic.id or 0
        if update.first == last + 1:
            return True
        if update.last <= last:
            repeats = topic.seam or topic.repeats
            is_near = update.last == last or (repeats and update.last > last - _RESET_BELOW)
            if is_near and not topic.runs_back(update.last, self._out.ts):
                return False
            if topic.gap is None:
                self._out.open_gap(state, topic, "ids ran back")
            return True
        if update.first <= last:
            return True  # a sum of trades that begins before the last one: nothing is missing
        ids = {"first_id": str(last + 1), "last_id": str(update.first - 1)}
        gap = self._out.open_gap(state, topic, "sequence", ids)
        if topic.channel not in self._adapter.BACKFILLS:
            return True  # it ends with this event
        topic.gap = None
        topic.missing.append(Missing(gap.id, last + 1, update.first - 1, gap.reason, gap.ts_from))
        del topic.missing[:-_MISSING_MAX]
        if len(topic.missing) == 1:  # the others' turn comes with the answer
            self.actions.append(Action("backfill", topic.channel, state.name, last + 1, _since(gap.ts_from)))
        return True

    def _feeds(self, topic: Topic, conn: int, update: Update) -> bool:
        """Whether a book update is of the stream that feeds the book: the deepest, from its snapshot on.

        A book that is asked for has its stream with its first update; what else there is must begin with a snapshot.
        """
        depth = update.depth if isinstance(update, OtherBook) else self._adapter.BOOK.stream_depth
        begins = update.fields["type"] == "snapshot"
        if topic.depth is None:
            if begins or self._adapter.BOOK.snapshot != "stream":
                topic.depth = depth
            return True
        if depth > topic.depth and begins:
            topic.depth = depth
            topic.drop_other()
            topic.follow(conn, lags=False)
        return depth == topic.depth

    def _take_delta(self, state: SymbolState, topic: Topic, update: Update) -> None:
        """A delta, or a snapshot that comes on the stream."""
        sync, fields = state.sync, update.fields
        applies = True
        if fields["type"] == "snapshot":
            sync.begin(update)
        elif not sync.steps(update):
            if sync.breaks(update):
                last = sync.id or 0
                ids = {"first_id": str(last + 1), "last_id": str(update.first - 1)} if update.first > last + 1 else None
                self.lose_book(state, topic, "sequence", ids)
            applies = sync.delta(update)
        if applies:
            if sync.agrees(fields):
                topic.reached(update.last)
                if topic.gap is not None:
                    self._out.close_gap(state, topic)
                self._out.emit(state, topic, update.ts_event, fields)
            else:
                self.lose_book(state, topic, "checksum")
                sync.delta(update)  # as the first of a book that is to come: the short way does so too
        if sync.id is None and not sync.asked:
            self.ask_snapshot(state)

    def ask_snapshot(self, state: SymbolState) -> None:
        state.sync.asked = True
        self.actions.append(Action("snapshot", "book", state.name))

    def lose_book(self, state: SymbolState, topic: Topic, reason: str, ids: dict[str, Any] | None = None) -> None:
        self._out.open_gap(state, topic, reason, ids)
        state.sync.lose()

    def take_close(self, state: SymbolState, conn: int | None) -> None:
        """A connection ended: what followed it goes on with the other one, or has a gap."""
        for topic in state.channels.values():
            if topic.other == conn:
                held = list(topic.held) if topic.channel in self._dense else []
                topic.drop_other()
                for update in held:  # the followed one has not brought them, and might never: their ids prove them
                    self.take(state, topic, update)
                if held:
                    topic.seam, topic.plain = True, False  # it may bring them still
            elif topic.conn == conn and topic.other is not None:
                self.go_over(state, topic, topic.other)
            elif topic.conn == conn:
                topic.conn = topic.depth = None
                if topic.gap is None:
                    self._out.open_gap(state, topic, "disconnected")
                if topic.channel == "book":
                    state.sync.lose()

    def take_switch(self, state: SymbolState, before: Any, conn: int | None) -> None:
        """What has followed one connection follows another one."""
        for topic in state.channels.values():
            if topic.conn == before and conn is not None:
                self.go_over(state, topic, conn)

    def take_gap(self, state: SymbolState, topic: Topic, reason: str) -> None:
        """A gap of one topic that the feed has judged live."""
        if reason == "crossed" and topic.channel == "book":
            self.lose_book(state, topic, reason)
            self.ask_snapshot(state)
        elif topic.gap is None:
            self._out.open_gap(state, topic, reason)

    def take_dropped(self, state: SymbolState, gap: Gap, numbers: dict[str, Any]) -> None:
        """Records were dropped, of all topics: a gap that has ended."""
        for topic in state.channels.values():
            if topic.gap is not None and topic.gap.id == gap.id:  # they are what is missing right before this record
                froms = [each.ts_from for each in (topic.gap, gap) if each.ts_from is not None]
                topic.gap.ts_from = min(froms, default=None)
                self._out.open_gap(state, topic, gap.reason, {key: numbers[key] for key in numbers if key != "ts_to"})
            elif topic.is_seen:  # before its first event nothing is known of a topic anyway
                self._out.tell_past_gap(state, topic, gap, numbers)

    def doubt(self, state: SymbolState, conn: int, reason: str) -> None:
        """Messages of a connection were lost, nobody knows of what: all that follows it has a gap."""
        for topic in state.channels.values():
            if topic.other == conn:
                topic.drop_other()
            elif topic.conn == conn and topic.channel == "book":
                self.lose_book(state, topic, reason)
                self.ask_snapshot(state)
            elif topic.conn == conn:
                self._out.open_gap(state, topic, reason)

    def go_over(self, state: SymbolState, topic: Topic, conn: int) -> None:
        """Follow another connection, first with what it has delivered beyond the last id.

        Where ids cannot prove that nothing lies between the two, the seam is a gap, opened and closed at once.
        """
        held = list(topic.held) if topic.other == conn else []
        proven = (topic.overlaps and topic.other == conn) or topic.channel in self._dense or topic.channel == "book"
        idle = topic.id is None
        topic.drop_other()
        topic.follow(conn, lags=True)
        if topic.channel == "book":
            state.sync.rejoin()
        if topic.keeps_all:
            self._begin_anew(state, topic, held)
            return
        if not proven and not idle and topic.gap is None:
            self._out.open_gap(state, topic, "unverifiable")
            self._out.close_gap(state, topic)
        for update in held:
            self.take(state, topic, update)

    def _begin_anew(self, state: SymbolState, topic: Topic, held: list[Update]) -> None:
        """A book whose snapshots come on the stream goes on with the one that the new connection has brought."""
        if not held or held[0].fields["type"] != "snapshot":
            self.lose_book(state, topic, "unverifiable")
            self.ask_snapshot(state)
            return
        for update in held:
            self._take_delta(state, topic, update)

    def take_snapshot(
        self, state: SymbolState, topic: Topic, snapshot: Snapshot | None, conn: int | None = None
    ) -> None:
        """A snapshot that was asked for. `conn`: the connection whose subscription was live before that, if known."""
        sync = state.sync
        if sync.synced:
            return
        following = sync.snapshot(snapshot, is_current=conn is not None) if snapshot is not None else None
        if snapshot is None or following is None:
            sync.asked = bool(sync.held)
            if sync.held:
                self.actions.append(Action("snapshot", "book", state.name))
            return
        if topic.conn is None and conn is not None:
            topic.follow(conn, lags=False)
        fields = {"type": "snapshot", "bids": snapshot.bids, "asks": snapshot.asks, "last_id": str(snapshot.last)}
        topic.reached(snapshot.last)
        if topic.gap is not None:
            self._out.close_gap(state, topic)
        self._out.emit(state, topic, snapshot.ts_event, fields)
        for delta in following:
            topic.reached(delta.last)
            self._out.emit(state, topic, delta.ts_event, delta.fields)

    def take_missed(self, state: SymbolState, topic: Topic, trades: list[Update], *, is_answer: bool) -> None:
        """Trades of the first outstanding hole. Ids that the exchange itself leaves out are passed over.

        What it does not give although it answers, again and again, it does not have: that is asked for no more, and
        the gap ends as `closed`. `is_answer` is False where the request failed, which says nothing of the trades.
        """
        miss = topic.missing[0]
        if trades and trades[0].first > miss.next:
            trades = []  # the answer to another question: it proves nothing about this hole
        before, reached = miss.next, False
        for trade in trades:
            if trade.last < miss.next:
                continue
            if trade.last > miss.last:
                reached = True
                break
            self._out.emit(state, topic, trade.ts_event, {**trade.fields, "late": True, "gap": miss.gap})
            miss.next = trade.last + 1
        if reached or miss.next > miss.last:
            self._end_missing(state, topic)
        elif is_answer:
            come_to = (trades[-1].ts_event or 0) if trades else 0
            got_on = miss.next > before or come_to > miss.since
            miss.fruitless = 0 if got_on else miss.fruitless + 1
            miss.since = max(miss.since, come_to)
            if miss.fruitless >= FRUITLESS_MAX:
                miss.is_lost = True
                self._end_missing(state, topic)
        if topic.missing:
            first = topic.missing[0]
            since = (trades[-1].ts_event or 0) if trades and first is miss else _since(first.ts_from)
            self.actions.append(Action("backfill", topic.channel, state.name, first.next, since))

    def learn(self, state: SymbolState, topic: Topic, update: Update) -> None:
        """What is asked for from time to time. Of an instrument only what has changed is told."""
        if topic.gap is not None:
            self._out.close_gap(state, topic)
        if update.channel == "instrument":
            if state.instrument == update.fields:
                return
            state.instrument = update.fields
        self._out.emit(state, topic, update.ts_event, update.fields)

    def fail_poll(self, state: SymbolState, topic: Topic, status: Any) -> None:
        """A poll that brought nothing is a gap until one brings something."""
        if topic.gap is None:
            self._out.open_gap(state, topic, poll_failure(status))

    def _end_missing(self, state: SymbolState, topic: Topic) -> None:
        """The first hole is filled, or given up: its gap ends where it was the last one, whole if all were filled."""
        miss = topic.missing.pop(0)
        others = [other for other in topic.missing if other.gap == miss.gap]  # one record may show several holes
        for other in others:
            other.is_lost = other.is_lost or miss.is_lost
        if not others:
            gap = Gap(miss.gap, miss.reason, miss.ts_from)
            self._out.tell_gap(state, topic, gap, "closed" if miss.is_lost else "backfilled")


def poll_failure(status: Any) -> str:
    """The reason of the gap of a poll that brought nothing, by the answer's status (0: there was none)."""
    failure = "not understood" if status == 200 else f"status {status}" if status else "no answer"
    return f"poll: {failure}"


def _since(ts_recv: int | None) -> int:
    return max((ts_recv or 0) - _BACK_NS, 0)
