"""The command line of the replay, and what can be known to be wrong with it before anything starts."""

import argparse
import difflib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from . import exchanges, limits, replay_control, settings
from .adapter import Adapter
from .config import Config, CurveConfig
from .errors import ArchivistError
from .events import CHANNELS
from .process import ConfigError
from .reader import Reader
from .replay import Part
from .spelling import spelled
from .times import iso, parse_time, with_times
from .transport import Local

_EPILOG = """\
examples:
  python -m processes.replay binance BTCUSDT ETHUSDT --start -10m --speed 10
  python -m processes.replay binance:BTCUSDT,ETHUSDT okx:BTC-USDT --speed max

TIME: ns since the epoch, ISO 8601 (2024-08-08T23:50, UTC where no zone is
given), or -2h, -10m, now

It waits for the first subscriber, then begins (--begin now does not wait).
Events of several exchanges are merged by the time at which they were received,
and are byte for byte what was live; each book begins with a snapshot, marked
derived. Heartbeats come every second of that time. After the last event, the
last heartbeat of each exchange (topic EXCHANGE/heartbeat) has "end": true. The
process ends when its subscribers have everything; with --control it stays, to
seek back.

A subscriber that is slow is waited for, at every speed: nobody loses anything.
The same arguments give the same bytes, at any speed; their SHA-256 (each
message with a line break) is logged at the end.

The control socket takes requests of a REQ socket in any language; one JSON
object asks, one answers: {"op": "status"}, "pause", "resume", "stop",
{"op": "seek", "time": "2024-08-08T23:55"}, {"op": "speed", "speed": 10},
{"op": "step", "count": 100}.
"""


class Options(NamedTuple):
    """What is replayed, from `start` to `end` (ns), and where. `speed` 0 is max."""

    parts: list[Part]
    start: int
    end: int
    speed: float
    begin: str
    events: str
    control: str | None
    curve: CurveConfig


def checked(args: argparse.Namespace) -> Options:
    """Raises ConfigError, in a line that names the option and the mend."""
    config = settings.without_feeds(args.conf, {} if args.storage is None else {"--storage": args.storage})
    events = _endpoint("--bind", args.bind, config)
    control = None if args.control is None else _endpoint("--control", args.control, config)
    if control is None and args.begin == "paused":
        raise ConfigError("--begin paused needs --control HOST:PORT: nobody could resume it")
    start, end = _range(args.start, args.end)
    speed = _speed(args.speed)
    parts = _parts(args.what, args.channels, config.archive.storage)
    return Options(parts, start, end, speed, args.begin, events, control, config.curve)


def _endpoint(option: str, address: str, config: Config) -> str:
    try:
        limits.host_port(address)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None
    if not config.curve.is_set and not limits.is_local(f"tcp://{address}"):
        raise ConfigError(f"{option}: {address} {limits.PUBLIC_NEEDS_KEYS}")
    return f"tcp://{address}"


def _range(start: str, end: str) -> tuple[int, int]:
    now = time.time_ns()
    found = []
    for option, text in (("--start", start), ("--end", end)):
        try:
            found.append(parse_time(text, now))
        except (ValueError, OverflowError) as error:
            raise ConfigError(f"{option}: {error}") from None
        if not 0 <= found[-1] < 1 << 63:
            raise ConfigError(f"{option}: {text} is not a time since 1970 in ns")
    if found[0] >= found[1]:
        raise ConfigError(f"--start {start} is not before --end {end}: give an earlier start or a later end")
    return found[0], found[1]


def _speed(text: str) -> float:
    try:
        return replay_control.speed_of(text)
    except ValueError as error:
        raise ConfigError(f"--speed: {error}") from None


def asked(words: Sequence[str]) -> dict[str, list[str]]:
    """The symbols by exchange that the words of a command line name. Raises ConfigError."""
    if ":" not in words[0]:
        words = [f"{words[0]}:{','.join(words[1:])}"]
    found: dict[str, list[str]] = {}
    for word in words:
        exchange, colon, symbols = word.partition(":")
        names = [symbol for symbol in symbols.split(",") if symbol]
        if not colon or not exchange or not names:
            raise ConfigError(
                f"{word!r}: give an exchange and its symbols, as binance BTCUSDT, or binance:BTCUSDT,ETHUSDT for each"
            )
        have = found.setdefault(exchange, [])
        have += [name for name in dict.fromkeys(names) if name not in have]
    return found


def _parts(words: Sequence[str], channels: str, storage: Path) -> list[Part]:
    chosen = tuple(dict.fromkeys(channel for channel in channels.split(",") if channel))
    if unknown := [channel for channel in chosen if channel not in CHANNELS] or ([""] if not chosen else []):
        raise ConfigError(f"--channels: {unknown[0]!r} is not one of {', '.join(CHANNELS)}")
    parts = []
    for exchange, symbols in asked(words).items():
        if exchange not in exchanges.names():
            raise ConfigError(f"unknown exchange {exchange!r}: known are {', '.join(exchanges.names())}")
        if not (storage / exchange).is_dir():
            raise ConfigError(f"{storage / exchange} is not there: name the storage directory with --storage")
        reader = Reader(storage, adapter := cast(Adapter, exchanges.get(exchange)))
        known, named = reader.symbols(), _spelled(storage, exchange, symbols)
        for symbol in named:
            if symbol not in known:
                close = difflib.get_close_matches(symbol.upper(), known, 1) or known[:1]
                hint = f": did you mean {close[0]}?" if close else ""
                raise ConfigError(f"{exchange}: symbol {symbol!r} is not in {storage / exchange}{hint}")
        parts.append(Part(adapter, reader, named, chosen))
    return parts


def nothing(parts: Sequence[Part], start: int, end: int) -> str:
    """Why there is nothing to replay, and what there is."""
    spans = [file.ts_recv for part in parts for symbol in part.symbols for file in part.reader.files(symbol)]
    there = f"from {iso(min(spans)[0])} to {iso(max(span[1] for span in spans))}" if spans else "nothing"
    return f"nothing of this is recorded from {iso(start)} to {iso(end)}: there is {there}"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m processes.replay",
        description="Send past events out of an archive in the live format.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    what = "an exchange and its symbols, or EXCHANGE:SYMBOL,SYMBOL for each of several exchanges"
    add("what", nargs="+", metavar="WHAT", help=what)
    add("--start", default="0", metavar="TIME", help="the first moment (default: the first event's)")
    add("--end", default="now", metavar="TIME", help="the first moment after it (default: now)")
    channels = f"of {', '.join(CHANNELS)} (default: all); gaps always come"
    add("--channels", default=",".join(CHANNELS), metavar="A,B", help=channels)
    add("--speed", default="1", metavar="N|max", help="times as fast as it happened (default: 1)")
    add("--bind", default="127.0.0.1:9100", metavar="HOST:PORT", help="where events are sent (default: 127.0.0.1:9100)")
    add("--control", metavar="HOST:PORT", help="where it is controlled (default: nowhere)")
    begins = ("subscribed", "now", "paused")
    begin = "when to begin: at the first subscription, now, or when --control says so (default: subscribed)"
    add("--begin", default=begins[0], choices=begins, help=begin)
    add("--storage", metavar="DIR", help="the storage directory (default: the configuration's)")
    conf = f"configuration (default: ${settings.CONF_VARIABLE}, else conf/binance.toml)"
    add("--conf", type=Path, metavar="FILE", help=conf)
    add("--log-level", default="INFO", choices=settings.LOG_LEVELS, metavar="LEVEL", help=settings.LOG_LEVEL_HELP)
    return parser.parse_args(with_times(sys.argv[1:] if argv is None else argv))


def _spelled(storage: Path, exchange: str, symbols: Sequence[str]) -> tuple[str, ...]:
    """The exchange's own symbols, also of unified names and patterns. Raises ConfigError."""
    try:
        return spelled(Local(storage), exchange, symbols)
    except ArchivistError as error:
        raise ConfigError(f"{exchange}: {error}") from None
