"""Marks of the journal: who writes them, who believes nothing without them, and what `verify` says."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from common import exchanges, journal_marks
from common.adapter import Adapter
from common.begin import owed
from common.disk import AppendFile, Disk
from common.intake import Intake
from common.journal import Journal, Opened
from common.journal_marks import cut, marks_path, read_marks
from common.journal_reader import JournalReader
from common.process import boot_id
from common.record import decode, seq_of
from common.storage import JOURNALS, Archived, holes
from common.verify import verify
from tests.archives import FIRST, FIRST_TS, Archive, start, trade

RIGHT, WRONG = b"61837.64", b"61837.65"
COUNT = 60
KNOWN = Archived(boot_id=boot_id())


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_marks, "PIECE_BYTES", 2048)


@pytest.fixture
def lines() -> list[bytes]:
    return [start(FIRST, 0), *(trade(FIRST + n, FIRST_TS + n * 10**9, trade_id=n) for n in range(1, COUNT))]


def opened(directory: Path, told: list[str] | None = None, disk: Disk | None = None) -> Journal:
    report: Callable[[str], None] = (told if told is not None else []).append
    journal = Journal(disk or Disk(), directory, "binance", boot_id=boot_id(), segment_bytes=8000, report=report)
    journal.open(FIRST, KNOWN)
    return journal


@pytest.fixture
def directory(tmp_path: Path, lines: list[bytes]) -> Path:
    """A journal of several segments, ended cleanly."""
    directory = tmp_path / JOURNALS / "binance"
    journal = opened(directory)
    for index in range(0, COUNT, 5):
        assert journal.append(lines[index : index + 5]) == 5
    journal.close()
    return directory


@pytest.fixture
def archive(tmp_path: Path, directory: Path, lines: list[bytes]) -> Archive:
    """An archive that holds the beginning of the journal."""
    archive = Archive(tmp_path)
    archive.begin()
    archive.take(lines[1:20])
    archive.sync()
    return archive


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.records"))


def spoil(path: Path, after: int = 0) -> int:
    """Change a digit of a price; returns its offset."""
    data = path.read_bytes()
    place = data.index(RIGHT, after)
    path.write_bytes(data[:place] + WRONG + data[place + len(WRONG) :])
    return place


def piece_at(path: Path, offset: int) -> journal_marks.Piece:
    return next(piece for piece in read_marks(Disk(), path).pieces if piece.begin <= offset < piece.end)


def caught_up(archive: Archive, directory: Path) -> list[str]:
    told: list[str] = []
    Intake(archive.writer, JournalReader(Disk(), directory), told.append).catch_up()
    archive.sync()
    return told


def test_marks_cover_every_synced_byte_and_each_piece_ends_with_its_last_record(directory: Path) -> None:
    assert len(segments(directory)) > 1
    for path in segments(directory):
        data, pieces = path.read_bytes(), read_marks(Disk(), path).pieces
        assert [piece.begin for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
        assert pieces[-1].end == len(data)
        assert all(piece.holds(data) for piece in pieces)
        assert all(seq_of(data[: p.end].splitlines(keepends=True)[-1]) == p.last for p in pieces)


def test_a_line_longer_than_a_piece_has_a_piece_of_its_own(tmp_path: Path) -> None:
    long = b'{"seq":2,"ts_recv":1,"kind":"in","data":"%b"}\n' % (b"x" * 9000)
    short = b'{"seq":1,"ts_recv":1,"kind":"in","data":1}\n'
    path = tmp_path / f"{1:020d}.records"
    path.write_bytes(short + long)
    assert [(p.begin, p.end, p.last) for p in cut(Disk(), path, 0, len(short + long))] == [
        (0, len(short), 1), (len(short), len(short + long), 2),
    ]  # fmt: skip


def test_an_append_writes_and_syncs_no_marks_and_a_sync_adds_no_fsync(
    tmp_path: Path, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    write, sync = AppendFile.write, AppendFile.sync

    def writes(file: AppendFile, data: bytes) -> int:
        done.append(f"write {file.path.suffix}")
        return write(file, data)

    def syncs(file: AppendFile) -> None:
        done.append(f"sync {file.path.suffix}")
        sync(file)

    journal = opened(tmp_path / "binance")
    journal.append(lines[:5])
    monkeypatch.setattr(AppendFile, "write", writes)
    monkeypatch.setattr(AppendFile, "sync", syncs)
    journal.append(lines[5:10])
    assert done == ["write .records"]
    journal.sync_job()()
    assert done == ["write .records", "sync .records", "write .marks"]
    journal.close()


def test_marks_when_the_disk_is_full_are_made_by_a_later_sync(
    tmp_path: Path, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path / "binance")
    journal.append(lines[:5])
    write = AppendFile.write

    def torn(file: AppendFile, data: bytes) -> int:
        return write(file, data[:20] if file.path.suffix == ".marks" else data)

    with monkeypatch.context() as full:
        full.setattr(AppendFile, "write", torn)
        journal.sync_job()()
    (path,) = segments(tmp_path / "binance")
    assert marks_path(path).read_bytes() == b""
    journal.append(lines[5:10])
    journal.sync_job()()
    assert read_marks(Disk(), path).end == path.stat().st_size
    journal.close()


def test_a_wrong_digit_that_was_not_archived_is_a_named_hole_of_its_piece_and_the_rest_is_archived(
    archive: Archive, directory: Path
) -> None:
    path = segments(directory)[-2]
    place = spoil(path, 4000)
    piece = piece_at(path, place)
    (finding,) = verify(archive.directory, jobs=1).findings
    assert (finding.file, finding.offset) == (str(path), piece.begin)
    told = caught_up(archive, directory)
    assert any(str(path) in text and f"offset {piece.begin}" in text and "named as lost" in text for text in told)
    ((first, last),) = holes(Disk(), archive.directory)
    assert last == piece.last
    assert archive.writer.position == FIRST + COUNT - 1
    report = verify(archive.directory, jobs=1)
    assert report.findings == []
    assert [tuple(hole) for hole in report.holes] == [(first, last, "damaged")]
    assert any(f"{path} offset {piece.begin}" in note for note in report.notes)
    assert all(WRONG not in file.read_bytes() for file in archive.files(".open"))
    archive.writer.close()


def test_a_wrong_digit_that_was_archived_before_is_passed_over(archive: Archive, directory: Path) -> None:
    path = segments(directory)[0]
    spoil(path)
    report = verify(archive.directory, jobs=1)
    assert report.findings == []
    assert any(str(path) in note for note in report.notes)
    assert caught_up(archive, directory) == []
    assert archive.writer.position == FIRST + COUNT - 1
    assert not holes(Disk(), archive.directory)
    archive.writer.close()


def test_a_feed_that_starts_says_where_the_damage_is_and_goes_on_with_the_next_number(directory: Path) -> None:
    path = segments(directory)[-1]
    spoil(path)
    told: list[str] = []
    journal = opened(directory, told)
    assert journal.next == FIRST + COUNT
    assert any(f"{path} damaged" in text and "offset 0" in text for text in told)
    assert not list(directory.glob("*.damaged"))
    journal.close()


def test_a_segment_that_is_shorter_than_its_marks_begins_a_new_journal(archive: Archive, directory: Path) -> None:
    path = segments(directory)[-1]
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"\n", 0, -1) + 1])
    (finding,) = verify(archive.directory, jobs=1).findings
    assert "were synced" in finding.what
    told: list[str] = []
    journal = opened(directory, told)
    assert journal.next > FIRST + COUNT
    assert read_marks(Disk(), path).end == path.stat().st_size
    journal.close()


@pytest.mark.parametrize("how", ["gone", "a bit flipped", "torn"])
def test_damaged_marks_change_nothing_and_the_next_start_writes_them_anew(
    archive: Archive, directory: Path, lines: list[bytes], how: str
) -> None:
    path = segments(directory)[-1]
    marks = marks_path(path)
    whole = marks.read_bytes()
    broken = {"gone": b"", "a bit flipped": b"\x7a" + whole[1:], "torn": whole[:-30]}[how]
    marks.write_bytes(broken)
    findings = verify(archive.directory, jobs=1).findings
    assert [finding.file for finding in findings] == ([str(marks)] if how == "a bit flipped" else [])
    assert caught_up(archive, directory) == []
    assert archive.writer.position == FIRST + COUNT - 1
    assert not holes(Disk(), archive.directory)
    archive.writer.close()
    opened(directory).close()
    assert read_marks(Disk(), path).end == path.stat().st_size
    assert not read_marks(Disk(), path).is_damaged


def test_marks_go_with_their_segment(directory: Path) -> None:
    journal = opened(directory)
    before = len(segments(directory))
    journal.trim(FIRST + COUNT)
    journal.close()
    assert len(segments(directory)) == 1 < before
    assert [marks_path(path) for path in segments(directory)] == list(directory.glob("*.marks"))
    alone = directory / f"{7:020d}.marks"
    alone.write_bytes(b"")
    opened(directory).close()
    assert not alone.exists()


def test_the_times_of_what_goes_are_not_told_where_they_are_damaged(directory: Path, lines: list[bytes]) -> None:
    journal = opened(directory)
    last = FIRST + COUNT - 1
    assert journal.times(FIRST, last) == (FIRST_TS, decode(lines[-1]).ts_recv)
    path = segments(directory)[0]
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"ts_recv":1', b'"ts_recv":3', 1))
    assert journal.times(FIRST, last) == (None, decode(lines[-1]).ts_recv)
    journal.close()


def test_what_a_run_owes_is_told_by_what_lies_behind_the_damage(directory: Path, lines: list[bytes]) -> None:
    adapter = cast(Adapter, exchanges.get("binance"))
    last = FIRST + COUNT - 1
    run = Opened(last + 1, last, False, {"subscriptions": {"symbols": ["BTCUSDT"], "channels": ["trade"]}})
    assert owed(Disk(), directory, adapter, run)["topics"] == {"BTCUSDT": {"trade": COUNT - 1}}
    path = segments(directory)[-1]
    data = path.read_bytes()
    place = data.rindex(b'"t":%d,' % (COUNT - 1)) + 4
    path.write_bytes(data[:place] + b"9" + data[place + 1 :])
    assert owed(Disk(), directory, adapter, run)["topics"] == {"BTCUSDT": {"trade": None}}
