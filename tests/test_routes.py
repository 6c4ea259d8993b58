"""Binance futures' paths: the configured ones, else the usual ones and, after silence, the others."""

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import orjson
import pytest

from common import exchanges, limits
from common.adapter import Adapter
from common.config import FeedConfig
from tests.test_wires import Line

COINM = cast(Adapter, exchanges.get("binance-coinm"))
QUOTE = {"e": "bookTicker", "u": 1, "s": "BTCUSD_PERP", "b": "1", "B": "1", "a": "2", "A": "1", "T": 1, "E": 1}
AGG = {"e": "aggTrade", "E": 1, "s": "BTCUSD_PERP", "a": 1, "p": "1", "q": "1", "f": 1, "l": 1, "T": 1, "m": True}


@pytest.fixture
def made() -> Iterator[Callable[..., Line]]:
    lines: list[Line] = []

    def make(**settings: Any) -> Line:
        given = {"exchange": "binance-coinm", "symbols": ("BTCUSD_PERP",), "channels": ("agg_trade", "quote")}
        lines.append(Line(**{**given, **settings}))
        return lines[-1]

    yield make
    for line in lines:
        line.end()


def go_on(line: Line, seconds: int, data: Callable[[str], list[dict[str, Any]]]) -> None:
    """Time goes on until no connection is left: all is agreed to, and each brings what `data` says of its path."""
    answered = 0
    for _ in range(0, seconds, 10):
        line.tick(10.0)
        if not line.wires._open:
            return
        conns = {record.conn: place for place, record in enumerate(line.of("open"))}
        for record in line.of("out")[answered:]:
            answered += 1
            if record.conn in line.wires._open:
                place = conns[record.conn]
                line.says({"result": None, "id": orjson.loads(record.payload or b"")["id"]}, place)
        for conn in list(line.wires._open):
            for message in ({"result": None, "id": 0}, *data(line.paths[conns[conn]])):
                line.says(message, conns[conn])


def test_streams_that_bring_nothing_by_the_usual_path_are_asked_for_by_the_others(made: Callable[..., Line]) -> None:
    line = made(silence_s=300.0, idle_timeout_s=60.0)
    line.until(1)
    assert line.paths == ["/stream"]
    go_on(line, 480, lambda _: [])
    assert [record.head["reason"] for record in line.of("close")] == ["no data"]
    line.tick(2.0)
    line.until(3)
    assert sorted(line.paths[1:3]) == ["/market/stream", "/public/stream"]


def test_kinds_of_streams_that_the_usual_path_leaves_out_are_asked_for_by_the_others(made: Callable[..., Line]) -> None:
    """As the old path of USD-M serves public streams only: the others are agreed to, and silent."""
    line = made(silence_s=300.0, idle_timeout_s=60.0)
    line.until(1)
    go_on(line, 60, lambda _: [QUOTE])
    line.wires.resubscribe("btcusd_perp@aggTrade")
    go_on(line, 30, lambda _: [QUOTE])
    line.until(3)
    assert sorted(line.paths[1:3]) == ["/market/stream", "/public/stream"]


def test_a_quiet_stream_among_others_of_its_kind_changes_no_route(made: Callable[..., Line]) -> None:
    line = made(channels=("agg_trade", "mark", "quote"))
    line.until(1)
    go_on(line, 60, lambda _: [QUOTE, AGG])
    line.wires.resubscribe("btcusd_perp@aggTrade")
    go_on(line, 120, lambda _: [QUOTE, AGG])
    assert line.paths == ["/stream"] and not line.of("close")


def test_a_route_that_cannot_be_connected_to_is_left(made: Callable[..., Line]) -> None:
    line = made(silence_s=300.0, idle_timeout_s=60.0)
    line.until(1)
    make = line.wires._make

    def refusing(path: str) -> Any:
        if path != "/stream":
            raise OSError("404")
        return make(path)

    line.wires._make = refusing  # type: ignore[method-assign]
    go_on(line, 480, lambda _: [])
    deadline = time.monotonic() + 60
    while len(line.of("open")) < 2:  # made in a helper thread
        assert time.monotonic() < deadline
        line.tick(1.0)
        time.sleep(0.001)
    assert set(line.paths) == {"/stream"}


@pytest.mark.parametrize(
    ("route", "paths"), [("split", {"/public/stream", "/market/stream"}), ("unsplit", {"/stream"})]
)
def test_a_configured_route_is_taken_for_good(made: Callable[..., Line], route: str, paths: set[str]) -> None:
    for exchange, symbol in (("binance-coinm", "BTCUSD_PERP"), ("binance-usdm", "BTCUSDT")):
        line = made(exchange=exchange, symbols=(symbol,), ws_route=route)
        for number in range(len(paths)):
            line.until(number + 1)
            line.tick(1.0)
        assert set(line.paths) == paths and not line.wires._routes.may_change


def test_a_route_is_checked_by_its_exchange() -> None:
    assert FeedConfig().ws_route == ""
    assert limits.checked("feed.binance-coinm.ws_route", "split", str) == "split"
    for exchange, said in (("binance-usdm", "it has split, unsplit"), ("kraken", "its streams have one path each")):
        with pytest.raises(ValueError, match=f"'x' is no route of {exchange}: {said}"):
            limits.checked(f"feed.{exchange}.ws_route", "x", str)
