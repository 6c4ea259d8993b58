"""`normalise`: records in, events out. The same code live and later.

For a symbol it is a function of that symbol's records merged by `seq` with those of no symbol, and of nothing else:
no other symbol, no setting, no clock. Running live, it also says what to fetch (`actions`).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import orjson

from .adapter import FAULTS, Adapter, version
from .events import CHANNELS, GAP, Action, Event, Snapshot, Update
from .record import Record, decode
from .topic import Gap, Missing, SymbolState, Topic

Published = tuple[bytes, Event]  # the topic with its space, and the event

Work = tuple[int, int, int, Update] | Record
"""What is normalised: a whole record, or an update that was read already, with its seq, ts_recv and conn."""

_HEAD_BYTES = 96  # within which a head tells its kind
_MISSING_MAX = 100  # outstanding backfills of a topic
_RESET_BELOW = 10_000  # an id so far below the last one is no repetition: the exchange counts anew


class Normaliser:
    """The state machine. `symbols` limits it to some (None: all that the records speak of)."""

    def __init__(self, adapter: Adapter, symbols: Collection[str] | None = None) -> None:
        self.actions: list[Action] = []
        self.errors: Counter[str] = Counter()  # what an exchange's file, or this one, did not bear: a fault of ours
        self.symbols: dict[str, SymbolState] = {}
        self._adapter, self._exchange, self._dense = adapter, adapter.NAME, adapter.DENSE
        self._wanted = None if symbols is None else frozenset(symbols)
        self._start = 0
        self._subscribed: frozenset[str] | None = None  # None before any `start` was seen
        self._out: list[tuple[Topic, Event]] = []
        self._seq = self._ts = 0  # of the record at hand

    # -- records ---------------------------------------------------------------------------------------------

    def messages(self, work: Work) -> list[bytes]:
        return self.all_messages((work,))

    def all_messages(self, works: Iterable[Work | None]) -> list[bytes]:
        """The live messages of several records. A fault costs that record's events, never the stream."""
        out: list[bytes] = []
        dumps, update, record = orjson.dumps, self.update, self.record
        for work in works:
            try:
                if work is not None:
                    for prefix, event in record(work) if isinstance(work, Record) else update(*work):
                        out.append(prefix + dumps(event))
            except FAULTS as error:
                self.fault(error)
        return out

    def fault(self, error: Exception) -> None:
        self.errors[f"{type(error).__name__}: {error}"] += 1
        self._out = []

    def work(self, line: bytes) -> Work | None:
        """A record line as work, None where it gives nothing. Raises RecordError.

        A frame is decoded together with its head, in one go; anything out of the ordinary as `decode` does it.
        """
        if line.find(b',"kind":"in"', 0, _HEAD_BYTES) > 0:
            try:
                whole = orjson.loads(line)
                if "op" not in whole:
                    update = self._adapter.parse(whole["data"])
                    return None if update is None else (whole["seq"], whole["ts_recv"], whole["conn"], update)
            except (orjson.JSONDecodeError, KeyError, TypeError):
                return decode(line)
        return decode(line)

    def record(self, record: Record) -> Sequence[Published]:
        """The events that one record gives, in order."""
        if record.kind == "in":
            if record.conn is None or record.head.get("op", "binary") != "binary":
                return ()
            try:
                update = self._adapter.parse(orjson.loads(record.payload or b""))
            except orjson.JSONDecodeError:
                return ()
            return () if update is None else self.update(record.seq, record.ts_recv, record.conn, update)
        if (handler := _HANDLERS.get(record.kind)) is None:
            return ()
        self._seq, self._ts = record.seq, record.ts_recv
        handler(self, record)
        return self._finish() if self._out else []

    def update(self, seq: int, ts_recv: int, conn: int, update: Update) -> Sequence[Published]:
        """The events that a frame gives whose update was read already."""
        channel, symbol, _, last, ts_event, fields = update
        state = self.symbols.get(symbol) or self._state(symbol)
        topic = state.channels.get(channel) if state is not None else None
        if state is None or topic is None:
            return ()
        if topic.plain and topic.conn == conn and (channel not in self._dense or last - 1 == topic.id):
            # the common case, an event that goes on from the one before: nothing to be numbered or told
            topic.id = last
            event = {
                "exchange": self._exchange,
                "channel": channel,
                "symbol": symbol,
                "seq": seq,
                "prev": topic.last,
                "ts_event": ts_event,
                "ts_recv": ts_recv,
                **fields,
            }
            topic.last, topic.part, topic.ts = seq, 0, ts_recv
            return ((topic.prefix, event),)
        self._seq, self._ts = seq, ts_recv
        if topic.conn is None:
            topic.follow(conn, lags=False)
        if topic.conn == conn:
            self._take(state, topic, update)
        else:
            topic.take_other(conn, update)
        return self._finish() if self._out else ()

    def begin(self, subscribed: Collection[str]) -> None:
        """Begin in the middle of a run, of which that much is known: frames that name other symbols give nothing."""
        self._subscribed = frozenset(subscribed)

    def hole(self, first: int) -> None:
        """Records before `first` are lost (as the archive's manifest says): what they would have told is unknown."""
        self._start, self._subscribed = first - 1, None
        self.symbols.clear()

    def _take(self, state: SymbolState, topic: Topic, update: Update) -> None:
        """An update of the followed connection, with everything that may be out of the ordinary."""
        if update.channel == "book":
            self._take_delta(state, topic, update)
            return
        if update.channel in self._dense:
            if topic.id is not None and not self._goes_on(state, topic, update):
                return
        elif topic.lags and topic.id is not None and update.last <= topic.id:
            return
        if topic.gap is not None:
            self._close_gap(state, topic)
        topic.reached(update.last)
        self._emit(state, topic, update.ts_event, update.fields)

    def _goes_on(self, state: SymbolState, topic: Topic, update: Update) -> bool:
        """Judge an id against the last one: repeated (drop it), beyond a hole (say so), or counted anew."""
        last = topic.id or 0
        if update.last == last + 1:
            return True
        if update.last <= last:
            if update.last == last or (topic.seam and update.last > last - _RESET_BELOW):
                return False
            if topic.gap is None:
                self._open_gap(state, topic, "ids ran back")
            return True
        ids = {"first_id": str(last + 1), "last_id": str(update.last - 1)}
        gap = self._open_gap(state, topic, "sequence", ids)
        topic.gap = None
        topic.missing.append(Missing(gap.id, last + 1, update.last - 1, gap.reason, gap.ts_from))
        del topic.missing[:-_MISSING_MAX]
        if len(topic.missing) == 1:  # the others' turn comes with the answer
            self.actions.append(Action("backfill", topic.channel, state.name, last + 1))
        return True

    def _take_delta(self, state: SymbolState, topic: Topic, update: Update) -> None:
        sync = state.sync
        if sync.breaks(update):
            last = sync.id or 0
            ids = {"first_id": str(last + 1), "last_id": str(update.first - 1)} if update.first > last + 1 else None
            self._open_gap(state, topic, "sequence", ids)
            sync.lose()
        if sync.delta(update):
            topic.reached(update.last)
            if topic.gap is not None:
                self._close_gap(state, topic)
            self._emit(state, topic, update.ts_event, update.fields)
        elif not sync.synced and not sync.asked:
            sync.asked = True
            self.actions.append(Action("snapshot", "book", state.name))

    # -- the other kinds of record -----------------------------------------------------------------------------

    def _on_start(self, record: Record) -> None:
        """A run begins: what is carried from record to record begins anew, and what the run before owed is a gap."""
        self._start = record.seq
        self.symbols.clear()
        data = orjson.loads(record.payload or b"{}")
        subscriptions, owed = data.get("subscriptions", {}), data.get("owed", {})
        self._subscribed = frozenset(subscriptions.get("symbols", ()))
        for name in sorted(self._subscribed if self._wanted is None else self._subscribed & self._wanted):
            channels = subscriptions.get("channels", CHANNELS)
            state = SymbolState(self._exchange, name, record.seq, channels, is_known=True)
            self.symbols[name] = state
            for channel, last in owed.get("topics", {}).get(name, {}).items():
                if (topic := state.channels.get(channel)) is not None:
                    topic.id, topic.ts = last, owed.get("ts")
                    self._open_gap(state, topic, "restart")

    def _on_close(self, record: Record) -> None:
        """A connection ended: whoever followed it goes on with the other one, or has a gap."""
        for state in self.symbols.values():
            for topic in state.channels.values():
                if topic.other == record.conn:
                    topic.drop_other()
                elif topic.conn == record.conn and topic.other is not None:
                    self._go_over(state, topic, topic.other)
                elif topic.conn == record.conn:
                    topic.conn = None
                    if topic.gap is None:
                        self._open_gap(state, topic, "disconnected")
                    if topic.channel == "book":
                        state.sync.lose()

    def _on_switch(self, record: Record) -> None:
        """From now on `conn` feeds what the connection `from` has fed."""
        before = record.head.get("from")
        for state in self.symbols.values():
            for topic in state.channels.values():
                if topic.conn == before and record.conn is not None:
                    self._go_over(state, topic, record.conn)

    def _go_over(self, state: SymbolState, topic: Topic, conn: int) -> None:
        """Follow another connection, first with what it has delivered beyond the last id.

        Where ids cannot prove that nothing lies between the two, the seam is a gap, opened and closed at once.
        """
        held = list(topic.held) if topic.other == conn else []
        proven = (topic.overlaps and topic.other == conn) or topic.channel in self._dense or topic.channel == "book"
        idle = topic.id is None
        topic.drop_other()
        topic.follow(conn, lags=True)
        state.sync.stream_last = 0 if topic.channel == "book" else state.sync.stream_last
        if not proven and not idle and topic.gap is None:
            self._open_gap(state, topic, "unverifiable")
            self._close_gap(state, topic)
        for update in held:
            self._take(state, topic, update)

    def _on_rest(self, record: Record) -> None:
        """A REST answer: a snapshot, or trades that were missed. A failed one is asked for again."""
        state = self._state(record.symbol) if record.symbol is not None else None
        topic = state.channels.get(record.channel or "") if state is not None else None
        if state is None or topic is None:
            return
        ok = record.head.get("status") == 200 and record.payload is not None
        answer = self._adapter.parse_rest(str(record.head.get("url")), record.payload or b"") if ok else None
        if record.channel == "book":
            self._take_snapshot(state, topic, answer if isinstance(answer, Snapshot) else None)
        elif topic.missing:
            self._take_missed(state, topic, answer if isinstance(answer, list) else [])

    def _take_snapshot(self, state: SymbolState, topic: Topic, snapshot: Snapshot | None) -> None:
        sync = state.sync
        if sync.synced:
            return
        following = sync.snapshot(snapshot) if snapshot is not None else None
        if snapshot is None or following is None:
            sync.asked = bool(sync.held)
            if sync.held:
                self.actions.append(Action("snapshot", "book", state.name))
            return
        fields = {"type": "snapshot", "bids": snapshot.bids, "asks": snapshot.asks, "last_id": str(snapshot.last)}
        topic.reached(snapshot.last)
        if topic.gap is not None:
            self._close_gap(state, topic)
        self._emit(state, topic, snapshot.ts_event, fields)
        for delta in following:
            topic.reached(delta.last)
            self._emit(state, topic, delta.ts_event, delta.fields)

    def _take_missed(self, state: SymbolState, topic: Topic, trades: list[Update]) -> None:
        """Trades of the first outstanding hole. Ids that the exchange itself leaves out are passed over."""
        miss = topic.missing[0]
        if trades and trades[0].first > miss.next:
            trades = []  # the answer to another question: it proves nothing about this hole
        reached = False
        for trade in trades:
            if trade.last < miss.next:
                continue
            if trade.last > miss.last:
                reached = True
                break
            self._emit(state, topic, trade.ts_event, {**trade.fields, "late": True, "gap": miss.gap})
            miss.next = trade.last + 1
        if reached or miss.next > miss.last:
            topic.missing.pop(0)
            if all(other.gap != miss.gap for other in topic.missing):  # one record may show several holes
                self._emit_gap(state, topic, Gap(miss.gap, miss.reason, miss.ts_from), "backfilled")
        if topic.missing:
            self.actions.append(Action("backfill", topic.channel, state.name, topic.missing[0].next))

    def _on_gap(self, record: Record) -> None:
        """What was judged live: silence, a refused subscription, records dropped for want of room."""
        data = orjson.loads(record.payload or b"{}")
        if record.symbol is not None and record.channel is not None:
            state = self._state(record.symbol)
            topic = state.channels.get(record.channel) if state is not None else None
            if state is not None and topic is not None and topic.gap is None:
                self._open_gap(state, topic, str(data.get("reason")))
            return
        for state in self.symbols.values():
            if record.symbol not in (None, state.name):
                continue
            gap = Gap(record.seq, str(data.get("reason")), None)
            numbers = {key: data[key] for key in ("first_seq", "last_seq") if key in data}
            for topic in state.channels.values():
                self._emit_gap(state, topic, gap, "open", numbers)
                self._emit_gap(state, topic, gap, "closed", numbers)

    def _on_checkpoint(self, record: Record) -> None:
        """A cache of the state: taken by who has seen no `start` before it, passed over by everyone else."""
        name = record.symbol
        if name is None or not self._may_know(name) or (name in self.symbols and self.symbols[name].is_known):
            return
        data = orjson.loads(record.payload or b"{}")
        if data.get("normaliser") == version(self._adapter):
            self.symbols[name] = SymbolState.restored(self._exchange, name, data["state"])

    # -- state -----------------------------------------------------------------------------------------------

    def checkpoint(self, symbol: str) -> bytes:
        """The payload of a checkpoint record: the whole state of one symbol."""
        return orjson.dumps({"normaliser": version(self._adapter), "state": self.symbols[symbol].state()})

    def positions(self, symbol: str) -> dict[str, tuple[int, int]]:
        """The last (`seq`, `part`) of each of a symbol's topics, for its heartbeat."""
        state = self.symbols[symbol]
        topics = {channel: (topic.last, topic.part) for channel, topic in state.channels.items()}
        return {**topics, GAP: (state.gaps.last, state.gaps.part)}

    def _may_know(self, symbol: str) -> bool:
        if self._wanted is not None and symbol not in self._wanted:
            return False
        return self._subscribed is None or symbol in self._subscribed

    def _state(self, symbol: str) -> SymbolState | None:
        """The state of a symbol, begun where nothing is known of it yet; None if it is not to be looked at."""
        state = self.symbols.get(symbol)
        if state is None and self._may_know(symbol):
            state = self.symbols[symbol] = SymbolState(self._exchange, symbol, self._start, CHANNELS)
        return state

    # -- events ------------------------------------------------------------------------------------------------

    def _emit(self, state: SymbolState, topic: Topic, ts_event: int | None, fields: dict[str, Any]) -> None:
        numbers = {"seq": self._seq, "prev": topic.last, "ts_event": ts_event, "ts_recv": self._ts}
        event = {"exchange": self._exchange, "channel": topic.channel, "symbol": state.name, **numbers, **fields}
        self._out.append((topic, event))

    def _open_gap(self, state: SymbolState, topic: Topic, reason: str, ids: dict[str, Any] | None = None) -> Gap:
        """Open a gap; where one is open already, tell what more is known of it."""
        topic.gap, topic.plain = topic.gap or Gap(self._seq, reason, topic.ts), False
        self._emit_gap(state, topic, topic.gap, "open", ids)
        return topic.gap

    def _close_gap(self, state: SymbolState, topic: Topic) -> None:
        gap, topic.gap = topic.gap, None
        if gap is not None:
            self._emit_gap(state, topic, gap, "closed")

    def _emit_gap(
        self, state: SymbolState, topic: Topic, gap: Gap, status: str, ids: dict[str, Any] | None = None
    ) -> None:
        fields: dict[str, Any] = {"gap": gap.id, "state": status, "reason": gap.reason, "channels": [topic.channel]}
        fields |= ids or {}
        fields |= {"ts_from": gap.ts_from, "ts_to": None if status == "open" else self._ts}
        self._emit(state, state.gaps, None, fields)

    def _finish(self) -> list[Published]:
        """Number the parts of the record's events, topic by topic, in the topics' order: live as in any slice."""
        out, self._out = self._out, []
        if len(out) > 1:
            out.sort(key=lambda item: item[0].prefix)
        counts: dict[bytes, int] = {}
        for topic, event in out:
            event["part"] = counts.get(topic.prefix, 0)
            counts[topic.prefix] = event["part"] + 1
        for topic, event in out:
            of = counts[topic.prefix]
            if of == 1:
                del event["part"]
            else:
                event["of"] = of
            topic.last, topic.part, topic.ts = self._seq, of - 1, self._ts
        return [(topic.prefix, event) for topic, event in out]


_HANDLERS = {
    "start": Normaliser._on_start,
    "close": Normaliser._on_close,
    "switch": Normaliser._on_switch,
    "rest": Normaliser._on_rest,
    "gap": Normaliser._on_gap,
    "checkpoint": Normaliser._on_checkpoint,
}
