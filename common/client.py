"""The client of researchers: the past of a history server or of a directory, and what happens now.

client = Client("tcp://127.0.0.1:9000")        # or Client(storage="./storage-dir")
trades = client.slice("binance", "BTCUSDT", "trade", start="2024-08-08T23:50", end="2024-08-09T00:05")
trades.to_polars()                              # also to_pandas, to_arrow, to_parquet, events(), records()
for event in client.follow("binance", ["BTCUSDT", "ETHUSDT"], ["trade", "book"], start="-1h"):
    ...
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from weakref import WeakSet

import orjson

from .errors import BadRequestError
from .events import CHANNELS, GAP, Event
from .exchanges import names as known_exchanges
from .follow import DEADLINE_S
from .following import Endpoint, Following, Wish, log
from .slices import Query, Slice
from .times import parse_time
from .transport import TIMEOUT_S, Keys, Local, Remote, Transport, request

SERVER = "tcp://127.0.0.1:9000"
"""Where a history server listens that nobody told otherwise."""

Texts = str | Iterable[str]
"""One name, or several."""

Time = Any
"""ns since the epoch, ISO 8601 (UTC where no zone is given) as text or datetime, or relative to now, as `-2h`.

0 is the beginning. Other integers below 10**17 are refused: they are s, ms or µs.
"""


class Client:
    """Asks one history server, or reads one storage directory. Threads may share it. `with` and `close`
    close it; so does the collector, where nobody did.

    `server` is `tcp://HOST:PORT` or `HOST:PORT`; `storage` a directory instead of a server. A server that is not on
    this machine wants keys: `server_key` is its public one, `key` one's own (files of `trade-archivist keys`).
    `events` says where live events come from, as `tcp://HOST:PORT` by exchange, where the server does not.
    `timeout_s` bounds each answer. `progress`: True or False; None shows it where a terminal or a notebook is.
    Every call raises ArchivistError: each has a stable `code` and says the mend.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        storage: str | Path | None = None,
        server_key: str | Path | None = None,
        key: str | Path | None = None,
        events: str | dict[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        progress: bool | None = None,
    ) -> None:
        if server is not None and storage is not None:
            raise BadRequestError("both a server and a directory are named: leave one out")
        if (server_key is None) != (key is None):
            raise BadRequestError("server_key and key go together: give the server's public key and your own pair")
        self._keys = None if server_key is None or key is None else Keys(server_key, key)
        self._progress, self._events = progress, events
        self._followed: WeakSet[Following] = WeakSet()
        self._transport: Transport
        if storage is not None:
            self._transport = Local(Path(storage))
        else:
            server = server or SERVER
            self._transport = Remote(server if "://" in server else f"tcp://{server}", timeout_s, self._keys)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self._transport.name}>"

    def close(self) -> None:
        """Close all sockets; what still iterates ends with an error."""
        for following in list(self._followed):
            following.close()
        self._transport.close()

    # -- the past ------------------------------------------------------------------------------------------------------

    def slice(
        self,
        exchange: Texts,
        symbols: Texts,
        channels: Texts = CHANNELS,
        start: Time = None,
        end: Time = None,
        *,
        by: str = "ts_recv",
        after: int | None = None,
        to: int | None = None,
        snapshot: bool = True,
    ) -> Slice:
        """Events from `start` on, before `end`; without them from the first, to the last. Asks nothing yet.

        `by="ts_event"` takes the exchange's time instead of ours. `after` and `to` are numbers (`seq`) instead of
        times. A `book` begins with the book before it, unless `snapshot=False`. Several exchanges: merged by ts_recv.
        """
        times = asked_times(start, end)
        queries = [
            Query(name, _texts(symbols), _texts(channels), *times, by=by, after=after, to=to, snapshot=snapshot)
            for name in _texts(exchange)
        ]
        return Slice(self._transport, queries, progress=self._progress)

    def book(self, exchange: str, symbol: str, at: Time = None, depth: int | None = None) -> dict[str, Any]:
        """The book at a moment (None: now): `bids`, `asks` as `[[price, amount], …]`, best first; `seq`, `ts_recv`, …

        `depth` levels a side, None all. `seq` is the record that it is exact at.
        """
        question = {"op": "book", "exchange": exchange, "symbol": symbol, "at": _time(at), "depth": depth}
        header, payload = request(self._transport, _without_none(question))
        kept = {key: value for key, value in header.items() if key not in ("id", "op", "complete_to")}
        return {"exchange": exchange, "symbol": symbol, **kept, **orjson.loads(payload[0])}

    # -- now -----------------------------------------------------------------------------------------------------------

    def follow(
        self,
        exchange: Texts,
        symbols: Texts,
        channels: Texts = CHANNELS,
        start: Time = "now",
        *,
        after: int | None = None,
        snapshot: bool = True,
        strict: bool = False,
        on_gap: Literal["wait", "continue"] = "wait",
        on_gap_after_s: float = DEADLINE_S,
        tell: Callable[[str], None] = log.warning,
    ) -> Following:
        """Events from `start` on (or after a number), then live, for ever: each once, in order, nothing missing.

        `book` begins with the book before it, unless `snapshot=False`. `strict` keeps the order of `seq` across topics
        always, at the cost of up to a second. While something is missing that history does not have yet, it waits, and
        says so to `tell`; `on_gap="continue"` goes on with a `gap` event once nothing came for `on_gap_after_s`.
        """
        if not on_gap_after_s >= 0:
            raise BadRequestError(f"on_gap_after_s={on_gap_after_s}: give seconds, 0 or more")
        begin = None if after is not None else _time(start)
        wish = Wish(_texts(symbols), _texts(channels), begin, after, snapshot, strict, on_gap, on_gap_after_s)
        return self._follow(_texts(exchange), wish, tell)

    def live(
        self, exchange: Texts, symbols: Texts, channels: Texts = CHANNELS, *, tell: Callable[[str], None] = log.warning
    ) -> Following:
        """Events from the next one on. History is asked only for what gets lost from then on."""
        return self._follow(_texts(exchange), Wish(_texts(symbols), _texts(channels)), tell)

    def _follow(self, names: tuple[str, ...], wish: Wish, tell: Callable[[str], None]) -> Following:
        _check_names(names, wish.channels)
        following = Following(self._transport, self._endpoints(names), wish, self._keys, tell)
        self._followed.add(following)
        return following

    def _endpoints(self, names: tuple[str, ...]) -> dict[str, Endpoint]:
        """Where the live events of some exchanges are."""
        if isinstance(self._events, str) and len(names) > 1:
            raise BadRequestError(f"one endpoint for {len(names)} exchanges: give events={{'NAME': 'tcp://…'}}")
        given = dict.fromkeys(names, self._events) if isinstance(self._events, str) else self._events or {}
        found = {name: Endpoint(address) for name, address in given.items() if name in names}
        if set(names) <= found.keys():
            return found
        told = {each["name"]: each for each in self.exchanges()}
        for name in names:
            if name not in told:
                message = f"no archive of exchange {name!r} here: there are {', '.join(told) or 'none yet'}"
                raise BadRequestError(message, "unknown_exchange")
            if name not in found and not told[name]["events"]:
                message = (
                    f"nobody says where the live events of {name} are: name the feed's endpoint (events=, --events)"
                )
                raise BadRequestError(message, "no_events")
        return {
            name: found.get(name) or Endpoint(self._reachable(told[name]["events"]), told[name]["events_key"])
            for name in names
        }

    def _reachable(self, address: str) -> str:
        """An endpoint that is bound on every address of the server's machine, as it is reached from here."""
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        if host not in ("0.0.0.0", "*", "[::]"):
            return address
        return f"{self._transport.name.rpartition(':')[0]}:{port}"

    # -- what there is -------------------------------------------------------------------------------------------------

    def exchanges(self) -> list[dict[str, Any]]:
        """Each exchange with its name, how far it is `complete`, and where its live `events` are."""
        return list(self._asked("exchanges", "exchanges"))

    def symbols(self, exchange: str, named: Texts | None = None) -> list[str]:
        """The symbols that are archived of an exchange, or those of them that names and patterns (`*-USDT`) mean."""
        wanted = None if named is None else _texts(named)
        return list(self._asked("symbols", "symbols", exchange=exchange, symbols=wanted))

    def instruments(self, exchange: str, symbols: Texts | None = None, at: Time = None) -> list[Event]:
        """The `instrument` events that hold at a moment (None: now)."""
        named = None if symbols is None else _texts(symbols)
        return list(self._asked("instruments", "instruments", exchange=exchange, symbols=named, at=_time(at)))

    def coverage(
        self,
        exchange: str,
        symbols: Texts | None = None,
        channels: Texts = CHANNELS,
        start: Time = None,
        end: Time = None,
    ) -> list[dict[str, Any]]:
        """The intervals that are whole: symbol, channel, `start`, `end` (ns), how sure, `events` and `bytes`.

        `bytes` are those of tables: None where there are none yet, as of the hour that is being written.
        """
        return self._ranged("coverage", exchange, symbols, channels, start, end)

    def gaps(
        self,
        exchange: str,
        symbols: Texts | None = None,
        channels: Texts = CHANNELS,
        start: Time = None,
        end: Time = None,
    ) -> list[Event]:
        """The gap events between two times: what is missing, and why."""
        return self._ranged("gaps", exchange, symbols, channels, start, end)

    def status(self) -> dict[str, Any]:
        """What each process last said about itself: `processes` by exchange, and `history`.

        The archiver's `state` says whether it still runs, `said_s_ago` how old its words are.
        """
        header, _ = request(self._transport, {"op": "status"})
        return {"processes": header["processes"], "history": header.get("history")}

    def _ranged(
        self, op: str, exchange: str, symbols: Texts | None, channels: Texts, start: Time, end: Time
    ) -> list[dict[str, Any]]:
        named = self.symbols(exchange) if symbols is None else _texts(symbols)
        if not named:
            return []
        first, last = asked_times(start, end)
        question = {"exchange": exchange, "symbols": named, "channels": _texts(channels), "start": first, "end": last}
        return list(self._asked(op, op, **question))

    def _asked(self, op: str, key: str, **question: Any) -> Any:
        header, _ = request(self._transport, _without_none({"op": op, **question}))
        return header[key]


def _check_names(exchanges: Iterable[str], channels: Iterable[str]) -> None:
    for name in exchanges:
        if name not in known_exchanges():
            message = f"unknown exchange {name!r}: known are {', '.join(known_exchanges())}"
            raise BadRequestError(message, "unknown_exchange")
    for channel in channels:
        if channel not in (*CHANNELS, GAP):
            raise BadRequestError(f"unknown channel {channel!r}: known are {', '.join(CHANNELS)}", "unknown_channel")


def _without_none(question: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in question.items() if value is not None}


def _texts(value: Texts) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    if not names:
        raise BadRequestError("an empty list of names: name at least one")
    return names


def _time(value: Time) -> int | None:
    return None if value is None else _parsed(value, time.time_ns())


def asked_times(start: Time, end: Time) -> tuple[int | None, int | None]:
    """Both as ns, of one now: every request of a slice means the same moment."""
    now = time.time_ns()
    return tuple(None if value is None else _parsed(value, now) for value in (start, end))  # type: ignore[return-value]


def _parsed(value: Time, now: int) -> int:
    try:
        return parse_time(value, now)
    except (ValueError, OverflowError) as error:
        raise BadRequestError(str(error), "bad_time") from None
