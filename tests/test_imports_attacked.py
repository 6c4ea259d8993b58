"""What is given to an import and is no recording, or none as recorders write them: told with its place, left out."""

import bz2
import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from common.cli import main
from common.errors import DamagedError
from common.foreign_file import ForeignFileError, numbered_lines
from common.imports import Order, run
from common.process import ConfigError
from tests.foreign import DAY, HOUR_NS, hftbacktest, market, zipped

BAD: dict[str, tuple[str, bytes, str]] = {
    "no json": ("hftbacktest", b"1723161254036059768 {abc}", "no whole JSON"),
    "after 2262": ("hftbacktest", b'9999999999999999999 {"stream":"btcusdt@trade","data":{}}', "between 1970 and 2116"),
    "no address": ("cryptofeed", b"wss://[x <-> 1617235200.1", "neither a frame nor an answer"),
    "an endless time": ("cryptofeed", b'{"t":"recv","ts":"inf","data":"{}"}', "neither a frame nor an answer"),
    "no name": ("cryptofeed", b'{"t":"recv","ts":1617235200,"conn":{},"data":"{}"}', "neither a frame nor an answer"),
}


@pytest.mark.parametrize(("format_name", "line", "why"), BAD.values(), ids=BAD)
def test_a_first_line_that_is_none_when_imported_then_it_is_named(
    tmp_path: Path, format_name: str, line: bytes, why: str
) -> None:
    path = zipped(tmp_path / "a.gz", [line, *(b"%d %b" % message for message in market(DAY, 20, HOUR_NS))])
    with pytest.raises(DamagedError, match=rf"{path} line 1: .*{why}.*; nothing was imported"):
        run(Order(format_name, [path], tmp_path / "storage", "binance"))
    assert not (tmp_path / "storage").exists()


TIMES = ["1723161255207000,9999999999999999", "9999999999999999,1723161255207000"]


@pytest.mark.parametrize("times", TIMES)
def test_a_time_after_2262_when_a_csv_tells_it_then_it_is_refused(tmp_path: Path, times: str) -> None:
    path = tmp_path / "trades.csv"
    path.write_text(
        f"exchange,symbol,timestamp,local_timestamp,id,side,price,amount\nbinance,BTCUSDT,{times},1,buy,1.0,2.0\n"
    )
    with pytest.raises(DamagedError, match=r"line 2: .* is '9{16}', not a time in µs"):
        run(Order("tardis", [path], tmp_path / "storage"))


COMPRESS: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, zstandard.compress]


@pytest.mark.parametrize("compress", COMPRESS, ids=["gz", "bz2", "zst"])
def test_what_follows_a_compressed_stream_when_it_is_damaged_then_it_is_not_taken_for_the_end(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    path, one = tmp_path / "file", compress(b"a line\n" * 100)
    path.write_bytes(one * 3)
    assert [line for _, line in numbered_lines(path)] == [b"a line"] * 300
    damaged = [one + b"XX" + one[2:], one + one[:-1], one + one[: len(one) // 2], one[:-1]]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(ForeignFileError, match=r"file offset \d+, after line \d+: torn or damaged"):
            list(numbered_lines(path))


def test_a_pipe_when_given_as_a_file_then_it_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigError, match=f"{path} is no file that can be read again"):
            run(Order("hftbacktest", [path], tmp_path / "storage"))


def test_a_recording_when_given_twice_in_two_compressions_then_it_is_refused(tmp_path: Path) -> None:
    path, plain = hftbacktest(tmp_path / "a.gz", market(DAY, 20, HOUR_NS)), tmp_path / "plain"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    with pytest.raises(DamagedError, match=f"{path} and {plain} are one recording"):
        run(Order("hftbacktest", [path, plain], tmp_path / "storage"))


def test_a_symbol_when_the_exchange_spells_it_otherwise_then_it_is_refused(tmp_path: Path) -> None:
    path = hftbacktest(tmp_path / "a.gz", market(DAY, 20, HOUR_NS))
    with pytest.raises(DamagedError, match="'btcusdt' is not a symbol of Binance: did you mean BTCUSDT"):
        run(Order("hftbacktest", [path], tmp_path / "storage", symbol="btcusdt"))


def test_events_when_imported_by_the_command_then_no_frames_are_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trades.csv"
    row = "binance,BTCUSDT,1723161255207000,1723161255207000,1,buy,1.0,2.0"
    path.write_text(f"exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n{row}\n")
    assert main(["import", "tardis", "--storage", str(tmp_path / "storage"), str(path)]) == 0
    assert f"{path}: 1 items, 0 frames not understood" in capfd.readouterr().out
