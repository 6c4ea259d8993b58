"""Recordings of cryptofeed 2: a text file for each connection, or the JSON lines of its maintainers' captures.

    wss://URL <-> TS                   a connection opens         {"t":"connect","conn":…,"ts":…,"addr":…}
    wss://URL <- TS: MSG               a frame that was sent      {"t":"send",…,"data":…}
    TS: MSG                            a frame received           {"t":"recv",…,"data":…}
    https://URL -> TS: BODY            a REST answer              {"t":"http",…,"url":…,"data":…}

Payloads are exact; a compressed frame is inflated as the feed does it. Times are what a float of seconds holds of them:
microseconds. When a connection was lost is not told: it counts as lost when the next one of its file opens, and at the
file's end. Long text files are cut by cryptofeed (NAME.0, NAME.1, …): over those, a connection goes on. Which exchange
a file is of is told by the addresses in it; what is of another one is left out.
"""

import re
import urllib.parse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from .adapter import Adapter
from .foreign_file import ForeignFileError, numbered_lines
from .foreign_recording import BINARY, CONNECT, REST, SENT, numbered
from .import_format import IN, OPEN, OUT, Item
from .import_format import REST as ANSWER

NAME = "cryptofeed"

HEAD_LINES = 20_000
"""How far is looked for addresses."""

_HOSTS = {
    "stream.binance.com": "binance",
    "api.binance.com": "binance",
    "fstream.binance.com": "binance-usdm",
    "fapi.binance.com": "binance-usdm",
    "dstream.binance.com": "binance-coinm",
    "dapi.binance.com": "binance-coinm",
    "ws.bitstamp.net": "bitstamp",
    "www.bitstamp.net": "bitstamp",
    "ws-feed.pro.coinbase.com": "coinbase",
    "ws-feed.exchange.coinbase.com": "coinbase",
    "api.pro.coinbase.com": "coinbase",
    "api.exchange.coinbase.com": "coinbase",
    "advanced-trade-ws.coinbase.com": "coinbase-advanced",
    "api.coinbase.com": "coinbase-advanced",
    "ws.kraken.com": "kraken",
    "api.kraken.com": "kraken",
    "ws.okx.com": "okx",
    "www.okx.com": "okx",
    "api.huobi.pro": "htx",
    "api-aws.huobi.pro": "htx",
}
_PART = re.compile(r"(?P<name>.+)\.(?P<number>\d+)(?P<end>\.gz|)")
_BYBIT = ("spot", "linear", "inverse")


def exchanges(path: Path) -> tuple[str, ...]:
    for number, line in islice(numbered_lines(path), 1):
        if line[19:20] == b" " and line[:19].isdigit():
            raise ForeignFileError(
                f"{path} line {number}: written as hftbacktest does: give it with that format's name"
            )
    addresses = {line.address for _, line in islice(numbered(path), HEAD_LINES) if line.address}
    return tuple(sorted({exchange_of(address) for address in addresses}))


def read(path: Path, adapter: Adapter, symbol: str | None) -> Iterator[Item]:
    others: set[str] = set()  # connections to another exchange
    text_conn = _connection(path)
    for number, line in numbered(path):
        if line.address and exchange_of(line.address) != adapter.NAME:
            if line.kind == CONNECT:
                others.add(line.conn)
            continue
        conn = f"{path} {line.conn}" if line.conn else text_conn
        if line.kind == CONNECT:
            others.discard(line.conn)
            yield Item(line.ts, OPEN, b"", conn, line.address, line=number)
        elif line.kind == SENT:
            yield Item(line.ts, OUT, line.payload, conn, line=number)
        elif line.kind == REST:
            yield Item(line.ts, ANSWER, line.payload, url=line.url, line=number)
        elif line.conn not in others:
            yield Item(line.ts, IN, line.payload, conn, is_binary=line.kind == BINARY, line=number)


def _connection(path: Path) -> str:
    """The name of a text file's connection: the same in the parts of one, as long as none is missing between them."""
    part = _PART.fullmatch(path.name)
    if part is None or (number := int(part["number"])) == 0:
        return str(path.parent / (part["name"] if part is not None else path.name))
    before = path.with_name(f"{part['name']}.{number - 1}{part['end']}")
    return str(path.parent / part["name"]) if before.exists() else str(path)


def exchange_of(address: str) -> str:
    """The exchange at a URL by its name here; the host where none is known that has it."""
    parts = urllib.parse.urlsplit(address)
    host = parts.hostname or address
    if host in ("stream.bybit.com", "api.bybit.com"):  # one host for all, told apart by path or query
        words = (*parts.path.split("/"), *urllib.parse.parse_qs(parts.query).get("category", []))
        return next((f"bybit-{word}" for word in _BYBIT if word in words), host)
    return _HOSTS.get(host, host)
