"""A symbol that there is not, beside right ones, in a feed that runs: named in the log, with its gap, and no more."""

from collections import Counter
from pathlib import Path

import pytest

from common import exchanges
from common.events import SPARSE
from tests.pipeline import Pipeline, archived, payloads, until
from tests.standin_client import standin
from tests.test_exchanges import source_of

UNKNOWN = {
    "kraken": "NO/USD",
    "bybit-spot": "NOUSDT",
    "binance-coinm": "NOUSD_PERP",
    "coinbase": "NO-USD",
    "htx": "nousdt",
    "okx": "NO-USDT",
}
SILENT = ("binance-coinm",)
DEADLINE_S = 30


def wrong_streams(exchange: str, symbol: str) -> dict[str, tuple[str, str]]:
    """What is asked for of a symbol that there is not, and is missed."""
    adapter = exchanges.get(exchange)
    found = adapter.streams(symbol, list(adapter.CHANNELS), [adapter.CANDLE_DEFAULT])
    return {name: place for name, place in found.items() if symbol.lower() in name.lower() and place[0] not in SPARSE}


def told(pipeline: Pipeline, exchange: str, symbol: str) -> bool:
    """Whether the log names each of them."""
    said, log = "silent: subscribing again" if exchange in SILENT else "refused: ", pipeline.log.read_text()
    return all(f"{exchange} {name} {said}" in log for name in wrong_streams(exchange, symbol))


def arrived(pipeline: Pipeline) -> int:
    return sum(map(len, payloads(archived(pipeline.exchange_dir)).values()))


@pytest.mark.parametrize("exchange", UNKNOWN)
def test_a_wrong_symbol_in_the_configuration_costs_itself_alone(tmp_path: Path, exchange: str) -> None:
    wrong, adapter, stream_of = UNKNOWN[exchange], exchanges.get(exchange), exchanges.dialect(exchange).stream_of
    (folder := tmp_path / "source").mkdir()
    source = source_of(exchange, folder)
    wanted = source.streams()
    arguments = ("--recording", *source.paths, "--speed", "max", "--start-after", len(wanted))
    settings = {f"FEED__{exchange.upper().replace('-', '_')}__SILENCE_S": "2"} if exchange in SILENT else {}
    with standin(*arguments, exchange=exchange) as server:
        pipeline = Pipeline(tmp_path, server, ",".join([wrong, *source.symbols]), exchange, **settings)
        try:
            pipeline.start()
            until(lambda: server.status()["ended"], "the right ones are subscribed and recorded", DEADLINE_S)
            sent = sum(each["frames"] for each in server.status()["connections"])
            until(lambda: arrived(pipeline) >= sent, "all is archived", DEADLINE_S)
            until(lambda: told(pipeline, exchange, wrong), "the wrong one is told of by name", DEADLINE_S)
            pipeline.wait_archived()
            pipeline.stop()
        finally:
            pipeline.end()
    records = archived(pipeline.exchange_dir)
    addresses = {adapter.path(name) for name in wrong_streams(exchange, wrong)}
    assert [record.kind for record in records].count("open") == len(addresses)
    came = Counter(stream_of(record.payload or b"") for record in records if record.kind == "in")
    played = Counter(frame.stream for frame in source.frames)
    assert {name: came[name] for name in wanted} == {name: played[name] for name in wanted}
    assert f"{exchange} {wrong} is not known there" in pipeline.log.read_text()
    gaps = {(record.symbol, record.channel) for record in records if record.kind == "gap"}
    assert gaps >= {(wrong, channel) for channel, _ in wrong_streams(exchange, wrong).values()}
    pipeline.verify()
