"""Rebuilding tables: missing, stale, damaged, of wrong rows; and what is wrong with tables never costs records."""

import hashlib
import logging
import random
import secrets
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson
import pyarrow.parquet as pq
import pytest

from common import cli, exchanges
from common.adapter import Adapter, version
from common.disk import Disk
from common.events import Update
from common.exchanges import binance
from common.rebuild import rebuild
from common.seal_workers import tables_of as tables_or_none
from common.sealing import seal
from common.storage import MANIFEST, append_manifest, sealed_lines
from common.verify import verify
from tests.archives import FIRST, Archive, hours, written
from tests.record_logs import Log
from tests.test_tables import TableRecording, assert_tables, tables_of

NORMALISER = version(exchanges.get("binance"))

ADAPTER = cast(Adapter, exchanges.get("binance"))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return written(tmp_path)


def parquet_files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*.parquet*"))


def strip(directory: Path, **changes: Any) -> int:
    """Supersede every manifest line that has tables: without them, or with other facts. Returns how many."""
    count = 0
    for month in {path.parent for path in directory.glob("*/*/manifest.jsonl")}:
        for line in sealed_lines(Disk(), month).values():
            if "tables" in line:
                count += 1
                kept = {key: line[key] for key in line if changes or key not in ("tables", "covers", "gaps", "events")}
                blocks = kept.pop("blocks")
                append_manifest(Disk(), month, {**kept, **changes, "blocks": blocks})
    return count


def assert_whole(directory: Path, files: int) -> None:
    report = verify(directory, jobs=2)
    assert (report.findings, report.notes, report.tables) == ([], [], files)
    named = {facts["file"] for line, _ in tables_of(directory) for facts in line["tables"].values()}
    assert {path.name for path in parquet_files(directory)} == named


# -- rebuilding ----------------------------------------------------------------------------------------------------


def test_rebuild_when_there_are_no_tables_then_makes_what_sealing_would_have(archive: Archive) -> None:
    before = tables_of(archive.directory)
    count = strip(archive.directory)
    report = verify(archive.directory, jobs=1)
    assert (report.is_whole, report.without_tables) == (True, count)
    assert f"{count} sealed files have no tables: trade-archivist rebuild" in "\n".join(report.notes)
    known, outcomes = rebuild(archive.directory, 1)
    assert (known, len(outcomes), {outcome.error for outcome in outcomes}) == (count, count, {None})
    after = tables_of(archive.directory)
    for (old, old_tables), (new, new_tables) in zip(before, after, strict=True):
        assert old_tables == new_tables
        assert [old[key] for key in ("covers", "gaps", "events")] == [new[key] for key in ("covers", "gaps", "events")]
    assert_whole(archive.directory, count)
    assert rebuild(archive.directory, 1) == (count, [])


def test_rebuild_when_tables_are_stale_then_verify_says_so_and_they_are_made_anew(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = len(tables_of(archive.directory))
    names = {path.name for path in parquet_files(archive.directory)}
    monkeypatch.setattr(exchanges.get("binance"), "VERSION", 7)
    assert cli.main(["verify", str(archive.storage), "--json"]) == 0
    told = orjson.loads(capsys.readouterr().out)["exchanges"]["binance"]
    assert told["tables"] == {"proved": 0, "stale": count, "missing": 0}
    mend = f"tables of {count} files are stale, not of binance/7: trade-archivist rebuild {archive.storage}"
    assert mend in told["notes"][0]
    assert cli.main(["rebuild", str(archive.storage), "--exchange", "binance"]) == 0
    assert capsys.readouterr() == (f"binance: {count} files rebuilt, 0 failed, 0 were in order\n", "")
    assert {line["normaliser"] for line, _ in tables_of(archive.directory)} == {"binance/7"}
    assert names.isdisjoint(path.name for path in parquet_files(archive.directory)), "nothing was overwritten"
    assert_whole(archive.directory, count)


@pytest.mark.parametrize("seed", range(4))
def test_rebuild_when_no_checkpoint_is_of_this_version_then_files_are_derived_one_after_the_other(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(seed, 400, step_ns=60 * 10**9)
    recording = TableRecording(tmp_path, log)
    recording.take(len(log.lines))
    recording.seal()
    recording.writer.close()
    monkeypatch.setattr(exchanges.get("binance"), "VERSION", 7)
    known, outcomes = rebuild(tmp_path / "binance", 1)
    assert (len(outcomes), {outcome.error for outcome in outcomes}) == (known, {None})
    messages = [(record.seq, found) for record, found in zip(log.records, log.messages, strict=True)]
    assert_tables(tmp_path / "binance", messages)


DAMAGES = ["bit", "cut", "gone"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_when_a_table_file_is_damaged_then_names_it_and_rebuild_mends_it(archive: Archive, damage: str) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    count = len(tables_of(archive.directory))
    path = rng.choice(parquet_files(archive.directory))
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data if damage == "bit" else data[:-1])
    (finding,) = verify(archive.directory, jobs=2).findings
    assert finding.file == str(path)
    assert "trade-archivist rebuild" in finding.mend
    _, outcomes = rebuild(archive.directory, 1)
    assert [(outcome.made, outcome.path.stem) for outcome in outcomes] == [(True, path.name.partition(".")[0])]
    assert_whole(archive.directory, count)


def test_verify_when_a_table_holds_other_rows_then_names_it_and_force_mends_it(archive: Archive) -> None:
    """Its checksum is that of the manifest: only the records tell."""
    (line, _), *_ = tables_of(archive.directory)
    month = next(path.parent for path in parquet_files(archive.directory) if path.name.startswith(line["name"]))
    other = next(table for other, tables in tables_of(archive.directory)[1:] for table in tables.items())
    facts = line["tables"]["trade"]
    pq.write_table(other[1], month / facts["file"])
    data = (month / facts["file"]).read_bytes()
    lie = {**facts, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    append_manifest(Disk(), month, {**line, "tables": {**line["tables"], "trade": lie}})
    (finding,) = verify(archive.directory, jobs=1).findings
    assert finding.file == str(month / facts["file"])
    assert finding.mend.endswith("--force")
    assert rebuild(archive.directory, 1)[1] == []
    rebuild(archive.directory, 1, force=True)
    assert_whole(archive.directory, len(tables_of(archive.directory)))


def test_verify_when_a_manifest_tells_nonsense_of_tables_then_its_line_is_named(archive: Archive) -> None:
    nonsense: list[dict[str, Any]] = [
        {"tables": {"trade": {"file": "../x"}}}, {"tables": [1]}, {"gaps": None}, {"events": {}}
    ]  # fmt: skip
    for changes in nonsense:
        strip(archive.directory, **changes)
        assert any(MANIFEST in finding.file for finding in verify(archive.directory, jobs=1).findings)


def test_verify_when_table_files_are_left_over_then_it_is_a_note_and_rebuild_removes_them(archive: Archive) -> None:
    count, path = len(tables_of(archive.directory)), parquet_files(archive.directory)[0]
    orphan = path.with_name(path.name.replace(".parquet", ".7.parquet"))
    orphan.write_bytes(b"PAR1")
    report = verify(archive.directory, jobs=1)
    assert (report.findings, report.notes) == (
        [], [f"{orphan}: no line of the manifest names it: trade-archivist rebuild removes it"]
    )  # fmt: skip
    rebuild(archive.directory, 1)
    assert_whole(archive.directory, count)


def test_rebuild_when_one_files_records_are_damaged_then_the_others_are_made_and_it_is_told(
    archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    count = strip(archive.directory)
    path = max(archive.files(".bz2"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert cli.main(["rebuild", str(archive.storage)]) == 1
    out, error = capsys.readouterr()
    assert out == f"binance: {count - 1} files rebuilt, 1 failed, 0 were in order\n"
    assert f"{path}: no tables: " in error
    assert "wrong checksum" in error


def test_rebuild_when_it_cannot_run_then_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path)
    assert cli.main(["rebuild", str(tmp_path / "nowhere")]) == 2
    assert cli.main(["rebuild", str(tmp_path), "--exchange", "okx"]) == 2
    (tmp_path / "binance").rename(tmp_path / "elsewhere")
    assert cli.main(["rebuild", str(tmp_path)]) == 2
    assert "knows no exchange 'elsewhere'" in capsys.readouterr().err
    assert "not proved" in verify(tmp_path / "elsewhere", jobs=1).notes[0]


# -- tables never cost records -------------------------------------------------------------------------------------


def test_sealing_when_the_adapter_is_wrong_then_the_records_are_sealed_and_it_is_told_and_mended_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def parse(message: Any) -> Update | None:
        update = binance.parse(message)
        return update and update._replace(fields={**update.fields, "colour": "red"})

    wrong = types.SimpleNamespace(**{**vars(exchanges.get("binance")), "parse": parse})
    archive = Archive(tmp_path)
    archive.begin()
    archive.take(hours(FIRST + 1, 600))
    archive.writer.sync(lambda: None)
    with caplog.at_level(logging.ERROR):
        for path in archive.writer.sealable():
            line = seal(Disk(), path, "bz2", 3, 4096, NORMALISER, partial(tables_or_none, adapter=cast(Adapter, wrong)))
            assert line is not None
            assert "tables" not in line
    archive.writer.close()
    assert len(caplog.records) == 4
    assert "sealed without tables" in caplog.text
    assert "carry colour: there is no column for it" in caplog.text
    assert parquet_files(archive.directory) == []
    assert verify(archive.directory, jobs=1).is_whole
    rebuild(archive.directory, 1)
    assert_whole(archive.directory, 4)


def test_sealing_and_rebuild_and_verify_when_pyarrow_is_missing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert tables_or_none(archive.files(".open")[0], ADAPTER) is None
    assert cli.main(["rebuild", str(archive.storage)]) == 2
    assert "install trade-archivist[frames]" in capsys.readouterr().err
    report = verify(archive.directory, jobs=1)
    assert report.is_whole
    assert "not compared with the records" in report.notes[0]
    assert "install trade-archivist[frames]" in report.notes[0]
