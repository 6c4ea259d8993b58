"""Files that rot between their sync and their sealing: nothing of it becomes truth."""

from pathlib import Path

import orjson
import pytest

from common import exchanges, synced
from common.answers import Answers
from common.archive import ArchiveWriter
from common.disk import Disk
from common.process import boot_id
from common.reader import Reader
from common.record import seq_of
from common.sealing import RottenError, seal
from common.storage import ARCHIVED, holes
from common.synced import SYNCED, read_synced
from common.verify import verify
from tests.archives import FIRST, NORMALISER, Archive, hours, trade

COUNT = 1200
RIGHT, WRONG = b"61837.64", b"61837.65"


@pytest.fixture
def lines() -> list[bytes]:
    return hours(FIRST + 1, COUNT)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synced, "PIECE_BYTES", 8 * 1024)


@pytest.fixture
def archive(tmp_path: Path, lines: list[bytes]) -> Archive:
    """Three hours that are synced, the first two waiting to be sealed."""
    archive = Archive(tmp_path)
    archive.begin()
    for index in range(0, COUNT, 50):
        archive.take(lines[index : index + 50])
    archive.writer.sync(lambda: None)
    archive.writer.close()
    return archive


def rotten(archive: Archive, hour: int) -> Path:
    """A file of which a digit was flipped, in its middle."""
    path = sorted(archive.directory.glob("BTCUSDT/*/*.open"))[hour]
    data = path.read_bytes()
    place = data.index(RIGHT, len(data) // 2)
    path.write_bytes(data[:place] + WRONG + data[place + len(WRONG) :])
    return path


def start(archive: Archive, journal_front: int | None) -> tuple[ArchiveWriter, list[str]]:
    told: list[str] = []
    arguments = {"boot_id": boot_id(), "rotate_min_bytes": 1, "report": told.append}
    writer = ArchiveWriter(Disk(), archive.directory, **arguments)  # type: ignore[arg-type]
    writer.open(journal_front)
    return writer, told


def seal_all(archive: Archive, writer: ArchiveWriter) -> None:
    writer.sync(lambda: None)
    for path in writer.sealable():
        seal(Disk(), path, "zstd", 3, 4096, NORMALISER)
    writer.sync(lambda: None)
    writer.close()


def prices(archive: Archive) -> list[bytes]:
    reader = Reader(archive.storage, exchanges.get("binance"))
    return list(reader.lines("BTCUSDT", 0, 1 << 62))


def test_a_waiting_file_stays_among_what_was_synced_until_it_is_sealed(archive: Archive) -> None:
    waiting = {str(path.relative_to(archive.directory)) for path in archive.directory.glob("*/*/*.open")}
    assert set(read_synced(Disk(), archive.directory).files) == waiting
    writer, _ = start(archive, None)
    seal_all(archive, writer)
    left = {str(path.relative_to(archive.directory)) for path in archive.directory.glob("*/*/*.open")}
    assert set(read_synced(Disk(), archive.directory).files) == left < waiting


@pytest.mark.parametrize("hour", [0, 1])
def test_a_file_that_rots_before_it_is_sealed_is_not_sealed_and_verify_names_it(archive: Archive, hour: int) -> None:
    path = rotten(archive, hour)
    with pytest.raises(RottenError, match=path.name):
        seal(Disk(), path, "zstd", 3, 4096, NORMALISER)
    assert not path.with_suffix(".zst").exists()
    assert [finding.file for finding in verify(archive.directory, jobs=1).findings] == [str(path)]


@pytest.mark.parametrize("hour", [0, 1, 2])
def test_rot_is_refilled_from_the_journal_while_it_holds_the_records(
    archive: Archive, lines: list[bytes], hour: int
) -> None:
    rotten(archive, hour)
    writer, _ = start(archive, FIRST)
    assert writer.position < FIRST + COUNT
    writer.take(line for line in lines if seq_of(line) > writer.position)
    seal_all(archive, writer)
    assert verify(archive.directory, jobs=1).findings == []
    assert not holes(Disk(), archive.directory)
    assert prices(archive) == [line[:-1] for line in lines if b'"symbol":"BTCUSDT"' in line[:120]]


@pytest.mark.parametrize("hour", [0, 1, 2])
def test_rot_that_the_journal_no_longer_holds_is_a_named_hole_and_the_rest_is_kept(
    archive: Archive, lines: list[bytes], hour: int
) -> None:
    path = rotten(archive, hour)
    writer, told = start(archive, FIRST + COUNT + 1)
    seal_all(archive, writer)
    report = verify(archive.directory, jobs=1)
    assert report.findings == []
    assert {hole.reason for hole in report.holes} == {"damaged"}
    assert any(path.name in text and "set aside" in text for text in told)
    kept = set(prices(archive))
    lost = [line for line in lines if b'"symbol":"BTCUSDT"' in line[:120] and line[:-1] not in kept]
    assert not any(WRONG in line for line in kept)
    assert 0 < len(lost) < COUNT // 6, "the pieces that were proved are kept"
    assert {seq_of(line) for line in lost} == {seq for hole in report.holes for seq in range(hole[0], hole[1] + 1)}


def test_a_file_sealed_out_of_order_does_not_come_between_what_is_refilled(
    archive: Archive, lines: list[bytes]
) -> None:
    """The first hour rots while the second is sealed already: what is refilled lies before it, then behind it."""
    second = sorted(archive.directory.glob("BTCUSDT/*/*.open"))[1]
    seal(Disk(), second, "zstd", 3, 4096, NORMALISER)
    rotten(archive, 0)
    writer, _ = start(archive, FIRST)
    writer.take(line for line in lines if seq_of(line) > writer.position)
    seal_all(archive, writer)
    assert verify(archive.directory, jobs=1).findings == []
    assert prices(archive) == [line[:-1] for line in lines if b'"symbol":"BTCUSDT"' in line[:120]]


@pytest.mark.parametrize("is_there", [True, False])
def test_complete_when_archived_json_is_damaged_then_what_was_synced_counts(archive: Archive, is_there: bool) -> None:
    path = archive.directory / ARCHIVED
    path.write_bytes(path.read_bytes().replace(b'"complete":1', b'"complete":0')) if is_there else path.unlink()
    assert Reader(archive.storage, exchanges.get("binance")).complete() == FIRST + COUNT
    assert any(finding.file == str(path) for finding in verify(archive.directory, jobs=1).findings)


def test_slice_when_nothing_tells_how_far_the_archive_is_complete_then_it_is_an_error(archive: Archive) -> None:
    for name in (ARCHIVED, SYNCED):
        (archive.directory / name).write_bytes(b"{}")
    request = {"op": "slice", "exchange": "binance", "symbols": ["BTCUSDT"], "channels": ["trade"], "after": 0}
    header = orjson.loads(Answers(archive.storage).answer(orjson.dumps(request))[0])
    assert header["error"]["code"] == "corrupt"
    assert "restart the archiver" in header["error"]["message"]


def test_book_when_the_start_of_a_run_is_damaged_in_the_file_being_written_then_it_is_a_clear_error(
    tmp_path: Path,
) -> None:
    archive = Archive(tmp_path)
    archive.begin()
    archive.take([trade(FIRST + 1)])
    archive.close()
    path = next(archive.directory.glob("_/*/*.open"))
    path.write_bytes(path.read_bytes().replace(b'"subscriptions"', b'"subscr\x01ptions"'))
    request = {"op": "book", "exchange": "binance", "symbol": "BTCUSDT"}
    header = orjson.loads(Answers(archive.storage).answer(orjson.dumps(request))[0])
    assert header["error"]["code"] == "corrupt"
    assert f"record {FIRST} (start) is damaged" in header["error"]["message"]
