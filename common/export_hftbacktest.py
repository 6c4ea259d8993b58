"""Exports for hftbacktest: its backtester's arrays, and the files that its own converters read.

    OUT/binance/btcusdt_20240808.npz    the array `data`, a row for each trade and for each level of a book
    OUT/binance/btcusdt_20240808.gz     as its collector writes them: `<ts_recv, 19 digits> <payload>`, Binance only

A row of `data` is 64 bytes: `ev` (what it is, and in which clocks it counts), `exch_ts` and `local_ts` in ns, `px`,
`qty`, and four zeroes of its format. Rows that count at the exchange are sorted by `exch_ts`, those that count here by
`local_ts`; one that comes out of order stands there twice, once for each clock. See `hftbacktest_rows.py`.
"""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from .adapter import Adapter
from .client import Client
from .errors import BadRequestError
from .events import CHANNELS, Update
from .exchanges import get as adapter_of
from .exports import Format, Job, Rows, events
from .hftbacktest_rows import write_npz
from .record import Record
from .storage import encode_symbol

_BINANCE = ("binance", "binance-usdm", "binance-coinm")
_SNAPSHOT = b'{"lastUpdateId":'
_MICROSECONDS = re.compile(rb'("[ETt]":\d{13})\d{3}(?=[,}])')

_CHANNELS = ("trade", "book")


def _npz(client: Client, job: Job, path: Path) -> Rows:
    return write_npz(events(client, job, _CHANNELS), path)


def _raw(client: Client, job: Job, path: Path) -> Rows:
    """The frames of a symbol and the books that were asked for, in the order in which they came."""
    if job.exchange not in _BINANCE:
        raise BadRequestError(f"raw files are of {', '.join(_BINANCE)} alone: ask {job.exchange} for --kinds npz")
    rows = 0
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as out:
        for record in _recorded(client, job):
            payload = (record.payload or b"").replace(b"\n", b" ")
            if job.exchange == "binance":
                payload = _MICROSECONDS.sub(rb"\1", payload)  # what reads these files counts in ms
            out.write(b"%019d %b\n" % (record.ts_recv, payload))
            rows += 1
    return rows


def _recorded(client: Client, job: Job) -> Iterator[Record]:
    """What belongs in a raw file. While one connection replaces another, what both deliver stands there once."""
    adapter = adapter_of(job.exchange)
    latest: dict[str | None, Record] = {}
    for record in client.slice(job.exchange, job.symbol, start=job.start, end=job.end).records():
        if record.symbol != job.symbol or record.payload is None:
            continue
        if record.kind == "rest" and record.head.get("status") == 200 and record.payload.startswith(_SNAPSHOT):
            yield record
        if record.kind == "in":
            before = latest.get(record.channel)
            if before is not None and before.conn != record.conn and _id(adapter, record) <= _id(adapter, before):
                continue
            latest[record.channel] = record
            yield record


def _id(adapter: Adapter, record: Record) -> int:
    """The exchange's id, or time, of what a frame brings; 0 where there is none."""
    found = adapter.parse(adapter.loads(record.payload or b"null"))
    return found.last if isinstance(found, Update) else 0


def _path(job: Job) -> PurePosixPath:
    suffix = "npz" if job.kind == "npz" else "gz"
    return PurePosixPath(job.exchange, f"{encode_symbol(job.symbol).lower()}_{job.date.replace('-', '')}.{suffix}")


def _write(client: Client, job: Job, path: Path) -> Rows:
    return _npz(client, job, path) if job.kind == "npz" else _raw(client, job, path)


FORMATS = (Format("hftbacktest", {"npz": _CHANNELS, "raw": CHANNELS}, _path, _write, default=("npz",)),)
