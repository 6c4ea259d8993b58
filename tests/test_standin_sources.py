"""The generated market agrees with itself; an archive of ours is played like a recording."""

import bz2
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from common.exchanges.binance_standin_market import Generator
from common.exchanges.binance_standin_rest import Market
from common.record import encode
from common.recording import Message
from tests.standin_client import NaiveBook, Reader, deltas, standin, take, until

START_US = 1_700_000_000_000_000
SYMBOL = "BTCUSDT"


def generated(seed: int, steps: int = 20_000) -> tuple[Market, bytes, list[Message]]:
    """A market after some steps of 10 ms, its first book and everything that it sent."""
    generator = Generator([SYMBOL], seed, 100, START_US)
    market = Market([SYMBOL], {})
    market.add(generator.begin(START_US))
    first = market.answer("/api/v3/depth", {"symbol": SYMBOL, "limit": "5000"}, 0).body
    sent: list[Message] = []
    for step in range(1, steps + 1):
        sent += generator.advance(START_US + step * 10_000)
    market.add(sent)
    return market, first, sent


@pytest.fixture(scope="module", params=[1, 2])
def played(request: pytest.FixtureRequest) -> tuple[Market, bytes, list[Message]]:
    return generated(request.param)


def data_of(messages: list[Message], channel: str) -> list[dict[str, Any]]:
    return [orjson.loads(each.payload)["data"] for each in messages if each.stream.endswith(f"@{channel}")]


def test_generated_book_when_deltas_follow_a_snapshot_then_equals_the_later_one_and_the_quotes(
    played: tuple[Market, bytes, list[Message]],
) -> None:
    market, first, sent = played
    book, compared = NaiveBook(first), 0
    quote: dict[str, Any] = {}
    for message in sent:
        if message.stream.endswith("@bookTicker"):
            quote = orjson.loads(message.payload)["data"]
        elif message.stream.endswith("@depth@100ms"):
            book.apply(orjson.loads(message.payload)["data"])
            if quote:
                assert book.top() == (quote["b"], quote["B"], quote["a"], quote["A"])
                compared += 1
    assert compared > 1000
    assert book == NaiveBook(market.answer("/api/v3/depth", {"symbol": SYMBOL, "limit": "5000"}, 0).body)
    assert float(book.top()[0]) < float(book.top()[2])


def test_generated_trades_when_counted_then_are_contiguous_and_summed_up_without_a_hole(
    played: tuple[Market, bytes, list[Message]],
) -> None:
    _, _, sent = played
    trades = {trade["t"]: trade for trade in data_of(sent, "trade")}
    assert list(trades) == list(range(min(trades), min(trades) + len(trades)))
    last = min(trades) - 1
    for summed in data_of(sent, "aggTrade"):
        assert summed["f"] == last + 1
        parts = [trades[number] for number in range(summed["f"], summed["l"] + 1)]
        assert {part["p"] for part in parts} == {summed["p"]}
        assert sum(round(float(part["q"]) * 10**8) for part in parts) == round(float(summed["q"]) * 10**8)
        last = summed["l"]
    assert last == max(trades)


def test_generated_ticker_and_candles_when_compared_with_the_trades_then_agree(
    played: tuple[Market, bytes, list[Message]],
) -> None:
    _, _, sent = played
    trades = data_of(sent, "trade")
    ticker = data_of(sent, "ticker")[-1]
    known = [trade for trade in trades if trade["t"] <= ticker["L"]]
    assert (ticker["F"], ticker["n"], ticker["c"]) == (known[0]["t"], len(known), known[-1]["p"])
    assert ticker["h"] == max((trade["p"] for trade in known), key=float)
    closed = [candle["k"] for candle in data_of(sent, "kline_1m") if candle["k"]["x"]]
    assert len(closed) == 3
    for candle in closed:
        inside = [trade for trade in trades if candle["t"] <= trade["T"] <= candle["T"]]
        assert (candle["f"], candle["L"], candle["n"]) == (inside[0]["t"], inside[-1]["t"], len(inside))
        total = sum(round(float(trade["q"]) * 10**8) for trade in inside)
        assert round(float(candle["v"]) * 10**8) == total


def test_generated_market_when_the_seed_is_the_same_then_is_the_same() -> None:
    assert generated(7, 500)[2] == generated(7, 500)[2]
    assert generated(7, 500)[2] != generated(8, 500)[2]


def test_generated_times_when_microseconds_are_asked_for_then_have_16_digits() -> None:
    with standin() as started:
        client = started.connect("/stream?streams=btcusdt@trade&timeUnit=MICROSECOND")
        assert len(str(json.loads(client.recv())["data"]["T"])) == 16


def test_generated_depth_when_asked_over_rest_then_fits_the_live_deltas() -> None:
    with standin("--rate", 500) as started:
        reader = Reader(started.connect(subscribe=["btcusdt@depth@100ms"]))
        until(lambda: reader.payloads, "a delta")
        book = NaiveBook(started.get("/api/v3/depth", symbol=SYMBOL, limit=5000).data)
        until(lambda: deltas(reader.payloads)[-1]["u"] > book.last_id, "newer deltas")
        started.fault(do="pause")
        later = NaiveBook(started.get("/api/v3/depth", symbol=SYMBOL, limit=5000).data)
        until(lambda: deltas(reader.payloads)[-1]["u"] == later.last_id, "the last delta")
        for delta in deltas(reader.payloads):
            book.apply(delta)
        assert book == later


def test_archive_when_played_then_gives_its_frames_and_books_in_the_order_of_seq(tmp_path: Path) -> None:
    frames: dict[int, bytes] = {}
    written: dict[str, list[bytes]] = {"BTCUSDT": [], "ETHUSDT": []}
    for seq in range(1, 61):
        symbol = "BTCUSDT" if seq % 3 else "ETHUSDT"
        stream = f"{symbol.lower()}@trade"
        frames[seq] = b'{"stream":"%b","data":{"e":"trade","s":"%b","t":%d}}' % (stream.encode(), symbol.encode(), seq)
        line = encode(seq, seq, "in", conn=1, channel="trade", symbol=symbol, payload=frames[seq])
        written[symbol].append(line)
    book = b'{"lastUpdateId":7,"bids":[["1.0","2.0"]],"asks":[["3.0","4.0"]]}'
    written["BTCUSDT"].insert(3, encode(61, 5, "rest", channel="book", symbol="BTCUSDT", payload=book))
    ack = encode(62, 62, "in", conn=1, payload=b'{"result":null,"id":1}')
    month = tmp_path / "binance" / "BTCUSDT" / "2024-08"
    other = tmp_path / "binance" / "ETHUSDT" / "2024-08"
    unsorted = written["BTCUSDT"]
    written["BTCUSDT"] = [*(line for line in unsorted if b'"seq":61,' not in line), unsorted[3], ack]
    for folder in (month, other):
        folder.mkdir(parents=True)
    (month / "BTCUSDT-2024-08-08-23-900.bz2").write_bytes(bz2.compress(b"".join(written["BTCUSDT"][:10])))
    (month / "BTCUSDT-2024-08-08-23-900.open").write_bytes(b"".join(written["BTCUSDT"][:8]))
    blocks = [zstandard.compress(b"".join(part)) for part in (written["BTCUSDT"][10:15], written["BTCUSDT"][15:20])]
    (month / "BTCUSDT-2024-08-09-00-1000.zst").write_bytes(b"".join(blocks))
    (month / "BTCUSDT-2024-08-09-01-2000.open").write_bytes(b"".join(written["BTCUSDT"][20:]) + b'{"seq":63,"ts_re')
    (other / "ETHUSDT-2024-08-09-01-2000.open").write_bytes(b"".join(written["ETHUSDT"]))
    with standin("--archive", tmp_path, "--speed", "max", "--start-after", 2) as started:
        received = take(started.connect(subscribe=["btcusdt@trade", "ethusdt@trade"]), 60)
        assert started.get("/api/v3/depth", symbol="BTCUSDT").data == book
    assert received == list(frames.values())
    with standin("--archive", tmp_path, "--speed", "max", "--symbols", "ETHUSDT") as started:
        received = take(started.connect(subscribe=["btcusdt@trade", "ethusdt@trade"]), 20)
    assert received == [frames[seq] for seq in range(3, 61, 3)]
