"""Prove an exchange's journal by its marks: what of it is damaged, and what that means for the archive."""

from pathlib import Path

from .disk import Disk
from .inspection import Finding
from .journal import segment_names
from .journal_marks import marks_path, read_marks

MARKS_MEND = "restart the feed: it writes the marks anew"
LOST_MEND = "no repair brings them back: the archiver names as lost what it lacks of them"
SHORT_MEND = "restart the feed: it sets the damage aside and goes on"


def prove_journal(disk: Disk, journal: Path, complete: int) -> tuple[list[Finding], list[str]]:
    """Findings and notes. Damage in records up to `complete` is a note: the archive does not read them again."""
    findings: list[Finding] = []
    notes: list[str] = []
    for path in (journal / name for name in segment_names(disk, journal)):
        try:
            marks, size = read_marks(disk, path), disk.size(path)
            for piece in marks.pieces:
                if piece.end > size or piece.holds(disk.read(path, piece.begin, piece.end - piece.begin), piece.begin):
                    continue
                what = f"the checksum up to offset {piece.end} is wrong: records up to {piece.last} are damaged"
                if piece.last <= complete:
                    notes.append(f"{path} offset {piece.begin}: {what}; the archive has done with them")
                else:
                    findings.append(Finding(str(path), piece.begin, what, LOST_MEND))
        except FileNotFoundError:
            continue  # trimmed meanwhile
        if marks.is_damaged:
            findings.append(Finding(str(marks_path(path)), None, "a line of it is damaged", MARKS_MEND))
        if size < marks.end:
            findings.append(Finding(str(path), size, f"ends here, {marks.end} bytes were synced", SHORT_MEND))
    return findings, notes
