"""One channel of one exchange as Arrow tables: out of Parquet files where there are any, out of events elsewhere.

As a directory, the files that lie wholly in the slice are the archive's own, byte for byte:

    DIR/binance/trade/BTCUSDT/00001723161253000123.parquet    its first number: names sort as rows do
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from . import tables
from .download import MEMORY_BYTES, Downloaded, download, download_to
from .errors import ArchivistError
from .events import Event, topic
from .progress import Progress
from .slices import Query, Slice
from .spelling import spelled
from .storage import encode_symbol
from .transport import Transport, request

ROWS = 65_536
"""Rows of a batch, about."""
AHEAD = 2
"""Files that are brought while one is read."""

END = 1 << 62
"""Beyond all times and numbers."""
_FILE_IS_GONE = ("changed", "stale")


class Part(NamedTuple):
    """What lies above the number `after`, up to `to`; `file` is its table, None: ask for the events."""

    symbols: tuple[str, ...]
    after: int
    to: int
    file: dict[str, Any] | None = None


class Plan(NamedTuple):
    """The parts of each symbol in their order; `after` is the number at which the slice begins."""

    after: int
    streams: list[list[Part]]


class Meter:
    """Counts the bytes of files, of all threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = self._total = 0

    def expect(self, plan: Plan) -> None:
        files = [part.file["bytes"] for part in chain.from_iterable(plan.streams) if part.file is not None]
        self._total += sum(files)

    def tell(self, size: int) -> None:
        self._done += size
        self._progress.update(self._done, self._total)


class Source:
    """One channel of one exchange, as Arrow tables."""

    def __init__(self, transport: Transport, query: Query, channel: str, meter: Meter, *, exact: bool) -> None:
        self._transport, self._channel, self._meter, self._exact = transport, channel, meter, exact
        self._query = replace(query, channels=(channel,), symbols=spelled(transport, query.exchange, query.symbols))
        self.exchange = query.exchange

    def whole(self) -> Any:
        """All of it as one table."""
        pa = tables.arrow()
        plan = self._plan()
        if plan is None:
            found = list(self._of_events(self._query))
            return pa.concat_tables(found) if found else tables.table(self._channel, ())
        before = list(self._before(plan, self._query))
        with ThreadPoolExecutor(AHEAD) as pool:
            found = [table for stream in plan.streams for table in self._stream(stream, pool, rows=None)]
        made = pa.concat_tables([tables.table(self._channel, ()), *found])
        if len(plan.streams) > 1:
            made = made.unify_dictionaries().sort_by("seq")
        return pa.concat_tables([*before, made])

    def batches(self) -> Iterator[Any]:
        """All of it, one table after another, in bounded memory."""
        plan = self._plan()
        if plan is None:
            yield from self._of_events(self._query)
            return
        yield from self._before(plan, self._query)
        memory = MEMORY_BYTES // len(plan.streams)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool if len(plan.streams) == 1 else None
            streams = [self._stream(stream, ahead, rows=ROWS, memory=memory) for stream in plan.streams]
            yield from merged(streams, "seq")

    def write_to(self, directory: Path) -> None:
        """All of it as files, of each symbol in a directory of its own. Raises ArchivistError, OSError."""
        places = {symbol: directory / encode_symbol(symbol) for symbol in self._query.symbols}
        for place in places.values():
            place.mkdir(parents=True)
        plan = self._plan()
        for symbol, place in places.items():
            query = replace(self._query, symbols=(symbol,))
            found = self._of_events(query) if plan is None else self._before(plan, query)
            write_file(found, place / _name(0 if plan is None else plan.after))
        if plan is not None:
            parts = list(chain.from_iterable(plan.streams))
            paths = [places[part.symbols[0]] / _name(part.after + 1) for part in parts]
            with ThreadPoolExecutor(AHEAD) as pool:
                list(pool.map(self._write_part, parts, paths))

    def _write_part(self, part: Part, path: Path) -> None:
        if part.file is not None and self._is_within(part):
            try:
                download_to(path, self._transport, self.exchange, part.file, self._meter.tell)
                return
            except ArchivistError as error:
                if error.code not in _FILE_IS_GONE:
                    raise
                path.unlink(missing_ok=True)  # what had come of it
                part = part._replace(file=None)
        write_file(self._stream([part], None, rows=ROWS), path)

    def _plan(self) -> Plan | None:
        """Where everything lies; None where all of it is asked for as events."""
        query = self._query
        by_number = query.after is not None or query.to is not None
        if self._exact or by_number or (query.by == "ts_event" and self._channel == "book"):
            return None
        asked, _ = request(self._transport, {"op": "plan", **query.asked()})
        if not asked["files"]:
            return None
        after, to = asked["after"], asked["to"]
        # rows of one record come in the order of streams, which must be that of its events
        symbols = sorted(query.symbols, key=lambda symbol: topic(query.exchange, self._channel, symbol))
        streams: dict[str, list[Part]] = {symbol: [] for symbol in symbols}
        for tail in asked["tails"]:
            streams[tail["symbol"]].append(Part((tail["symbol"],), tail["after"], tail["to"]))
        for file in asked["files"]:
            first, last = file["covers"]
            part = Part((file["symbol"],), max(after, first - 1), min(to, last), file)
            streams[file["symbol"]].append(part)
        plan = Plan(after, [sorted(stream, key=lambda part: part.after) for stream in streams.values() if stream])
        self._meter.expect(plan)
        return plan

    def _before(self, plan: Plan, query: Query) -> Iterator[Any]:
        """The books before the first event: of all symbols, before everything else."""
        if self._channel == "book" and query.snapshot:
            yield from self._of_events(_numbered(query, plan.after, plan.after, snapshot=True))

    def _stream(
        self, parts: list[Part], pool: ThreadPoolExecutor | None, *, rows: int | None, memory: int = MEMORY_BYTES
    ) -> Iterator[Any]:
        """The parts as tables; files are brought ahead where there is a pool."""

        def bring(part: Part) -> Downloaded | None:
            if part.file is None:
                return None
            try:
                return download(self._transport, self.exchange, part.file, self._meter.tell, memory)
            except ArchivistError as error:
                if error.code not in _FILE_IS_GONE:
                    raise
                return None

        coming: list[Future[Downloaded | None]] = []
        for index, part in enumerate(parts):
            if pool is not None:
                coming += [pool.submit(bring, each) for each in parts[index + len(coming) : index + 1 + AHEAD]]
            data = coming.pop(0).result() if coming else bring(part)
            if data is None:
                query = replace(_numbered(self._query, part.after, part.to, snapshot=False), symbols=part.symbols)
                found = self._of_events(query)
            else:
                found = _of_file(data, rows)
            yield from (self._filtered(table, part) for table in found)

    def _of_events(self, query: Query) -> Iterator[Any]:
        """Tables out of events; their gaps are left out, unless they are what is asked for."""
        waiting: list[Event] = []
        count = 0
        for event in Slice(self._transport, [query]):
            if event["channel"] == self._channel:
                waiting.append(event)
                count += tables.rows(event)
            if count >= ROWS:
                yield self._table(waiting)
                waiting, count = [], 0
        if waiting:
            yield self._table(waiting)

    def _table(self, events: list[Event]) -> Any:
        made = tables.bare(tables.table(self._channel, events))
        return _with_digits(made, self._channel, events) if self._exact else made

    def _filtered(self, table: Any, part: Part) -> Any:
        """The rows that the slice has; the snapshot that a file begins with is that of the rows before it."""
        import pyarrow.compute as pc

        seq, query = pc.field("seq"), self._query
        if self._is_within(part):
            return table
        keep = (seq > part.after) & (seq <= part.to)
        if self._channel == "book" and part.file is not None:
            keep &= ~pc.coalesce(pc.field("derived"), pc.scalar(False))
        if query.start is not None or query.end is not None:
            ts = pc.field(query.by) if query.by == "ts_recv" else pc.coalesce(pc.field(query.by), pc.field("ts_recv"))
            keep &= (ts >= (query.start or -END)) & (ts < (END if query.end is None else query.end))
        return table.filter(keep)

    def _is_within(self, part: Part) -> bool:
        """Whether all rows of a file are the slice's."""
        file, query = part.file, self._query
        if file is None or self._channel == "book" or not file["rows"]:
            return False
        ts = file[query.by] if query.by == "ts_recv" else None
        start, end = query.start or -END, END if query.end is None else query.end
        in_time = (query.start is None and query.end is None) or (ts is not None and start <= ts[0] and ts[1] < end)
        return in_time and part.after < file["seq"][0] and file["seq"][1] <= part.to


def _numbered(query: Query, after: int, to: int, *, snapshot: bool) -> Query:
    return replace(query, start=None, end=None, after=after, to=to, snapshot=snapshot)


def _name(number: int) -> str:
    return f"{number:020d}.parquet"


def write_file(found: Iterator[Any], path: Path, empty: Any = None) -> None:
    """Tables as one Parquet file; where there are none, `empty`, or no file. Raises ArchivistError, OSError."""
    import pyarrow.parquet as pq

    if (first := next((table for table in found if len(table)), empty)) is None:
        return
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for table in chain([first], found):
            writer.write_table(table)


def _of_file(data: Downloaded, rows: int | None) -> Iterator[Any]:
    """A Parquet file as tables of about so many rows; None: as one."""
    pa = tables.arrow()
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(data)))
    if rows is None:
        yield tables.bare(file.read())
        return
    for batch in file.iter_batches(rows):
        yield tables.bare(pa.Table.from_batches([batch]))


def _with_digits(made: Any, channel: str, events: list[Event]) -> Any:
    """Prices and amounts as text, as the exchange wrote them."""
    pa = tables.arrow()
    cells: dict[str, list[str | None]] = {}
    if channel == "book":
        levels = [level for event in events for level in ((*event["bids"], *event["asks"]) or ((None, None),))]
        cells = {"price": [price for price, _ in levels], "amount": [amount for _, amount in levels]}
    for index, (name, sort) in enumerate(tables.COLUMNS[channel].items()):
        if sort == tables.NUMBER:
            values = cells[name] if name in cells else [event.get(name) for event in events]
            made = made.set_column(index, name, pa.array(values, pa.string()))
    return made


# -- several streams as one --------------------------------------------------------------------------------------------


def merged(streams: Sequence[Iterator[Any]], key: str) -> Iterator[Any]:
    """Tables of several streams in the order of a column that never falls within a stream; one table of each at a time.

    Rows alike come in the order of the streams.
    """
    if len(streams) == 1:
        yield from streams[0]
        return
    pa = tables.arrow()
    heads: dict[int, Any] = {}
    waiting = dict(enumerate(streams))
    while True:
        for index in [index for index in waiting if index not in heads]:
            table = next((table for table in waiting[index] if len(table)), None)
            if table is None:
                del waiting[index]
            else:
                heads[index] = table
        if not heads:
            return
        bound = min(table[key][-1].as_py() for table in heads.values())
        ready = []
        for index, table in sorted(heads.items()):
            count = bisect_right(table[key].to_numpy(), bound)
            ready.append(table.slice(0, count))
            heads[index] = table.slice(count)
        heads = {index: table for index, table in heads.items() if len(table)}
        yield pa.concat_tables(ready).unify_dictionaries().sort_by(key)
