"""Exports as NautilusTrader's catalogue: numbers to the digit, rows as its own writer has them.

NautilusTrader itself loads and replays one where the package is: CI gives NAUTILUS_PYTHON, the Python of an environment
that has it.
"""

import gzip
import json
import os
import subprocess
import sys
from decimal import Decimal
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.normalise import RECORDING
from common import exchanges
from common.client import Client
from common.errors import BadRequestError
from common.events import Action, Event
from common.export_formats import FORMATS
from common.export_nautilus import ADD, CLEAR, DELETE, F_LAST, F_SNAPSHOT, SCALE, UPDATE, _Numbers
from common.exports import export, planned
from common.nautilus_instruments import identifier
from common.record import encode
from tests.archives import Archive
from tests.test_export_freqtrade import FUTURE, SPOT
from tests.test_export_tardis import DAY, S, archived

PYTHON = os.environ.get("NAUTILUS_PYTHON", sys.executable)
RECORDED = 3000  # lines
KINDS = ("trade_tick", "quote_tick", "order_book_delta", "instrument")

recorded = pytest.mark.skipif(not RECORDING.exists(), reason="../shared/recordings is not here")
installed = pytest.mark.skipif(
    sys.executable == PYTHON and find_spec("nautilus_trader") is None,
    reason="nautilus_trader is not here: give NAUTILUS_PYTHON, a Python that has it",
)


def entry(tick: str, lot: str) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT", "marginAsset": "USDT",
        "contractType": "PERPETUAL",
        "filters": [{"filterType": "LOT_SIZE", "stepSize": lot}, {"filterType": "PRICE_FILTER", "tickSize": tick}],
    }  # fmt: skip


def taken(storage: Path, exchange: str, recording: Path, instrument: dict[str, Any]) -> Client:
    """An archive of the first lines of a recording, as a feed would have taken them; it knows the instrument."""
    adapter = exchanges.get(exchange)
    with gzip.open(recording) as file:
        found = [(int(line[:19]), line[20:].rstrip(b"\n")) for line in islice(file, RECORDED)]
    channels = ["trade", "book", "quote", "instrument"]
    about = orjson.dumps({"exchange": exchange, "subscriptions": {"symbols": ["BTCUSDT"], "channels": channels}})
    listed = {"url": adapter.instruments_request(["BTCUSDT"]).path, "status": 200}
    depth = {"url": adapter.request(Action("snapshot", "book", "BTCUSDT"), 1000).path, "status": 200}
    answer = orjson.dumps({"symbols": [instrument]})
    lines = [
        encode(1000, found[0][0], "start", head={"last": 0}, payload=about),
        encode(1001, found[0][0], "rest", channel="instrument", head=listed, payload=answer),
    ]
    for seq, (ts, payload) in enumerate(found, 1002):
        if (update := adapter.parse(orjson.loads(payload))) is None:
            lines.append(encode(seq, ts, "rest", channel="book", symbol="BTCUSDT", head=depth, payload=payload))
        else:
            lines.append(encode(seq, ts, "in", conn=1, channel=update.channel, symbol="BTCUSDT", payload=payload))
    archive = Archive(storage, exchange=exchange)
    archive.writer.hole(1000, 0)
    archive.take(lines)
    archive.close()
    return Client(storage=storage)


def exported(client: Client, directory: Path, exchange: str, *kinds: str) -> list[Path]:
    jobs = planned(client, FORMATS["nautilus"], exchange, ["BTCUSDT"], kinds, None, None)
    return [done.path for done in export(client, FORMATS["nautilus"], jobs, directory)]


def number(data: bytes) -> Decimal:
    return Decimal(int.from_bytes(data, "little", signed=True)).scaleb(-SCALE)


# -- files -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.decimals(-(10**12), 10**12, places=16), min_size=1, max_size=20), st.integers(0, 16))
def test_numbers_when_made_then_are_exact_and_tell_the_digits_that_were_seen(found: list[Decimal], places: int) -> None:
    texts = [text[: len(text) - 16 + places].rstrip(".") for text in map("{:f}".format, found)]
    numbers = _Numbers({"tick_size": "0.10", "lot_size": None})
    fixed, _ = numbers.fixed(texts, "price")
    assert [number(each) for each in fixed.to_pylist()] == [Decimal(text) for text in texts]
    seen = max(len(text.partition(".")[2].rstrip("0")) for text in texts)
    assert numbers.digits == {"price": max(1, seen), "size": 0}


def test_book_when_exported_then_each_message_ends_with_its_last_delta(tmp_path: Path) -> None:
    def book(ts: int, type: str, bids: Any, asks: Any) -> tuple[int, str, dict[str, Any]]:
        return ts, "book", {"ts_event": ts - S, "type": type, "bids": bids, "asks": asks}

    found = [
        book(DAY + 2 * S, "snapshot", [["99.5", "1"]], [["101", "2.5"]]),
        book(DAY + 3 * S, "delta", [["99.5", "0.000"], ["99", "7"]], []),
        book(DAY + 4 * S, "snapshot", [], []),
    ]
    with archived(tmp_path / "storage", found, "binance", instruments=SPOT) as client:
        (path,) = exported(client, tmp_path / "out", "binance", "order_book_delta")
    table = pq.read_table(path)
    rows = [
        (each["action"], each["side"], number(each["price"]), number(each["size"]), each["flags"], each["ts_event"])
        for each in table.to_pylist()
    ]
    assert rows == [
        (CLEAR, 0, 0, 0, F_SNAPSHOT, DAY + S),
        (ADD, 1, Decimal("99.5"), 1, F_SNAPSHOT, DAY + S),
        (ADD, 2, 101, Decimal("2.5"), F_LAST, DAY + S),
        (DELETE, 1, Decimal("99.5"), 0, 0, DAY + 2 * S),
        (UPDATE, 1, 99, 7, F_LAST, DAY + 2 * S),
        (CLEAR, 0, 0, 0, F_LAST, DAY + 3 * S),
    ]
    told = {b"instrument_id": b"BTCUSDT.BINANCE", b"price_precision": b"2", b"size_precision": b"1"}
    assert table.schema.metadata == told  # of the instrument, whose tick is 0.01
    name = "2024-08-08T00-00-00-000000000Z_2024-08-08T23-59-59-999999999Z.parquet"
    assert path == tmp_path / "out" / "data" / "order_book_delta" / "BTCUSDT.BINANCE" / name


def test_catalogue_when_made_twice_then_is_the_same_to_the_byte(tmp_path: Path) -> None:
    found = [(DAY + S, "trade", {"ts_event": DAY, "id": "7", "price": "1.5", "amount": "2", "side": "buy"})]
    with archived(tmp_path / "storage", found, "binance", instruments=SPOT) as client:
        one, other = (exported(client, tmp_path / name, "binance") for name in ("one", "other"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert {path.parts[-3] for path in one} == {"trade_tick", "currency_pair"}


@pytest.mark.parametrize(
    ("price", "instruments", "kind", "told"),
    [
        ("0.12345678901234567", SPOT, "trade_tick", "a number that no catalogue holds"),
        ("17014118346047", SPOT, "trade_tick", "17014118346047.0* is too great"),
        ("1e30", SPOT, "trade_tick", "a number that no catalogue holds"),
        ("0.1", None, "instrument", "no instrument is archived"),
        ("0.1", FUTURE, "instrument", None),
    ],
)
def test_export_when_the_catalogue_cannot_hold_it_then_says_so(
    price: str, instruments: tuple[str, bytes] | None, kind: str, told: str | None, tmp_path: Path
) -> None:
    found = [(DAY + S, "trade", {"ts_event": DAY, "id": "7", "price": price, "amount": "2", "side": "buy"})]
    with archived(tmp_path / "storage", found, "binance-usdm", instruments=instruments) as client:
        if told is None:
            assert exported(client, tmp_path / "out", "binance-usdm", kind)[0].parts[-3] == "crypto_future"
        else:
            with pytest.raises(BadRequestError, match=told):
                exported(client, tmp_path / "out", "binance-usdm", kind)


def test_identifiers_are_those_of_its_adapters() -> None:
    assert identifier("binance", "BTCUSDT") == "BTCUSDT.BINANCE"
    assert identifier("binance-usdm", "BTCUSDT") == "BTCUSDT-PERP.BINANCE"
    assert identifier("binance-usdm", "BTCUSDT_240927") == "BTCUSDT_240927.BINANCE"
    assert identifier("binance-coinm", "BTCUSD_PERP") == "BTCUSD-PERP.BINANCE"
    assert identifier("bybit-linear", "BTCUSDT") == "BTCUSDT-LINEAR.BYBIT"
    assert identifier("okx", "BTC-USDT-SWAP") == "BTC-USDT-SWAP.OKX"


# -- NautilusTrader itself ---------------------------------------------------------------------------------------------


@recorded
@installed
@pytest.mark.parametrize(
    ("exchange", "recording", "instrument"),
    [
        ("binance", "spot-btcusdt", entry("0.01000000", "0.00001000")),
        ("binance-usdm", "usdm-btcusdt", entry("0.10", "0.001")),
    ],
)
def test_catalogue_when_nautilus_loads_and_replays_it_then_has_our_events(
    exchange: str, recording: str, instrument: dict[str, Any], tmp_path: Path
) -> None:
    path = RECORDING.with_name(f"{recording}-20240808.gz")
    with taken(tmp_path / "storage", exchange, path, instrument) as client:
        exported(client, tmp_path / "out", exchange, *KINDS)
        events = list(client.slice(exchange, "BTCUSDT", ["trade", "quote", "book"]).events())
    command = [PYTHON, "-c", DRIVER, tmp_path / "out"]
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
    filters = {each["filterType"]: each for each in instrument["filters"]}
    sizes = [filters["PRICE_FILTER"]["tickSize"], filters["LOT_SIZE"]["stepSize"]]
    assert told["instrument"] == [identifier(exchange, "BTCUSDT"), "BTC", "USDT", *(each.rstrip("0") for each in sizes)]
    for channel in ("trade", "quote", "book"):
        expected = [row for event in events if event["channel"] == channel for row in rows_of(event)]
        found = [[numbered(value) for value in row] for row in told[channel]]
        assert len(expected) > 20 and found == expected
    assert told["replayed"] == {
        channel: sum(each["channel"] == channel for each in events) for channel in told["replayed"]
    }
    sides: dict[str, dict[Decimal, Decimal]] = {"bids": {}, "asks": {}}
    for event in (each for each in events if each["channel"] == "book"):
        for side, levels in sides.items():
            levels.update((Decimal(price), Decimal(amount)) for price, amount in event[side])
    bids, asks = ([price for price, amount in levels.items() if amount] for levels in sides.values())
    assert [Decimal(each) for each in told["best"]] == [max(bids), min(asks)]


def numbered(value: Any) -> Any:
    return Decimal(value) if isinstance(value, str) and value[:1].isdigit() else value


def rows_of(event: Event) -> list[list[Any]]:
    """What the driver is to print of an event."""
    times = [event["ts_event"] or event["ts_recv"], event["ts_recv"]]
    if event["channel"] == "trade":
        side = {"buy": "BUYER", "sell": "SELLER"}[event["side"]]
        return [[Decimal(event["price"]), Decimal(event["amount"]), side, Decimal(event["id"]), *times]]
    if event["channel"] == "quote":
        return [[Decimal(event[key]) for key in ("bid_price", "ask_price", "bid_amount", "ask_amount")] + times]
    whole = event["type"] == "snapshot"
    found: list[list[Any]] = [["CLEAR", "NO_ORDER_SIDE", Decimal(0), Decimal(0)]] if whole else []
    for side, levels in (("BUY", event["bids"]), ("SELL", event["asks"])):
        for price, amount in levels:
            action = "ADD" if whole else "UPDATE" if Decimal(amount) else "DELETE"
            found.append([action, side, Decimal(price), Decimal(amount)])
    flags = F_SNAPSHOT if whole else 0
    return [[*row, F_LAST if row is found[-1] else flags, event["seq"], *times] for row in found]


DRIVER = """
import json, sys
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig
from nautilus_trader.model.enums import AccountType, BookType, OmsType
from nautilus_trader.model.identifiers import Venue
from nautilus_trader.model.objects import Money
from nautilus_trader.persistence.catalog import ParquetDataCatalog
from nautilus_trader.trading.strategy import Strategy

catalog = ParquetDataCatalog(sys.argv[1])
(instrument,) = catalog.instruments()
trades, quotes, deltas = catalog.trade_ticks(), catalog.quote_ticks(), catalog.order_book_deltas()

class Watching(Strategy):
    def on_start(self):
        self.seen = {"trade": 0, "quote": 0, "book": 0}
        self.subscribe_trade_ticks(instrument.id)
        self.subscribe_quote_ticks(instrument.id)
        self.subscribe_order_book_deltas(instrument.id, BookType.L2_MBP)
    def on_trade_tick(self, tick):
        self.seen["trade"] += 1
    def on_quote_tick(self, tick):
        self.seen["quote"] += 1
    def on_order_book_deltas(self, deltas):
        self.seen["book"] += 1

engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
money = [Money(1_000_000, instrument.quote_currency)]
engine.add_venue(Venue("BINANCE"), OmsType.NETTING, AccountType.MARGIN, money, book_type=BookType.L2_MBP)
engine.add_instrument(instrument)
for data in (trades, quotes, catalog.order_book_deltas(batched=True)):
    engine.add_data(data)
strategy = Watching()
engine.add_strategy(strategy)
engine.run()
book = engine.cache.order_book(instrument.id)
sizes = [str(instrument.price_increment), str(instrument.size_increment)]
print(json.dumps({
    "instrument": [str(instrument.id), str(instrument.base_currency), str(instrument.quote_currency), *sizes],
    "trade": [
        [str(t.price), str(t.size), t.aggressor_side.name, str(t.trade_id), t.ts_event, t.ts_init] for t in trades
    ],
    "quote": [
        [*map(str, (q.bid_price, q.ask_price, q.bid_size, q.ask_size)), q.ts_event, q.ts_init] for q in quotes
    ],
    "book": [
        [d.action.name, d.order.side.name, *map(str, (d.order.price, d.order.size)), d.flags, d.sequence, d.ts_event,
         d.ts_init] for d in deltas
    ],
    "replayed": strategy.seen, "best": [str(book.best_bid_price()), str(book.best_ask_price())],
}))
"""
