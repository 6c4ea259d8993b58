"""Kraken's tokenised shares (AAPLx/USD): REST knows them only where their class is asked for."""

from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from common import exchanges
from common.events import Action
from common.exchanges import kraken_standin
from common.naming import catalogue, resolve
from common.standin_server import split

KRAKEN = exchanges.get("kraken")
BTC = {"altname": "XBTUSD", "wsname": "XBT/USD", "tick_size": "0.1", "lot_decimals": 8, "status": "online"}
SHARE = {"altname": "AAPLxUSD", "wsname": "AAPLx/USD", "tick_size": "0.01", "lot_decimals": 8, "status": "online"}
RECORDED = {
    "/0/public/AssetPairs": orjson.dumps({"error": [], "result": {"XXBTZUSD": BTC}}),
    "/0/public/AssetPairs?aclass_base=tokenized_asset": orjson.dumps({"error": [], "result": {"AAPLxUSD": SHARE}}),
    "/0/public/Trades?pair=AAPLxUSD&since=0&count=1000&aclass_base=tokenized_asset": orjson.dumps(
        {"error": [], "result": {"AAPLxUSD": [["230.1", "0.5", 1762795434.5, "b", "m", "", 7]], "last": "1"}}
    ),
}


@pytest.mark.parametrize(("symbol", "asset_class"), [("AAPLx/USD", ["tokenized_asset"]), ("BTC/USD", None)])
def test_trades_that_were_missed_are_asked_for_with_the_class_of_their_asset(
    symbol: str, asset_class: list[str] | None
) -> None:
    query = parse_qs(urlsplit(KRAKEN.request(Action("backfill", "trade", symbol, 7, 10**9), 0).path).query)
    assert query.get("aclass_base") == asset_class and query["pair"] == [symbol.replace("/", "").replace("BTC", "XBT")]


def test_pairs_of_both_classes_are_asked_for_and_named() -> None:
    groups = KRAKEN.inquiries(["BTC/USD", "AAPLx/USD", "ETH/USD"])
    assert groups == [["BTC/USD", "ETH/USD"], ["AAPLx/USD"]] and KRAKEN.inquiries(["AAPLx/USD"]) == [["AAPLx/USD"]]
    asked = [KRAKEN.instruments_request(group).path for group in groups]
    assert asked == [request.path for request in catalogue(KRAKEN)] == list(RECORDED)[:2]
    answers = {path: RECORDED[path] for path in asked}
    assert resolve(KRAKEN, ["AAPLx-USD", "*-USD"], answers).symbols == ("AAPLx/USD", "BTC/USD")


def test_the_stand_in_tells_of_each_class_only_where_it_is_asked_for() -> None:
    listed = [KRAKEN.trading_symbols(kraken_standin.rest(*split(path), RECORDED)[1]) for path in list(RECORDED)[:2]]
    assert [list(each) for each in listed] == [["BTC/USD"], ["AAPLx/USD"]]
    path, query = split(KRAKEN.request(Action("backfill", "trade", "AAPLx/USD", 7, 10**9), 0).path)
    assert b'"AAPLxUSD"' in kraken_standin.rest(path, query, RECORDED)[1]
    del query["aclass_base"]
    assert b"EGeneral" in kraken_standin.rest(path, query, RECORDED)[1]
