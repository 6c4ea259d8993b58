"""Exports as plain files: a channel's events as Parquet, CSV or JSON lines, for pandas, polars, DuckDB and the like.

    OUT/binance/trade/BTCUSDT-2024-08-08.parquet     columns as in `tables.py`: ns, float64
                                        .csv         the same columns with the exchange's own digits
                                        .jsonl       the events as they were live, their gaps among them

A book begins with the book before the day, `derived`.
"""

import csv
import io
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from .client import Client
from .events import CHANNELS, GAP, Event
from .exports import Format, Job, Rows
from .slices import Slice
from .storage import encode_symbol
from .tables import COLUMNS

_CSV_EVENTS = 4096

_KINDS = {channel: (channel,) for channel in CHANNELS}


def write_csv(events: Iterable[Event], channel: str, out: IO[bytes]) -> Rows:
    """The table's columns with the exchange's own digits; a book has a row for each level."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS[channel]), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    rows = 0
    for count, event in enumerate(events):
        if event["channel"] == channel:
            found = _rows(event)
            writer.writerows(found)
            rows += len(found)
        if count % _CSV_EVENTS == 0:
            out.write(text.getvalue().encode())
            text.seek(0)
            text.truncate()
    out.write(text.getvalue().encode())
    return rows


def _rows(event: Event) -> list[Event]:
    if "bids" not in event:
        return [{"part": 0, "of": 1, **event}]
    sides = (("bid", event["bids"]), ("ask", event["asks"]))
    levels = [{"side": side, "price": price, "amount": amount} for side, found in sides for price, amount in found]
    return [{"part": 0, "of": 1, **event, **level} for level in levels or [{}]]


def _slice(client: Client, job: Job, channels: Iterable[str]) -> Slice:
    return client.slice(job.exchange, job.symbol, channels, job.start, job.end)


def _csv(client: Client, job: Job, path: Path) -> Rows:
    with path.open("wb") as out:
        return write_csv(_slice(client, job, [job.kind]).events(), job.kind, out)


def _jsonl(client: Client, job: Job, path: Path) -> Rows:
    rows = 0
    with path.open("wb") as out:
        for block in _slice(client, job, [job.kind, GAP]).blocks("json"):
            rows += block.count(b"\n")
            out.write(block)
    return rows


def _parquet(client: Client, job: Job, path: Path) -> Rows:
    _slice(client, job, [job.kind]).to_parquet(path)
    import pyarrow.parquet as pq

    rows: int = pq.read_metadata(path).num_rows
    return rows


def _path(job: Job, suffix: str) -> PurePosixPath:
    return PurePosixPath(job.exchange, job.kind, f"{encode_symbol(job.symbol)}-{job.date}.{suffix}")


FORMATS = (
    Format("parquet", _KINDS, partial(_path, suffix="parquet"), _parquet),
    Format("csv", _KINDS, partial(_path, suffix="csv"), _csv),
    Format("jsonl", _KINDS, partial(_path, suffix="jsonl"), _jsonl),
)
