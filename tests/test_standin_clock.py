"""What time and haste do at an exchange, by the stand-in's clock, which goes on at once where it is told to."""

import gzip
from collections.abc import Callable
from pathlib import Path
from random import Random

import orjson
import pytest
import websocket

from common import exchanges
from common.config import FeedConfig
from common.rest import Budget
from common.shards import Shard, ShardPolicy
from common.standin_dialect import Rate
from tests.made_recordings import made
from tests.pipeline import Pipeline, archived
from tests.pipeline import until as later
from tests.standin_client import Standin, standin, until

DAY_S = 86_400
SECONDS = 1786309548
PRODUCT = {
    "product_id": "BTC-USD", "status": "online", "product_type": "SPOT", "alias": "", "trading_disabled": False,
    "base_currency_id": "BTC", "quote_currency_id": "USD", "price_increment": "0.01", "base_increment": "0.00000001",
}  # fmt: skip
NAMES = {f"{channel}:BTC-USD" for channel in ("level2", "market_trades", "ticker", "candles")}


def advanced(path: Path) -> Path:
    """A book that stays as it is, again and again."""
    level = {"side": "bid", "event_time": "2026-08-09T21:05:48Z", "price_level": "65086.18", "new_quantity": "1"}
    event = {"type": "snapshot", "product_id": "BTC-USD", "updates": [level]}
    frame = {"channel": "l2_data", "timestamp": "2026-08-09T21:05:48Z", "sequence_num": 0, "events": [event]}
    with gzip.open(path, "wb") as file:
        url = b"https://api.coinbase.com/api/v3/brokerage/market/products"
        file.write(b"%b -> %d: %b\n" % (url, SECONDS, orjson.dumps({"products": [PRODUCT]})))
        for number in range(100):
            file.write(b"%d.%02d: %b\n" % (SECONDS, number, orjson.dumps(frame)))
    return path


def has(server: Standin, place: int, names: set[str]) -> Callable[[], bool]:
    """Whether one of the connections carries these streams, no more and no less."""

    def look() -> bool:
        connections = server.status()["connections"]
        return len(connections) > place and set(connections[place]["streams"]) == names

    return look


def test_channels_without_updates_close_but_for_the_feed_which_hears_heartbeats(tmp_path: Path) -> None:
    """Coinbase Advanced closes a channel that was quiet for a minute, and says nothing."""
    recording = advanced(tmp_path / "made.gz")
    with standin("--recording", recording, "--fault", "do=pause", exchange="coinbase-advanced") as server:
        pipeline = Pipeline(tmp_path, server, "BTC-USD", "coinbase-advanced")
        try:
            pipeline.start("feed")
            later(has(server, 0, NAMES), "the feed has subscribed")
            client = server.connect("/")
            client.send(orjson.dumps({"type": "subscribe", "channel": "level2", "product_ids": ["BTC-USD"]}))
            assert b"subscriptions" in client.recv().encode()  # type: ignore[union-attr]  # all is text
            assert has(server, 1, {"level2:BTC-USD"})()
            server.fault(do="elapse", seconds=100)
            assert has(server, 0, NAMES)() and has(server, 1, set())()
            server.fault(do="resume")
            pipeline.start("archiver")
            later(lambda: server.status()["ended"], "the recording is played")
            pipeline.wait_archived()
            pipeline.stop()
        finally:
            pipeline.end()
        closed = {each["conn"]: each["stream_frames"] for each in server.status()["closed"]}
        (left,) = server.status()["connections"]
        assert list(closed.values()) == [100] and left["stream_frames"] == 0
    frames = [record for record in archived(pipeline.exchange_dir) if record.channel == "book" and record.kind == "in"]
    assert len(frames) == 100


def test_a_channel_with_updates_stays_open_without_heartbeats() -> None:
    at = exchanges.dialect("coinbase-advanced").Session("/", {"BTC-USD"})
    for channel in ("level2", "ticker"):
        at.answer(orjson.dumps({"type": "subscribe", "channel": channel, "product_ids": ["BTC-USD"]}))
    for second in range(200):
        at.beat(second * 1000)
        at.numbered(b'{"sequence_num":0}', "level2:BTC-USD")
    assert list(at.streams) == ["level2:BTC-USD"]


@pytest.mark.parametrize(("exchange", "days"), [("binance", 1), ("binance-coinm", 1), ("bitstamp", 90)])
def test_a_connection_of_great_age_is_ended_and_ours_is_replaced_before(
    tmp_path: Path, exchange: str, days: int
) -> None:
    source = ["--synthetic"]
    if exchange != "binance":
        (path := tmp_path / "made.gz").write_bytes(
            gzip.compress(b'1641343699.0: {"event":"trade","channel":"live_trades_btcusd","data":{}}\n')
        )
        source = ["--recording", str(path if exchange == "bitstamp" else made(exchange, path))]
    with standin(*source, exchange=exchange) as server:
        clients = [server.connect("/stream") for _ in range(2)]
        server.fault(do="elapse", seconds=days * DAY_S - 60)
        assert [each["conn"] for each in server.status()["connections"]] == [1, 2]
        third = server.connect("/stream")
        server.fault(do="elapse", seconds=120)
        until(lambda: [each["conn"] for each in server.status()["connections"]] == [3], "the old ones are gone")
        for client in clients:
            opcode = websocket.ABNF.OPCODE_TEXT
            while opcode != websocket.ABNF.OPCODE_CLOSE:
                opcode, data = client.recv_data()
            assert data[2:] == b"the connection is too old"
        assert third.connected
    lifetime = exchanges.dialect(exchange).LIFETIME_S
    assert lifetime is not None and FeedConfig.reconnect_after_s + FeedConfig.overlap_s < lifetime


def test_who_connects_too_often_is_turned_away_until_time_has_gone_by(tmp_path: Path) -> None:
    with standin("--recording", made("kraken", tmp_path / "made.gz"), exchange="kraken") as server:
        for _ in range(150):
            server.connect("/").close()
        with pytest.raises(websocket.WebSocketBadStatusException, match="429"):
            server.connect("/")
        server.fault(do="elapse", seconds=601)
        server.connect("/")


@pytest.mark.parametrize("exchange", [name for name in exchanges.names() if exchanges.dialect(name).CONNECTS])
def test_our_side_connects_no_more_often_than_the_exchange_bears(exchange: str) -> None:
    """By the stand-in's own count, with ever more to connect."""
    adapter, rate = exchanges.get(exchange), Rate(*exchanges.dialect(exchange).CONNECTS)
    policy = ShardPolicy(adapter.CONNECTS_PER_5_MIN, adapter.CONNECT_INTERVAL_S, 1.0, 1.0, 1.0, 360.0, Random(1))
    made = 0
    for tick in range(20 * 900):
        while policy.may_connect(tick * 0.05, shard := Shard({})):
            policy.connecting(tick * 0.05, shard)
            made += 1
            assert not rate.is_over(tick * 0.05), made
    assert made >= 180


def test_who_asks_too_often_over_rest_is_turned_away_until_time_has_gone_by(tmp_path: Path) -> None:
    with standin("--recording", made("kraken", tmp_path / "made.gz"), exchange="kraken") as server:
        answers = [server.get("/0/public/AssetPairs").status for _ in range(11)]
        assert answers == [200] * 10 + [429]
        server.fault(do="elapse", seconds=11)
        assert server.get("/0/public/AssetPairs").status == 200


@pytest.mark.parametrize("exchange", [name for name in exchanges.names() if exchanges.dialect(name).REQUESTS])
def test_our_side_asks_over_rest_no_more_often_than_the_exchange_bears(exchange: str) -> None:
    """By the stand-in's own count, with ever more to ask; a few milliseconds may be lost on the way."""
    adapter, rate, way = exchanges.get(exchange), Rate(*exchanges.dialect(exchange).REQUESTS), Random(1)
    budget, now = Budget(adapter.WEIGHT_PER_MIN, adapter.REQUEST_INTERVAL_S), 0.0
    for _ in range(2000):
        now += budget.wait_s(now, 1)
        budget.spend(now, 1)
        assert not rate.is_over(now + way.uniform(0, 0.05)), now


def test_frames_of_all_connections_count_together_where_the_exchange_counts_by_address(tmp_path: Path) -> None:
    with standin("--recording", advanced(tmp_path / "made.gz"), exchange="coinbase-advanced") as server:
        clients = [server.connect("/") for _ in range(2)]
        for client in clients:
            for _ in range(6):  # in a second 8 are borne
                client.send(b'{"type":"subscribe","channel":"heartbeats"}')
        until(lambda: [each["conn"] for each in server.status()["closed"]] == [2], "the one that sent too much is left")
