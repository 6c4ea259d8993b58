"""Bars and book snapshots of slices: what was live, from the slice's start to its end; and their frames and arrays."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common.bars import Bars, bars
from common.book_snapshots import book_snapshots
from common.client import Client
from common.errors import BadRequestError
from common.record import encode
from common.series import BarSeries, BookSeries
from tests import archives
from tests.pipeline import Live, Pipeline, events_of, until
from tests.test_series import SECOND, T0, delta, same, snapshot, trade


def test_a_slice_gives_what_was_live(make: Callable[..., Pipeline], live: Callable[[Pipeline], Live]) -> None:
    """Over a generated market of two symbols: bars and books out of the live messages, of a slice, and book by book."""
    pipeline = make("--speed", "1")
    stream = live(pipeline)
    pipeline.start()
    books = b"binance/book/BTCUSDT "
    first_book = until(lambda: next((one for one in list(stream.messages) if one.startswith(books)), None), "a book")
    first = events_of([first_book])[0]["ts_recv"]
    until(lambda: events_of(stream.messages[-1:])[0]["ts_recv"] > first + 3 * SECOND, "three seconds have passed")
    pipeline.stop()
    events, client = events_of(stream.messages), Client(storage=pipeline.storage)

    past = client.slice("binance", ["BTCUSDT", "ETHUSDT"], "trade")
    found = past.bars("500ms")
    trades = [one for one in events if one["channel"] in ("trade", "gap")]
    machine = Bars("500ms", symbols=[("binance", "BTCUSDT"), ("binance", "ETHUSDT")])
    then = [*(bar for one in trades for bar in machine.take(one)), *machine.end()]
    assert same((bar[:-1] for bar in found), (bar[:-1] for bar in then))
    known = [(now.whole, bar.whole) for bar, now in zip(then, found, strict=True)]
    assert (True, False) not in known and (True, True) in known  # the end is a gap, and reaches back to the last trade
    assert sum(bar.count for bar in found) == sum(one["channel"] == "trade" for one in trades) > 20

    alone = [one for one in events if one["symbol"] == "BTCUSDT" and one["channel"] in ("book", "gap")]
    last = max(one["ts_recv"] for one in alone if one["channel"] == "book")
    past = client.slice("binance", "BTCUSDT", "book", start=first + SECOND, end=last + 1)
    found_books = past.book_snapshots(5, "250ms")
    expected = {row.ts: row for row in book_snapshots(alone, 5, "250ms")}
    assert len(found_books) >= 7 and all(row.whole for row in found_books)
    assert same(found_books, (expected[row.ts] for row in found_books))
    for row in found_books.rows()[::3]:
        book = client.book("binance", "BTCUSDT", at=row.ts - 1, depth=5)
        assert list(row.levels[::4]) == [float(price) for price, _ in book["bids"]]
        assert list(row.levels[3::4]) == [float(amount) for _, amount in book["asks"]]


def recorded(storage: Path) -> Client:
    """Three hours of one run: a trade each 20 s."""
    archive = archives.Archive(storage)
    archive.begin()
    first = archives.FIRST + 1
    archive.take(archives.trade(first + each, archives.FIRST_TS + (1 + 20 * each) * SECOND) for each in range(540))
    archive.close()
    return Client(storage=storage)


def test_bars_of_a_slice_go_from_its_start_to_its_end_and_say_what_is_whole(tmp_path: Path) -> None:
    """What lies before the first record, or where the archive does not reach yet, is not said to be whole."""
    client, begin, hour = recorded(tmp_path), archives.FIRST_TS, archives.HOUR_NS
    found = client.slice("binance", "BTCUSDT", "trade", start=begin + hour, end=begin + 2 * hour).bars("1m").rows()
    assert [bar.ts for bar in found] == [begin + hour + minute * 60 * SECOND for minute in range(60)]
    assert {(bar.count, bar.whole) for bar in found} == {(3, True)}
    cut = client.slice("binance", "BTCUSDT", "trade", start=begin + hour + 9, end=begin + hour + 2 * 60 * SECOND - 9)
    assert [(bar.count, bar.whole) for bar in cut.bars("1m")] == [(3, False), (3, False)]
    beyond = client.slice("binance", "BTCUSDT", "trade", start=begin - hour, end=begin + 30 * hour).bars("1h").rows()
    assert [((bar.ts - begin) // hour, bar.count, bar.whole) for bar in beyond] == [
        (-1, 0, False), (0, 180, False), (1, 180, True), (2, 180, False),
    ]  # fmt: skip
    theirs = client.slice("binance", "BTCUSDT", "trade", start=begin + hour, end=begin + 2 * hour, by="ts_event")
    assert [bar.count for bar in theirs.bars("1h")] == [180]


def test_a_gap_that_is_noticed_late_is_known_to_a_slice_from_its_beginning(tmp_path: Path) -> None:
    """ETHUSDT falls silent for six seconds; that is noticed after four, while BTCUSDT's trades end the intervals."""
    archive, begin, number = archives.Archive(tmp_path), archives.FIRST_TS, archives.FIRST
    archive.begin()
    lines, ids = [], {"BTCUSDT": 0, "ETHUSDT": 0}
    for each in range(10):
        for symbol in ("BTCUSDT", "ETHUSDT"):
            if symbol == "BTCUSDT" or each < 2 or each > 7:
                number, ids[symbol] = number + 1, ids[symbol] + 1
                lines.append(archives.trade(number, begin + each * SECOND + 1, symbol, ids[symbol]))
        if each == 6:
            number += 1
            told = {"channel": "trade", "symbol": "ETHUSDT", "payload": b'{"reason":"silent"}'}
            lines.append(encode(number, begin + each * SECOND + 2, "gap", **told))
    archive.take(lines)
    archive.close()
    past = Client(storage=tmp_path).slice(
        "binance", ["BTCUSDT", "ETHUSDT"], "trade", start=begin, end=begin + 8 * SECOND
    )
    assert [bar.whole for bar in past.bars("1s") if bar.symbol == "BTCUSDT"] == [False] + [True] * 7
    assert [bar.whole for bar in past.bars("1s") if bar.symbol == "ETHUSDT"] == [False] * 8
    live = [bar.whole for bar in bars(past, "1s") if bar.symbol == "ETHUSDT"]
    assert live == [False] + [True] * 5 + [False] * 2  # as it was known then


def test_a_slice_without_trades_has_empty_bars(tmp_path: Path) -> None:
    client, begin = recorded(tmp_path), archives.FIRST_TS + 2 * SECOND
    found = client.slice("binance", "BTCUSDT", "trade", start=begin, end=begin + 3 * SECOND).bars("1s").rows()
    assert [(bar.count, bar.whole) for bar in found] == [(0, False)] * 3
    assert client.slice("binance", "BTCUSDT", "trade", start="2200-01-01").bars("1s").rows() == []
    nothing = client.slice("binance", "BTCUSDT", "book", start=begin, end=begin + 3 * SECOND).book_snapshots(2, "1s")
    assert [row.whole for row in nothing] == [False] * 3


def test_what_a_slice_does_not_have_is_refused(tmp_path: Path) -> None:
    client = recorded(tmp_path)
    past = client.slice("binance", "BTCUSDT", "quote")
    with pytest.raises(BadRequestError, match="made of trade or agg_trade, but the slice is of quote"):
        past.bars()
    with pytest.raises(BadRequestError, match="made of book"):
        past.book_snapshots()
    with pytest.raises(BadRequestError, match="not an interval"):
        client.slice("binance", "BTCUSDT", "trade").bars("soon")


def test_frames_and_arrays_hold_the_rows() -> None:
    np, pl = pytest.importorskip("numpy"), pytest.importorskip("polars")
    trades = [trade(T0), trade(T0 + 2 * SECOND, symbol="ETHUSDT"), trade(T0 + 2 * SECOND)]
    found = BarSeries(list(bars(trades, "1s")))
    frame = found.to_polars()
    assert frame.columns == ["ts", "symbol", *BarSeries.COLUMNS] and frame["ts"].dtype == pl.Int64
    assert frame["vwap"].to_list() == [100.0, None, 100.0, 100.0] and frame["count"].to_list() == [1, 0, 1, 1]
    arrays = found.to_numpy()
    assert {symbol: values.shape for symbol, (_, values) in arrays.items()} == {"BTCUSDT": (3, 13), "ETHUSDT": (1, 13)}
    assert arrays["BTCUSDT"][0].tolist() == [T0, T0 + SECOND, T0 + 2 * SECOND]
    assert found.to_pandas().shape == frame.shape

    stream = [snapshot(T0, [["1", "2"], ["0.5", "3"]], [["4", "5"]]), delta(T0 + 2 * SECOND, [], [])]
    books = BookSeries(list(book_snapshots(stream, 2, "1s")), 2)
    times, values = books.to_numpy()
    assert (times.dtype, values.dtype, values.shape) == (np.int64, np.float64, (2, 8))
    assert np.array_equal(values[0], [1, 2, 4, 5, 0.5, 3, np.nan, np.nan], equal_nan=True)
    assert books.to_polars().columns[:5] == ["ts", "symbol", "bid_price_0", "bid_amount_0", "ask_price_0"]
    assert books.to_polars()["ask_price_1"].to_list() == [None, None]
    assert BookSeries([], 2).to_numpy()[1].shape == (0, 8) and len(BarSeries([]).to_polars()) == 0


def test_several_exchanges_are_kept_apart() -> None:
    pytest.importorskip("polars")
    trades = [trade(T0), trade(T0 + 1) | {"exchange": "okx"}]
    found = BarSeries(list(bars(trades, "1s")))
    assert found.to_polars().columns[:3] == ["exchange", "ts", "symbol"]
    assert set(found.to_numpy()) == {"binance/BTCUSDT", "okx/BTCUSDT"}
