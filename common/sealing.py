"""Sealing: a full `.open` file becomes a compressed one, its tables and a line in the manifest, the commit point.

    write NAME.bz2.tmp, sync ─▶ NAME.trade.parquet.tmp, …, sync
        ─▶ rename all, sync the directory ─▶ manifest line, sync ─▶ remove NAME.open

It may be killed anywhere and run again: before the manifest line nothing is sealed, after it only a removal is left.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from .blocks import describe
from .codec import compressor
from .disk import Disk, make_room, remove_if_there
from .record import FORMAT, RecordError, is_record, seq_of, whole_lines
from .storage import (
    NO_SYMBOL,
    OPEN,
    SEALED,
    append_manifest,
    decode_symbol,
    month_dirs,
    sealed_lines,
    sync_manifest,
)
from .synced import Facts, read_synced

TAIL_BYTES = 1024 * 1024


class DamagedError(Exception):
    """The file to be sealed is damaged; the message says where and what to do."""


class RottenError(DamagedError):
    """It does not hold any more what was synced: the archiver's next start refills or names what is lost."""


class Tables(NamedTuple):
    """Table files that stand under temporary names, synced, and what the manifest line is to say of them."""

    files: dict[Path, Path]  # temporary name: final name
    line: dict[str, Any]


Tabulate = Callable[[Path], Tables | None]
"""Makes the tables of a symbol's `.open` file; None where there are to be none."""


def seal(
    disk: Disk, path: Path, codec: str, level: int, block_bytes: int, normaliser: str, tabulate: Tabulate | None = None
) -> dict[str, Any] | None:
    """Seal one `.open` file; returns its manifest line, None if it was sealed before. Raises DamagedError, OSError.

    What it held when it was synced last is proved before the sealed file gets its name.

    Without tables the line says nothing of any: they can be made from the records later.
    """
    name, month = path.name.removesuffix(OPEN), path.parent
    if name in sealed_lines(disk, month):
        sync_manifest(disk, month)
        remove_if_there(disk, path)
        return None
    target = month / (name + SEALED[codec])
    temporary = target.with_name(target.name + ".tmp")
    make_room(disk, temporary)
    remove_if_there(disk, temporary)
    facts = read_synced(disk, month.parents[1]).files.get(str(path.relative_to(month.parents[1])), Facts())
    line = _compress(disk, path, temporary, codec, level, block_bytes, facts)
    symbol = None if month.parent.name == NO_SYMBOL else decode_symbol(month.parent.name)
    tables = tabulate(path) if tabulate is not None and symbol is not None else None
    make_room(disk, target)
    disk.rename(temporary, target)
    place_tables(disk, tables)
    disk.sync_dir(month)
    head = {"name": name, "file": target.name, "symbol": symbol, "format": FORMAT, "normaliser": normaliser}
    line = manifest_line({**head, **line, **_neighbours(disk, path, line["seq"][0])}, tables)
    append_manifest(disk, month, line)
    disk.remove(path)
    return line


def place_tables(disk: Disk, tables: Tables | None) -> None:
    """Give table files their names. Until a manifest line names them, nobody reads them."""
    for temporary, path in tables.files.items() if tables is not None else ():
        make_room(disk, path)
        disk.rename(temporary, path)


def manifest_line(line: dict[str, Any], tables: Tables | None) -> dict[str, Any]:
    """A file's line with what is to be said of its tables. The blocks come last: who needs none cuts them off."""
    blocks = line["blocks"]
    rest = {key: value for key, value in line.items() if key != "blocks"}
    return {**rest, **(tables.line if tables is not None else {}), "blocks": blocks}


def _compress(
    disk: Disk, path: Path, target: Path, codec: str, level: int, block_bytes: int, facts: Facts
) -> dict[str, Any]:
    """Write the blocks, synced; returns what the manifest says of them."""
    compress, digest = compressor(codec, level), hashlib.sha256()
    blocks: list[dict[str, Any]] = []
    offset = size = crc = 0
    file = disk.open(target)
    try:
        for raw in _blocks(disk, path, block_bytes):
            crc = crc32(memoryview(raw)[: max(0, facts.size - size)], crc)
            size += len(raw)
            data = compress(raw)
            written = 0
            while written < len(data):
                written += file.write(data[written:])
            digest.update(data)
            blocks.append({"offset": offset, "bytes": len(data), "crc32": crc32(data), **_described(raw, path)})
            offset += len(data)
        if size < facts.size or crc != facts.crc:
            raise RottenError(f"{path} does not hold any more what was synced: it is not sealed as it is")
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
        **({"told": True} if any("told" in block for block in blocks) else {}),
        "blocks": blocks,
    }


def _neighbours(disk: Disk, path: Path, first: int) -> dict[str, int]:
    """The last number `after` which a file begins, and the first of the `next` one: so that the loss of either shows.

    Only the months around are looked at: what lies farther away is at most not noticed.
    """
    months = month_dirs(disk, path.parents[1])
    index = months.index(path.parent)
    ends = [
        (line["seq"][0], line["seq"][1])
        for month in months[max(0, index - 1) : index + 2]
        for line in sealed_lines(disk, month).values()
    ]
    for month in months[max(0, index - 1) : index + 2]:
        others = [month / name for name in disk.files(month) if name.endswith(OPEN) and month / name != path]
        ends += [found for other in others if (found := _ends(disk, other)) is not None]
    after = max((last for begin, last in ends if begin < first), default=0)
    following = [begin for begin, _ in ends if begin > first]
    return {"after": after, **({"next": min(following)} if following else {})}


def _ends(disk: Disk, path: Path) -> tuple[int, int] | None:
    """The first and last numbers of a file that is being written; None where they cannot be read."""
    try:
        lines, _ = whole_lines(disk.read(path, max(0, disk.size(path) - TAIL_BYTES)))
        first = seq_of(disk.read(path, 0, 40))
        return first, max([first, *(seq_of(line) for line in lines[-1:] if is_record(line))])
    except (FileNotFoundError, RecordError):
        return None


def _described(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        return describe(raw)
    except ValueError:
        message = f"{path} is damaged: restart the archiver, it sets the damage aside and seals the rest"
        raise DamagedError(message) from None


def _blocks(disk: Disk, path: Path, block_bytes: int) -> Iterator[bytes]:
    """The file in blocks of whole lines, each of `block_bytes` or little less (a longer line is one by itself)."""
    offset = 0
    while data := disk.read(path, offset, block_bytes):
        if len(data) == block_bytes:  # else it is the file's rest
            data = data[: data.rfind(b"\n") + 1] or _long_line(disk, path, offset, block_bytes)
        yield data
        offset += len(data)
    if not offset:
        raise DamagedError(f"{path} is empty: nothing to seal")


def _long_line(disk: Disk, path: Path, offset: int, size: int) -> bytes:
    """The line that begins at an offset and is longer than `size`; the file's rest where it has no end."""
    while True:
        size *= 2
        data = disk.read(path, offset, size)
        end = data.find(b"\n") + 1
        if end or len(data) < size:
            return data[: end or None]
