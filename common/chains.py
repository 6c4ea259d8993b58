"""Sealed files whose events are derived one after the other, and many such chains at a time, in processes.

A file that begins with a checkpoint of this normaliser's version can be derived by itself. One that does not (the
adapter was mended since) needs what was known at the end of the file before: those two make a chain.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from .adapter import Adapter, version
from .codec import CodecError
from .listing import ArchiveFile
from .reader import Reader

INLINE_BYTES = 64 * 1024**2
"""Records of so few bytes are not worth a process."""

WAIT_S = 0.5

T = TypeVar("T")


class Sized(Protocol):
    """A piece of work, and of how many bytes of records it is."""

    @property
    def raw_bytes(self) -> int: ...


W = TypeVar("W", bound=Sized)


class Chain(NamedTuple):
    """Some sealed files of a symbol, by their names in the manifest, in their order."""

    directory: Path  # of the exchange
    symbol: str
    names: tuple[str, ...]
    raw_bytes: int


class WorkerError(Exception):
    """A worker process died; the message says what to do."""


def chains(
    reader: Reader, directory: Path, adapter: Adapter, symbol: str, wanted: Sequence[ArchiveFile]
) -> Iterator[Chain]:
    """Chains of the wanted files, which are sealed ones of `reader.files(symbol)`, in their order."""
    files = reader.files(symbol)
    following = {before.path: after.path for before, after in pairwise(files)}
    found: list[ArchiveFile] = []
    for file in wanted:
        goes_on = found and following.get(found[-1].path) == file.path
        if found and not (goes_on and not begins_by_itself(reader, adapter, symbol, file)):
            yield _chain(directory, symbol, found)
            found = []
        found.append(file)
    if found:
        yield _chain(directory, symbol, found)


def _chain(directory: Path, symbol: str, files: Sequence[ArchiveFile]) -> Chain:
    lines = [file.manifest or {} for file in files]
    return Chain(directory, symbol, tuple(line["name"] for line in lines), sum(line["raw_bytes"] for line in lines))


def begins_by_itself(reader: Reader, adapter: Adapter, symbol: str, file: ArchiveFile) -> bool:
    try:
        line = next(reader.lines(symbol, file.first - 1, file.first), b"")
    except CodecError:
        return True  # whoever takes it up finds out
    mark = b'"kind":"checkpoint"', b'"data":{"normaliser":"%b"' % version(adapter).encode()
    return mark[0] in line[:96] and mark[1] in line[:512]


def run(act: Callable[[W], Iterator[T]], work: Sequence[W], workers: int) -> Iterator[T]:
    """What `act` (a function of a module, or a partial of one) yields for all work (chains), in no certain order.

    Where it is much, in processes, which end with this one. Raises what `act` raises, and WorkerError.
    """
    workers = min(workers, len(work))
    if workers <= 1 or sum(chain.raw_bytes for chain in work) < INLINE_BYTES:
        for chain in work:
            yield from act(chain)
        return
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    results: Any = context.Queue()
    for chain in sorted(work, key=lambda chain: -chain.raw_bytes):
        tasks.put(chain)
    for _ in range(workers):
        tasks.put(None)
    children = [context.Process(target=_work, args=(act, tasks, results), daemon=True) for _ in range(workers)]
    try:
        for child in children:
            child.start()
        yield from _results(results, children)
    finally:
        for child in children:
            if child.pid is not None:
                child.terminate()
                child.join()
        tasks.cancel_join_thread()


def _results(results: Any, children: Iterable[Any]) -> Iterator[Any]:
    """What the workers send until each has said that it is done."""
    at_work = len(list(children))
    while at_work:
        try:
            kind, item = results.get(timeout=WAIT_S)
        except queue.Empty:
            if any(child.exitcode not in (None, 0) for child in children):
                raise WorkerError("a worker process was killed: run it again, it goes on where it was") from None
            continue
        if kind == "error":
            raise item
        if kind == "end":
            at_work -= 1
        else:
            yield item


def _work(act: Callable[[Any], Iterator[Any]], tasks: Any, results: Any) -> None:
    """Runs in a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)
    try:
        while (chain := tasks.get()) is not None:
            for item in act(chain):
                results.put(("item", item))
    except Exception as error:
        results.put(("error", error))
    results.put(("end", None))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
