"""A recorded log to be replayed, and what is expected of it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson

from common import exchanges
from common.adapter import Adapter
from common.events import CHANNELS
from common.reader import Reader
from common.replay import Part, steps
from tests.record_logs import ADAPTER, SYMBOLS, Log
from tests.test_reader import Recording

TICK_NS = 50_000_000
SECOND_NS = 10**9
END = 1 << 62
OTHER = cast(Adapter, SimpleNamespace(**{**vars(exchanges.get("binance")), "NAME": "other"}))
"""A second exchange, that trades the same."""


def recorded(storage: Path, seed: int = 3, count: int = 600, step_ns: int = TICK_NS) -> Log:
    """An archive of a random log, sealed but for its last file."""
    log = Log(seed, count, step_ns=step_ns)
    recording = Recording(storage, log)
    while recording.done < len(log.lines):
        recording.take(200)
        recording.seal()
    return log


def part(storage: Path, symbols: Sequence[str] = SYMBOLS, channels: Sequence[str] = CHANNELS) -> Part:
    return Part(ADAPTER, Reader(storage, ADAPTER), tuple(symbols), tuple(channels))


def played(parts: Sequence[Part], start: int = 0, end: int = END) -> list[bytes]:
    return [message for step in steps(parts, start, end) for message in step.messages]


def is_beat(message: bytes) -> bool:
    return b"/heartbeat" in message[:40]


def events(messages: Sequence[bytes]) -> list[bytes]:
    return [each for each in messages if not is_beat(each) and b'"derived":true' not in each]


def expected(log: Log, start: int, end: int, symbols: Sequence[str] = SYMBOLS) -> list[bytes]:
    ends = tuple(f"/{symbol}" for symbol in symbols)
    return [
        message
        for record, messages in zip(log.records, log.messages, strict=True)
        if start <= record.ts_recv < end
        for message in messages
        if message.partition(b" ")[0].decode().endswith(ends)
    ]


def body(message: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(message.partition(b" ")[2])
    return found


def hashed(messages: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for message in messages:
        digest.update(message + b"\n")
    return digest.hexdigest()
