"""Slices of the past: asked lazily, page by page, one page read ahead, proved whole at the end."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import orjson

from .errors import DamagedError
from .events import GAP, Event
from .progress import Progress
from .record import Record, decode
from .transport import Request, Transport

if TYPE_CHECKING:
    import pyarrow

    from .series import BarSeries, BookSeries


@dataclass(frozen=True)
class Query:
    """What is asked of one exchange. Times are ns; `after` and `to` are numbers of records, instead of times.

    `max_bytes` bounds each page, but for its first record; None: as the server likes.
    """

    exchange: str
    symbols: tuple[str, ...]
    channels: tuple[str, ...]
    start: int | None = None
    end: int | None = None
    by: str = "ts_recv"
    after: int | None = None
    to: int | None = None
    snapshot: bool = True
    max_bytes: int | None = None

    def asked(self) -> Request:
        """The keys of a request that say what is asked; what is None is left out."""
        keys = ("exchange", "symbols", "channels", "start", "end", "after", "to", "max_bytes")
        found = {key: value for key in keys if (value := getattr(self, key)) is not None}
        return found if "after" in found or "to" in found else {**found, "by": self.by}


def pages(
    transport: Transport, query: Query, kind: str, progress: Progress | None = None
) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
    """The pages of a slice, header and payload, one read ahead. Raises ArchivistError: a slice is never short."""
    question = {"op": "slice", **query.asked(), "format": kind, "snapshot": query.snapshot}
    dialogue = transport.dialogue()
    events = records = 0
    begin: int | None = None
    try:
        dialogue.ask(question)
        while True:
            header, payload = dialogue.answer()
            if header["next"] is not None:
                dialogue.ask({**question, "next": header["next"]})
            check_page(header, payload, kind)
            events, records = events + header["events"], records + header["records"]
            if progress is not None:
                begin = header["after"] if begin is None else begin
                progress.update(header["covered"] - begin, header["to"] - begin)
            yield header, payload
            if header["next"] is None:
                _check_total(transport.name, header["total"], events, records)
                return
    finally:
        dialogue.close()


def check_page(header: dict[str, Any], payload: list[bytes], kind: str) -> None:
    """Raises DamagedError where a page does not hold as many lines as it says."""
    lines = sum(part.count(b"\n") for part in payload)
    expected = header["events" if kind == "json" else "records"]
    if lines != expected:
        raise DamagedError(f"a page holds {lines} lines instead of {expected}: ask again, and report it", "short")


def _check_total(name: str, total: dict[str, int], events: int, records: int) -> None:
    if (total["events"], total["records"]) != (events, records):
        raise DamagedError(
            f"{name}: the slice has {total['events']} events of {total['records']} records, but {events} of {records} "
            "came: ask again; if it stays so, run trade-archivist verify",
            "short",
        )


class Slice:
    """A part of the past. Nothing is asked before it is iterated or turned into a frame, and each time anew.

    Events and records come in the order of `seq`; of several exchanges they are merged by `ts_recv`. Memory stays at
    about two pages for each exchange, however long the slice is.
    """

    def __init__(self, transport: Transport, queries: Sequence[Query], *, progress: bool | None = None) -> None:
        self._transport, self._queries, self._progress = transport, tuple(queries), progress

    def __repr__(self) -> str:
        parts = (f"{query.exchange} {','.join(query.symbols)} {','.join(query.channels)}" for query in self._queries)
        first = self._queries[0]
        limits = (f"{key}={value}" for key, value in first.asked().items() if key in ("start", "end", "after", "to"))
        return f"<Slice {'; '.join(parts)} {' '.join(limits)}>"

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    def events(self) -> Iterator[Event]:
        """The events as they were live, gaps among them: dicts, prices as text. Raises ArchivistError."""
        streams = [map(orjson.loads, self._lines(query, "json")) for query in self._queries]
        return streams[0] if len(streams) == 1 else heapq.merge(*streams, key=_received)

    @overload
    def records(self, *, decoded: Literal[True] = True) -> Iterator[Record]: ...
    @overload
    def records(self, *, decoded: Literal[False]) -> Iterator[bytes]: ...
    def records(self, *, decoded: bool = True) -> Iterator[Record] | Iterator[bytes]:
        """What was on the wire: taken apart, `payload` byte for byte; not `decoded`: the lines, without their `\n`.

        Those of the symbols, whatever their channel, and of no symbol. Raises ArchivistError.
        """
        streams = [self._lines(query, "raw") for query in self._queries]
        lines = streams[0] if len(streams) == 1 else heapq.merge(*streams, key=lambda line: decode(line).ts_recv)
        return map(decode, lines) if decoded else lines

    def blocks(self, kind: Literal["json", "raw"]) -> Iterator[bytes]:
        """Events (`json`) or records (`raw`) as lines, each with its `\n`, many at a time: the fastest way out.

        Several exchanges follow one another. Raises ArchivistError.
        """
        with Progress(self._queries[0].exchange, show=self._progress) as shown:
            for query in self._queries:
                for _, payload in pages(self._transport, query, kind, shown):
                    yield from filter(None, payload)

    def gaps(self) -> list[Event]:
        """The `gap` events alone."""
        queries = [replace(query, channels=(GAP,)) for query in self._queries]
        return list(Slice(self._transport, queries, progress=self._progress))

    def begins(self) -> int | None:
        """When the first event that is no gap was received, in ns; None: there is none. No more than that is read."""
        queries = [replace(query, snapshot=False, max_bytes=1) for query in self._queries]
        events = Slice(self._transport, queries).events()
        return next((event["ts_recv"] for event in events if event["channel"] != GAP), None)

    def is_past(self) -> bool:
        """Whether all of it is archived by now: nothing that belongs before its end can come any more."""
        return not any(next(pages(self._transport, query, "json"))[0]["partial"] for query in self._queries)

    # -- frames --------------------------------------------------------------------------------------------------------

    def batches(self, *, exact: bool = False) -> Iterator["pyarrow.Table"]:
        """One channel as Arrow tables, one after another, in bounded memory. See `frames.py` for the columns.

        Prices and amounts are float64, or with `exact` the exchange's own digits as text. Raises ArchivistError.
        """
        from . import frames

        return frames.batches(self._transport, self._queries, exact=exact, progress=self._progress)

    def to_arrow(self, *, exact: bool = False) -> Any:
        """A pyarrow.Table; of several channels, a dict of them. Raises ArchivistError."""
        return self._framed("arrow", exact)

    def to_polars(self, *, exact: bool = False) -> Any:
        """A polars.DataFrame; of several channels, a dict of them. Raises ArchivistError."""
        return self._framed("polars", exact)

    def to_pandas(self, *, exact: bool = False) -> Any:
        """A pandas.DataFrame; of several channels, a dict of them. Integers that may be missing are `Int64`.

        Raises ArchivistError.
        """
        return self._framed("pandas", exact)

    def to_parquet(self, path: str | Path, *, exact: bool = False) -> None:
        """Write a Parquet file, in bounded memory; of several channels, a directory with one file for each.

        Nothing stands under the name before it is whole. Raises ArchivistError, OSError.
        """
        from . import frames

        frames.write(self._transport, self._queries, Path(path), exact=exact, progress=self._progress)

    def to_directory(self, path: str | Path) -> None:
        """Write Parquet files into a fresh directory, `EXCHANGE/CHANNEL/SYMBOL/*.parquet`: the fastest way.

        Sealed hours that lie wholly in the slice are the archive's own files, byte for byte. Of a symbol the names sort
        as the rows do; the first of a book is the book before the first event. Nothing but what is hidden stands in the
        directory before all of it is whole. Raises ArchivistError, OSError.
        """
        from . import frames

        frames.write_directory(self._transport, self._queries, Path(path), progress=self._progress)

    # -- derived series ------------------------------------------------------------------------------------------------

    def bars(self, interval: str | int = "1m") -> "BarSeries":
        """What was traded in each interval: `to_polars()`, `to_pandas()`, `to_numpy()`, `rows()`. See `series.Bar`.

        Of a slice of `trade` (or `agg_trade`), by its own clock (`by`), from its start to its end, empty intervals
        included; one that start or end cuts is not `whole`. Reads the slice now. Raises ArchivistError.
        """
        from . import series

        return series.bars_of(self._transport, self._queries, interval, self._progress)

    def book_snapshots(self, depth: int = 10, interval: str | int = "1s") -> "BookSeries":
        """The best `depth` levels a side at the end of each interval. See `series.BookSnapshot`, `series.BookSeries`.

        Of a slice of `book`, by its own clock; a snapshot holds nothing that came at its `ts` or later. `to_numpy()`
        gives times, int64 ns [time], and levels, float64 [time, depth x 4]. Reads the slice now. Raises ArchivistError.
        """
        from . import series

        return series.book_snapshots_of(self._transport, self._queries, depth, interval, self._progress)

    def _framed(self, kind: str, exact: bool) -> Any:
        from . import frames

        return frames.framed(self._transport, self._queries, kind, exact=exact, progress=self._progress)

    def _lines(self, query: Query, kind: str) -> Iterator[bytes]:
        for _, payload in pages(self._transport, query, kind):
            for part in filter(None, payload):
                yield from part[:-1].split(b"\n")


def _received(event: Event) -> int:
    ts: int = event["ts_recv"]
    return ts
