"""Small files as other recorders write them, and what an import is to make of them."""

import gzip
from collections.abc import Iterable
from pathlib import Path

import orjson

from common.codec import lines
from common.disk import Disk
from common.import_commit import all_sealed
from common.record import Record, decode

HOUR_NS = 3_600_000_000_000
DAY = 1_723_161_600_000_000_000  # 2024-08-09T00:00:00Z


def zipped(path: Path, lines: Iterable[bytes]) -> Path:
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines), 1))
    return path


def trade(ts: int, number: int, symbol: str = "BTCUSDT") -> tuple[int, bytes]:
    data = {
        "e": "trade", "E": ts // 1_000_000, "s": symbol, "t": number, "p": "61837.64000000", "q": "0.00100000",
        "T": ts // 1_000_000, "m": number % 2 > 0, "M": True,
    }  # fmt: skip
    return ts, orjson.dumps({"stream": f"{symbol.lower()}@trade", "data": data})


def delta(ts: int, number: int, symbol: str = "BTCUSDT") -> tuple[int, bytes]:
    """A delta of one bid: `number` lots at a price that depends on it."""
    bids = [[f"{100 + number % 7}.00", f"{number % 5}.50" if number % 5 else "0.00"]]
    data = {"e": "depthUpdate", "E": ts // 1_000_000, "s": symbol, "U": number, "u": number, "b": bids, "a": []}
    return ts, orjson.dumps({"stream": f"{symbol.lower()}@depth@100ms", "data": data})


def snapshot(ts: int, number: int) -> tuple[int, bytes]:
    return ts, orjson.dumps({"lastUpdateId": number, "bids": [["90.00", "1.00"]], "asks": [["110.00", "2.00"]]})


def market(ts: int, count: int, span_ns: int, symbol: str = "BTCUSDT", first: int = 1) -> list[tuple[int, bytes]]:
    """Trades and deltas by turns, evenly over a time, and a snapshot near the beginning."""
    found = []
    for index in range(count):
        now, number = ts + index * span_ns // count, first + index
        found.append((trade if index % 2 else delta)(now, number // 2 + 1, symbol))
        if index == 4:
            found.append(snapshot(now, (first + 2) // 2 + 1))
    return found


def hftbacktest(path: Path, messages: Iterable[tuple[int, bytes]]) -> Path:
    return zipped(path, (b"%d %b" % message for message in messages))


def records(directory: Path) -> list[Record]:
    """All records of an exchange's sealed files, by number."""
    found = [
        decode(line)
        for name, sealed in all_sealed(Disk(), directory).items()
        for each in sealed
        for line in lines(next((directory / name).glob(f"*/{each['file']}")))
    ]
    return sorted(found, key=lambda record: record.seq)


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, with what it holds."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
