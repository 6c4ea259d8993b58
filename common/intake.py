"""What the archiver takes, and from where: rule 6 and 9 of the protocol. No socket, clock or thread.

A batch that begins with the position + 1 is taken where the journal holds the very same bytes next. Anything else
means: read the journal from the position on. A jump is taken from the journal only, at a `start`, where the journal's
front was dropped, or over records that its checksums prove damaged.
"""

from collections.abc import Callable

from .archive import ArchiveWriter
from .journal_reader import JournalReader
from .record import RecordError, decode, seq_of, whole_lines

BUFFER_BYTES = 16 * 1024**2
"""What is taken in memory before it is written, however fast it comes."""


RESTART = "restart the feed: it sets the damage aside and goes on"
NAMED = "a checksum is wrong there: the records are named as lost, nothing needs to be done"


class Intake:
    def __init__(self, writer: ArchiveWriter, journal: JournalReader, report: Callable[[str], None]) -> None:
        self._writer, self._journal, self._report = writer, journal, report
        self._told_foreign = False  # since a batch was taken last
        self._told = ""  # the damage in the journal that was told last

    def batch(self, data: bytes) -> None:
        """A batch of the records socket. What is not in the journal is not archived, whoever sends it.

        Raises ReusedNumberError, OSError.
        """
        position = self._writer.position
        if data.startswith(b'{"seq":%d,' % (position + 1)) and self._journal.goes_on(position, data):
            self._take(whole_lines(data)[0])
            self._told_foreign = False
            return
        self.catch_up()
        if self._is_foreign(data) and not self._told_foreign:
            self._told_foreign = True
            self._report(
                "the records socket brings what is not in the journal: it is not archived; whose socket is it?"
            )

    def _is_foreign(self, data: bytes) -> bool:
        """Whether a batch goes beyond the journal, which the feed appends to before it sends anything."""
        try:
            return not self._journal.damage and seq_of(data) > self._writer.position
        except RecordError:
            return True

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
