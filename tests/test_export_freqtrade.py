"""Exports as the files of freqtrade: named for its pairs, read as its data handlers read them, equal to `bars`."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pandas
import pyarrow as pa
import pytest

from common import export_freqtrade
from common.client import Client
from common.errors import BadRequestError
from common.export_formats import FORMATS
from common.exports import Done, export, planned
from tests.test_export_tardis import DAY, S, Told, archived

ENTRY = {
    "symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT", "marginAsset": "USDT",
    "contractType": "PERPETUAL", "deliveryDate": 4133404800000,
    "filters": [{"filterType": "LOT_SIZE", "stepSize": "0.1"}, {"filterType": "PRICE_FILTER", "tickSize": "0.01"}],
}  # fmt: skip
SPOT = ("/api/v3/exchangeInfo", orjson.dumps({"symbols": [ENTRY]}))
PERPETUAL = ("/fapi/v1/exchangeInfo", SPOT[1])
FUTURE = ("/fapi/v1/exchangeInfo", orjson.dumps({"symbols": [{**ENTRY, "contractType": "CURRENT_QUARTER"}]}))
COLUMNS = ["timestamp", "id", "type", "side", "price", "amount", "cost"]
CANDLE = ["date", "open", "high", "low", "close", "volume"]


def trade(ts: int, number: int, price: str = "0.1", amount: str = "3", **more: Any) -> Told:
    """A trade that was received a second after it happened."""
    return ts + S, "trade", {"ts_event": ts, "id": str(number), "price": price, "amount": amount, "side": "buy", **more}


def market(random: Random, count: int) -> list[Told]:
    """Trades over some hours, some of them late, some off the book; minutes without any."""
    found, ts = [], DAY + 5 * 60 * S
    for number in range(count):
        ts += random.choice((0, S // 7, S, 40 * S, 200 * S))
        late = random.choice((0, 0, 0, 70 * S))
        _, channel, fields = trade(ts - late, number, f"{random.randrange(1, 10**6)}.{random.randrange(100)}", "0.30")
        more = {"side": random.choice(("buy", "sell", "unknown")), "type": random.choice((None, None, None, "block"))}
        found.append((ts + S, channel, {**fields, **more}))
    return found


def made(client: Client, name: str, directory: Path, *kinds: str, exchange: str = "binance") -> list[Done]:
    jobs = planned(client, FORMATS[name], exchange, ["BTCUSDT"], kinds, None, None)
    return list(export(client, FORMATS[name], jobs, directory))


def listed(path: Path, columns: list[str]) -> pandas.DataFrame:
    data = path.read_bytes()
    found = pandas.DataFrame(json.loads(gzip.decompress(data) if path.suffix == ".gz" else data), columns=columns)
    if "date" in columns:
        found["date"] = pandas.to_datetime(found["date"], unit="ms", utc=True).dt.as_unit("ms")
    return found


READERS: dict[str, tuple[str, Callable[[Path, list[str]], pandas.DataFrame]]] = {
    "freqtrade": ("feather", lambda path, _: pandas.read_feather(path)),
    "freqtrade-parquet": ("parquet", lambda path, _: pandas.read_parquet(path)),
    "freqtrade-json": ("json", listed),
    "freqtrade-jsongz": ("json.gz", listed),
}


@pytest.mark.parametrize("name", READERS)
def test_candles_when_read_then_are_the_bars_of_the_slice_that_have_trades_and_are_over(
    name: str, tmp_path: Path
) -> None:
    suffix, read = READERS[name]
    with archived(tmp_path / "storage", market(Random(3), 400), "binance", instruments=SPOT) as client:
        for timeframe in ("1m", "1h"):
            (done,) = made(client, name, tmp_path / "out", timeframe)
            assert done.path == tmp_path / "out" / "binance" / f"BTC_USDT-{timeframe}.{suffix}"
            found = read(done.path, CANDLE)
            bars = client.slice("binance", "BTCUSDT", "trade", by="ts_event").bars(timeframe).rows()
            assert list(found.columns) == CANDLE
            assert str(found["date"].dtype) == "datetime64[ms, UTC]"
            rows = [(row[0].value, *row[1:]) for row in found.itertuples(index=False)]
            assert rows == [(bar.ts, *bar[3:8]) for bar in bars[:-1] if bar.count]
            assert 3 < done.rows == len(rows) < len(bars)


@pytest.mark.parametrize("name", READERS)
def test_trades_when_read_then_are_those_of_the_book_in_the_order_of_time(name: str, tmp_path: Path) -> None:
    suffix, read = READERS[name]
    with archived(tmp_path / "storage", market(Random(4), 300), "binance", instruments=SPOT) as client:
        (done,) = made(client, name, tmp_path / "out", "trades")
        events = [event for event in client.slice("binance", "BTCUSDT", "trade") if event["type"] is None]
    found = read(done.path, COLUMNS)
    assert done.path == tmp_path / "out" / "binance" / f"BTC_USDT-trades.{suffix}"
    assert list(found.columns) == COLUMNS and found["type"].isna().all()
    assert found["timestamp"].is_monotonic_increasing and str(found["timestamp"].dtype) == "int64"
    expected = sorted(events, key=lambda event: event["ts_event"] // 10**6)
    assert found["id"].tolist() == [event["id"] for event in expected]
    assert found["price"].tolist() == [float(event["price"]) for event in expected]
    sides = [None if event["side"] == "unknown" else event["side"] for event in expected]
    assert found["side"].astype(object).where(found["side"].notna(), None).tolist() == sides


def test_a_cost_when_written_then_is_the_float_nearest_to_the_exact_one(tmp_path: Path) -> None:
    with archived(tmp_path / "storage", [trade(DAY, 1, "0.1", "3")], "binance", instruments=SPOT) as client:
        (done,) = made(client, "freqtrade-json", tmp_path / "out", "trades")
    assert done.path.read_text() == '[[1723075200000,"1",null,"buy",0.1,3.0,0.3]]'  # 0.1 * 3.0 is 0.30000000000000004


def test_trades_when_more_than_are_held_then_are_all_there_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_freqtrade, "HELD", 50)
    monkeypatch.setattr(export_freqtrade, "_BATCH", 7)
    with archived(tmp_path / "storage", market(Random(5), 333), "binance", instruments=SPOT) as client:
        paths = [made(client, name, tmp_path / "out", "trades")[0].path for name in READERS]
        count = sum(event.get("type") is None for event in client.slice("binance", "BTCUSDT", "trade"))
    found = [read(path, COLUMNS)["id"].tolist() for path, (_, read) in zip(paths, READERS.values(), strict=True)]
    assert all(ids == found[0] for ids in found) and len(set(found[0])) == len(found[0]) == count
    assert pa.ipc.open_file(paths[0]).num_record_batches > 30


def test_a_perpetual_when_exported_then_its_files_are_those_of_futures(tmp_path: Path) -> None:
    found = [trade(DAY + number * 61 * S, number) for number in range(5)]
    with archived(tmp_path / "storage", found, instruments=PERPETUAL) as client:
        made(client, "freqtrade", tmp_path / "out", exchange="binance-usdm")
    names = {f"BTC_USDT_USDT-{kind}-futures.feather" for kind in ("1m", "5m", "1h", "1d")}
    found_names = {path.name for path in (tmp_path / "out" / "binance" / "futures").iterdir()}
    assert found_names == {*names, "BTC_USDT_USDT-trades.feather"}


def test_a_minute_when_the_end_that_was_asked_for_is_past_then_is_over(tmp_path: Path) -> None:
    found = [trade(DAY + second * S, second) for second in (1, 30, 61, 90, 3600)]
    with archived(tmp_path / "storage", found, "binance", instruments=SPOT) as client:
        jobs = planned(client, FORMATS["freqtrade-json"], "binance", ["BTCUSDT"], ["1m"], DAY, DAY + 120 * S)
        (done,) = export(client, FORMATS["freqtrade-json"], jobs, tmp_path / "out")
        assert [row[0] for row in json.loads(done.path.read_bytes())] == [DAY // 10**6, (DAY + 60 * S) // 10**6]
        jobs = planned(client, FORMATS["freqtrade-json"], "binance", ["BTCUSDT"], ["1m"], DAY - 60 * S, DAY)
        assert list(export(client, FORMATS["freqtrade-json"], jobs, tmp_path / "before")) == []


def test_files_when_made_twice_then_are_the_same_to_the_byte(tmp_path: Path) -> None:
    def files(directory: Path, client: Client) -> Iterable[bytes]:
        paths = [done.path for name in READERS for done in made(client, name, directory, "trades", "1m")]
        return [path.read_bytes() for path in paths]

    with archived(tmp_path / "storage", market(Random(6), 100), "binance", instruments=SPOT) as client:
        assert files(tmp_path / "one", client) == files(tmp_path / "other", client)


@pytest.mark.parametrize(
    ("instruments", "told"),
    [(None, "no instrument is archived that tells its pair"), (FUTURE, "is no pair of freqtrade")],
)
def test_a_symbol_that_is_no_pair_when_asked_for_then_that_is_said(
    instruments: tuple[str, bytes] | None, told: str, tmp_path: Path
) -> None:
    with (
        archived(tmp_path / "storage", [trade(DAY, 1)], instruments=instruments) as client,
        pytest.raises(BadRequestError, match=f"binance-usdm BTCUSDT.*{told}"),
    ):
        made(client, "freqtrade", tmp_path / "out", exchange="binance-usdm")
