"""What an exchange's symbols were at a moment: its instruments, as the feed was told."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import orjson

from .adapter import FAULTS, Adapter
from .codec import CodecError
from .normaliser import Normaliser
from .reader import Reader
from .record import RecordError

REFRESHED_NS = 2 * 3600 * 10**9
"""Within so long before a moment the feed has asked for the instruments, if it ran."""


def instruments(
    reader: Reader, adapter: Adapter, symbols: Sequence[str] | None, at: int | None, complete: int
) -> list[dict[str, Any]]:
    """The fields of each symbol's `instrument` event, with exchange and symbol, as they were known at a moment (ns).

    Feeds ask for them at their start and each hour; those answers are records of no symbol.
    """
    upto = complete if at is None else min(reader.seq_at(at + 1, ()) - 1, complete)
    moment = max((file.ts_recv[1] for file in reader.files(None)[-1:]), default=0) if at is None else at
    (run, subscribed), lately = reader.run(upto), reader.seq_at(moment - REFRESHED_NS, ())
    wanted = frozenset(subscribed if symbols is None else set(symbols).intersection(subscribed))
    known = _told(reader, adapter, wanted, max(run, lately), upto)
    if not known and run < lately:  # for so long the exchange has not answered
        known = _told(reader, adapter, wanted, run, upto)
    return [{"exchange": adapter.NAME, "symbol": name, **fields} for name, fields in known]


def _told(
    reader: Reader, adapter: Adapter, symbols: Collection[str], since: int, upto: int
) -> list[tuple[str, dict[str, Any]]]:
    """The instruments that records of no symbol tell of, from one number to another."""
    normaliser = Normaliser(adapter, symbols)
    for line in reader.lines(None, since - 1, upto):
        if (work := normaliser.work(line)) is not None:
            normaliser.messages(work)
            normaliser.actions.clear()
    return sorted((name, state.instrument) for name, state in normaliser.symbols.items() if state.instrument)


class Names:
    """What the archived symbols are called, those too that the exchange lists no more."""

    def __init__(self, reader: Reader, adapter: Adapter) -> None:
        self._reader, self._adapter = reader, adapter
        self._kept: dict[str, str | None] = {}  # of symbols that were not told of lately: None where nothing tells it

    def pairs(self, complete: int) -> list[tuple[str, str]]:
        """Unified name and symbol, as the feed was told last, or as a symbol's own last checkpoint has it."""
        told = {each["symbol"]: each["name"] for each in instruments(self._reader, self._adapter, None, None, complete)}
        self._kept |= told
        for symbol in self._reader.symbols():
            if symbol not in self._kept:
                with suppress(CodecError, RecordError, OSError):  # lost or damaged: that costs this name alone
                    self._kept[symbol] = self._of_checkpoint(symbol, complete)
        taken = set(told.values())
        before = [(name, symbol) for symbol, name in self._kept.items() if name is not None and name not in taken]
        return [*((name, symbol) for symbol, name in told.items()), *before]

    def _of_checkpoint(self, symbol: str, complete: int) -> str | None:
        payload = self._reader.last_checkpoint(symbol, complete)
        try:
            instrument = orjson.loads(payload)["state"].get("instrument") if payload is not None else None
            return None if instrument is None else str(instrument["name"])
        except FAULTS:
            return None  # a damaged checkpoint: `verify` names it
