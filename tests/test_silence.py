"""What is silent, what only waits, and what comes of many symbols: as a feed and its exchange behave to the outside."""

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from common import exchanges
from common.normaliser import Normaliser
from common.record import decode, encode
from common.schedule import Silence
from tests.pipeline import Live, Pipeline, events_of, until
from tests.standin_client import standin
from tests.test_exchanges import source_of

FROM_REST = [name for name in exchanges.names() if exchanges.get(name).BOOK.snapshot == "rest"]
LONG = tuple(f"1000000LONGNAMEDCOIN{number}USDT" for number in range(220))
Make = Callable[..., Pipeline]
Listen = Callable[[Pipeline], Live]


@pytest.mark.parametrize("exchange", FROM_REST)
def test_a_book_that_waits_for_its_snapshot_is_not_silent(exchange: str, tmp_path: Path) -> None:
    """REST answered 503 for long: its frames came all the time, and it was unsubscribed as silent."""
    source, adapter = source_of(exchange, tmp_path), exchanges.get(exchange)
    deltas = [frame for frame in source.frames if frame.channel == "book" and frame.type == "delta"]
    symbol = deltas[0].symbol
    normaliser, silence = Normaliser(adapter), Silence(10.0, 0.0)
    begin = {"subscriptions": {"symbols": [symbol], "channels": ["book"]}}
    assert not normaliser.messages(decode(encode(1, 1, "start", payload=orjson.dumps(begin))))
    book = normaliser.symbols[symbol].channels["book"]
    frames = [frame.payload for frame in deltas if frame.symbol == symbol][:50]
    for second, payload in enumerate(frames):
        assert not normaliser.messages(decode(encode(second + 2, 1, "in", conn=1, payload=payload)))
        assert not silence.check(float(second), ("book", symbol), book.heard)
    assert len(frames) > 20 and book.last == 1
    late = [silence.check(float(second), ("book", symbol), book.heard) for second in range(len(frames), 90)]
    assert any(late), "without frames it is silent"


def test_a_feed_whose_rest_requests_fail_calls_no_book_silent(make: Make, live: Listen) -> None:
    pipeline = make(
        "--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "50", FEED__BINANCE__SILENCE_S="2",
        FEED__BINANCE__CHANNELS="trade,book,quote",
    )  # fmt: skip
    pipeline.standin.fault(do="rest-fail", path="/api/v3/depth", status=503)
    subscriber = live(pipeline)
    pipeline.start("feed")
    until(lambda: any(b"/quote/ETHUSDT" in each[:40] for each in subscriber.messages), "the stream is on")
    pipeline.standin.fault(do="mute", stream="ethusdt@bookTicker")
    silent = until(
        lambda: [each for each in events_of(subscriber.messages) if each.get("reason") == "silent"], "one is silent"
    )
    assert {(each["symbol"], *each["channels"]) for each in silent} == {("ETHUSDT", "quote")}
    pipeline.standin.fault(do="clear")
    for symbol in ("BTCUSDT", "ETHUSDT"):
        mark = f"binance/book/{symbol} ".encode()
        until(lambda mark=mark: any(each.startswith(mark) for each in subscriber.messages), "the book comes")  # type: ignore[misc]
    pipeline.stop()


def test_of_440_streams_with_long_names_each_is_subscribed(make: Make) -> None:
    """Frames above 4,088 bytes have no answer: 400 streams were never subscribed, and no gap told of them."""
    pipeline = make("--synthetic", "--symbols", ",".join(LONG), "--rate", "0.2", symbols=",".join(LONG),
        FEED__BINANCE__CHANNELS="trade,quote")  # fmt: skip
    pipeline.start("feed")
    wanted = {f"{symbol.lower()}@{stream}" for symbol in LONG for stream in ("trade", "bookTicker")}

    def subscribed() -> bool:
        return {name for each in pipeline.standin.status()["connections"] for name in each["streams"]} == wanted

    until(subscribed, "all streams are subscribed", 30.0)
    pipeline.stop()


def test_bitstamp_that_goes_quiet_on_an_open_connection_is_asked_again_and_connected_anew(tmp_path: Path) -> None:
    """A public finding: silent for 62 minutes, with the socket open and its heartbeats answered."""
    source = source_of("bitstamp", tmp_path)
    arguments = ("--recording", *source.paths, "--loop", "--speed", "20", "--ping-s", "1")
    settings = {f"FEED__BITSTAMP__{key}": value for key, value in SHORT.items()}
    with standin(*arguments, exchange="bitstamp") as server:
        pipeline = Pipeline(tmp_path, server, ",".join(source.symbols), "bitstamp", **settings)
        subscriber = Live(pipeline.endpoint)
        try:
            pipeline.start("feed")
            until(lambda: len(subscriber.messages) > 50, "events come")
            server.fault(do="mute")
            first = server.status()["connections"][0]["conn"]
            until(lambda: [each for each in events_of(subscriber.messages) if each.get("reason") == "silent"], "gaps")
            until(lambda: b"bts:unsubscribe" in journal(pipeline), "the streams are asked for again")
            until(lambda: b" closed: no data" in pipeline.log.read_bytes(), "the connection is replaced")
            until(lambda: any(each["conn"] > first for each in server.status()["connections"]), "another one")
            server.fault(do="unmute")
            before = len(subscriber.messages)
            until(lambda: len(subscriber.messages) > before + 50, "events come again")
            gaps = [each for each in events_of(subscriber.messages) if each.get("reason") == "silent"]
            assert {each["state"] for each in gaps} == {"open", "closed"}
            pipeline.stop()
        finally:
            subscriber.close()
            pipeline.end()


SHORT = {"SILENCE_S": "2", "IDLE_TIMEOUT_S": "3", "BACKOFF_MAX_S": "0.5"}


def journal(pipeline: Pipeline) -> bytes:
    return b"".join(path.read_bytes() for path in pipeline.journal.glob("[0-9]*.records"))
