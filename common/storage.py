"""The storage directory: names, `archived.json`, manifests. Who writes the record files is `archive`.

STORAGE/binance/BTCUSDT/2024-08/BTCUSDT-2024-08-08-23-1723161253937.bz2    sealed records
                                BTCUSDT-2024-08-09-00-1723161600001.open   the hour being written
                                manifest.jsonl                             one line for each sealed file
                _/2024-08/…                                                records of no single symbol
                archived.json                                              how far all files are complete
"""

import contextlib
import logging
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import orjson

from . import checked
from .disk import Disk, free_name, kind, make_durable_dir, make_room, replace, shown
from .record import accepts

log = logging.getLogger("disk")

NO_SYMBOL = "_"
ARCHIVED = "archived.json"
ARCHIVER_LOCK = ".archiver.lock"
MANIFEST = "manifest.jsonl"
JOURNALS = ".journal"
"""Where below the storage directory the journals lie, unless the configuration says otherwise."""
IMPORT = ".import"
"""Where below the storage directory imports are written, a whole exchange directory each."""
MARKER = "commit.json"
"""Stands in such a directory from when it is whole until it is committed."""
OPEN = ".open"
SEALED = {"bz2": ".bz2", "zstd": ".zst"}

NAME_BYTES_MAX = 180
"""Of a symbol in a file's name, which may have 255 bytes: the rest is for hour, channel and endings."""

_MONTH = re.compile(r"\d{4}-\d{2}")


def encode_symbol(symbol: str) -> str:
    """A symbol as it stands in topics and paths: all but `A-Za-z0-9.-_` percent-encoded, never `.`, `..` or `_`."""
    if symbol.strip(".") == "" or symbol == NO_SYMBOL:
        return "".join(f"%{byte:02X}" for byte in symbol.encode())
    return quote(symbol, safe="").replace("~", "%7E")


def has_place(symbol: str) -> bool:
    """Whether a file can be named by a symbol: others' records lie with those of no symbol."""
    return len(symbol) <= NAME_BYTES_MAX and len(encode_symbol(symbol)) <= NAME_BYTES_MAX


@lru_cache(1 << 14)
def filed_under(symbol: bytes | None) -> bytes:
    """What a record's symbol, in JSON, is filed under; b"" with the records of no symbol."""
    return symbol if symbol and has_place(orjson.loads(symbol)) else b""


def decode_symbol(name: str) -> str:
    return unquote(name)


def file_stem(symbol_dir: str, ts_recv: int) -> tuple[str, str]:
    """The month's directory and the stem of the file that begins with a record received at `ts_recv` (ns)."""
    time = datetime.fromtimestamp(ts_recv // 1_000_000_000, UTC)
    return f"{time:%Y-%m}", f"{symbol_dir}-{time:%Y-%m-%d-%H}-{ts_recv // 1_000_000}"


@dataclass(frozen=True)
class Archived:
    """`archived.json`: the number up to which all files of the exchange are complete, and synced."""

    complete: int = 0
    fsynced: int = 0
    boot_id: str = ""
    processes: dict[str, Any] = field(default_factory=dict)
    known: bool = False  # whether a file was there
    highest: int = 0  # the highest number that the archive ever took: it never goes back
    inode: int = 0  # of the directory that it was written in; 0: not told

    def trusted(self, boot_id: str) -> int:
        """How far the files are complete for who reads on this boot: a power loss may take what was not synced."""
        return self.complete if boot_id and boot_id == self.boot_id else self.fsynced


def read_archived(disk: Disk, directory: Path) -> Archived:
    """What `archived.json` says; nothing known where it is missing or damaged (the files themselves then speak)."""
    try:
        data = checked.loads(disk.read(directory / ARCHIVED))
        complete, fsynced = int(data["complete"]), int(data["fsynced"])
        highest = max(complete, fsynced, int(data.get("highest", 0)))
        boot, inode = str(data["boot_id"]), int(data.get("inode", 0))
        return Archived(complete, fsynced, boot, data.get("processes", {}), True, highest, inode)
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return Archived()


def write_archived(disk: Disk, directory: Path, archived: Archived, *, durable: bool) -> None:
    data = {
        "complete": archived.complete,
        "fsynced": archived.fsynced,
        "highest": archived.highest,
        "boot_id": archived.boot_id,
        "processes": archived.processes,
        "inode": disk.inode(directory),
    }
    replace(disk, directory / ARCHIVED, checked.dumps(data), durable=durable)


def symbol_dirs(disk: Disk, directory: Path) -> list[Path]:
    """The directories of an exchange's symbols, `_` among them."""
    return [directory / name for name in disk.dirs(directory) if is_symbol_dir(name)]


def is_symbol_dir(name: str) -> bool:
    """Whether a directory's name may be that of a symbol."""
    return name.isascii() and not name.startswith(".") and not name.endswith((".json", ".jsonl"))


def month_dirs(disk: Disk, symbol_dir: Path) -> list[Path]:
    return [symbol_dir / name for name in disk.dirs(symbol_dir) if _MONTH.fullmatch(name)]


def month_dir(disk: Disk, symbol_dir: Path, month: str) -> Path:
    """Where a symbol's files of a month are written.

    Where a link stands in its place that leads nowhere (its disk is not mounted), the nearest month before it: readers
    go by numbers, not by the months' names.
    """
    make_room(disk, symbol_dir, directory=True)
    while disk.is_taken(found := symbol_dir / month) and not disk.is_dir(found):
        log.warning("%s is %s: its records are written into the month before", shown(found), kind(found))
        before = int(month[:4]) * 12 + int(month[5:]) - 2
        month = f"{before // 12:04d}-{before % 12 + 1:02d}"
    return found


def open_files(disk: Disk, directory: Path) -> list[Path]:
    """All `.open` files of an exchange."""
    return [
        month / name
        for symbol in symbol_dirs(disk, directory)
        for month in month_dirs(disk, symbol)
        for name in disk.files(month)
        if name.endswith(OPEN)
    ]


def read_manifest(disk: Disk, month: Path) -> list[dict[str, Any]]:
    """The lines of a month's manifest, oldest first, without damaged ones.

    A torn last line (killed while writing) is not there either.
    """
    try:
        data = disk.read(month / MANIFEST)
    except FileNotFoundError:
        return []
    lines: list[dict[str, Any]] = []
    for line in data[: data.rfind(b"\n") + 1].split(b"\n"):
        with contextlib.suppress(ValueError):  # `verify` names it
            lines += [decoded] if isinstance(decoded := checked.loads(line), dict) else []
    return lines


def standing_lines(disk: Disk, month: Path) -> dict[str, dict[str, Any]]:
    """The same, of the files that are there: a copy may have the line and not the file."""
    return {name: line for name, line in sealed_lines(disk, month).items() if disk.is_file(month / line["file"])}


def sealed_lines(disk: Disk, month: Path) -> dict[str, dict[str, Any]]:
    """The newest manifest line of each sealed file, by its stem. What is no such line is for `verify` to tell."""
    return {line["name"]: line for line in read_manifest(disk, month) if is_sealed_line(line)}


def staged(disk: Disk, month: Path) -> set[str]:
    """The stems of files that an import which was stopped has still to commit to a month."""
    exchange = month.parents[1]
    staging = exchange.parent / IMPORT / exchange.name
    if not disk.is_file(staging / MARKER):
        return set()
    return set(sealed_lines(disk, staging / month.parent.name / month.name))


def is_sealed_line(line: dict[str, Any]) -> bool:
    texts = all(isinstance(line.get(key), str) for key in ("name", "file", "codec"))
    seq, blocks = line.get("seq"), line.get("blocks")
    return texts and isinstance(blocks, list) and isinstance(seq, list) and len(seq) == 2 and type(seq[1]) is int


def sync_manifest(disk: Disk, month: Path) -> None:
    """Make durable what a killed writer may have left unsynced, before anything is removed because of it."""
    disk.sync_file(month / MANIFEST)
    disk.sync_dir(month)


def append_manifest(disk: Disk, month: Path, *lines: dict[str, Any]) -> None:
    """Commit manifest lines, synced. A last line that was not written whole is set aside first."""
    disk.make_dir(month)
    with disk.locked(month):
        _append_lines(disk, month, b"".join(checked.dumps(line) + b"\n" for line in lines))


def _append_lines(disk: Disk, month: Path, encoded: bytes) -> None:
    path = month / MANIFEST
    make_room(disk, path)
    if disk.exists(path):
        data = disk.read(path)
        end = data.rfind(b"\n") + 1
        last = data.rfind(b"\n", 0, max(0, end - 1)) + 1
        if not accepts(data[last:end] or b"{}"):
            end = last
        if end < len(data):
            disk.write(free_name(disk, path.with_name(f"{MANIFEST}.{end}.damaged")), data[end:])
            disk.truncate(path, end)
    file = disk.open(path)
    try:
        before = disk.size(path)
        written = file.write(encoded)
        if written < len(encoded):
            file.truncate(before)
            raise OSError(28, f"no room for a line in {path}")
        file.sync()
    finally:
        file.close()
    disk.sync_dir(month)


def append_hole(disk: Disk, directory: Path, first: int, last: int, reason: str, ts_recv: int) -> None:
    """Name a range of numbers that the archive will never hold (rule 5), in the manifest of `_`."""
    append_holes(disk, directory, [(first, last)], reason, ts_recv)


def append_holes(
    disk: Disk, directory: Path, ranges: list[tuple[int, int]], reason: str, ts_recv: int, symbol: str | None = None
) -> None:
    """Name several, at once. With `symbol`, records of it alone are missing."""
    month, _ = file_stem(NO_SYMBOL, ts_recv)
    of_symbol = {"symbol": symbol} if symbol is not None else {}
    lines = [{"hole": [first, last], "reason": reason, "ts_recv": ts_recv, **of_symbol} for first, last in ranges]
    place = month_dir(disk, directory / NO_SYMBOL, month)
    make_durable_dir(disk, place)
    append_manifest(disk, place, *lines)


def holes(disk: Disk, directory: Path) -> list[tuple[int, int]]:
    """All ranges that the manifests name as lost, sorted."""
    return sorted(
        (line["hole"][0], line["hole"][1])
        for month in month_dirs(disk, directory / NO_SYMBOL)
        for line in read_manifest(disk, month)
        if "hole" in line
    )
