"""Files that somebody removed: the rest stays readable, and the range that is gone is named."""

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from common import exchanges
from common.answers import Answers
from common.archive import ArchiveWriter
from common.checked import KEY
from common.disk import Disk
from common.listing import ArchiveFile
from common.missing import UNKNOWN_END, Missing
from common.normaliser import Normaliser
from common.process import boot_id
from common.reader import Reader
from common.record import decode, encode, seq_of
from common.storage import MANIFEST
from tests.archives import FIRST, FIRST_TS, Archive, hours, start, trade, written
from tests.flips import build
from tests.record_logs import SYMBOLS

BINANCE = exchanges.get("binance")


@pytest.fixture(params=["zstd", "bz2"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    """Three hours: two sealed, one open, of two symbols and of none."""
    return written(tmp_path, request.param)


def reader(archive: Archive) -> Reader:
    return Reader(archive.storage, BINANCE)


def held(archive: Archive, symbol: str | None) -> list[int]:
    return [seq_of(line) for line in reader(archive).lines(symbol, 0, UNKNOWN_END)]


def forget(file: ArchiveFile) -> None:
    """Remove a file and its line of the manifest."""
    file.path.unlink()
    manifest = file.month / MANIFEST
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(line for line in lines if file.file.encode() not in line))


def asked(archive: Archive, **request: object) -> tuple[dict[str, object], list[bytes]]:
    header, *payload = Answers(archive.storage).answer(orjson.dumps({"exchange": "binance", **request}))
    return orjson.loads(header), payload


@pytest.mark.parametrize("symbol", [None, "BTCUSDT", "ETHUSDT"])
def test_missing_when_nothing_is_gone_then_nothing(archive: Archive, symbol: str | None) -> None:
    assert reader(archive).missing([symbol] if symbol else []) == []


@pytest.mark.parametrize("symbol", [None, "BTCUSDT"])
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("is_forgotten", [False, True])
def test_missing_when_a_sealed_file_is_removed_then_its_range_is_named_and_the_rest_is_read(
    archive: Archive, symbol: str | None, index: int, is_forgotten: bool
) -> None:
    files, before = reader(archive).files(symbol), held(archive, symbol)
    file = files[index]
    forget(file) if is_forgotten else file.path.unlink()
    (missing,) = reader(archive).missing([symbol] if symbol else [])
    if is_forgotten:
        first = files[0].seq[1] + 1 if index else 1
        assert missing[:4] == (first, files[index + 1].first - 1, symbol, "missing")
        assert missing.ts_from == (files[0].ts_recv[1] if index else None)
    else:
        assert missing == Missing(*file.seq, symbol, "missing", *file.ts_recv, file.file)
    assert held(archive, symbol) == [seq for seq in before if not file.seq[0] <= seq <= file.seq[1]]


@pytest.mark.parametrize("symbol", [None, "BTCUSDT"])
def test_missing_when_the_last_file_is_removed_then_it_is_named_without_an_end(
    archive: Archive, symbol: str | None
) -> None:
    *_, before, last = reader(archive).files(symbol)
    last.path.unlink()
    (missing,) = reader(archive).missing([symbol] if symbol else [])
    assert missing == Missing(before.seq[1] + 1, UNKNOWN_END, symbol, "missing", before.ts_recv[1])


@pytest.mark.parametrize("symbol", [None, "BTCUSDT"])
@pytest.mark.parametrize("taken_up", [False, True])
def test_missing_when_all_but_the_file_being_written_is_removed_then_what_lay_before_it_is_named(
    archive: Archive, symbol: str | None, taken_up: bool
) -> None:
    """With the manifest gone, too, nothing told that there had been anything."""
    if taken_up:
        writer = ArchiveWriter(Disk(), archive.directory, boot_id=boot_id(), rotate_min_bytes=1)
        writer.open(None)
        writer.sync(lambda: None)
        writer.close()
    *sealed, last = reader(archive).files(symbol)
    for path in {file.path for file in sealed} | {sealed[0].month / MANIFEST}:
        path.unlink()
    (missing,) = reader(archive).missing([symbol] if symbol else [])
    assert missing[:6] == (1, last.first - 1, symbol, "missing", None, last.ts_recv[0])


def test_missing_when_two_files_in_a_row_are_removed_then_they_are_one_range(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.begin()
    archive.take(hours(FIRST + 1, 600, 5))
    archive.close()
    files = reader(archive).files("BTCUSDT")
    for file in files[1:3]:
        forget(file)
    (missing,) = reader(archive).missing(["BTCUSDT"])
    assert (missing.first, missing.last) == (files[0].seq[1] + 1, files[3].first - 1)


def test_missing_when_lines_have_no_neighbours_then_what_tables_cover_tells(archive: Archive) -> None:
    """Manifests of before."""
    for manifest in archive.directory.rglob(MANIFEST):
        lines = [orjson.loads(line) for line in manifest.read_bytes().splitlines()]
        old = [{key: value for key, value in line.items() if key not in ("after", "next", KEY)} for line in lines]
        manifest.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in old))
    assert reader(archive).missing(["BTCUSDT", "ETHUSDT"]) == []
    files = reader(archive).files("BTCUSDT")
    forget(files[1])
    (missing,) = reader(archive).missing(["BTCUSDT"])
    assert (missing.first, missing.last) == (files[0].seq[1] + 1, files[2].first - 1)


@pytest.mark.parametrize("format_", ["json", "raw", "arrow"])
def test_slice_when_a_month_is_removed_with_its_manifest_then_the_rest_is_answered(
    archive: Archive, format_: str
) -> None:
    shutil.rmtree(reader(archive).files("BTCUSDT")[0].month)
    slice_ = {"op": "slice", "symbols": ["BTCUSDT"], "channels": ["trade"], "format": format_, "after": 0}
    assert "error" not in asked(archive, **slice_)[0]
    for op in ("coverage", "gaps"):
        assert "error" not in asked(archive, op=op, symbols=["BTCUSDT", "ETHUSDT"], channels=["trade"])[0]


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_slice_gaps_and_coverage_when_a_file_is_removed_then_all_break_there(
    tmp_path: Path, is_forgotten: bool
) -> None:
    """With a log of which checkpoints tell the state."""
    archive = Archive(tmp_path)
    directory = build(archive.storage, 5)
    assert directory == archive.directory
    symbol, files = next(
        (symbol, found)
        for symbol in SYMBOLS
        if len(found := [file for file in reader(archive).files(symbol) if file.is_sealed]) > 2
    )
    file = files[1]
    forget(file) if is_forgotten else file.path.unlink()
    ask = {"symbols": [symbol], "channels": ["trade"]}
    header, payload = asked(archive, op="slice", after=0, **ask)
    events = [orjson.loads(line) for part in payload for line in part.splitlines()]
    (opened, *_) = (event for event in events if event["channel"] == "gap" and event["reason"] == "missing")
    assert opened["state"] == "open"
    assert (opened["first_seq"] <= file.first, opened["last_seq"] >= file.seq[1]) == (True, True)
    trades = [event for event in events if event["channel"] == "trade"]
    assert not any(file.first <= event["seq"] <= file.seq[1] for event in trades)
    assert header["missing"] == [[1, 1000], [opened["first_seq"], opened["last_seq"]]]
    gaps: Any = asked(archive, op="gaps", **ask)[0]["gaps"]
    assert opened in gaps
    intervals: Any = asked(archive, op="coverage", **ask)[0]["coverage"]
    assert intervals
    assert not any(each["first_seq"] < file.first and each["last_seq"] > file.seq[1] for each in intervals)


def test_a_slice_right_behind_a_hole_knows_symbols_that_were_added_in_it(tmp_path: Path) -> None:
    """The last record before the hole said that the symbol is not recorded: what was known of it was not looked for."""
    archive = Archive(tmp_path)
    archive.begin()
    left = {"symbols": ["BTCUSDT"], "added": [], "removed": ["ETHUSDT"], "channels": ["trade"], "owed": {}}
    removal = encode(FIRST + 2, FIRST_TS, "subscriptions", payload=orjson.dumps(left))
    archive.take([trade(FIRST + 1, FIRST_TS, "ETHUSDT"), removal])
    run = Normaliser(BINANCE)
    for line in (
        start(FIRST, 0),
        trade(FIRST + 1, FIRST_TS, "ETHUSDT"),
        trade(FIRST + 8, FIRST_TS, "ETHUSDT", FIRST + 2),
    ):
        run.record(decode(line))
    archive.writer.hole(FIRST + 10, None)
    about = encode(FIRST + 10, FIRST_TS, "checkpoint", symbol="ETHUSDT", payload=run.checkpoint("ETHUSDT"))
    archive.take([about, trade(FIRST + 11, FIRST_TS, "ETHUSDT", FIRST + 3)])
    archive.close()
    found = {
        after: [each for _, messages in reader(archive).messages(["ETHUSDT"], after, FIRST + 11) for each in messages]
        for after in (0, FIRST + 9)
    }
    assert [b"/gap/" in message[:20] for message in found[FIRST + 9]].count(True) >= 1
    assert found[0][-len(found[FIRST + 9]) :] == found[FIRST + 9]
