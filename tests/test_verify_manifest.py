"""`verify` and manifests: what they say is proved, and what somebody removed is named by its range."""

from pathlib import Path

import orjson
import pytest

from common import exchanges
from common.checked import KEY
from common.reader import Reader
from common.storage import MANIFEST
from tests.archives import FIRST, FIRST_TS, HOUR_NS, Archive, hours, written
from tests.test_verify import CODECS, edit, forget_synced, sealed_file, told


@pytest.fixture(params=sorted(CODECS))
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    """To be broken."""
    return written(tmp_path, request.param)


def test_verify_when_a_sealed_file_is_removed_then_it_is_the_one_finding(archive: Archive) -> None:
    path = sealed_file(archive)
    records = Reader(archive.storage, exchanges.get("binance")).files("BTCUSDT")
    (file,) = (file for file in records if file.path == path)
    path.unlink()
    what = f"BTCUSDT None: {path.name} is missing, the manifest names it: records from {file.seq[0]} to {file.seq[1]} "
    assert told(archive).startswith(what)
    assert "\n" not in told(archive)


@pytest.mark.parametrize("with_manifest", [True, False])
def test_verify_when_a_month_of_a_symbol_is_removed_then_its_range_is_the_one_finding(
    archive: Archive, with_manifest: bool
) -> None:
    month = sealed_file(archive).parent
    files = Reader(archive.storage, exchanges.get("binance")).files("BTCUSDT")
    again = Archive(archive.storage)
    again.take(hours(FIRST + 601, 600, 3, FIRST_TS + 40 * 24 * HOUR_NS))
    again.close()
    following = Reader(archive.storage, exchanges.get("binance")).files("BTCUSDT")
    for path in list(month.iterdir()):
        if with_manifest or path.name != MANIFEST:
            path.unlink()
    forget_synced(archive)
    text = told(archive)
    assert "\n" not in text
    assert text.startswith("BTCUSDT None: ")
    after = next(file for file in following if file.month != month)
    first, last = (1, after.first - 1) if with_manifest else (files[0].first, FIRST + 600)
    assert f"from {first} to {last} are missing (received " in text
    assert ("3 files that the manifest names" in text) is not with_manifest


def test_verify_when_a_sealed_file_and_its_manifest_line_are_removed_then_its_numbers_are_missing(
    archive: Archive,
) -> None:
    path = sealed_file(archive)
    path.unlink()
    edit(path.parent / MANIFEST, lambda lines: [line for line in lines if path.name.encode() not in line])
    text = told(archive)
    assert text.startswith("BTCUSDT None: records from ")
    assert "\n" not in text


@pytest.mark.parametrize("key", ["records", "bytes", "raw_bytes", "sha256", "seq", "ts_recv", "symbol", "blocks"])
def test_verify_when_a_manifest_says_something_else_then_it_is_found(archive: Archive, key: str) -> None:
    path = sealed_file(archive)

    def change(lines: list[bytes]) -> list[bytes]:
        line = orjson.loads(lines[0])
        del line[KEY]
        value = {"sha256": "0" * 64, "seq": [1, 2], "ts_recv": [1, 2], "symbol": "XYZ", "blocks": line["blocks"][:-1]}
        return [orjson.dumps(line | {key: value.get(key, 17)}) + b"\n", *lines[1:]]

    edit(path.parent / MANIFEST, change)
    assert told(archive)


@pytest.mark.parametrize("key", ["rows", "events", "seq", "ts_recv", "ts_event", "bytes", "sha256", "inexact"])
def test_verify_when_a_manifest_says_something_else_of_a_table_then_it_is_found(archive: Archive, key: str) -> None:
    manifest = next(archive.directory.glob(f"BTCUSDT/*/{MANIFEST}"))

    def change(lines: list[bytes]) -> list[bytes]:
        line = orjson.loads(lines[0])
        del line[KEY]
        value = {"sha256": "0" * 64, "seq": [FIRST, FIRST + 1], "ts_recv": [1, 2], "ts_event": [1, 2]}
        line["tables"]["trade"][key] = value.get(key, 17)
        return [orjson.dumps(line) + b"\n", *lines[1:]]

    edit(manifest, change)
    assert told(archive)


def without_checksum(line: bytes) -> bytes:
    """A line as it was written before there were checksums."""
    data = orjson.loads(line)
    del data[KEY]
    return orjson.dumps(data) + b"\n"


def test_verify_when_a_manifest_line_is_torn_in_the_middle_then_its_place_is_named(archive: Archive) -> None:
    manifest = sealed_file(archive).parent / MANIFEST
    first, second = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(first + second[:100] + b"\n")
    text = told(archive)
    assert f"{MANIFEST} {len(first)}: a damaged line" in text
    assert "stands in no manifest" in text
    assert "missing" not in text, "its records are there"


def test_verify_when_a_manifest_lacks_a_key_then_its_place_is_named(archive: Archive) -> None:
    manifest = sealed_file(archive).parent / MANIFEST
    edit(manifest, lambda lines: [lines[0], without_checksum(lines[1]).replace(b'"blocks"', b'"blokcs"')])
    offset = len(manifest.read_bytes().splitlines(keepends=True)[0])
    assert told(archive).startswith(f"{MANIFEST} {offset}: a line of the manifest lacks")
