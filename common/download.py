"""Tables as the server has them, byte for byte: brought in parts, several under way, proved by their SHA-256."""

import hashlib
import mmap
import tempfile
from collections.abc import Callable
from typing import Any

from .errors import DamagedError
from .transport import Transport

PART_BYTES = 1024 * 1024
UNDER_WAY = 8
MEMORY_BYTES = 64 * 1024**2
"""Larger ones go to a temporary file."""

Downloaded = bytearray | mmap.mmap


def download(
    transport: Transport, exchange: str, file: dict[str, Any], told: Callable[[int], None], memory: int = MEMORY_BYTES
) -> Downloaded:
    """A file of a plan. `told` hears the bytes of each part.

    Raises ArchivistError: `changed` where the file is not the planned one any more.
    """
    size = file["bytes"]
    found = bytearray(size) if size <= memory else _mapped(size)
    digest = hashlib.sha256()
    question = {"op": "chunk", "exchange": exchange, "token": file["token"], "sha256": file["sha256"]}
    asked = done = 0
    dialogue = transport.dialogue()
    try:
        while done < size:
            while asked < size and asked - done < UNDER_WAY * PART_BYTES:
                part = min(PART_BYTES, size - asked)
                dialogue.ask({**question, "offset": asked, "bytes": part})
                asked += part
            header, payload = dialogue.answer()
            part = min(PART_BYTES, size - done)
            if header["offset"] != done or len(payload[0]) != part:
                raise _damaged(file, f"{len(payload[0])} bytes at {header['offset']} came instead of {part} at {done}")
            found[done : done + part] = payload[0]
            digest.update(payload[0])
            done += part
            told(part)
    finally:
        dialogue.close()
    if digest.hexdigest() != file["sha256"]:
        raise _damaged(file, "its SHA-256 is not that of the manifest")
    return found


def _mapped(size: int) -> mmap.mmap:
    """Memory that a temporary file backs, which is gone with it."""
    with tempfile.TemporaryFile(prefix="trade-archivist-") as file:
        file.truncate(size)
        return mmap.mmap(file.fileno(), size)


def _damaged(file: dict[str, Any], what: str) -> DamagedError:
    return DamagedError(f"{file['file']}: {what}: run trade-archivist verify on the archive, it says what to do")
