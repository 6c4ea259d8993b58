"""What a feed records, as `start`, `subscriptions` and checkpoints of no symbol tell (rule 20 of the protocol)."""

import re
from typing import Any, NamedTuple

import orjson

from .adapter import FAULTS
from .record import Record, RecordError

TELLS = re.compile(
    rb'^\{"seq":\d+,"ts_recv":-?\d+,"kind":(?:"start",|"subscriptions","data"|"checkpoint","data")', re.MULTILINE
)
"""The beginnings of records that tell what is subscribed."""


class Subscribed(NamedTuple):
    """A run by its `start`, its symbols and channels, and `away`, the topics that it does not record any more.

    `away` is `{symbol: {channel: {"gap": id, "ts_from": ns, "id": last id}}}`. None where nothing tells.
    """

    start: int
    symbols: list[str] | None = None
    channels: list[str] | None = None
    away: dict[str, dict[str, Any]] | None = None

    def after(self, record: Record) -> "Subscribed":
        """The same after a record of one of the three kinds. Raises RecordError where its payload is damaged."""
        try:
            return self._after(record)
        except FAULTS as error:
            raise _damaged(record, error) from None

    def _after(self, record: Record) -> "Subscribed":
        data = orjson.loads(record.payload or b"{}")
        if record.kind == "start":
            told = data.get("subscriptions", {})
            symbols, channels = told.get("symbols", []), told.get("channels")
            return Subscribed(record.seq, symbols, channels, _left(record.seq, symbols, channels, data.get("owed", {})))
        if record.kind == "checkpoint":
            channels, away = data.get("channels", self.channels), data.get("away", self.away)
            return self._replace(symbols=data.get("symbols") or self.symbols, channels=channels, away=away)
        away, left = dict(self.away or {}), {"gap": record.seq, "ts_from": record.ts_recv, "id": None}
        for symbol in data["added"]:  # channels that the run does not record stay away
            away[symbol] = {each: what for each, what in away.get(symbol, {}).items() if each not in data["channels"]}
        for symbol in data["removed"]:
            away[symbol] = {**away.get(symbol, {}), **dict.fromkeys(data["channels"], left)}
        return self._replace(
            symbols=data["symbols"], away={symbol: topics for symbol, topics in away.items() if topics}
        )


def tells_subscriptions(line: bytes) -> bool:
    """Whether a record line of no symbol is of one of the three kinds."""
    return TELLS.match(line) is not None


def run_of(record: Record) -> int:
    """The number of the `start` of the run that a checkpoint of no symbol belongs to. Raises RecordError."""
    try:
        return int(orjson.loads(record.payload or b"{}").get("run", 0))
    except FAULTS as error:
        raise _damaged(record, error) from None


def _damaged(record: Record, error: Exception) -> RecordError:
    mend = "`trade-archivist verify` says where; a start of the archiver mends files that are being written"
    return RecordError(f"record {record.seq} ({record.kind}) is damaged ({error}): {mend}")


def _left(start: int, symbols: list[str], channels: list[str] | None, owed: dict[str, Any]) -> dict[str, Any] | None:
    """The topics that a run does not record, of those that runs before it did."""
    if "topics" not in owed:
        return owed.get("away")
    subscribed, found = set(symbols), dict[str, Any]()
    for symbol, topics in owed["topics"].items():
        since = owed.get("since", {}).get(symbol, owed.get("ts"))
        gone = {channel: {"gap": start, "ts_from": since, "id": last} for channel, last in topics.items()}
        found[symbol] = gone
    for symbol, known in (owed.get("away") or {}).items():
        found[symbol] = found.get(symbol, {}) | known
    for symbol in subscribed.intersection(found):
        found[symbol] = {each: what for each, what in found[symbol].items() if each not in (channels or found[symbol])}
    return {symbol: topics for symbol, topics in found.items() if topics}
