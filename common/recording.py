"""Messages out of recordings and archives, in the order in which they came.

A recording is a gzip file, one line per message, as received:

    1723161254036059768 {"stream":"btcusdt@trade","data":{…}}\\n        a frame of a combined stream
    1723161254206652067 {"lastUpdateId":50093239218,"bids":[…]…}\\n     a REST snapshot of the file's symbol
    └ ts_recv, ns, 19 ┘ └ payload, byte-exact ─────────────────┘

An archive is our own storage directory: `DIR/EXCHANGE/SYMBOL/YYYY-MM/*.bz2|.zst|.open`, records as lines. What a
payload means is told by the exchange's own `stream_of`.
"""

import gzip
import heapq
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .codec import LINE_BYTES_MAX, CodecError, lines
from .record import Record, decode

SNAPSHOT = ""
"""Stands in the place of the stream's name where the payload is a REST snapshot of the book."""

CHUNK_BYTES = 1024 * 1024

StreamOf = Callable[[bytes], str | None]
"""The stream of a payload; SNAPSHOT for a book over REST, None for what no stream sent (an acknowledgement)."""


class Message(NamedTuple):
    """One message of a market. `payload` is a combined frame, `micro` the same with times in µs, if there is one.

    `wire` is what a binary frame held before it was inflated to `payload`.
    """

    ts: int
    symbol: str
    stream: str
    payload: bytes
    micro: bytes | None = None
    wire: bytes | None = None


def read_recordings(paths: Sequence[Path], stream_of: StreamOf) -> Iterator[Message]:
    """The messages of several recordings, merged by time. Raises ValueError on a line that is none."""
    each = [_read_recording(path, stream_of) for path in paths]
    return each[0] if len(each) == 1 else heapq.merge(*each, key=lambda message: message.ts)


def _read_recording(path: Path, stream_of: StreamOf) -> Iterator[Message]:
    symbol = ""
    ahead: list[tuple[int, bytes]] = []  # snapshots before the first stream told the file's symbol
    symbols: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        payload = line[20:]
        try:
            ts, stream = int(line[:19]), stream_of(payload)
        except ValueError:
            raise ValueError(f"{path} line {number}: no time and payload: {line[:40]!r}") from None
        if stream:
            symbol = symbols.get(stream) or symbols.setdefault(stream, symbol_of(stream))
            for early in ahead:
                yield Message(early[0], symbol, SNAPSHOT, early[1])
            ahead.clear()
            yield Message(ts, symbol, stream, payload)
        elif stream == SNAPSHOT and symbol:
            yield Message(ts, symbol, SNAPSHOT, payload)
        elif stream == SNAPSHOT:
            ahead.append((ts, payload))


def _lines(path: Path) -> Iterator[bytes]:
    """Lines without their ends. Split in bulk, which is several times as fast as `readline`."""
    rest = b""
    try:
        with gzip.open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from whole
                if len(rest) > LINE_BYTES_MAX:
                    raise ValueError(f"{path}: a line longer than {LINE_BYTES_MAX} bytes: no recording")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: {error}") from None
    if rest:
        yield rest


def symbol_of(stream: str) -> str:
    """`BTCUSDT` of `btcusdt@trade`; empty for a stream of no single symbol (`!miniTicker@arr`)."""
    return "" if stream.startswith("!") else stream.partition("@")[0].upper()


def read_archive(directory: Path, symbols: Sequence[str], stream_of: StreamOf) -> Iterator[Message]:
    """The messages of the symbols in one exchange's storage directory (all of them where none is named), by `seq`."""
    folders = [path for path in sorted(directory.iterdir()) if path.is_dir() and path.name[0] not in "_."]
    chosen = [path for path in folders if not symbols or urllib.parse.unquote(path.name) in symbols]
    for record in heapq.merge(*map(_records, chosen), key=lambda record: record.seq):
        message = _message(record, stream_of)
        if message is not None:
            yield message


def archive_files(folder: Path) -> list[Path]:
    """One symbol's files from the first to the last; the sealed one where the open one is still beside it."""
    best: dict[str, Path] = {}
    for suffix in (".open", ".zst", ".bz2"):
        best.update({path.name.removesuffix(suffix): path for path in folder.glob(f"*/*{suffix}")})
    return sorted(best.values(), key=lambda path: (int(path.name.rpartition("-")[2].partition(".")[0]), path.name))


def _records(folder: Path) -> Iterator[Record]:
    last = 0
    for path in archive_files(folder):
        try:
            for line in lines(path):
                record = decode(line)
                if record.seq > last:
                    last = record.seq
                    yield record
        except CodecError as error:
            raise ValueError(str(error)) from None


def _message(record: Record, stream_of: StreamOf) -> Message | None:
    if record.payload is None or record.kind not in ("in", "rest"):
        return None
    stream = stream_of(record.payload)
    if stream is None or (stream == SNAPSHOT) != (record.kind == "rest"):
        return None
    return Message(record.ts_recv, record.symbol or symbol_of(stream), stream, record.payload)


class Outline(NamedTuple):
    """What the head of a source tells in advance: its streams, and each symbol's first book."""

    streams: frozenset[str]
    snapshots: dict[str, bytes]
    symbols: tuple[str, ...]


def outline(messages: Iterable[Message]) -> Outline:
    """Look through the head of a source. `messages` is consumed."""
    streams: set[str] = set()
    snapshots: dict[str, bytes] = {}
    symbols: dict[str, None] = {}
    for message in messages:
        if message.symbol:
            symbols[message.symbol] = None
        if message.stream == SNAPSHOT:
            snapshots.setdefault(message.symbol, message.payload)
        else:
            streams.add(message.stream)
    return Outline(frozenset(streams), snapshots, tuple(symbols))
