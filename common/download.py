"""Tables as the server has them, byte for byte: brought in parts, several under way, proved by their SHA-256."""

import hashlib
import mmap
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import DamagedError
from .transport import Transport

PART_BYTES = 4 * 1024**2
UNDER_WAY_BYTES = 3 * PART_BYTES
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
    done = 0
    for part in _parts(transport, exchange, file, told):
        found[done : done + len(part)] = part
        done += len(part)
    return found


def download_to(
    path: Path, transport: Transport, exchange: str, file: dict[str, Any], told: Callable[[int], None]
) -> None:
    """A file of a plan, to `path`. Raises as `download`, and OSError; then what is there is not whole."""
    with path.open("wb") as out:
        for part in _parts(transport, exchange, file, told):
            out.write(part)


def _parts(transport: Transport, exchange: str, file: dict[str, Any], told: Callable[[int], None]) -> Iterator[bytes]:
    """The file, part after part; proved when the last was given. A server with little room answers with less."""
    size, digest = file["bytes"], hashlib.sha256()
    question = {"op": "chunk", "exchange": exchange, "token": file["token"], "sha256": file["sha256"]}
    asked: deque[tuple[int, int]] = deque()  # offset and size of what has no answer yet, in the order of asking
    came: dict[int, bytes] = {}  # by offset, what comes behind a part that is still to come
    reached = done = 0
    dialogue = transport.dialogue()

    def ask(offset: int, wanted: int) -> None:
        dialogue.ask({**question, "offset": offset, "bytes": wanted})
        asked.append((offset, wanted))

    try:
        while done < size:
            while reached < size and reached - done < UNDER_WAY_BYTES:
                ask(reached, min(PART_BYTES, size - reached))
                reached += PART_BYTES
            header, payload = dialogue.answer()
            offset, wanted = asked.popleft()
            if header["offset"] != offset or not 0 < len(payload[0]) <= wanted:
                what = f"{len(payload[0])} bytes at {header['offset']} came instead of {wanted} at {offset}"
                raise _damaged(file, what)
            came[offset] = payload[0]
            if len(payload[0]) < wanted:
                ask(offset + len(payload[0]), wanted - len(payload[0]))
            while (part := came.pop(done, None)) is not None:
                digest.update(part)
                yield part
                done += len(part)
                told(len(part))
    finally:
        dialogue.close()
    if digest.hexdigest() != file["sha256"]:
        raise _damaged(file, "its SHA-256 is not that of the manifest")


def _mapped(size: int) -> mmap.mmap:
    """Memory that a temporary file backs, which is gone with it."""
    with tempfile.TemporaryFile(prefix="trade-archivist-") as file:
        file.truncate(size)
        return mmap.mmap(file.fileno(), size)


def _damaged(file: dict[str, Any], what: str) -> DamagedError:
    return DamagedError(f"{file['file']}: {what}: run trade-archivist verify on the archive, it says what to do")
