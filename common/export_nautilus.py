"""Exports as NautilusTrader's Parquet catalogue, as that of version 1.221 (128 bits) reads and writes it.

    OUT/data/trade_tick/BTCUSDT.BINANCE/2024-08-08T00-00-00-000000000Z_2024-08-08T23-59-59-999999999Z.parquet
    OUT/data/quote_tick/…, OUT/data/order_book_delta/…
    OUT/data/currency_pair/BTCUSDT.BINANCE/…        the instrument; or crypto_perpetual, crypto_future

`ParquetDataCatalog(OUT)` reads them. A file's name tells its UTC day. Prices and sizes are whole numbers of 1e-16;
`ts_init` is `ts_recv`, which never runs back here; `ts_event` is it too where the exchange told no time; `sequence` is
our number of the record. A snapshot is CLEAR and ADDs with F_SNAPSHOT; a delta is UPDATEs and DELETEs; the last of each
message has F_LAST alone.
"""

import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .client import Client
from .errors import BadRequestError
from .events import Event
from .exports import DAY_NS, Format, Job, Rows, events
from .nautilus_instruments import DIRECTORIES, identifier, instrument_table
from .tables import arrow, compute

if TYPE_CHECKING:
    import pyarrow as pa

SCALE = 16
"""Digits after the point of prices and sizes, as its builds for Linux and macOS have them."""

_GREATEST = {"price": 17_014_118_346_046, "size": 34_028_236_692_093}
ADD, UPDATE, DELETE, CLEAR = 1, 2, 3, 4
BUY, SELL = 1, 2
F_SNAPSHOT, F_LAST = 1 << 5, 1 << 7

_CHUNK = 1 << 15  # rows
_FIXED, _BYTE, _LONG, _TEXT = "fixed", "uint8", "uint64", "string"
_TIMES = {"ts_event": _LONG, "ts_init": _LONG}
_COLUMNS = {
    "trade": {"price": _FIXED, "size": _FIXED, "aggressor_side": _BYTE, "trade_id": _TEXT, **_TIMES},
    "quote": {"bid_price": _FIXED, "ask_price": _FIXED, "bid_size": _FIXED, "ask_size": _FIXED, **_TIMES},
    "book": {
        "action": _BYTE, "side": _BYTE, "price": _FIXED, "size": _FIXED, "order_id": _LONG, "flags": _BYTE,
        "sequence": _LONG, **_TIMES,
    },
}  # fmt: skip
_KINDS = {"trade_tick": "trade", "quote_tick": "quote", "order_book_delta": "book"}
_SIDES = {"buy": BUY, "sell": SELL}


def _write(client: Client, job: Job, path: Path) -> Rows:
    asked = (job.exchange, job.symbol)
    found = client.instruments(*asked, job.end - 1) or client.instruments(*asked)  # of then, where a feed was running
    _, _, name = job.name.partition("/")
    if job.kind == "instrument":
        table = instrument_table(job, name, found)
        import pyarrow.parquet as pq

        pq.write_table(table, path, compression="zstd")
        return int(table.num_rows)
    numbers = _Numbers(found[0] if found else {})
    channel = _KINDS[job.kind]
    parts = (_table(channel, part, numbers) for part in _parts(_ordered(events(client, job, [channel]), job, channel)))
    try:
        return _save(parts, channel, {"instrument_id": name}, numbers, path)
    except arrow().ArrowInvalid as error:
        raise BadRequestError(f"{job.exchange} {job.symbol}: a number that no catalogue holds: {error}") from None


def _ordered(found: Iterable[Event], job: Job, channel: str) -> Iterator[tuple[int, Event]]:
    """The events that become rows, each with its `ts_init`."""
    here = job.start
    for event in found:
        here = max(here, event["ts_recv"])
        if event["channel"] != channel or (channel == "trade" and "type" in event):
            continue  # a trade with a type came about beside the book
        if channel == "quote" and None in (event["bid_price"], event["ask_price"]):
            continue  # a side is empty: it has no quotes of one side
        yield here, event


def _parts(found: Iterator[tuple[int, Event]]) -> Iterator[list[tuple[int, Event]]]:
    part: list[tuple[int, Event]] = []
    rows = 0
    for each in found:
        part.append(each)
        rows += len(each[1].get("bids", ())) + len(each[1].get("asks", ())) + 1
        if rows >= _CHUNK:
            yield part
            part, rows = [], 0
    if part:
        yield part


# -- rows --------------------------------------------------------------------------------------------------------------


class _Numbers:
    """Makes numbers of 16 bytes, and finds how many digits after the point those have that were seen."""

    def __init__(self, instrument: Event) -> None:
        self.digits = {
            "price": _digits(instrument.get("tick_size") or "1"),
            "size": _digits(instrument.get("lot_size") or "1"),
        }

    def fixed(self, texts: list[str], what: str) -> tuple["pa.Array", "pa.Array"]:
        """As the catalogue has them, and as decimals. Raises ArrowInvalid for what is no number of it."""
        pa = arrow()
        decimals = pa.array(texts, pa.string()).cast(pa.decimal128(38, SCALE))
        greatest = compute().max(compute().abs(decimals)).as_py()
        if greatest > _GREATEST[what]:
            raise pa.ArrowInvalid(f"{greatest} is too great for a {what}")
        while not self._fit(decimals, self.digits[what]):
            self.digits[what] += 1
        binary = pa.Array.from_buffers(pa.binary(SCALE), len(decimals), [None, decimals.buffers()[1]])
        return binary, decimals

    def _fit(self, decimals: "pa.Array", digits: int) -> bool:
        pa = arrow()
        try:
            decimals.cast(pa.decimal128(38 - SCALE + digits, digits))
        except pa.ArrowInvalid:
            return digits >= SCALE
        return True


def _digits(size: str) -> int:
    return len(size.partition(".")[2].rstrip("0"))


def _table(channel: str, part: list[tuple[int, Event]], numbers: _Numbers) -> "pa.Table":
    columns = _book(part, numbers) if channel == "book" else _ticks(channel, part, numbers)
    return arrow().table(columns, _schema(channel, {}))


def _ticks(channel: str, part: list[tuple[int, Event]], numbers: _Numbers) -> dict[str, Any]:
    rows = [event for _, event in part]
    times = {
        "ts_event": [_event_time(here, event) for here, event in part],
        "ts_init": [here for here, _ in part],
    }
    if channel == "quote":
        asked = {name: (name.replace("size", "amount"), name[4:]) for name in list(_COLUMNS["quote"])[:4]}
        fixed = {name: numbers.fixed([event[key] for event in rows], what)[0] for name, (key, what) in asked.items()}
        return {**fixed, **times}
    return {
        "price": numbers.fixed([event["price"] for event in rows], "price")[0],
        "size": numbers.fixed([event["amount"] for event in rows], "size")[0],
        "aggressor_side": [_SIDES.get(event["side"], 0) for event in rows],
        "trade_id": [str(event["seq"] if event["id"] is None else event["id"]) for event in rows],
        **times,
    }


def _event_time(here: int, event: Event) -> int:
    return here if event["ts_event"] is None else event["ts_event"]


def _book(part: list[tuple[int, Event]], numbers: _Numbers) -> dict[str, Any]:
    import numpy as np

    runs: list[tuple[int, ...]] = []  # action, side, flags, sequence, both times, and how many rows have them
    last: list[int] = []  # the last row of each message
    texts: list[str] = []  # price, size, price, size, …
    for here, event in part:
        before, about = len(texts), (event["seq"], _event_time(here, event), here)
        whole = event["type"] == "snapshot"
        if whole:
            runs.append((CLEAR, 0, F_SNAPSHOT, *about, 1))
            texts += ("0", "0")
        kind = (ADD, F_SNAPSHOT) if whole else (UPDATE, 0)
        for side, levels in ((BUY, event["bids"]), (SELL, event["asks"])):
            runs.append((kind[0], side, kind[1], *about, len(levels)))
            texts.extend(chain.from_iterable(levels))
        if len(texts) > before:
            last.append(len(texts) // 2 - 1)
    columns = np.array(runs, np.int64).T
    action, sides, flags, sequence, ts_event, ts_init = (np.repeat(each, columns[-1]) for each in columns[:-1])
    size, amounts = numbers.fixed(texts[1::2], "size")
    empty = compute().equal(amounts, arrow().scalar(0)).to_numpy(zero_copy_only=False)
    action[(action == UPDATE) & empty] = DELETE
    flags[last] = (
        F_LAST  # and nothing else: it looks for just that, and would hold a snapshot back until the next delta
    )
    return {
        "action": action, "side": sides, "price": numbers.fixed(texts[::2], "price")[0], "size": size,
        "order_id": np.zeros(len(action), np.uint64), "flags": flags, "sequence": sequence,
        "ts_event": ts_event, "ts_init": ts_init,
    }  # fmt: skip


# -- files -------------------------------------------------------------------------------------------------------------


def _schema(channel: str, metadata: dict[str, str]) -> "pa.Schema":
    pa = arrow()
    types = {_FIXED: pa.binary(SCALE), _BYTE: pa.uint8(), _LONG: pa.uint64(), _TEXT: pa.string()}
    fields = [pa.field(name, types[sort], nullable=False) for name, sort in _COLUMNS[channel].items()]
    return pa.schema(fields, metadata)


def _save(parts: Iterable["pa.Table"], channel: str, metadata: dict[str, str], numbers: _Numbers, path: Path) -> Rows:
    """By way of a file without metadata: how many digits there are is known after the last row."""
    pa = arrow()
    import pyarrow.parquet as pq

    rows = 0
    with tempfile.TemporaryFile(dir=path.parent) as file:
        with pa.ipc.new_stream(file, _schema(channel, {})) as stream:
            for table in parts:
                rows += table.num_rows
                stream.write_table(table)
        file.seek(0)
        told = {"price_precision": numbers.digits["price"], "size_precision": numbers.digits["size"]}
        schema = _schema(channel, metadata | {key: str(value) for key, value in told.items()})
        with pq.ParquetWriter(path, schema, compression="zstd") as writer, pa.ipc.open_stream(file) as stream:
            for batch in stream:
                writer.write_table(pa.Table.from_batches([batch]).replace_schema_metadata(schema.metadata))
    return rows


def _path(job: Job) -> PurePosixPath:
    directory, _, name = job.name.partition("/")
    day = job.start // DAY_NS * DAY_NS
    begin, end = (f"{datetime.fromtimestamp(ts // 10**9, UTC):%Y-%m-%dT%H-%M-%S}" for ts in (day, day + DAY_NS - 1))
    file = f"{begin}-000000000Z_{end}-999999999Z.parquet"
    return PurePosixPath("data", directory if job.kind == "instrument" else job.kind, name.replace("/", ""), file)


def _named(client: Client, exchange: str, symbol: str) -> str:
    """The directory of its instrument and its identifier: `currency_pair/BTCUSDT.BINANCE`."""
    found = client.instruments(exchange, symbol)
    return f"{DIRECTORIES.get(found[0]['type'], '') if found else ''}/{identifier(exchange, symbol)}"


_ALL = {**{kind: (channel,) for kind, channel in _KINDS.items()}, "instrument": tuple(_KINDS.values())}

FORMATS = (Format("nautilus", _ALL, _path, _write, named=_named),)
