"""Lines of a file that others made: plain or compressed, told apart by its first bytes.

1f 8b        gzip   (several members one after the other are one file)
42 5a 68     bz2    (so are several streams
28 b5 2f fd  zstd    and several frames)
else         the lines themselves
"""

import bz2
import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from .codec import STEP_BYTES, inflated

CHUNK_BYTES = 1024 * 1024
LINE_BYTES_MAX = 64 * 1024**2

_BROKEN = (EOFError, OSError, zlib.error)


class ForeignFileError(ValueError):
    """A file that others made cannot be read: the message names it, the line (or offset) and the mend."""


def numbered_lines(path: Path, *, ended: bool = False) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers from 1, without their ends. Raises ForeignFileError, OSError.

    The last line may have no end, unless the format's lines are always `ended`. What can be read before a place that
    cannot comes first.
    """
    number, size = 0, 0
    begun: list[bytes] = []  # of the line at hand, so many bytes
    for chunk in _chunks(path):
        if b"\n" in chunk:
            *whole, chunk = b"".join((*begun, chunk)).split(b"\n")
            begun, size = [], 0
            for line in whole:
                number += 1
                yield number, line
        begun.append(chunk)
        size += len(chunk)
        if size > LINE_BYTES_MAX:
            raise ForeignFileError(f"{path} line {number + 1}: longer than {LINE_BYTES_MAX} bytes: not a text of lines")
    rest = b"".join(begun)
    if rest and ended:
        raise ForeignFileError(f"{path} line {number + 1}: torn, it has no end: copy the file again")
    if rest:
        yield number + 1, rest


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as raw:
        offset = lines = 0
        try:
            for chunk in _inflated(raw):
                yield chunk
                lines += chunk.count(b"\n")
                offset = raw.tell()
        except _BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the disk, not of what stands in the file
            where = f"{path} offset {offset}, after line {lines}"
            mend = "copy it again, or decompress what can be read of it and give the whole lines of that"
            raise ForeignFileError(f"{where}: torn or damaged ({_said(error)}): {mend}") from None


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _inflated(raw: IO[bytes]) -> Iterator[bytes]:
    magic = raw.read(4)
    raw.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        file: Any = gzip.GzipFile(fileobj=raw)
    elif magic.startswith(b"BZh"):
        yield from streams(raw, bz2.BZ2Decompressor)
        return
    elif magic == b"\x28\xb5\x2f\xfd":
        yield from _frames(raw)
        return
    else:
        file = raw
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _frames(raw: IO[bytes]) -> Iterator[bytes]:
    import zstandard  # only for files that need it

    try:
        yield from streams(raw, lambda: zstandard.ZstdDecompressor().decompressobj())
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from None


def streams(raw: IO[bytes], begin: Callable[[], Any]) -> Iterator[bytes]:
    """Stream after stream, up to the file's end. The readers of bz2 and zstandard would take damage for the end."""
    stream: Any = None
    data = b""
    while data := data or raw.read(STEP_BYTES):
        stream = stream or begin()
        yield from filter(None, inflated(stream, data))
        data = b""
        if stream.eof:
            stream, data = None, stream.unused_data
    if stream is not None:
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")
