"""Archives of the original trade-archivist: blocks of book levels (price, count, amount), one after another, in bz2.

    Archivist   u8 1 │ u8 type │ i64 ms │ u32 n               n × 16 bytes price │ u32 count │ 16 bytes amount
                decimals as rust_decimal serialises them: u32 flags (bits 16-23 scale, bit 31 sign), u32 lo, mid, hi
    PyStruct    u8 type │ 7 zeros │ f64 s │ u32 n             n × f64 price │ u32 count │ 4 zeros │ f64 amount
                the struct BdI, and dId, of Python

All little-endian; type 0 is a snapshot, 1 an update. A level is an ask where its price (of an update) or its amount
(of a whole book) is negative; count 0 removes it. A file's first block is a whole book, though it says that it is an
update. An update of the second layout begins as the first layout does: times and counts of several blocks tell.

The decimals are exact, floats are what Python's repr says. Counts of orders have no field in the schema: they stay in
the records, as `bid_counts` and `ask_counts`. The exchange is not told, nor its own times; the name tells the symbol.
"""

import bz2
import math
import re
import struct
from collections.abc import Callable, Iterator
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from .adapter import Adapter
from .foreign_file import ForeignFileError, streams
from .import_format import EVENT, Item
from .storage import decode_symbol

NAME = "archivist"

LEVELS_MAX = 250_000
TRIED_BLOCKS = 3
"""So many blocks have to make sense, where there are so many, for a layout to be the file's."""
SCALE_MAX = 28
TIMES_NS = range(1_230_768_000 * 10**9, 4_102_444_800 * 10**9)
"""What can be the time of a block: 2009 to 2099."""

_NAMED = re.compile(r"(.+)-\d{4}-\d\d-\d\d-\d\d-\d{13}\b")

Level = tuple[str, int, str]
"""Price, count and amount, signs as they are."""


class _BlockError(Exception):
    """What makes no sense in a block."""


class Head(NamedTuple):
    """What a block begins with."""

    type: int
    ts: int  # ns
    size: int  # levels


class Layout(NamedTuple):
    """How heads and levels are written. What reads them raises _BlockError."""

    name: str
    head: struct.Struct
    level: struct.Struct
    read_head: Callable[[tuple[Any, ...]], Head]
    read_level: Callable[[tuple[Any, ...]], Level]


# -- the two layouts -------------------------------------------------------------------------------------------------


def _decimal_head(values: tuple[Any, ...]) -> Head:
    version, kind, ms, count = values
    if version != 1:
        raise _BlockError(f"a block of version {version}")
    return Head(kind, ms * 10**6, count)


def _decimal_level(values: tuple[Any, ...]) -> Level:
    return _decimal(*values[:4]), values[4], _decimal(*values[5:])


def _decimal(flags: int, low: int, middle: int, high: int) -> str:
    scale = flags >> 16 & 0xFF
    if scale > SCALE_MAX or flags & 0x7F00_FFFF:
        raise _BlockError(f"a decimal with the flags {flags:#x}")
    digits = f"{low | middle << 32 | high << 64:0{scale + 1}}"
    sign = "-" if flags >> 31 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}" if scale else sign + digits


def _float_head(values: tuple[Any, ...]) -> Head:
    kind, seconds, count = values
    if not math.isfinite(seconds):
        raise _BlockError(f"a block of the time {seconds} s")
    return Head(kind, int(Decimal(repr(seconds)) * 10**9), count)


def _float_level(values: tuple[Any, ...]) -> Level:
    price, count, amount = values
    if count >> 32 or not (math.isfinite(price) and math.isfinite(amount)):
        raise _BlockError(f"a level of {price!r}, {count} and {amount!r}")
    return repr(price), count, repr(amount)


LAYOUTS = (
    Layout("Archivist", struct.Struct("<BBqI"), struct.Struct("<4II4I"), _decimal_head, _decimal_level),
    Layout("PyStruct", struct.Struct("<QdI"), struct.Struct("<dQd"), _float_head, _float_level),  # padding: zeros
)


# -- files -----------------------------------------------------------------------------------------------------------


def exchanges(path: Path) -> tuple[str, ...]:
    _layout(path)
    return ()


def read(path: Path, adapter: Adapter, symbol: str | None) -> Iterator[Item]:
    named = _NAMED.match(path.name)
    symbol = symbol or (decode_symbol(named[1]) if named else None)
    if symbol is None:
        raise ForeignFileError(f"{path}: its name does not begin with a symbol and a time: say it with --symbol")
    layout = _layout(path)
    with path.open("rb") as file:
        blocks, is_first = _Blocks(path, file), True
        while (block := blocks.next(layout)) is not None:
            yield _item(symbol, *block, is_first=is_first)
            is_first = False


class _Blocks:
    """The blocks of a file. `offset` of the one at hand is in what is compressed; up to `known` all made sense."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.offset = self.known = self.count = 0
        self.is_torn = False
        self._path = path
        self._inflated = streams(file, bz2.BZ2Decompressor)
        self._ahead = bytearray()

    def next(self, layout: Layout) -> tuple[Head, list[Level]] | None:
        """The next block; None at the end. Raises ForeignFileError where it is torn or makes no sense."""
        try:
            data = self._take(layout.head.size)
            if not data:
                return None
            return self._read(layout, data)
        except _BlockError as error:
            raise self._error(f"{error}, as {layout.name} has it: not of the original trade-archivist") from None
        except EOFError as error:
            self.is_torn = True
            raise self._error(f"torn ({error}): copy the file again") from None
        except OSError as error:
            if error.errno is not None:
                raise  # of the disk, not of what stands in the file
            mend = "copy the file again, or give what `bzip2 -dc` reads of it, compressed anew"
            raise self._error(f"{error}: not bz2, or damaged: {mend}") from None

    def _read(self, layout: Layout, data: bytes) -> tuple[Head, list[Level]]:
        size = layout.level.size
        if len(data) < layout.head.size:
            raise EOFError(f"a block of {len(data)} bytes")
        head = layout.read_head(layout.head.unpack(data))
        if head.type not in (0, 1) or head.ts not in TIMES_NS or head.size > LEVELS_MAX:
            raise _BlockError(f"a block of type {head.type}, {head.size} levels and the time {head.ts} ns")
        self.known = self.offset + len(data)
        data = self._take(head.size * size)
        if len(data) < head.size * size:
            raise EOFError(f"of {head.size} levels there are {len(data) // size}")
        levels = [layout.read_level(values) for values in layout.level.iter_unpack(data)]
        self.offset = self.known = self.known + len(data)
        self.count += 1
        return head, levels

    def _take(self, size: int) -> bytes:
        """So many bytes; fewer at the file's end. Raises EOFError, OSError where what is compressed is damaged."""
        while len(self._ahead) < size and (chunk := next(self._inflated, b"")):
            self._ahead += chunk
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        return data

    def _error(self, what: str) -> ForeignFileError:
        return ForeignFileError(f"{self._path} offset {self.offset} decompressed: {what}")


def _layout(path: Path) -> Layout:
    """The layout in which the first blocks make sense. Raises ForeignFileError: that of the one that came furthest."""
    failed: list[tuple[int, bool, ForeignFileError]] = []
    for layout in LAYOUTS:
        with path.open("rb") as file:
            blocks = _Blocks(path, file)
            try:
                while blocks.count < TRIED_BLOCKS and blocks.next(layout) is not None:
                    pass
            except ForeignFileError as error:
                failed.append((blocks.known, blocks.is_torn, error))
            else:
                return layout
    raise max(failed, key=itemgetter(0, 1))[2]


def _item(symbol: str, head: Head, levels: list[Level], *, is_first: bool) -> Item:
    by_price = any(price.startswith("-") for price, _, _ in levels)
    by_amount = any(amount.startswith("-") and not price.startswith("-") for price, _, amount in levels)
    is_whole = head.type == 0 or by_amount or (is_first and not by_price)
    data: dict[str, Any] = {"ts_event": None, "type": "snapshot" if is_whole else "delta"}
    data |= {"bids": [], "asks": [], "bid_counts": [], "ask_counts": []}
    for price, count, amount in levels:
        side = "ask" if "-" in (price[0], amount[0]) else "bid"
        data[f"{side}s"].append((price.lstrip("-"), amount.lstrip("-") if count else "0"))
        data[f"{side}_counts"].append(count)
    return Item(head.ts, EVENT, orjson.dumps(data), channel="book", symbol=symbol)
