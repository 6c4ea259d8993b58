"""The command line of the stand-in exchange."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from . import exchanges
from .exchanges.binance_standin_rest import WEIGHT_LIMIT
from .process import ConfigError, setup_logging
from .settings import LOG_LEVEL_HELP, LOG_LEVELS

SYMBOLS = ("BTCUSDT", "ETHUSDT")
"""What is generated where no symbol is named."""


@dataclass(frozen=True)
class Options:
    """What the command line says, checked. `speed` 0 is as fast as the readers take it."""

    exchange: str
    host: str
    port: int
    recordings: tuple[Path, ...]
    archive: Path | None
    symbols: tuple[str, ...]
    seed: int
    rate: float
    speed: float
    loop: bool
    preload: bool
    start_after: int
    sent: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    ping_s: float
    pong_timeout_s: float
    buffer_bytes: int
    weight_limit: int
    faults: tuple[str, ...]

    @property
    def synthetic(self) -> bool:
        return not self.recordings and self.archive is None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (--help tells the options)")


def parse(arguments: Sequence[str]) -> Options:
    """Read and check the command line, and set up the logging. Raises ConfigError."""
    chosen = _parser().parse_args(arguments)
    setup_logging(chosen.log_level)
    _check(chosen)
    named = chosen.symbols.upper() if chosen.exchange == "binance" else chosen.symbols
    symbols = tuple(name for name in named.split(",") if name)
    archive = _exchange_folder(chosen.archive, chosen.exchange)
    if not symbols and not chosen.recording and archive is None:
        symbols = SYMBOLS
    return Options(
        exchange=chosen.exchange,
        host=chosen.host,
        port=chosen.port,
        recordings=tuple(chosen.recording),
        archive=archive,
        symbols=symbols,
        seed=chosen.seed,
        rate=chosen.rate,
        speed=chosen.speed,
        loop=chosen.loop,
        preload=chosen.preload,
        start_after=chosen.start_after,
        sent=chosen.sent,
        tls_cert=chosen.tls_cert,
        tls_key=chosen.tls_key,
        ping_s=chosen.ping_s,
        pong_timeout_s=chosen.pong_timeout_s,
        buffer_bytes=chosen.buffer_bytes,
        weight_limit=chosen.weight_limit,
        faults=tuple(chosen.fault),
    )


def _check(chosen: argparse.Namespace) -> None:
    if chosen.synthetic and (chosen.recording or chosen.archive):
        raise ConfigError("--synthetic cannot be combined with --recording or --archive")
    if chosen.recording and chosen.archive:
        raise ConfigError("--recording and --archive cannot be combined")
    if (chosen.tls_cert is None) != (chosen.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key belong together")
    for path in (*chosen.recording, *filter(None, (chosen.tls_cert, chosen.tls_key))):
        if not path.is_file():
            raise ConfigError(f"{path} is no file")
    if chosen.sent is not None and not chosen.sent.parent.is_dir():
        raise ConfigError(f"--sent: {chosen.sent.parent} is no folder")


def _parser() -> argparse.ArgumentParser:
    what = "Stand in for an exchange on one loopback port."
    parser = _Parser(prog="python -m processes.standin", description=what, allow_abbrev=False)
    add = parser.add_argument
    add("exchange", choices=exchanges.names(), metavar="EXCHANGE", help=", ".join(exchanges.names()))
    add("--host", default="127.0.0.1", help="where it listens (default: 127.0.0.1)")
    add("--port", type=int, default=9443, metavar="N", help="0 takes a free one and logs it (default: 9443)")
    merged = "recordings of the exchange, gzip; several are merged"
    add("--recording", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help=merged)
    add("--archive", type=Path, metavar="DIR", help="a storage directory, instead of recordings")
    add("--synthetic", action="store_true", help="a generated market: the default without a recording or an archive")
    add("--symbols", default="", metavar="A,B", help=f"default: of a generated market {','.join(SYMBOLS)}, else all")
    add("--seed", type=int, default=1, metavar="N", help="of the generated market (default: 1)")
    rate = "events per second and symbol of the generated market (default: 50)"
    add("--rate", type=_positive, default=50.0, metavar="N", help=rate)
    speed = "times as fast as it happened; max loses nothing and waits for its readers (default: 1)"
    add("--speed", type=_speed, default=1.0, metavar="N|max", help=speed)
    add("--loop", action="store_true", help="begin again at the end")
    add("--preload", action="store_true", help="read the whole source into memory first: the fastest")
    add("--start-after", type=int, default=1, metavar="N", help="begin when N streams are subscribed (default: 1)")
    add("--sent", type=Path, metavar="FILE", help="append one JSON line per data frame sent")
    add("--tls-cert", type=Path, metavar="FILE", help="serve wss:// and https:// with this certificate")
    add("--tls-key", type=Path, metavar="FILE", help="its private key")
    add("--ping-s", type=float, default=20.0, metavar="S", help="seconds between pings; 0 sends none (default: 20)")
    pong = "seconds without a pong after which a connection is cut (default: 60)"
    add("--pong-timeout-s", type=_positive, default=60.0, metavar="S", help=pong)
    buffer = "a reader further behind is cut, but not at --speed max (default: 4194304)"
    add("--buffer-bytes", type=int, default=4 * 1024**2, metavar="N", help=buffer)
    weight = f"weight of REST requests per minute (default: {WEIGHT_LIMIT})"
    add("--weight-limit", type=int, default=WEIGHT_LIMIT, metavar="N", help=weight)
    add("--fault", action="append", default=[], metavar="QUERY", help="as in /standin/fault?QUERY: do=cut&after=1000")
    add("--log-level", default="INFO", choices=LOG_LEVELS, metavar="LEVEL", help=LOG_LEVEL_HELP)
    return parser


def _exchange_folder(directory: Path | None, exchange: str) -> Path | None:
    if directory is None:
        return None
    folder = directory / exchange
    if not folder.is_dir():
        raise ConfigError(f"--archive: {folder} is no folder")
    return folder


def _speed(text: str) -> float:
    return 0.0 if text == "max" else _positive(text)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
