"""What imports remember: a flipped bit in it is never believed, and what earlier versions wrote is read."""

from pathlib import Path

import orjson
import pytest

from common import checked
from common.disk import Disk
from common.import_commit import settle, stage
from common.ledger import LEDGER, ledger, write_ledger
from common.process import ConfigError
from common.storage import IMPORT, MARKER
from common.verify import verify
from tests.archives import Archive, written

LINES = [{"file": f"{name}.gz", "sha256": 64 * name, "seq": [1, 900]} for name in "ab"]


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return written(tmp_path, count=60)


def test_a_damaged_line_of_the_ledger_stops_an_import_and_verify_names_it(archive: Archive) -> None:
    write_ledger(Disk(), archive.directory, LINES)
    assert ledger(Disk(), archive.directory) == LINES
    assert verify(archive.directory, jobs=1).findings == []
    path = archive.directory / LEDGER
    second = path.read_bytes().index(b"\n") + 1
    flip(path, path.read_bytes().index(b"900", second))
    with pytest.raises(ConfigError, match=rf"{LEDGER} offset {second}: .*restore it from a copy"):
        ledger(Disk(), archive.directory)
    (finding,) = verify(archive.directory, jobs=1).findings
    assert (finding.file, finding.offset) == (str(path), second)


def test_a_ledger_without_checksums_is_read_as_it_is(archive: Archive) -> None:
    (archive.directory / LEDGER).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in LINES))
    assert ledger(Disk(), archive.directory) == LINES
    assert verify(archive.directory, jobs=1).findings == []


def test_a_damaged_commit_is_not_committed_and_verify_names_it(archive: Archive) -> None:
    staging = archive.storage / IMPORT / "binance"
    staging.mkdir(parents=True)
    stage(Disk(), staging, LINES, [])
    assert checked.has_checksum((staging / MARKER).read_bytes())
    assert verify(archive.directory, jobs=1).findings == []
    flip(staging / MARKER, (staging / MARKER).read_bytes().index(b"900"))
    with pytest.raises(ConfigError, match=rf"{MARKER}: .*restore it from a copy"):
        settle(Disk(), archive.storage)
    assert [finding.file for finding in verify(archive.directory, jobs=1).findings] == [str(staging / MARKER)]


def test_a_commit_without_a_checksum_is_committed(tmp_path: Path) -> None:
    staging = tmp_path / IMPORT / "binance"
    staging.mkdir(parents=True)
    (staging / MARKER).write_bytes(orjson.dumps({"imported": LINES, "ends": []}))
    settle(Disk(), tmp_path)
    assert ledger(Disk(), tmp_path / "binance") == LINES
    assert not staging.exists()
