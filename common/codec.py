"""Sealed files: plain `.bz2` or `.zst`, written as independent blocks, and any archive file read back.

┌ block ┐┌ block ┐┌ block ┐     each a whole bz2 stream or zstd frame of whole record lines;
└───────┘└───────┘└───────┘     where each lies, and what it holds, stands in the manifest

zstandard is imported only where a `.zst` file is read or written: the library without it reads everything else.
"""

import bz2
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .disk import open_file
from .journal import SUFFIX as RECORDS
from .storage import OPEN, SEALED

CHUNK_BYTES = 256 * 1024
HOLD_BYTES = 16 * 1024**2
"""A block up to this size is held until its end proves it whole: damage gives nothing rather than garbage."""


class CodecError(Exception):
    """A file that cannot be decompressed: the message names it and the offset."""


class MissingPackageError(CodecError):
    """Nothing is wrong with the file, but with what is installed here."""


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise MissingPackageError("zstd needs one more package: install trade-archivist[daemons]") from None
    return zstandard


def compressor(codec: str, level: int) -> Callable[[bytes], bytes]:
    """What turns one block of lines into its compressed bytes."""
    if codec == "bz2":
        return lambda data: bz2.compress(data, level)
    make = _zstandard().ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
    compress: Callable[[bytes], bytes] = make.compress
    return compress


def decompress(data: bytes, codec: str) -> bytes:
    """One block's lines. Raises CodecError."""
    if codec == "bz2":
        try:
            return bz2.decompress(data)
        except (OSError, ValueError, EOFError) as error:
            raise CodecError(str(error)) from None
    zstandard = _zstandard()
    try:
        lines: bytes = zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise CodecError(str(error)) from None
    return lines


def chunks(path: Path) -> Iterator[bytes]:
    """The lines' bytes of any archive file, a piece at a time, pieces not cut at lines. Raises CodecError, OSError.

    Of a damaged file everything before the damaged block comes first.
    """
    if path.suffix not in (OPEN, RECORDS, *SEALED.values()):
        raise CodecError(f"{path}: not an archive file (.open, .bz2, .zst) nor a journal's (.records)")
    with open_file(path) as file:
        if path.suffix == SEALED["bz2"]:
            yield from _inflated(path, file, bz2.BZ2Decompressor, OSError)
        elif path.suffix == SEALED["zstd"]:
            try:
                zstandard = _zstandard()
            except MissingPackageError as error:
                raise MissingPackageError(f"{path}: {error}") from None
            yield from _inflated(path, file, zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError)
        else:
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")


def _inflated(path: Path, file: IO[bytes], begin: Callable[[], Any], error: type[Exception]) -> Iterator[bytes]:
    """The blocks of a sealed file, one after the other. `begin` makes what inflates one, and raises `error`."""
    block, offset, end = begin(), 0, 0  # the block at hand and where it begins; how far the file was read
    held, size = [b""], 0
    while data := file.read(CHUNK_BYTES):
        end += len(data)
        while data:
            try:
                held.append(block.decompress(data))
            except error as reason:
                raise _damaged(path, offset, str(reason)) from None
            size += len(held[-1])
            data = block.unused_data
            if block.eof:
                block, offset = begin(), end - len(data)
            if offset == end - len(data) or size > HOLD_BYTES:
                yield b"".join(held)
                held, size = [b""], 0
    if offset < end:
        raise _damaged(path, offset, "the file ends in the middle of a block")


def _damaged(path: Path, offset: int, what: str) -> CodecError:
    return CodecError(f"{path} offset {offset}: {what}: restore it from a copy; `trade-archivist verify` proves it")


def pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks of lines cut anew, so that pieces hold whole lines; at last, where they are torn, what has no end."""
    rest: list[bytes] = []
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join((*rest, chunk[:end]))
            rest = [chunk[end:]]
        else:
            rest.append(chunk)
    if torn := b"".join(rest):
        yield torn


def lines(path: Path) -> Iterator[bytes]:
    """The whole record lines of any archive file, without their `\\n`. Raises as `chunks`.

    A torn last line (the file is being written) is left out.
    """
    for piece in pieces(chunks(path)):
        if piece.endswith(b"\n"):
            yield from piece[:-1].split(b"\n")
