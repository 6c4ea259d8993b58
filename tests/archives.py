"""Small archives, written by the archiver's own code."""

from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path

import orjson

from common import exchanges
from common.adapter import version
from common.archive import ArchiveWriter
from common.disk import Disk
from common.process import boot_id
from common.record import encode
from common.sealing import seal
from common.tabling import tabulate

NORMALISER = version(exchanges.get("binance"))

HOUR_NS = 3_600_000_000_000
FIRST_TS = 1_723_161_253_937_085_768 // HOUR_NS * HOUR_NS
FIRST = 1_000_000
ODD = (b"\x00\xff\r\n", '{"text":"a\u2028b\\rc"}'.encode(), b'{\r"a":1}', b"not JSON, but\nlines")
"""Payloads that are easily spoilt on their way."""


def start(seq: int, last: int, ts: int = FIRST_TS) -> bytes:
    subscriptions = {"symbols": ["BTCUSDT", "ETHUSDT"], "channels": ["trade"]}
    payload = orjson.dumps({"exchange": "binance", "subscriptions": subscriptions})
    return encode(seq, ts, "start", head={"last": last}, payload=payload)


def trade(seq: int, ts: int = FIRST_TS, symbol: str = "BTCUSDT", trade_id: int | None = None) -> bytes:
    data = {
        "e": "trade", "E": ts // 1_000_000, "s": symbol, "t": trade_id or seq, "p": "61837.64000000", "q": "0.00100000",
        "T": ts // 1_000_000, "m": True, "M": True,
    }  # fmt: skip
    payload = orjson.dumps({"stream": f"{symbol.lower()}@trade", "data": data})
    return encode(seq, ts, "in", conn=1, channel="trade", symbol=symbol, payload=payload)


def hours(first: int, count: int, hours: int = 3, ts: int = FIRST_TS) -> list[bytes]:
    """Records of two symbols and of none over some hours; each file begins with a checkpoint."""
    lines: list[bytes] = []
    for index in range(count):
        now = ts + index * hours * HOUR_NS // count
        seq, symbol = first + index, (None, "BTCUSDT", "ETHUSDT", "BTCUSDT")[index % 4]
        if index % (count // hours) < 4:
            lines.append(encode(seq, now, "checkpoint", symbol=symbol, payload=b'{"normaliser":"none"}'))
        elif symbol is None:
            lines.append(encode(seq, now, "in", conn=1, payload=ODD[index // 4 % 4]))
        else:
            lines.append(trade(seq, now, symbol, index))
    return lines


class Archive:
    """A storage directory with one exchange. What is turned is sealed, in small blocks."""

    def __init__(self, storage: Path, codec: str = "bz2", exchange: str = "binance") -> None:
        self.storage, self.directory, self._codec = storage, storage / exchange, codec
        self._tables = partial(tabulate, adapter=exchanges.get(exchange))

    @cached_property
    def writer(self) -> ArchiveWriter:
        writer = ArchiveWriter(Disk(), self.directory, boot_id=boot_id(), rotate_min_bytes=1)
        writer.open(None)
        return writer

    def take(self, lines: Iterable[bytes]) -> None:
        self.writer.take(lines)
        self.writer.flush()

    def begin(self, last: int = 0, seq: int = FIRST) -> None:
        """A run begins, at a jump."""
        self.writer.hole(seq, last)
        self.take([start(seq, last)])

    def sync(self) -> None:
        """Sync, and seal what is full."""
        self.writer.sync(lambda: None)
        for path in self.writer.sealable():
            seal(Disk(), path, self._codec, 3, 4096, NORMALISER, self._tables)

    def close(self) -> None:
        self.sync()
        self.writer.close()

    def files(self, suffix: str) -> list[Path]:
        return sorted(self.directory.rglob(f"*{suffix}"))


def written(storage: Path, codec: str = "bz2", count: int = 600) -> Archive:
    """A whole archive of one run, sealed but for the last hour."""
    archive = Archive(storage, codec)
    archive.begin()
    archive.take(hours(FIRST + 1, count))
    archive.close()
    return archive
