"""What others recorded, imported: exact, once, and all of it or nothing."""

from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from common.client import Client
from common.errors import DamagedError
from common.imports import Imported, Order, run
from common.process import ConfigError
from common.verify import verify
from tests.foreign import DAY, HOUR_NS, hftbacktest, market, records, tree

BEGIN = DAY - HOUR_NS // 2


def imported(storage: Path, *files: Path, **more: str) -> Imported:
    return run(Order(more.pop("format", "hftbacktest"), files, storage, **more))


def payloads(storage: Path, kinds: Sequence[str] = ("in", "rest")) -> list[tuple[int, bytes | None]]:
    return [(each.ts_recv, each.payload) for each in records(storage / "binance") if each.kind in kinds]


def test_a_recording_when_imported_then_every_payload_stands_in_the_log_and_its_events_in_slices(
    tmp_path: Path,
) -> None:
    messages = market(BEGIN, 400, 2 * HOUR_NS)
    storage = tmp_path / "storage"
    done = imported(storage, hftbacktest(tmp_path / "btcusdt.gz", messages))
    assert payloads(storage) == messages
    report = verify(storage / "binance", 1)
    assert (report.findings, report.stale, report.without_tables) == ([], 0, 0)
    assert done.seq == report.seq == (BEGIN // 1000, report.complete)
    with Client(storage=storage) as client:
        trades = list(client.slice("binance", "BTCUSDT", "trade").events())
    assert [trade["id"] for trade in trades] == [str(number) for number in range(2, 202)]


def test_a_file_when_imported_twice_then_nothing_is_added(tmp_path: Path) -> None:
    storage, path = tmp_path / "storage", hftbacktest(tmp_path / "a.gz", market(BEGIN, 50, HOUR_NS))
    imported(storage, path)
    before = tree(storage)
    done = imported(storage, path, path)
    assert (done.seq, done.passed_over) == (None, [path, path])
    assert {name: data for name, data in tree(storage).items() if not name.endswith("lock")} == {
        name: data for name, data in before.items() if not name.endswith("lock")
    }


def test_a_run_when_imported_then_its_start_says_where_it_is_from(tmp_path: Path) -> None:
    storage, path = tmp_path / "storage", hftbacktest(tmp_path / "a.gz", market(BEGIN, 50, HOUR_NS))
    done = imported(storage, path)
    first = records(storage / "binance")[0]
    about = orjson.loads(first.payload or b"")
    assert first.kind == "start"
    assert about["subscriptions"] == {"symbols": ["BTCUSDT"], "channels": ["trade", "book"]}
    size, sha256 = path.stat().st_size, done.files[0].sha256
    assert about["source"] == [{"format": "hftbacktest", "file": "a.gz", "bytes": size, "sha256": sha256}]


def test_a_file_that_is_torn_when_imported_then_the_storage_directory_is_as_it_was(tmp_path: Path) -> None:
    storage, good = tmp_path / "storage", hftbacktest(tmp_path / "good.gz", market(BEGIN, 50, HOUR_NS))
    torn = hftbacktest(tmp_path / "torn.gz", market(BEGIN, 5000, HOUR_NS))
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(DamagedError, match=rf"{torn} offset \d+, after line \d+: torn"):
        imported(storage, good, torn)
    assert not storage.exists()


def test_a_recording_of_another_exchange_when_named_wrong_then_it_is_refused(tmp_path: Path) -> None:
    path = hftbacktest(tmp_path / "a.gz", market(BEGIN, 10, HOUR_NS))
    with pytest.raises(DamagedError, match=f"{path} is of binance, not of binance-usdm"):
        imported(tmp_path / "storage", path, exchange="binance-usdm")
    with pytest.raises(ConfigError, match="unknown format 'hft'"):
        imported(tmp_path / "storage", path, format="hft")
