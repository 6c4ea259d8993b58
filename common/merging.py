"""Streams of record lines merged by their numbers."""

import heapq
from collections.abc import Iterator

from .blocks import place_of
from .record import seq_of


class _Cursor:
    """Where a merge stands in a stream of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.raw, self.place = b"", 0
        self.next_piece()

    def next_piece(self) -> None:
        self.raw, self.place = next(self._pieces, b""), 0

    @property
    def first(self) -> int:
        return seq_of(self.raw[self.place : self.place + 40])

    @property
    def last(self) -> int:
        return seq_of(self.raw[self.raw.rfind(b"\n", 0, -1) + 1 :][:40])


def spliced(many: Iterator[bytes], few: Iterator[bytes]) -> Iterator[bytes]:
    """Two streams of pieces merged by numbers: pieces are cut only where the other stream has something in between."""
    one, other = _Cursor(many), _Cursor(few)
    while one.raw and other.raw:
        if one.first > other.first:
            one, other = other, one
        limit = other.first
        end = len(one.raw) if one.last < limit else place_of(one.raw, limit)
        yield one.raw[one.place : end] if one.place or end < len(one.raw) else one.raw
        one.place = end
        if end == len(one.raw):
            one.next_piece()
    for rest in (one, other):
        while rest.raw:
            yield rest.raw[rest.place :] if rest.place else rest.raw
            rest.next_piece()


def merged(streams: list[Iterator[bytes]]) -> Iterator[bytes]:
    return heapq.merge(*streams, key=seq_of)
