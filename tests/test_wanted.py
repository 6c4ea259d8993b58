"""Names at the start of a feed: the exchange's list is out of order, a name means nothing, SIGHUP comes at any time."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from common import exchanges
from common.adapter import Adapter
from common.client import Client
from common.config import FeedConfig
from common.events import Request
from common.naming import Meant, catalogue
from common.rest import Answer, RestClient, budget_of
from common.wanted import AGAIN_S, EMPTY_MAX, WantedSymbols
from tests.pipeline import Pipeline, archived, until
from tests.test_instruments import LISTED, answer

OUTAGES = {
    "okx": b'{"code":"50001","data":[],"msg":"Service temporarily unavailable. Try again later."}',
    "bybit-spot": b'{"retCode":10016,"retMsg":"Internal error","result":{},"retExtInfo":{},"time":1}',
    "bybit-linear": b'{"retCode":10006,"retMsg":"Too many visits!","result":{},"retExtInfo":{},"time":1}',
    "kraken": b'{"error":["EService:Unavailable"]}',
    "htx": b'{"status":"error","err-code":"system-busy","err-msg":"System is busy.","data":null}',
    "binance": b'{"symbols":[]}',
    "binance-usdm": b"<html><head><title>503</title></head></html>",
    "binance-coinm": b"",
    "bitstamp": b"[]",
    "coinbase": b"null",
    "coinbase-advanced": b'{"products":[],"num_products":0}',
}
"""What comes with the status 200 during an outage."""


class Exchange:
    """The lists of an exchange, told by the test instead of a host."""

    def __init__(self, exchange: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.adapter = cast(Adapter, exchanges.get(exchange))
        self.asked: list[str] = []
        self.outage: bytes | None = None
        self.outages_left = 0
        entry = LISTED[exchange][1]
        self.bodies = {request.path: answer(exchange, [entry]) for request in catalogue(self.adapter)}
        self.then: tuple[dict[str, bytes], int] | None = None  # other answers, after so many
        self.symbols: tuple[str, ...] = ()
        monkeypatch.setattr(RestClient, "ask_now", self._ask_now)
        monkeypatch.setattr("common.wanted.pause_s", lambda attempts: 0.0)
        self.wanted = WantedSymbols(self.adapter, self.config, lambda: len(self.asked) < 200, lambda: None)

    def config(self) -> FeedConfig:
        return FeedConfig(symbols=self.symbols)

    def tick_through(self, now: float) -> None:
        """A tick, and all that it begins."""
        self.wanted.tick(now)
        for thread in threading.enumerate():
            if thread.name == "symbols":
                thread.join()

    def _ask_now(self, request: Request, goes_on: Callable[[], bool]) -> Answer | None:
        if not goes_on():
            return None
        if self.then is not None and len(self.asked) == self.then[1]:
            self.bodies = self.then[0]
        self.asked.append(request.path)
        body = self.bodies[request.path]
        if self.outages_left and self.outage is not None:
            self.outages_left -= 1
            body = self.outage
        return Answer(None, request, 200, body, {}, 0, None)


@pytest.mark.parametrize("exchange", OUTAGES)
def test_an_answer_without_instruments_is_asked_for_again(exchange: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counted as "means no instrument": the feed ended, and no supervisor tried again."""
    server = Exchange(exchange, monkeypatch)
    server.outage, server.outages_left, server.symbols = OUTAGES[exchange], EMPTY_MAX - 1, ("BTC-*",)
    assert len(server.wanted.begin(server.config(), 0.0)) == 1
    assert len(server.asked) == len(server.bodies) + EMPTY_MAX - 1 and not server.wanted.unknown


@pytest.mark.parametrize("exchange", OUTAGES)
def test_a_name_that_means_nothing_costs_no_other_and_is_looked_for_again(
    exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Exchange(exchange, monkeypatch)
    server.symbols = ("BTC-*", "NEW-*")
    symbols = server.wanted.begin(server.config(), 0.0)
    assert len(symbols) == 1 and list(server.wanted.unknown) == ["NEW-*"]
    asked = len(server.asked)
    server.wanted.tick(AGAIN_S - 1)
    assert (len(server.asked), server.wanted.take()) == (asked, None)
    server.symbols = ()  # whatever the file says by now: SIGHUP reads it, a look does not
    monkeypatch.setattr("common.wanted.resolve", lambda adapter, texts, answers: Meant(("NEW",), {}))
    server.tick_through(AGAIN_S)
    assert server.wanted.take() == (*symbols, "NEW") and not server.wanted.unknown


def test_a_feed_none_of_whose_names_means_anything_asks_until_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Exchange("binance", monkeypatch)
    listed, server.symbols = server.bodies, ("BTC-USDT",)
    server.bodies = {path: answer("binance", [{**LISTED["binance"][1], "baseAsset": "ETH"}]) for path in listed}
    server.then = listed, 7
    assert server.wanted.begin(server.config(), 0.0) == ("BTCUSDT",)
    assert len(server.asked) == 8


def test_one_of_several_lists_may_be_empty_after_some_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Exchange("okx", monkeypatch)
    server.bodies = {path: body if "SPOT" in path else OUTAGES["okx"] for path, body in server.bodies.items()}
    server.symbols = ("BTC-*",)
    assert server.wanted.begin(server.config(), 0.0) == ("BTC-USDT",)
    assert len(server.asked) == 1 + 2 * (EMPTY_MAX + 1)


def test_200_sighups_are_one_look_after_the_other_within_the_hosts_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Exchange("binance", monkeypatch)
    server.symbols = ("BTC-*",)
    server.wanted.begin(server.config(), 0.0)
    for _ in range(200):
        server.wanted.ask()
    server.tick_through(1.0)
    assert len(server.asked) == 2 and server.wanted.take() == ("BTCUSDT",)
    assert budget_of("http://one/", 10, 0.0) is budget_of("http://one", 10, 0.0)


def test_sighup_ends_nothing_at_any_time(make: Callable[..., Pipeline]) -> None:
    """During its start it ended the feed, at any time archiver and history."""
    pipeline = make("--synthetic", "--symbols", "BTCUSDT", "--rate", "100", "--seed", "5", symbols="BTC-USDT")
    pipeline.standin.fault(do="rest-late", path="/exchangeInfo", seconds=2.0)
    pipeline.start()
    pipeline.start("history")
    begun = {name: pipeline.pid(name) for name in ("feed", "archiver", "history")}
    until(lambda: all(catches(pid, signal.SIGHUP) for pid in begun.values()), "all have begun")
    for _ in range(50):
        for pid in begun.values():
            os.kill(pid, signal.SIGHUP)
    until(lambda: pipeline.complete() > 0, "it is archived")
    for _ in range(50):
        for pid in begun.values():
            os.kill(pid, signal.SIGHUP)
    until(lambda: "the symbols are what they were" in pipeline.log.read_text(), "the configuration is read anew")
    with Client(pipeline.server) as client:
        until(lambda: len(list(client.slice("binance", "BTC-USDT", "trade"))) > 10, "trades are archived")
    assert begun == {name: pipeline.pid(name) for name in begun}
    assert all(Path(f"/proc/{pid}").exists() for pid in begun.values())


def catches(pid: int, number: int) -> bool:
    """Whether a process catches or ignores a signal, by /proc."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return any(int(status[key], 16) >> number - 1 & 1 for key in ("SigCgt", "SigIgn"))


def test_a_name_that_means_nothing_is_an_error_line_and_a_record_beside_what_is_recorded(
    make: Callable[..., Pipeline],
) -> None:
    pipeline = make("--synthetic", "--symbols", "BTCUSDT", "--rate", "100", "--seed", "5", symbols="BTC-USDT,OLD-USDT")
    pipeline.start()
    until(lambda: "OLD-USDT means no instrument of binance" in pipeline.log.read_text(), "it is told")
    until(lambda: len(archived(pipeline.exchange_dir, "BTCUSDT")) > 20, "the other is recorded")

    def told() -> list[Any]:
        gaps = [each for each in archived(pipeline.exchange_dir) if (each.kind, each.channel) == ("gap", None)]
        return [orjson.loads(each.payload or b"") for each in gaps]

    until(lambda: told(), "it is archived")
    assert told() == [{"state": "open", "reason": "unknown names", "names": ["OLD-USDT"]}]
    pipeline.stop()
    pipeline.verify()
