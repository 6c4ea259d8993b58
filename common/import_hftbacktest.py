"""Recordings of hftbacktest's collector: a gzip file for each symbol and day, one line per message.

    1723161254036059768 {"stream":"btcusdt@trade","data":{…}}       a frame of a combined stream
    1723161254206652067 {"lastUpdateId":50093239218,"bids":[…]…}    a REST snapshot of the file's symbol
    └ ts_recv, ns, 19 ┘ └ payload, byte-exact ─────────────────┘

Nothing is lost but what the format does not tell: when connections opened and were lost, what was sent, and what was
asked over REST (the collector asks for 1,000 levels). Files of one symbol go on with the same connection.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from .adapter import Adapter
from .events import Action
from .foreign_file import ForeignFileError, numbered_lines
from .import_format import IN, REST, Item

NAME = "hftbacktest"

DEPTH = 1000  # what the collector asks for. Source: collector/src/binance/http.rs
HEAD_LINES = 20_000
"""How far is looked for what tells symbol and exchange."""


def exchanges(path: Path) -> tuple[str, ...]:
    for number, line in islice(numbered_lines(path), HEAD_LINES):
        _, payload = _split(path, number, line)
        try:
            exchange = _exchange_of(orjson.loads(payload))
        except orjson.JSONDecodeError as error:
            raise ForeignFileError(f"{path} line {number}: no whole JSON ({error}): mend or drop it") from None
        if exchange is not None:
            return (exchange,)
    return ()


def read(path: Path, adapter: Adapter, symbol: str | None) -> Iterator[Item]:
    symbol = symbol or _symbol_of(path)
    url = _snapshot_url(adapter, symbol)
    stream = f'{{"stream":"{symbol.lower()}@'.encode() if symbol else b""
    for number, line in numbered_lines(path):
        ts, payload = _split(path, number, line)
        if payload.startswith(stream):
            yield Item(ts, IN, payload, line=number)
        elif url is not None and payload.startswith(b'{"lastUpdateId":'):
            if not symbol:
                raise ForeignFileError(
                    f"{path} line {number}: no stream tells whose book this is: say it with --symbol"
                )
            yield Item(ts, REST, payload, url=url, line=number)
        else:
            _check_symbol(path, number, payload, symbol)
            yield Item(ts, IN, payload, line=number)


def _snapshot_url(adapter: Adapter, symbol: str) -> str | None:
    """What the collector asks for a book; empty where the symbol is not known, None where no book is asked for."""
    try:
        return adapter.request(Action("snapshot", "book", symbol), DEPTH).path if symbol else ""
    except LookupError:
        return None


def _split(path: Path, number: int, line: bytes) -> tuple[int, bytes]:
    ts, payload = line[:19], line[20:].rstrip(b"\r")
    if not (ts.isdigit() and line[19:20] == b" " and payload.startswith(b"{") and payload.endswith(b"}")):
        raise ForeignFileError(
            f"{path} line {number}: not a time of 19 digits, a space and a JSON object, as hftbacktest writes them: "
            f"{line[:60]!r}: give it with the name of its own format, or without that line"
        )
    return int(ts), payload


def _symbol_of(path: Path) -> str:
    """The symbol of the first stream; empty where no line near the beginning names one."""
    for number, line in islice(numbered_lines(path), HEAD_LINES):
        _, payload = _split(path, number, line)
        if (stream := _stream_of(payload)) and not stream.startswith("!"):
            return stream.partition("@")[0].upper()
    return ""


def _stream_of(payload: bytes) -> str:
    try:
        stream = orjson.loads(payload).get("stream")
    except ValueError:
        return ""
    return stream if isinstance(stream, str) else ""


def _check_symbol(path: Path, number: int, payload: bytes, symbol: str) -> None:
    """Raises where a frame is another symbol's: then whose the file's book is cannot be told."""
    named, _, rest = _stream_of(payload).partition("@")
    if rest and named.upper() != symbol:
        message = f"{path} line {number}: a frame of {named.upper()} in a file of {symbol}"
        raise ForeignFileError(f"{message}: the collector writes a file for each symbol, give those")


def _exchange_of(message: Any) -> str | None:
    """By the keys that only one of the three has: `e` of a quote, `pu` of a delta, `X` of a trade; `ps` of COIN-M."""
    data = message.get("data") if isinstance(message, dict) and "stream" in message else None
    if not isinstance(data, dict) or "s" not in data:
        return None
    kind = data.get("e", "bookTicker")
    if kind not in ("bookTicker", "depthUpdate", "trade"):
        return None
    if "ps" in data:
        return "binance-coinm"
    if kind == "trade":
        return "binance-usdm" if "X" in data else "binance"
    return "binance-usdm" if "e" in data and (kind == "bookTicker" or "pu" in data) else "binance"
