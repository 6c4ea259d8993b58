"""`normalise`: records in, events out. The same code live and later.

For a symbol it is a function of that symbol's records merged by `seq` with those of no symbol, and of nothing else:
no other symbol, no setting, no clock. Running live, it also says what to fetch (`actions`).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import orjson

from . import event_record
from .absence import Absence
from .adapter import FAULTS, Adapter, version
from .emission import Emission, Published
from .events import GAP, INDEX, Action, Parsed, Snapshot, Update
from .fast_path import FastPath
from .indices import IndexedStates
from .judge import Judge
from .record import TS_MAX, Record, decode, parted
from .topic import Gap, Rules, SymbolState, Topic

Work = tuple[int, int, int, Parsed] | Record
"""What is normalised: a whole record, or what a frame says, read already, with its seq, ts_recv and conn."""

_STATE = b',"state":'
_HEAD_BYTES = 96  # within which a head tells its kind
_SHORT_BYTES = 1024  # of a line that is decoded sooner than its kind is found


class Normaliser:
    """The state machine. `symbols` limits it to some (None: all that the records speak of)."""

    def __init__(self, adapter: Adapter, symbols: Collection[str] | None = None) -> None:
        self.errors: Counter[str] = Counter()  # what an exchange's file, or this one, did not bear: a fault of ours
        self.symbols = IndexedStates(adapter.index_of)
        self._adapter, self._exchange, self._dense = adapter, adapter.NAME, adapter.DENSE
        self._is_plain = adapter.loads is orjson.loads  # else numbers need their digits: the payload is read by itself
        self._wanted = None if symbols is None else frozenset(symbols)
        self._rules = Rules(adapter.BOOK, adapter.MERGED, adapter.SHARED, adapter.REPEATS)
        self._start = 0
        self._subscribed: frozenset[str] | None = None  # None before any `start` was seen
        self._out = Emission(adapter.NAME)
        self._judge = Judge(adapter, self._out)
        self._absence = Absence(self._out)
        self.away = self._absence.away  # topics, by symbol and channel, that were recorded and are not subscribed now
        self._fast_path = FastPath(adapter, self.symbols, self._judge, self._out)

    @property
    def actions(self) -> list[Action]:
        """What is to be fetched, running live: for who does it to take away."""
        return self._judge.actions

    @actions.setter
    def actions(self, actions: list[Action]) -> None:
        self._judge.actions = actions

    # -- records ---------------------------------------------------------------------------------------------

    def messages(self, work: Work) -> list[bytes]:
        return self.all_messages((work,))

    def all_messages(self, works: Iterable[Work | None]) -> list[bytes]:
        """The live messages of several records. A fault costs that record's events, never the stream."""
        out: list[bytes] = []
        dumps, goes_on, all_go_on = orjson.dumps, self._fast_path.one, self._fast_path.several
        for work in works:
            if work is None:
                continue
            try:
                if isinstance(work, Record):
                    published = self.record(work)
                else:
                    seq, ts_recv, conn, update = work
                    # `update` would give the same, from a dictionary of each whole event: half as fast
                    if type(update) is Update:
                        if (topic := goes_on(seq, ts_recv, conn, update)) is not None:
                            out.append(topic.message(seq, ts_recv, update.ts_event, dumps(update.fields)))
                            continue
                    elif type(update) is list and (found := all_go_on(seq, ts_recv, conn, update)) is not None:
                        out += found
                        continue
                    published = self._judged(seq, ts_recv, conn, update)
                for prefix, event in published:
                    out.append(prefix + dumps(event))
            except FAULTS as error:
                self.fault(error)
        return out

    def replay(self, line: bytes) -> Sequence[Published]:
        """Take a record line for what it does to the state: its events are not written out, and nothing is fetched."""
        work = self.work(line)
        try:
            return () if work is None else self.record(work) if isinstance(work, Record) else self.update(*work)
        except FAULTS as error:
            self.fault(error)
            return ()
        finally:
            self.actions.clear()

    def fault(self, error: Exception) -> None:
        self.errors[f"{type(error).__name__}: {error}"] += 1
        self._out.forget()

    def work(self, line: bytes) -> Work | None:
        """A record line as work, None where it gives nothing. Raises RecordError.

        A frame is decoded together with its head, in one go; anything out of the ordinary as `decode` does it.
        """
        if len(line) < _SHORT_BYTES or line.find(b',"kind":"in"', 0, _HEAD_BYTES) > 0:
            try:
                if self._is_plain:
                    head = orjson.loads(line)
                    data = head["data"]
                else:
                    head, payload = parted(line)
                    data = self._adapter.loads(payload)
                if head["kind"] == "in" and ("op" not in head or head["op"] == "binary"):
                    update = self._adapter.parse(data)
                    if update is None:
                        return None
                    ts_recv = head["ts_recv"]
                    return head["seq"], ts_recv if ts_recv <= TS_MAX else TS_MAX, head["conn"], update
            except (ValueError, KeyError, TypeError, RecursionError):
                return decode(line)
        return decode(line)

    def record(self, record: Record) -> Sequence[Published]:
        """The events that one record gives, in order."""
        if record.kind == "in":
            if record.conn is None or record.head.get("op", "binary") != "binary":
                return ()
            payload = record.payload or b""
            try:
                if not self._is_plain:
                    orjson.loads(payload)  # what it refuses gave nothing live
                update = self._adapter.parse(self._adapter.loads(payload))
            except (ValueError, RecursionError):
                return ()
            return () if update is None else self.update(record.seq, record.ts_recv, record.conn, update)
        if (handler := _HANDLERS.get(record.kind)) is None:
            return ()
        self._out.seq, self._out.ts = record.seq, record.ts_recv
        if self._absence.lost and record.kind != "start":
            self._tell_holes(None if record.symbol is None else {record.symbol})
        handler(self, record)
        return self._out.finish()

    def update(self, seq: int, ts_recv: int, conn: int, update: Parsed) -> Sequence[Published]:
        """The events that a frame gives that was read already."""
        if type(update) is not Update or (topic := self._fast_path.one(seq, ts_recv, conn, update)) is None:
            return self._judged(seq, ts_recv, conn, update)
        event = {
            "exchange": self._exchange,
            "channel": update.channel,
            "symbol": update.symbol,
            "seq": seq,
            "prev": topic.prev,
            "ts_event": update.ts_event,
            "ts_recv": ts_recv,
            **update.fields,
        }
        return ((topic.prefix, event),)

    def _judged(self, seq: int, ts_recv: int, conn: int, parsed: Any) -> Sequence[Published]:
        """Everything else: what is not plain, a frame that says several things, a book that was asked for."""
        out = self._out
        out.seq, out.ts = seq, ts_recv
        if self._absence.lost:
            said = parsed if type(parsed) is list else (parsed,)
            self._tell_holes({each.symbol for each in said})
        if type(parsed) is Snapshot:
            state = self._state(parsed.symbol)
            if state is not None and "book" in state.channels:
                book = state.channels["book"]  # the feed asks on a connection whose subscriptions are live
                self._judge.take_snapshot(state, book, parsed, conn if book.conn in (None, conn) else None)
            return out.finish()
        for update in (parsed,) if isinstance(parsed, Update) else parsed:
            channel, symbol, first, last, ts_event, fields = update
            state = self.symbols.get(symbol) or self._state(symbol)
            topic = state.channels.get(channel) if state is not None else None
            if channel == INDEX:
                self._judge.take_index(self.symbols.of_index(symbol), conn, update)
            if state is None or topic is None:
                continue
            topic.judged = seq
            is_plain = topic.plain and topic.conn == conn and channel != "book"
            if is_plain and (channel not in self._dense or first - 1 == topic.id):
                topic.pass_to(last, fields)
                out.emit(state, topic, ts_event, fields)
            elif channel == "instrument":
                self._learn([update])
            else:
                self._judge.deliver(state, topic, conn, update)
        return out.finish()

    def begin(self, subscribed: Collection[str]) -> None:
        """Begin in the middle of a run, of which that much is known: frames that name other symbols give nothing."""
        self._subscribed = frozenset(subscribed)

    def hole(self, first: int, last: int, symbol: str | None = None) -> None:
        """The records `first` to `last` are missing, of one symbol or of all: every topic of it has a gap."""
        if symbol is not None:
            if (state := self.symbols.pop(symbol, None)) is not None:
                self._absence.lose([state], first, last)
            return
        self._absence.lose_all(self.symbols, first, last)
        self._start, self._subscribed = last, None
        self.symbols.clear()

    def _tell_holes(self, names: Collection[str] | None) -> None:
        """At the first record of a symbol, or of none (None): so it is the same whatever other symbols are read."""
        lost = [name for name in self._absence.lost if names is None or name in names]
        self._absence.tell({name: self._state(name) for name in lost})

    # -- the other kinds of record -----------------------------------------------------------------------------

    def _on_start(self, record: Record) -> None:
        """A run begins: what is carried from record to record begins anew, and what the run before owed is a gap."""
        self._start = record.seq
        self.symbols.clear()
        self._absence.away.clear()
        lost = self._absence.take_lost()
        data = orjson.loads(record.payload or b"{}")
        subscriptions, owed = data.get("subscriptions", {}), data.get("owed", {})
        self._subscribed = frozenset(subscriptions.get("symbols", ()))
        channels = subscriptions.get("channels", self._adapter.CHANNELS)
        owed_topics, away = owed.get("topics", {}), owed.get("away", {})
        names = self._subscribed.union(owed_topics, away, lost)
        for name in sorted(names if self._wanted is None else names & self._wanted):
            state = SymbolState(self._exchange, name, record.seq, channels, self._rules, is_known=True)
            if name in self._subscribed:
                self.symbols[name] = state
            else:
                state.channels.clear()
            since = owed.get("since", {}).get(name, owed.get("ts"))  # by symbol, where an import goes on
            owes = owed_topics.get(name, {})
            if name in lost:
                self._absence.tell_ended(state, lost[name], owes)  # before what the run owes
            self._owe(state, owes, since, lost[name].topics if name in lost else {})
            known = away.get(name, {})
            self._absence.remember(state, {each: what for each, what in known.items() if each not in state.channels})
            self._absence.rejoin(state, known)

    def _owe(
        self, state: SymbolState, last_ids: Mapping[str, int | None], since: int | None, lost: Mapping[str, Topic]
    ) -> None:
        """Open the gaps of the topics that the run before recorded; those not recorded now go on as `unsubscribed`."""
        for channel, last in last_ids.items():
            topic = state.channels.get(channel) or Topic(self._exchange, channel, state.name, state.gaps.last)
            before = lost[channel].ts if channel in lost else None
            topic.id, topic.ts = last, since if before is None or since is None else min(since, before)
            if channel in state.channels:
                self._out.open_gap(state, topic, "restart")
            else:
                self._absence.leave(state, [topic], topic.ts)

    def _on_subscriptions(self, record: Record) -> None:
        """Symbols were added or taken away while running; nobody else is touched."""
        data = orjson.loads(record.payload or b"{}")
        self._subscribed = frozenset(data["symbols"])
        for name in sorted(data["removed"]):
            if (state := self.symbols.pop(name, None)) is not None:
                topics = [topic for channel, topic in state.channels.items() if channel in data["channels"]]
                self._absence.leave(state, topics, record.ts_recv)
        for name in sorted(data["added"]):
            if self._may_know(name):
                of_symbol = self._exchange, name, record.seq, data["channels"], self._rules
                state = self.symbols[name] = SymbolState(*of_symbol, is_known=True)
                self._absence.rejoin(state, data.get("owed", {}).get(name, {}))

    def _on_close(self, record: Record) -> None:
        """A connection ended: whoever followed it goes on with the other one, or has a gap."""
        for state in self.symbols.values():
            self._judge.take_close(state, record.conn)

    def _on_switch(self, record: Record) -> None:
        """From now on `conn` feeds what the connection `from` has fed."""
        for state in self.symbols.values():
            self._judge.take_switch(state, record.head.get("from"), record.conn)

    def _on_rest(self, record: Record) -> None:
        """A REST answer: a snapshot, or trades that were missed. After a failed one it is asked for again."""
        ok = record.head.get("status") == 200 and record.payload is not None
        answer = self._adapter.parse_rest(str(record.head.get("url")), record.payload or b"") if ok else None
        updates = answer if isinstance(answer, list) else []
        state = self._state(record.symbol) if record.symbol is not None else None
        topic = state.channels.get(record.channel or "") if state is not None else None
        if state is None or topic is None:
            self._learn(updates)
        elif record.channel == "book":
            conn = record.head.get("subscribed")
            snapshot = answer if isinstance(answer, Snapshot) else None
            self._judge.take_snapshot(state, topic, snapshot, conn if type(conn) is int else None)
        elif record.channel not in self._adapter.BACKFILLS:
            self._learn(updates)
            if not updates:
                self._judge.fail_poll(state, topic, record.head.get("status"))
        elif topic.missing:
            is_answer = isinstance(answer, list) or record.head.get("status") == 400  # for good: such ids there are not
            self._judge.take_missed(state, topic, updates, is_answer=is_answer)

    def _on_event(self, record: Record) -> None:
        """What a file without frames told. A delta that no snapshot stands before gives nothing, as in all books."""
        told = event_record.read(record.channel, record.payload)
        state = self._state(record.symbol) if told is not None and type(record.symbol) is str else None
        topic = state.channels.get(record.channel or "") if state is not None else None
        if told is None or state is None or topic is None:
            return
        ts_event, fields = told
        if topic.channel == "book" and not state.sync.told(fields, record.ts_recv if ts_event is None else ts_event):
            return
        if topic.gap is not None:
            self._out.close_gap(state, topic)
        self._out.emit(state, topic, ts_event, fields)

    def _learn(self, updates: list[Update]) -> None:
        """What is asked for from time to time, as open interest, or instruments: of these only what has changed."""
        for update in updates:
            state = self._state(update.symbol)
            topic = state.channels.get(update.channel) if state is not None else None
            if state is not None and topic is not None:
                self._judge.learn(state, topic, update)

    def _on_gap(self, record: Record) -> None:
        """What was judged live: silence, a refused subscription, records dropped for want of room."""
        data = orjson.loads(record.payload or b"{}")
        reason = str(data.get("reason"))
        if record.symbol is not None and record.channel is not None:
            state = self._state(record.symbol)
            topic = state.channels.get(record.channel) if state is not None else None
            if state is not None and topic is not None:
                self._judge.take_gap(state, topic, reason)
            return
        numbers = {key: data[key] for key in ("first_seq", "last_seq", "ts_to") if key in data}
        for state in self.symbols.values() if "names" not in data else ():  # names that mean no symbol
            if record.conn is not None:
                self._judge.doubt(state, record.conn, reason)
            elif record.symbol in (None, state.name):
                self._judge.take_dropped(state, Gap(record.seq, reason, data.get("ts_from")), numbers)

    def _on_checkpoint(self, record: Record) -> None:
        """A cache of the state: taken where nothing is known, or where it knows of events that were not seen."""
        name, payload = record.symbol, record.payload or b""
        if name is None and self._subscribed is None:  # behind a hole nothing else tells what is recorded
            self._absence.settle(self.symbols, orjson.loads(payload))
        if name is None or not self._may_know(name):
            return
        own = self.symbols.get(name)
        head = orjson.loads(payload[: payload.find(_STATE)] + b"}") if _STATE in payload else {}
        if head.get("normaliser") != version(self._adapter):
            return
        if own is not None and own.is_known and own.has_reached(head["positions"]):
            return
        kept = SymbolState.restored(self._exchange, name, orjson.loads(payload)["state"], self._rules)
        self.symbols[name] = kept
        if own is not None and (own.is_known or own.is_behind_hole):
            self._absence.compare(own, kept)

    # -- state -----------------------------------------------------------------------------------------------

    def checkpoint(self, symbol: str) -> bytes:
        """The payload of a checkpoint record: the whole state of one symbol, behind how far its topics have come."""
        state = self.symbols[symbol]
        positions = {channel: topic.last for channel, topic in state.channels.items()}
        about = {"normaliser": version(self._adapter), "positions": positions, "state": state.state()}
        return orjson.dumps(about)

    def positions(self, symbol: str) -> dict[str, tuple[int, int]]:
        """The last (`seq`, `part`) of each of a symbol's topics, for its heartbeat."""
        state = self.symbols[symbol]
        topics = {channel: (topic.last, topic.part) for channel, topic in state.channels.items()}
        return {**topics, GAP: (state.gaps.last, state.gaps.part)}

    def _may_know(self, symbol: str) -> bool:
        return all(symbols is None or symbol in symbols for symbols in (self._wanted, self._subscribed))

    def _state(self, symbol: str) -> SymbolState | None:
        """The state of a symbol, begun where nothing is known of it yet; None if it is not to be looked at."""
        state = self.symbols.get(symbol)
        if state is None and self._may_know(symbol):
            state = self.symbols[symbol] = SymbolState(
                self._exchange, symbol, self._start, self._adapter.CHANNELS, self._rules
            )
        return state


_HANDLERS = {
    "start": Normaliser._on_start,
    "close": Normaliser._on_close,
    "subscriptions": Normaliser._on_subscriptions,
    "switch": Normaliser._on_switch,
    "rest": Normaliser._on_rest,
    "event": Normaliser._on_event,
    "gap": Normaliser._on_gap,
    "checkpoint": Normaliser._on_checkpoint,
}
