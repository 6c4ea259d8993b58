"""Names that mean symbols: unified ones and patterns, where a symbol is configured and where one is asked for."""

import signal
from collections.abc import Callable
from typing import cast

import orjson
import pytest

from common import exchanges
from common.adapter import Adapter
from common.client import Client
from common.errors import BadRequestError
from common.naming import may_be_name, resolve
from common.spelling import spelled
from common.transport import LocalDialogue
from tests.pipeline import Pipeline, archived, until

ADAPTER = cast(Adapter, exchanges.get("binance"))


def entry(symbol: str, base: str, quote: str, status: str = "TRADING") -> dict[str, object]:
    filters = [{"filterType": "LOT_SIZE", "stepSize": "0.1"}, {"filterType": "PRICE_FILTER", "tickSize": "0.01"}]
    return {"symbol": symbol, "status": status, "baseAsset": base, "quoteAsset": quote, "filters": filters}


PATH = "/api/v3/exchangeInfo"
BODY = orjson.dumps({
    "symbols": [
        entry("BTCUSDT", "BTC", "USDT"),
        entry("ETHUSDT", "ETH", "USDT"),
        entry("OLDUSDT", "OLD", "USDT", "BREAK"),
        entry("ETHBTC", "ETH", "BTC"),
        entry("ONE", "A", "B"),
        entry("TWO", "A", "B"),
        {"symbol": "BROKEN"},
        None,
    ]
})  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "symbols"),
    [
        (["BTC-USDT"], ["BTCUSDT"]),
        (["ETHBTC", "BTC-USDT", "BTCUSDT"], ["ETHBTC", "BTCUSDT"]),
        (["*-USDT"], ["BTCUSDT", "ETHUSDT"]),  # what does not trade is not meant by a pattern
        (["OLD-USDT"], ["OLDUSDT"]),
        (["ETH-*", "*-BTC"], ["ETHBTC", "ETHUSDT"]),
        (["NEVERHEARD"], ["NEVERHEARD"]),
        (["*" * 500 + "B?C-*USDT"], ["BTCUSDT"]),
    ],
)
def test_names_mean_the_exchanges_own_symbols(wanted: list[str], symbols: list[str]) -> None:
    assert resolve(ADAPTER, wanted, {PATH: BODY}) == (tuple(symbols), {})


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("A-B", "A-B means ONE and TWO: name one of them"),
        ("XYZ-USDT", "XYZ-USDT means no instrument of binance"),
        ("BTC[-]USDT", "BTC[-]USDT means no instrument of binance"),
        ("*-EUR", "*-EUR means no instrument of binance"),
    ],
)
def test_a_name_of_nothing_or_of_several_is_told_and_costs_no_other(wanted: str, sentence: str) -> None:
    found = resolve(ADAPTER, ["BTC-USDT", wanted, "ETHUSDT"], {PATH: BODY})
    assert found == (("BTCUSDT", "ETHUSDT"), {wanted: sentence})


class Catalogue:
    """A history server that knows what names mean, and counts how often it is asked."""

    name = "catalogue"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def dialogue(self, *, wait: bool = True) -> LocalDialogue:
        return LocalDialogue(self.answer)

    def answer(self, question: bytes) -> list[bytes]:
        self.asked.append(orjson.loads(question)["symbols"])
        return [orjson.dumps({"symbols": resolve(ADAPTER, self.asked[-1], {PATH: BODY}).symbols})]

    def close(self) -> None: ...


def test_names_that_follow_one_another_are_asked_for_at_once_and_keep_their_places() -> None:
    """The server reads its catalogue for each request: many names took as many times as long."""
    history = Catalogue()
    wanted = ["ETH-BTC", "BTC-USDT", "TWO", "*-USDT", "OLDUSDT", "TWO"]
    assert spelled(history, "binance", wanted) == ("ETHBTC", "BTCUSDT", "TWO", "ETHUSDT", "OLDUSDT")
    assert history.asked == [["ETH-BTC", "BTC-USDT"], ["*-USDT"]]


def test_what_may_be_a_name() -> None:
    assert all(map(may_be_name, ("BTC-USDT", "BTC-USD-20261225-60000-C", "*-USDT-PERP", "*")))
    assert not any(map(may_be_name, ("BTCUSDT", "btc-usdt", "BTC/USDT", "../x", "BTC-", "")))


def test_a_pipeline_of_patterns_records_what_they_mean_and_is_asked_by_unified_names(
    make: Callable[..., Pipeline],
) -> None:
    pipeline = make("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "100", "--seed", "5", symbols="*-USDT")
    pipeline.start()
    pipeline.start("history")
    with Client(pipeline.server) as client:
        until(lambda: len(client.symbols("binance")) == 2 and client.instruments("binance"), "instruments are known")
        known = {each["symbol"]: each for each in client.instruments("binance")}
        assert known["ETHUSDT"]["name"] == "ETH-USDT" and known["ETHUSDT"]["type"] == "spot"
        until(lambda: len(list(client.slice("binance", "ETH-USDT", "trade"))) > 10, "trades are archived")
        assert {event["symbol"] for event in client.slice("binance", "ETH-USDT", "trade")} == {"ETHUSDT"}
        until(lambda: list(client.slice("binance", "BTCUSDT", "trade")), "trades are archived")
        assert {event["symbol"] for event in client.slice("binance", "*-USDT", "trade")} == {"BTCUSDT", "ETHUSDT"}
        bars = client.slice("binance", "*-USDT", "trade").bars("1s").rows()
        assert {bar.symbol for bar in bars} == {"BTCUSDT", "ETHUSDT"}
        assert client.symbols("binance", ["ETH-*", "*"]) == ["ETHUSDT", "BTCUSDT"]
        with pytest.raises(BadRequestError, match="means 2 symbols: ask for fewer"):
            client.book("binance", "*-USDT")
        (told,) = client.slice("binance", "BTC-USDT", "instrument").events()
        assert told["tick_size"] == known["BTCUSDT"]["tick_size"] and told["channel"] == "instrument"


def test_a_symbol_that_is_recorded_no_more_keeps_its_name(make: Callable[..., Pipeline]) -> None:
    """Else `*-USDT` would mean, of the past too, only what is still there: research would not see what has died."""
    pipeline = make("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "100", "--seed", "5")
    pipeline.start("archiver", "feed", "history")
    with Client(pipeline.server) as client:
        until(lambda: len(client.instruments("binance")) == 2, "instruments are known")
        until(lambda: is_kept(pipeline, "ETHUSDT"), "a checkpoint has the instrument")
        pipeline.kill("feed", signal_number=signal.SIGTERM)
        pipeline.symbols = "BTCUSDT"
        pipeline.start("feed")
        until(lambda: [each["symbol"] for each in client.instruments("binance")] == ["BTCUSDT"], "one is left")
        assert client.symbols("binance", "*-USDT") == ["BTCUSDT", "ETHUSDT"]
        assert {event["symbol"] for event in client.slice("binance", "ETH-USDT", "trade")} == {"ETHUSDT"}


def is_kept(pipeline: Pipeline, symbol: str) -> bool:
    found = (
        each for each in archived(pipeline.exchange_dir, symbol) if (each.kind, each.symbol) == ("checkpoint", symbol)
    )
    return any("instrument" in orjson.loads(each.payload or b"")["state"] for each in found)


def test_history_refuses_a_name_that_two_recorded_symbols_bear(make: Callable[..., Pipeline]) -> None:
    pipeline = make("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "100", "--seed", "5")
    body = orjson.dumps({"symbols": [entry("BTCUSDT", "A", "B"), entry("ETHUSDT", "A", "B")]})
    pipeline.standin.fault(do="rest-fail", path=PATH, status=200, body=body.decode())
    pipeline.start()
    pipeline.start("history")
    with Client(pipeline.server) as client:
        until(lambda: len(client.instruments("binance")) == 2, "instruments are known")
        until(lambda: list(client.slice("binance", "ETHUSDT", "trade")), "trades are archived")
        with pytest.raises(BadRequestError, match="A-B means BTCUSDT and ETHUSDT: name one of them"):
            list(client.slice("binance", "A-B", "trade"))
