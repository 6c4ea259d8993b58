"""A file system in memory that is killed between any two operations, loses power, fills up and rots.

A directory remembers what was changed in it since its last sync, a file what of it is synced: a power loss undoes any
of the rest. A process sees it through a `SimDisk` of its own, whose operations are counted, so that something may
happen (its kill, another process's turn) just before, or in the middle of, any one of them.
"""

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from common.disk import AppendFile, Disk

NEVER = 1 << 60


class Killed(BaseException):
    """The process gets SIGKILL here. Not an Exception: nothing in the code may hold it up."""


class File:
    """What a directory's entry points to. `before` is what a power loss may bring back after a cut."""

    __slots__ = ("before", "data", "mtime_ns", "seen", "synced")

    def __init__(self) -> None:
        self.data = bytearray()
        self.synced = 0
        self.before: bytes | None = None
        self.mtime_ns = 0
        self.seen = 0  # for who watches: how far its lines were looked at

    def cut(self, size: int) -> None:
        if size < self.synced:
            if self.before is None:
                self.before = bytes(self.data[: self.synced])
            self.synced = size
        del self.data[size:]

    def sync(self) -> None:
        self.synced, self.before = len(self.data), None

    def lose(self, random: Random) -> None:
        """The power goes: some of the unsynced tail is there, perhaps with zeros where a block was not written."""
        if self.before is not None and random.random() < 0.5:
            self.data = bytearray(self.before)
        else:
            tail = len(self.data) - self.synced
            kept = self.synced + random.choice((0, tail, random.randint(0, tail)))
            del self.data[kept:]
            if kept > self.synced and random.random() < 0.3:
                first = random.randrange(self.synced, kept)
                last = random.randint(first + 1, kept)
                self.data[first:last] = bytes(last - first)
        self.sync()
        self.seen = min(self.seen, len(self.data))


class Directory:
    __slots__ = ("changed", "changes", "durable", "entries", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.changed = 0  # how often
        self.entries: dict[str, File | Directory] = {}
        self.durable: dict[str, File | Directory] = {}
        self.changes: list[dict[str, File | Directory | None]] = []

    def change(self, **names: "File | Directory | None") -> None:
        self.changes.append(names)
        self.changed += 1
        self._apply(self.entries, names)

    def sync(self) -> None:
        if self.changes:
            self.durable = dict(self.entries)
            self.changes.clear()

    def lose(self, random: Random) -> None:
        """The power goes: each change since the last sync may be undone, by itself or all from some point on."""
        kept = dict(self.durable)
        in_order, until = random.random() < 0.5, random.randint(0, len(self.changes))
        for index, names in enumerate(self.changes):
            if index < until if in_order else random.random() < 0.5:
                self._apply(kept, names)
        self.entries, self.durable = kept, dict(kept)
        self.changed += 1
        self.changes.clear()

    @staticmethod
    def _apply(entries: "dict[str, File | Directory]", names: "dict[str, File | Directory | None]") -> None:
        for name, node in names.items():
            if node is None:
                entries.pop(name, None)
            else:
                entries[name] = node


class Watcher:
    """Told of what happens to the files; overridden by whom it concerns."""

    def wrote(self, path: str, file: File) -> None: ...
    def synced(self, path: str, file: File) -> None: ...
    def cutting(self, path: str, file: File, size: int) -> None: ...
    def removing(self, path: str, file: File) -> None: ...


class FileSystem:
    """What all processes share."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.dirs: dict[str, Directory] = {"": Directory("")}
        self.room: int | None = None  # bytes until the disk is full
        self.now_ns = 0
        self.locks = 0

    def place(self, path: Path) -> tuple[Directory, str]:
        parent, _, name = str(path).rpartition("/")
        directory = self.dirs.get(parent)
        if directory is None:
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(path))
        return directory, name

    def file(self, path: Path) -> File:
        directory, name = self.place(path)
        node = directory.entries.get(name)
        if not isinstance(node, File):
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return node

    def durable(self, path: Path) -> bytes | None:
        """What of a file would be there after a power loss for certain; None if its name might not be."""
        directory, name = self.place(path)
        node = directory.durable.get(name)
        return bytes(node.data[: node.synced]) if isinstance(node, File) else None

    def make_dir(self, path: Path) -> None:
        made = ""
        for name in str(path).split("/")[1:]:
            parent, made = self.dirs[made], f"{made}/{name}"
            if made not in self.dirs:
                self.dirs[made] = Directory(made)
                parent.change(**{name: self.dirs[made]})

    def create(self, path: Path) -> File:
        directory, name = self.place(path)
        node = directory.entries.get(name)
        if node is None:
            if self.room is not None and self.room < 16:
                raise OSError(errno.ENOSPC, "no space left", str(path))
            node = File()
            directory.change(**{name: node})
        assert isinstance(node, File)
        return node

    def add(self, file: File, data: bytes) -> int:
        """Append as much as there is room for. Raises OSError where there is none at all."""
        if self.room is not None:
            if self.room <= 0 < len(data):
                raise OSError(errno.ENOSPC, "no space left")
            data = data[: self.room]
            self.room -= len(data)
        file.data += data
        file.mtime_ns = self.now_ns
        return len(data)

    def power_loss(self, random: Random) -> None:
        self.locks = 0
        root = self.dirs[""]
        self.dirs = {}
        left: list[Directory] = [root]
        while left:
            directory = left.pop()
            directory.lose(random)
            self.dirs[directory.path] = directory
            for node in directory.entries.values():
                if isinstance(node, File):
                    node.lose(random)
                else:
                    left.append(node)


class SimDisk(Disk):
    """One process's view. After `left` more operations `due` is called, with True where the next one is a write."""

    def __init__(self, system: FileSystem, due: Callable[["SimDisk"], None], random: Random) -> None:
        self.system, self.random = system, random
        self.left = NEVER
        self.kill_within = False  # the write at hand stops somewhere in it, and the process with it
        self.short = False  # the write at hand takes a part only
        self.due = due

    def step(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.due(self)

    def _act(self) -> None:
        """Before an operation that cannot be killed in its middle."""
        self.step()
        if self.kill_within:
            raise Killed

    def make_dir(self, directory: Path) -> None:
        self._act()
        self.system.make_dir(directory)

    def names(self, directory: Path) -> list[str]:
        self.step()
        found = self.system.dirs.get(str(directory))
        return sorted(found.entries) if found is not None else []

    def files(self, directory: Path) -> list[str]:
        return [name for name in self.names(directory) if not self.is_dir(directory / name)]

    def dirs(self, directory: Path) -> list[str]:
        return [name for name in self.names(directory) if self.is_dir(directory / name)]

    def is_file(self, path: Path) -> bool:
        return self.exists(path) and not self.is_dir(path)

    def is_taken(self, path: Path) -> bool:
        return self.exists(path)

    def is_dir(self, path: Path) -> bool:
        return str(path) in self.system.dirs

    def exists(self, path: Path) -> bool:
        self.step()
        parent, _, name = str(path).rpartition("/")
        return parent in self.system.dirs and name in self.system.dirs[parent].entries

    def size(self, path: Path) -> int:
        self.step()
        if (directory := self.system.dirs.get(str(path))) is not None:
            return len(directory.entries)
        return len(self.system.file(path).data)

    def inode(self, path: Path) -> int:
        return 1

    def mtime_ns(self, path: Path) -> int:
        if (directory := self.system.dirs.get(str(path))) is not None:
            return directory.changed
        return self.system.file(path).mtime_ns

    def read(self, path: Path, offset: int = 0, size: int = -1) -> bytes:
        self.step()
        data = self.system.file(path).data
        return bytes(data[offset:] if size < 0 else data[offset : offset + size])

    def open(self, path: Path) -> AppendFile:
        self._act()
        return SimFile(self, path, self.system.create(path))

    def write(self, path: Path, data: bytes) -> None:
        self._act()
        file = self.system.create(path)
        file.cut(0)
        if data and self.append(file, str(path), data) < len(data):
            raise OSError(errno.ENOSPC, "no space left", str(path))

    def append(self, file: File, path: str, data: bytes) -> int:
        self.step()
        if self.kill_within or self.short:
            data = data[: self.random.randint(0, len(data))]
        written = self.system.add(file, data)
        self.system.watcher.wrote(path, file)
        self.short = False
        if self.kill_within:
            raise Killed
        return written

    def truncate(self, path: Path, size: int) -> None:
        self._act()
        self.cut(self.system.file(path), str(path), size)

    def cut(self, file: File, path: str, size: int) -> None:
        self.system.watcher.cutting(path, file, size)
        if self.system.room is not None:
            self.system.room += len(file.data) - size
        file.cut(size)

    def sync_file(self, path: Path) -> None:
        self._act()
        self.synced(self.system.file(path), str(path))

    def synced(self, file: File, path: str) -> None:
        file.sync()
        self.system.watcher.synced(path, file)

    def sync_dir(self, directory: Path) -> None:
        self._act()
        found = self.system.dirs.get(str(directory).rstrip("/"))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(directory))
        found.sync()

    @contextlib.contextmanager
    def locked(self, directory: Path) -> Iterator[None]:
        """Nobody else has a turn meanwhile: who waits for the lock would not go on."""
        self._act()
        self.system.locks += 1
        try:
            yield
        finally:
            self.system.locks = max(0, self.system.locks - 1)

    def rename(self, old: Path, new: Path) -> None:
        self._act()
        file = self.system.file(old)
        directory, name = self.system.place(new)
        before, old_name = self.system.place(old)
        assert before is directory
        directory.change(**{old_name: None, name: file})

    def remove(self, path: Path) -> None:
        self._act()
        file = self.system.file(path)
        self.system.watcher.removing(str(path), file)
        directory, name = self.system.place(path)
        directory.change(**{name: None})
        if self.system.room is not None:
            self.system.room += len(file.data)


class SimFile(AppendFile):
    def __init__(self, disk: SimDisk, path: Path, file: File) -> None:
        self.path = path
        self.closed = False
        self._disk, self._file = disk, file

    def write(self, data: bytes) -> int:
        self._check()
        return self._disk.append(self._file, str(self.path), data)

    def truncate(self, size: int) -> None:
        self._check()
        self._disk._act()
        self._disk.cut(self._file, str(self.path), size)

    def sync(self) -> None:
        self._check()
        self._disk._act()
        self._disk.synced(self._file, str(self.path))

    def close(self) -> None:
        self._check()
        self.closed = True

    def _check(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "closed", str(self.path))
