"""The stand-in of any exchange of which there is a recording and a dialect (`standin_dialect.py`).

Frames go out byte for byte as they were recorded, in their order and at their pace, to who has subscribed to their
stream; those recorded as binary ones as these bytes again. All WebSocket paths of the exchange are on the one port.
"""

import asyncio
import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from websockets.http11 import Request

from .adapter import Adapter
from .events import CHANNELS, Snapshot
from .faults import BINARY, TEXT, FaultError
from .foreign_recording import BINARY as BINARY_LINE
from .foreign_recording import read_frames, read_rest
from .link import Link
from .naming import catalogue
from .process import ConfigError
from .recording import Message
from .standin_books import StandinBooks
from .standin_dialect import Rate, RefusedError, Session
from .standin_options import Options
from .standin_server import Answer, StandinServer, split

FRAME_BYTES_MAX = 64 * 1024**2
"""Of a recorded frame, inflated."""


class RecordedStandin(StandinServer[Session]):
    def __init__(self, options: Options, adapter: Adapter, dialect: Any) -> None:
        """`dialect` is a `standin_dialect.Dialect` with its `Session`."""
        if not options.recordings:
            raise ConfigError(f"{options.exchange} needs --recording: a market can be made up for binance only")
        self._adapter, self._dialect = adapter, dialect
        self._books = StandinBooks(self._adapter)
        self._asked = Rate(*dialect.REQUESTS) if dialect.REQUESTS is not None else None
        self._recorded: dict[str, bytes] = {}
        self._known: frozenset[str] = frozenset()  # the symbols that there are
        self._wanted = frozenset(name for symbol in options.symbols for name in self._streams_of(symbol))
        super().__init__(options, dialect)

    def _streams_of(self, symbol: str, channels: Sequence[str] = CHANNELS) -> list[str]:
        return list(self._adapter.streams(symbol, list(channels), list(self._adapter.CANDLE_INTERVALS)))

    # the source

    def open_source(self) -> None:
        brought: dict[str, set[str]] = {}
        try:
            for message in self.messages():
                if not brought.get(message.stream):
                    brought[message.stream] = self._symbols_in(message)
            for path in self.options.recordings:
                self._recorded = {**read_rest(path), **self._recorded}
        except ValueError as error:
            raise ConfigError(f"the source cannot be read: {error}") from None
        if not brought:
            raise ConfigError("the source holds no messages (of these symbols)")
        self.streams, self.symbols = frozenset(brought), self.options.symbols
        self._known = frozenset(itertools.chain(self._listed(), *brought.values()))

    def _symbols_in(self, message: Message) -> set[str]:
        try:
            found = self._adapter.parse(self._adapter.loads(message.payload))
        except ValueError:
            return set()  # a frame that came broken
        return {said.symbol for said in (found if isinstance(found, list) else [found]) if said is not None}

    def _listed(self) -> Iterator[str]:
        """The symbols of the instruments that it tells over REST."""
        for asked in catalogue(self._adapter):
            status, body = self._dialect.rest(*split(asked.path), self._recorded)
            yield from self._adapter.trading_symbols(body) if status == 200 else ()

    def _read_source(self) -> Iterator[Message]:
        each = [read_frames(path) for path in self.options.recordings]
        for ts, kind, payload in heapq.merge(*each, key=lambda frame: frame[0]) if len(each) > 1 else each[0]:
            text = self._inflated(payload) if kind == BINARY_LINE else payload
            stream = self._dialect.stream_of(text)
            if stream is not None and (stream in self._wanted or not self._wanted):
                yield Message(ts, "", stream, text, wire=payload if kind == BINARY_LINE else None)

    def _inflated(self, payload: bytes) -> bytes:
        inflate = self._adapter.inflate
        return inflate(payload, FRAME_BYTES_MAX) if inflate is not None else payload

    def passing(self, messages: Sequence[Message]) -> None:
        self._books.add(messages)

    def begin(self) -> None:
        self._books.clear()

    # connections

    def is_socket(self, request: Request) -> bool:
        return request.headers.get("Upgrade", "").lower() == "websocket"

    def join(self, link: Link, target: str) -> Session:
        session: Session = self._dialect.Session(target, self._known)
        self._say(link, session.greeting())
        return session

    def answer(self, link: Link, session: Session, text: str | bytes) -> None:
        before = dict(session.streams)
        self._say(link, session.answer(text.encode() if isinstance(text, str) else text))
        for name in session.streams:
            if name not in before:  # whoever comes late to a book is brought to where it is
                missed = self.faults.unmuted(self._books.since_snapshot(name))
                self.send(link, session, missed, missed)

    def send(self, link: Link, session: Session, messages: Sequence[Message], kept: Sequence[Message]) -> None:
        numbered = getattr(session, "numbered", None)
        if numbered is not None:  # what gets lost was counted before
            alive = {id(message) for message in kept}
            wanted = [message for message in messages if message.stream in session.streams]
            given = [(message, numbered(message.payload, message.stream)) for message in wanted]
            kept = [message._replace(payload=payload) for message, payload in given if id(message) in alive]
        frames = [self._frame(message) for message in kept if message.stream in session.streams]
        for opcode, run in itertools.groupby(frames, key=lambda frame: frame[0]):
            link.write(opcode, [payload for _, payload in run], stream=True)

    def send_shutdown(self, link: Link, session: Session) -> None:
        if self._dialect.SHUTDOWN is None:
            raise FaultError(f"{self.options.exchange} does not tell of it")
        self._say(link, [self._dialect.SHUTDOWN])

    def beat(self) -> None:
        super().beat()
        for link, session in list(self.links.values()):
            if not link.is_open:
                continue
            try:
                self._say(link, session.beat(self.now_ms()))
            except RefusedError as error:
                link.end(error.code, error.reason)

    def book_stream(self, symbol: str) -> str:
        return next(iter(self._streams_of(symbol, ["book"])), "")

    def _say(self, link: Link, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            packed = self._dialect.pack(payload)
            link.write(TEXT if packed is None else BINARY, [payload if packed is None else packed])

    def _frame(self, message: Message) -> tuple[int, bytes]:
        wire = self._dialect.pack(message.payload) if message.wire is None else message.wire
        return (TEXT, message.payload) if wire is None else (BINARY, wire)

    # REST

    async def request(self, path: str, params: dict[str, str]) -> Answer:
        weight = self._dialect.weight(path, params)
        if self._asked is not None and self._asked.is_over(self.now_ms() / 1000, weight):
            return Answer(429, b"", {"Retry-After": "1"})
        status, body = self._dialect.rest(path, params, self._recorded)
        answer = Answer(status, self._as_now(path, params, body) if status == 200 else body)
        for fault in self.faults.rest_faults(path):
            if fault.kind == "rest-late":
                await asyncio.sleep(fault.seconds)
            else:
                retry = {"Retry-After": str(max(1, round(fault.seconds)))} if fault.kind == "rest-429" else {}
                answer = Answer(fault.status, fault.body.encode(), retry)
        return answer

    def _as_now(self, path: str, params: dict[str, str], body: bytes) -> bytes:
        """A recorded book with what the stream has changed since, where the dialect can write one."""
        if self._dialect.book is None:
            return body
        query = "&".join(f"{name}={value}" for name, value in params.items())
        found = self._adapter.parse_rest(f"{path}?{query}", body)
        written: bytes = self._dialect.book(self._books.now(found)) if isinstance(found, Snapshot) else body
        return written
