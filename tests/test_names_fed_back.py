"""The unified names that `instruments` tells are taken wherever symbols are asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import orjson
import pytest

from common import cli, exchanges, limits, replay_options, requests
from common.adapter import Adapter
from common.client import Client
from common.errors import ArchivistError
from common.events import Update
from common.foreign_recording import read_rest
from common.naming import is_own, may_be_name, resolve
from common.record import encode
from common.spelling import spelled
from common.transport import Local
from tests.archives import FIRST, FIRST_TS, Archive
from tests.test_instruments import LISTED, answer

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings"
RECORDED = {
    "bitstamp": "bitstamp/instruments.txt.gz",
    "bybit-spot": "bybit/all.jsonl.gz",
    "bybit-linear": "bybit/all.jsonl.gz",
    "coinbase": "coinbase/instruments.txt.gz",
    "coinbase-advanced": "coinbase-advanced/all.jsonl.gz",
    "htx": "htx/instruments.txt.gz",
    "okx": "okx/instruments.txt.gz",
}
XPERP = {
    "instId": "BTC-USD_UM_XPERP-310404", "instType": "FUTURES", "ruleType": "xperp", "uly": "BTC-USD",
    "instFamily": "BTC-USD_UM_XPERP", "settleCcy": "USD", "state": "live", "tickSz": "0.1", "lotSz": "1",
    "ctVal": "0.01", "ctMult": "1", "expTime": "1933027200000",
}  # fmt: skip
SWAP = {**XPERP, "instId": "BTC-USD_UM-SWAP", "instType": "SWAP", "instFamily": "BTC-USD_UM", "expTime": ""}
ODD: dict[str, list[dict[str, Any]]] = {
    "binance": [{**LISTED["binance"][1], "symbol": "币安人生USDT", "baseAsset": "币安人生"}],
    "binance-usdm": [{**LISTED["binance-usdm"][1], "symbol": "币安人生USDT", "baseAsset": "币安人生"}],
    "kraken": [{**LISTED["kraken"][1], "wsname": name} for name in ("AAPLx/USD", "ETH2.S/USD", "A_B/USD")],
    "okx": [XPERP, SWAP],
}
"""As documented, of letters that are not A–Z, in small letters, with points and underscores."""


def catalogues() -> Iterator[Any]:
    for exchange, entries in ODD.items():
        yield pytest.param(exchange, LISTED[exchange][0], answer(exchange, entries), id=f"{exchange}, odd")
    for exchange, (url, entry, _) in LISTED.items():
        yield pytest.param(exchange, url, answer(exchange, [entry]), id=exchange)
    for exchange, name in RECORDED.items():
        if not (path := RECORDINGS / name).exists():
            reason = pytest.mark.skip(reason=f"no recording {path}")
            yield pytest.param(exchange, "", b"", id=f"{exchange}, recorded", marks=reason)
            continue
        for place, (address, body) in enumerate(read_rest(path).items()):
            parts = urlsplit(address)
            if exchange.startswith("bybit") and f"category={exchange.removeprefix('bybit-')}" not in parts.query:
                continue
            url = parts.path + ("?" + parts.query if parts.query else "")
            yield pytest.param(exchange, url, body, id=f"{exchange}, recorded {place}")


@pytest.mark.parametrize(("exchange", "url", "body"), list(catalogues()))
def test_each_name_of_a_catalogue_means_its_symbol_in_the_configuration_and_in_requests(
    exchange: str, url: str, body: bytes
) -> None:
    adapter = cast(Adapter, exchanges.get(exchange))
    found = cast(list[Update], adapter.parse_rest(url, body))
    named = {update.fields["name"]: update.symbol for update in found}
    assert named
    names = list(named)
    assert limits.checked(f"feed.{exchange}.symbols", names, tuple[str, ...]) == tuple(names)
    for name in names:
        assert is_own(adapter, name) or may_be_name(name)
        assert not is_own(adapter, name) or named[name] == name
        requests.parse({"op": "slice", "exchange": exchange, "symbols": [name]}, 0)
        requests.parse({"op": "book", "exchange": exchange, "symbol": name}, 0)
    assert resolve(adapter, names, {url: body}).symbols == tuple(dict.fromkeys(named.values()))


def archive_of(storage: Path, exchange: str) -> dict[str, str]:
    """An archive of the odd symbols with what the exchange tells of them; returns each name's symbol."""
    adapter, (url, _, _) = exchanges.get(exchange), LISTED[exchange]
    body = answer(exchange, ODD[exchange])
    named = {update.fields["name"]: update.symbol for update in adapter.parse_rest(url, body)}
    made = Archive(storage, exchange=exchange)
    subscriptions = {"symbols": list(named.values()), "channels": list(adapter.CHANNELS)}
    made.writer.hole(FIRST, 0)
    about = orjson.dumps({"exchange": exchange, "subscriptions": subscriptions})
    lines = [encode(FIRST, FIRST_TS, "start", head={"last": 0}, payload=about)]
    head = {"url": url, "status": 200}
    lines.append(encode(FIRST + 1, FIRST_TS, "rest", head=head, payload=body))
    for number, symbol in enumerate(named.values(), FIRST + 2):
        payload = orjson.dumps({"state": "open", "reason": "silent"})
        lines.append(encode(number, FIRST_TS, "gap", channel="trade", symbol=symbol, payload=payload))
    made.take(lines)
    made.close()
    return named


@pytest.mark.parametrize("exchange", ODD)
def test_odd_names_are_taken_by_slice_book_follow_replay_and_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], exchange: str
) -> None:
    named = archive_of(tmp_path, exchange)
    with Client(storage=tmp_path) as client:
        assert {each["name"] for each in client.instruments(exchange)} == named.keys()
        for name, symbol in named.items():
            assert {event["symbol"] for event in client.slice(exchange, name, "instrument")} == {symbol}
            with pytest.raises(ArchivistError) as refused:
                client.book(exchange, name)
            assert refused.value.code == "no_book"
    assert spelled(Local(tmp_path), exchange, list(named)) == tuple(named.values())  # as `follow` asks
    (part,) = replay_options._parts([exchange, *named], "trade", tmp_path)
    assert part.symbols == tuple(named.values())
    assert cli.main(["gaps", exchange, *named, "--storage", str(tmp_path)]) == 0
    assert all(symbol in capsys.readouterr().out for symbol in list(named.values())[:1])


def test_names_in_small_letters_alone_and_paths_are_no_names() -> None:
    assert all(map(may_be_name, ("AAPLx-USD", "币安人生-USDT", "BTC-USD_UM_XPERP-20310404", "ETH2.S-USD", "*-USD_?M*")))
    assert not any(map(may_be_name, ("btc-usdt", "BTC-", "-BTC", "A B-USD", "A-B/C", "..\\A-B", "A-\x00", "A-B,C-D")))
