"""`verify`: what is whole is called whole, also while it is written; what was broken is found, and said where."""

import random
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from common import exchanges
from common.adapter import version
from common.disk import Disk
from common.record import decode, encode
from common.sealing import seal
from common.storage import MANIFEST, append_hole, read_archived, write_archived
from common.synced import SYNCED
from common.verify import Report, exchange_dirs, verify
from tests.archives import FIRST, FIRST_TS, HOUR_NS, Archive, hours, start, trade, written

NORMALISER = version(exchanges.get("binance"))

CODECS = {"bz2": ".bz2", "zstd": ".zst"}


@pytest.fixture(scope="module", params=sorted(CODECS))
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("original"), request.param).storage


@pytest.fixture
def archive(original: Path, tmp_path: Path) -> Archive:
    """To be broken."""
    return Archive(Path(shutil.copytree(original, tmp_path / "storage")))


def proved(archive: Archive) -> Report:
    return verify(archive.directory, jobs=2)


def told(archive: Archive) -> str:
    """What is wrong, in one text; fails if nothing is."""
    report = proved(archive)
    assert not report.is_whole
    assert all(finding.mend for finding in report.findings)
    return "\n".join(f"{Path(f.file).name} {f.offset}: {f.what}" for f in report.findings)


def sealed_file(archive: Archive) -> Path:
    """The largest one: several blocks."""
    return max((path for suffix in CODECS.values() for path in archive.files(suffix)), key=lambda p: p.stat().st_size)


def open_file(archive: Archive, symbol: str = "BTCUSDT") -> Path:
    (path,) = (path for path in archive.files(".open") if path.name.startswith(symbol))
    return path


def edit(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def forget_synced(archive: Archive) -> None:
    """Leave the numbers to tell what is missing, without the sizes that were synced."""
    (archive.directory / SYNCED).unlink()


# -- whole ---------------------------------------------------------------------------------------------------------


def test_verify_when_nothing_is_wrong_then_counts_everything(archive: Archive) -> None:
    report = proved(archive)
    assert report.findings == []
    assert report.notes == []
    assert (report.records, report.seq, report.complete) == (601, (FIRST, FIRST + 600), FIRST + 600)
    assert (report.files, report.sealed) == (9, 6)
    assert exchange_dirs(archive.storage) == exchange_dirs(archive.directory) == [archive.directory]


def test_verify_when_a_line_is_torn_beyond_what_is_complete_then_it_is_a_note(archive: Archive) -> None:
    path = open_file(archive)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + trade(FIRST + 601)[:60])
    report = proved(archive)
    assert report.is_whole
    assert report.notes == [f"{path} offset {size}: the last line is not whole (yet)"]


def test_verify_when_sealing_was_stopped_anywhere_then_the_archive_is_whole(tmp_path: Path) -> None:
    """Before the manifest line the open file counts, after it the sealed one."""
    archive = Archive(tmp_path)
    archive.begin()
    archive.take(hours(FIRST + 1, 600))
    archive.writer.sync(lambda: None)
    uncommitted, begun, committed, *_ = sorted(archive.writer.sealable(), key=lambda path: path.name)
    for path in (committed, uncommitted):
        data = path.read_bytes()
        seal(Disk(), path, "bz2", 3, 4096, NORMALISER)
        path.write_bytes(data)
    (uncommitted.parent / MANIFEST).unlink()
    assert committed.parent != uncommitted.parent
    begun.with_suffix(".bz2.tmp").write_bytes(b"BZh")
    report = proved(archive)
    archive.writer.close()
    assert report.findings == []
    assert [note.split(": ")[1][:13] for note in report.notes] == ["not committed", "unfinished; s", "1 sealed file"]
    assert report.records == 601


def test_verify_when_the_archive_is_written_and_sealed_meanwhile_then_it_is_whole(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.begin()
    archive.take(hours(FIRST + 1, 200, 1))
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for hour in range(1, 16):
                lines = hours(FIRST + 1 + 200 * hour, 200, 1, FIRST_TS + hour * HOUR_NS)
                for index in range(0, 200, 20):
                    archive.take(lines[index : index + 20])
                archive.sync()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    reports = []
    while thread.is_alive():
        reports.append(proved(archive))
    thread.join()
    archive.close()
    assert errors == []
    assert [finding for report in reports for finding in report.findings] == []
    assert len({report.records for report in reports}) > 2


def test_verify_when_written_on_another_boot_then_what_was_not_synced_is_not_promised(archive: Archive) -> None:
    archived = read_archived(Disk(), archive.directory)
    write_archived(
        Disk(), archive.directory, type(archived)(archived.complete, FIRST + 500, "other", {}, True), durable=False
    )
    forget_synced(archive)
    edit(open_file(archive), lambda lines: lines[:-20])
    report = proved(archive)
    assert report.findings == []
    assert "another boot" in report.notes[0]


# -- bytes ---------------------------------------------------------------------------------------------------------


def test_verify_when_any_bit_of_a_sealed_file_is_flipped_then_it_is_found(archive: Archive) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = sealed_file(archive)
    whole = path.read_bytes()
    offsets = [block["offset"] for block in manifest_line(path)["blocks"]]
    assert len(offsets) > 3
    for _ in range(25):
        place = rng.randrange(len(whole))
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        (finding,) = proved(archive).findings
        assert finding.file == str(path)
        assert finding.offset == max(offset for offset in offsets if offset <= place)
    path.write_bytes(whole)
    assert proved(archive).is_whole


def manifest_line(path: Path) -> dict[str, list[dict[str, int]]]:
    lines = map(orjson.loads, (path.parent / MANIFEST).read_bytes().splitlines())
    found: dict[str, list[dict[str, int]]] = next(line for line in lines if line.get("file") == path.name)
    return found


def test_verify_when_a_sealed_file_is_cut_or_longer_then_it_is_found(archive: Archive) -> None:
    path = sealed_file(archive)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\n")
    assert f"{path.name} {len(whole)}: has {len(whole) + 1} bytes" in told(archive)
    path.write_bytes(whole[:-10])
    assert f"has {len(whole) - 10} bytes" in told(archive)


# -- lines ---------------------------------------------------------------------------------------------------------


def test_verify_when_a_line_of_an_open_file_is_removed_then_its_number_is_missing(archive: Archive) -> None:
    path = open_file(archive)
    gone = decode(path.read_bytes().splitlines(keepends=True)[3]).seq
    edit(path, lambda lines: lines[:3] + lines[4:])
    assert "bytes were synced" in told(archive)
    forget_synced(archive)
    assert told(archive) == f"binance None: record {gone} is missing"


def test_verify_when_the_last_lines_are_removed_then_what_is_promised_is_missing(archive: Archive) -> None:
    for path in archive.files(".open"):
        edit(path, lambda lines: lines[:-1])
    assert told(archive).endswith(f"records {FIRST + 599} to {FIRST + 600} are missing")


def test_verify_when_a_line_of_an_open_file_is_garbage_then_its_offset_is_named(archive: Archive) -> None:
    path = open_file(archive)
    lines = path.read_bytes().splitlines(keepends=True)
    edit(path, lambda lines: [*lines[:3], b"\0" * 40 + b"\n", *lines[4:]])
    text = told(archive)
    assert f"{path.name} {sum(map(len, lines[:3]))}: not a record" in text
    assert f"record {decode(lines[3]).seq} is missing" in text


def test_verify_when_a_payload_of_an_open_file_is_no_json_then_its_offset_is_named(archive: Archive) -> None:
    path = open_file(archive)
    edit(path, lambda lines: [lines[0], lines[1].replace(b'"data":', b'"data";', 2), *lines[2:]])
    edit(path, lambda lines: [*lines[:5], lines[5].replace(b'"e":', b'"e";'), *lines[6:]])
    assert "not JSON" in told(archive)


def test_verify_when_any_bit_that_was_synced_is_flipped_then_it_is_found(archive: Archive) -> None:
    path = open_file(archive)
    edit(path, lambda lines: [*lines[:3], lines[3].replace(b"61837.64", b"61837.65"), *lines[4:]])
    size = path.stat().st_size
    assert told(archive) == f"{path.name} 0: its first {size} bytes are not those that were synced"


def test_verify_when_a_promised_line_is_torn_then_its_offset_is_named(archive: Archive) -> None:
    path = open_file(archive)
    data = path.read_bytes()[:-10]
    path.write_bytes(data)
    place, seq = data.rfind(b"\n") + 1, FIRST + 600
    assert f"{path.name} {place}: record {seq} is torn" in told(archive)


def test_verify_when_a_record_is_doubled_within_a_file_then_it_is_found(archive: Archive) -> None:
    path = open_file(archive)
    edit(path, lambda lines: [*lines, lines[-1]])
    assert f"record {FIRST + 600} comes after {FIRST + 600}" in told(archive)


@pytest.mark.parametrize("same", [True, False])
def test_verify_when_a_record_is_in_two_files_then_both_are_named(archive: Archive, same: bool) -> None:
    path = open_file(archive)
    seq = decode(path.read_bytes().splitlines(keepends=True)[5]).seq
    copy = path.with_name(path.name.replace("-17231", "-27231"))
    copy.write_bytes(path.read_bytes().splitlines(keepends=True)[5] if same else trade(seq, FIRST_TS + 5))
    text = told(archive)
    assert f"record {seq} twice{'' if same else ' with other bytes'}" in text
    assert path.name in text
    assert copy.name in text


def test_verify_when_numbers_beyond_complete_are_doubled_then_it_is_found(archive: Archive) -> None:
    for symbol in ("BTCUSDT", "ETHUSDT"):
        path = open_file(archive, symbol)
        path.write_bytes(path.read_bytes() + trade(FIRST + 700, symbol=symbol))
    assert f"record {FIRST + 700} twice with other bytes" in told(archive)


def test_verify_when_a_record_lies_in_another_symbols_file_then_it_is_found(archive: Archive) -> None:
    path = open_file(archive)
    path.write_bytes(path.read_bytes() + trade(FIRST + 601, symbol="ETHUSDT"))
    assert f"record {FIRST + 601} belongs to ETHUSDT" in told(archive)


# -- the log as a whole --------------------------------------------------------------------------------------------


def test_verify_when_numbers_jump_at_a_start_then_it_is_whole(archive: Archive) -> None:
    again = Archive(archive.storage)
    again.begin(last=FIRST + 600, seq=2 * FIRST)
    again.take([trade(2 * FIRST + 1)])
    again.close()
    report = proved(again)
    assert (report.findings, report.holes) == ([], [])
    assert report.seq[1] == 2 * FIRST + 1


def test_verify_when_records_before_a_jumping_start_are_lost_then_they_are_missing(archive: Archive) -> None:
    """The start says what was the last before it."""
    again = Archive(archive.storage)
    again.begin(last=FIRST + 600, seq=2 * FIRST)
    again.close()
    btcusdt = next(path for path in again.files(".open") if path.name.startswith("BTCUSDT"))
    edit(btcusdt, lambda lines: lines[:-1])
    forget_synced(again)
    assert told(again) == f"binance None: record {FIRST + 600} is missing"


def test_verify_when_numbers_jump_elsewhere_then_they_are_missing_unless_a_hole_is_named(archive: Archive) -> None:
    path = open_file(archive, "_")
    path.write_bytes(path.read_bytes() + encode(2 * FIRST, FIRST_TS, "clock"))
    archived = read_archived(Disk(), archive.directory)
    promised = type(archived)(2 * FIRST, 2 * FIRST, archived.boot_id, {}, True)
    write_archived(Disk(), archive.directory, promised, durable=False)
    assert told(archive) == f"binance None: records {FIRST + 601} to {2 * FIRST - 1} are missing"
    append_hole(Disk(), archive.directory, FIRST + 601, 2 * FIRST - 1, "dropped", FIRST_TS)
    report = proved(archive)
    assert report.findings == []
    assert [hole.reason for hole in report.holes] == ["dropped"]


def test_verify_when_some_records_of_a_named_hole_are_there_then_it_is_whole(archive: Archive) -> None:
    append_hole(Disk(), archive.directory, FIRST + 590, FIRST + 600, "lost", FIRST_TS)
    edit(open_file(archive), lambda lines: lines[:-2])
    forget_synced(archive)
    assert proved(archive).findings == []


def test_verify_when_the_front_is_removed_then_it_is_missing(archive: Archive) -> None:
    first = min(archive.directory.glob("_/*/*.*"), key=lambda path: path.name)
    edit(first.parent / MANIFEST, lambda lines: lines[1:])
    first.unlink()
    assert told(archive).startswith("_ None: records from 1 to ")


def test_verify_when_archived_json_is_lost_then_the_rest_is_proved(archive: Archive) -> None:
    (archive.directory / "archived.json").unlink()
    assert told(archive) == "archived.json None: is missing"
    (archive.directory / "archived.json").write_bytes(b"{")
    shutil.rmtree(archive.directory / "ETHUSDT")
    text = told(archive)
    assert text.startswith("archived.json None: cannot be read")
    assert " missing" in text


def test_verify_when_a_start_goes_on_densely_then_it_is_whole(archive: Archive) -> None:
    again = Archive(archive.storage)
    again.take([start(FIRST + 601, FIRST + 600), trade(FIRST + 602)])
    again.close()
    assert proved(again).findings == []
