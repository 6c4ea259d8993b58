"""Tables: the events of one channel as typed columns (Arrow), as they stand in Parquet files and in arrow slices.

    seq  part  of  prev  ts_event  ts_recv  symbol │ the channel's own columns │ late  gap
    └────────────── every channel ───────────────┘                             └ null where an event has none

A row holds everything that the live event carries but the digits: `part` and `of` are 0 and 1 where it has none,
exchange and channel stand in the schema's metadata. `symbol` is a column, dictionary-encoded: of one symbol it takes
a few bytes a file, and tables of several symbols can be laid one after the other. Ids stay text: some have 27 digits.

A book event has a row for each level, its bids before its asks as they came; one without levels has one row whose
`side` is null. What a float64 does not carry exactly is counted in the metadata (`inexact`), what is no number at
all is null and counted too: the records have it as it was sent.

The schema's metadata tell pandas to read integers that may be null as `Int64`: as float64, times lose up to 128 ns.

pyarrow is imported only where a table is made: the library without it does everything else.
"""

import json
import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache, partial
from itertools import chain, repeat
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .codec import MissingPackageError
from .events import GAP, Event

if TYPE_CHECKING:
    import pyarrow as pa

INT, NUMBER, TEXT, WORD, WORDS, FLAG = "int", "number", "text", "word", "words", "flag"
"""int64; float64; text of which no two need be alike; text of a few sorts (a dictionary); a list of such; a bool."""

COMMON = {"seq": INT, "part": INT, "of": INT, "prev": INT, "ts_event": INT, "ts_recv": INT, "symbol": WORD}
BACKFILLED = {"late": FLAG, "gap": INT}
_TRADE = {"id": TEXT, "price": NUMBER, "amount": NUMBER, "side": WORD}

_CHANNELS = {
    "trade": {**_TRADE, "type": WORD},
    "agg_trade": {**_TRADE, "first_id": TEXT, "last_id": TEXT, "type": WORD},
    "book": {
        "type": WORD, "derived": FLAG, "side": WORD, "price": NUMBER, "amount": NUMBER,
        "first_id": TEXT, "last_id": TEXT, "prev_id": TEXT, "checksum": INT,
    },
    "quote": {"bid_price": NUMBER, "bid_amount": NUMBER, "ask_price": NUMBER, "ask_amount": NUMBER},
    "ticker": {
        "last": NUMBER, "open": NUMBER, "high": NUMBER, "low": NUMBER, "volume": NUMBER, "quote_volume": NUMBER,
    },
    "candle": {
        "interval": WORD, "open_ts": INT, "close_ts": INT, "open": NUMBER, "high": NUMBER, "low": NUMBER,
        "close": NUMBER, "volume": NUMBER, "quote_volume": NUMBER, "trades": INT, "closed": FLAG,
    },
    "funding": {"rate": NUMBER, "predicted_rate": NUMBER, "next_ts": INT},
    "mark": {"mark_price": NUMBER, "index_price": NUMBER},
    "open_interest": {"open_interest": NUMBER},
    "liquidation": {**_TRADE, "type": WORD},
    "instrument": {
        "base": WORD, "quote": WORD, "settle": WORD, "type": WORD, "expiry": INT, "strike": NUMBER,
        "option_type": WORD, "contract_size": NUMBER, "tick_size": NUMBER, "lot_size": NUMBER, "status": WORD,
        "name": WORD,
    },
    GAP: {
        "gap": INT, "state": WORD, "reason": WORD, "channels": WORDS, "first_id": TEXT, "last_id": TEXT,
        "first_seq": INT, "last_seq": INT, "ts_from": INT, "ts_to": INT,
    },
}  # fmt: skip

COLUMNS = {channel: {**COMMON, **own, **({} if channel == GAP else BACKFILLED)} for channel, own in _CHANNELS.items()}
"""The columns of each channel, and the sort of each."""

NEVER_NULL = frozenset({"seq", "part", "of", "prev", "ts_recv", "ts"})
"""Integers that every row has: pandas reads them as int64. `ts` is that of a derived series."""

_NULLABLE = {"pandas_type": "int64", "numpy_type": "Int64"}
_ELSEWHERE = frozenset({"exchange", "channel"})  # in the schema's metadata
_LEVELS = frozenset({"bids", "asks"})
_SURELY_EXACT = 15  # characters: digits of any decimal that a float64 gives back
_INT64 = range(-(1 << 63), 1 << 63)


def arrow() -> Any:
    """The package pyarrow. Raises MissingPackageError."""
    try:
        import pyarrow
    except ImportError:
        raise MissingPackageError("tables need one more package: install trade-archivist[frames]") from None
    return pyarrow


@cache
def compute() -> Any:
    arrow()
    import pyarrow.compute

    return pyarrow.compute


@cache
def schema(channel: str) -> "pa.Schema":
    """The columns of a channel as Arrow names them, with metadata for pandas. Raises KeyError for an unknown one."""
    return for_pandas(arrow().schema([(name, _types()[sort]) for name, sort in COLUMNS[channel].items()]))


def for_pandas(columns: "pa.Schema", metadata: Mapping[str, str] = MappingProxyType({})) -> "pa.Schema":
    """A schema with some metadata and those that pandas' own files have, of integers that may be null.

    See https://pandas.pydata.org/docs/development/developer.html. The bytes are the same for the same columns.
    """
    names = [each.name for each in columns if each.type == _types()[INT] and each.name not in NEVER_NULL]
    described = [{"name": name, "field_name": name, **_NULLABLE, "metadata": None} for name in names]
    told = {"index_columns": [], "column_indexes": [], "columns": described, "pandas_version": "1.0.0"}
    return columns.with_metadata({**metadata, "pandas": json.dumps(told)})


@cache
def _types() -> dict[str, "pa.DataType"]:
    pa = arrow()
    return {
        INT: pa.int64(),
        NUMBER: pa.float64(),
        TEXT: pa.string(),
        WORD: pa.dictionary(pa.int32(), pa.string()),
        WORDS: pa.list_(pa.string()),
        FLAG: pa.bool_(),
    }


def rows(event: Event) -> int:
    """How many rows an event takes."""
    return (len(event["bids"]) + len(event["asks"]) or 1) if "bids" in event else 1


def table(channel: str, events: Sequence[Event]) -> "pa.Table":
    """Events of one channel, as they are live, in their order. Metadata: `exchange`, `channel`, `inexact`.

    Raises MissingPackageError, KeyError for an unknown channel, ValueError for a field that has no column.
    """
    pa = arrow()
    names = COLUMNS[channel]
    fields: set[str] = set().union(*events)
    unknown = fields - names.keys() - _ELSEWHERE - (_LEVELS if channel == "book" else frozenset())
    if unknown:
        raise ValueError(f"events of {channel} carry {', '.join(sorted(unknown))}: there is no column for it")
    columns = _Columns(pa)
    arrays = [columns.of_events(name, sort, events, fields) for name, sort in names.items()]
    if channel == "book":
        arrays = _with_levels(pa, columns, events, arrays)
    metadata = {"exchange": events[0]["exchange"] if events else "", "channel": channel, "inexact": columns.inexact}
    described = for_pandas(schema(channel), {key: str(value) for key, value in metadata.items()})
    return pa.Table.from_arrays(arrays, schema=described)


def bare(made: "pa.Table") -> "pa.Table":
    """A table with the metadata for pandas alone."""
    return made.replace_schema_metadata(for_pandas(made.schema).metadata)


def inexact(made: "pa.Table") -> int:
    """How many values of a table are not exactly those that were sent."""
    return int(made.schema.metadata[b"inexact"])


class _Columns:
    """Makes columns, and counts what does not fit into them exactly."""

    def __init__(self, pa: Any) -> None:
        self.inexact = 0
        self._pa = pa
        self._make: dict[str, Callable[[list[Any]], Any]] = {
            INT: self._ints,
            NUMBER: self.numbers,
            WORD: self.words,
            **{sort: partial(pa.array, type=_types()[sort]) for sort in (TEXT, WORDS, FLAG)},
        }

    def of_events(self, name: str, sort: str, events: Sequence[Event], fields: set[str]) -> Any:
        """One column; null where an event has no such field (`part` 0 and `of` 1)."""
        default = {"part": 0, "of": 1}.get(name)
        if name not in fields:
            kind, count = _types()[sort], len(events)
            return (
                self._pa.nulls(count, kind)
                if default is None
                else self._pa.repeat(self._pa.scalar(default, kind), count)
            )
        try:
            values = list(map(itemgetter(name), events))
        except KeyError:
            values = [event.get(name, default) for event in events]
        return self._make[sort](values)

    def numbers(self, values: list[Any]) -> Any:
        """Decimal texts as float64."""
        pa = self._pa
        try:
            texts = pa.array(values, pa.string())
            floats = texts.cast(pa.float64())
            if math.isfinite(compute().sum(floats).as_py() or 0.0):
                self.inexact += _inexact(texts)
                return floats
        except (TypeError, ValueError, pa.ArrowException):
            pass  # something among them is no decimal text: one by one
        found = list(map(_number, values))
        self.inexact += sum(not is_exact for _, is_exact in found)
        return pa.array([number for number, _ in found], pa.float64())

    def _ints(self, values: list[Any]) -> Any:
        pa = self._pa
        try:
            return pa.array(values, pa.int64())
        except (OverflowError, TypeError, ValueError, pa.ArrowException):
            fit = [value if type(value) is int and value in _INT64 else None for value in values]
            self.inexact += sum(kept is None and value is not None for kept, value in zip(fit, values, strict=True))
            return pa.array(fit, pa.int64())

    def words(self, values: list[Any]) -> Any:
        pa = self._pa
        sorts = list(dict.fromkeys(values))
        if len(sorts) == 1 and sorts[0] is not None:
            indices = pa.repeat(pa.scalar(0, pa.int32()), len(values))
            return pa.DictionaryArray.from_arrays(indices, pa.array(sorts, pa.string()))
        return pa.array(values, pa.string()).dictionary_encode()


def _inexact(texts: Any) -> int:
    """How many of some decimal texts a float64 does not carry exactly. Few digits without an exponent always fit."""
    data = texts.buffers()[2]
    exponents = data is not None and (b"e" in (raw := data.to_pybytes()) or b"E" in raw)
    lengths = compute().binary_length(texts)
    if not exponents and (compute().max(lengths).as_py() or 0) <= _SURELY_EXACT:
        return 0
    doubtful = texts if exponents else texts.filter(compute().greater(lengths, _SURELY_EXACT))
    return sum(not _number(text)[1] for text in doubtful.to_pylist())


def _number(value: Any) -> tuple[float | None, bool]:
    """A decimal text as float64, and whether that is exactly what it says."""
    if value is None:
        return None, True
    try:
        number = float(value)
        return (number, Decimal(repr(number)) == Decimal(value)) if math.isfinite(number) else (None, False)
    except (TypeError, ValueError, ArithmeticError):
        return None, False


def _with_levels(pa: Any, columns: _Columns, events: Sequence[Event], arrays: list[Any]) -> list[Any]:
    """The columns of book events spread over the rows of their levels, with those of the levels."""
    sides: list[Iterable[str | None]] = []
    levels: list[Sequence[Any]] = []
    counts: list[int] = []
    for event in events:
        bids, asks = event["bids"], event["asks"]
        levels += (bids, asks) if bids or asks else (_NO_LEVEL,)
        counts.append(len(bids) + len(asks) or 1)
        sides += (repeat("bid", len(bids)), repeat("ask", len(asks))) if bids or asks else (repeat(None, 1),)
    cells = list(chain.from_iterable(chain.from_iterable(levels)))
    if len(cells) != 2 * sum(counts):
        raise ValueError("a book event has levels that are not a price and an amount each")
    places = array("i", chain.from_iterable(map(repeat, range(len(events)), counts)))
    spread = pa.Array.from_buffers(pa.int32(), len(places), [None, pa.py_buffer(places)])
    own = {
        "side": columns.words(list(chain.from_iterable(sides))),
        "price": columns.numbers(cells[::2]),
        "amount": columns.numbers(cells[1::2]),
    }
    return [
        own[name] if name in own else column.take(spread) for name, column in zip(COLUMNS["book"], arrays, strict=True)
    ]


_NO_LEVEL = ((None, None),)
