"""`imported.jsonl`: what was imported into an exchange's directory, one line with a checksum for each file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import checked
from .disk import Disk, replace
from .process import ConfigError

LEDGER = "imported.jsonl"
RESTORE = "restore it from a copy, or import elsewhere"

Lines = list[dict[str, Any]]


def ledger(disk: Disk, directory: Path) -> Lines:
    """The files that were imported, oldest first. Raises ConfigError where a line is damaged."""
    found: Lines = []
    for offset, line in _lines(disk, directory):
        try:
            found.append(checked.loads(line))
        except ValueError as error:
            raise ConfigError(f"{directory / LEDGER} offset {offset}: {error}: {RESTORE}") from None
    return found


def damaged_lines(disk: Disk, directory: Path) -> list[int]:
    """The offsets of lines that cannot be read."""
    found = []
    for offset, line in _lines(disk, directory):
        try:
            checked.loads(line)
        except ValueError:
            found.append(offset)
    return found


def write_ledger(disk: Disk, directory: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Replace the whole file. Raises OSError."""
    replace(disk, directory / LEDGER, b"".join(checked.dumps(line) + b"\n" for line in lines), durable=True)


def _lines(disk: Disk, directory: Path) -> list[tuple[int, bytes]]:
    try:
        data = disk.read(directory / LEDGER)
    except FileNotFoundError:
        return []
    found, offset = [], 0
    for line in data.removesuffix(b"\n").split(b"\n") if data else ():
        found.append((offset, line))
        offset += len(line) + 1
    return found
