"""Bybit's symbols and instruments: its own spellings, the unified names, and what it says of each."""

from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.adapter import Adapter
from common.events import Update
from common.exchanges import bybit
from common.foreign_recording import read_rest
from common.naming import resolve

SPOT, LINEAR, INVERSE = (cast(Adapter, exchanges.get(f"bybit-{name}")) for name in ("spot", "linear", "inverse"))
RECORDING = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "bybit" / "all.jsonl.gz"
MS = 1_000_000

recorded = pytest.mark.skipif(not RECORDING.exists(), reason="the recording of Bybit is not at hand")


@pytest.mark.parametrize(
    ("adapter", "symbol", "meant"),
    [
        (SPOT, "BTC-USDT", "BTCUSDT"),
        (SPOT, "btcusdt", "BTCUSDT"),
        (LINEAR, "BTC/USDT", "BTCUSDT"),
        (LINEAR, "BTC-USDT-PERP", "BTCUSDT"),
        (LINEAR, "BTC-USDC-PERP", "BTCPERP"),
        (INVERSE, "BTC-USD-PERP", "BTCUSD"),
        (LINEAR, "PERP", "PERP"),
    ],
)
def test_a_symbol_in_another_spelling_is_told_what_it_could_be(adapter: Adapter, symbol: str, meant: str) -> None:
    said = adapter.symbol_error(symbol)
    assert said is None if symbol == meant else said is not None and said.endswith(f"did you mean {meant}?")


def test_symbols_of_each_market_are_taken_as_they_are() -> None:
    assert not any(map(LINEAR.symbol_error, ["BTCUSDT", "1000PEPEUSDT", "BTCPERP", "BTCUSDT-14AUG26", "BTC-5DEC26"]))
    assert SPOT.symbol_error("BTCUSDT-14AUG26") and INVERSE.symbol_error("BTCUSDZ26") is None
    assert all(map(LINEAR.symbol_error, ["", "-", "BTC-", "A.B", "a", "BTC USDT", "*-USDT-PERP"]))


def test_one_symbol_is_asked_for_by_itself_and_several_with_their_category() -> None:
    path = "/v5/market/instruments-info?category=inverse&limit=1000"
    assert INVERSE.instruments_request(["BTCUSD"]).path == path + "&symbol=BTCUSD"
    assert INVERSE.instruments_request(["A", "B"]).path == INVERSE.instruments_request([]).path == path
    assert LINEAR.trading_symbols(b'{"retCode":10001,"retMsg":"params error","result":{}}') == {}
    assert LINEAR.trading_symbols(b'{"result":{"list":[{"symbol":"A","status":"PreLaunch"}]}}') == {"A": "PreLaunch"}


@recorded
def test_instruments_have_unified_names_by_which_they_are_found() -> None:
    linear, spot = read_rest(RECORDING).values()
    wanted, told = ["BTC-USDT-PERP", "BTC-USDC-PERP", "BTC-USDT-20261225"], LINEAR.instruments_request([]).path
    assert resolve(LINEAR, wanted, {told: linear}).symbols == ("BTCUSDT", "BTCPERP", "BTCUSDT-25DEC26")
    assert resolve(SPOT, ["BTC-USDT"], {SPOT.instruments_request([]).path: spot}).symbols == ("BTCUSDT",)
    for adapter, body, count in ((LINEAR, linear, 800), (SPOT, spot, 557)):
        status = adapter.trading_symbols(body)
        assert len(status) == count and set(status.values()) == {"TRADING"}
        assert not any(map(adapter.symbol_error, status))
    (future,) = [each for each in cast(list[Update], LINEAR.parse_rest(LINEAR.instruments_request([]).path, linear))
                 if each.symbol == "BTCUSDT-25DEC26"]  # fmt: skip
    assert future.fields["type"] == "future" and future.fields["expiry"] == 1798185600000 * MS
    assert (future.fields["tick_size"], future.fields["lot_size"], future.fields["settle"]) == ("0.10", "0.001", "USDT")


ODD = st.one_of(
    st.none(), st.booleans(), st.just([]), st.just({}), st.text(max_size=3), st.integers(-(2**60), 2**60),
    st.just(2**63), st.just("9" * 5000), st.floats(allow_nan=False), st.just([[]]), st.just([{}]), st.just("BTCUSDT"),
)  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(["list", "symbol", "contractType", "priceFilter", "lotSizeFilter", "deliveryTime"]), ODD)
def test_instruments_that_are_not_as_documented_are_passed_over(key: str, odd: Any) -> None:
    entry = {
        "symbol": "A", "contractType": "LinearFutures", "status": "Trading", "baseCoin": "A", "quoteCoin": "B",
        "settleCoin": "B", "deliveryTime": "1798185600000", "priceFilter": {"tickSize": "1"},
        "lotSizeFilter": {"qtyStep": "1"},
    }  # fmt: skip
    good, bad = dict(entry), {**entry, key: odd}
    body = orjson.dumps({"result": {"list": odd if key == "list" else [bad, good]}})
    found = bybit.parse_rest("/v5/market/instruments-info?category=linear", body) or []
    assert key == "list" or found[-1].fields["name"] == "A-B-20261225"
    bybit.trading_symbols(body)
