"""What an exchange leaves out is null: only what an event cannot do without is required."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from common import exchanges
from common.adapter import Adapter
from common.events import Update
from common.exchanges import kraken
from common.foreign_recording import BINARY, read_frames
from common.normaliser import Normaliser
from common.record import decode
from tests import made_recordings, test_htx, test_kraken, test_okx
from tests import test_binance as of_binance
from tests import test_binance_futures as of_futures
from tests import test_coinbase as of_coinbase
from tests.exchange_runs import Run

SHARED = Path(__file__).resolve().parents[2] / "shared"
RECORDED = {
    "binance": "binance/spot-btcusdt-20240808.gz",
    "binance-usdm": "binance/usdm-btcusdt-20240808.gz",
    "bitstamp": "bitstamp/ws-1.txt.gz",
    "bybit-linear": "bybit/all.jsonl.gz",
    "coinbase": "coinbase/ws-28.txt.gz",
    "coinbase-advanced": "coinbase-advanced/all.jsonl.gz",
    "htx": "htx/ws-44.txt.gz",
    "okx": "okx/ws-1.txt.gz",
}
DOCUMENTED: dict[str, list[bytes]] = {
    "binance": [value for value in vars(of_binance).values() if type(value) is bytes and b'"e"' in value],
    "binance-usdm": [value for value in vars(of_futures).values() if type(value) is bytes and b'"e"' in value],
    "coinbase": [value for value in vars(of_coinbase).values() if type(value) is bytes and b'"type"' in value],
    "htx": [value for value in vars(test_htx).values() if type(value) is bytes and b'"ch"' in value],
    "kraken": [value for value in vars(test_kraken).values() if type(value) is bytes and b'"channel"' in value],
    "okx": list(test_okx.PARSED),
}
OF_EACH = 4
"""Frames of a kind that are tried."""

_BINANCE = {"s", "e", "p", "q", "m", "t", "a", "b", "U", "u", "pu", "k", "i", "data", "o", "S", "c"}
ESSENTIAL: dict[str, set[str]] = {
    # symbol and kind; price, amount and side of a trade; its id, where ids prove that none is missing; a book's levels
    # and what links them; what a candle is of
    "binance": _BINANCE,
    "binance-usdm": _BINANCE,
    "binance-coinm": _BINANCE,
    "kraken": {"channel", "data", "symbol", "side", "price", "qty", "trade_id", "bids", "asks", "type", "interval",
               "interval_begin"},
    "bitstamp": {"event", "channel", "data", "price_str", "amount_str", "type", "microtimestamp", "bids", "asks"},
    "coinbase": {"type", "product_id", "trade_id", "price", "size", "side", "changes", "bids", "asks"},
    "coinbase-advanced": {"channel", "events", "type", "product_id", "updates", "trades", "tickers", "candles", "side",
                          "price_level", "new_quantity", "trade_id", "price", "size", "start"},
    "bybit": {"topic", "type", "data", "p", "v", "S", "b", "a", "u", "interval", "start"},
    "okx": {"arg", "channel", "data", "instId", "tradeId", "px", "sz", "side", "action", "bids", "asks", "prevSeqId",
            "markPx", "idxPx", "oi", "details"},
    "htx": {"ch", "tick", "data", "tradeId", "price", "amount", "direction", "seqNum", "prevSeqNum", "bids", "asks",
            "version", "id", "rep", "status"},
}  # fmt: skip
NOT_HERE = {"ticker": {"p", "q", "a", "b", "u", "c", "i", "o", "price", "amount", "side", "size", "id", "trade_id",
                       "B"},
            "quote": {"b", "a", "u", "B", "p", "q"}, "mark": {"p", "i"}, "funding": {"p", "i"}}  # fmt: skip
"""Keys that are essential to other channels' events only."""

FORMS: list[Any] = [None, ""]


def frames(exchange: str) -> list[bytes]:
    """Some frames of each kind: documented ones, and real ones where there is a recording."""
    adapter = exchanges.get(exchange)
    found = list(DOCUMENTED.get(exchange, ()))
    if made_recordings.is_made(exchange):
        found += [line.partition(b": ")[2].strip() for line in made_recordings._MAKERS[exchange]()]
    path = SHARED / "recordings" / RECORDED.get(exchange, "none")
    seen: Counter[str] = Counter()
    for _, kind, payload in read_frames(path) if path.is_file() else ():
        text = adapter.inflate(payload, 1 << 26) if kind == BINARY and adapter.inflate else payload
        try:
            said = channels(adapter, text)
        except ValueError:
            continue
        if said and seen[said] < OF_EACH:
            seen[said] += 1
            found.append(text)
        if sum(seen.values()) >= OF_EACH * 8:
            break
    return [frame for frame in found if channels(adapter, frame) not in ("", "instrument")]


def channels(adapter: Any, payload: bytes) -> str:
    return ",".join(sorted({update.channel for update in told(adapter, payload)}))


def told(adapter: Any, payload: bytes) -> list[Update]:
    try:
        parsed = adapter.parse(adapter.loads(payload))
    except ValueError:
        return []
    return [parsed] if isinstance(parsed, Update) else parsed if isinstance(parsed, list) else []


def without_one(value: Any, essential: set[str], path: str = "") -> Iterator[tuple[str, Any]]:
    """The value without one of its keys, or with null or an empty text there, for each key anywhere in it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in essential:
                yield f"{path}.{key} absent", {name: each for name, each in value.items() if name != key}
                yield from ((f"{path}.{key} {form!r}", {**value, key: form}) for form in FORMS)
            for how, less in without_one(inner, essential, f"{path}.{key}"):
                yield how, {**value, key: less}
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for how, less in without_one(value[0], essential, f"{path}[0]"):
            yield how, [less, *value[1:]]


@pytest.mark.parametrize("exchange", exchanges.names())
def test_an_event_comes_whatever_is_absent_that_it_can_do_without(exchange: str) -> None:
    adapter = exchanges.get(exchange)
    required = ESSENTIAL["bybit" if exchange.startswith("bybit") else exchange]
    tried = 0
    for frame in frames(exchange):
        said = {update.channel for update in told(adapter, frame)}
        essential = required - set.intersection(*(NOT_HERE.get(channel, set()) for channel in said))
        for how, less in without_one(json.loads(frame, parse_float=lambda digits: _Digits(digits)), essential):
            payload = _dumped(less)
            found = told(adapter, payload)
            missing = said - {update.channel for update in found}
            assert not missing - {"funding", "mark", "open_interest"} and found, f"{how}: {frame.decode()}"
            tried += 1
    assert tried > 20


class _Digits(float):
    """A JSON number that is written as it was read."""

    def __new__(cls, digits: str) -> "_Digits":
        made = super().__new__(cls, digits)
        made.digits = digits  # type: ignore[attr-defined]
        return made

    def __repr__(self) -> str:
        return cast(str, self.digits)  # type: ignore[attr-defined]


def _dumped(value: Any) -> bytes:
    if isinstance(value, dict):
        return b"{" + b",".join(orjson.dumps(key) + b":" + _dumped(each) for key, each in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(_dumped, value)) + b"]"
    return repr(value).encode() if isinstance(value, _Digits) else json.dumps(value).encode()


def test_a_kraken_ticker_without_a_timestamp_is_a_quote_and_a_ticker() -> None:
    path = SHARED / "cases" / "ticker-without-timestamp-kraken.jsonl"
    if not path.exists():
        pytest.skip(f"no case {path}")
    normaliser = Normaliser(cast(Adapter, exchanges.get("kraken")))
    events = [
        orjson.loads(message.partition(b" ")[2])
        for line in path.read_bytes().splitlines(keepends=True)
        for message in normaliser.messages(decode(line))
    ]
    assert [(event["channel"], event["ts_event"]) for event in events] == [
        ("quote", None), ("ticker", None), ("quote", 1780000000000001000), ("ticker", 1780000000000001000)
    ]  # fmt: skip


TICKER = (
    b'{"channel":"ticker","type":"snapshot","data":[{"symbol":"A/USD","bid":%b,"bid_qty":%b,"ask":%b,"ask_qty":%b,'
    b'"last":0.0,"volume":0.00000000,"vwap":0.0,"low":0.0,"high":0.0,"change":0.0,"change_pct":0.0,'
    b'"timestamp":"1970-01-01T00:00:00.000000Z"}]}'
)


def test_zeros_that_stand_for_none_are_null_and_an_amount_of_zero_beside_a_price_is_zero() -> None:
    quote, ticker = told(kraken_adapter(), TICKER % (b"0.0", b"0.00000000", b"0", b"0"))
    assert set(quote.fields.values()) == {None} and (quote.ts_event, ticker.ts_event) == (None, None)
    assert {name for name, value in ticker.fields.items() if value is not None} == {"volume"}
    quote, _ = told(kraken_adapter(), TICKER % (b"0.5", b"0", b"1e-7", b"1"))
    assert list(quote.fields.values()) == ["0.5", "0", "1e-7", "1"]


def kraken_adapter() -> Any:
    assert kraken.NAME == "kraken"
    return exchanges.get("kraken")


@pytest.mark.parametrize(
    ("exchange", "frame"),
    [
        ("binance", b'{"u":1,"s":"A","b":"0.00000000","B":"0.00000000","a":"0.00000000","A":"0.00000000"}'),
        ("binance-usdm", b'{"e":"bookTicker","u":1,"s":"A","b":"0","B":"0","a":"0.00","A":"0","T":0,"E":0}'),
        ("coinbase", b'{"type":"ticker","product_id":"A-B","sequence":1,"best_bid":"0","best_bid_size":"0",'
         b'"best_ask":"0.00","best_ask_size":"0","time":"1970-01-01T00:00:00.000000Z"}'),
        ("okx", b'{"arg":{"channel":"tickers","instId":"A-B"},"data":[{"instId":"A-B","bidPx":"0","bidSz":"0",'
         b'"askPx":"0","askSz":"0","ts":"0"}]}'),
        ("bybit-spot", b'{"topic":"orderbook.1.A","type":"snapshot","ts":0,"data":{"s":"A","b":[["0","0"]],'
         b'"a":[["0","0"]],"u":1,"seq":1}}'),
        ("htx", b'{"ch":"market.ab.bbo","ts":0,"tick":{"seqId":1,"bid":0.0,"bidSize":0.0,"ask":0,"askSize":0,'
         b'"quoteTime":0,"symbol":"ab"}}'),
        ("coinbase-advanced", b'{"channel":"ticker","timestamp":"1970-01-01T00:00:00Z","sequence_num":0,"events":'
         b'[{"type":"snapshot","tickers":[{"product_id":"A-B","best_bid":"0","best_bid_quantity":"0","best_ask":'
         b'"0.00","best_ask_quantity":"0"}]}]}'),
    ],
)  # fmt: skip
def test_a_quote_of_zeros_has_neither_prices_nor_a_time(exchange: str, frame: bytes) -> None:
    quote = next(update for update in told(exchanges.get(exchange), frame) if update.channel == "quote")
    assert set(quote.fields.values()) == {None} and quote.ts_event is None


@pytest.mark.parametrize("rate", [b"", b'"fundingRate":"",'])
def test_okx_funding_without_a_rate_is_an_event_of_a_null_rate(rate: bytes) -> None:
    frame = test_okx.FUNDING.replace(b'"fundingRate":"0.0001",', rate)
    (update,) = told(exchanges.get("okx"), frame)
    assert update.fields["rate"] is None and update.fields["next_ts"] is not None


def test_updates_without_a_time_go_on_over_a_switch_of_connections() -> None:
    """Nothing puts them in order: what the one followed now brings is told, and the seam is a gap."""
    run = Run(exchanges.get("kraken"), "A/USD")
    frame = TICKER % (b"1", b"1", b"2", b"1")
    for conn in (1, 2, 1, 2):
        run.take(frame, conn)
    run.close(1)
    for _ in range(3):
        run.take(frame, 2)
    assert len(run.of("quote")) == 5 and not run.normaliser.errors
