"""Sealed files: plain `.bz2` or `.zst`, written as independent blocks, and any archive file read back.

┌ block ┐┌ block ┐┌ block ┐     each a whole bz2 stream or zstd frame of whole record lines;
└───────┘└───────┘└───────┘     where each lies, and what it holds, stands in the manifest
"""

import bz2
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard

from .storage import OPEN

CHUNK_BYTES = 1024 * 1024


class CodecError(Exception):
    """A file that cannot be decompressed: the message names it and the offset."""


def compressor(codec: str, level: int) -> Callable[[bytes], bytes]:
    """What turns one block of lines into its compressed bytes."""
    if codec == "bz2":
        return lambda data: bz2.compress(data, level)
    return zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True).compress


def decompress(data: bytes, codec: str) -> bytes:
    """One block's lines. Raises CodecError."""
    try:
        return bz2.decompress(data) if codec == "bz2" else zstandard.ZstdDecompressor().decompress(data)
    except (OSError, ValueError, EOFError, zstandard.ZstdError) as error:
        raise CodecError(str(error)) from None


def chunks(path: Path) -> Iterator[bytes]:
    """The lines' bytes of any archive file, a piece at a time, pieces not cut at lines. Raises CodecError."""
    if path.suffix not in (OPEN, ".bz2", ".zst", ".records"):
        raise CodecError(f"{path}: not an archive file (.open, .bz2, .zst) nor a journal's (.records)")
    try:
        with path.open("rb") as file:
            if path.suffix == ".bz2":
                with bz2.open(file) as lines:
                    yield from iter(lambda: lines.read(CHUNK_BYTES), b"")
            elif path.suffix == ".zst":
                with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
                    yield from iter(lambda: reader.read(CHUNK_BYTES), b"")
            else:
                yield from iter(lambda: file.read(CHUNK_BYTES), b"")
    except (EOFError, ValueError, zstandard.ZstdError) as error:
        raise CodecError(f"{path}: {error}: run `trade-archivist verify`, it names the block") from None


def lines(path: Path) -> Iterator[bytes]:
    """The whole record lines of any archive file; a torn last line (the file is being written) is left out."""
    rest = b""
    for chunk in chunks(path):
        rest += chunk
        end = rest.rfind(b"\n") + 1
        if end:
            yield from rest[: end - 1].split(b"\n")
            rest = rest[end:]
