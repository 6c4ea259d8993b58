"""OKX's derivatives: their index prices, the funding of X-Perps, and liquidations."""

from typing import Any, cast

import orjson

from common import exchanges
from common.adapter import Adapter
from common.normaliser import Normaliser
from common.recorder import Recorder
from tests.exchange_runs import Run
from tests.test_wires import Line

OKX = exchanges.get("okx")
XPERP = "BTC-USD_UM_XPERP-310404"
MS = 1_000_000


def mark(symbol: str, price: str, ms: int = 1000) -> bytes:
    data = {"instType": "SWAP", "instId": symbol, "markPx": price, "ts": str(ms)}
    return orjson.dumps({"arg": {"channel": "mark-price", "instId": symbol}, "data": [data]})


def index(name: str, price: str, ms: int = 1000) -> bytes:
    data = {"instId": name, "idxPx": price, "ts": str(ms)}
    return orjson.dumps({"arg": {"channel": "index-tickers", "instId": name}, "data": [data]})


def prices(run: Run, symbol: str) -> list[tuple[str | None, str | None]]:
    return [(event["mark_price"], event["index_price"]) for event in run.of("mark") if event["symbol"] == symbol]


def streams(symbol: str, *channels: str) -> list[str]:
    return list(OKX.streams(symbol, list(channels), []))


def test_derivatives_ask_for_their_index_and_x_perps_for_their_funding() -> None:
    assert streams("BTC-USDT-SWAP", "mark") == ["index-tickers:BTC-USDT", "mark-price:BTC-USDT-SWAP"]
    assert streams("BTC-USD-220527", "mark", "funding") == ["index-tickers:BTC-USD", "mark-price:BTC-USD-220527"]
    assert streams("BTC-USD_UM-SWAP", "mark")[0] == "index-tickers:BTC-USD"
    assert streams(XPERP, "mark", "funding") == [
        "index-tickers:BTC-USD", f"mark-price:{XPERP}", f"funding-rate:{XPERP}"
    ]  # fmt: skip
    assert OKX.symbol_error(XPERP) is None


def test_an_index_price_is_part_of_the_marks_of_every_symbol_of_its_index() -> None:
    run = Run(OKX, "BTC-USDT", "BTC-USDT-SWAP", "BTC-USDT-220527", "ETH-USDT-SWAP")
    for symbol in ("BTC-USDT-SWAP", "BTC-USDT-220527", "ETH-USDT-SWAP"):
        run.take(mark(symbol, "100"))
    run.take(index("BTC-USDT", "101", 1000))
    run.take(mark("BTC-USDT-SWAP", "102", 2000))
    assert prices(run, "BTC-USDT-SWAP") == [("100", None), ("100", "101"), ("102", "101")]
    assert prices(run, "BTC-USDT-220527") == [("100", None), ("100", "101")]
    assert prices(run, "BTC-USDT") == [(None, "101")] and prices(run, "ETH-USDT-SWAP") == [("100", None)]
    assert not run.of("gap") and not run.normaliser.errors


def test_an_index_of_another_connection_neither_moves_the_marks_there_nor_outlives_a_gap() -> None:
    """Connection 2 carries the index for another symbol: it will never bring these marks."""
    run = Run(OKX, "BTC-USDT-SWAP")
    run.take(index("BTC-USDT", "90", 900), conn=2)
    run.take(mark("BTC-USDT-SWAP", "100", 1000), conn=1)
    run.take(index("BTC-USDT", "101", 1100), conn=1)
    run.take(index("BTC-USDT", "101", 1100), conn=2)
    assert prices(run, "BTC-USDT-SWAP") == [("100", None), ("100", "101")]
    run.close(1)
    run.take(index("BTC-USDT", "102", 1200), conn=2)
    run.take(mark("BTC-USDT-SWAP", "103", 1300), conn=3)
    assert prices(run, "BTC-USDT-SWAP")[2:] == [("103", None)]
    assert run.gaps() == [("open", "disconnected"), ("closed", "disconnected")]


def test_a_switch_of_connections_tells_each_mark_and_index_once() -> None:
    run = Run(OKX, "BTC-USDT-SWAP")
    sent = [mark("BTC-USDT-SWAP", "100", 1000), index("BTC-USDT", "101", 1100), mark("BTC-USDT-SWAP", "102", 1200)]
    for payload in sent[:2]:
        run.take(payload, conn=1)
    for payload in sent:
        run.take(payload, conn=2)
    run.close(1)
    run.take(index("BTC-USDT", "103", 1300), conn=2)
    assert prices(run, "BTC-USDT-SWAP") == [("100", None), ("100", "101"), ("102", "101"), ("102", "103")]


def test_a_symbol_added_later_has_its_index_on_its_own_connection() -> None:
    """A topic follows one connection: the index on another one would not count."""
    line = Line("okx", symbols=tuple(f"A{number}-USDT-SWAP" for number in range(120)), channels=("mark",))
    try:
        line.until(1)
        kept = [OKX.streams(f"A{number}-USDT-SWAP", ["mark"], []) for number in range(120)]
        line.wires.carry([*kept, OKX.streams("A7-USDT-261225", ["mark"], [])])
        line.tick(1.0)
        line.until(2)
        line.tick(2.0)
        (asked,) = [record for record in line.of("out") if record.conn == 2]
        args = [each["channel"] for each in orjson.loads(asked.payload or b"")["args"]]
        assert args == ["index-tickers", "mark-price"]
    finally:
        line.end()


class Log:
    next = 1

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def append(self, lines: list[bytes]) -> int:
        self.lines += lines
        return len(lines)


def test_an_index_frame_is_filed_where_all_of_its_symbols_are_read() -> None:
    """Under the one symbol that it is of, or, where it is of several, under none: each reads those records."""
    normaliser, log = Normaliser(cast(Adapter, OKX)), Log()
    recorder = Recorder(cast(Adapter, OKX), normaliser, log, lambda _: None, lambda _: None)
    filed: list[Any] = []
    for symbols in (["BTC-USDT-SWAP"], ["BTC-USDT-SWAP", "BTC-USDT"]):
        recorder.file_under({("mark", symbol) for symbol in symbols})
        recorder.frames(1, 1, [index("BTC-USDT", "1")])
        head = orjson.loads(log.lines[-1])
        filed.append((head.get("channel"), head.get("symbol")))
    assert filed == [("mark", "BTC-USDT-SWAP"), (None, None)]
