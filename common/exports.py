"""Exports: slices of an archive as files that other tools read, one for each symbol, kind and UTC day.

    OUT/binance_trades_2024-08-08_BTCUSDT.csv.gz    as its format names it; it has its name once it is whole
    OUT/exports.jsonl                               what each file holds, rows, bytes, SHA-256: its newest line counts

The same slice gives the same bytes. A file that stands there whole is not made again; one whose day was not over, whose
normaliser is older or whose size is another, is. A file that no line tells of is somebody else's: nothing is
overwritten. A day is one of `ts_recv`.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import orjson

from .client import Client
from .disk import Disk
from .errors import BadRequestError
from .events import GAP, Event
from .exchanges import get as adapter_of
from .exchanges import names as known_exchanges
from .progress import Progress

DAY_NS = 86_400 * 10**9
EXPORTS = "exports.jsonl"
END_NS = 1 << 62
"""After all times."""

_PART_BYTES = 1024 * 1024
_PARTIAL = ".exporting"
"""Is in the name of what is being written, hidden beside its place."""


class Job(NamedTuple):
    """One file to be made: what was received from `start` on and before `end` (ns), within one day or all of it."""

    exchange: str
    symbol: str
    kind: str
    start: int
    end: int
    name: str = ""  # what the format calls the symbol, where it asks the archive for that

    @property
    def date(self) -> str:
        """The UTC day, as 2024-08-08."""
        return f"{datetime.fromtimestamp(self.start // 10**9, UTC):%Y-%m-%d}"


Rows = int


@dataclass(frozen=True)
class Format:
    """How the files of a format are made.

    `kinds` names the channels that each kind of file is made of. `path` is a file's name below the directory. `write`
    makes the file and returns its rows: it reads slices of the client in bounded memory, and the same slices give the
    same bytes. Where not `daily`, one file holds all that was asked for. What there is nothing of has no file.
    """

    name: str
    kinds: Mapping[str, tuple[str, ...]]
    path: Callable[[Job], PurePosixPath]
    write: Callable[[Client, Job, Path], Rows]
    daily: bool = True
    default: tuple[str, ...] = ()
    """The kinds that are made where none is named; all where there is none here."""
    named: Callable[[Client, str, str], str] = lambda _client, _exchange, _symbol: ""
    """The `name` of jobs of an exchange's symbol. Raises ArchivistError where it has none: then nothing is made."""


class Done(NamedTuple):
    """A file of an export; `made` is False where it stood there already."""

    path: Path
    rows: Rows
    bytes: int
    made: bool


# -- what is to be made ------------------------------------------------------------------------------------------------


def planned(
    client: Client,
    format: Format,
    exchange: str,
    symbols: Sequence[str],
    kinds: Sequence[str],
    start: int | None,
    end: int | None,
) -> list[Job]:
    """What is to be made for each symbol and kind that the exchange offers. Raises ArchivistError.

    `symbols` may be unified names and patterns of them; the jobs have the exchange's own symbols.
    """
    if exchange not in known_exchanges():
        message = f"unknown exchange {exchange!r}: known are {', '.join(known_exchanges())}"
        raise BadRequestError(message, "unknown_exchange")
    for kind in kinds:
        if kind not in format.kinds:
            raise BadRequestError(f"{format.name} has no {kind!r}: it has {', '.join(format.kinds)}")
    begin, stop = 0 if start is None else start, END_NS if end is None else end
    if begin >= stop:
        raise BadRequestError("start is not before end: give an earlier start or a later end", "bad_time")
    wanted = kinds or format.default or tuple(format.kinds)
    offered = frozenset(adapter_of(exchange).CHANNELS)
    chosen = [kind for kind in wanted if offered.intersection(format.kinds[kind])]
    if not chosen:
        raise BadRequestError(f"{exchange} offers nothing of {', '.join(wanted)}: `trade-archivist exchanges` lists it")
    named = {symbol: format.named(client, exchange, symbol) for symbol in client.symbols(exchange, symbols)}
    return [Job(exchange, symbol, kind, begin, stop, name) for symbol, name in named.items() for kind in chosen]


def events(
    client: Client, job: Job, channels: Sequence[str], *, snapshot: bool = True, by: str = "ts_recv"
) -> Iterator[Event]:
    """The events of a job, in order, gaps among them; a `book` begins with the book before it, as `derived`."""
    found = client.slice(job.exchange, job.symbol, channels, job.start, job.end, by=by, snapshot=snapshot)
    length = min(job.end, time.time_ns()) - job.start
    with Progress(f"{job.exchange} {job.symbol} {job.kind} {job.date}") as shown:
        for event in found.events():
            shown.update(event["ts_recv"] - job.start, length)
            yield event


def is_over(client: Client, job: Job) -> bool:
    """Whether all of a job is archived by now: what is read from here on is all that there will be."""
    return client.slice(job.exchange, job.symbol, GAP, job.end - 1, job.end, snapshot=False).is_past()


def _days(client: Client, format: Format, job: Job) -> Iterator[Job]:
    """The UTC days on which anything of a job was received."""
    at, asked = job.start, (job.exchange, job.symbol, format.kinds[job.kind])
    while at < job.end and (first := client.slice(*asked, at, job.end).begins()) is not None:
        day = max(first, at) // DAY_NS * DAY_NS  # a clock that was set back may show an earlier time
        at = day + DAY_NS
        yield job._replace(start=max(job.start, day), end=min(job.end, at))


# -- making it ---------------------------------------------------------------------------------------------------------


def export(client: Client, format: Format, jobs: Sequence[Job], directory: Path) -> Iterator[Done]:
    """Make the files of `planned` jobs, one after another. Raises ArchivistError, OSError: what is made stays made."""
    directory.mkdir(parents=True, exist_ok=True)
    with _alone(directory):
        yield from _exported(client, format, jobs, directory)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One export at a time: two would write the same file at once. Raises BadRequestError."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{directory}: another export is at work in it: wait for it, or name another directory"
            raise BadRequestError(message) from None
        yield
    finally:
        os.close(fd)


def _exported(client: Client, format: Format, jobs: Sequence[Job], directory: Path) -> Iterator[Done]:
    normalisers = {each["name"]: each["normaliser"] for each in client.exchanges()}
    known = _known(directory / EXPORTS)
    for folder in {(directory / format.path(job)).parent for job in jobs}:
        for left in folder.glob(f".*{_PARTIAL}*"):  # by an export that was killed: no other is at work here
            left.unlink()
    for asked in jobs:
        days = _days(client, format, asked)
        for job in days if format.daily else (asked for _ in islice(days, 1)):
            file = format.path(job)
            facts = {"format": format.name, **job._asdict(), "normaliser": normalisers.get(job.exchange)}
            line = known.get(str(file), {})
            if line.get("whole") and facts.items() <= line.items() and _is_whole(directory / file, line["bytes"]):
                yield Done(directory / file, line["rows"], line["bytes"], made=False)
                continue
            if not line and (directory / file).exists():
                message = f"{directory / file} is of no export that {EXPORTS} tells of, and nothing is overwritten"
                raise BadRequestError(f"{message}: move it away, or export into another directory")
            yield _made(client, format, job, directory / file, directory / EXPORTS, {"file": str(file), **facts})


def _made(client: Client, format: Format, job: Job, path: Path, exports: Path, facts: dict[str, Any]) -> Done:
    """Make one file, durably, between two lines: the first tells whose it is, the second that it stands there."""
    past = is_over(client, job)  # before it is read
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        rows = format.write(client, job, partial)
        size, digest = _proof(partial)
        line = {**facts, "whole": past, "rows": rows, "bytes": size, "sha256": digest}
        _tell(exports, {**line, "whole": False})
        partial.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # of a full disk, nothing else names the file
        raise
    finally:
        partial.unlink(missing_ok=True)
    Disk().sync_dir(path.parent)
    _tell(exports, line)
    return Done(path, rows, size, made=True)


def _tell(exports: Path, line: dict[str, Any]) -> None:
    """Append a line, durably; one that was torn before it is ended."""
    with exports.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            file.write(b"" if file.read(1) == b"\n" else b"\n")
        file.write(orjson.dumps(line) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _proof(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file, which is synced first."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while part := file.read(_PART_BYTES):
            digest.update(part)
        return file.tell(), digest.hexdigest()


def _known(path: Path) -> dict[str, dict[str, Any]]:
    """What was made, by file: the newest line of each counts. A line that is torn or damaged is none."""
    known: dict[str, dict[str, Any]] = {}
    for text in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            line = orjson.loads(text)
            known[line["file"]] = {**line, "rows": int(line["rows"]), "bytes": int(line["bytes"])}
        except (ValueError, KeyError, TypeError):
            continue
    return known


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
