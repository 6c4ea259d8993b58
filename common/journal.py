"""The journal: the feed's own log, append-only segment files of record lines.

    JOURNAL/binance/00000001723161253000123.records      first seq in the name; record lines, dense
                    00000001723161299000777.records      the segment being written
                    00000001723161299000777.marks        checksums of its pieces: `journal_marks`
                    journal.json                         whose it is, the ceiling of its numbers, the last run's facts
                    *.damaged                            what a recovery set aside

Rules 1–5 of the protocol are kept here: no number above a synced ceiling; a journal that cannot be trusted to be whole
goes on at a higher number than any ever used; of a short write the whole lines stand. Who reads it: `journal_reader`.

A piece whose checksum is wrong stays where it is, as long as the segment is as long as it was: its numbers and its end
are known. Readers pass over it as over a hole.
"""

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import checked
from .disk import Disk, free_name, make_durable_dir, remove_if_there, replace, set_aside
from .journal_marks import SUFFIX as MARKS
from .journal_marks import Marks, Piece, Segment, SegmentFile, complete_marks, marks_path, read_marks
from .record import RecordError, decode, is_record, is_text, looks_whole, seq_of, ts_recv_of
from .storage import Archived

META = "journal.json"
SUFFIX = ".records"
_SEGMENT = re.compile(r"\d{20}\.records")
CEILING_STEP = 1_000_000
"""How far ahead the ceiling is raised: some seconds' worth at the highest rate."""


class JournalError(Exception):
    """The directory holds something that is not this exchange's journal; the message says what to do."""


@dataclass(frozen=True)
class Opened:
    """What a start finds: `last` is the highest number of the past, `jumped` whether a new journal begins."""

    next: int
    last: int
    jumped: bool
    facts: dict[str, Any]


class Journal:
    """The writer's end. One writer: the caller holds the directory's lock."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        exchange: str,
        *,
        boot_id: str,
        segment_bytes: int = 64 * 1024**2,
        max_bytes: int = 8 * 1024**3,
        report: Callable[[str], None] = print,
    ) -> None:
        self.next = 0  # the number that the next record gets
        self.error: OSError | None = None  # why the last append did not take everything
        self.facts: dict[str, Any] = {}
        self._disk, self._directory, self._exchange = disk, directory, exchange
        self._boot_id, self._report = boot_id, report
        self._segment_bytes, self._max_bytes = segment_bytes, max_bytes
        self._segments: list[Segment] = []
        self._ceiling = 0
        self._begins = 0  # where the journal that goes on begins: what lies before it is not to be gone on from
        self._file: SegmentFile | None = None
        self._removed = False  # a segment, since the directory's last sync
        self._unsynced: list[SegmentFile] = []  # full segments that wait for their sync
        self._syncing = threading.Lock()  # one job at a time: it closes what another may be about to sync

    def open(self, now_us: int, archived: Archived) -> Opened:
        """Recover what is there, and decide the next number (rule 1). Raises JournalError."""
        make_durable_dir(self._disk, self._directory)
        meta = self._read_meta()
        self._ceiling, self._begins = meta.get("ceiling", 0), meta.get("begins", 0)
        self.facts = meta.get("facts", {})
        torn, damaged = self._recover()
        same_boot = bool(self._boot_id) and meta.get("boot_id") == self._boot_id
        journal_last = self._segments[-1].last if self._segments else 0
        archive_last = archived.trusted(self._boot_id)
        whole = bool(self._segments) and not damaged and (same_boot or (meta.get("clean") is True and not torn))
        jumped = not whole or journal_last < max(archived.highest, self._begins)
        last = max(journal_last, archive_last)
        if jumped:
            # the archive's files may be ahead of what archived.json says of them, by less than a step
            of_archive = archived.highest + CEILING_STEP if archived.known else 0
            highest = max(journal_last, of_archive, self._ceiling, self._begins - 1)
            self.next = self._begins = max(now_us, highest + 1)
        else:
            self.next = last + 1
        self._raise_ceiling()
        if not jumped:
            self._file = SegmentFile(self._disk, self._segments[-1])
        return Opened(self.next, last, jumped, dict(self.facts))

    def append(self, lines: list[bytes]) -> int:
        """Append lines numbered from `next` on; returns how many stand. The rest was not written: see `error`.

        A short write keeps its whole lines (rule 4); the torn one is cut before anything else happens.
        """
        self.error = None
        try:
            if self.next + len(lines) > self._ceiling:
                self._raise_ceiling()
            if self._file is None or self._segments[-1].size >= self._segment_bytes:
                self._begin_segment()
            data = b"".join(lines)
            written = self._file.write(data) if self._file else 0
        except OSError as error:
            self.error = error
            return 0
        segment = self._segments[-1]
        if written < len(data):
            self.error = OSError(28, "short write")
            lines = _whole(lines, written)
            written = sum(map(len, lines))
            self._disk.truncate(segment.path, segment.size + written)
        segment.size += written
        segment.last += len(lines)
        self.next += len(lines)
        return len(lines)

    def sync_job(self) -> Callable[[], None]:
        """What makes everything appended so far durable; may run in another thread.

        A full segment is every job's until it is synced: another may be waiting for its turn.
        """
        full, current = list(self._unsynced), self._file

        def sync() -> None:
            with self._syncing:
                for file in full:
                    if not file.closed:
                        file.sync()
                        self._unsynced.remove(file)
                        file.close()
                if current is not None and not current.closed:
                    current.sync()

        return sync

    def can_trim(self, fsynced: int) -> bool:
        """Whether a segment may go. The last that holds records stays: the next start goes on from it."""
        return len(self._segments) > 1 and self._segments[-1].size > 0 and self._segments[0].last <= fsynced

    def trim(self, fsynced: int) -> None:
        """Drop whole segments that the archive holds synced; the one being written stays.

        Of two removals a power loss could undo the first alone: a hole, behind which all would count as damaged.
        """
        while self.can_trim(fsynced):
            if self._removed:
                self._disk.sync_dir(self._directory)
            path = self._segments[0].path
            remove_if_there(self._disk, path)  # where this fails, it is tried again
            remove_if_there(self._disk, marks_path(path))
            del self._segments[0]
            self._removed = True

    def share_beyond(self, seq: int) -> float:
        """About how much of the bound is filled by records above a number."""
        return sum(segment.beyond(seq) for segment in self._segments) / self._max_bytes

    def overflow(self) -> int | None:
        """The last number of the segments that must go to keep the journal within its bound; None if none must."""
        excess = sum(segment.size for segment in self._segments) - self._max_bytes
        last = None
        for segment in self._segments[:-1]:
            if excess <= 0:
                break
            last = segment.last
            excess -= segment.size
        return last

    def times(self, first: int, last: int) -> tuple[int | None, int | None]:
        """About when (ns) a range of records was received, from the first to the last of the segments that hold it.

        None where such a line rotted meanwhile.
        """
        held = [segment.path for segment in self._segments if segment.last >= first and segment.first <= last]
        return self._time(held[0], is_last=False), self._time(held[-1], is_last=True)

    def _time(self, path: Path, *, is_last: bool) -> int | None:
        """When the first or the last record of a segment was received; None where it rotted."""
        data = self._disk.read(path)
        place = data.rfind(b"\n", 0, -1) + 1 if is_last else 0
        pieces = [piece for piece in read_marks(self._disk, path).pieces if piece.begin <= place < piece.end]
        try:
            return ts_recv_of(data[place:]) if all(piece.holds(data) for piece in pieces) else None
        except RecordError:
            return None

    def remember(self, **facts: Any) -> None:
        """Keep facts about the run (its connections, its subscriptions) for the next start."""
        self.facts.update(facts)
        self._write_meta(clean=False)

    def is_there(self) -> bool:
        """Whether the segment being written is still in its directory: else nobody will ever read what is written."""
        return not self._segments or self._disk.exists(self._segments[-1].path)

    def close(self) -> None:
        """Sync, and note that nothing was lost: the next boot of the machine goes on without a jump."""
        self.sync_job()()
        if self._file is not None:
            self._file.close()
            self._file = None
        self._write_meta(clean=True)

    def _begin_segment(self) -> None:
        segment = Segment(self._directory / f"{self.next:020d}{SUFFIX}", self.next, self.next - 1, 0)
        file = SegmentFile(self._disk, segment)
        if self._file is not None:
            self._unsynced.append(self._file)
        self._file = file
        self._segments.append(segment)
        self._disk.sync_dir(self._directory)
        self._removed = False

    def _raise_ceiling(self) -> None:
        ceiling = self._ceiling
        self._ceiling = max(self._ceiling, self.next + CEILING_STEP)
        try:
            self._write_meta(clean=False)
        except OSError:
            self._ceiling = ceiling
            raise

    def _write_meta(self, *, clean: bool) -> None:
        meta = {
            "format": 1,
            "exchange": self._exchange,
            "boot_id": self._boot_id,
            "clean": clean,
            "ceiling": self._ceiling,
            "begins": self._begins,
            "facts": self.facts,
        }
        replace(self._disk, self._directory / META, checked.dumps(meta), durable=True)

    def _read_meta(self) -> dict[str, Any]:
        path = self._directory / META
        if not self._disk.is_file(path):
            return {}
        try:
            meta: dict[str, Any] = checked.loads(self._disk.read(path))
            owner, _ = meta["exchange"], int(meta["ceiling"])
        except (KeyError, TypeError, ValueError):
            self._report(f"{path} is unreadable: a new journal begins")
            self._disk.rename(path, free_name(self._disk, path.with_name(META + ".damaged")))
            return {}
        if owner != self._exchange:
            raise JournalError(
                f"{path} is the journal of {owner}, not of {self._exchange}: give each its own directory"
            )
        return meta

    def _recover(self) -> tuple[bool, bool]:
        """Keep the longest prefix that is whole and dense; set the rest aside. Returns (torn tail, other damage).

        Pieces with a wrong checksum count as whole: what they hold is not believed, but where they end is known.
        """
        names = segment_names(self._disk, self._directory)
        self._drop_marks_alone(names)
        for index, name in enumerate(names):
            path = self._directory / name
            marks = read_marks(self._disk, path)
            segment, size = self._scan(path, marks)
            good = segment.size if segment else 0
            if segment is not None and good:
                self._segments.append(segment)
                self._disk.sync_file(path)  # a killed run may not have come to it
            if good == size >= marks.end and good:
                complete_marks(self._disk, path, good)
                continue
            torn = size >= marks.end and index == len(names) - 1 and self._is_torn_line(path, segment)
            if not torn:
                self._distrust(first_number(names[-1]) + CEILING_STEP)
                self._set_aside(names[index + 1 :])
            set_aside(self._disk, path, good, self._report, "torn" if torn else "damaged")
            if good:
                complete_marks(self._disk, path, good)
            else:
                self._disk.remove(path)
                remove_if_there(self._disk, marks_path(path))
            return torn, not torn
        return False, False

    def _drop_marks_alone(self, names: list[str]) -> None:
        """Remove marks whose segment is gone: one of the same name may come."""
        for name in self._disk.files(self._directory):
            if name.endswith(MARKS) and name.removesuffix(MARKS) + SUFFIX not in names:
                self._disk.remove(self._directory / name)

    def _set_aside(self, names: list[str]) -> None:
        """What lies behind damage. From the end on: whoever reads meanwhile must not take it for the front."""
        for name in reversed(names):
            aside = free_name(self._disk, self._directory / f"{name}.damaged")
            self._disk.rename(self._directory / name, aside)
            self._report(f"{self._directory / name} lies behind the damage: set aside as {aside.name}")

    def _distrust(self, highest: int) -> None:
        """Before damage is set aside: should we be killed then, the next start must not go on from what is left.

        `highest`: no number above it was used, should the ceiling be lost.
        """
        self._begins = max(self._ceiling, highest) + 1
        self._write_meta(clean=False)

    def _is_torn_line(self, path: Path, segment: Segment | None) -> bool:
        """Whether nothing but the beginning of the next line follows: what a kill in the middle of a write leaves."""
        rest = self._disk.read(path, segment.size if segment else 0)
        begin = b'{"seq":%d,' % (segment.last + 1) if segment else b'{"seq":%d,' % first_number(path.name)
        return b"\n" not in rest and is_text(rest) and rest.startswith(begin[: len(rest)])

    def _scan(self, path: Path, marks: Marks) -> tuple[Segment | None, int]:
        """The good part of a segment (None if it does not go on from the one before), and the file's size."""
        data, first = self._disk.read(path), first_number(path.name)
        bad = marks.bad(data)
        if marks.is_damaged:
            self._report(f"{marks_path(path)} is damaged: written anew")
        if bad and not bad[0].begin:  # what it begins with cannot be read: its name tells
            kind = "start"
        else:
            try:
                record = decode(data[: data.find(b"\n") + 1])
            except RecordError:
                return None, len(data)
            if record.seq != first:
                return None, len(data)
            kind = record.kind
        before = self._segments[-1].last if self._segments else first - 1
        if first != before + 1 and not (kind == "start" and first > before):
            return None, len(data)
        is_short = len(data) < marks.end  # then nothing tells what lies where
        last, size = dense_prefix(data[: bad[0].begin] if bad and is_short else data, first, () if is_short else bad)
        for piece in bad:
            what = f"checksum wrong from offset {piece.begin} to {piece.end}, up to record {piece.last}"
            self._report(f"{path} damaged: {what}: what the archive lacks of it will be named as lost")
        return Segment(path, first, last, size), len(data)


def dense_prefix(data: bytes, first: int, bad: Sequence[Piece] = ()) -> tuple[int, int]:
    """How far record lines from `first` on go on whole and dense: the last number, and the bytes up to there.

    `bad` pieces are passed over.
    """
    last, size = first - 1, 0
    for piece in bad:
        last, length = _dense(data[size : piece.begin], last + 1)
        if size + length < piece.begin:
            return last, size + length
        last, size = piece.last, piece.end
    last, length = _dense(data[size:] if size else data, last + 1)
    return last, size + length


def _dense(data: bytes, first: int) -> tuple[int, int]:
    if data and looks_whole(data) and is_text(data):
        last_line = data[data.rfind(b"\n", 0, -1) + 1 :]
        last = first + data.count(b"\n") - 1
        if last_line.startswith(b'{"seq":%d,' % last):
            return last, len(data)
    seq, size = first, 0
    while (end := data.find(b"\n", size)) >= 0:
        line = data[size : end + 1]
        if not is_record(line) or seq_of(line) != seq:
            break
        seq, size = seq + 1, end + 1
    return seq - 1, size


def _whole(lines: list[bytes], size: int) -> list[bytes]:
    """The lines that lie wholly within the first `size` bytes."""
    end = 0
    for count, line in enumerate(lines):
        end += len(line)
        if end > size:
            return lines[:count]
    return lines


def segment_names(disk: Disk, directory: Path) -> list[str]:
    """The segments of a journal, in order; what others left in its directory is none of it."""
    return [name for name in disk.files(directory) if _SEGMENT.fullmatch(name)]


def first_number(name: str) -> int:
    """The number of a segment's first record, as its name tells."""
    return int(name.removesuffix(SUFFIX))
