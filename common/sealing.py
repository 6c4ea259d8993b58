"""Sealing: a full `.open` file becomes a compressed one and a line in the manifest, which is the commit point.

    write NAME.bz2.tmp, sync ─▶ rename to NAME.bz2, sync the directory ─▶ manifest line, sync ─▶ remove NAME.open

It may be killed anywhere and run again: before the manifest line nothing is sealed, after it only a removal is left.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

from .codec import compressor
from .disk import Disk, remove_if_there
from .record import FORMAT, is_text, seq_of
from .storage import NO_SYMBOL, OPEN, SEALED, append_manifest, decode_symbol, sealed_lines, sync_manifest

READ_BYTES = 4 * 1024**2

_CHECKPOINT = re.compile(rb'^\{"seq":(\d+),"ts_recv":\d+,"kind":"checkpoint"', re.MULTILINE)
_LINE = re.compile(rb'\{"seq":\d+,"ts_recv":(\d+),[^\n]*\}\n')


class DamagedError(Exception):
    """The file to be sealed is damaged; the message says where and what to do."""


def seal(disk: Disk, path: Path, codec: str, level: int, block_bytes: int, normaliser: str) -> dict[str, Any] | None:
    """Seal one `.open` file; returns its manifest line, None if it was sealed before. Raises DamagedError, OSError."""
    name, month = path.name.removesuffix(OPEN), path.parent
    if name in sealed_lines(disk, month):
        sync_manifest(disk, month)
        remove_if_there(disk, path)
        return None
    target = month / (name + SEALED[codec])
    temporary = target.with_name(target.name + ".tmp")
    remove_if_there(disk, temporary)
    line = _compress(disk, path, temporary, codec, level, block_bytes)
    disk.rename(temporary, target)
    disk.sync_dir(month)
    symbol = None if month.parent.name == NO_SYMBOL else decode_symbol(month.parent.name)
    line = {"name": name, "file": target.name, "symbol": symbol, "format": FORMAT, "normaliser": normaliser, **line}
    append_manifest(disk, month, line)
    disk.remove(path)
    return line


def _compress(disk: Disk, path: Path, target: Path, codec: str, level: int, block_bytes: int) -> dict[str, Any]:
    """Write the blocks, synced; returns what the manifest says of them."""
    compress, digest = compressor(codec, level), hashlib.sha256()
    blocks: list[dict[str, Any]] = []
    offset = 0
    file = disk.open(target)
    try:
        for raw in _blocks(disk, path, block_bytes):
            data = compress(raw)
            written = 0
            while written < len(data):
                written += file.write(data[written:])
            digest.update(data)
            blocks.append({"offset": offset, "bytes": len(data), "crc32": crc32(data), **_describe(raw, path)})
            offset += len(data)
        file.sync()
    finally:
        file.close()
    return {
        "codec": codec,
        "records": sum(block["records"] for block in blocks),
        "bytes": offset,
        "raw_bytes": sum(block["raw_bytes"] for block in blocks),
        "sha256": digest.hexdigest(),
        "seq": [blocks[0]["seq"][0], blocks[-1]["seq"][1]],
        "ts_recv": [min(b["ts_recv"][0] for b in blocks), max(b["ts_recv"][1] for b in blocks)],
        "blocks": blocks,
    }


def _describe(raw: bytes, path: Path) -> dict[str, Any]:
    """What a block holds: counts, and the ranges of `seq` and `ts_recv`. Raises DamagedError."""
    stamps, records = _LINE.findall(raw), raw.count(b"\n")
    begins = raw.startswith(b'{"seq":') and raw.count(b'\n{"seq":') == records - 1
    if not begins or len(stamps) != records or not is_text(raw):
        raise DamagedError(f"{path} is damaged: restart the archiver, it sets the damage aside and seals the rest")
    checkpoints = [int(seq) for seq in _CHECKPOINT.findall(raw)] if b'"checkpoint"' in raw else []
    last = raw[raw.rfind(b"\n", 0, -1) + 1 :]
    of_one_length = sum(map(len, stamps)) == 19 * records  # then they compare as they are
    by_time = None if of_one_length else int
    return {
        "raw_bytes": len(raw),
        "records": records,
        "seq": [seq_of(raw), seq_of(last)],
        "ts_recv": [int(min(stamps, key=by_time)), int(max(stamps, key=by_time))],
        **({"checkpoints": checkpoints} if checkpoints else {}),  # where a reader may begin
    }


def _blocks(disk: Disk, path: Path, block_bytes: int) -> Iterator[bytes]:
    """The file in blocks of whole lines, each of `block_bytes` or little less (a longer line is one by itself)."""
    offset, rest = 0, b""
    while data := disk.read(path, offset, READ_BYTES):
        offset += len(data)
        data, start = rest + data, 0
        while len(data) - start >= block_bytes:
            end = data.rfind(b"\n", start, start + block_bytes) + 1 or data.find(b"\n", start) + 1
            if not end:
                break
            yield data[start:end]
            start = end
        rest = data[start:]
    if rest:
        yield rest
    if not offset:
        raise DamagedError(f"{path} is empty: nothing to seal")
