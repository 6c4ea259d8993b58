"""Slices as frames: one channel as typed columns (`tables.py` lists them), in the order of `events()`.

Most of a long slice is in Parquet files that the server never opens: `plan` names them, `chunk` brings them, SHA-256
proves them. What no file covers, the last hour above all, comes as events and is made into columns here; so does all
of it where `exact` wants the digits. The book before the first event stands in front as one `derived` snapshot.

Frames of several exchanges have one more column in front, `exchange`.
"""

import importlib.util
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import tables
from .codec import MissingPackageError
from .errors import BadRequestError, MissingExtraError
from .progress import Progress
from .slices import Query
from .sources import END, Meter, Source, merged, write_file
from .transport import Transport

if TYPE_CHECKING:
    import pyarrow

RECEIVED = "received"  # a column of its own, while exchanges are merged: `ts_recv` may step back, an order may not


def _named(table: Any, exchange: str, highest: list[int]) -> Any:
    """With the exchange in front and, behind, the highest `ts_recv` up to each row."""
    pa = tables.arrow()
    import pyarrow.compute as pc

    names = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), len(table)), pa.array([exchange]))
    made = table.add_column(0, "exchange", names)
    received = pc.cumulative_max(table["ts_recv"], start=highest[0])
    if len(table):
        highest[0] = received[-1].as_py()
    return made.append_column(RECEIVED, received)


def _sources(
    transport: Transport, queries: Sequence[Query], channel: str, progress: Progress, *, exact: bool
) -> list[Source]:
    meter = Meter(progress)
    return [Source(transport, query, channel, meter, exact=exact) for query in queries]


def _whole(sources: list[Source]) -> Any:
    if len(sources) == 1:
        return sources[0].whole()
    parts = [_named(source.whole(), source.exchange, [-END]) for source in sources]
    return tables.arrow().concat_tables(parts).unify_dictionaries().sort_by(RECEIVED).drop_columns([RECEIVED])


def _batched(sources: list[Source]) -> Iterator[Any]:
    if len(sources) == 1:
        yield from sources[0].batches()
        return

    def named(source: Source) -> Iterator[Any]:
        highest = [-END]
        return (_named(table, source.exchange, highest) for table in source.batches())

    for table in merged([named(source) for source in sources], RECEIVED):
        yield table.drop_columns([RECEIVED])


# -- what a slice asks for ---------------------------------------------------------------------------------------------


def batches(
    transport: Transport, queries: Sequence[Query], *, exact: bool, progress: bool | None
) -> Iterator["pyarrow.Table"]:
    """One channel as tables, one after another. Raises ArchivistError."""
    channels = _channels(queries)
    if len(channels) != 1:
        raise BadRequestError(f"batches are of one channel, not of {', '.join(channels)}: slice each by itself")
    with _told(), Progress(_label(queries), show=progress) as shown:
        yield from _batched(_sources(transport, queries, channels[0], shown, exact=exact))


def framed(transport: Transport, queries: Sequence[Query], kind: str, *, exact: bool, progress: bool | None) -> Any:
    """A frame of the only channel, or a dict of frames by channel. Raises ArchivistError."""
    convert = _CONVERT[kind]
    with _told(), Progress(_label(queries), show=progress) as shown:
        found = {
            channel: convert(_whole(_sources(transport, queries, channel, shown, exact=exact)))
            for channel in _channels(queries)
        }
    return found if len(found) > 1 else next(iter(found.values()))


def converted(make: Callable[[], Any], kind: str) -> Any:
    """An Arrow table as `arrow`, `polars` or `pandas`. Raises MissingExtraError."""
    with _told():
        return _CONVERT[kind](make())


def write(transport: Transport, queries: Sequence[Query], path: Path, *, exact: bool, progress: bool | None) -> None:
    """A Parquet file, or a directory with one for each channel. Raises ArchivistError, OSError."""
    channels = _channels(queries)
    with _told(), Progress(_label(queries), show=progress) as shown:
        if len(channels) == 1:
            _write(_batched(_sources(transport, queries, channels[0], shown, exact=exact)), channels[0], path)
            return
        path.mkdir(parents=True, exist_ok=True)
        for channel in channels:
            found = _batched(_sources(transport, queries, channel, shown, exact=exact))
            _write(found, channel, path / f"{channel}.parquet")


def write_directory(transport: Transport, queries: Sequence[Query], path: Path, *, progress: bool | None) -> None:
    """A fresh directory of Parquet files, of each exchange, channel and symbol. Raises ArchivistError, OSError."""
    is_there = path.is_dir()
    found = next(path.iterdir(), None) if is_there else path if path.exists() or path.is_symlink() else None
    if found is not None:
        raise BadRequestError(f"{path} is not an empty directory, {found} is there: name a fresh one")
    place = path if is_there else path.parent  # what is there may be linked to, mounted, or where somebody is
    partial = place / f".{path.name}.{secrets.token_hex(4)}.partial"
    partial.mkdir(parents=True)
    with _told(), Progress(_label(queries), show=progress) as shown:
        try:
            for channel in _channels(queries):
                for source in _sources(transport, queries, channel, shown, exact=False):
                    source.write_to(partial / source.exchange / channel)
            if is_there:
                for each in list(partial.iterdir()):
                    each.replace(path / each.name)
            else:
                partial.replace(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write(found: Iterator[Any], channel: str, path: Path) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        write_file(found, partial, tables.bare(tables.table(channel, ())))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _channels(queries: Sequence[Query]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(queries[0].channels))


def _label(queries: Sequence[Query]) -> str:
    symbols = queries[0].symbols
    return f"{','.join(query.exchange for query in queries)} {symbols[0] if len(symbols) == 1 else len(symbols)}"


@contextmanager
def _told() -> Iterator[None]:
    """A package that is missing is one of our errors."""
    try:
        yield
    except MissingPackageError as error:
        raise MissingExtraError(str(error)) from None


def _polars(table: Any) -> Any:
    try:
        import polars
    except ImportError:
        raise MissingPackageError("to_polars needs one more package: install trade-archivist[frames]") from None
    return polars.from_arrow(table)


def _pandas(table: Any) -> Any:
    if importlib.util.find_spec("pandas") is None:
        raise MissingPackageError("to_pandas needs one more package: install trade-archivist[frames]")
    return table.to_pandas()


_CONVERT: dict[str, Callable[[Any], Any]] = {"arrow": lambda table: table, "polars": _polars, "pandas": _pandas}
