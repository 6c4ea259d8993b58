"""The arguments of the commands that ask an archive. It imports nothing that sockets or frames need."""

import argparse
from collections.abc import Callable
from pathlib import Path

from .events import CHANNELS

SERVER = "127.0.0.1:9000"
FORMATS = ("json", "csv", "parquet", "arrow", "raw")
EXPORTS = (
    "parquet",
    "csv",
    "jsonl",
    "tardis-csv",
    "hftbacktest",
    "freqtrade",
    "freqtrade-parquet",
    "freqtrade-json",
    "freqtrade-jsongz",
    "nautilus",
)

Add = Callable[[str, str, str], argparse.ArgumentParser]
"""Adds a command, by its name, its sentence and its examples."""

_SYMBOL = "the exchange's own name, as BTCUSDT, or the unified one, as BTC-USDT"
_PATTERN = "the exchange's own name, as BTCUSDT, the unified one, as BTC-USDT, or a pattern of these, as '*-USDT'"
_CHANNELS = f"of {', '.join(CHANNELS)} (default: all)"

_TIMES = """\
TIME: ns since the epoch, ISO 8601 (2024-08-08T23:50, UTC where no zone is
given), or -2h, -10m, now; 0: the beginning"""

_SLICE = f"""\
{_TIMES}

examples:
  trade-archivist slice binance BTCUSDT --channels trade --start -1h | jq .price
  trade-archivist slice binance BTCUSDT ETHUSDT --channels trade \\
      --start 2026-01-31 --end 2026-02-01 -o trades.parquet
  trade-archivist slice binance BTCUSDT --start -10m --format raw --storage DIR

json: the events as they were live, one a line; raw: records, as they were on
the wire; csv, arrow and parquet: the columns of one channel (of several,
parquet makes a directory). A file has its name only when it is whole. With
-o DIR/, new or empty, it is filled with EXCHANGE/CHANNEL/SYMBOL/*.parquet, the
archive's own files, byte for byte, where whole hours are asked for.
"""

_BOOK = f"""\
{_TIMES}

examples:
  trade-archivist book binance BTCUSDT
  trade-archivist book binance BTCUSDT --at 2026-01-31T12:00 --depth 5 --json
"""

_COVERAGE = f"""\
{_TIMES}

Each line is an interval without a gap, with its events and the bytes of its
tables: of the hour that is being written there are none yet (-). --json also
tells its first and last number.
"""

_SYMBOLS = """\
With --storage also files and times. Records are counted where files are sealed;
open: of the file that is being written open_bytes are known.
"""

_FOLLOW = f"""\
{_TIMES}

examples:
  trade-archivist follow binance BTCUSDT ETHUSDT --start -10m
  trade-archivist follow binance BTCUSDT --channels trade --count 10
  trade-archivist follow binance BTCUSDT --events tcp://127.0.0.1:9001

Events as JSON lines until Ctrl-C: the past from --start on, then live, each
once and in order; without --start live ones alone. What is missed is asked from
history; with --events and without --start nobody else need run. A symbol's gaps
come with any of its channels.
"""


_EXPORT = f"""\
{_TIMES}

examples:
  trade-archivist export parquet binance BTCUSDT --kinds trade,book -o ./export
  trade-archivist export csv binance BTC-USDT --start 2026-01-31 -o ./export
  trade-archivist export tardis-csv binance-usdm BTC-USDT-PERP -o ./export
  trade-archivist export freqtrade binance '*-USDT' --kinds trades,1m,5m \\
      --storage ./storage-dir -o ./user_data/data

One file for each symbol, kind and UTC day (of the time of receipt; of
freqtrade's, one for all days), whole or not at all; a line in exports.jsonl
tells what it holds, and its SHA-256. Run it again: what is there is kept, what
is new or was not over is made.
Each format's kinds: README, "Import and export".
"""


def words(text: str) -> list[str]:
    """`a,b` as a list."""
    return [word for word in text.split(",") if word]


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def add_research(add: Add) -> None:
    """Add `slice`, `book`, `coverage`, `gaps`, `symbols`, `instruments`, `status` and `follow`."""
    _add_slice(add("slice", "print a part of the past, or write it to a file", _SLICE))
    book = _asking(add("book", "print the order book at a moment", _BOOK))
    book.add_argument("exchange", metavar="EXCHANGE", help="for example binance")
    book.add_argument("symbol", metavar="SYMBOL", help=_SYMBOL)
    book.add_argument("--at", metavar="TIME", help="the moment (default: now)")
    book.add_argument(
        "--depth", type=count, metavar="N", help="levels of each side (default: on a terminal 10, else all)"
    )
    for name, text, more in (
        ("coverage", "list what is whole, and how surely", _COVERAGE),
        ("gaps", "list what is missing, and why", _TIMES),
    ):
        sub = _asking(add(name, text, more))
        sub.add_argument("exchange", metavar="EXCHANGE", help="for example binance")
        sub.add_argument("symbols", nargs="*", metavar="SYMBOL", help=f"{_PATTERN} (default: all)")
        _add_range(sub)
    symbols = _asking(add("symbols", "list the symbols that are archived", _SYMBOLS))
    symbols.add_argument("exchange", metavar="EXCHANGE", nargs="?", help="only this one (default: all)")
    instruments = _asking(add("instruments", "list what the symbols are", _TIMES))
    instruments.add_argument("exchange", metavar="EXCHANGE", help="for example binance")
    instruments.add_argument("symbols", nargs="*", metavar="SYMBOL", help=f"{_PATTERN} (default: all)")
    instruments.add_argument("--at", metavar="TIME", help="the moment (default: now)")
    _asking(add("status", "print what each process last said about itself", ""))
    _add_follow(add("follow", "print events, past and live", _FOLLOW))
    _add_export(add("export", "write an archive as the files of other tools", _EXPORT))


def _asking(sub: argparse.ArgumentParser, *, json: bool = True) -> argparse.ArgumentParser:
    """With the options that say who is asked."""
    where = sub.add_mutually_exclusive_group()
    where.add_argument("--server", metavar="HOST:PORT", help=f"the history server (default: {SERVER})")
    where.add_argument("--storage", type=Path, metavar="DIR", help="read this storage directory, without a server")
    sub.add_argument("--server-key", metavar="KEY", help="the public key of a server that wants keys, or its file")
    sub.add_argument("--key", type=Path, metavar="FILE", help="your own pair for it (see trade-archivist keys)")
    if json:
        sub.add_argument("--json", action="store_true", help="one JSON object instead of columns")
    return sub


def _add_range(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--channels", type=words, default=list(CHANNELS), metavar="A,B", help=_CHANNELS)
    sub.add_argument("--start", metavar="TIME", help="the first moment (default: the beginning)")
    sub.add_argument("--end", metavar="TIME", help="the first moment after it (default: what is archived)")


def _add_slice(sub: argparse.ArgumentParser) -> None:
    _asking(sub, json=False)
    sub.add_argument("exchange", metavar="EXCHANGE", help="for example binance")
    sub.add_argument("symbols", nargs="+", metavar="SYMBOL", help=_PATTERN)
    _add_range(sub)
    sub.add_argument(
        "--by",
        choices=("ts_recv", "ts_event"),
        default="ts_recv",
        help="start and end are of our time or the exchange's (default: ts_recv, ours)",
    )
    sub.add_argument("--format", choices=FORMATS, help="how it is written (default: as FILE's name ends, else json)")
    sub.add_argument("-o", "--output", metavar="FILE", help="where to; DIR/ for a directory (default: stdout)")


def _add_follow(sub: argparse.ArgumentParser) -> None:
    _asking(sub, json=False)
    sub.add_argument("exchange", metavar="EXCHANGE", help="for example binance")
    sub.add_argument("symbols", nargs="+", metavar="SYMBOL", help=_PATTERN)
    sub.add_argument("--channels", type=words, default=list(CHANNELS), metavar="A,B", help=_CHANNELS)
    sub.add_argument("--start", metavar="TIME", help="begin in the past (default: now, live events alone)")
    sub.add_argument("--events", metavar="ENDPOINT", help="where the feed publishes (default: what the server says)")
    sub.add_argument("--count", type=count, metavar="N", help="end after so many events")
    sub.add_argument(
        "--on-gap-after", type=float, metavar="SECONDS",
        help="with --start: when history does not fill a hole for so long, go on with a gap event (default: wait)",
    )  # fmt: skip


def _add_export(sub: argparse.ArgumentParser) -> None:
    _asking(sub, json=False)
    sub.add_argument("format", choices=EXPORTS, metavar="FORMAT", help=", ".join(EXPORTS))
    sub.add_argument("exchange", metavar="EXCHANGE", help="for example binance")
    sub.add_argument("symbols", nargs="+", metavar="SYMBOL", help=_PATTERN)
    sub.add_argument(
        "--kinds",
        type=words,
        default=[],
        metavar="A,B",
        help="what files, by the format's words (default: all that there are)",
    )
    sub.add_argument("--start", metavar="TIME", help="the first moment (default: the beginning)")
    sub.add_argument("--end", metavar="TIME", help="the first moment after it (default: what is archived)")
    sub.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the directory of the files")
