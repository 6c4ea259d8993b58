"""A stand-in exchange on one port: connections, a timeline that feeds them, faults on demand, and accounts of it all.

What it says and serves is told by its subclass: `standin_binance.py` for Binance spot, which can make a market up,
`standin_recorded.py` for every other exchange.
"""

import asyncio
import contextlib
import errno
import http
import logging
import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qsl

import orjson
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from .faults import FaultError, Faults, check, garbled, number, seconds
from .link import Link, SentFile
from .process import ConfigError, LockedError, Parent
from .recording import Message
from .standin_dialect import Rate, RefusedError
from .standin_options import Options
from .timeline import POLL_S, Timeline

log = logging.getLogger("standin")

START_GRACE_S = 0.2
"""Between the subscription that starts the timeline and its first message, so that the whole of a burst is in."""

GOING_AWAY = 1001
"""The close code of a connection whose time is over."""

CLOSED_MAX = 1_000
"""Accounts of ended connections that are kept."""


class Subscriber(Protocol):
    """What a connection has subscribed to."""

    streams: dict[str, None]


S = TypeVar("S", bound=Subscriber)


class Answer(NamedTuple):
    """An answer to a request over HTTP."""

    status: int
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


class StandinServer(ABC, Generic[S]):
    """The stand-in exchange on one port, without what an exchange says."""

    def __init__(self, options: Options, dialect: Any) -> None:
        """Of `dialect` are the bounds here, as `standin_dialect.Dialect` tells them."""
        self.options, self._bounds = options, dialect
        self._rate = Rate(dialect.MESSAGES_PER_S, 1.0)  # of all clients together
        self._connects = Rate(*dialect.CONNECTS) if dialect.CONNECTS is not None else None
        self._ahead_ms = 0  # of the clock: what has elapsed on demand
        self._parent = Parent()
        self.faults = Faults()
        self.links: dict[int, tuple[Link, S]] = {}
        self._closed: list[dict[str, object]] = []
        self._armed: list[tuple[int, Mapping[str, str]]] = []  # faults that wait for a number of messages
        self._attempts = 0
        self._loaded: list[Message] = []
        self._passed = 0
        self._requests: dict[str, int] = {}
        self._lossless = not options.synthetic and not options.speed
        self._timeline = Timeline(self.messages, options.speed, options.loop)
        self._playing: asyncio.Task[None] | None = None
        self._sent: SentFile | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._stopped = False
        self.streams: frozenset[str] = frozenset()  # that the source brings
        self.symbols: tuple[str, ...] = ()
        try:
            for query in options.faults:
                self._fault(split(f"?{query}")[1])
        except FaultError as error:
            raise ConfigError(f"--fault: {error}") from None

    # what an exchange says

    @abstractmethod
    def open_source(self) -> None:
        """Learn what the source holds: `streams`, `symbols`. Raises ConfigError."""

    def messages(self) -> Iterator[Message]:
        """The source, from its beginning; read once if it is to be kept."""
        if not self.options.preload:
            return self._read_source()
        self._loaded = self._loaded or list(self._read_source())
        return iter(self._loaded)

    @abstractmethod
    def _read_source(self) -> Iterator[Message]:
        """The source, as it is read."""

    @abstractmethod
    def passing(self, messages: Sequence[Message]) -> None:
        """These are about to be sent."""

    @abstractmethod
    def begin(self) -> None:
        """The timeline begins once more."""

    @abstractmethod
    def is_socket(self, request: Request) -> bool:
        """Whether a request wants a WebSocket."""

    @abstractmethod
    def join(self, link: Link, target: str) -> S:
        """A connection begins. Raises RefusedError."""

    @abstractmethod
    def answer(self, link: Link, session: S, text: str | bytes) -> None:
        """Send what a client's frame is answered with. Raises RefusedError."""

    @abstractmethod
    def send(self, link: Link, session: S, messages: Sequence[Message], kept: Sequence[Message]) -> None:
        """Send the messages that the connection has subscribed to, and that were kept: the others get lost."""

    @abstractmethod
    def send_shutdown(self, link: Link, session: S) -> None:
        """Tell that the server goes down. Raises FaultError where the exchange does not."""

    @abstractmethod
    async def request(self, path: str, params: dict[str, str]) -> Answer:
        """Answer a request over REST."""

    def now_ms(self) -> int:
        """The exchange's time."""
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def beat(self) -> None:
        """Called once a second: ends the connections that are too old."""
        bound = self._bounds.LIFETIME_S
        for link, _ in list(self.links.values()):
            if bound is not None and self.now_ms() > link.began_ms + bound * 1000:
                link.end(GOING_AWAY, "the connection is too old")

    def book_stream(self, symbol: str) -> str:
        """The stream, as `drop` takes it, that brings a symbol's book."""
        return f"{symbol.lower()}@depth"

    # running

    def run(self) -> None:
        logging.getLogger("websockets").setLevel(logging.WARNING)
        try:
            asyncio.run(self._run())
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
                raise
            raise LockedError(f"cannot listen on {self.options.host}:{self.options.port}: {error}") from None

    def stop(self) -> None:
        self._stopped = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sent = SentFile(self.options.sent) if self.options.sent else None
        self.open_source()
        async with self._listen() as server:
            port = next(iter(server.sockets)).getsockname()[1]
            log.info("%s listening on %s:%d", self.options.exchange, self.options.host, port)
            while not self._stopped and not self._parent.is_gone():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), 1.0)
                if self._playing is not None and self._playing.done():
                    self._playing.result()  # a broken source ends the process
                self.beat()
            if self._playing is not None:
                self._playing.cancel()
        if self._sent is not None:
            self._sent.close()

    def _listen(self) -> Server:
        options = self.options
        context = None
        if options.tls_cert is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(options.tls_cert, options.tls_key)
        return serve(
            self._talk,
            options.host,
            options.port,
            process_request=self._request,
            create_connection=Link,
            compression=None,
            server_header=None,
            ping_interval=options.ping_s or None,
            ping_timeout=options.pong_timeout_s,
            open_timeout=120,  # late REST answers are given within it
            close_timeout=1,
            write_limit=256 * 1024,
            ssl=context,
        )

    # the timeline

    def _start_if_wanted(self) -> None:
        if self._playing is not None:
            return
        wanted = {name for _, session in self.links.values() for name in session.streams}
        if len(wanted & self.streams) >= self.options.start_after:
            self._playing = asyncio.create_task(self._play())

    async def _play(self) -> None:
        await asyncio.sleep(START_GRACE_S)
        await self._timeline.run(self._deliver, self._is_held, self.begin)
        log.info("%s timeline has ended: %d messages", self.options.exchange, self._timeline.delivered)

    def _is_held(self) -> bool:
        """Paused; or nothing shall be lost, and no one is there."""
        if self.faults.paused or not self._lossless:
            return self.faults.paused
        return not any(
            link.is_open and not self.streams.isdisjoint(session.streams) for link, session in self.links.values()
        )

    async def _deliver(self, messages: Sequence[Message]) -> None:
        """Send messages to those who want them; at full speed wait until all readers have room."""
        while messages:
            while self._is_held():
                await asyncio.sleep(POLL_S)
            room = min((after - self._passed for after, _ in self._armed), default=len(messages))
            part, messages = messages[:room], messages[room:]
            self.passing(part)
            streamed = [message for message in part if message.stream]
            self._send(streamed, self.faults.passing(streamed))
            self._passed += len(part)
            for link, _ in list(self.links.values()) if self._lossless else ():
                with contextlib.suppress(OSError):
                    await link.drain()
            self._fire()

    def _send(self, messages: Sequence[Message], kept: Sequence[Message]) -> None:
        for link, session in list(self.links.values()):
            self.send(link, session, messages, kept)
            if not self._lossless and link.is_behind:
                log.warning("%s connection %d reads too slowly: cut", self.options.exchange, link.number)
                link.transport.abort()

    # faults

    def _fault(self, params: Mapping[str, str]) -> None:
        """Make a fault happen, or arm it. Raises FaultError."""
        check(params)
        after = number(params, "after", 0)
        if after > 0:
            self._armed.append((self._passed + after, {**params, "after": "0"}))
            return
        do = params.get("do", "")
        targets = [pair for pair in self.links.values() if params.get("conn") in (None, str(pair[0].number))]
        if do == "cut":
            for link, _ in targets:
                link.cut(reset="reset" in params)
        elif do == "close":
            for link, _ in targets:
                link.end(number(params, "code", 1000), params.get("reason", ""))
        elif do == "garble":
            opcode, payload = garbled(params)
            for link, _ in targets:
                link.room_bytes += len(payload)
                link.write(opcode, [payload])
        elif do == "elapse":
            self.beat()
            self._ahead_ms += round(seconds(params, "seconds", 1.0) * 1000)
            self.beat()
        elif do == "shutdown":
            for link, session in targets:
                self.send_shutdown(link, session)
        elif do == "clear":
            self.faults, self._armed = Faults(), []
        else:
            symbol = params.get("symbol", "") if do == "drop" and not params.get("stream") else ""
            self.faults.change({**params, "stream": self.book_stream(symbol)} if symbol else params)

    def _fire(self) -> None:
        due = [params for after, params in self._armed if after <= self._passed]
        self._armed = [(after, params) for after, params in self._armed if after > self._passed]
        for params in due:
            self._fault(params)

    # requests

    async def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a REST request, or let a WebSocket in (None)."""
        assert isinstance(connection, Link)
        path, params = split(request.path)
        if path == "/standin/status":
            return _response(Answer(200, orjson.dumps(self.status())))
        if path == "/standin/fault":
            return _response(self._fault_answer(params))
        if not self.is_socket(request):
            self._requests[path] = self._requests.get(path, 0) + 1
            return _response(await self.request(path, params))
        self._attempts += 1
        status = self.faults.refused()
        if self._connects is not None and self._connects.is_over(self.now_ms() / 1000):
            status = status or http.HTTPStatus.TOO_MANY_REQUESTS
        if status:
            if status < 0:
                connection.cut(reset=True)
            return _response(Answer(max(status, 400), b""))
        rate = self._rate if self._bounds.MESSAGES_TOGETHER else Rate(self._bounds.MESSAGES_PER_S, 1.0)
        connection.join(self._attempts, rate, self.options.buffer_bytes, self._sent)
        connection.began_ms = self.now_ms()
        return None

    def _fault_answer(self, params: Mapping[str, str]) -> Answer:
        try:
            self._fault(params)
        except FaultError as error:
            return Answer(400, orjson.dumps({"code": -1, "msg": str(error)}))
        return Answer(200, b'{"ok":true}')

    # connections

    async def _talk(self, connection: ServerConnection) -> None:
        assert isinstance(connection, Link) and connection.request is not None
        log.debug("%s connection %d open: %s", self.options.exchange, connection.number, connection.request.path)
        try:
            session = self.join(connection, connection.request.path)
            self.links[connection.number] = connection, session
            self._start_if_wanted()
            async for text in connection:
                if self.faults.slow_s:
                    await asyncio.sleep(self.faults.slow_s)
                if connection.flooded or self._is_ignored(text):
                    continue  # flooded: it is being closed
                self.answer(connection, session, text)
                self._start_if_wanted()
        except RefusedError as error:
            await connection.close(error.code, error.reason)
        except ConnectionClosed:
            pass
        finally:
            self.links.pop(connection.number, None)
            self._closed = [*self._closed, connection.account()][-CLOSED_MAX:]

    def _is_ignored(self, text: str | bytes) -> bool:
        most: int = min(self._bounds.IGNORED_BYTES, self.faults.ignored_bytes)
        return len(text.encode() if isinstance(text, str) else text) > most

    def status(self) -> dict[str, object]:
        """What `/standin/status` tells."""
        if self._sent is not None:
            self._sent.flush()
        open_ones = [{**link.account(), "streams": list(session.streams)} for link, session in self.links.values()]
        return {
            "exchange": self.options.exchange,
            "connections": open_ones,
            "closed": self._closed,
            "attempts": self._attempts,
            "rest": self._requests,
            "started": self._playing is not None,
            "ended": self._timeline.ended,
            "paused": self.faults.paused,
            "passed": self._passed,
            "symbols": self.symbols,
            "streams": sorted(self.streams),
        }


def split(target: str) -> tuple[str, dict[str, str]]:
    """Path and parameters of a request's address."""
    path, _, query = target.partition("?")
    return path, dict(parse_qsl(query, keep_blank_values=True))


def _response(answer: Answer) -> Response:
    headers = Headers(answer.headers)
    headers["Content-Type"] = "application/json;charset=UTF-8"
    headers["Content-Length"] = str(len(answer.body))
    headers["Connection"] = "close"
    return Response(answer.status, http.HTTPStatus(answer.status).phrase, headers, answer.body)
