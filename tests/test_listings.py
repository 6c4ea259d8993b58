"""What an exchange lists changes while it is recorded: tick sizes, what is new, and what trades no more."""

import gzip
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from common import exchanges
from common.adapter import Adapter
from common.client import Client
from common.config import FeedConfig
from common.errands import INSTRUMENTS_INTERVAL_S, Errands
from common.journal import Journal
from common.normaliser import Normaliser
from common.record import decode
from common.recorder import Recorder
from common.wires import Wires
from tests.made_recordings import COIN, COIN_INSTRUMENT, MS, made
from tests.pipeline import Live, Pipeline, events_of, until
from tests.standin_client import Standin, standin
from tests.test_recorder import Memory

PAIRS = "/0/public/AssetPairs"
BTC = {"wsname": "XBT/USD", "status": "online", "tick_size": "0.1", "lot_decimals": 8}
XRP = {"wsname": "XRP/USD", "status": "online", "tick_size": "0.00001", "lot_decimals": 8}
ETH = {"wsname": "ETH/USD", "status": "online", "tick_size": "0.01", "lot_decimals": 8}
SECONDS = 60


def pairs(*entries: dict[str, Any]) -> bytes:
    result = {entry["wsname"].replace("/", ""): {**entry, "altname": entry["wsname"]} for entry in entries}
    return orjson.dumps({"error": [], "result": result})


def recording(path: Path) -> Path:
    """Ten trades a second of each of three pairs, of which two are listed."""
    with gzip.open(path, "wb") as file:
        file.write(b"https://api.kraken.com%s -> 1785585600.0: %s\n" % (PAIRS.encode(), pairs(BTC, XRP)))
        for number in range(SECONDS * 10):
            for symbol in ("BTC/USD", "ETH/USD", "XRP/USD"):
                trade = {"symbol": symbol, "side": "buy", "price": 100.0, "qty": 0.10, "trade_id": number + 1}
                data = [{**trade, "ord_type": "limit", "timestamp": "2026-08-01T12:00:00.000000Z"}]
                frame = orjson.dumps({"channel": "trade", "type": "update", "data": data})
                file.write(f"{1785585600 + number / 10}: ".encode() + frame + b"\n")
    return path


def configured(path: Path, *symbols: str) -> None:
    named = ", ".join(f'"{symbol}"' for symbol in symbols)
    path.write_text(f'[feed.kraken]\nsymbols = [{named}]\nchannels = ["trade", "instrument"]\n')


@pytest.fixture
def kraken(tmp_path: Path) -> Iterator[tuple[Pipeline, Live, Path]]:
    """Feed, archiver and history of two of three pairs, whose configuration stands in a file."""
    configured(conf := tmp_path / "my.toml", "BTC/USD", "XRP/USD")
    with standin("--recording", recording(tmp_path / "made.gz"), exchange="kraken") as server:
        pipeline = Pipeline(tmp_path, server, "", "kraken", CONF=str(conf))
        live = Live(pipeline.endpoint)
        pipeline.start("archiver", "feed", "history")
        try:
            yield pipeline, live, conf
        finally:
            live.close()
            pipeline.end()


def test_a_changed_listing_is_told_and_known_as_it_was_before_and_after(kraken: tuple[Pipeline, Live, Path]) -> None:
    """A tick size, a symbol newly listed and added by its unified name, and one that trades no more and is left."""
    pipeline, live, conf = kraken

    def told(channel: str, symbol: str) -> list[dict[str, Any]]:
        mark = f"kraken/{channel}/{symbol.replace('/', '%2F')} ".encode()
        return events_of(message for message in list(live.messages) if message.startswith(mark))

    def known(at: int | None = None) -> dict[str, tuple[str, str]]:
        listed = client.instruments("kraken", at=at)
        return {each["symbol"]: (each["tick_size"], each["status"]) for each in listed}

    before = {"BTC/USD": ("0.1", "online"), "XRP/USD": ("0.00001", "online")}
    after = {"BTC/USD": ("0.05", "online"), "ETH/USD": ("0.01", "online"), "XRP/USD": ("0.00001", "cancel_only")}
    with Client(pipeline.server) as client:
        until(lambda: known() == before, "two instruments are known")
        then = time.time_ns()
        listed = pairs({**BTC, "tick_size": "0.05"}, {**XRP, "status": "cancel_only"}, ETH)
        pipeline.standin.fault(do="rest-fail", path=PAIRS, status=200, body=listed.decode())
        configured(conf, "BTC/USD", "XRP/USD", "ETH-USD")
        pipeline.kill("feed", signal_number=signal.SIGHUP)
        until(lambda: known() == after, "the three are known as they are now")
        assert known(then) == before
        until(lambda: len(told("trade", "ETH/USD")) > 3, "the added one is heard")
        configured(conf, "BTC/USD", "ETH-USD")
        pipeline.kill("feed", signal_number=signal.SIGHUP)
        until(lambda: b"removed: ['XRP/USD']" in pipeline.log.read_bytes(), "one is left")
        heard, gone = len(told("trade", "BTC/USD")), len(told("trade", "XRP/USD"))
        until(lambda: len(told("trade", "BTC/USD")) > heard + 5, "the others go on")
        assert len(told("trade", "XRP/USD")) <= gone + 1
        slices = {symbol: client.slice("kraken", symbol, "instrument", snapshot=False) for symbol in after}
        changes = {
            symbol: [event for event in events if event["channel"] == "instrument"] for symbol, events in slices.items()
        }
    assert [event["tick_size"] for event in changes["BTC/USD"]] == ["0.1", "0.05"]
    assert [event["status"] for event in changes["XRP/USD"]] == ["online", "cancel_only"]
    assert [event["name"] for event in changes["ETH/USD"]] == ["ETH-USD"]
    assert told("instrument", "BTC/USD")[-1] == changes["BTC/USD"][-1]
    assert told("gap", "BTC/USD") == told("gap", "ETH/USD") == []
    assert b"kraken XRP/USD is cancel_only there" in pipeline.log.read_bytes()
    pipeline.stop()
    pipeline.verify()


class NoConnections:
    """A feed that has no connection carries no book."""

    def carrying(self, channel: str, since: float) -> dict[str, int]:
        return {}


@pytest.fixture
def coin(tmp_path: Path) -> Iterator[tuple[Errands, Memory, Standin]]:
    """The errands of a feed of one COIN-M contract, beside the stand-in and without all else: time is the test's."""
    adapter = cast(Adapter, exchanges.get("binance-coinm"))
    with standin("--recording", made("binance-coinm", tmp_path / "made.gz"), exchange="binance-coinm") as server:
        url = f"http://127.0.0.1:{server.port}"
        config = FeedConfig(symbols=(COIN,), channels=adapter.CHANNELS, rest_url=url)
        memory, normaliser = Memory(), Normaliser(adapter)
        recorder = Recorder(adapter, normaliser, cast(Journal, memory), memory.published, memory.event)
        start = orjson.dumps({"subscriptions": {"symbols": [COIN], "channels": adapter.CHANNELS}})
        recorder.record(1, "start", payload=start)
        errands = Errands(
            adapter, config, recorder, normaliser, cast(Wires, NoConnections()), time.time_ns, lambda: None
        )
        errands.begin(0.0, [COIN])
        errands.start()
        yield errands, memory, server
        errands.stop()


def test_open_interest_is_polled_and_the_listing_asked_for_each_hour(coin: tuple[Errands, Memory, Standin]) -> None:
    errands, memory, server = coin

    def told(channel: str) -> list[dict[str, Any]]:
        events = events_of(message for what, message in memory.story if what == "event")
        return [event for event in events if event["channel"] == channel]

    def asked(path: str) -> int:
        return int(server.status()["rest"].get(f"/dapi/v1/{path}", 0))

    def wait(now: float, done: Callable[[], bool], what: str) -> None:
        until(lambda: errands.tick(now) or done(), what)

    poll_s = exchanges.get("binance-coinm").POLLS["open_interest"]
    wait(0.0, lambda: len(told("instrument")) == 1, "the instrument is told")
    assert asked("openInterest") == 0
    wait(poll_s, lambda: len(told("open_interest")) == 1, "open interest is told")
    (interest,) = told("open_interest")
    assert (interest["open_interest"], interest["ts_event"]) == ("15004", 1591261042378 * MS)
    listed = {"symbols": [{**COIN_INSTRUMENT, "contractStatus": "SETTLING"}]}
    server.fault(do="rest-fail", path="/exchangeInfo", status=200, body=orjson.dumps(listed).decode())
    wait(INSTRUMENTS_INTERVAL_S - 1, lambda: asked("openInterest") > 1, "it is polled again")
    assert asked("exchangeInfo") == 1
    wait(INSTRUMENTS_INTERVAL_S, lambda: len(told("instrument")) == 2, "the change is told")
    assert [event["status"] for event in told("instrument")] == ["trading", "settling"]


def test_polls_that_fail_or_are_not_answered_are_a_gap_until_one_is(coin: tuple[Errands, Memory, Standin]) -> None:
    """15 seconds of 503, and nothing told of them. The failed ones are records: history tells the same of them."""
    errands, memory, server = coin

    def gaps() -> list[tuple[str, str]]:
        events = events_of(message for what, message in memory.story if what == "event")
        return [(each["state"], each["reason"]) for each in events if each.get("channels") == ["open_interest"]]

    def wait(now: float, count: int) -> None:
        until(lambda: errands.tick(now) or len(gaps()) == count, f"{count} events of gaps")

    poll_s, turn = exchanges.get("binance-coinm").POLLS["open_interest"], 0
    expected: list[tuple[str, str]] = []
    for reason, fault in (
        ("status 503", {"do": "rest-fail", "status": "503", "n": "1"}),
        ("not understood", {"do": "rest-fail", "status": "200", "body": "{}", "n": "1"}),
        ("no answer", {"do": "rest-late", "seconds": "1.5", "n": "1"}),
    ):
        server.fault(path="/openInterest", **fault)
        turn += 1
        errands.tick(turn * poll_s)
        turn += reason == "no answer"  # told when the next one is due
        wait(turn * poll_s, len(expected) + 1)
        turn += reason != "no answer"
        wait(turn * poll_s, len(expected) + 2)
        expected += [("open", f"poll: {reason}"), ("closed", f"poll: {reason}")]
        assert gaps() == expected
    again = Normaliser(cast(Adapter, exchanges.get("binance-coinm"))).all_messages(map(decode, memory.lines))
    assert again == [message for what, message in memory.story if what == "event"]


def test_listings_that_are_not_answered_are_one_gap_until_they_are(coin: tuple[Errands, Memory, Standin]) -> None:
    """A change of an instrument could go unseen, and nothing told of it."""
    errands, memory, server = coin

    def told() -> list[Any]:
        events = events_of(message for what, message in memory.story if what == "event")
        about = [each for each in events if "instrument" in each.get("channels", [each["channel"]])]
        return [(each["state"], each["reason"]) if "state" in each else each["channel"] for each in about]

    until(lambda: errands.tick(0.0) or told() == ["instrument"], "the instrument is told")
    server.fault(do="rest-fail", path="/exchangeInfo", status="503", n="2")
    expected = ["instrument", ("open", "poll: status 503"), ("closed", "poll: status 503")]
    until(lambda: errands.tick(INSTRUMENTS_INTERVAL_S) or told() == expected, "the gap begins and ends")
    assert server.status()["rest"]["/dapi/v1/exchangeInfo"] == 4
    again = Normaliser(cast(Adapter, exchanges.get("binance-coinm"))).all_messages(map(decode, memory.lines))
    assert again == [message for what, message in memory.story if what == "event"]
