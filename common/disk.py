"""The few things that journal and archive ask of a file system.

They ask for them through this class, so that a test can put a disk in its place that is killed between any two of
them and loses what was not synced.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

DEPTH = 3
"""How many directories are made for an exchange: its own, its parent (`.journal`), the storage directory."""


class AppendFile:
    """A file open for appending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = False
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, data: bytes) -> int:
        """Append; returns how many bytes stand, which may be fewer than asked. Raises OSError."""
        return os.write(self._fd, data)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        self.closed = True
        os.close(self._fd)


class Disk:
    """The real file system."""

    def make_dir(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)

    def names(self, directory: Path) -> list[str]:
        """The names in a directory, sorted; none where there is no such directory."""
        try:
            return sorted(os.listdir(directory))  # noqa: PTH208 names are wanted, not paths
        except (FileNotFoundError, NotADirectoryError):
            return []

    def is_dir(self, path: Path) -> bool:
        return path.is_dir()

    def exists(self, path: Path) -> bool:
        return path.exists()

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def inode(self, path: Path) -> int:
        """Which file or directory this is: a copy is another one, whatever its name."""
        return path.stat().st_ino

    def mtime_ns(self, path: Path) -> int:
        return path.stat().st_mtime_ns

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def open(self, path: Path) -> AppendFile:
        return AppendFile(path)

    def write(self, path: Path, data: bytes) -> None:
        """Write a whole file, not synced."""
        path.write_bytes(data)

    def truncate(self, path: Path, size: int) -> None:
        os.truncate(path, size)

    def sync_file(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_dir(self, directory: Path) -> None:
        self.sync_file(directory)

    @contextlib.contextmanager
    def locked(self, directory: Path) -> Iterator[None]:
        """Keep other processes that lock this directory waiting."""
        fd = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def remove(self, path: Path) -> None:
        path.unlink()


def replace(disk: Disk, path: Path, data: bytes, *, durable: bool) -> None:
    """Put a whole new content in a file's place: either the old or the new is found after a kill.

    The content is always synced before the rename, so that a power loss leaves no empty file; `durable` says that
    the rename itself is synced too.
    """
    temporary = path.with_name(path.name + ".tmp")
    disk.write(temporary, data)
    disk.sync_file(temporary)
    disk.rename(temporary, path)
    if durable:
        disk.sync_dir(path.parent)


def make_durable_dir(disk: Disk, directory: Path) -> None:
    """Make a directory whose name survives a power loss, with those above it that were made for it.

    Those that a killed run made are synced again: nobody knows whether it came to that.
    """
    disk.make_dir(directory)
    for parent in directory.parents[:DEPTH]:
        with contextlib.suppress(PermissionError):  # not ours, so it was there before
            disk.sync_dir(parent)


def free_name(disk: Disk, path: Path) -> Path:
    """`path`, or the first of `path.1`, `path.2`, … that does not exist: nothing is ever overwritten."""
    found, number = path, 0
    while disk.exists(found):
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found


def set_aside(disk: Disk, path: Path, offset: int, report: Callable[[str], None], why: str) -> None:
    """Keep the end of a file, from `offset` on, as `NAME.OFFSET.damaged`, and only then cut it off."""
    rest = disk.read(path, offset)
    if rest:
        aside = free_name(disk, path.with_name(f"{path.name}.{offset}.damaged"))
        disk.write(aside, rest)
        disk.sync_file(aside)
        disk.sync_dir(path.parent)
        report(f"{path} {why}: {len(rest)} bytes from offset {offset} set aside as {aside.name}")
    disk.truncate(path, offset)
    disk.sync_file(path)


def remove_if_there(disk: Disk, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        disk.remove(path)
