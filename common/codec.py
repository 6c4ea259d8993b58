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

STEP_BYTES = 1024
"""Of what is compressed, inflated at a time: of zstd at most some 32 MB come of them, whatever it was made to hold."""
LINE_BYTES_MAX = 128 * 1024**2
"""A longer line is no record of ours: frames and answers have at most 64 MiB."""
BLOCK_BYTES_MAX = LINE_BYTES_MAX + 64 * 1024**2
"""Nor is a block that holds more, or is larger: it ends with the line that fills `archive.block_bytes`."""

_TOO_LARGE = f"it would have more than {BLOCK_BYTES_MAX} bytes: no block of ours has"


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
    """One block's lines. Raises CodecError, also where they are more than `BLOCK_BYTES_MAX`."""
    if codec == "bz2":
        stream, found, size = bz2.BZ2Decompressor(), list[bytes](), 0
        try:
            for part in inflated(stream, data):
                found.append(part)
                size += len(part)
                if size > BLOCK_BYTES_MAX:
                    raise CodecError(_TOO_LARGE)
        except (OSError, ValueError, EOFError) as error:
            raise CodecError(str(error)) from None
        if not stream.eof or stream.unused_data:
            raise CodecError("the block does not end where it should")
        return b"".join(found)
    zstandard = _zstandard()
    try:
        if zstandard.frame_content_size(data) > BLOCK_BYTES_MAX:
            raise CodecError(_TOO_LARGE)
        lines: bytes = zstandard.ZstdDecompressor().decompress(data, BLOCK_BYTES_MAX)
    except zstandard.ZstdError as error:
        raise CodecError(str(error)) from None
    return lines


def decompress_at(path: Path, offset: int, data: bytes, codec: str) -> bytes:
    """The lines of a file's block. Raises CodecError that names the place."""
    try:
        return decompress(data, codec)
    except MissingPackageError:
        raise
    except CodecError as error:
        raise _damaged(path, offset, str(error)) from None


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
        begun, at = end, 0
        end += len(data)
        while at < len(data):
            some = data[at : at + STEP_BYTES]
            at += len(some)
            try:
                for found in inflated(block, some):
                    held.append(found)
                    size += len(found)
                    if size > HOLD_BYTES:
                        yield b"".join(held)
                        held, size = [b""], 0
            except error as reason:
                raise _damaged(path, offset, str(reason)) from None
            if block.eof:
                at -= len(block.unused_data)
                block, offset = begin(), begun + at
                yield b"".join(held)
                held, size = [b""], 0
    if offset < end:
        raise _damaged(path, offset, "the file ends in the middle of a block")


def inflated(stream: Any, data: bytes) -> Iterator[bytes]:
    """What a stream makes of some bytes. Of bz2 a little at a time; of zstd all at once: give it `STEP_BYTES`."""
    if not isinstance(stream, bz2.BZ2Decompressor):
        yield stream.decompress(data)
        return
    yield stream.decompress(data, CHUNK_BYTES)
    while not (stream.needs_input or stream.eof):
        yield stream.decompress(b"", CHUNK_BYTES)


def _damaged(path: Path, offset: int, what: str) -> CodecError:
    return CodecError(f"{path} offset {offset}: {what}: restore it from a copy; `trade-archivist verify` proves it")


def pieces(chunks: Iterable[bytes], where: str = "the input") -> Iterator[bytes]:
    """Chunks of lines cut anew, so that pieces hold whole lines; at last, where they are torn, what has no end.

    `where` is for the CodecError that a line without end raises.
    """
    rest: list[bytes] = []
    size = place = 0  # of `rest`, and where it begins
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join((*rest, chunk[:end]))
            place += size + end
            rest, size = [chunk[end:]], len(chunk) - end
        else:
            rest.append(chunk)
            size += len(chunk)
        if size > LINE_BYTES_MAX:
            what = f"a line longer than {LINE_BYTES_MAX} bytes begins there (decompressed): these are no records"
            raise CodecError(f"{where} offset {place}: {what}: restore it from a copy")
    if torn := b"".join(rest):
        yield torn


def lines(path: Path) -> Iterator[bytes]:
    """The whole record lines of any archive file, without their `\\n`. Raises as `chunks`.

    A torn last line (the file is being written) is left out.
    """
    for piece in pieces(chunks(path), str(path)):
        if piece.endswith(b"\n"):
            yield from piece[:-1].split(b"\n")
