"""Binance futures as the stand-in speaks them: what is agreed to, what stays silent, what was recorded over REST."""

from typing import cast

import orjson
import pytest

from common import exchanges
from common.adapter import Adapter
from common.events import Action, Snapshot
from common.exchanges import binance_futures_standin as standin
from common.standin_dialect import RefusedError
from common.standin_server import split

USDM, COINM = (cast(Adapter, exchanges.get(name)) for name in ("binance-usdm", "binance-coinm"))
KNOWN = {"BTCUSDT", "BTCUSD_PERP"}
RECORDED = {
    "/fapi/v1/depth?symbol=BTCUSDT&limit=1000": b'{"lastUpdateId":7,"bids":[],"asks":[]}',
    "/fapi/v1/aggTrades?symbol=BTCUSDT&fromId=26129&limit=1000": b'[{"a":26129},{"a":26130}]',
    "/fapi/v1/exchangeInfo": b'{"symbols":[{"symbol":"BTCUSDT"}]}',
}


def test_the_stand_in_agrees_to_a_stream_of_the_other_address_and_stays_silent() -> None:
    names = ["btcusdt@trade", "btcusdt@aggTrade", "btcusdt@depth@100ms", "btcusdt@markPrice@1s"]
    public, market, old = (standin.Session(path, KNOWN) for path in ("/public/stream", "/market/stream", "/stream"))
    for session in (public, market, old):
        assert session.answer(USDM.subscribe(names, 1)[0]) == [b'{"result":null,"id":1}']
    assert list(public.streams) == list(old.streams) == ["btcusdt@trade", "btcusdt@depth@100ms"]
    assert list(market.streams) == ["btcusdt@aggTrade", "btcusdt@markPrice@1s"]
    coin = standin.Session("/stream", KNOWN)
    coin.answer(COINM.subscribe(["btcusd_perp@aggTrade", "btcusd_perp@trade"], 1)[0])
    assert list(coin.streams) == ["btcusd_perp@aggTrade", "btcusd_perp@trade"]
    coin.answer(COINM.unsubscribe(["btcusd_perp@trade"], 2)[0])
    assert list(coin.streams) == ["btcusd_perp@aggTrade"]
    assert orjson.loads(coin.answer(b"no")[0])["code"] == 3
    with pytest.raises(RefusedError):
        coin.answer(COINM.subscribe([f"s{number}@trade" for number in range(1025)], 3)[0])


@pytest.mark.parametrize("adapter", [USDM, COINM], ids=lambda adapter: adapter.NAME)
@pytest.mark.parametrize("depth", [1, 20, 50, 51, 500, 1000])
def test_requests_weigh_what_the_exchange_counts(adapter: Adapter, depth: int) -> None:
    kinds = [Action("snapshot", "book", "BTCUSDT"), Action("backfill", "agg_trade", "BTCUSDT", 7)]
    kinds.append(Action("poll", "open_interest", "BTCUSDT"))
    for asked in (*(adapter.request(kind, depth) for kind in kinds), adapter.instruments_request(["BTCUSDT"])):
        path, query = split(asked.path)
        assert asked.weight == standin.weight(path, query), path
        assert standin.rest(path, query, {})[0] != 404 and b"-1130" not in standin.rest(path, query, {})[1]


def test_the_stand_in_answers_with_what_was_recorded() -> None:
    assert standin.stream_of(b'{"stream":"btcusdt@depth@0ms","data":{}}') == "btcusdt@depth@100ms"
    assert standin.stream_of(b'{"result":null,"id":1}') is None
    assert standin.rest("/fapi/v1/depth", {"symbol": "BTCUSDT", "limit": "100"}, RECORDED)[0] == 200
    assert standin.rest("/fapi/v1/depth", {"symbol": "BTCUSDT"}, {"/usdm-btcusdt-20240808.gz": b"{}"}) == (200, b"{}")
    assert standin.rest("/fapi/v1/depth", {"symbol": "ETHUSDT"}, RECORDED)[0] == 400
    assert b"-1130" in standin.rest("/fapi/v1/depth", {"symbol": "BTCUSDT", "limit": "5000"}, RECORDED)[1]
    book = Snapshot("BTCUSDT", 9, 1723161256322 * 10**6, [("1", "2")], [])
    url = "/fapi/v1/depth?symbol=BTCUSDT"
    assert USDM.parse_rest(url, standin.book(book)) == book._replace(bids=[["1", "2"]])  # type: ignore[list-item]
    later = standin.rest("/fapi/v1/aggTrades", {"symbol": "BTCUSDT", "fromId": "26130"}, RECORDED)
    assert later == (200, b'[{"a":26130}]')
    assert standin.rest("/fapi/v1/exchangeInfo", {}, RECORDED)[1] == RECORDED["/fapi/v1/exchangeInfo"]
