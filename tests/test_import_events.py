"""Files that hold events alone, imported: they are sliced, replayed as books, proved and covered as what they are."""

import bz2
import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

from common import cli
from common.client import Client
from common.errors import DamagedError
from common.imports import Imported, Order, run
from tests.foreign import DAY, HOUR_NS, records, tree
from tests.test_import_archivist import UPDATE, Block, archivist, py_struct
from tests.test_import_tardis import FIRST, HEADERS

COUNT = 240
SPAN_NS = 2 * HOUR_NS
BEGIN = DAY - SPAN_NS // 2


def imported(storage: Path, format: str, *files: Path, **more: str) -> Imported:
    return run(Order(format, files, storage, **more))


def moment(index: int) -> int:
    """When the index-th thing was received: ns, whole ms."""
    return BEGIN + index * (SPAN_NS // COUNT) // 1_000_000 * 1_000_000


def levels(index: int) -> list[tuple[str, str, str]]:
    """Side, price and amount of a message: a bid that comes, or goes, and an ask."""
    return [
        ("ask", f"{200 + index % 5}.50", "1.25"),
        ("bid", f"{100 + index % 7}.00", f"{index % 3}.5" if index % 3 else "0"),
    ]


def book_at(last: int) -> dict[str, dict[str, str]]:
    """Both sides after a message."""
    book: dict[str, dict[str, str]] = {"bid": {}, "ask": {}}
    for index in range(last + 1):
        for side, price, amount in levels(index):
            book[side][price] = amount
            if amount == "0":
                del book[side][price]
    return book


def tardis(directory: Path, kind: str, rows: list[str], name: str = "") -> Path:
    path = directory / (name or f"binance-futures_{kind}_2024-08-08_BTCUSDT.csv.gz")
    text = "\n".join([f"{FIRST},{HEADERS[kind]}", *(f"binance-futures,BTCUSDT,{row}" for row in rows), ""])
    path.write_bytes(gzip.compress(text.encode(), 1))
    return path


def tardis_book(directory: Path) -> Path:
    return tardis(directory, "incremental_book_L2", [
        f"{moment(index) // 1000 - 7},{moment(index) // 1000},{str(not index).lower()},{','.join(level)}"
        for index in range(COUNT)
        for level in levels(index)
    ])  # fmt: skip


def tardis_trades(directory: Path, first: int = 0, name: str = "") -> Path:
    rows = (f"{moment(index) // 1000},{index},buy,61837.6400,0.001" for index in range(first, COUNT))
    return tardis(directory, "trades", [f"{row.partition(',')[0]},{row}" for row in rows], name)


def assert_read(storage: Path, exchange: str, symbol: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The book at moments on both sides of a midnight is the one that was written, and the archive is whole."""
    with Client(storage=storage) as client:
        for index in (0, 17, COUNT // 2, COUNT - 1):
            book = client.book(exchange, symbol, at=moment(index) + 1)
            found = {"bid": book["bids"], "ask": book["asks"]}
            wanted = {
                side: {float(price): float(amount) for price, amount in own.items()}
                for side, own in book_at(index).items()
            }
            assert {
                side: {float(price): float(amount) for price, amount in own} for side, own in found.items()
            } == wanted
        events = list(client.slice(exchange, symbol, "book").events())
        assert [event["ts_recv"] for event in events] == [moment(index) for index in range(COUNT)]
        assert client.slice(exchange, symbol, "book").to_arrow().num_rows >= 2 * COUNT - 2
        assert {each["whole"] for each in client.coverage(exchange, symbol)} == {"unverifiable"}
    assert cli.main(["verify", str(storage)]) == 0
    capsys.readouterr()


def test_tardis_files_when_imported_then_are_merged_sliced_and_proved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, files = tmp_path / "storage", [tardis_trades(tmp_path), tardis_book(tmp_path)]
    imported(storage, "tardis", *files)
    assert_read(storage, "binance-usdm", "BTCUSDT", capsys)
    with Client(storage=storage) as client:
        trades = list(client.slice("binance-usdm", "BTCUSDT", "trade").events())
    assert [(each["id"], each["ts_event"], each["price"]) for each in trades] == [
        (str(index), None, "61837.6400") for index in range(COUNT)
    ]
    about = orjson.loads(records(storage / "binance-usdm")[0].payload or b"")
    assert [source["file"] for source in about["source"]] == [path.name for path in files]


@pytest.mark.parametrize("encode", [archivist, py_struct])
def test_archives_of_the_original_when_imported_then_their_books_are_read_at_any_moment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], encode: Any
) -> None:
    raw = b""
    for index in range(COUNT):
        by_amount = [
            (price, bool(float(amount)), ("-" if side == "ask" else "") + (amount if float(amount) else "1"))
            for side, price, amount in levels(index)
        ]
        by_price = [
            (("-" if side == "ask" else "") + price, bool(float(amount)), amount)
            for side, price, amount in levels(index)
        ]
        raw += encode(Block(UPDATE, moment(index) // 10**6, by_price if index else by_amount))
    path = tmp_path / "ETHBTC-2024-08-08-23-1723158000000.bz2"
    path.write_bytes(bz2.compress(raw))
    storage = tmp_path / "storage"
    imported(storage, "archivist", path, exchange="binance-usdm")
    assert_read(storage, "binance-usdm", "ETHBTC", capsys)


def test_a_file_of_events_when_imported_twice_then_nothing_is_added(tmp_path: Path) -> None:
    storage, path = tmp_path / "storage", tardis_book(tmp_path)
    imported(storage, "tardis", path)
    before = tree(storage)
    assert imported(storage, "tardis", path).passed_over == [path]
    assert tree(storage) == before


def test_a_day_that_is_imported_after_another_then_goes_on_behind_a_gap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, middle = tmp_path / "storage", COUNT // 2
    for place, (first, end) in enumerate(((0, middle), (middle + 1, COUNT))):
        rows = [f"{moment(index) // 1000},{moment(index) // 1000},{index},buy,1,1" for index in range(first, end)]
        imported(storage, "tardis", tardis(tmp_path, "trades", rows, f"trades_{place}.csv.gz"))
    with Client(storage=storage) as client:
        trades = [event["id"] for event in client.slice("binance-usdm", "BTCUSDT", "trade").events() if "id" in event]
        intervals = client.coverage("binance-usdm", "BTCUSDT", ["trade"])
        gaps = client.gaps("binance-usdm", "BTCUSDT", ["trade"])
    assert trades == [str(index) for index in range(COUNT) if index != middle]
    assert [each["events"] for each in intervals] == [middle, COUNT - middle - 1]
    assert [(gap["state"], gap["ts_from"]) for gap in gaps] == [
        (state, moment(middle - 1)) for state in ("open", "closed")
    ]
    assert cli.main(["verify", str(storage)]) == 0
    capsys.readouterr()


def test_a_bad_row_in_the_last_of_some_files_then_nothing_is_imported(tmp_path: Path) -> None:
    bad = tardis(tmp_path, "quotes", [f"{moment(0) // 1000},{moment(0) // 1000},1,2,3"])
    storage = tmp_path / "storage"
    with pytest.raises(DamagedError, match=rf"{bad} line 2: 7 cells, the header has 8: .*; nothing was imported"):
        imported(storage, "tardis", tardis_trades(tmp_path), bad)
    assert not storage.exists()


def test_two_files_that_tell_the_same_then_are_refused_and_one_after_the_other_is_not(tmp_path: Path) -> None:
    storage, book, trades = tmp_path / "storage", tardis_book(tmp_path), tardis_trades(tmp_path)
    row = f"{moment(5) // 1000 - 7},{moment(5) // 1000},2,1,1,1" + "," * 16
    with pytest.raises(DamagedError, match="both tell of book of BTCUSDT at the same time: import one of them"):
        imported(storage, "tardis", book, tardis(tmp_path, "book_snapshot_5", [row, row.replace("2,1,1,1", "3,1,1,1")]))
    with pytest.raises(DamagedError, match="both tell of trade of BTCUSDT"):
        imported(
            storage,
            "tardis",
            trades,
            tardis_trades(tmp_path, COUNT - 1, "more_trades.csv.gz"),
            tardis_trades(tmp_path, 7, "trades.csv.gz"),
        )
    assert not storage.exists()


def test_a_symbol_that_the_exchange_cannot_have_then_is_refused_with_what_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "book.bz2"
    path.write_bytes(bz2.compress(archivist(Block(UPDATE, BEGIN // 10**6, [("1", 1, "1")]))))
    with pytest.raises(DamagedError, match="'BTC-USDT' is not a symbol of HTX: did you mean btcusdt"):
        imported(tmp_path / "storage", "archivist", path, exchange="htx", symbol="BTC-USDT")
