"""Exports as the files of freqtrade: the candles and trades of a pair, as its data handlers store them.

    OUT/binance/BTC_USDT-1m.feather                         date (ms, UTC), open, high, low, close, volume (float64)
    OUT/binance/BTC_USDT-trades.feather                     timestamp (ms), id, type, side, price, amount, cost
    OUT/binance/futures/BTC_USDT_USDT-1m-futures.feather    of BTC/USDT:USDT: perpetuals
    OUT/binance/futures/BTC_USDT_USDT-trades.feather

The directory of an exchange, as ccxt names it, is freqtrade's `--datadir`. Times are the exchange's own. Candles are
`bars.py`'s by that time: an interval without trades has none (freqtrade fills it with the close before), one with a gap
has what the trades that are there make, and one that is not over is left out. Trades stand in the order of time; those
off the book are left out, as in candles. Amounts are the exchange's: contracts, where it counts in these.
Source: freqtrade 2026.9, data/history/datahandlers.
"""

import gzip
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from decimal import Decimal
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import orjson

from . import tables
from .bars import Bars
from .client import Client
from .codec import MissingPackageError
from .errors import BadRequestError, MissingExtraError
from .events import Event
from .exports import END_NS, Format, Job, Rows, events, is_over
from .times import parse_interval

MS = 10**6
HELD = 50_000
"""So many trades are put in the order of time at once: what a backfill brought later stands where it came."""
WAIT = "1d"
"""So late a trade may come, by the exchange's time, and still counts in its candle."""

_BATCH = 16_384
_TRADES = "trades"
_TIMEFRAMES = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "8h", "12h", "1d")
_CCXT = {"coinbase": "coinbaseexchange", "coinbase-advanced": "coinbase", "binance-coinm": "binancecoinm"}
_ODD = str.maketrans(dict.fromkeys("/ .@$+:", "_"))  # freqtrade, misc.pair_to_filename

Row = tuple[Any, ...]


class Table(NamedTuple):
    """Columns, and the rows of a job."""

    columns: dict[str, str]
    rows: Callable[[Client, Job], Iterator[Row]]


# -- pairs and names ---------------------------------------------------------------------------------------------------


def _pair(client: Client, exchange: str, symbol: str) -> str:
    """What ccxt calls a symbol: BTC/USDT, BTC/USDT:USDT. Raises BadRequestError."""
    found = client.instruments(exchange, symbol)
    if not found:
        message = f"{exchange} {symbol}: no instrument is archived that tells its pair (what was imported has none)"
        raise BadRequestError(f"{message}: let a feed record it, or take another format")
    base, quote = found[0]["name"].split("-")[:2]
    if found[0]["type"] == "spot":
        return f"{base}/{quote}"
    if found[0]["type"] == "perpetual":
        return f"{base}/{quote}:{(found[0]['settle'] or quote).upper()}"
    raise BadRequestError(f"{exchange} {symbol} is no pair of freqtrade: it has spot and perpetuals alone")


def _path(job: Job, suffix: str) -> PurePosixPath:
    directory = PurePosixPath(_CCXT.get(job.exchange, job.exchange.partition("-")[0]))
    name, candles = f"{job.name.translate(_ODD)}-{job.kind}", ""
    if ":" in job.name:
        directory /= "futures"
        candles = "" if job.kind == _TRADES else "-futures"
    return directory / f"{name}{candles}.{suffix}"


# -- rows --------------------------------------------------------------------------------------------------------------


def _happened(event: Event) -> int:
    """The exchange's time, or ours where it tells none: ns."""
    ts: int = event["ts_recv"] if event["ts_event"] is None else event["ts_event"]
    return ts


def _trades(client: Client, job: Job) -> Iterator[Row]:
    held: list[Row] = []
    for event in events(client, job, ["trade"], by="ts_event"):
        if event["channel"] != "trade" or event.get("type") is not None:
            continue
        try:
            price, amount = Decimal(event["price"]), Decimal(event["amount"])
            cost = float(price * amount)
        except ArithmeticError:
            continue  # no numbers: no candle counts it either
        side = None if event["side"] == "unknown" else event["side"]
        held.append((_happened(event) // MS, event["id"], None, side, float(price), float(amount), cost))
        if len(held) == 2 * HELD:
            held.sort(key=itemgetter(0))
            yield from held[:HELD]
            del held[:HELD]
    held.sort(key=itemgetter(0))
    yield from held


def _candles(client: Client, job: Job) -> Iterator[Row]:
    machine = Bars(job.kind, by="ts_event", wait=WAIT, start=job.start or None)
    ns, over, last = parse_interval(job.kind), is_over(client, job), 0
    for event in events(client, job, ["trade"], by="ts_event"):
        if event["channel"] == "trade":
            last = max(last, _happened(event))
        for bar in machine.take(event):
            if bar.count:
                yield bar.ts // MS, bar.open, bar.high, bar.low, bar.close, bar.volume
    until = job.end if over and job.end < END_NS else last
    for bar in machine.end():
        if bar.count and bar.ts + ns <= until:
            yield bar.ts // MS, bar.open, bar.high, bar.low, bar.close, bar.volume


_CANDLE = Table({"date": "date", **dict.fromkeys(("open", "high", "low", "close", "volume"), "number")}, _candles)
_TRADE = Table(
    {
        "timestamp": "int",
        **dict.fromkeys(("id", "type", "side"), "text"),
        **dict.fromkeys(("price", "amount", "cost"), "number"),
    },
    _trades,
)


# -- files -------------------------------------------------------------------------------------------------------------


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _write_arrow(client: Client, job: Job, path: Path, opened: Callable[[Path, Any], Any]) -> Rows:
    """Batch after batch through a writer of pyarrow."""
    try:
        pa = tables.arrow()
    except MissingPackageError as error:
        raise MissingExtraError(str(error)) from None
    columns, rows = _TRADE if job.kind == _TRADES else _CANDLE
    sorts = {"int": pa.int64(), "date": pa.timestamp("ms", "UTC"), "text": pa.string(), "number": pa.float64()}
    schema, count = pa.schema([(name, sorts[sort]) for name, sort in columns.items()]), 0
    with opened(path, schema) as writer:
        for batch in _batches(rows(client, job)):
            values = [
                pa.array(column, field.type) for column, field in zip(zip(*batch, strict=True), schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(values, schema))
            count += len(batch)
    return count


def _feather(path: Path, schema: Any) -> Any:
    import pyarrow as pa

    return pa.ipc.new_file(str(path), schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))


def _parquet(path: Path, schema: Any) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetWriter(path, schema)


def _write_json(client: Client, job: Job, path: Path, *, zipped: bool) -> Rows:
    """A list of lists."""
    rows, count = (_TRADE if job.kind == _TRADES else _CANDLE).rows, 0
    with path.open("wb") as raw, closing(gzip.GzipFile("", "wb", 6, raw, 0) if zipped else raw) as opened:
        out: IO[bytes] = opened  # type: ignore[assignment]  # GzipFile is a binary writer in all but its declared type
        for batch in _batches(rows(client, job)):
            out.write((b"," if count else b"[") + orjson.dumps(batch)[1:-1])
            count += len(batch)
        out.write(b"]" if count else b"[]")
    return count


def _formats() -> Iterable[Format]:
    kinds = dict.fromkeys((_TRADES, *_TIMEFRAMES), ("trade",))
    for handler, suffix, write in (
        ("", "feather", partial(_write_arrow, opened=_feather)),
        ("-parquet", "parquet", partial(_write_arrow, opened=_parquet)),
        ("-json", "json", partial(_write_json, zipped=False)),
        ("-jsongz", "json.gz", partial(_write_json, zipped=True)),
    ):
        path = partial(_path, suffix=suffix)
        default = (_TRADES, "1m", "5m", "1h", "1d")
        yield Format(f"freqtrade{handler}", kinds, path, write, daily=False, default=default, named=_pair)


FORMATS = tuple(_formats())
