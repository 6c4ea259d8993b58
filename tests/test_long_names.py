"""Symbols that no file can be named by: a comma is missing, or the exchange lists such a name."""

from pathlib import Path

import orjson
import pytest

from common import exchanges
from common.process import ConfigError
from common.reader import Reader
from common.record import encode
from common.settings import load
from common.storage import NAME_BYTES_MAX, encode_symbol, has_place
from tests.archives import FIRST, FIRST_TS, Archive, trade

LONG = "币" * 90


def test_what_has_place() -> None:
    assert has_place("A" * NAME_BYTES_MAX) and not has_place("A" * (NAME_BYTES_MAX + 1))
    assert not has_place(LONG) and has_place("币" * (NAME_BYTES_MAX // 9))


def test_records_of_a_symbol_without_place_lie_with_those_of_none_and_the_archive_goes_on(tmp_path: Path) -> None:
    """The archiver crashed at the first of them, also after the configuration was corrected: the journal has it."""
    archive = Archive(tmp_path)
    archive.begin()
    about = orjson.dumps({"normaliser": "x", "run": FIRST, "symbols": ["BTCUSDT"]})
    whole = encode(FIRST + 1, FIRST_TS, "checkpoint", payload=about)
    of_long = encode(FIRST + 3, FIRST_TS, "checkpoint", symbol=LONG, payload=b'{"state":{}}')
    odd = [trade(FIRST + 2, FIRST_TS, LONG), of_long]
    archive.take([whole, *odd, trade(FIRST + 4, FIRST_TS)])
    archive.close()
    assert sorted(path.name for path in archive.directory.iterdir() if path.is_dir()) == ["BTCUSDT", "_"]
    assert len(encode_symbol(LONG)) > 255
    reader = Reader(tmp_path, exchanges.get("binance"))
    assert [line + b"\n" for line in reader.lines(None, FIRST + 1, FIRST + 4)] == odd
    assert reader.subscribed(FIRST + 4).symbols == ["BTCUSDT"]


def test_the_configuration_names_a_symbol_that_is_too_long(tmp_path: Path) -> None:
    (conf := tmp_path / "my.toml").write_text('[feed.binance]\nsymbols = ["' + "BTC-USDT" * 30 + '"]\n')
    with pytest.raises(ConfigError, match=r"my.toml: feed.binance.symbols: .BTC-USDT.* is a comma missing\?"):
        load(conf, ["binance"], {}, {})
