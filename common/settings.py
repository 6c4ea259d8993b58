"""Reads the configuration (`config.py`) from `conf/*.toml`, the environment and the command line, and checks it.

Later wins: the defaults, the file, environment variables (`TRADE_ARCHIVIST_FEED__BINANCE__SYMBOLS=BTCUSDT,ETHUSDT`),
options of the command line. What is not known, has the wrong type or an impossible value is a ConfigError.
Relative paths are relative to the current directory, in a file too.
"""

import argparse
import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

from . import exchanges as adapters
from . import limits
from .config import CODECS, ArchiveConfig, Config, CurveConfig, FeedConfig, HistoryConfig, StandinConfig
from .events import CHANNELS
from .process import SUPERVISOR_VARIABLE, ConfigError
from .storage import has_place

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LOG_LEVEL_HELP = f"{', '.join(LOG_LEVELS)} (default: INFO)"
PREFIX = "TRADE_ARCHIVIST_"
CONF_VARIABLE = PREFIX + "CONF"
NOT_SETTINGS = {CONF_VARIABLE, SUPERVISOR_VARIABLE, PREFIX + "BOOT_ID"}
CHECKOUT_CONF = Path(__file__).resolve().parent.parent / "conf" / "binance.toml"


class Option(NamedTuple):
    """A command-line option that sets a key; `*` stands for every exchange."""

    key: str
    metavar: str
    help: str


OPTIONS = {
    "--storage": Option("archive.storage", "DIR", "the storage directory"),
    "--listen": Option("history.listen", "HOST:PORT", "where history is served"),
    "--symbols": Option(
        "feed.*.symbols", "A,B", "what to record: the exchange's names, unified ones (BTC-USDT) or patterns (*-USDT)"
    ),
    "--channels": Option("feed.*.channels", "A,B", f"what to record, of {', '.join(CHANNELS)}"),
    "--codec": Option("archive.codec", "|".join(CODECS), "how sealed files are compressed"),
    "--ws-url": Option("feed.*.ws_url", "URL", "scheme, host and port that replace those of the exchange's WebSocket"),
    "--rest-url": Option("feed.*.rest_url", "URL", "the same of its REST"),
    "--publish": Option("feed.*.events", "HOST:PORT", "where events are published; further exchanges: the next ports"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all daemons share."""
    parser.add_argument(
        "--conf", type=Path, metavar="FILE", help=f"configuration (default: ${CONF_VARIABLE}, else conf/binance.toml)"
    )
    for option, (_, metavar, text) in OPTIONS.items():
        parser.add_argument(option, metavar=metavar, help=text)
    parser.add_argument("--log-level", default="INFO", choices=LOG_LEVELS, metavar="LEVEL", help=LOG_LEVEL_HELP)


def given_options(args: argparse.Namespace) -> dict[str, str]:
    """The options that were given of those that set a key."""
    values = {option: getattr(args, option[2:].replace("-", "_")) for option in OPTIONS}
    return {option: value for option, value in values.items() if value is not None}


def from_arguments(args: argparse.Namespace, exchanges: Sequence[str]) -> Config:
    """The configuration of a process. Without exchanges: all that are configured. Raises ConfigError."""
    return load(_found(args.conf), exchanges, given_options(args), os.environ)


def without_feeds(conf: Path | None, options: Mapping[str, str]) -> Config:
    """The configuration of who only reads an archive: no exchange need be configured. Raises ConfigError."""
    return load(_found(conf), None, options, os.environ)


def _found(conf: Path | None) -> Path | None:
    """The file that is named by option or variable, or that of the checkout."""
    path = conf or (Path(named) if (named := os.environ.get(CONF_VARIABLE)) else None)
    return CHECKOUT_CONF if path is None and CHECKOUT_CONF.exists() else path


class Setting(NamedTuple):
    """A value and where it was set, in words for an error."""

    origin: str
    value: Any


def load(
    path: Path | None, exchanges: Sequence[str] | None, options: Mapping[str, str], environ: Mapping[str, str]
) -> Config:
    """Read, merge and check. `options` are keyed as OPTIONS is; of no exchanges, all that are configured are taken;
    with None, no feed.

    Raises ConfigError, in one line that names the file (or variable, or option), the key and the mend.
    """
    kinds = _kinds()
    settings = {**_from_file(path, kinds), **_from_environ(environ, kinds)}
    names: list[str] = []
    if exchanges is not None:
        names = list(exchanges) or sorted({key.split(".")[1] for key in settings if key.startswith("feed.")})
        _check_exchanges(names)
    settings |= _from_options(options, names, kinds)
    numbered = {
        f"feed.{name}.events": Setting("defaults", _next_endpoint("defaults", FeedConfig.events[6:], index))
        for index, name in enumerate(names)
    }
    values = numbered | settings
    config = Config(
        path=path,
        archive=_record(ArchiveConfig, "archive", values),
        feeds={name: _feed(name, values) for name in names},
        history=_record(HistoryConfig, "history", values),
        standin=_record(StandinConfig, "standin", values),
        curve=_record(CurveConfig, "curve", values),
    )
    _check_together(config, settings)
    return config


R = TypeVar("R")


def _record(record: Callable[..., R], table: str, settings: Mapping[str, Setting]) -> R:
    values = {
        key.removeprefix(f"{table}."): setting.value for key, setting in settings.items() if key.startswith(f"{table}.")
    }
    return record(**values)


def _feed(name: str, values: Mapping[str, Setting]) -> FeedConfig:
    """The record of a feed, with what is usual for its exchange where nothing is said."""
    feed, adapter = _record(FeedConfig, f"feed.{name}", values), adapters.get(name)
    channels = feed.channels or adapter.CHANNELS
    usual = (adapter.CANDLE_DEFAULT,) if adapter.CANDLE_INTERVALS else ()
    return replace(feed, channels=channels, candle_intervals=feed.candle_intervals or usual)


def _kinds() -> dict[str, Any]:
    """The type of every key that exists."""
    tables: dict[str, type] = {"archive": ArchiveConfig, "history": HistoryConfig, "standin": StandinConfig}
    tables["curve"] = CurveConfig
    tables |= {f"feed.{name}": FeedConfig for name in adapters.names()}
    return {f"{table}.{key}": kind for table, record in tables.items() for key, kind in get_type_hints(record).items()}


def _from_file(path: Path | None, kinds: Mapping[str, Any]) -> dict[str, Setting]:
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    settings = {}
    for key, value in leaves("", document):
        if value == {} and any(known.startswith(f"{key}.") for known in kinds):
            continue
        _check_known(f"{path}: unknown key {key}", key, kinds)
        settings[key] = _setting(f"{path}: {key}", key, value, kinds)
    return settings


def leaves(prefix: str, table: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """The dotted keys of a document; an empty table is a leaf."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _from_environ(environ: Mapping[str, str], kinds: Mapping[str, Any]) -> dict[str, Setting]:
    variables = {PREFIX + key.upper().replace(".", "__").replace("-", "_"): key for key in kinds}
    settings = {}
    for name in sorted(name for name in environ if name.startswith(PREFIX) and name not in NOT_SETTINGS):
        _check_known(f"environment: unknown variable {name}", name, variables)
        key = variables[name]
        settings[key] = _setting(f"environment: {name}", key, _parsed(environ[name], kinds[key]), kinds)
    return settings


def _from_options(options: Mapping[str, str], names: Sequence[str], kinds: Mapping[str, Any]) -> dict[str, Setting]:
    settings = {}
    for option, text in options.items():
        pattern = OPTIONS[option].key
        for index, name in enumerate(names if "*" in pattern else [""]):
            key = pattern.replace("*", name)
            value = _parsed(text, kinds[key])
            if option == "--publish":
                value = _next_endpoint(option, text, index)
            settings[key] = _setting(option, key, value, kinds)
    return settings


def _parsed(text: str, kind: Any) -> object:
    """The value that a text from outside a file stands for; the text itself where it stands for none."""
    if kind == tuple[str, ...]:
        return [part.strip() for part in text.split(",")] if text.strip() else []
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    return text


def _next_endpoint(origin: str, address: str, index: int) -> str:
    """The TCP endpoint `index` ports above HOST:PORT."""
    try:
        host, port = limits.host_port(address)
    except ValueError as error:
        raise ConfigError(f"{origin}: {error}") from None
    return f"tcp://{host}:{port + index}"


def _check_known(message: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        close = difflib.get_close_matches(name, known, 1, 0.5)
        raise ConfigError(message + (f": did you mean {close[0]}?" if close else ""))


def _check_exchanges(names: Sequence[str]) -> None:
    if not names:
        raise ConfigError(f"no exchange is named or configured: known are {', '.join(adapters.names())}")
    for name in names:
        _check_known(f"unknown exchange {name!r} (known are {', '.join(adapters.names())})", name, adapters.names())
    if len(set(names)) < len(names):
        raise ConfigError(f"an exchange is named twice: {' '.join(names)}")


def _setting(origin: str, key: str, value: object, kinds: Mapping[str, Any]) -> Setting:
    """A value with the type and the range of its key. Raises ConfigError."""
    try:
        return Setting(origin, limits.checked(key, value, kinds[key]))
    except (ValueError, RuntimeError, OSError) as error:  # the last two: no such home, no possible path
        raise ConfigError(f"{origin}: {error}") from None


def _check_together(config: Config, settings: Mapping[str, Setting]) -> None:
    """What one value says about another. Raises ConfigError."""

    def refuse(message: str, *keys: str) -> ConfigError:
        where = next(
            (settings[key].origin for key in keys if key in settings), f"{config.path or 'defaults'}: {keys[0]}"
        )
        return ConfigError(f"{where}: {message}")

    archive = config.archive
    if archive.level > CODECS[archive.codec]:
        message = f"{archive.level} is above {CODECS[archive.codec]}, the highest of {archive.codec}"
        raise refuse(message, "archive.level", "archive.codec")
    for name, feed in config.feeds.items():
        if not feed.symbols:
            raise refuse("is empty: name at least one symbol there or with --symbols", f"feed.{name}.symbols")
        if long := [symbol for symbol in feed.symbols if not has_place(symbol)]:
            message = f"{long[0][:40]!r}… is no symbol, it is too long to name a file by: is a comma missing?"
            raise refuse(message, f"feed.{name}.symbols")
        if archive.rotate_s % feed.checkpoint_s:
            message = f"rotate_s {archive.rotate_s} is not a multiple of checkpoint_s {feed.checkpoint_s}"
            raise refuse(message, "archive.rotate_s", f"feed.{name}.checkpoint_s")
        if feed.journal_max_bytes < feed.journal_segment_bytes:
            message = f"journal_max_bytes {feed.journal_max_bytes} is below journal_segment_bytes"
            raise refuse(message, f"feed.{name}.journal_max_bytes", f"feed.{name}.journal_segment_bytes")
        if config.journal_dir(name).resolve() == config.exchange_dir(name).resolve():  # each has a lock of its own
            message = f"{config.journal_dir(name)} is the archive's own directory: name another"
            raise refuse(message, f"feed.{name}.journal")
    if config.curve.is_set and config.curve.allowed == Path():
        raise refuse("is empty: name the directory of the allowed clients' public keys", "curve.allowed")
    used: dict[str, str] = {}
    for key, endpoint in bound(config).items():
        if not config.curve.is_set and not limits.is_local(endpoint):
            raise refuse(f"{endpoint.removeprefix('tcp://')} {limits.PUBLIC_NEEDS_KEYS}", key)
        if endpoint in used:
            raise refuse(f"{endpoint} is that of {used[endpoint]} too", key, used[endpoint])
        used[endpoint] = key


def bound(config: Config) -> dict[str, str]:
    """Everything that the pipeline binds: endpoint by the key that says so."""
    endpoints = {"history.listen": f"tcp://{config.history.listen}"}
    if config.standin.port:
        endpoints["standin.port"] = f"tcp://127.0.0.1:{config.standin.port}"
    for name, feed in config.feeds.items():
        endpoints[f"feed.{name}.events"] = feed.events
        endpoints[f"feed.{name}.records"] = config.records_endpoint(name)
    return endpoints
