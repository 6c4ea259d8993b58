"""Bulk: which table files hold a slice, and their bytes, verbatim.

    plan ─▶ files: a token, SHA-256 and ranges for each; tails: what no table covers, to be asked by slice
    chunk (token, SHA-256, offset) ─▶ a part of the file, never decoded here; less than asked where memory is short

A table file is never overwritten: what was planned is served as long as it is there. Gone is `changed`: plan again.
"""

import base64
import binascii
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from .adapter import Adapter, version
from .disk import open_file
from .listing import ArchiveFile
from .reader import Reader
from .requests import Chunk, Plan, refusal

KNOWN_MAX = 1_024
AHEAD_BYTES = 16 * 1024**2
"""What is read from disk ahead of the parts that are asked for."""
FILES_MAX = 50_000
"""Files of one plan: about 20 MB of JSON."""

Header = dict[str, Any]


class Part(NamedTuple):
    """A part of a file that is still to be read: who sends it reads it, so that its bytes pass through few hands."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Its bytes. Raises BadRequestError (changed, corrupt)."""
        try:
            with open_file(Path(self.path)) as file:
                data = os.pread(file.fileno(), self.size, self.offset)
        except FileNotFoundError:
            raise refusal("changed", f"the file {self.path} is gone: plan again") from None
        if len(data) < self.size:
            raise refusal("corrupt", f"{self.path} offset {self.offset + len(data)}: the file ends: rebuild it")
        return data


class Bulk:
    """Answers `plan` and `chunk` of one exchange."""

    def __init__(self, reader: Reader, adapter: Adapter) -> None:
        self._reader, self._version = reader, version(adapter)
        self._known: OrderedDict[tuple[str, str], tuple[Path, int]] = OrderedDict()

    def plan(self, request: Plan, after: int, to: int) -> Header:
        """The files that hold the numbers above `after` up to `to`, and the ranges that no file holds."""
        files: list[Header] = []
        tails: list[Header] = []
        for symbol in request.symbols:
            at = after
            for file in self._reader.files(symbol):
                covers = self._covers(symbol, file)
                if covers is None or covers[1] <= at or covers[0] > to:
                    continue
                if covers[0] - 1 > at:
                    tails.append({"symbol": symbol, "after": at, "to": covers[0] - 1})
                at = covers[1]
                files += self._tables(symbol, file, request)
            if at < to:
                tails.append({"symbol": symbol, "after": at, "to": to})
        if len(files) > FILES_MAX:
            raise refusal("too_large", f"the plan has {len(files)} files, at most {FILES_MAX} are told: ask in parts")
        return {"files": files, "tails": tails, "after": after, "to": to}

    def chunk(self, request: Chunk, most: int) -> tuple[Header, Part]:
        """A part of a file: as long as asked, at most `most`, or to its end.

        Raises BadRequestError (changed, bad_value, corrupt).
        """
        key = request.token, request.sha256
        for is_fresh in (key not in self._known, True):
            if is_fresh:
                self._known[key] = self._find(request)
            self._known.move_to_end(key)
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
            path, size = self._known[key]
            try:
                return self._part(path, size, request.offset, min(request.bytes, most))
            except FileNotFoundError:
                del self._known[key]
        raise refusal("changed", f"the file {path.name} is gone: plan again")

    @staticmethod
    def _part(path: Path, size: int, offset: int, wanted: int) -> tuple[Header, Part]:
        if offset > size:
            raise refusal("bad_value", f"offset: {offset} lies beyond the file's end at {size}")
        wanted = min(wanted, size - offset)
        with open_file(path) as file:
            if os.fstat(file.fileno()).st_size < size:
                raise refusal("corrupt", f"{path} ends before {size}: rebuild it")
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), offset, AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        return {"offset": offset, "bytes": wanted, "size": size}, Part(str(path), offset, wanted)

    # -- files -----------------------------------------------------------------------------------------------------

    def _covers(self, symbol: str, file: ArchiveFile) -> tuple[int, int] | None:
        """The numbers that a file's tables answer for; None where it has none of this normaliser, or they are cut."""
        line = file.manifest or {}
        if line.get("normaliser") != self._version or "tables" not in line or "covers" not in line:
            return None
        first, last = line["covers"]
        return None if self._reader.is_cut(symbol, first, last) else (first, last)

    def _tables(self, symbol: str, file: ArchiveFile, request: Plan) -> Iterator[Header]:
        line = file.manifest or {}
        for channel in request.channels:
            table = line["tables"].get(channel)
            if table is None or not table["events"] or not _overlaps(table, request):
                continue
            yield {
                "symbol": symbol,
                "channel": channel,
                "token": _token(symbol, line["name"], channel),
                **{key: table[key] for key in ("file", "rows", "bytes", "sha256", "seq", "ts_recv")},
                "normaliser": line["normaliser"],
                "covers": line["covers"],
            }

    def _find(self, request: Chunk) -> tuple[Path, int]:
        """The file that a token names, if it is the one that was planned."""
        symbol, name, channel = _of_token(request.token)
        for file in self._reader.files(symbol) if symbol in self._reader.symbols() else ():
            line = file.manifest or {}
            table = line.get("tables", {}).get(channel) if line.get("name") == name else None
            if table is not None and table["sha256"] == request.sha256 and "/" not in table["file"]:
                return file.path.parent / table["file"], table["bytes"]
        raise refusal("changed", "the file was made anew or is gone: plan again")


def _overlaps(table: Header, request: Plan) -> bool:
    """Whether a table holds anything of the times asked. Events without a time of their own count by `ts_recv`."""
    ranges = [table["ts_recv"]] if request.by == "ts_recv" else [table["ts_recv"], table.get("ts_event")]
    return any(
        times is not None
        and (request.start is None or times[1] >= request.start)
        and (request.end is None or times[0] < request.end)
        for times in ranges
    )


def _token(symbol: str, name: str, channel: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([symbol, name, channel])).decode()


def _of_token(token: str) -> tuple[str, str, str]:
    try:
        symbol, name, channel = orjson.loads(base64.urlsafe_b64decode(token))
        if isinstance(symbol, str) and isinstance(name, str) and isinstance(channel, str):
            return symbol, name, channel
    except (binascii.Error, ValueError, TypeError):
        pass
    raise refusal("bad_value", "token: none of ours: give one of the plan's")
