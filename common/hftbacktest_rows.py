"""The rows of hftbacktest out of events, in two passes over a file, however many there are.

    events ─▶ rows, by local_ts, on disk ───────────────────────▶ merge ─▶ data.npy in the npz
                └▶ those late at the exchange, on disk ─▶ sort ──┘

A row is late where one before it has a later `exch_ts`. It stays where it is for `local_ts` alone; its copy for
`exch_ts` alone stands before the first row that is later at the exchange. So neither clock runs back. The order is
exact whatever the disorder; memory holds a chunk, and of the late rows some thousands for each chunk that there was.

`local_ts` is `ts_recv`; where our clock was set back, it stands still until that time is reached again: what came first
stays first. Where anything came before the exchange says that it happened, all of them are later by one shift, such
that the least latency is 1 ns. Trades stand before a book that comes right before them at the same times.
"""

import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import MissingExtraError
from .events import GAP, Event

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

DEPTH, TRADE, CLEAR, SNAPSHOT = 1, 2, 3, 4
EXCHANGE, LOCAL, BUY, SELL = 1 << 31, 1 << 30, 1 << 29, 1 << 28

ROW = [
    ("ev", "<u8"), ("exch_ts", "<i8"), ("local_ts", "<i8"), ("px", "<f8"), ("qty", "<f8"),
    ("order_id", "<u8"), ("ival", "<i8"), ("fval", "<f8"),
]  # fmt: skip

_ROW_BYTES = 64
_CHUNK = 1 << 18
"""Rows that are made, read and written at a time."""
_RUN = 1 << 11
"""Late rows of each chunk that are sorted at a time."""
_WAITING = 10_000
"""Events among which the next delta is looked for, where a book does not say when it was so."""
_COMPRESSION = 1  # of zlib: three times as fast as 6
_NEVER = 1 << 62

Timed = tuple[int, int, Event]
"""`exch_ts`, `local_ts`, and the event."""


def write_npz(events: Iterable[Event], path: Path) -> int:
    """Write a symbol's trades and books; returns the rows. Raises MissingExtraError, OSError."""
    np = _numpy()
    with tempfile.TemporaryFile(dir=path.parent) as rows, tempfile.TemporaryFile(dir=path.parent) as late:
        count, latest, least, runs = 0, -_NEVER, _NEVER, []
        for chunk in _chunks(np, _trades_first(_timed(events))):
            times = chunk["exch_ts"]
            least = min(least, int((chunk["local_ts"] - times).min()))
            behind = times < np.maximum.accumulate(np.maximum(times, latest))
            latest, count = max(latest, int(times.max())), count + len(chunk)
            runs.append(_write_run(np, chunk[behind], late))
            chunk["ev"] |= LOCAL
            chunk["ev"][~behind] |= EXCHANGE
            chunk.tofile(rows)
        total = count + sum(runs)
        _save(np, path, total, max(0, 1 - least), _merged(np, rows, _sorted(np, late, runs)))
    return total


def _write_run(np: Any, rows: "Array", file: IO[bytes]) -> int:
    rows["ev"] |= EXCHANGE
    rows[np.argsort(rows["exch_ts"], kind="stable")].tofile(file)
    return len(rows)


# -- events into rows --------------------------------------------------------------------------------------------------


def _timed(events: Iterable[Event]) -> Iterator[Timed]:
    """The events that make rows, with both times. What has no time of the exchange waits for the next delta's."""
    here = book = -_NEVER
    waiting: list[tuple[int, Event]] = []
    for event in events:
        if event["channel"] == GAP or (event["channel"] == "trade" and "type" in event):
            continue  # a trade with a type came about beside the book
        here, time = max(here, event["ts_recv"]), event["ts_event"]
        if waiting or time is None:
            waiting.append((here, event))
            if (time is None or event["channel"] == "trade") and len(waiting) < _WAITING:
                continue
            found = _settled(waiting, book)
            waiting = []
        else:
            found = ((time, here, event),)
        for timed in found:
            if timed[2]["channel"] == "book":
                book = timed[0]
            yield timed
    yield from _settled(waiting, book)


def _settled(waiting: list[tuple[int, Event]], book: int) -> tuple[Timed, ...]:
    """A time for those that have none: with the latency of the first that has one, but not later than what follows,
    and not before the book that was before them.
    """
    known = [(here - event["ts_event"], event["ts_event"]) for here, event in waiting if event["ts_event"] is not None]
    latency, soonest = known[0][0] if known else 0, _NEVER
    found: list[Timed] = []
    for here, event in reversed(waiting):
        time = event["ts_event"]
        if time is None:
            time = max(min(here - latency, soonest), book)
        soonest = min(soonest, time)
        found.append((time, here, event))
    return tuple(reversed(found))


def _trades_first(timed: Iterable[Timed]) -> Iterator[Timed]:
    books: list[Timed] = []
    for each in timed:
        if books and each[:2] != books[0][:2]:
            yield from books
            books.clear()
        if each[2]["channel"] == "book":
            books.append(each)
        else:
            yield each
    yield from books


_SIDES = {"buy": BUY, "sell": SELL}
_price = itemgetter(0)


def _chunks(np: Any, timed: Iterable[Timed]) -> Iterator["Array"]:
    """Rows without the flags of the clocks, in the order of `local_ts`."""
    runs: list[tuple[int, int, int, int]] = []  # `ev`, both times, and how many rows have them
    numbers: list[str] = []  # price, amount, price, amount, …
    for exch, local, event in timed:
        if event["channel"] == "trade":
            runs.append((TRADE | _SIDES.get(event["side"], 0), exch, local, 1))
            numbers += (event["price"], event["amount"])
        else:
            kind = DEPTH if event["type"] == "delta" else SNAPSHOT
            for side, levels, worst in ((BUY, event["bids"], min), (SELL, event["asks"], max)):
                if levels and kind == SNAPSHOT:
                    runs.append((CLEAR | side, exch, local, 1))
                    numbers += (worst(map(_price, levels), key=float), "0")
                if levels:
                    runs.append((kind | side, exch, local, len(levels)))
                    numbers.extend(chain.from_iterable(levels))
        if len(numbers) >= 2 * _CHUNK:
            yield _rows(np, runs, numbers)
            runs, numbers = [], []
    if runs:
        yield _rows(np, runs, numbers)


def _rows(np: Any, runs: list[tuple[int, int, int, int]], numbers: list[str]) -> "Array":
    ev, exch, local, counts = np.array(runs, np.int64).T
    rows: Array = np.zeros(len(numbers) // 2, ROW)
    for name, values in (("ev", ev), ("exch_ts", exch), ("local_ts", local)):
        rows[name] = np.repeat(values, counts)
    rows["px"], rows["qty"] = np.fromiter(map(float, numbers), np.float64, len(numbers)).reshape(-1, 2).T
    return rows


# -- rows into the file ------------------------------------------------------------------------------------------------


def _sorted(np: Any, file: IO[bytes], runs: list[int]) -> Iterator["Array"]:
    """The rows of a file of sorted runs, by `exch_ts`; of equal times those of the earlier run first."""
    places = np.cumsum([0, *runs])[:-1]
    left = list(runs)
    heads: list[Array] = [np.empty(0, ROW) for _ in runs]
    while any(left) or any(map(len, heads)):
        for index, head in enumerate(heads):
            if not len(head) and left[index]:
                heads[index] = _read(np, file, int(places[index] + runs[index] - left[index]), min(_RUN, left[index]))
                left[index] -= len(heads[index])
        unread = [index for index, more in enumerate(left) if more]
        bounding = min(unread, key=lambda index: heads[index]["exch_ts"][-1], default=len(runs))
        bound = heads[bounding]["exch_ts"][-1] if unread else _NEVER
        # what is as late as the bound comes now up to the run that bounds, which may have more of it
        ends = [
            np.searchsorted(head["exch_ts"], bound, "right" if index <= bounding else "left")
            for index, head in enumerate(heads)
        ]
        rows = np.concatenate([head[:end] for head, end in zip(heads, ends, strict=True)])
        heads = [head[end:] for head, end in zip(heads, ends, strict=True)]
        yield rows[np.argsort(rows["exch_ts"], kind="stable")]


def _merged(np: Any, file: IO[bytes], late: Iterator["Array"]) -> Iterator["Array"]:
    """All rows in their order: each late one before the first that is later at the exchange."""
    latest, waiting, place = -_NEVER, np.empty(0, ROW), 0
    while len(rows := _read(np, file, place, _CHUNK)):
        place += len(rows)
        times = np.maximum.accumulate(np.maximum(rows["exch_ts"], latest))
        latest = int(times[-1])
        while not len(waiting) or waiting["exch_ts"][-1] < latest:
            if (more := next(late, None)) is None:
                break
            waiting = np.concatenate([waiting, more])
        end = np.searchsorted(waiting["exch_ts"], latest)
        due, waiting = waiting[:end], waiting[end:]
        yield np.insert(rows, np.searchsorted(times, due["exch_ts"], "right"), due)


def _read(np: Any, file: IO[bytes], first: int, count: int) -> "Array":
    file.seek(first * _ROW_BYTES)
    rows: Array = np.fromfile(file, ROW, count)
    return rows


def _save(np: Any, path: Path, count: int, shift: int, parts: Iterable["Array"]) -> None:
    """A file as `numpy.savez_compressed(path, data=…)` makes it, part by part, with no time of its own."""
    header = {"descr": ROW, "fortran_order": False, "shape": (count,)}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION) as archive,
        archive.open("data.npy", "w", force_zip64=True) as out,
    ):
        np.lib.format.write_array_header_1_0(out, header)
        for rows in parts:
            rows["local_ts"] += shift
            out.write(rows.tobytes())


def _numpy() -> Any:
    try:
        import numpy
    except ImportError:
        raise MissingExtraError("npz needs one more package: install trade-archivist[frames]") from None
    return numpy
