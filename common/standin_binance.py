"""The stand-in of Binance spot: recordings, archives, or a market of its own, with REST answers that follow them."""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence

from websockets.http11 import Request

from . import exchanges
from .exchanges import binance_standin as dialect
from .exchanges import binance_standin_rest as rest
from .exchanges.binance_standin_market import Generator
from .faults import TEXT
from .link import Link
from .process import ConfigError
from .recording import Message, outline, read_archive, read_recordings
from .standin_options import Options
from .standin_server import Answer, StandinServer
from .timeline import POLL_S

HEAD_MESSAGES = 20_000
"""How far a source is looked through for its streams, symbols and first books."""


class BinanceStandin(StandinServer[dialect.Session]):
    def __init__(self, options: Options) -> None:
        self._weights = rest.Weights(options.weight_limit)
        super().__init__(options, exchanges.dialect("binance"))

    # the source

    def open_source(self) -> None:
        options, generator, now_us = self.options, None, time.time_ns() // 1000
        if options.synthetic:
            generator = Generator(options.symbols, options.seed, options.rate, now_us)
            found = generator.outline
        else:
            try:
                found = outline(itertools.islice(self.messages(), HEAD_MESSAGES))
            except ValueError as error:
                raise ConfigError(f"the source cannot be read: {error}") from None
            if not found.streams:
                raise ConfigError("the source holds no messages (of these symbols)")
        self.streams, self.symbols = found.streams, found.symbols
        self._market = rest.Market(found.symbols, found.snapshots, options.weight_limit)
        if generator is not None:
            self._market.add(generator.begin(now_us))
            self._playing = asyncio.create_task(self._generate(generator))

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

    def passing(self, messages: Sequence[Message]) -> None:
        self._market.add(messages)

    def begin(self) -> None:
        self._market.begin()

    # connections

    def is_socket(self, request: Request) -> bool:
        return dialect.parse_path(request.path) is not None

    def join(self, link: Link, target: str) -> dialect.Session:
        address = dialect.parse_path(target)
        assert address is not None  # else it had been a REST request
        return dialect.Session(address)

    def answer(self, link: Link, session: dialect.Session, text: str | bytes) -> None:
        link.write(TEXT, [session.answer(text)])

    def send(self, link: Link, session: dialect.Session, messages: Sequence[Message], kept: Sequence[Message]) -> None:
        link.write(TEXT, dialect.forms(session, kept), stream=True)

    def send_shutdown(self, link: Link, session: dialect.Session) -> None:
        stream, data = dialect.shutdown_event(time.time_ns() // 1_000_000)
        link.write(TEXT, [dialect.combine(stream, data) if session.combined else data])

    # REST

    async def request(self, path: str, params: dict[str, str]) -> Answer:
        now_ms = time.time_ns() // 1_000_000
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
        return Answer(answer.status, answer.body, {**answer.headers, "X-MBX-USED-WEIGHT-1M": str(self._weights.used)})
