"""Stand in for an exchange: its own WebSocket and REST protocol, out of a recording, an archive or a generator.

python -m processes.standin binance --port 9443 [--recording FILE ...] [--speed 1|N|max] [--loop] [fault options]

TCP    binds   --host:--port        /ws, /stream (WebSocket), /api/v3 (REST), /standin/status, /standin/fault
files  reads   --recording          or the exchange's folder in --archive
file   writes  --sent               one JSON line per data frame sent
"""

import asyncio
import contextlib
import errno
import http
import itertools
import logging
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import orjson
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from common import standin_options
from common.exchanges import binance_standin as dialect
from common.exchanges import binance_standin_rest as rest
from common.exchanges.binance_standin_market import Generator
from common.faults import TEXT, FaultError, Faults, check, garbled, number
from common.link import POLICY_VIOLATION, Link, SentFile
from common.process import ConfigError, LockedError, Parent, run_service
from common.recording import Message, outline, read_archive, read_recordings
from common.standin_options import Options
from common.timeline import POLL_S, Timeline

log = logging.getLogger("standin")

START_GRACE_S = 0.2
"""Between the subscription that starts the timeline and its first message, so that the whole of a burst is in."""

HEAD_MESSAGES = 20_000
"""How far a source is looked through for its streams, symbols and first books."""

CLOSED_MAX = 1_000
"""Accounts of ended connections that are kept."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    return run_service("standin", lambda: Standin(standin_options.parse(arguments)))


class Standin:
    """The stand-in exchange on one port."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._parent = Parent()
        self.faults = Faults()
        self.links: dict[int, tuple[Link, dialect.Session]] = {}
        self._closed: list[dict[str, object]] = []
        self._armed: list[tuple[int, Mapping[str, str]]] = []  # faults that wait for a number of messages
        self._attempts = 0
        self._passed = 0
        self._requests: dict[str, int] = {}
        self._weights = rest.Weights(options.weight_limit)
        self._lossless = not options.synthetic and not options.speed
        self._timeline = Timeline(self._source, options.speed, options.loop)
        self._loaded: list[Message] = []
        self._generator: Generator | None = None
        self._playing: asyncio.Task[None] | None = None
        self._sent: SentFile | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._stopped = False
        try:
            for query in options.faults:
                self._fault(rest.split(f"?{query}")[1])
        except FaultError as error:
            raise ConfigError(f"--fault: {error}") from None

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
        self._open_source()
        async with self._listen() as server:
            port = next(iter(server.sockets)).getsockname()[1]
            log.info("%s listening on %s:%d", self.options.exchange, self.options.host, port)
            while not self._stopped and not self._parent.is_gone():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), 1.0)
                if self._playing is not None and self._playing.done():
                    self._playing.result()  # a broken source ends the process
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

    # the source

    def _open_source(self) -> None:
        if self.options.synthetic:
            now_us = time.time_ns() // 1000
            self._generator = Generator(self.options.symbols, self.options.seed, self.options.rate, now_us)
            self._outline = self._generator.outline
        else:
            try:
                self._outline = outline(itertools.islice(self._source(), HEAD_MESSAGES))
            except ValueError as error:
                raise ConfigError(f"the source cannot be read: {error}") from None
            if not self._outline.streams:
                raise ConfigError("the source holds no messages (of these symbols)")
        self._market = rest.Market(self._outline.symbols, self._outline.snapshots, self.options.weight_limit)
        if self._generator is not None:
            self._market.add(self._generator.begin(now_us))
            self._playing = asyncio.create_task(self._generate(self._generator))

    def _source(self) -> Iterator[Message]:
        if not self.options.preload:
            return self._read_source()
        self._loaded = self._loaded or list(self._read_source())
        return iter(self._loaded)

    def _read_source(self) -> Iterator[Message]:
        options = self.options
        if options.archive is not None:
            messages = read_archive(options.archive, options.symbols, dialect.stream_of)
        else:
            messages = read_recordings(options.recordings, dialect.stream_of)
        if not options.symbols:
            return messages
        return (message for message in messages if message.symbol in options.symbols)

    async def _generate(self, generator: Generator) -> None:
        while True:
            await asyncio.sleep(POLL_S / 2)
            now_us = time.time_ns() // 1000
            if self.faults.paused:
                generator.skip(now_us)
            else:
                await self._deliver(generator.advance(now_us))

    def _start_if_wanted(self) -> None:
        if self._playing is not None:
            return
        wanted = {name for _, session in self.links.values() for name in session.streams}
        if len(wanted & self._outline.streams) >= self.options.start_after:
            self._playing = asyncio.create_task(self._play())

    async def _play(self) -> None:
        await asyncio.sleep(START_GRACE_S)
        await self._timeline.run(self._deliver, self._is_held, self._market.begin)
        log.info("%s timeline has ended: %d messages", self.options.exchange, self._timeline.delivered)

    def _is_held(self) -> bool:
        """Paused; or nothing shall be lost, and no one is there."""
        if self.faults.paused or not self._lossless:
            return self.faults.paused
        streams = self._outline.streams
        return not any(
            link.is_open and not streams.isdisjoint(session.streams) for link, session in self.links.values()
        )

    async def _deliver(self, messages: Sequence[Message]) -> None:
        """Send messages to those who want them; at full speed wait until all readers have room."""
        while messages:
            while self._is_held():
                await asyncio.sleep(POLL_S)
            room = min((after - self._passed for after, _ in self._armed), default=len(messages))
            part, messages = messages[:room], messages[room:]
            self._market.add(part)
            self._send(self.faults.passing([message for message in part if message.stream]))
            self._passed += len(part)
            for link, _ in list(self.links.values()) if self._lossless else ():
                with contextlib.suppress(OSError):
                    await link.drain()
            self._fire()

    def _send(self, messages: Sequence[Message]) -> None:
        for link, session in list(self.links.values()):
            link.write(TEXT, dialect.forms(session, messages), stream=True)
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
        elif do == "shutdown":
            stream, data = dialect.shutdown_event(time.time_ns() // 1_000_000)
            for link, session in targets:
                link.write(TEXT, [dialect.combine(stream, data) if session.combined else data])
        elif do == "clear":
            self.faults, self._armed = Faults(), []
        else:
            self.faults.change(params)

    def _fire(self) -> None:
        due = [params for after, params in self._armed if after <= self._passed]
        self._armed = [(after, params) for after, params in self._armed if after > self._passed]
        for params in due:
            self._fault(params)

    # requests

    async def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a REST request, or let a WebSocket in (None)."""
        assert isinstance(connection, Link)
        path, params = rest.split(request.path)
        if path == "/standin/status":
            return _response(rest.Answer(200, orjson.dumps(self.status())))
        if path == "/standin/fault":
            return _response(self._fault_answer(params))
        if dialect.parse_path(request.path) is None:
            return _response(await self._rest(path, params))
        self._attempts += 1
        status = self.faults.refused()
        if status:
            if status < 0:
                connection.cut(reset=True)
            return _response(rest.Answer(max(status, 400), b""))
        connection.join(self._attempts, dialect.MESSAGES_PER_S, self.options.buffer_bytes, self._sent)
        return None

    def _fault_answer(self, params: Mapping[str, str]) -> rest.Answer:
        try:
            self._fault(params)
        except FaultError as error:
            return rest.error(400, -1, str(error))
        return rest.Answer(200, b'{"ok":true}')

    async def _rest(self, path: str, params: Mapping[str, str]) -> rest.Answer:
        now_ms = time.time_ns() // 1_000_000
        self._requests[path] = self._requests.get(path, 0) + 1
        used = self._weights.count(rest.weight(path, params), now_ms)
        answer: rest.Answer | None = None
        for fault in self.faults.rest_faults(path):
            if fault.kind == "rest-late":
                await asyncio.sleep(fault.seconds)
            elif fault.kind == "rest-429":
                answer = rest.too_many("Too many requests.", max(1, round(fault.seconds)))
            else:
                answer = rest.Answer(fault.status, fault.body.encode())
        answer = answer or used or self._market.answer(path, params, now_ms)
        return answer._replace(headers={**answer.headers, "X-MBX-USED-WEIGHT-1M": str(self._weights.used)})

    # connections

    async def _talk(self, connection: ServerConnection) -> None:
        assert isinstance(connection, Link) and connection.request is not None
        address = dialect.parse_path(connection.request.path)
        assert address is not None  # else it had been a REST request
        log.debug("%s connection %d open: %s", self.options.exchange, connection.number, connection.request.path)
        try:
            session = dialect.Session(address)
            self.links[connection.number] = connection, session
            self._start_if_wanted()
            async for text in connection:
                if self.faults.slow_s:
                    await asyncio.sleep(self.faults.slow_s)
                if connection.flooded:
                    continue  # it is being closed
                connection.write(TEXT, [session.answer(text)])
                self._start_if_wanted()
        except dialect.TooManyStreamsError:
            await connection.close(POLICY_VIOLATION, "Too many streams")
        except ConnectionClosed:
            pass
        finally:
            self.links.pop(connection.number, None)
            self._closed = [*self._closed, connection.account()][-CLOSED_MAX:]

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
            "symbols": self._outline.symbols,
            "streams": sorted(self._outline.streams),
        }


def _response(answer: rest.Answer) -> Response:
    headers = Headers(answer.headers)
    headers["Content-Type"] = "application/json;charset=UTF-8"
    headers["Content-Length"] = str(len(answer.body))
    headers["Connection"] = "close"
    return Response(answer.status, http.HTTPStatus(answer.status).phrase, headers, answer.body)


if __name__ == "__main__":
    sys.exit(main())
