"""The archiver's files: records in, one `.open` file for each symbol and hour, and the word how far all are complete.

`ArchiveWriter` decides and writes; it has no socket, clock or thread. Its `position` is the number up to which it
holds everything. Rules 6–8 of the protocol are kept here and in `intake`.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import orjson

from .disk import Disk, make_durable_dir, set_aside
from .mending import Damage, examine, gone, lacks, missing, repair, sealed_records, when
from .mending import whole_to as copied_to
from .open_file import OpenFile, take_up
from .record import RecordError, is_record, seq_of, ts_recv_of
from .record_file import backwards
from .storage import (
    NO_SYMBOL,
    OPEN,
    SEALED,
    Archived,
    append_hole,
    append_holes,
    decode_symbol,
    encode_symbol,
    file_stem,
    filed_under,
    month_dir,
    month_dirs,
    open_files,
    read_archived,
    sealed_lines,
    standing_lines,
    symbol_dirs,
    sync_manifest,
    write_archived,
)
from .synced import Facts, Pieces, read_synced, write_synced

DAY_NS = 86_400 * 1_000_000_000

_HEAD = re.compile(
    rb'\{"seq":(\d+),"ts_recv":(\d+),(?:"conn":\d+,)?"kind":"(\w+)"'
    rb'(?:,"op":"\w+"(?:,"encoding":"\w+")?)?(?:,"channel":"[^"\\]*")?(?:,"symbol":("(?:[^"\\]|\\.)*"))?'
)


class ReusedNumberError(Exception):
    """The same number with other bytes: somebody numbers records who must not. Stops the archiver of the exchange."""


class ArchiveWriter:
    """Writes one exchange's directory. The caller holds its lock."""

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        *,
        boot_id: str,
        rotate_s: int = 3600,
        rotate_min_bytes: int = 1024 * 1024,
        report: Callable[[str], None] = print,
        is_taken: Callable[[Path], bool] = lambda _path: False,
    ) -> None:
        self.position = 0
        self.processes: dict[str, object] = {}
        self.turned: list[tuple[Path, int]] = []  # files that are full, and the number of the next file's first record
        self.buffered = 0  # bytes taken, not written yet
        self.turns = False  # each checkpoint turns its file, whatever it holds: so an import ends
        self._disk, self._directory, self._boot_id = disk, directory, boot_id
        self._report, self._is_taken = report, is_taken  # the latter: whether a file of that stem stands elsewhere
        self._rotate_ns, self._rotate_min_bytes = rotate_s * 1_000_000_000, rotate_min_bytes
        self._files: dict[bytes, OpenFile] = {}  # by the symbol as the record spells it; b"" for none
        self._full: dict[Path, Facts] = {}  # files that wait to be sealed
        self._held: dict[int, int] = {}  # numbers above `position` that a file holds already: CRC32 of the line
        self._written = -1
        self._fsynced = self._highest = 0
        self._new_dirs: set[Path] = set()
        self._last_ts = 0
        self._is_copy = False
        self._afters: dict[Path, int | None] = {}  # of files being written, what was told of them at the start

    # -- start ---------------------------------------------------------------------------------------------------

    def open(self, journal_front: int | None) -> None:
        """Take up where the disk ends: find the position, cut what cannot be trusted, remember what is there twice."""
        make_durable_dir(self._disk, self._directory)
        archived = read_archived(self._disk, self._directory)
        other_boot = not self._boot_id or archived.boot_id != self._boot_id
        self.position = archived.trusted(self._boot_id)
        self._fsynced, self._highest = archived.fsynced, archived.highest
        whole_to = None  # where nothing else tells, how far the files are for sure
        if not archived.known:
            self.position, whole_to = self._position_without_archived(journal_front)
            self._fsynced = 0
        elif archived.inode not in (0, self._disk.inode(self._directory)):
            self._report(f"{self._directory} is a copy: looking for what it lacks")
            whole_to = copied_to(self._disk, self._directory)
            self._is_copy = True
        went_back = self._mend(archived, journal_front, whole_to) or archived.highest > archived.complete
        if other_boot or went_back:  # of what lies beyond, not all may be there: it comes again in its order
            self._forget_beyond(self.position)  # or what is cut now would look damaged after a kill
            for path in open_files(self._disk, self._directory):
                self._cut(path, self.position)
        self._open_files()
        if other_boot or self.position != archived.complete:
            self._write_archived(self.position, durable=True)

    def _position_without_archived(self, journal_front: int | None) -> tuple[int, int | None]:
        """`archived.json` is lost. The feed drops nothing that was not synced here, so its journal's front tells.

        Where the journal is lost too, or a new one, the last record here is the position, and it is counted out what
        is missing since the last sealed one (the second number).
        """
        sealed = max(
            (
                int(line["seq"][1])
                for symbol_dir in symbol_dirs(self._disk, self._directory)
                for month in month_dirs(self._disk, symbol_dir)
                for line in sealed_lines(self._disk, month).values()
            ),
            default=0,
        )
        last = max([sealed, *(self._tail_seq(path) for path in open_files(self._disk, self._directory))])
        if not last:
            return 0, None
        if journal_front is not None and journal_front <= last + 1:
            return max(journal_front - 1, sealed), None
        self._report(f"{self._directory} archived.json and the journal are lost: going on after the last record here")
        return last, sealed

    def _mend(self, archived: Archived, journal_front: int | None, whole_to: int | None) -> bool:
        """Mend what is damaged; returns whether the position went back, for the journal to refill what is lost."""
        synced = read_synced(self._disk, self._directory).files
        self._afters = {self._directory / name: facts.after for name, facts in synced.items()}
        damages = []
        for path in open_files(self._disk, self._directory):
            known = synced.get(str(path.relative_to(self._directory)))
            if self._is_copy and known is not None and self._disk.size(path) < known.size:
                known = None  # it was copied before that was told
            if (damage := examine(self._disk, path, known, self.position, journal_front)) is not None:
                damages.append(damage)
        lost_files = [name for name in synced if self._is_gone(self._directory / name)]
        damages += [gone(self._directory / name, synced[name]) for name in lost_files]
        serious = [damage for damage in damages if not damage.torn]
        self._last_ts = max((when(self._disk, damage) for damage in serious), default=0)
        went_back = False
        if serious or whole_to is not None:
            lost = missing(self._disk, self._directory, serious, self.position, whole_to)
            went_back = self._lower(lost, journal_front, serious)
            if went_back:
                lowered = replace(archived, complete=self.position, fsynced=self._fsynced)
                write_archived(self._disk, self._directory, lowered, durable=True)
        for damage in damages:
            repair(self._disk, damage, self.position, self._report)
        return went_back

    def _is_gone(self, path: Path) -> bool:
        sealed = path.name.removesuffix(OPEN) in standing_lines(self._disk, path.parent)
        return not sealed and not self._disk.is_file(path)

    def _lower(self, lost: list[tuple[int, int]], journal_front: int | None, damages: list[Damage]) -> bool:
        """Go back to where the journal can refill what is lost, and name what it no longer has."""
        before = self.position
        front = journal_front if journal_front is not None else before + 1
        for first, last in lost:
            if last >= front:
                self.position = min(self.position, max(first, front) - 1)
        gone_for_good = [(first, min(last, front - 1)) for first, last in lost if first < front]
        if gone_for_good and self._is_copy:
            for symbol, lacked in lacks(self._disk, self._directory, gone_for_good, damages).items():
                append_holes(self._disk, self._directory, [lacked], "not copied", self._last_ts, symbol)
        elif gone_for_good:
            append_holes(self._disk, self._directory, gone_for_good, "damaged", self._last_ts)
        self._fsynced = min(self._fsynced, self.position)
        return self.position < before

    def _tail_seq(self, path: Path) -> int:
        return next((seq_of(line) for _, line in backwards(self._disk, path) if is_record(line)), 0)

    def _open_files(self, current: set[Path] | None = None) -> None:
        for symbol_dir in symbol_dirs(self._disk, self._directory):
            self._open_symbol(symbol_dir, current)

    def _open_symbol(self, symbol_dir: Path, current: set[Path] | None) -> None:
        """Take up a symbol's `.open` files: the newest goes on (of the `current`, where given), the others are full."""
        found: list[OpenFile] = []
        for month in month_dirs(self._disk, symbol_dir):
            sealed = standing_lines(self._disk, month)
            for line in sealed.values():
                records = sealed_records(self._disk, month, line, self.position)
                self._held.update((seq_of(record), crc32(record)) for record in records)
            for name in [name for name in self._disk.files(month) if name.endswith(OPEN)]:
                if name.removesuffix(OPEN) in sealed:
                    sync_manifest(self._disk, month)
                    self._disk.remove(month / name)  # only its removal was missing
                elif (opened := self._take_up(month / name)) is not None:
                    found.append(opened)
        self._new_dirs |= {path for opened in found for path in (opened.path.parent, symbol_dir, self._directory)}
        found.sort(key=lambda opened: opened.last)  # not by time: the clock may have been set back
        following = [opened.first for opened in found[1:]]
        if found and (current is None or found[-1].path in current):
            self._files[_key(symbol_dir.name)] = found.pop()
        else:
            following += [opened.last for opened in found[-1:]]  # none follows yet: it is sealed without tables
        for opened, first in zip(found, following, strict=True):
            opened.file.close()
            self._full[opened.path] = opened.pieces.facts()
            self.turned.append((opened.path, first))

    def _take_up(self, path: Path) -> OpenFile | None:
        """Go on with a file, and remember what it holds beyond the position: it comes again."""
        if (opened := take_up(self._disk, path, self._afters.get(path))) is None:
            self._disk.remove(path)
            return None
        for _, line in backwards(self._disk, path):
            self._last_ts = max(self._last_ts, ts_recv_of(line))
            if (seq := seq_of(line)) <= self.position:
                break
            self._held[seq] = crc32(line)
        return opened

    def _cut(self, path: Path, keep: int) -> None:
        """Set aside what a file holds beyond a number: it was not synced, or comes again, or is not to be."""
        cut = None
        for place, line in backwards(self._disk, path):
            if seq_of(line) <= keep:
                break
            cut = place
        if cut is not None:
            set_aside(self._disk, path, cut, self._report, f"not to be trusted beyond record {keep}")

    # -- records -------------------------------------------------------------------------------------------------

    def take(self, lines: Iterable[bytes]) -> None:
        """Take records numbered from `position` + 1 on. Raises ReusedNumberError, RecordError."""
        for line in lines:
            match = _HEAD.match(line)
            if match is None:
                raise RecordError(f"not a record: {line[:120]!r}")
            seq, ts_recv, kind, symbol = int(match[1]), int(match[2]), match[3], filed_under(match[4])
            if seq != self.position + 1:
                raise RecordError(f"record {seq} does not follow {self.position}")
            if self._held and (known := self._held.pop(seq, None)) is not None:
                if known != crc32(line):
                    raise ReusedNumberError(f"{self._directory} holds another record {seq} than the journal")
                self.position = seq
                if (opened := self._files.get(symbol)) is not None and opened.last < seq:
                    opened.is_over = True
                continue
            opened = self._files.get(symbol)
            if opened is None or opened.is_over or (kind == b"checkpoint" and self._must_turn(opened, ts_recv)):
                opened = self._turn(symbol, opened, seq, ts_recv)
            opened.take(seq, line)
            self.buffered += len(line)
            self.position, self._last_ts = seq, ts_recv

    def _must_turn(self, opened: OpenFile, ts_recv: int) -> bool:
        if self.turns or ts_recv // DAY_NS != opened.first_ts // DAY_NS:
            return True
        return (
            opened.size >= self._rotate_min_bytes and ts_recv // self._rotate_ns != opened.first_ts // self._rotate_ns
        )

    def _turn(self, symbol: bytes, opened: OpenFile | None, seq: int, ts_recv: int) -> OpenFile:
        """End a symbol's file, if there is one, and begin the next."""
        after = None if opened is None else opened.last
        if opened is not None:
            self.buffered -= opened.write()
            opened.file.sync()
            opened.file.close()
            self.turned.append((opened.path, seq))
            self._full[opened.path] = opened.pieces.facts()
            del self._files[symbol]
        path = self._new_path(symbol, ts_recv)
        self._files[symbol] = OpenFile(path, self._disk.open(path), seq, ts_recv, pieces=Pieces(after))
        return self._files[symbol]

    def _new_path(self, symbol: bytes, ts_recv: int) -> Path:
        name = encode_symbol(orjson.loads(symbol)) if symbol else NO_SYMBOL
        while True:
            month, stem = file_stem(name, ts_recv)
            directory = month_dir(self._disk, self._directory / name, month)
            names = [directory / (stem + suffix) for suffix in (OPEN, *SEALED.values())]
            if not any(map(self._disk.is_taken, names)) and not self._is_taken(directory / stem):
                break
            ts_recv += 1_000_000  # nothing is ever overwritten
        self._disk.make_dir(directory)
        self._new_dirs |= {directory, directory.parent, self._directory}
        return directory / (stem + OPEN)

    def hole(self, first: int, last: int | None, why: str = "dropped") -> None:
        """Pass a hole that the journal shows: the next record is `first`; `last` as its `start` says, None without one.

        What is lost is named in the manifest, what files hold beyond the past that counts is set aside, and only then
        does the position go on. `why` is the reason that it names where no `start` explains the hole.
        """
        self.flush()
        keep = self.position if last is None else min(self.position, last)
        held = max((seq for seq in self._held if seq < first), default=0)
        lost = first - 1 if last is None else max(last, self.position, held)
        if lost > keep:  # told before files are touched: a kill in between must not hide it
            reason = why if last is None else "lost"
            append_hole(self._disk, self._directory, keep + 1, lost, reason, self._last_ts)
            self._report(f"{self._directory.name} records {keep + 1} to {lost} are lost: named in the manifest")
        if keep < self.position or self._held:
            self._take_back(keep)
        self.position = first - 1
        self._fsynced = min(self._fsynced, keep)

    def _take_back(self, keep: int) -> None:
        """Set aside what the files hold beyond a number. When the disk is full, it can be done again.

        Raises RecordError where a file rotted meanwhile: the next start mends it, for it still knows what was synced.
        """
        known = read_synced(self._disk, self._directory).files
        for path in open_files(self._disk, self._directory):
            facts = known.get(str(path.relative_to(self._directory)))
            if examine(self._disk, path, facts, keep, None) is not None:
                raise RecordError(f"{path} is damaged: restart the archiver, it sets the damage aside")
        self._write_archived(keep, durable=True)
        self._forget_beyond(keep)
        for path in open_files(self._disk, self._directory):
            self._cut(path, keep)
        current = {opened.path for opened in self._files.values()}  # any other may be under a sealing worker's hands
        self.close()
        self.turned.clear()
        self._full.clear()
        self._held.clear()
        self.position = keep
        self._open_files(current)

    # -- flush and sync ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was taken, then say so in `archived.json`. Raises OSError and may be called again."""
        for opened in self._files.values():
            self.buffered -= opened.write()
        if self.position != self._written:
            self._write_archived(self.position, durable=False)

    def sync(self, sync_journal: Callable[[], None]) -> None:
        """Make everything durable, in the order of rule 8: journal, files, `archived.json`."""
        sync_journal()
        self.flush()
        for opened in self._files.values():
            opened.sync()
        while self._new_dirs:
            self._disk.sync_dir(max(self._new_dirs, key=lambda path: len(path.parts)))
            self._new_dirs.remove(max(self._new_dirs, key=lambda path: len(path.parts)))
        self._tell_synced()
        self._fsynced = self.position
        self._write_archived(self.position, durable=True)

    def _tell_synced(self) -> None:
        """Keep what the synced files hold, so that damage is found by the next start."""
        self._full = {path: facts for path, facts in self._full.items() if not self._is_sealed(path)}
        known = self._full | {opened.path: opened.pieces.facts() for opened in self._files.values()}
        synced = {str(path.relative_to(self._directory)): facts for path, facts in known.items() if facts.size}
        write_synced(self._disk, self._directory, synced, self.position)

    def _is_sealed(self, path: Path) -> bool:
        return not self._disk.is_file(path) and path.name.removesuffix(OPEN) in sealed_lines(self._disk, path.parent)

    def _forget_beyond(self, keep: int) -> None:
        """Before files are cut: what was synced of those that hold nothing beyond a number stays known."""
        known = read_synced(self._disk, self._directory).files
        kept = {name: facts for name, facts in known.items() if facts.last is not None and facts.last <= keep}
        write_synced(self._disk, self._directory, kept, min(keep, self._fsynced))

    def sealable(self) -> list[Path]:
        """Full files that may be sealed: every record up to the next file's first one is synced and told so.

        So all that their tables are made of is there, records of no symbol too. Each is given out once.
        """
        ready = [path for path, following in self.turned if following <= self._fsynced]
        self.turned = [(path, following) for path, following in self.turned if following > self._fsynced]
        return ready

    def close(self) -> None:
        for opened in self._files.values():
            opened.file.close()
        self._files.clear()

    def _write_archived(self, complete: int, *, durable: bool) -> None:
        self._highest = max(self._highest, self.position)
        fsynced = min(self._fsynced, complete)
        archived = Archived(complete, fsynced, self._boot_id, dict(self.processes), highest=self._highest)
        write_archived(self._disk, self._directory, archived, durable=durable)
        self._written = complete


def _key(name: str) -> bytes:
    """The symbol of a directory, as the records spell it."""
    return b"" if name == NO_SYMBOL else orjson.dumps(decode_symbol(name))
