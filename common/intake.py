"""What the archiver takes, and from where: rule 6 and 9 of the protocol. No socket, clock or thread.

A record whose number is the position + 1 is taken as it comes. Anything else means: read the journal from the
position on. A jump is taken from the journal only, at a `start`, where the journal's front was dropped, or over records
that its checksums prove damaged.
"""

from collections.abc import Callable
from zlib import crc32

from .archive import ArchiveWriter, ReusedNumberError
from .journal_reader import JournalReader
from .record import decode, seq_of, whole_lines

BUFFER_BYTES = 16 * 1024**2
"""What is taken in memory before it is written, however fast it comes."""


RESTART = "restart the feed: it sets the damage aside and goes on"
NAMED = "a checksum is wrong there: the records are named as lost, nothing needs to be done"


class Intake:
    def __init__(self, writer: ArchiveWriter, journal: JournalReader, report: Callable[[str], None]) -> None:
        self._writer, self._journal, self._report = writer, journal, report
        self._last: tuple[int, int] = (0, 0)  # number and CRC32 of the last line taken
        self._told = ""  # the damage in the journal that was told last

    def batch(self, data: bytes) -> None:
        """A batch of dense lines from the records socket. Raises ReusedNumberError, OSError."""
        lines, _ = whole_lines(data)
        if not lines:
            return
        self._check_reuse(lines)
        if seq_of(lines[0]) > self._writer.position + 1:
            self.catch_up()
        fresh = lines[max(0, self._writer.position + 1 - seq_of(lines[0])) :]
        if fresh and seq_of(fresh[0]) == self._writer.position + 1:
            self._take(fresh)

    def heartbeat(self, at: int) -> None:
        """The feed says that everything up to `at` was published: the last message before a silence may be lost."""
        if at > self._writer.position:
            self.catch_up()

    def catch_up(self, limit_bytes: int | None = None) -> bool:
        """Read the journal to its end, or up to a limit. Returns whether the end was reached. Raises OSError."""
        taken = 0
        while limit_bytes is None or taken < limit_bytes:
            lines = self._journal.after(self._writer.position)
            if self._journal.damage:
                self._tell_damage(self._journal.damage, NAMED if self._journal.lost is not None else RESTART)
            if self._journal.lost is not None:
                self._writer.hole(self._journal.lost + 1, None, "damaged")
                continue
            if not lines or not self._take_judged(lines):
                return True
            taken += sum(map(len, lines))
        return False

    def _take_judged(self, lines: list[bytes]) -> bool:
        """Take lines of the journal, passing over the jumps that are allowed; False where it cannot go on."""
        expected = self._writer.position + 1
        run: list[bytes] = []
        for line in lines:
            seq = seq_of(line)
            if seq != expected:
                self._take(run)
                run = []
                if not self._pass_jump(line, seq):
                    return False
            run.append(line)
            expected = seq + 1
        self._take(run)
        return True

    def _pass_jump(self, line: bytes, seq: int) -> bool:
        record = decode(line)
        if record.kind == "start":
            self._writer.hole(seq, int(record.head.get("last", 0)))
        elif self._journal.front() == seq:
            self._writer.hole(seq, None)
        else:
            self._tell_damage(f"record {seq} follows {self._writer.position}", RESTART)
            return False
        return True

    def _tell_damage(self, damage: str, mend: str) -> None:
        if damage != self._told:
            self._report(f"journal damaged: {damage}; {mend}")
        self._told = damage

    def _take(self, lines: list[bytes]) -> None:
        if lines:
            self._writer.take(lines)
            if self._writer.buffered > BUFFER_BYTES:
                self._writer.flush()
            self._last = (seq_of(lines[-1]), crc32(lines[-1]))

    def _check_reuse(self, lines: list[bytes]) -> None:
        """The last record taken, should it come again, must be the same: else somebody else numbers records."""
        seq, crc = self._last
        index = seq - seq_of(lines[0])
        if 0 <= index < len(lines) and crc32(lines[index]) != crc:
            raise ReusedNumberError(f"the feed sent another record {seq} than the one taken before")
