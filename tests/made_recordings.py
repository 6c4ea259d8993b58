"""Small recordings of exchanges of which there is no genuine one, made of the frames that their documents show.

Each is a book of which one level after the other changes, and with each change a trade; the documents' example of every
other channel comes once. `SAID` is what all of them mean.
"""

import gzip
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson

CHANGES = 100
BEGAN = 1785585600
"""Seconds: 2026-08-01 12:00 UTC, when the first frame was recorded; ten come a second."""

MS = 1_000_000
COIN = "BTCUSD_200626"
COIN_MS = 1591270260000
BYBIT_MS = 1672304486000


def made(exchange: str, path: Path) -> Path:
    """The recording of an exchange, written to a file."""
    with gzip.open(path, "wb") as file:
        for line in _MAKERS[exchange]():
            file.write(line + b"\n")
    return path


def is_made(exchange: str) -> bool:
    return exchange in _MAKERS


def _frame(number: int, payload: bytes) -> bytes:
    return f"{BEGAN + number / 10}: ".encode() + payload


def _asked(url: str, body: bytes) -> bytes:
    return f"{url} -> {BEGAN}.0: ".encode() + body


def _kraken() -> Iterator[bytes]:
    """Its book has checksums, of the digits as they are sent."""
    bids, asks = ({f"{price + step * 0.1:.1f}": "1.00000000" for step in range(10)} for price in (99.0, 100.0))
    for number in range(CHANGES):
        price = sorted(bids)[number % 10]
        bids[price] = f"0.{number + 1:08d}"
        levels = [*sorted(asks.items(), key=lambda level: float(level[0])), *sorted(bids.items(), reverse=True)]
        digits = "".join(text.replace(".", "").lstrip("0") for level in levels for text in level)
        changed = (bids, asks) if number == 0 else ({price: bids[price]}, {})
        sides = [",".join(f'{{"price":{each},"qty":{qty}}}' for each, qty in side.items()) for side in changed]
        time = f"2026-08-01T12:00:{number // 10:02d}.{number % 10}00000Z"
        book = (
            f'{{"channel":"book","type":"{"update" if number else "snapshot"}","data":[{{"symbol":"BTC/USD",'
            f'"bids":[{sides[0]}],"asks":[{sides[1]}],"checksum":{crc32(digits.encode())},"timestamp":"{time}"}}]}}'
        )
        trade = (
            f'{{"channel":"trade","type":"update","data":[{{"symbol":"BTC/USD","side":"buy","price":100.0,'
            f'"qty":0.10,"ord_type":"limit","trade_id":{number + 1},"timestamp":"{time}"}}]}}'
        )
        yield from (_frame(number, frame.encode()) for frame in (book, trade))


def _coin() -> Iterator[bytes]:
    """COIN-M: amounts are contracts; each delta names the id before it, and ids jump."""
    rest = "https://dapi.binance.com/dapi/v1/"
    book = {"lastUpdateId": 17285675, "symbol": COIN, "pair": "BTCUSD", "E": COIN_MS, "T": COIN_MS}
    levels = {"bids": [["9517.6", "1"]], "asks": [["9518.5", "1"]]}
    yield _asked(f"{rest}depth?symbol={COIN}&limit=1000", orjson.dumps({**book, **levels}))
    interest = {"symbol": COIN, "pair": "BTCUSD", "openInterest": "15004", "contractType": "CURRENT_QUARTER"}
    yield _asked(f"{rest}openInterest?symbol={COIN}", orjson.dumps({**interest, "time": 1591261042378}))
    yield _asked(f"{rest}exchangeInfo", orjson.dumps({"symbols": [COIN_INSTRUMENT]}))
    yield from (_frame(0, b'{"stream":"btcusd_200626@%s","data":%s}' % each) for each in _COIN_ONCE)
    for number in range(CHANGES):
        time, before = COIN_MS + number * 100, 17285675 + number * 27
        delta = {"e": "depthUpdate", "E": time + 16, "T": time, "s": COIN, "ps": "BTCUSD"}
        ids = {"U": before + 6, "u": before + 27, "pu": before}
        sides = {"b": [["9517.6", str(10 + number)]], "a": [["9518.5", "45"]], "st": 2}
        sold = {"p": "9517.6", "q": "10", "T": time, "m": number % 2 == 0}
        trade = {"e": "trade", "E": time, "s": COIN, "t": 606400 + number, "X": "MARKET", **sold, "st": 2}
        agg = {"e": "aggTrade", "E": time, "s": COIN, "a": 424951 + number, "f": 606400, "l": 606400 + number, **sold}
        for stream, data in (("depth@100ms", {**delta, **ids, **sides}), ("trade", trade), ("aggTrade", agg)):
            yield _frame(number, orjson.dumps({"stream": f"btcusd_200626@{stream}", "data": data}))


COIN_INSTRUMENT = {
    "symbol": COIN, "pair": "BTCUSD", "contractType": "CURRENT_QUARTER", "deliveryDate": 1593158400000,
    "contractStatus": "TRADING", "contractSize": 100, "marginAsset": "BTC", "baseAsset": "BTC", "quoteAsset": "USD",
    "pricePrecision": 2, "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.1"},
                                     {"filterType": "LOT_SIZE", "stepSize": "1"}],
}  # fmt: skip
_COIN_ONCE: tuple[tuple[bytes, bytes], ...] = (
    (b"bookTicker", b'{"e":"bookTicker","u":17242169,"s":"BTCUSD_200626","ps":"BTCUSD","b":"9548.1","B":"52",'
     b'"a":"9548.5","A":"11","T":1591268628155,"E":1591268628166,"st":2}'),
    (b"markPrice@1s", b'{"e":"markPriceUpdate","E":1591261236000,"s":"BTCUSD_200626","p":"10934.62615417",'
     b'"P":"10962.17178236","r":"","T":0,"st":2}'),
    (b"forceOrder", b'{"e":"forceOrder","E":1591154240950,"o":{"s":"BTCUSD_200626","ps":"BTCUSD","S":"SELL",'
     b'"o":"LIMIT","f":"IOC","q":"1","p":"9425.5","ap":"9496.5","X":"FILLED","l":"1","z":"1","T":1591154240949},'
     b'"st":2}'),
    (b"kline_1m", b'{"e":"kline","E":1591261542539,"s":"BTCUSD_200626","k":{"t":1591261500000,"T":1591261559999,'
     b'"s":"BTCUSD_200626","i":"1m","f":606400,"L":606430,"o":"9638.9","c":"9639.8","h":"9639.8","l":"9638.6",'
     b'"v":"156","n":31,"x":false,"q":"1.61836886","V":"73","Q":"0.75731156","B":"0"},"st":2}'),
    (b"ticker", b'{"e":"24hrTicker","E":1591268262453,"s":"BTCUSD_200626","ps":"BTCUSD","p":"-43.4","P":"-0.452",'
     b'"w":"0.00147974","c":"9548.5","Q":"2","o":"9591.9","h":"10000.0","l":"7000.0","v":"487850",'
     b'"q":"32968676323.46222700","O":1591181820000,"C":1591268262442,"F":512014,"L":615289,"n":103272,"st":2}'),
)  # fmt: skip


def _bybit(category: str) -> Iterator[bytes]:
    """Spot: ids of trades are numbers, tickers are whole. Inverse: amounts are dollars, tickers name what changed."""
    symbol = "BTCUSDT" if category == "spot" else "BTCUSD"
    url = f"https://api.bybit.com/v5/market/instruments-info?category={category}&limit=1000&symbol={symbol}"
    yield _asked(url, orjson.dumps({"retCode": 0, "result": {"list": [_BYBIT_INSTRUMENT[category]]}}))
    yield from (_frame(0, frame) for frame in _BYBIT_ONCE[category])
    for number in range(CHANGES):
        time, seq = BYBIT_MS + number * 100, 1783284617 + number // 2 * 3  # two messages share each
        levels = {"b": [["16493.50", str(number + 1)]], "a": [["16611.00", "0.029"]] if number == 0 else []}
        data = {"s": symbol, **levels, "u": 18521288 + number, "seq": 7961638724 + number}
        head = {"topic": f"orderbook.200.{symbol}", "type": "delta" if number else "snapshot", "ts": time + 2}
        yield _frame(number, orjson.dumps({**head, "data": data, "cts": time}))
        trade_id = str(2290000000075000000 + number) if category == "spot" else _uuid(number)
        sold = {"T": time, "s": symbol, "S": "Sell" if number % 2 else "Buy", "v": "0.001", "p": "16578.50"}
        trade = {**sold, "L": "PlusTick", "i": trade_id, "BT": False, "RPI": False, "seq": seq}
        head = {"topic": f"publicTrade.{symbol}", "type": "snapshot", "ts": time + 3}
        yield _frame(number, orjson.dumps({**head, "data": [trade]}))


def _uuid(number: int) -> str:
    return f"20f43950-d8dd-5b31-9112-{number:012x}"


_PRICES = {"baseCoin": "BTC", "status": "Trading", "priceFilter": {"tickSize": "0.10"}}
_BYBIT_INSTRUMENT: dict[str, dict[str, Any]] = {
    "spot": {**_PRICES, "symbol": "BTCUSDT", "quoteCoin": "USDT",
             "lotSizeFilter": {"basePrecision": "0.000001", "minOrderAmt": "1"}},
    "inverse": {**_PRICES, "symbol": "BTCUSD", "quoteCoin": "USD", "settleCoin": "BTC", "deliveryTime": "0",
                "contractType": "InversePerpetual", "lotSizeFilter": {"qtyStep": "1", "minOrderQty": "1"}},
}  # fmt: skip
_BYBIT_ONCE: dict[str, tuple[bytes, ...]] = {
    "spot": (
        b'{"topic":"tickers.BTCUSDT","ts":1673853746003,"type":"snapshot","cs":2588407389,"data":{"symbol":"BTCUSDT",'
        b'"lastPrice":"21109.77","highPrice24h":"21426.99","lowPrice24h":"20575","prevPrice24h":"20704.93",'
        b'"volume24h":"6780.866843","turnover24h":"141946527.22907118","price24hPcnt":"0.0196",'
        b'"usdIndexPrice":"21120.2400136"}}',
        b'{"topic":"orderbook.1.BTCUSDT","ts":1687940967466,"type":"snapshot","data":{"s":"BTCUSDT",'
        b'"b":[["30247.20","30.028"]],"a":[["30248.70","0.5"]],"u":177400507,"seq":66544703342},'
        b'"cts":1687940967464}',
        b'{"topic":"kline.1.BTCUSDT","data":[{"start":1672324800000,"end":1672324859999,"interval":"1",'
        b'"open":"16649.5","close":"16677","high":"16677","low":"16608","volume":"2.081","turnover":"34666.4005",'
        b'"confirm":true,"timestamp":1672324988882}],"ts":1672324988882,"type":"snapshot"}',
    ),
    "inverse": (
        b'{"topic":"tickers.BTCUSD","type":"snapshot","data":{"symbol":"BTCUSD","tickDirection":"PlusTick",'
        b'"price24hPcnt":"0.017103","lastPrice":"17216.00","prevPrice24h":"16926.50","highPrice24h":"17281.50",'
        b'"lowPrice24h":"16915.00","markPrice":"17217.33","indexPrice":"17227.36","openInterest":"685744871",'
        b'"openInterestValue":"39829.67","turnover24h":"81211.47","volume24h":"1392012398",'
        b'"nextFundingTime":"1673280000000","fundingRate":"-0.000212","bid1Price":"17215.50","bid1Size":"84489",'
        b'"ask1Price":"17216.00","ask1Size":"83020"},"cs":24987956059,"ts":1673272861686}',
        b'{"topic":"tickers.BTCUSD","type":"delta","data":{"symbol":"BTCUSD","lastPrice":"17216.50"},'
        b'"cs":24987956060,"ts":1673272861786}',
        b'{"topic":"allLiquidation.BTCUSD","type":"snapshot","ts":1739502303204,"data":[{"T":1739502302929,'
        b'"s":"BTCUSD","S":"Sell","v":"20000","p":"17000.50"}]}',
    ),
}

_MAKERS: dict[str, Callable[[], Iterator[bytes]]] = {
    "kraken": _kraken,
    "binance-coinm": _coin,
    "bybit-spot": partial(_bybit, "spot"),
    "bybit-inverse": partial(_bybit, "inverse"),
}


def _at(ms: int) -> dict[str, int]:
    return {"ts_event": ms * MS}


_COIN_SOLD = {"price": "9517.6", "amount": "10"}
_BYBIT_SOLD = {"price": "16578.50", "amount": "0.001"}
_BYBIT_BOOK = {"channel": "book", **_at(BYBIT_MS), "type": "snapshot", "last_id": "18521288"}
_BYBIT_LEVELS = {"bids": [["16493.50", "1"]], "asks": [["16611.00", "0.029"]]}
_NO_OPTION = {"strike": None, "option_type": None}
_LASTING = {**_NO_OPTION, "expiry": None, "contract_size": None}
_INVERSE_DAY = {"open": "16926.50", "high": "17281.50", "low": "16915.00", "volume": "1392012398"}
SAID: dict[str, tuple[dict[str, Any], ...]] = {
    "kraken": (
        {"channel": "trade", **_at(BEGAN * 1000 + 100), "id": "2", "price": "100.0", "amount": "0.10", "side": "buy"},
    ),
    "binance-coinm": (
        {"channel": "trade", **_at(COIN_MS), "id": "606400", **_COIN_SOLD, "side": "sell"},
        {"channel": "trade", **_at(COIN_MS + 100), "id": "606401", **_COIN_SOLD, "side": "buy"},
        {"channel": "agg_trade", **_at(COIN_MS + 100), "id": "424952", **_COIN_SOLD, "side": "buy",
         "first_id": "606400", "last_id": "606401"},
        {"channel": "book", **_at(COIN_MS + 4000), "type": "delta", "bids": [["9517.6", "50"]],
         "asks": [["9518.5", "45"]], "first_id": "17286761", "last_id": "17286782", "prev_id": "17286755"},
        {"channel": "quote", **_at(1591268628155), "bid_price": "9548.1", "bid_amount": "52", "ask_price": "9548.5",
         "ask_amount": "11"},
        {"channel": "mark", **_at(1591261236000), "mark_price": "10934.62615417", "index_price": None},
        {"channel": "liquidation", **_at(1591154240949), "id": None, "price": "9425.5", "amount": "1", "side": "sell"},
        {"channel": "candle", **_at(1591261542539), "interval": "1m", "open_ts": 1591261500000 * MS,
         "close_ts": 1591261559999 * MS, "open": "9638.9", "high": "9639.8", "low": "9638.6", "close": "9639.8",
         "volume": "156", "quote_volume": None, "trades": 31, "closed": False},
        {"channel": "ticker", **_at(1591268262453), "last": "9548.5", "open": "9591.9", "high": "10000.0",
         "low": "7000.0", "volume": "487850", "quote_volume": None},
        {"channel": "instrument", "ts_event": None, "name": "BTC-USD-20200626", "type": "future", "base": "BTC",
         "quote": "USD", "settle": "BTC", "expiry": 1593158400000 * MS, "contract_size": "100", "tick_size": "0.1",
         "lot_size": "1", "status": "trading", **_NO_OPTION},
    ),
    "bybit-spot": (
        {"channel": "trade", **_at(BYBIT_MS), "id": "2290000000075000000", **_BYBIT_SOLD, "side": "buy"},
        {"channel": "trade", **_at(BYBIT_MS + 100), "id": "2290000000075000001", **_BYBIT_SOLD, "side": "sell"},
        {**_BYBIT_BOOK, **_BYBIT_LEVELS},
        {"channel": "quote", **_at(1687940967464), "bid_price": "30247.20", "bid_amount": "30.028",
         "ask_price": "30248.70", "ask_amount": "0.5"},
        {"channel": "ticker", **_at(1673853746003), "last": "21109.77", "open": "20704.93", "high": "21426.99",
         "low": "20575", "volume": "6780.866843", "quote_volume": "141946527.22907118"},
        {"channel": "candle", **_at(1672324988882), "interval": "1", "open_ts": 1672324800000 * MS,
         "close_ts": 1672324859999 * MS, "open": "16649.5", "high": "16677", "low": "16608", "close": "16677",
         "volume": "2.081", "quote_volume": "34666.4005", "trades": None, "closed": True},
        {"channel": "instrument", "ts_event": None, "name": "BTC-USDT", "type": "spot", "base": "BTC",
         "quote": "USDT", "settle": None, "tick_size": "0.10", "lot_size": "0.000001", "status": "trading",
         **_LASTING},
    ),
    "bybit-inverse": (
        {"channel": "trade", **_at(BYBIT_MS + 100), "id": _uuid(1), **_BYBIT_SOLD, "side": "sell"},
        {**_BYBIT_BOOK, **_BYBIT_LEVELS},
        {"channel": "ticker", **_at(1673272861686), "last": "17216.00", **_INVERSE_DAY, "quote_volume": "81211.47"},
        {"channel": "ticker", **_at(1673272861786), "last": "17216.50", **_INVERSE_DAY, "quote_volume": "81211.47"},
        {"channel": "mark", **_at(1673272861686), "mark_price": "17217.33", "index_price": "17227.36"},
        {"channel": "funding", **_at(1673272861686), "rate": "-0.000212", "predicted_rate": None,
         "next_ts": 1673280000000 * MS},
        {"channel": "open_interest", **_at(1673272861686), "open_interest": "685744871"},
        {"channel": "liquidation", **_at(1739502302929), "id": None, "price": "17000.50", "amount": "20000",
         "side": "buy"},
        {"channel": "instrument", "ts_event": None, "name": "BTC-USD-PERP", "type": "perpetual", "base": "BTC",
         "quote": "USD", "settle": "BTC", "tick_size": "0.10", "lot_size": "1", "status": "trading",
         **_LASTING},
    ),
}  # fmt: skip
"""Events that the recordings bring, all that they say; beside exchange, symbol and numbers."""
