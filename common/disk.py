"""The few things that journal and archive ask of a file system.

They ask for them through this class, so that a test can put a disk in its place that is killed between any two of
them and loses what was not synced.
"""

import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from errno import EINVAL, ENOENT, ENXIO
from io import BufferedReader
from pathlib import Path

log = logging.getLogger("disk")

TOLD_MAX = 1_000
"""Odd things that are told, each once."""
COPY_BYTES = 1024 * 1024
DEPTH = 3
"""How many directories are made for an exchange: its own, its parent (`.journal`), the storage directory."""


_KINDS = {
    stat.S_IFDIR: "a directory", stat.S_IFREG: "a file", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
_told: set[str] = set()  # what this process has said already


def kind(path: Path) -> str:
    """What stands under a name, in words: whatever is no file and no directory is passed over everywhere."""
    try:
        return _KINDS.get(stat.S_IFMT(path.stat().st_mode), "something odd")
    except OSError as error:
        return f"a link that leads nowhere ({error.strerror})" if path.is_symlink() else "nothing"


def shown(path: Path) -> str:
    """A path as text that every terminal and JSON takes, also where it is no UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def open_file(path: Path) -> BufferedReader:
    """Open a regular file to be read. Raises FileNotFoundError for anything else: a FIFO would be waited for."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != ENXIO:
            raise
        raise FileNotFoundError(ENOENT, f"is {kind(path)}, not a file", str(path)) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(ENOENT, f"is {kind(path)}, not a file", str(path))
    return os.fdopen(fd, "rb")


class AppendFile:
    """A file open for appending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = False
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o644)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise OSError(EINVAL, f"is {kind(path)}, not a file", str(path))

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


SOCKET = ".ipc"
"""How the names of our own sockets end, which stand beside our files."""


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

    def files(self, directory: Path) -> list[str]:
        """The names of the files in a directory, sorted. What is neither file nor directory is told once."""
        return self._sorted(directory, stat.S_IFREG)

    def dirs(self, directory: Path) -> list[str]:
        """The same, of the directories in it."""
        return self._sorted(directory, stat.S_IFDIR)

    @staticmethod
    def _sorted(directory: Path, wanted: int) -> list[str]:
        found: list[str] = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
            for entry in entries:
                is_file = entry.is_file()
                if not is_file and not entry.is_dir():
                    if not entry.name.endswith(SOCKET):
                        _tell(directory / entry.name)
                elif is_file == (wanted == stat.S_IFREG):
                    found.append(entry.name)
        return sorted(found)

    def is_dir(self, path: Path) -> bool:
        return path.is_dir()

    def is_file(self, path: Path) -> bool:
        return path.is_file()

    def exists(self, path: Path) -> bool:
        """Whether a file or a directory is there."""
        return path.is_file() or path.is_dir()

    def is_taken(self, path: Path) -> bool:
        """Whether anything has that name, be it a link that leads nowhere."""
        return os.path.lexists(path)

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def inode(self, path: Path) -> int:
        """Which file or directory this is: a copy is another one, whatever its name."""
        return path.stat().st_ino

    def mtime_ns(self, path: Path) -> int:
        return path.stat().st_mtime_ns

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        with open_file(path) as file:
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
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
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
    make_room(disk, temporary)
    make_room(disk, path)
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
    while disk.is_taken(found):
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found


def _tell(path: Path) -> None:
    """Say once what is passed over."""
    if (name := str(path)) in _told or len(_told) >= TOLD_MAX:
        return
    _told.add(name)
    log.warning("%s is passed over: it is %s", shown(path), kind(path))


def make_room(disk: Disk, path: Path, *, directory: bool = False) -> None:
    """Set aside, as `.NAME.odd`, what stands under the name of a file (or directory) and is none."""
    if disk.is_taken(path) and (disk.is_dir(path) != directory or not disk.exists(path)):
        aside = free_name(disk, path.with_name(f".{path.name}.odd"))
        log.error("%s is %s: set aside as %s", shown(path), kind(path), aside.name)
        disk.rename(path, aside)


def copy(disk: Disk, source: Path, parts: Iterable[tuple[int, int]], target: Path) -> None:
    """Write a file out of parts of another one, each from an offset to another, synced. Raises OSError."""
    disk.write(target, b"")
    file = disk.open(target)
    try:
        for begin, end in parts:
            while begin < end and (data := disk.read(source, begin, min(COPY_BYTES, end - begin))):
                if file.write(data) < len(data):
                    raise OSError(28, "no space left", str(target))
                begin += len(data)
        file.sync()
    finally:
        file.close()


def set_aside(disk: Disk, path: Path, offset: int, report: Callable[[str], None], why: str) -> None:
    """Keep the end of a file, from `offset` on, as `NAME.OFFSET.damaged`, and only then cut it off."""
    if (size := disk.size(path)) > offset:
        aside = free_name(disk, path.with_name(f"{path.name}.{offset}.damaged"))
        copy(disk, path, [(offset, size)], aside)
        disk.sync_dir(path.parent)
        report(f"{path} {why}: {size - offset} bytes from offset {offset} set aside as {aside.name}")
    disk.truncate(path, offset)
    disk.sync_file(path)


def remove_if_there(disk: Disk, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        disk.remove(path)
