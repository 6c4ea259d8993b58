"""The feed's middle: number what happened, append it, publish it, and only then normalise and publish the events.

`Recorder` has no socket, thread or clock: the simulation drives it with a disk of its own.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

import orjson

from .adapter import Adapter, version
from .events import HEARTBEAT, INDEX, Snapshot, Update, topic
from .normaliser import Normaliser, Work
from .record import DATA, FORMAT, Record, decode, encode, is_plain, payload_part
from .schedule import CHECKPOINT_BYTES, Weights


class Log(Protocol):
    """Where records go first: the feed's journal, or what an import writes."""

    next: int  # the number of the next record

    def append(self, lines: list[bytes]) -> int: ...  # how many of them stand now


def _place(channel: str, symbol: str) -> bytes:
    """The end of a head that files a record."""
    return b"," + orjson.dumps({"channel": channel, "symbol": symbol})[1:-1] + DATA


class Recorder:
    def __init__(
        self,
        adapter: Adapter,
        normaliser: Normaliser,
        journal: Log,
        publish_records: Callable[[bytes], None],
        publish_event: Callable[[bytes], None],
        checkpoint_bytes: int = CHECKPOINT_BYTES,
    ) -> None:
        self.next = journal.next  # the number of the next record; behind the journal's while the disk is full
        self.published = journal.next - 1  # everything up to here was published
        self.backlog_bytes = 0
        self.has_data = False  # whether the last runs brought market data
        self.unknown: Counter[str] = Counter()  # frames not understood, by sort
        self.weights = Weights(checkpoint_bytes)
        self._adapter, self._normaliser, self._journal = adapter, normaliser, journal
        self._publish_records, self._publish_event = publish_records, publish_event
        self._backlog: deque[list[bytes]] = deque()  # lines alone: decoded, they would take several times the room
        self._count = adapter.count
        self._merged = adapter.MERGED  # channels of one stream: its frames are filed under one of them
        self._counts: dict[int, int] = {}  # the last number of each connection whose messages are counted
        self._places: dict[tuple[str, str], bytes] = {}  # the part of a head that files a record
        self._told: dict[tuple[str, str], bytes] = {}  # the same, of the kind `event`

    def file_under(self, places: Collection[tuple[str, str]]) -> None:
        """Frames of these channels and symbols get files of their own; all others lie with those of no symbol."""
        self._places = {}
        self.weights.keep({symbol for _, symbol in places})
        of_index: dict[str, list[str]] = {}
        for channel, symbol in places:
            for each in self._merged if channel in self._merged else (channel,):
                self._places[each, symbol] = _place(channel, symbol)
            if channel == "mark" and (index := self._adapter.index_of(symbol)) is not None:
                of_index.setdefault(index, []).append(symbol)
        for index, symbols in of_index.items():
            if len(symbols) == 1:  # else all of them read it: it is filed under no symbol
                self._places[INDEX, index] = _place("mark", symbols[0])

    def frames(self, conn: int, ts: int, payloads: list[bytes]) -> list[Any]:
        """Whole text frames of one read."""
        return self.runs(conn, [(ts, payloads)])

    def runs(self, conn: int, runs: list[tuple[int, list[bytes]]], sort: bytes = b"") -> list[Any]:
        """Whole text frames of several reads, with the time of each, in one append; returns those of no market data.

        `sort` is what their heads say of frames that were not plain text.
        """
        lines, others, works = list[bytes](), list[Any](), list[Work | None]()
        seq, parse, place_of, count = self.next, self._adapter.parse, self._places.get, self._count
        loads, is_exact = self._adapter.loads, self._adapter.loads is not orjson.loads
        for ts, payloads in runs:
            received = b',"ts_recv":%d,"conn":%d,"kind":"in"%b' % (ts, conn, sort)
            are_plain = is_plain(b"".join(payloads))  # of all at once: searching each by itself takes ten times as long
            for payload in payloads:
                try:
                    message = loads(payload)
                    if is_exact:
                        orjson.loads(payload)  # what stands in a line as it is must be JSON to everybody
                except (ValueError, RecursionError):
                    lines.append(b'{"seq":%d%b%b' % (seq, received, self._not_json(payload)))
                    works.append(None)
                    seq += 1
                    continue
                if count is not None and (doubt := self._counted(conn, count(message))) is not None:
                    lines.append(encode(seq, ts, "gap", conn=conn, payload=doubt))
                    works.append(decode(lines[-1]))
                    seq += 1
                if (update := parse(message)) is not None:
                    place = place_of(update[:2], DATA) if type(update) is Update else self._place(update)
                    works.append((seq, ts, conn, update))
                else:
                    place = DATA
                    works.append(None)
                    others.append(message)
                if not (are_plain or is_plain(payload)):
                    place, payload = place[: -len(DATA)], payload_part(payload, is_json=True)[:-2]
                lines.append(b'{"seq":%d%b%b%b}\n' % (seq, received, place, payload))
                seq += 1
            self._weigh(works, payloads)
        self.next, self.has_data = seq, any(work is not None for work in works)
        self._commit(lines, works)
        return others

    def _weigh(self, works: list[Work | None], payloads: list[bytes]) -> None:
        """Count what was read for the symbol of its last frame: in the long run each gets its share so."""
        said: Any = works[-1][3] if works and type(works[-1]) is tuple else None
        said = said[0] if type(said) is list and said else said
        if isinstance(said, Update) and said[:2] in self._places:
            self.weights.add(said.symbol, sum(map(len, payloads)))

    def has_brought(self, channel: str, symbol: str, conn: int, since: int) -> bool:
        """Whether a connection has brought a frame of a channel and symbol since a record."""
        state = self._normaliser.symbols.get(symbol)
        topic = state.channels.get(channel) if state is not None else None
        return topic is not None and conn in (topic.conn, topic.other) and topic.heard >= since

    def closed(self, conn: int) -> None:
        """A connection is no more: nothing of it will be counted."""
        self._counts.pop(conn, None)

    def _counted(self, conn: int, number: int | None) -> bytes | None:
        """What a `gap` record says where a connection's own numbers do not go on."""
        if number is None:
            return None
        before, self._counts[conn] = self._counts.get(conn), number
        if before is None or number == before + 1:
            return None
        ids = {"first_id": str(before + 1), "last_id": str(number - 1)}
        return orjson.dumps({"state": "open", "reason": "sequence of the connection", **ids})

    def _place(self, parsed: Any) -> bytes:
        """Where a frame is filed that says several things: under what they have in common, if that is one symbol."""
        if isinstance(parsed, Snapshot):
            return self._places.get(("book", parsed.symbol), DATA)
        if isinstance(parsed, Update):
            return self._places.get(parsed[:2], DATA)
        if len({update.symbol for update in parsed}) > 1:
            return DATA
        asked = (self._places.get(update[:2]) for update in parsed)  # one stream may bring channels not asked for
        return next((place for place in asked if place is not None), DATA)

    def _not_json(self, payload: bytes) -> bytes:
        if payload != self._adapter.PONG:
            self.unknown["not JSON"] += 1
        return payload_part(payload, is_json=False)

    def record(
        self,
        ts: int,
        kind: str,
        *,
        conn: int | None = None,
        channel: str | None = None,
        symbol: str | None = None,
        head: dict[str, Any] | None = None,
        payload: bytes | None = None,
    ) -> int:
        """Record anything else that happened; returns its number."""
        if kind == "checkpoint" and symbol is not None:
            self.weights.checkpoint(symbol, len(payload or b""))
        seq = self.next
        line = encode(seq, ts, kind, conn=conn, channel=channel, symbol=symbol, head=head, payload=payload)
        self.next += 1
        self._commit([line], [decode(line)])
        return seq

    def told(self, events: Iterable[tuple[int, str, str, bytes]]) -> None:
        """Records of the kind `event`, in one append: of each its time, channel, symbol, payload (a line of JSON)."""
        lines: list[bytes] = []
        works: list[Work | None] = []
        for seq, (ts, channel, symbol, payload) in enumerate(events, self.next):
            if (head := self._told.get((channel, symbol))) is None:
                head = self._told[channel, symbol] = _place(channel, symbol)
            lines.append(b'{"seq":%d,"ts_recv":%d,"kind":"event"%b%b}\n' % (seq, ts, head, payload))
            self.weights.add(symbol, len(payload))
            works.append(Record(seq, ts, "event", None, channel, symbol, {}, payload))
        self.next += len(lines)
        self._commit(lines, works)

    def binary(self, ts: int, conn: int, kind: str, op: str, payload: bytes) -> None:
        """Record a frame that is not text: in base64, whatever it holds."""
        part = payload_part(payload, is_json=False)
        line = b'{"seq":%d,"ts_recv":%d,"conn":%d,"kind":"%b","op":"%b"%b' % (
            self.next, ts, conn, kind.encode(), op.encode(), part,
        )  # fmt: skip
        self.next += 1
        self._commit([line], [decode(line)])

    def heartbeat(self, symbol: str | None, run: int) -> bytes | None:
        """The message that tells who follows how far things are: a symbol's, or the exchange's (None) of a run.

        None for a symbol while the disk has no room for the run's `start`: nothing can be told of it yet.
        """
        beat: dict[str, Any] = {"exchange": self._adapter.NAME, "channel": HEARTBEAT}
        if symbol is None:
            beat |= {"at": self.published, "run": run, "format": FORMAT, "normaliser": version(self._adapter)}
        elif symbol in self._normaliser.symbols:
            beat |= {"symbol": symbol, "at": self.published, "topics": self._normaliser.positions(symbol)}
        else:
            return None
        return topic(self._adapter.NAME, HEARTBEAT, symbol) + orjson.dumps(beat)

    def retry(self) -> None:
        """Append what the disk had no room for, as far as it has now."""
        while self._backlog:
            lines = self._backlog[0]
            stand = self._journal.append(lines)
            self._publish(lines[:stand], [self._normaliser.work(line) for line in lines[:stand]])
            self.backlog_bytes -= sum(map(len, lines[:stand]))
            if stand < len(lines):
                self._backlog[0] = lines[stand:]
                return
            self._backlog.popleft()

    def is_behind(self) -> bool:
        """Whether something waits for room on the disk."""
        return bool(self._backlog)

    def _commit(self, lines: list[bytes], works: list[Work | None]) -> None:
        stand = 0 if self._backlog else self._journal.append(lines)
        if stand < len(lines):
            self._publish(lines[:stand], works[:stand])
            self._backlog.append(lines[stand:])
            self.backlog_bytes += sum(map(len, lines[stand:]))
            return
        self._publish(lines, works)

    def _publish(self, lines: list[bytes], works: list[Work | None]) -> None:
        """What was appended: records first, then each record's events."""
        if not lines:
            return
        self._publish_records(b"".join(lines))
        publish = self._publish_event
        for message in self._normaliser.all_messages(works):
            publish(message)
        self.published += len(lines)
