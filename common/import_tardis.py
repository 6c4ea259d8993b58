"""CSV files of tardis.dev, one for each sort of data, day and symbol; gzip or plain. The header tells the sort:

    exchange,symbol,timestamp,local_timestamp,id,side,price,amount                       trades, liquidations
                                              is_snapshot,side,price,amount              incremental_book_L2
                                              asks[0].price,asks[0].amount,bids[0].…     book_snapshot_5, …_25
                                              ask_amount,ask_price,bid_price,bid_amount  quotes
                                              funding_timestamp,funding_rate,…           derivative_ticker

Times are µs; an empty cell is null, and `timestamp` that of the arrival where the exchange sends none. The digits stay.
Rows of one message (the same times, one below the other) are one book event; what a message said of bids stands before
what it said of asks, each in its order. Trades and liquidations have the same columns: a file's name tells which.
Source: docs.tardis.dev/downloadable-csv-files, "Data types".
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from .adapter import Adapter
from .foreign_file import ForeignFileError, numbered_lines
from .import_format import EVENT, Item
from .tardis_names import EXCHANGES, of_tardis

NAME = "tardis"

MESSAGE_ROWS_MAX = 1_000_000
HEAD_LINES = 1_000

_FIRST = ["exchange", "symbol", "timestamp", "local_timestamp"]
_TRADES = ["id", "side", "price", "amount"]
_BOOK = ["is_snapshot", "side", "price", "amount"]
_QUOTES = ["ask_amount", "ask_price", "bid_price", "bid_amount"]
_DERIVATIVES = [
    "funding_timestamp", "funding_rate", "predicted_funding_rate", "open_interest", "last_price", "index_price",
    "mark_price",
]  # fmt: skip
_SIDES = frozenset({"buy", "sell", "unknown"})
_NOT_TOLD = dict.fromkeys(("open", "high", "low", "volume", "quote_volume"))

_is_number = re.compile(r"-?\d{1,80}(?:\.\d{1,80})?(?:[eE][-+]?\d{1,3})?", re.ASCII).fullmatch
_is_us = re.compile(r"[1-4]\d{15}", re.ASCII).fullmatch  # 2001 to 2128: of ms or ns it is another number of digits

Row = tuple[str, int, int | None, list[str]]
"""Symbol, ts_recv and ts_event (ns), and the cells after those."""


class _CellError(Exception):
    """What is wrong in the line at hand, and the mend."""


def exchanges(path: Path) -> tuple[str, ...]:
    lines = islice(numbered_lines(path), HEAD_LINES)
    _kind(path, _header(lines))
    rows = ((number, line.decode(errors="replace").split(",")) for number, line in lines)
    return tuple({_exchange(path, number, cells): None for number, cells in rows if len(cells) > len(_FIRST)})


def read(path: Path, adapter: Adapter, symbol: str | None) -> Iterator[Item]:
    sheet = _Sheet(path, adapter.NAME, symbol)
    try:
        yield from sheet.items()
    except _CellError as error:
        raise ForeignFileError(f"{path} line {sheet.number}: {error}") from None


class _Sheet:
    """One file. `number` is the line at hand."""

    def __init__(self, path: Path, exchange: str, symbol: str | None) -> None:
        self.number = 0
        self._path, self._exchange, self._symbol = path, exchange, symbol

    def items(self) -> Iterator[Item]:
        lines = numbered_lines(self._path, ended=True)
        header = _header(lines)
        convert = _kind(self._path, header)
        return convert(self._rows(lines, len(header)))

    def _rows(self, lines: Iterator[tuple[int, bytes]], width: int) -> Iterator[Row]:
        """The rows of the exchange that is wanted."""
        known: dict[tuple[str, str], str | None] = {}
        for self.number, line in lines:
            try:
                cells = line.rstrip(b"\r").decode().split(",")
            except UnicodeDecodeError:
                raise _CellError("not UTF-8: damaged, or not as tardis.dev writes it: download it again") from None
            if len(cells) != width:
                raise _CellError(f"{len(cells)} cells, the header has {width}: torn, or not as tardis.dev writes it")
            place = cells[0], cells[1]
            if place not in known:
                known[place] = self._own_symbol(cells)
            symbol = known[place]
            if symbol is not None:
                recv = _ns(cells[3], "local_timestamp")
                yield symbol, recv, None if cells[2] in (cells[3], "") else _ns(cells[2], "timestamp"), cells[4:]

    def _own_symbol(self, cells: list[str]) -> str | None:
        """The exchange's own name of a symbol; None where it is of the other half of what tardis.dev has as one."""
        exchange = _exchange(self._path, self.number, cells)
        symbol = of_tardis(*cells[:2])[1]
        if exchange != self._exchange:
            if {exchange, self._exchange} == {"bybit-linear", "bybit-inverse"}:
                return None
            raise _CellError(f"{cells[0]} is {exchange} here, not {self._exchange}: import each by itself")
        if not symbol:
            raise _CellError("symbol is empty: import the file as it was downloaded")
        if self._symbol is not None and symbol != self._symbol:
            raise _CellError(f"a row of {symbol!r}, not of {self._symbol}: say the file's own symbol, or none")
        return symbol


def _header(lines: Iterator[tuple[int, bytes]]) -> list[str]:
    return next(lines, (1, b""))[1].rstrip(b"\r").decode(errors="replace").split(",")


def _kind(path: Path, header: list[str]) -> Callable[[Iterator[Row]], Iterator[Item]]:
    """What converts the rows of a file, by its header."""
    own = header[len(_FIRST) :]
    if header[: len(_FIRST)] == _FIRST:
        if own == _TRADES:
            return _by_name(path)
        if own and own == _depth_columns(len(own) // 4):
            return _snapshots
        for columns, convert in ((_BOOK, _deltas), (_QUOTES, _quotes), (_DERIVATIVES, _derivatives)):
            if own == columns:
                return convert
    known = "trades, incremental_book_L2, book_snapshot_5, book_snapshot_25, quotes, derivative_ticker, liquidations"
    raise ForeignFileError(f"{path} line 1: not the header of a CSV file of tardis.dev: known are those of {known}")


def _by_name(path: Path) -> Callable[[Iterator[Row]], Iterator[Item]]:
    named = [convert for word, convert in (("trades", _trades), ("liquidations", _liquidations)) if word in path.name]
    if len(named) != 1:
        message = f"{path} line 1: trades and liquidations have the same columns, and the file's name tells neither"
        raise ForeignFileError(f"{message}: let it have one of the two words in it")
    return named[0]


def _depth_columns(depth: int) -> list[str]:
    columns = ("asks[{}].price", "asks[{}].amount", "bids[{}].price", "bids[{}].amount")
    return [column.format(level) for level in range(depth) for column in columns]


def _exchange(path: Path, number: int, cells: list[str]) -> str:
    if cells[0] not in EXCHANGES:
        known = ", ".join(EXCHANGES)
        raise ForeignFileError(f"{path} line {number}: no exchange {cells[0]!r} is known here: known are {known}")
    return of_tardis(cells[0], cells[1])[0]


# -- cells -----------------------------------------------------------------------------------------------------------


def _ns(cell: str, column: str) -> int:
    if _is_us(cell) is None:
        raise _CellError(f"{column} is {cell!r}, not a time in µs: import the file as it was downloaded")
    return int(cell) * 1000


def _number(cell: str, column: str) -> str:
    if _is_number(cell) is None:
        raise _CellError(f"{column} is {cell!r}, not a number: import the file as it was downloaded")
    return cell


def _maybe(cell: str, column: str) -> str | None:
    return _number(cell, column) if cell else None


def _item(ts: int, channel: str, symbol: str, ts_event: int | None, fields: dict[str, Any]) -> Item:
    payload = orjson.dumps({"ts_event": ts_event, **fields})
    return Item(ts, EVENT, payload, channel=channel, symbol=symbol)


# -- sorts of files --------------------------------------------------------------------------------------------------


def _trades(rows: Iterator[Row], channel: str = "trade") -> Iterator[Item]:
    for symbol, ts, ts_event, (trade_id, side, price, amount) in rows:
        if side not in _SIDES:
            raise _CellError(f"side is {side!r}, not buy, sell or unknown: import the file as it was downloaded")
        numbers = {"price": _number(price, "price"), "amount": _number(amount, "amount")}
        yield _item(ts, channel, symbol, ts_event, {"id": trade_id or None, **numbers, "side": side})


def _liquidations(rows: Iterator[Row]) -> Iterator[Item]:
    return _trades(rows, "liquidation")


def _quotes(rows: Iterator[Row]) -> Iterator[Item]:
    for symbol, ts, ts_event, cells in rows:
        fields = {name: _maybe(cell, name) for name, cell in zip(_QUOTES, cells, strict=True)}
        yield _item(ts, "quote", symbol, ts_event, fields)


def _snapshots(rows: Iterator[Row]) -> Iterator[Item]:
    for symbol, ts, ts_event, cells in rows:
        sides = []
        for first in (2, 0):
            levels = zip(cells[first::4], cells[first + 1 :: 4], strict=True)
            sides.append(
                [[_number(price, "price"), _number(amount, "amount")] for price, amount in levels if price or amount]
            )
        yield _item(ts, "book", symbol, ts_event, {"type": "snapshot", "bids": sides[0], "asks": sides[1]})


def _derivatives(rows: Iterator[Row]) -> Iterator[Item]:
    """Each row has all values: an event is what has changed."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for symbol, ts, ts_event, cells in rows:
        next_ts = _ns(cells[0], _DERIVATIVES[0]) if cells[0] else None
        rate, predicted, interest, price, index, mark = map(_maybe, cells[1:], _DERIVATIVES[1:])
        told: dict[str, dict[str, Any]] = {
            "funding": {"rate": rate, "predicted_rate": predicted, "next_ts": next_ts},
            "mark": {"mark_price": mark, "index_price": index},
            "open_interest": {"open_interest": interest},
            "ticker": {"last": price, **_NOT_TOLD},
        }
        for channel, fields in told.items():
            if last.get((symbol, channel), dict.fromkeys(fields)) != fields:
                last[symbol, channel] = fields
                yield _item(ts, channel, symbol, ts_event, fields)


class _Message:
    """The rows of one message of a book, as they come."""

    __slots__ = ("asks", "bids", "is_snapshot", "place", "side")

    def __init__(self, place: tuple[str, int, int | None], is_snapshot: str, side: str) -> None:
        self.place, self.is_snapshot = place, is_snapshot
        self.side = side  # of its last row
        self.bids: list[list[str]] = []
        self.asks: list[list[str]] = []

    def items(self) -> Iterator[Item]:
        if self.bids or self.asks:
            symbol, ts, ts_event = self.place
            kind = "snapshot" if self.is_snapshot == "true" else "delta"
            yield _item(ts, "book", symbol, ts_event, {"type": kind, "bids": self.bids, "asks": self.asks})


def _deltas(rows: Iterator[Row]) -> Iterator[Item]:
    """A message ends where the times change, and where a delta comes back to the side that messages begin with."""
    message = _Message(("", 0, None), "", "")
    begins = ""  # the side that this file's messages begin with, once one of both sides was seen
    for symbol, ts, ts_event, (is_snapshot, side, price, amount) in rows:
        if side not in ("bid", "ask") or is_snapshot not in ("true", "false"):
            raise _CellError(f"is_snapshot and side are {is_snapshot!r} and {side!r}: not true or false, bid or ask")
        place = symbol, ts, ts_event
        goes_on = message.place == place and message.is_snapshot == is_snapshot
        if goes_on and side != message.side:
            begins = begins or message.side
            goes_on = is_snapshot == "true" or side != begins
        if not goes_on:
            yield from message.items()
            message = _Message(place, is_snapshot, side)
        message.side = side
        levels = message.bids if side == "bid" else message.asks
        levels.append([_number(price, "price"), _number(amount, "amount")])
        if len(levels) > MESSAGE_ROWS_MAX:
            raise _CellError(f"more than {MESSAGE_ROWS_MAX} rows of one message: not a book of tardis.dev")
    yield from message.items()
