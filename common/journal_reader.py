"""The journal, read by the archiver while the feed writes and trims it.

Records that have a mark (`journal_marks`) are believed only where their piece's checksum is right.
"""

from pathlib import Path

from .disk import Disk
from .journal import first_number, segment_names
from .journal_marks import Marks, Piece, marks_path, read_marks
from .record import is_record, is_text, looks_whole, seq_of


class JournalReader:
    """The archiver's end: lines in order from any number on, while the feed writes and trims."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk, self._directory = disk, directory
        self._place: tuple[int, str, int] = (-1, "", 0)  # after this number goes on: segment, offset
        self._marks: tuple[str, int, int, Marks] = (
            "",
            0,
            0,
            Marks([]),
        )  # segment; size, time of its marks; what they say
        self.damage = ""  # where the last reading met something that is no record; the feed's next start mends it
        self.lost: int | None = None  # records up to this one are damaged there: whoever reads goes on behind it

    def front(self) -> int | None:
        """The first number that the journal still holds."""
        names = self._names()
        return first_number(names[0]) if names else None

    def sync(self) -> None:
        """Make what the journal holds durable, before the archive says that it holds it (rule 8)."""
        for name in self._names():
            try:
                self._disk.sync_file(self._directory / name)
            except FileNotFoundError:
                continue  # trimmed meanwhile: it is in the archive, synced

    def after(self, position: int, limit_bytes: int = 4 * 1024**2) -> list[bytes]:
        """Some whole lines with numbers above `position`, in order; none at the journal's end.

        They are dense but for what the caller must judge: the first line may lie beyond `position` + 1 (the front was
        dropped), and a segment may begin with a jump.
        """
        while True:
            try:
                return self._after(position, limit_bytes)
            except FileNotFoundError:
                self._place = (-1, "", 0)  # trimmed under our hands: look again

    def goes_on(self, position: int, lines: bytes) -> bool:
        """Whether the journal holds exactly these lines next; then it is read on behind them.

        Only where the reader has come to `position`, and within a segment: else False, and `after` tells.
        """
        known, name, offset = self._place
        if known != position or not name or not lines.endswith(b"\n"):
            return False
        try:
            if self._disk.read(self._directory / name, offset, len(lines)) != lines:
                return False
        except FileNotFoundError:
            return False
        last = seq_of(lines[lines.rfind(b"\n", 0, -1) + 1 :])
        self._place = (last, name, offset + len(lines))
        return True

    def _after(self, position: int, limit_bytes: int) -> list[bytes]:
        self.damage, self.lost = "", None
        names = self._names()
        if self._place[0] != position or self._place[1] not in names:
            name = _holding(names, position + 1)
            self._place = (position, name, self._marks_of(name).past(position) if name else 0)
        _, name, offset = self._place
        while name:
            begin, data, bad = self._read(name, offset, limit_bytes)
            if bad is not None and bad.begin == begin:
                if bad.last > position:
                    self._lose(name, bad)
                    return []
                offset = bad.end  # what it held is there already
                continue
            lines, taken = _lines_above(data, position)
            if lines:
                self._place = (seq_of(lines[-1]), name, begin + taken)
                return lines
            offset = begin + taken
            if b"\n" in data[taken:]:
                self.damage = f"{self._directory / name} at offset {offset}"
                return []
            if taken == 0 and len(data) == limit_bytes:
                limit_bytes *= 2  # one line longer than the limit
            elif taken == 0:
                following = [other for other in names if other > name]
                if not following:
                    return []
                name, offset = following[0], 0
        return []

    def _read(self, name: str, offset: int, limit_bytes: int) -> tuple[int, bytes, Piece | None]:
        """Some bytes of a segment, and their offset: up to the first damaged piece, or that alone.

        They begin with the piece in which `offset` lies.
        """
        pieces, end = self._marks_of(name).run(offset, limit_bytes)
        begin = pieces[0].begin if pieces else offset
        data = self._disk.read(self._directory / name, begin, end - begin)
        bad = next((piece for piece in pieces if not piece.holds(data, begin)), None)
        return begin, data if bad is None else data[: bad.begin - begin], bad

    def _lose(self, name: str, bad: Piece) -> None:
        """Tell of a damaged piece: its records are lost, unless nothing tells what lies behind it."""
        path = self._directory / name
        self.damage = f"{path} at offset {bad.begin}"
        if self._disk.size(path) >= self._marks_of(name).end:
            self.lost = bad.last
            self._place = (bad.last, name, bad.end)

    def _marks_of(self, name: str) -> Marks:
        """The marks of a segment; they grow while the feed writes."""
        path = marks_path(self._directory / name)
        try:
            size, mtime_ns = self._disk.size(path), self._disk.mtime_ns(path)
        except FileNotFoundError:
            return Marks([])
        if self._marks[:3] != (name, size, mtime_ns):
            self._marks = (name, size, mtime_ns, read_marks(self._disk, self._directory / name))
        return self._marks[3]

    def _names(self) -> list[str]:
        return segment_names(self._disk, self._directory)


def _holding(names: list[str], seq: int) -> str:
    """The segment in which a number lies, or the first one behind it."""
    before = [name for name in names if first_number(name) <= seq]
    return before[-1] if before else names[0] if names else ""


def _lines_above(data: bytes, position: int) -> tuple[list[bytes], int]:
    """The whole lines with numbers above `position`, and the bytes up to their end or the first that is no record."""
    lines: list[bytes] = []
    suspect = not (looks_whole(data[: data.rfind(b"\n") + 1]) and is_text(data))
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        line = data[start : end + 1]
        if suspect and not is_record(line):
            break
        if lines or seq_of(line) > position:
            lines.append(line)
        start = end + 1
    return lines, start
