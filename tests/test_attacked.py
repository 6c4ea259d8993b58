"""What was found by attacking the past's way to research: each was wrong once."""

from itertools import count
from pathlib import Path

import pytest

from common.client import Client
from tests.logged import Logged
from tests.pipeline import Served, seeded
from tests.record_logs import CHANNELS, Log


def test_a_symbol_of_which_no_file_stands_yet_has_no_gaps_and_nothing_whole(tmp_path: Path) -> None:
    """The archiver makes the directory first."""
    (tmp_path / "binance" / "BTCUSDT").mkdir(parents=True)
    client = Client(storage=tmp_path)
    assert client.coverage("binance") == client.gaps("binance") == []
    assert list(client.slice("binance", "BTCUSDT", "trade", start="-1h", end="now", by="ts_event")) == []


@pytest.mark.parametrize("channel", [*CHANNELS, "gap"])
def test_a_frame_of_symbols_in_any_order_has_the_order_of_the_events(tmp_path: Path, channel: str) -> None:
    """A record of no symbol, as a start, gives events of all of them."""
    random = seeded()
    logs = (Log(random.randrange(1_000_000), 400) for _ in count())
    log = next(log for log in logs if {"AAA", "BBB"} <= {record.symbol for record in log.records})
    archive = Logged(tmp_path, log, tables=1.0)
    archive.take()
    archive.seal()
    asked = Client(storage=tmp_path).slice("binance", ["BBB", "AAA"], channel)
    events = [(event["seq"], event["symbol"], event.get("part", 0)) for event in asked if event["channel"] == channel]
    for rows in (asked.to_arrow().to_pylist(), [row for table in asked.batches() for row in table.to_pylist()]):
        assert list(dict.fromkeys((row["seq"], row["symbol"], row["part"]) for row in rows)) == events
    archive.close()


def test_integers_are_exact_in_pandas_where_some_are_missing(served: Served) -> None:
    """The book before the first event has no `ts_event`: as floats, all others would be rounded."""
    asked = Client(storage=served.storage).slice("binance", "BTCUSDT", ["book", "trade"])
    for channel, table in asked.to_arrow().items():
        frame = asked.to_pandas()[channel]
        assert list(frame) == table.column_names
        for name in ("seq", "ts_event", "ts_recv", "gap"):
            found = [None if is_null else value for value, is_null in zip(frame[name], frame[name].isna(), strict=True)]
            assert found == table[name].to_pylist(), (channel, name)
        assert frame["ts_recv"].dtype == "int64"
