"""The record: one thing that happened on the wire, numbered, stamped, byte-exact, on one line.

    {"seq":17,"ts_recv":1723161253937085768,"conn":3,"kind":"in","channel":"trade","symbol":"BTCUSDT","data":{…}}\\n
    └──────────────────────────────── head, JSON ────────────────────────────────────────────────┘└ payload ┘

The payload comes last and is never decoded to find its place: the head ends before the first `,"data":` (or
`,"base64":`), which no JSON string can hold, since a string's quotes are escaped.
"""

import base64
import codecs
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

FORMAT = 1
"""Version of the record lines, told in each `start` record."""

DATA = b',"data":'
BASE64 = b',"base64":"'

TS_MAX = (1 << 63) - 1
"""The last moment that int64 ns hold, in 2262. What a wrong clock recorded later is read as received then."""

_TS_RECV = re.compile(rb'\{"seq":\d+,"ts_recv":(-?\d+)')


class Record(NamedTuple):
    """A record line, taken apart. `payload` is None where the record has none."""

    seq: int
    ts_recv: int
    kind: str
    conn: int | None
    channel: str | None
    symbol: str | None
    head: dict[str, Any]
    payload: bytes | None


class RecordError(ValueError):
    """A line that is no record: the message says what is wrong with it."""


def is_plain(payload: bytes) -> bool:
    """Whether a payload that orjson accepted may stand in the line as it is: no line break in it."""
    return b"\n" not in payload and b"\r" not in payload


def payload_part(payload: bytes, *, is_json: bool) -> bytes:
    """The end of a record line, from the payload's key to the line's last byte."""
    if is_json and is_plain(payload):
        return DATA + payload + b"}\n"
    return BASE64 + base64.b64encode(payload) + b'"}\n'


def accepts(payload: bytes) -> bool:
    """Whether orjson takes the payload as JSON."""
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        return False
    return True


def encode(
    seq: int,
    ts_recv: int,
    kind: str,
    *,
    conn: int | None = None,
    channel: str | None = None,
    symbol: str | None = None,
    head: Mapping[str, Any] | None = None,
    payload: bytes | None = None,
) -> bytes:
    """One record line, `\\n` included. `head` are further keys of its head, in their order."""
    start: dict[str, Any] = {"seq": seq, "ts_recv": ts_recv}
    if conn is not None:
        start["conn"] = conn
    start["kind"] = kind
    if channel is not None:
        start["channel"] = channel
    if symbol is not None:
        start["symbol"] = symbol
    line = orjson.dumps({**start, **(head or {})})
    if payload is None:
        return line + b"\n"
    return line[:-1] + payload_part(payload, is_json=accepts(payload))


def decode(line: bytes) -> Record:
    """Take one line apart (with or without its `\\n`). Raises RecordError."""
    end = line.find(DATA)
    try:
        if end >= 0 and line.find(BASE64, 0, end) < 0:
            payload: bytes | None = line[end + len(DATA) : -2 if line.endswith(b"\n") else -1]
            head = orjson.loads(line[:end] + b"}")
        else:
            head, payload = _without_data(line)
        seq, ts_recv, kind = head["seq"], head["ts_recv"], head["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"not a record ({error}): {line[:80]!r}") from None
    if type(seq) is not int or type(ts_recv) is not int or type(kind) is not str:
        raise RecordError(f"not a record (seq, ts_recv or kind has the wrong type): {line[:80]!r}")
    if not line.endswith((b"}", b"}\n")):
        raise RecordError(f"not a whole record: {line[:80]!r}")
    get = head.get
    return Record(seq, min(ts_recv, TS_MAX), kind, get("conn"), get("channel"), get("symbol"), head, payload)


def parted(line: bytes) -> tuple[Any, bytes]:
    """Head and payload of a frame's line, quicker than `decode`: unchecked. Raises ValueError where it has none."""
    end = line.index(DATA)
    return orjson.loads(line[:end] + b"}"), line[end + len(DATA) : line.rindex(b"}")]


def _without_data(line: bytes) -> tuple[Any, bytes | None]:
    """Head and payload of a line whose payload is in base64, or that has none. Raises ValueError."""
    line = line.removesuffix(b"\n")
    end = line.find(BASE64)
    if end < 0:
        return orjson.loads(line), None
    if not line.endswith(b'"}'):
        raise ValueError("the payload has no end")
    return orjson.loads(line[:end] + b"}"), base64.b64decode(line[end + len(BASE64) : -2], validate=True)


def seq_of(line: bytes) -> int:
    """The number of a record line, without decoding it. Raises RecordError."""
    if not line.startswith(b'{"seq":'):
        raise RecordError(f"not a record: {line[:80]!r}")
    end = line.find(b",", 7, 32)
    digits = line[7:end]
    if end < 0 or not digits.isdigit():
        raise RecordError(f"not a record: {line[:80]!r}")
    return int(digits)


def ts_recv_of(line: bytes) -> int:
    """When a record was received (ns), without decoding its line. Raises RecordError."""
    match = _TS_RECV.match(line)
    if match is None:
        raise RecordError(f"not a record: {line[:80]!r}")
    return min(int(match[1]), TS_MAX)


def looks_whole(data: bytes) -> bool:
    """Whether nothing in a piece of a file is torn, as far as counting tells: each line begins and ends as a record."""
    lines = data.count(b"\n")
    return not data or (
        data.startswith(b'{"seq":')
        and data.endswith(b"}\n")
        and b"\0" not in data
        and data.count(b'\n{"seq":') == lines - 1
        and data.count(b"}\n") == lines
    )


def is_text(data: bytes) -> bool:
    """Whether bytes may be those of records: UTF-8 (the last character may be cut), and no block of zeros."""
    if b"\0" in data:
        return False
    if data.isascii():
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def is_record(line: bytes) -> bool:
    """Whether a line is a record, and JSON as a whole: two torn ones do not pass as one."""
    try:
        decode(line)
    except RecordError:
        return False
    return accepts(line)


def whole_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole lines of `data`, each with its `\\n`, and the torn rest."""
    end = data.rfind(b"\n") + 1
    return data[:end].splitlines(keepends=True) if b"\r" not in data else list(_lines(data[:end])), data[end:]


def _lines(data: bytes) -> Iterator[bytes]:
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        yield data[start : end + 1]
        start = end + 1
