"""`verify --deep`: what coverage, gaps and bars claim of an archive is walked through event by event."""

import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from common import deep, exchanges
from common.adapter import Adapter
from common.coverage import Coverage
from common.record import decode
from tests.archives import Archive, trade
from tests.conftest import Served
from tests.standin_client import ROOT

BINANCE = cast(Adapter, exchanges.get("binance"))
BITSTAMP = cast(Adapter, exchanges.get("bitstamp"))
CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
T0 = 1_723_161_600_000_000_000


def findings(archive: Archive, adapter: Adapter = BINANCE) -> list[str]:
    return [finding.what for finding in deep.prove(archive.directory, adapter)]


def test_an_archive_of_a_real_pipeline_holds_what_it_claims(served: Served) -> None:
    assert list(deep.prove(served.storage / "binance", BINANCE)) == []
    command = [sys.executable, "-m", "common.cli", "verify", str(served.storage), "--deep"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def trades(tmp_path: Path, ids: list[int]) -> Archive:
    archive = Archive(tmp_path)
    archive.begin()
    first = archive.writer.position + 1
    archive.take([trade(first + place, T0 + place, "BTCUSDT", number) for place, number in enumerate(ids)])
    archive.close()
    return archive


def test_ids_that_are_missing_in_a_gap_are_no_finding(tmp_path: Path) -> None:
    assert findings(trades(tmp_path, [1, 2, 5, 6])) == []


def test_ids_that_are_missing_in_an_interval_of_coverage_are_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = trades(tmp_path, [1, 2, 5, 6])

    def one(self: Coverage, symbols: Any, channels: Any, times: Any, complete: int) -> list[dict[str, Any]]:
        return [{"channel": channel, "first_seq": 0, "last_seq": complete} for channel in channels]

    monkeypatch.setattr(Coverage, "intervals", one)
    (found,) = findings(archive)
    assert "ids 3 to 4 are missing" in found and "coverage has it in one interval" in found


@pytest.mark.skipif(not CASES.exists(), reason=f"no cases at {CASES}")
def test_a_book_that_stays_crossed_without_a_gap_is_a_finding(tmp_path: Path) -> None:
    archive = Archive(tmp_path, exchange="bitstamp")
    lines = (CASES / "crossed-book-bitstamp.jsonl").read_bytes().splitlines(keepends=True)
    archive.writer.hole(decode(lines[0]).seq, 0)
    archive.take(lines)
    archive.close()
    found = findings(archive, BITSTAMP)
    assert any("crossed" in each for each in found), found
