"""What others recorded, imported: exact, once, and all of it or nothing."""

import bz2
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import chains, exchanges, import_hftbacktest
from common.adapter import Adapter
from common.cli import main
from common.client import Client
from common.errors import DamagedError
from common.foreign_file import ForeignFileError, numbered_lines
from common.import_format import Item
from common.import_look import hashed, merged
from common.imports import Imported, Order, run
from common.process import ConfigError, lock
from common.verify import verify
from tests.archives import Archive, trade, written
from tests.foreign import DAY, HOUR_NS, hftbacktest, market, records, tree, zipped
from tests.foreign import trade as message

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
    with pytest.raises(DamagedError, match=f"{path} line 1: written as hftbacktest does"):
        imported(tmp_path / "storage", path, exchange="binance", format="cryptofeed")
    with pytest.raises(ConfigError, match="unknown format 'hft'"):
        imported(tmp_path / "storage", path, format="hft")


def test_files_of_one_command_when_they_overlap_then_they_are_merged_by_time(tmp_path: Path) -> None:
    one, other = market(BEGIN, 300, HOUR_NS), market(BEGIN + 7, 200, HOUR_NS, "ETHUSDT")
    files = [hftbacktest(tmp_path / f"{name}.gz", each) for name, each in (("btc", one), ("eth", other))]
    storage = tmp_path / "storage"
    imported(storage, *reversed(files))
    assert payloads(storage) == sorted(one + other, key=lambda message: message[0])
    with Client(storage=storage) as client:
        assert {row["symbol"] for row in client.coverage("binance")} == {"BTCUSDT", "ETHUSDT"}
        assert client.gaps("binance") == []


def test_files_that_follow_one_another_when_merged_then_few_are_open_at_a_time(tmp_path: Path) -> None:
    days = [market(BEGIN + day * HOUR_NS, 20, HOUR_NS // 2, first=1 + day * 20) for day in range(6)]
    files = [hashed(hftbacktest(tmp_path / f"{index}.gz", day)) for index, day in enumerate(days)]
    opened: set[Path] = set()
    most = 0

    def read(path: Path) -> Iterator[Item]:
        nonlocal most
        opened.add(path)
        most = max(most, len(opened))
        yield from import_hftbacktest.read(path, cast(Adapter, exchanges.get("binance")), None)
        opened.discard(path)

    for looked, day in zip(files, days, strict=True):
        looked.first = day[0][0]
    found = [item.ts for _, item in merged(list(reversed(files)), read) if item is not None]
    assert found == [ts for day in days for ts, _ in day]
    assert most == 1


def test_a_file_that_lies_before_what_is_archived_when_imported_then_it_is_refused_with_the_mend(
    tmp_path: Path,
) -> None:
    storage = tmp_path / "storage"
    early, late = (hftbacktest(tmp_path / f"{at}.gz", market(BEGIN + at, 20, HOUR_NS)) for at in (0, 2 * HOUR_NS))
    imported(storage, late)
    before = tree(storage)
    with pytest.raises(ConfigError, match="give all files of that time in one command, or import into another"):
        imported(storage, early)
    assert tree(storage) == before


def test_a_file_that_goes_on_when_imported_then_its_numbers_do_and_what_lies_between_is_a_gap(tmp_path: Path) -> None:
    storage, messages = tmp_path / "storage", market(BEGIN, 200, HOUR_NS)
    parts = [hftbacktest(tmp_path / f"{name}.gz", each) for name, each in (("a", messages[:99]), ("b", messages[99:]))]
    first, second = imported(storage, parts[0]), imported(storage, parts[1], codec="zstd")
    assert first.seq is not None
    assert second.seq is not None
    assert second.seq[0] > first.seq[1]
    assert payloads(storage) == messages
    report = verify(storage / "binance", 1)
    assert (report.findings, report.stale, report.without_tables) == ([], 0, 0)
    with Client(storage=storage) as client:
        gaps = client.gaps("binance", ["BTCUSDT"], ["trade"])
    assert [(gap["state"], gap["reason"]) for gap in gaps] == [("open", "restart"), ("closed", "restart")]


def test_parts_that_meet_in_one_millisecond_when_imported_one_by_one_then_no_file_is_overwritten(
    tmp_path: Path,
) -> None:
    storage, messages = tmp_path / "storage", market(BEGIN, 40, 1000)
    for index in range(4):
        imported(storage, hftbacktest(tmp_path / f"{index}.gz", messages[index * 10 : index * 10 + 10]))
    assert payloads(storage) == messages[:40]
    assert verify(storage / "binance", 1).findings == []


def test_a_directory_that_a_feed_has_recorded_into_when_imported_into_then_it_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "storage")
    before = tree(tmp_path / "storage" / "binance")
    path = hftbacktest(tmp_path / "a.gz", market(BEGIN + 100 * HOUR_NS, 20, HOUR_NS))
    with pytest.raises(ConfigError, match=r"holds records of a feed: .* name a directory of its own with --storage"):
        imported(tmp_path / "storage", path)
    assert {name: data for name, data in tree(tmp_path / "storage" / "binance").items() if "lock" not in name} == before


def test_a_directory_that_an_archiver_holds_when_imported_into_then_it_is_told_who_does(tmp_path: Path) -> None:
    storage, path = tmp_path / "storage", hftbacktest(tmp_path / "a.gz", market(BEGIN, 20, HOUR_NS))
    imported(storage, path)
    with (
        lock(storage / "binance" / ".archiver.lock", "an archiver"),
        pytest.raises(ConfigError, match=r"already runs .* stop it first; or import into a directory of its own"),
    ):
        imported(storage, path)


def test_a_feeds_run_after_an_import_when_archived_then_both_stand_side_by_side(tmp_path: Path) -> None:
    """The feed's numbers jump, its `start` names the import's last one; from then on nothing more is imported."""
    storage, path = tmp_path / "storage", hftbacktest(tmp_path / "a.gz", market(BEGIN, 20, HOUR_NS))
    done = imported(storage, path)
    assert done.seq is not None
    archive = Archive(storage)
    first = done.seq[1] + 1000
    archive.begin(done.seq[1], first)
    archive.take([trade(first + 1, BEGIN + 2 * HOUR_NS)])
    archive.close()
    assert verify(storage / "binance", 1).findings == []
    later = hftbacktest(tmp_path / "b.gz", market(BEGIN + 9 * HOUR_NS, 20, HOUR_NS))
    with pytest.raises(ConfigError, match="holds records of a feed"):
        imported(storage, later)


BAD = {
    "no time": (b'{"stream":"btcusdt@trade","data":{}}', "not a time of 19 digits"),
    "a short time": (b'1723161255088 {"stream":"btcusdt@trade","data":{}}', "not a time of 19 digits"),
    "no payload": (b"1723161255088176367 ", "not a time of 19 digits"),
    "a torn payload": (b'1723161255088176367 {"stream":"btcusdt@trade","data":{"e":"tr}', "no whole JSON"),
    "another symbol": (b'1723161255088176367 {"stream":"ethusdt@trade","data":{}}', "of ETHUSDT in a file of BTCUSDT"),
}


@pytest.mark.parametrize(("line", "why"), BAD.values(), ids=BAD)
def test_a_line_that_is_none_when_imported_then_it_is_named_and_nothing_is_imported(
    tmp_path: Path, line: bytes, why: str
) -> None:
    lines = [b"%d %b" % message for message in market(BEGIN, 20, HOUR_NS)]
    path = zipped(tmp_path / "a.gz", [*lines[:12], line, *lines[12:]])
    with pytest.raises(DamagedError, match=rf"{path} line 13: .*{why}.*; nothing was imported"):
        imported(tmp_path / "storage", path)
    assert not (tmp_path / "storage").exists()


def test_a_recording_when_it_is_plain_or_compressed_otherwise_then_it_is_read_alike(tmp_path: Path) -> None:
    messages = market(BEGIN, 30, HOUR_NS)
    data = b"".join(b"%d %b\n" % message for message in messages)[:-1]  # the last line may lack its end
    ways = {"txt": bytes, "bz2": bz2.compress, "zst": zstandard.compress, "gz": gzip.compress}
    for name, compress in ways.items():
        (tmp_path / name).write_bytes(compress(data))
        imported(tmp_path / f"from-{name}", tmp_path / name)
        assert payloads(tmp_path / f"from-{name}") == messages


@given(cut=st.integers(0, 2000), flip=st.integers(0, 255))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_compressed_file_when_cut_or_changed_anywhere_then_it_is_refused_or_read_as_it_was(
    tmp_path: Path, cut: int, flip: int
) -> None:
    """gzip's checksum tells: nothing that was not recorded ever comes out as a whole file."""
    lines = [b"%d %b" % message for message in market(BEGIN, 40, HOUR_NS)]
    data = bytearray(gzip.compress(b"".join(line + b"\n" for line in lines), 1))
    place = cut % len(data)
    if flip:
        data[place] ^= flip
    else:
        del data[place:]
    path = tmp_path / "a.gz"
    path.write_bytes(data)
    try:
        found = [line for _, line in numbered_lines(path)]
    except ForeignFileError as error:
        assert str(path) in str(error)
    else:
        is_plain = not data.startswith(b"\x1f\x8b")
        assert is_plain or found == lines or not data


def test_recordings_of_exchanges_without_an_adapter_when_imported_then_who_they_are_is_said(tmp_path: Path) -> None:
    path = zipped(tmp_path / "ws.gz", [b"wss://www.deribit.com/ws/api/v2 <-> 1626993723.4", b'1626993723.8: {"id":0}'])
    with pytest.raises(DamagedError, match=r"is of www.deribit.com, which no exchange of this version is"):
        imported(tmp_path / "storage", path, format="cryptofeed")


def test_a_connection_when_its_recording_opens_it_anew_then_the_one_before_was_lost(tmp_path: Path) -> None:
    """Both are told as a feed would have: the gap is closed by the next trade, whose id proves that none is missing."""
    url, seconds = b"wss://stream.binance.com:9443/stream", BEGIN // 10**9
    lines = [url + b" <-> %d.0" % seconds]
    for index in range(1, 4):
        lines.append(b"%d.%d: %b" % (seconds, index, message(BEGIN, index)[1]))
    lines.append(url + b" <-> %d.0" % (seconds + 1))
    lines.append(b"%d.5: %b" % (seconds + 1, message(BEGIN, 4)[1]))
    storage = tmp_path / "storage"
    imported(storage, zipped(tmp_path / "ws.gz", lines), format="cryptofeed")
    found = [(each.kind, each.conn) for each in records(storage / "binance") if each.kind in ("open", "close", "in")]
    assert found == [("open", 1), *[("in", 1)] * 3, ("close", 1), ("open", 2), ("in", 2), ("close", 2)]
    with Client(storage=storage) as client:
        events = client.slice("binance", "BTCUSDT", "trade").events()
        assert [each["id"] for each in events if each["channel"] == "trade"] == ["1", "2", "3", "4"]
        states = [(gap["state"], gap["reason"]) for gap in client.gaps("binance", ["BTCUSDT"], ["trade"])]
    assert states == [("open", "disconnected"), ("closed", "disconnected"), ("open", "disconnected")]


@pytest.mark.parametrize("lost", [(), (1,)], ids=["all", "without the second"])
def test_a_connection_when_its_recording_was_cut_into_files_then_it_goes_on_unless_one_is_missing(
    tmp_path: Path, lost: tuple[int, ...]
) -> None:
    url, seconds = b"wss://stream.binance.com:9443/stream", BEGIN // 10**9
    for part in range(3):
        lines = [b"%d.%d: %b" % (seconds + part, index, message(BEGIN, 3 * part + index)[1]) for index in range(1, 4)]
        (tmp_path / f"BINANCE.ws.1.{part}").write_bytes(b"\n".join([url + b" <-> %d.0" % seconds, *lines][part > 0 :]))
    for part in lost:
        (tmp_path / f"BINANCE.ws.1.{part}").unlink()
    storage = tmp_path / "storage"
    imported(storage, *tmp_path.glob("BINANCE.*"), format="cryptofeed", exchange="binance")
    kinds = [(each.kind, each.conn) for each in records(storage / "binance") if each.kind in ("open", "close", "in")]
    if lost:
        assert kinds == [("open", 1), *[("in", 1)] * 3, ("close", 1), *[("in", 2)] * 3, ("close", 2)]
    else:
        assert kinds == [("open", 1), *[("in", 1)] * 9, ("close", 1)]


def test_files_when_they_are_sealed_in_processes_then_they_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [hftbacktest(tmp_path / f"{name}.gz", market(BEGIN, 60, HOUR_NS, name)) for name in ("BTCUSDT", "ETHUSDT")]
    imported(tmp_path / "inline", *files)
    monkeypatch.setattr(chains, "INLINE_BYTES", 0)
    imported(tmp_path / "processes", *files)
    same, other = (tree(tmp_path / name / "binance") for name in ("inline", "processes"))
    lines = [{name: sorted(data.splitlines()) for name, data in each.items()} for each in (same, other)]
    of_directory = (".archiver.lock", "archived.json")  # the latter names the directory itself
    contents = [{name: data for name, data in each.items() if name not in of_directory} for each in lines]
    assert contents[0] == contents[1]
    assert len(lines[0]) > 12


def test_the_command_when_run_then_its_exit_code_says_how_it_went(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, storage = hftbacktest(tmp_path / "a.gz", market(BEGIN, 20, HOUR_NS)), tmp_path / "storage"
    words = ["import", "hftbacktest", "--storage", str(storage)]
    (tmp_path / "bad").write_bytes(b"nonsense\n")
    for file, code in ((path, 0), (path, 0), (tmp_path / "bad", 1), (tmp_path / "none", 2)):
        assert main([*words, str(file)]) == code
    out, error = capfd.readouterr()
    assert f"{path}: was imported before, passed over" in out
    assert error.count("\n") == 2
    assert f"{tmp_path / 'bad'} line 1: " in error
    assert f"{tmp_path / 'none'}: No such file" in error
