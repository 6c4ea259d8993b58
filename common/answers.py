"""Answers to what history is asked: one request frame in, a header and payload frames out. No sockets.

    [request, JSON]  →  [header, JSON][payload]…      what each op answers: ARCHITECTURE.md, History

The server's workers use it, and a client that reads a directory by itself. It keeps no state but caches, writes
nothing, and never raises: what goes wrong is a header with an `error`, never something that looks like data.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import orjson

from . import exchanges as adapters
from . import requests
from .adapter import Adapter, version
from .bulk import Bulk, Part
from .catalogue import Names, instruments
from .codec import CodecError, MissingPackageError
from .coverage import Coverage
from .disk import Disk
from .errors import ArchivistError
from .events import Update, body
from .naming import may_be_name, meant
from .normaliser import Normaliser
from .output import time_text
from .pages import Header, Pages
from .process import boot_id, holds
from .reader import Reader
from .record import RecordError
from .requests import Request, refusal
from .storage import ARCHIVED, ARCHIVER_LOCK, Archived, read_archived

log = logging.getLogger("history")

WARM_FILES = 20_000
"""Sealed files that are looked at before anybody asks."""

_INT64 = 1 << 63

Payload = Sequence[bytes | Part]
Answer = tuple[Header, Payload]


class Exchange:
    """What is asked of one exchange's archive. Its readers keep what they know of the files."""

    def __init__(self, storage: Path, adapter: Adapter) -> None:
        self.adapter, self.directory = adapter, storage / adapter.NAME
        self.reader = Reader(storage, adapter)
        self.coverage = Coverage(self.reader, adapter)
        self.names = Names(self.reader, adapter)
        self.bulk = Bulk(self.reader, adapter)
        self.pages = Pages(self.reader, adapter, self.coverage.late_until)


class Answers:
    """Answers out of one storage directory. Not for several threads.

    `endpoints` are where each exchange's live events are published, as (endpoint, public key or None).
    """

    def __init__(
        self,
        storage: Path,
        endpoints: Mapping[str, tuple[str, str | None]] | None = None,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._storage, self._endpoints, self._clock = storage, dict(endpoints or {}), clock
        self._exchanges: dict[str, Exchange] = {}
        self._page_bytes = requests.PAGE_BYTES_MAX
        self._about: Mapping[str, Any] = {}

    def warm(self) -> Iterator[None]:
        """Look at what is archived before anybody asks, a symbol at a time: for who answers the first requests.

        What cannot be read now is told to who asks for it.
        """
        left = WARM_FILES
        for name in self._names():
            with suppress(ArchivistError, CodecError, RecordError, OSError):
                reader = self._exchange(name).reader
                reader.run(reader.complete())
                for symbol in reader.symbols():
                    yield
                    left -= len(reader.files(symbol))
                    if left < 0:
                        return

    def answer(self, frame: bytes) -> list[bytes]:
        """The frames of the reply: a header, then what it announces."""
        header, payload = self.unread(frame)
        try:
            return [header, *(each.read() if isinstance(each, Part) else each for each in payload)]
        except ArchivistError as error:
            return failed(frame, error.code, str(error))

    def unread(
        self, frame: bytes, *, page_bytes: int = requests.PAGE_BYTES_MAX, about: Mapping[str, Any] | None = None
    ) -> tuple[bytes, Payload]:
        """The same; parts of files are for the caller to read.

        `page_bytes` is the most that a page or a part of a file may hold; `about` is what `status` says of the server.
        """
        self._page_bytes, self._about = page_bytes, about or {}
        request_id, op = None, None
        try:
            document = requests.read(frame)
            request_id, op = requests.identity(document)
            header, payload = self._answer(requests.parse(document, self._clock()))
        except ArchivistError as error:
            return _failed(request_id, op, error.code, str(error))
        except MissingPackageError as error:
            return _failed(request_id, op, "unsupported_format", f"who answers lacks a package: {error}")
        except (CodecError, RecordError) as error:
            return _failed(request_id, op, "corrupt", str(error))
        except OSError as error:
            return _failed(request_id, op, "internal", f"the archive cannot be read: {error}")
        except Exception as error:
            log.exception("request failed: %r", frame[:500])
            return _failed(
                request_id, op, "internal", f"a fault of ours, {type(error).__name__}: the server's log has it"
            )
        return orjson.dumps({"id": request_id, "op": op, **header}), payload

    def _answer(self, request: Request) -> Answer:
        if isinstance(request, requests.Exchanges):
            return {"exchanges": [self._about_exchange(name) for name in self._names()]}, []
        if isinstance(request, requests.Status):
            return self._status(), []
        exchange = self._exchange(request.exchange)
        complete = exchange.reader.complete()  # before the files
        with exchange.reader.at_once():
            header, payload = self._answer_of(exchange, _spelled(exchange, request, complete), complete)
        return {"complete_to": complete, **header}, payload

    def _answer_of(self, exchange: Exchange, request: Request, complete: int) -> Answer:
        if isinstance(request, requests.Symbols):
            _check_symbols(exchange, request.symbols or ())
            return {"symbols": request.symbols or exchange.reader.symbols()}, []
        if isinstance(request, requests.Instruments):
            _check_symbols(exchange, request.symbols or ())
            of = exchange.reader, exchange.adapter, request.symbols, request.at, complete
            return {"instruments": instruments(*of)}, []
        if isinstance(request, requests.Book):
            _check_symbols(exchange, (request.symbol,))
            return _book(exchange, request, complete)
        if isinstance(request, requests.Slice):
            _check_symbols(exchange, request.symbols)
            return exchange.pages.page(request, complete, min(request.max_bytes, self._page_bytes))
        if isinstance(request, requests.Plan):
            _check_symbols(exchange, request.symbols)
            return exchange.bulk.plan(request, *exchange.pages.span(request, complete)), []
        if isinstance(request, requests.Chunk):
            header, part = exchange.bulk.chunk(request, self._page_bytes)
            return header, [part]
        if isinstance(request, requests.Coverage | requests.Gaps):
            _check_symbols(exchange, request.symbols)
            times = -_INT64 if request.start is None else request.start, _INT64 if request.end is None else request.end
            asked = request.symbols, request.channels, times, complete
            if isinstance(request, requests.Gaps):
                return {"gaps": exchange.coverage.gaps(*asked)}, []
            return {"coverage": exchange.coverage.intervals(*asked)}, []
        raise refusal("unknown_op", "this op asks for no exchange")

    # -- the catalogue -----------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        """The exchanges that are recorded here, or are going to be."""
        return [name for name in adapters.names() if name in self._endpoints or (self._storage / name).is_dir()]

    def _exchange(self, name: str) -> Exchange:
        if name not in self._exchanges:
            names = self._names()
            if name not in names:
                known = ", ".join(names) or "none yet"
                raise refusal("unknown_exchange", f"no archive of exchange {name[:64]!r} here: there are {known}")
            self._exchanges[name] = Exchange(self._storage, cast(Adapter, adapters.get(name)))
        return self._exchanges[name]

    def _about_exchange(self, name: str) -> Header:
        exchange = self._exchange(name)
        events, key = self._endpoints.get(name, (None, None))
        return {
            "name": name,
            "events": events,
            "events_key": key,
            "complete": exchange.reader.complete(),
            "normaliser": version(exchange.adapter),
        }

    def _status(self) -> Header:
        processes = {}
        for name in self._names():
            directory = self._storage / name
            archived = read_archived(Disk(), directory)
            said = dict(archived.processes)
            if isinstance(archiver := said.get("archiver"), dict):
                said["archiver"] = {**self._life(directory, archiver, archived), **archiver}
            processes[name] = {**said, "complete": archived.complete, "fsynced": archived.fsynced}
        return {"processes": processes, "history": dict(self._about)}

    def _life(self, directory: Path, said: Mapping[str, Any], archived: Archived) -> Header:
        """Whether the archiver that spoke last still runs, by its lock, and how long ago it spoke."""
        try:
            is_alive = holds(directory / ARCHIVER_LOCK, said.get("pid", 0))
            age_s = (self._clock() - Disk().mtime_ns(directory / ARCHIVED)) / 10**9
        except OSError:
            return {"state": "unknown"}
        is_here = archived.boot_id == boot_id()
        state = "running" if is_alive else "stopped" if is_here else "stopped, or on another machine"
        return {"state": state, "said_s_ago": round(age_s, 1)}


def failed(frame: bytes, code: str, message: str) -> list[bytes]:
    """The reply to a request that was not worked on."""
    try:
        request_id, op = requests.identity(requests.read(frame))
    except ArchivistError:
        request_id, op = None, None
    return [_failed(request_id, op, code, message)[0]]


def _failed(request_id: Any, op: Any, code: str, message: str) -> tuple[bytes, Payload]:
    return orjson.dumps({"id": request_id, "op": op, "error": {"code": code, "message": message}}), []


def _spelled(exchange: Exchange, request: Any, complete: int) -> Any:
    """The request with the exchange's own symbols where it has unified names and patterns."""
    is_one, adapter = isinstance(request, requests.Book), exchange.adapter
    named = (request.symbol,) if is_one else getattr(request, "symbols", None) or ()
    known = frozenset(exchange.reader.symbols()) if named else frozenset()
    if all(symbol in known or not may_be_name(symbol) for symbol in named):
        return request
    names = exchange.names.pairs(complete)
    own, unknown = meant(adapter.NAME, named, lambda text: text in known or not may_be_name(text), names, known)
    for sentence in unknown.values():
        raise refusal("unknown_symbol", f"{sentence} (`instruments` tells what there is)")
    if len(own) > (1 if is_one else requests.SYMBOLS_MAX) and not isinstance(request, requests.Symbols):
        raise refusal("too_many_symbols", f"{', '.join(named)} means {len(own)} symbols: ask for fewer")
    return replace(request, symbol=own[0]) if is_one else replace(request, symbols=own)


def _check_symbols(exchange: Exchange, symbols: tuple[str, ...]) -> None:
    """A symbol is one of those that there are, never a path."""
    known = frozenset(exchange.reader.symbols()) if symbols else frozenset()
    for symbol in symbols:
        if symbol not in known:
            hint = requests.hint(symbol, sorted(known))
            message = f"no records of symbol {requests.shown(symbol)} here{hint}: `symbols` names all that there are"
            raise refusal("unknown_symbol", message)


def _book(exchange: Exchange, request: requests.Book, complete: int) -> Answer:
    """The book after the last record received up to a moment."""
    reader, symbol = exchange.reader, request.symbol
    at = complete if request.at is None else min(reader.seq_at(request.at + 1, [symbol]) - 1, complete)
    normaliser, latest = reader.latest(symbol, at, "book")
    state = normaliser.symbols.get(symbol)
    of_topic = state.channels.get("book") if state is not None else None
    if state is None or of_topic is None or not state.sync.synced:
        moment = f"record {at}" if request.at is None else time_text(request.at)
        message = (
            f"the order book of {symbol} is not in sync at {moment}; `coverage` lists the intervals in which it is"
        )
        raise refusal("no_book", message)
    bids, asks = state.sync.book.top(request.depth)
    header = {
        "seq": of_topic.last,
        "ts_recv": of_topic.ts,
        "ts_event": latest["ts_event"] if latest else _ts_event(exchange, symbol, of_topic.last),
        "last_id": str(state.sync.id),
    }
    return header, [orjson.dumps({"bids": bids, "asks": asks})]


def _ts_event(exchange: Exchange, symbol: str, seq: int) -> int | None:
    """`ts_event` of the last book event of a record."""
    line = next(exchange.reader.lines(symbol, seq - 1, seq), None)
    work = None if line is None else Normaliser(exchange.adapter).work(line)
    if isinstance(work, tuple) and isinstance(work[3], Update):  # a frame that says one thing
        return work[3].ts_event
    for _, found in exchange.reader.messages([symbol], seq - 1, seq, ["book"]):
        time: int | None = orjson.loads(body(found[-1]))["ts_event"]
        return time
    return None
