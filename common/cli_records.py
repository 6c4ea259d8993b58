"""The commands on streams of records: `cat` and `normalise`."""

import heapq
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from . import exchanges
from .adapter import Adapter
from .codec import CodecError, chunks, lines, pieces
from .normaliser import Normaliser, Work
from .process import EXIT_OK, ConfigError
from .record import RecordError, decode, seq_of

EXIT_DAMAGED = 1
BATCH_LINES = 4096
READ_BYTES = 1024 * 1024
MEND = "run trade-archivist verify, it says what to do"
CONTROL = ("ping", "pong", "close")

Select = Callable[[bytes], bytes]
"""What of a line is printed; nothing for one that was not chosen."""


# -- cat -----------------------------------------------------------------------------------------------------------


def selection(kinds: Collection[str] | None, conn: int | None, symbol: str | None, *, payload: bool) -> Select | None:
    """What is printed of a line; None where that is every line as it is."""
    if not payload and kinds is None and conn is None and symbol is None:
        return None

    def select(line: bytes) -> bytes:
        record = decode(line)
        if kinds is not None and record.kind not in kinds:
            return b""
        if (conn is not None and record.conn != conn) or (symbol is not None and record.symbol != symbol):
            return b""
        if not payload:
            return line + b"\n"
        if record.payload is None:
            return b""
        is_data = record.kind == "in" and record.head.get("op") not in CONTROL
        return record.payload + b"\n" if is_data or kinds is not None else b""

    return select


def cat(paths: Sequence[Path], select: Select | None, *, merge: bool) -> int:
    """Raises CodecError at the first damage, everything before it printed."""
    if merge:
        _print_batches("the merged files", batches(merged(paths)), select)
        return EXIT_OK
    for path in paths:
        if select is not None:
            _print_batches(str(path), file_batches(path), select)
            continue
        for piece in pieces(chunks(path), str(path)):
            if piece.endswith(b"\n"):  # else it is being written
                sys.stdout.buffer.write(piece)
    return EXIT_OK


def _print_batches(where: str, source: Iterable[list[bytes]], select: Select | None) -> None:
    out, number = sys.stdout.buffer, 0
    for batch in source:
        chosen: list[bytes] = []
        try:
            for line in batch:
                chosen.append(line + b"\n" if select is None else select(line))
        except RecordError as error:
            raise CodecError(f"{where} line {number + len(chosen) + 1}: {error}: {MEND}") from None
        finally:
            out.write(b"".join(chosen))
        number += len(batch)


# -- lines of files ------------------------------------------------------------------------------------------------


def file_batches(path: Path) -> Iterator[list[bytes]]:
    """The whole lines of one file, many at a time. Raises CodecError, OSError."""
    for piece in pieces(chunks(path), str(path)):
        if piece.endswith(b"\n"):
            yield piece[:-1].split(b"\n")


def batches(source: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Lines, many at a time; those before an error come before it."""
    batch: list[bytes] = []
    try:
        for line in source:
            batch.append(line)
            if len(batch) == BATCH_LINES:
                yield batch
                batch = []
    except CodecError:
        yield batch
        raise
    yield batch


def merged(paths: Iterable[Path]) -> Iterator[bytes]:
    """The lines of several files in the order of their numbers, each once. A file is open only while its turn lasts.

    A file that is being sealed is there twice for a moment. Raises CodecError where two lines of a number differ.
    """
    before: tuple[int, bytes] | None = None
    for seq, path, line in _in_order(paths):
        if before is None or seq != before[0]:
            yield line
        elif line != before[1]:
            raise CodecError(f"{path}: record {seq} differs from that of another file: {MEND}")
        before = seq, line


def _in_order(paths: Iterable[Path]) -> Iterator[tuple[int, Path, bytes]]:
    """The lines of several files with number and file, in the order of their numbers."""
    firsts = ((path, next(lines(path), None)) for path in set(paths))
    waiting = sorted(((_seq(path, line), path) for path, line in firsts if line is not None), reverse=True)
    heap: list[tuple[int, Path, bytes, Iterator[bytes]]] = []
    while heap or waiting:
        while waiting and (not heap or waiting[-1][0] <= heap[0][0]):
            seq, path = waiting.pop()
            rest = lines(path)
            heapq.heappush(heap, (seq, path, next(rest), rest))
        seq, path, line, rest = heap[0]
        yield seq, path, line
        following = next(rest, None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (_seq(path, following), path, following, rest))


def _seq(path: Path, line: bytes) -> int:
    try:
        return seq_of(line)
    except RecordError as error:
        raise CodecError(f"{path}: {error}: {MEND}") from None


# -- normalise -----------------------------------------------------------------------------------------------------


def normalise(exchange: str, paths: Sequence[Path], symbols: Collection[str] | None, *, topics: bool) -> int:
    """Raises ConfigError, and CodecError at the first line that is no record, events of all before it printed."""
    try:
        adapter = cast(Adapter, exchanges.get(exchange))
    except LookupError as error:
        raise ConfigError(str(error.args[0])) from None
    normaliser = Normaliser(adapter, symbols)
    where, source = _source(paths)
    out, number = sys.stdout.buffer, 0
    for batch in source:
        works, wrong = _works(batch, normaliser)
        messages = normaliser.all_messages(works)
        normaliser.actions.clear()  # nothing is to be fetched: the answers are in the records
        if not topics:
            messages = [message[message.index(b" ") + 1 :] for message in messages]
        if messages:
            out.write(b"\n".join(messages))
            out.write(b"\n")
            out.flush()  # who pipes a log that grows waits for this
        number += len(works)
        if wrong is not None:
            raise CodecError(f"{where}line {number + 1}: {wrong}: {MEND}")
    for fault, count in normaliser.errors.items():
        print(f"trade-archivist: {count} records gave no events: {fault}: please report it", file=sys.stderr)
    return EXIT_DAMAGED if normaliser.errors else EXIT_OK


def _source(paths: Sequence[Path]) -> tuple[str, Iterable[list[bytes]]]:
    """Where the lines are from, for messages, and the lines."""
    if not paths:
        read = sys.stdin.buffer.read1  # type: ignore[union-attr]  # stdin of bytes has it
        return "", (piece.removesuffix(b"\n").split(b"\n") for piece in pieces(iter(lambda: read(READ_BYTES), b"")))
    if len(paths) == 1:
        return f"{paths[0]} ", file_batches(paths[0])
    return "the merged files ", batches(merged(paths))


def _works(batch: list[bytes], normaliser: Normaliser) -> tuple[list[Work | None], RecordError | None]:
    """The lines as work, up to the first that is no record, and what is wrong with that."""
    works: list[Work | None] = []
    try:
        for line in batch:
            works.append(normaliser.work(line))
    except RecordError as error:
        return works, error
    return works, None
