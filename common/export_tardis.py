"""Exports as CSV files of tardis.dev, with its columns and its names of files, exchanges and symbols.

    OUT/binance_trades_2024-08-08_BTCUSDT.csv.gz
        exchange,symbol,timestamp,local_timestamp,id,side,price,amount
        binance,BTCUSDT,1723161255207000,1723161253937085,3723160871,buy,61837.64000000,0.00100000

Times are µs; `timestamp` is the exchange's, and that of the arrival where it sends none. Digits are the exchange's own,
with the zeros at their end. A book begins with the book before the day, as tardis.dev's days begin with a snapshot;
quotes are those that the exchange sent, or, where none were recorded, the best of the book. Gaps cannot be said.
Source: docs.tardis.dev/downloadable-csv-files, "Data types".
"""

import gzip
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from .book import RankedBook
from .client import Client
from .errors import BadRequestError, DamagedError
from .events import Event, Level
from .exports import Format, Job, Rows, events
from .storage import encode_symbol
from .tardis_names import EXCHANGES, to_tardis

LEVEL = 3
"""Of gzip: tighter ones take longer than all the rest."""

_BATCH = 4096
_FIRST = "exchange,symbol,timestamp,local_timestamp"
_TRADE = "id,side,price,amount"
_DERIVATIVES = {
    "funding": (("next_ts", 0), ("rate", 1), ("predicted_rate", 2)),
    "open_interest": (("open_interest", 3),),
    "ticker": (("last", 4),),
    "mark": (("index_price", 5), ("mark_price", 6)),
}
"""Of each channel the fields that are told, and their columns."""

Texts = Iterator[str]
"""Rows, with their ends: one or more at a time."""


def _names(job: Job) -> tuple[str, str]:
    """What tardis.dev calls the exchange and the symbol. Raises BadRequestError."""
    try:
        return to_tardis(job.exchange, job.symbol)
    except KeyError:
        known = ", ".join(dict.fromkeys(EXCHANGES.values()))
        message = f"tardis.dev has no exchange that is {job.exchange}: export {known}, or take another format"
        raise BadRequestError(message) from None


def _path(job: Job) -> PurePosixPath:
    exchange, symbol = _names(job)
    return PurePosixPath(f"{exchange}_{job.kind}_{job.date}_{encode_symbol(symbol)}.csv.gz")


def _write(client: Client, job: Job, path: Path) -> Rows:
    columns, texts = _KINDS[job.kind]
    head = "{},{},".format(*_names(job))
    commas, rows = _FIRST.count(",") + 1 + columns.count(","), 0
    with path.open("wb") as raw, gzip.GzipFile("", "wb", LEVEL, raw, 0) as out:
        out.write(f"{_FIRST},{columns}\n".encode())
        found = texts(client, job, head)
        while batch := "".join(islice(found, _BATCH)):
            count = batch.count("\n")
            if batch.count(",") != count * commas or '"' in batch:
                message = f"{job.exchange} {job.symbol}: an id or a number has a comma, a quote or a line break in it"
                raise DamagedError(f"{message}: {job.kind} of {job.date} cannot be such a file: export jsonl")
            out.write(batch.encode())
            rows += count
    return rows


def _times(event: Event) -> str:
    received, theirs = event["ts_recv"] // 1000, event["ts_event"]
    return f"{received if theirs is None else theirs // 1000},{received},"


# -- trades, and what has a channel of its own -------------------------------------------------------------------------


def _trades(client: Client, job: Job, head: str) -> Texts:
    channel = "trade" if job.kind == "trades" else "liquidation"
    for event in events(client, job, [channel]):
        if event["channel"] == channel:
            end = f"{event['id'] or ''},{event['side']},{event['price']},{event['amount']}"
            yield f"{head}{_times(event)}{end}\n"


def _derivatives(client: Client, job: Job, head: str) -> Texts:
    """A row where anything has changed, after all that has the same times; what was not told yet is empty."""
    written, cells, at = [""] * 7, [""] * 7, ""
    for event in events(client, job, tuple(_DERIVATIVES)):
        if event["channel"] not in _DERIVATIVES:
            continue
        if (times := _times(event)) != at:
            if cells != written:
                yield f"{head}{at}{','.join(cells)}\n"
                written = cells.copy()
            at = times
        for name, place in _DERIVATIVES[event["channel"]]:
            if (value := event[name]) is not None:
                cells[place] = value if type(value) is str else str(value // 1000)
    if cells != written:
        yield f"{head}{at}{','.join(cells)}\n"


# -- books -------------------------------------------------------------------------------------------------------------


def _books(client: Client, job: Job) -> Iterator[Event]:
    """The book's events. The book before them stands at the job's beginning, unless a snapshot came right then."""
    before: Event | None = None
    for event in events(client, job, ["book"]):
        if event["channel"] != "book":
            continue
        if event.get("derived"):
            before = {**event, "ts_recv": max(event["ts_recv"], job.start)}
            continue
        if before is not None:
            if event["type"] != "snapshot" or event["ts_recv"] // 1000 != before["ts_recv"] // 1000:
                yield before
            before = None
        yield event


def _deltas(client: Client, job: Job, head: str) -> Texts:
    """A row for each level: what a message says of bids, then what it says of asks."""
    for event in _books(client, job):
        start = f"{head}{_times(event)}{'true' if event['type'] == 'snapshot' else 'false'},"
        bid, ask = f"{start}bid,", f"{start}ask,"
        rows = [f"{bid}{price},{amount}\n" for price, amount in event["bids"]]
        rows += [f"{ask}{price},{amount}\n" for price, amount in event["asks"]]
        if rows:
            yield "".join(rows)


Top = tuple[list[Level], list[Level]]
"""Bids and asks, the best first."""


def _tops(found: Iterable[Event], depth: int) -> Iterator[tuple[Event, Top]]:
    """The best levels after each message that changed them. A book that cannot be read waits for the next snapshot."""
    book, last, known = RankedBook(), None, False
    for event in found:
        is_snapshot = event["type"] == "snapshot"
        if not (known or is_snapshot):
            continue
        try:
            (book.replace if is_snapshot else book.apply)(event["bids"], event["asks"])
            known = True
        except (TypeError, ValueError):
            known = False
            continue
        if (top := book.top(depth)) != last:
            last = top
            yield event, top


def _snapshots(depth: int) -> Callable[[Client, Job, str], Texts]:
    """Books of so many levels a side; cells of levels that are not there are empty."""
    missing: list[Level] = [("", "")] * depth

    def texts(client: Client, job: Job, head: str) -> Texts:
        for event, (bids, asks) in _tops(_books(client, job), depth):
            pairs = zip((asks + missing)[:depth], (bids + missing)[:depth], strict=True)
            cells = [f"{ask[0]},{ask[1]},{bid[0]},{bid[1]}" for ask, bid in pairs]
            yield f"{head}{_times(event)}{','.join(cells)}\n"

    return texts


def _quotes(client: Client, job: Job, head: str) -> Texts:
    sent = events(client, job, ["quote"], snapshot=False)
    first = next((event for event in sent if event["channel"] == "quote"), None)
    if first is None:
        yield from _best(client, job, head)
        return
    for event in events(client, job, ["quote"]):
        if event["channel"] == "quote":
            ask = f"{event['ask_amount'] or ''},{event['ask_price'] or ''}"
            yield f"{head}{_times(event)}{ask},{event['bid_price'] or ''},{event['bid_amount'] or ''}\n"


def _best(client: Client, job: Job, head: str) -> Texts:
    missing: list[Level] = [("", "")]
    for event, (bids, asks) in _tops(_books(client, job), 1):
        (bid, bid_amount), (ask, ask_amount) = (bids or missing)[0], (asks or missing)[0]
        yield f"{head}{_times(event)}{ask_amount},{ask},{bid},{bid_amount}\n"


def _depth_columns(depth: int) -> str:
    columns = "asks[{0}].price,asks[{0}].amount,bids[{0}].price,bids[{0}].amount"
    return ",".join(columns.format(level) for level in range(depth))


_KINDS: dict[str, tuple[str, Callable[[Client, Job, str], Texts]]] = {
    "trades": (_TRADE, _trades),
    "incremental_book_L2": ("is_snapshot,side,price,amount", _deltas),
    "book_snapshot_5": (_depth_columns(5), _snapshots(5)),
    "book_snapshot_25": (_depth_columns(25), _snapshots(25)),
    "quotes": ("ask_amount,ask_price,bid_price,bid_amount", _quotes),
    "derivative_ticker": (
        "funding_timestamp,funding_rate,predicted_funding_rate,open_interest,last_price,index_price,mark_price",
        _derivatives,
    ),
    "liquidations": (_TRADE, _trades),
}
_CHANNELS = {
    **dict.fromkeys(_KINDS, ("book",)),
    "trades": ("trade",),
    "quotes": ("quote", "book"),
    "derivative_ticker": ("funding", "mark", "open_interest"),  # of a perpetual: a ticker alone is none
    "liquidations": ("liquidation",),
}
FORMATS = (Format("tardis-csv", _CHANNELS, _path, _write),)
