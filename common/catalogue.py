"""What an exchange's symbols were at a moment: its instruments, as the feed was told."""

from collections.abc import Sequence
from typing import Any

from .adapter import Adapter
from .normaliser import Normaliser
from .reader import Reader

REFRESHED_NS = 2 * 3600 * 10**9
"""Within so long before a moment the feed has asked for the instruments, if it ran."""


def instruments(
    reader: Reader, adapter: Adapter, symbols: Sequence[str] | None, at: int | None, complete: int
) -> list[dict[str, Any]]:
    """The fields of each symbol's `instrument` event, with exchange and symbol, as they were known at a moment (ns).

    Feeds ask for them at their start and each hour; those answers are records of no symbol.
    """
    upto = complete if at is None else min(reader.seq_at(at + 1, ()) - 1, complete)
    run = reader.run(upto)
    since = run if at is None else max(run, reader.seq_at(at - REFRESHED_NS, ()))
    normaliser = Normaliser(adapter, None if symbols is None else frozenset(symbols))
    for line in reader.lines(None, since - 1, upto):
        if (work := normaliser.work(line)) is not None:
            normaliser.messages(work)
            normaliser.actions.clear()
    known = sorted((name, state.instrument) for name, state in normaliser.symbols.items() if state.instrument)
    return [{"exchange": adapter.NAME, "symbol": name, **fields} for name, fields in known]
