"""Derived series: bars out of trades, and the book at the end of each interval, ready for frames and for training.

Of a slice they are one call; out of live events they are the same functions:

    client.slice("binance", "BTCUSDT", "trade", start="-1d").bars("1m").to_polars()
    times, levels = client.slice("binance", "BTCUSDT", "book", start="-1h").book_snapshots(10, "1s").to_numpy()
    for bar in series.bars(client.follow("binance", ["BTCUSDT"], ["trade"]), "1m"): ...

What a row says is told at `Bar` and `BookSnapshot`, how it is computed at `Bars` and `BookSnapshots`.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, Generic, TypeVar

import orjson

from . import frames, tables
from .bars import Bar, Bars, bars
from .book_snapshots import BookSnapshot, BookSnapshots, book_snapshots, unknown_levels
from .errors import BadRequestError, MissingExtraError
from .events import Event
from .grid import Interval
from .observed import Observed
from .progress import Progress
from .slices import Query, pages
from .spelling import spelled
from .times import parse_interval
from .transport import Transport

__all__ = ["Bar", "BarSeries", "Bars", "BookSeries", "BookSnapshot", "BookSnapshots", "bars", "book_snapshots"]

LEVEL = ("bid_price", "bid_amount", "ask_price", "ask_amount")
"""What a level has, in the order of `BookSnapshot.levels`."""

Row = TypeVar("Row", bound=Bar | BookSnapshot)


class Series(Generic[Row]):
    """Rows in the order of their time, then exchange and symbol; and their frames.

    Each row's `ts` is int64 ns, as in a slice's frames. What is not known is NaN in rows, NumPy and pandas, null in
    Arrow and polars. Frames of several exchanges have one more column in front, `exchange`.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows: Sequence[Row] = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def rows(self) -> Sequence[Row]:
        """The rows, as they come out of a live stream."""
        return self._rows

    def to_numpy(self) -> Any:
        """Times, int64 [time], and values, float64 [time, column]; of several symbols, a dict of such pairs.

        The dict's keys are symbols, with several exchanges `exchange/symbol`. Raises MissingExtraError.
        """
        apart: dict[tuple[str, str], list[Row]] = {}
        for row in self._rows:
            apart.setdefault((row.exchange, row.symbol), []).append(row)
        several = len({exchange for exchange, _ in apart}) > 1
        found = {f"{key[0]}/{key[1]}" if several else key[1]: self._arrays(rows) for key, rows in apart.items()}
        return next(iter(found.values())) if len(found) == 1 else found or self._arrays([])

    def to_arrow(self) -> Any:
        """A pyarrow.Table. Raises MissingExtraError."""
        return frames.converted(self._table, "arrow")

    def to_polars(self) -> Any:
        """A polars.DataFrame. Raises MissingExtraError."""
        return frames.converted(self._table, "polars")

    def to_pandas(self) -> Any:
        """A pandas.DataFrame. Raises MissingExtraError."""
        return frames.converted(self._table, "pandas")

    def _table(self) -> Any:
        pa, rows = tables.arrow(), self._rows

        def words(values: list[str]) -> Any:
            return pa.array(values, pa.string()).dictionary_encode()

        columns = {"ts": pa.array([row.ts for row in rows], pa.int64()), "symbol": words([row.symbol for row in rows])}
        exchanges = [row.exchange for row in rows]
        if len(set(exchanges)) > 1:
            columns = {"exchange": words(exchanges), **columns}
        whole = pa.array([row.whole for row in rows], pa.bool_())
        return tables.bare(pa.table({**columns, **self._columns(), "whole": whole}))

    def _columns(self) -> dict[str, Any]:
        raise NotImplementedError

    def _arrays(self, rows: Sequence[Row]) -> tuple[Any, Any]:
        raise NotImplementedError


class BarSeries(Series[Bar]):
    """Bars. `to_numpy()` has the columns open, high, low, close, volume, … whole (0 or 1): `COLUMNS`, as in `Bar`."""

    COLUMNS = Bar._fields[3:]

    def _columns(self) -> dict[str, Any]:
        pa = tables.arrow()
        counts = ("count", "buy_count", "sell_count")
        found = {}
        for place, name in enumerate(self.COLUMNS[:-1], 3):
            kind = pa.int64() if name in counts else pa.float64()
            found[name] = pa.array([row[place] for row in self._rows], kind, from_pandas=True)
        return found

    def _arrays(self, rows: Sequence[Bar]) -> tuple[Any, Any]:
        np = _numpy()
        values = np.array([row[3:] for row in rows], np.float64).reshape(len(rows), len(self.COLUMNS))
        return np.array([row.ts for row in rows], np.int64), values


class BookSeries(Series[BookSnapshot]):
    """Books at moments. `to_numpy()` has the shape [time, depth x 4]: bid_price_0, bid_amount_0, ask_price_0,
    ask_amount_0, bid_price_1, …: `values.reshape(len(times), depth, 4)` takes the levels apart. Prices in the quote
    currency, amounts in the base currency (or contracts). Rows where the book is not known are NaN as a whole.
    """

    def __init__(self, rows: Sequence[BookSnapshot], depth: int) -> None:
        super().__init__(rows)
        self.COLUMNS = tuple(f"{name}_{level}" for level in range(depth) for name in LEVEL)

    def _columns(self) -> dict[str, Any]:
        pa, (_, values) = tables.arrow(), self._arrays(self._rows)
        return {name: pa.array(values[:, place], from_pandas=True) for place, name in enumerate(self.COLUMNS)}

    def _arrays(self, rows: Sequence[BookSnapshot]) -> tuple[Any, Any]:
        np = _numpy()
        values = np.frombuffer(b"".join(row.levels for row in rows), np.float64).reshape(len(rows), len(self.COLUMNS))
        return np.array([row.ts for row in rows], np.int64), values.copy()  # writable, as one expects


def _numpy() -> Any:
    try:
        import numpy
    except ImportError:
        raise MissingExtraError("to_numpy needs one more package: install trade-archivist[frames]") from None
    return numpy


# -- of a slice --------------------------------------------------------------------------------------------------------


FOREVER = 1 << 62  # by ts_event nothing is too late in a slice


class _Past:
    """The events of one channel of a slice, and how far the archive knows them."""

    def __init__(
        self, transport: Transport, queries: Sequence[Query], channels: Sequence[str], progress: bool | None
    ) -> None:
        asked = queries[0].channels
        found = next((channel for channel in channels if channel in asked), None)
        if found is None:
            raise BadRequestError(f"this is made of {' or '.join(channels)}, but the slice is of {', '.join(asked)}")
        self.channel, self.start, self.by = found, queries[0].start, queries[0].by
        self.end = queries[0].end  # None where the archive does not reach it yet
        afters: dict[str, int] = {}  # by exchange, the number before the slice's first record
        self.observed = Observed(found, self.start, afters, keep_all=True)
        self._transport, self._afters, self._progress = transport, afters, progress
        self._queries = [
            replace(query, channels=(found,), symbols=spelled(transport, query.exchange, query.symbols), snapshot=True)
            for query in queries
        ]
        self.symbols = [(query.exchange, symbol) for query in self._queries for symbol in query.symbols]

    def through(self, machine: Bars | BookSnapshots) -> list[Any]:
        """All rows that a machine makes of the events."""
        with Progress(self._queries[0].exchange, show=self._progress) as shown:
            streams = [self._events(query, shown) for query in self._queries]
            events = streams[0] if len(streams) == 1 else heapq.merge(*streams, key=itemgetter("ts_recv"))
            rows: list[Any] = [row for event in events for row in machine.take(event)]
        rows += machine.end(self.end)
        self.observed.settle()
        return rows

    def _events(self, query: Query, shown: Progress) -> Iterator[Event]:
        for header, payload in pages(self._transport, query, "json", shown):
            self._afters.setdefault(query.exchange, header["after"])
            if header["partial"]:
                self.end = None
            for part in filter(None, payload):
                yield from map(orjson.loads, part[:-1].split(b"\n"))


def bars_of(
    transport: Transport, queries: Sequence[Query], interval: Interval, progress: bool | None = None
) -> BarSeries:
    """The bars of a slice. Raises ArchivistError."""
    past = _Past(transport, queries, ("trade", "agg_trade"), progress)
    observed = past.observed
    machine = Bars(
        interval, by=past.by, channel=past.channel, wait=FOREVER, start=past.start, symbols=past.symbols,
        observed=observed,
    )  # fmt: skip
    rows, ns = past.through(machine), parse_interval(interval)
    # a gap may have been noticed after its intervals were over
    return BarSeries(
        [row._replace(whole=observed.whole((row.exchange, row.symbol), row.ts, row.ts + ns)) for row in rows]
    )


def book_snapshots_of(
    transport: Transport, queries: Sequence[Query], depth: int, interval: Interval, progress: bool | None = None
) -> BookSeries:
    """The book snapshots of a slice. Raises ArchivistError."""
    past = _Past(transport, queries, ("book",), progress)
    machine = BookSnapshots(depth, interval, by=past.by, start=past.start, symbols=past.symbols, observed=past.observed)
    return BookSeries([_as_known(row, past.observed) for row in past.through(machine)], depth)


def _as_known(row: BookSnapshot, observed: Observed) -> BookSnapshot:
    """Without its levels where a gap that was noticed later says that they were not known."""
    if not row.whole or observed.whole((row.exchange, row.symbol), row.ts, row.ts):
        return row
    return row._replace(levels=unknown_levels(len(row.levels) // 4), whole=False)
