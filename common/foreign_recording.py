"""Recordings that others made: an exchange's own frames in three formats, and the REST answers beside them.

Each is a file of lines, gzipped or not, told apart line by line:

    wss://URL <-> TS                          cryptofeed's text: a connection opens
    wss://URL <- TS: MSG                                         a frame that the client sent
    TS: MSG                                                      a frame received; b'…' where it was binary
    https://URL -> TS: BODY                                      a REST answer
    {"t":"recv","ts":…,"data":"…"}            cryptofeed's JSON lines: t is header, http, connect, send, recv
    1723161254036059768 {"stream":…}          hftbacktest's: a frame; the bare {"lastUpdateId":… is a REST answer
"""

import ast
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from .foreign_file import ForeignFileError, numbered_lines

CONNECT, SENT, TEXT, BINARY, REST = "connect", "sent", "text", "binary", "rest"

_LINE = re.compile(rb"(?:(?P<url>(?:wss?|https?)://\S+) (?P<arrow><->|<-|->) )?(?P<ts>\d{9,10}(?:\.\d+)?)(?:: |$)")
_KINDS = {b"<->": CONNECT, b"<-": SENT, b"->": REST}
_JSON_KINDS = {"connect": CONNECT, "send": SENT, "recv": TEXT, "http": REST}


class Line(NamedTuple):
    """One thing that a recording tells. `url` is `path?query`, of a REST answer only; it begins with a slash.

    `address` is the whole URL that was connected to or asked, `conn` the recorder's name of the connection; both are
    empty where the line does not tell.
    """

    ts: int  # ns
    kind: str  # CONNECT, SENT, TEXT, BINARY or REST
    payload: bytes  # as received: what was compressed is compressed
    url: str = ""
    address: str = ""
    conn: str = ""


def read_frames(path: Path) -> Iterator[tuple[int, str, bytes]]:
    """The frames received, in the file's order: (ns, TEXT or BINARY, payload). Raises ValueError as `read_lines`."""
    for line in read_lines(path):
        if line.kind in (TEXT, BINARY):
            yield line.ts, line.kind, line.payload


def read_rest(path: Path) -> dict[str, bytes]:
    """The bodies of the file's REST answers by `path?query`: the first of each. Raises ValueError as `read_lines`."""
    found: dict[str, bytes] = {}
    for line in read_lines(path):
        if line.kind == REST:
            found.setdefault(line.url, line.payload)
    return found


def read_lines(path: Path) -> Iterator[Line]:
    """All that a recording tells. Raises ValueError, with file and line, where that cannot be read."""
    return (line for _, line in numbered(path))


def numbered(path: Path) -> Iterator[tuple[int, Line]]:
    """The same, each with the number of its line from 1. Raises ForeignFileError, OSError."""
    for number, text in numbered_lines(path):
        try:
            line = _line(path, text.rstrip(b"\r"))
        except (ValueError, KeyError, TypeError, SyntaxError, AttributeError, OverflowError):
            raise ForeignFileError(f"{path} line {number}: neither a frame nor an answer: {text[:60]!r}") from None
        if line is not None:
            yield number, line


def _line(path: Path, text: bytes) -> Line | None:
    if not text or text.startswith(b"configuration: "):
        return None
    if text.startswith(b"{"):
        return _of_json(orjson.loads(text))
    if text[19:20] == b" " and text[:19].isdigit():
        payload = text[20:]
        if payload.startswith(b'{"lastUpdateId":'):
            return Line(int(text[:19]), REST, payload, f"/{path.name}")  # what was asked is not told
        return Line(int(text[:19]), TEXT, payload)
    found = _LINE.match(text)
    if found is None:
        raise ValueError
    ts, payload = _ns(found["ts"].decode()), text[found.end() :]
    if found["arrow"]:
        kind, address = _KINDS[found["arrow"]], found["url"].decode()
        asked = target(address)  # raises where it is no address
        return Line(ts, kind, payload, asked if kind == REST else "", address)
    if payload[:2] in (b"b'", b'b"'):
        literal = ast.literal_eval(payload.decode())
        if not isinstance(literal, bytes):
            raise ValueError
        return Line(ts, BINARY, literal)
    return Line(ts, TEXT, payload)


def _of_json(found: dict[str, str]) -> Line | None:
    if found["t"] == "header":
        return None
    kind = _JSON_KINDS[found["t"]]
    address, conn = found.get("url") or found.get("addr") or "", found.get("conn", "")
    asked = target(address)  # raises where it is no address
    if type(address) is not str or type(conn) is not str:
        raise TypeError
    ts = round(float(found["ts"]) * 1e6) * 1000  # a float of today holds microseconds
    return Line(ts, kind, found.get("data", "").encode(), asked if kind == REST else "", address, conn)


def target(url: str) -> str:
    """`/path?query` of a URL, the parameters as they stand."""
    parts = urllib.parse.urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _ns(seconds: str) -> int:
    whole, _, fraction = seconds.partition(".")
    return int(whole + fraction[:9].ljust(9, "0"))
