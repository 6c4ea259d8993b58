"""One `.open` file, as the archiver writes it."""

from dataclasses import dataclass, field
from pathlib import Path

from .disk import AppendFile, Disk
from .record import decode, seq_of
from .record_file import pieces
from .synced import PIECE_BYTES, Pieces


@dataclass
class OpenFile:
    """A file being written. What `buffer` holds is not in it yet."""

    path: Path
    file: AppendFile
    first: int  # number of its first record
    first_ts: int
    last: int = 0  # number of its last record, buffered ones included
    pieces: Pieces = field(default_factory=Pieces)  # what stands in the file
    buffer: list[bytes] = field(default_factory=list)
    buffered: int = 0
    dirty: bool = True  # written since its last sync
    is_over: bool = False  # what follows lies in another file: the next record begins a new one

    @property
    def size(self) -> int:
        """Bytes, buffered ones included."""
        return self.pieces.size + self.buffered

    def take(self, seq: int, line: bytes) -> None:
        self.buffer.append(line)
        self.buffered += len(line)
        self.last = seq

    def write(self) -> int:
        """Append what is buffered; returns how many bytes. Raises OSError: nothing of it stands then."""
        data = b"".join(self.buffer)
        if not data:
            return 0
        written = self.file.write(data)
        if written < len(data):
            self.file.truncate(self.pieces.size)
            raise OSError(28, "no space left for the archive", str(self.path))
        self.pieces.add(data, self.last)
        self.buffer.clear()
        self.buffered = 0
        self.dirty = True
        return len(data)

    def sync(self) -> None:
        if self.dirty:
            self.file.sync()
            self.dirty = False


def take_up(disk: Disk, path: Path, after: int | None) -> OpenFile | None:
    """Go on with a file that holds some whole lines; None where it has none. `after` as in `synced.Facts`."""
    opened = None
    for _, data in pieces(disk, path, read_bytes=PIECE_BYTES):
        if opened is None:
            first = decode(data[: data.find(b"\n") + 1])
            opened = OpenFile(path, disk.open(path), first.seq, first.ts_recv, pieces=Pieces(after))
        opened.last = seq_of(data[data.rfind(b"\n", 0, -1) + 1 :][:40])
        opened.pieces.add(data, opened.last)
    return opened
