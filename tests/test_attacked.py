"""What was found by attacking the past's way to research: each was wrong once."""

from pathlib import Path

from common.client import Client


def test_a_symbol_of_which_no_file_stands_yet_has_no_gaps_and_nothing_whole(tmp_path: Path) -> None:
    """The archiver makes the directory first."""
    (tmp_path / "binance" / "BTCUSDT").mkdir(parents=True)
    client = Client(storage=tmp_path)
    assert client.coverage("binance") == client.gaps("binance") == []
    assert list(client.slice("binance", "BTCUSDT", "trade", start="-1h", end="now", by="ts_event")) == []
