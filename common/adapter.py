"""What an exchange's file in `exchanges/` holds: the seam between one exchange's ways and everything else.

It reads as a table of facts. What is usual stands in DEFAULTS; a file says what is otherwise, and what of it changes
from one of its VARIANTS to the other.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import orjson

from .book import BookRule
from .events import Action, Parsed, Reply, Request, Snapshot, Update

T = TypeVar("T")


class Adapter(Protocol):
    """A module of `exchanges/`. Pure; nothing in it raises for what an exchange may send."""

    NAME: str
    VERSION: int  # of what normalise gives: raised when the same record gives other events

    WS_URL: str
    REST_URL: str
    STREAMS_PER_CONNECTION: int
    STREAMS_BYTES: int  # of their names together, each with quotes and comma
    STREAMS_PER_SUBSCRIBE: int
    SUBSCRIBE_BYTES: int  # of one frame that subscribes: longer ones may be ignored without a word
    MESSAGE_INTERVAL_S: float  # between two frames that we send on a connection
    MESSAGES_TOGETHER: bool  # that interval is between the frames of all connections: the exchange counts by address
    AGAIN_INTERVAL_S: float  # between two rounds of asking again for streams that are silent
    CONNECTS_PER_5_MIN: int
    CONNECT_INTERVAL_S: float  # between two connections
    WEIGHT_PER_MIN: int  # of REST requests
    REQUEST_INTERVAL_S: float  # between two of them

    CHANNELS: tuple[str, ...]  # what it offers, out of events.CHANNELS
    DENSE: frozenset[str]  # channels whose ids count up by one for each symbol: a hole is a loss
    BACKFILLS: frozenset[str]  # of these, what can be fetched by id
    REPEATS: frozenset[str]  # channels of which a subscription begins with events that were told before
    SHARED: frozenset[str]  # channels of which several updates may bear one id: one time, or one step of the exchange
    BOOK: BookRule
    WHOLE: Mapping[str, str]  # for each channel, what can be known of holes: proven, detected, else unverifiable

    ROUTES: tuple[str, ...]  # ways to spread streams over paths, the likeliest first; none: each has one path
    CANDLE_INTERVALS: tuple[str, ...]  # in its own names
    CANDLE_DEFAULT: str  # a minute
    SNAPSHOT_DEPTH_MAX: int

    PING: bytes | None  # the text frame that keeps a connection alive, every PING_INTERVAL_S
    PONG: bytes | None  # the answer to it, where that is not JSON
    PING_INTERVAL_S: float
    MERGED: Mapping[str, tuple[str, ...]]  # channels out of one stream whose frames name only fields that have changed
    CATALOGUE: tuple[str, ...]  # the REST paths that list all instruments; none named: instruments_request([])
    POLLS: dict[str, float]  # channels that are asked for over REST, and how often in seconds

    loads: Callable[[bytes], Any]  # how its payloads are decoded: numbers may need their digits
    count: Callable[[Any], int | None] | None  # a message's number on its connection, where each has one
    inflate: Callable[[bytes, int], bytes] | None  # a binary frame's JSON text, within a bound; raises ValueError
    ENCODING: str  # how such frames are compressed

    def symbol_error(self, symbol: str) -> str | None: ...
    def streams(self, symbol: str, channels: list[str], candle_intervals: list[str]) -> dict[str, tuple[str, str]]: ...
    def path(self, stream: str) -> str: ...
    def routes(self, stream: str) -> tuple[str, ...]: ...  # the paths that may serve it, one for each of ROUTES
    def subscribe(self, names: list[str], request_id: int) -> list[bytes]: ...
    def unsubscribe(self, names: list[str], request_id: int) -> list[bytes]: ...
    def reply(self, message: Any) -> Reply | None: ...
    def answer(self, message: Any) -> bytes | None: ...
    def is_shutdown(self, message: Any) -> bool: ...
    def parse(self, message: Any) -> Parsed | None: ...
    def request(self, action: Action, depth: int) -> Request: ...
    def snapshot_frame(self, symbol: str, request_id: int) -> bytes: ...
    def index_of(self, symbol: str) -> str | None: ...  # the index of which INDEX updates are part of its `mark` events
    def inquiries(self, symbols: list[str]) -> list[list[str]]: ...  # the symbols of each instruments_request
    def instruments_request(self, symbols: list[str]) -> Request: ...
    def trading_symbols(self, body: bytes) -> dict[str, str]: ...
    def parse_rest(self, url: str, body: bytes) -> Snapshot | list[Update] | None: ...


FAULTS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError)
"""What a mistake in an exchange's file, or in the normaliser, raises: it costs that record's events, no more."""


SHOWN_CHARS = 60
"""Of an entry that has no symbol by which it could be named."""


def understood(entries: Iterable[Any], read: Callable[[Any], T | None]) -> list[T]:
    """What is read of each entry. One that is not as documented, or not wanted (None), is left out alone."""
    found: list[T] = []
    for entry in entries:
        with suppress(*FAULTS):
            value = read(entry)
            if value is not None:
                found.append(value)
    return found


def statuses(entries: Callable[[], Iterable[Any]], read: Callable[[Any], tuple[str, str] | None]) -> dict[str, str]:
    """The status of each symbol of a list of instruments, as `read` tells both of an entry; None: it is not wanted.

    An entry that is not as documented stands there by its own text, as trading: so it is told of. Empty where
    `entries` fails: the answer is none.
    """
    found: dict[str, str] = {}
    try:
        listed = list(entries())
    except FAULTS:
        return found
    for entry in listed:
        try:
            told = read(entry)
        except FAULTS:
            told = f"{entry!s:.{SHOWN_CHARS}}", "TRADING"
        if told is not None:
            found[told[0]] = told[1]
    return found


def version(adapter: Adapter) -> str:
    """The normaliser's version as it stands in `start` records, checkpoints and manifests: `binance/1`."""
    return f"{adapter.NAME}/{adapter.VERSION}"


def _no_snapshot_frame(symbol: str, request_id: int) -> bytes:
    raise LookupError(f"snapshots are not asked for on the socket: {symbol}, {request_id}")


DEFAULTS: dict[str, Any] = {
    "STREAMS_PER_CONNECTION": 100,
    "STREAMS_BYTES": sys.maxsize,
    "STREAMS_PER_SUBSCRIBE": 20,
    "SUBSCRIBE_BYTES": 4_000,  # Binance's limit, the narrowest of those for many names, is good for all
    "MESSAGE_INTERVAL_S": 0.25,
    "MESSAGES_TOGETHER": False,
    "AGAIN_INTERVAL_S": 0.0,
    "CONNECTS_PER_5_MIN": 100,
    "CONNECT_INTERVAL_S": 0.0,
    "WEIGHT_PER_MIN": 300,
    "REQUEST_INTERVAL_S": 0.0,
    "DENSE": frozenset(),
    "BACKFILLS": frozenset(),
    "REPEATS": frozenset(),
    "SHARED": frozenset({"candle", "liquidation"}),
    "WHOLE": {},
    "BOOK": BookRule("stream", "none"),
    "CANDLE_INTERVALS": (),
    "CANDLE_DEFAULT": "1m",
    "SNAPSHOT_DEPTH_MAX": 5000,
    "PING": None,
    "PONG": None,
    "PING_INTERVAL_S": 20.0,
    "MERGED": {},
    "CATALOGUE": (),
    "POLLS": {},
    "loads": orjson.loads,
    "path": lambda _stream: "",
    "ROUTES": (),
    "routes": lambda _stream: (),
    "answer": lambda _message: None,
    "is_shutdown": lambda _message: False,
    "count": None,
    "inflate": None,
    "ENCODING": "",
    "snapshot_frame": _no_snapshot_frame,
    "index_of": lambda _symbol: None,
    "inquiries": lambda symbols: [symbols],
    "parse_rest": lambda _url, _body: None,
    "trading_symbols": lambda _body: {},
}
"""What is usual. `count` and `inflate` are None where an exchange neither counts its messages nor compresses them."""
