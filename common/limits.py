"""What a configured value may be: its type and its range, by the name of its key. All errors are ValueErrors."""

import difflib
import ipaddress
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from . import curve, exchanges
from .adapter import Adapter
from .config import CODECS
from .events import CHANNELS
from .naming import may_be_name

ZERO_ALLOWED = {"port", "rotate_min_bytes", "overlap_s", "flush_interval_s"}
"""Numbers that may be 0; all others are above."""

SECONDS_MAX = 7 * 86_400
"""The longest of all times: what is longer was meant in another unit, and no socket takes it."""

PUBLIC_NEEDS_KEYS = (
    "is open to other machines, which needs CURVE keys: run trade-archivist keys and set curve.secret_key, "
    "or take 127.0.0.1"
)

WORKERS_MAX = 256
"""Processes of one kind: each takes some 30 MB."""

BLOCK_BYTES_MAX = 64 * 1024**2
"""Readers hold whole blocks, several at a time, and refuse larger ones (`codec.py`)."""

FRAME_BYTES_MIN = 65_536
"""Below it the frames of a busy market would be refused."""


def checked(key: str, value: object, kind: Any) -> object:
    """The value with the type of its key (`feed.binance.symbols`) and within its range. Raises ValueError."""
    table, _, name = key.rpartition(".")
    typed = _typed(value, kind)
    if isinstance(typed, int | float) and not isinstance(typed, bool):
        _check_number(name, typed)
    if name in CHECKS:
        CHECKS[name](typed)
    if table.startswith("feed."):
        _check_with(cast(Adapter, exchanges.get(table.removeprefix("feed."))), name, typed)
    return typed


def _check_with(adapter: Adapter, name: str, value: Any) -> None:
    """What the exchange itself says about a value."""
    if name == "symbols":
        for symbol in value:
            if (error := adapter.symbol_error(symbol)) is not None and not may_be_name(symbol):
                raise ValueError(error)
    if name == "channels":
        for channel in value:
            if channel not in adapter.CHANNELS:
                raise ValueError(f"{adapter.NAME} has no {channel}: it has {', '.join(adapter.CHANNELS)}")
    if name == "candle_intervals":
        for interval in value:
            _check_choice(interval, adapter.CANDLE_INTERVALS)
    if name == "ws_route" and value and value not in adapter.ROUTES:
        there_are = f"it has {', '.join(adapter.ROUTES)}" if adapter.ROUTES else "its streams have one path each"
        raise ValueError(f"{value!r} is no route of {adapter.NAME}: {there_are}")
    if name == "snapshot_depth" and value > adapter.SNAPSHOT_DEPTH_MAX:
        raise ValueError(f"{value} is above {adapter.SNAPSHOT_DEPTH_MAX}, the most that {adapter.NAME} gives")


def _typed(value: object, kind: Any) -> object:
    """The value as the type of its key. Raises ValueError."""
    if kind in (int, bool) and type(value) is kind:
        return value
    if kind is float and type(value) in (int, float):
        return float(value)  # type: ignore[arg-type]  # mypy does not follow `type(value) in`
    if kind in (str, Path) and isinstance(value, str):
        if not value.isprintable():
            raise ValueError(f"{value!r} holds a control character")
        return _path(value) if kind is Path else value
    if kind == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        _check_list(value)
        return tuple(value)
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a text", Path: "a path, as a text"}
    wanted = names.get(kind, "a list of texts")
    raise ValueError(f"{value!r} is not {wanted}")


def _path(text: str) -> Path:
    path = Path(text).expanduser()
    return Path.cwd() if text and path == Path() else path  # an empty path means "not set" here, "." does not


def _check_list(items: Sequence[str]) -> None:
    if not items:
        raise ValueError("is empty: name at least one")
    for item in items:
        if not item or item != item.strip() or not item.isprintable() or "," in item:
            raise ValueError(f"{item!r} is not a name")
    if twice := [item for item in items if items.count(item) > 1]:
        raise ValueError(f"{twice[0]!r} is named twice")


def _check_number(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    if value < 0 or (value == 0 and name not in ZERO_ALLOWED):
        raise ValueError(f"{value} is impossible: {'0 or more' if name in ZERO_ALLOWED else 'more than 0'} is needed")
    if name.endswith("_s") and value > SECONDS_MAX:
        raise ValueError(f"{value} is impossible: at most {SECONDS_MAX} seconds, 7 days, are taken")


def host_port(address: str) -> tuple[str, int]:
    """Take HOST:PORT apart. Raises ValueError."""
    host, _, digits = address.rpartition(":")
    if not host or ":" in host or not digits.isascii() or not digits.isdigit() or not 0 < int(digits) < 65536:
        raise ValueError(f"{address!r} is not HOST:PORT (for example 127.0.0.1:9000)")
    if host != "localhost":
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(
                f"{host!r} is not an address: take 127.0.0.1 (this machine), 0.0.0.0 (all networks) or the IPv4 of one"
            ) from None
    return host, int(digits)


def is_local(endpoint: str) -> bool:
    """Whether an endpoint can be reached from this machine only."""
    if not endpoint.startswith("tcp://"):
        return True
    host, _ = host_port(endpoint.removeprefix("tcp://"))
    return host == "localhost" or ipaddress.IPv4Address(host).is_loopback


def _check_address(address: str) -> None:
    host_port(address)


def _check_endpoint(endpoint: str) -> None:
    scheme, found, address = endpoint.partition("://")
    if not found or scheme not in ("tcp", "ipc") or not address:
        raise ValueError(f"{endpoint!r} is not tcp://HOST:PORT or ipc://PATH")
    if scheme == "tcp":
        host_port(address)


def _check_url(url: str, schemes: Sequence[str]) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{url!r} is not {schemes[0]}://HOST:PORT or {schemes[1]}://HOST:PORT")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a path: leave it out, the exchange's own paths are kept")


def _check_channels(channels: Sequence[str]) -> None:
    for channel in channels:
        _check_choice(channel, CHANNELS)


def _check_choice(value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        close = difflib.get_close_matches(value, choices, 1)
        hint = f": did you mean {close[0]}?" if close else ""
        raise ValueError(f"{value!r} is not one of {', '.join(choices)}{hint}")


def _check_port(port: int) -> None:
    if port > 65535:
        raise ValueError(f"{port} is not a port: 0 to 65535")


def _check_secret_key(path: Path) -> None:
    if path != Path():
        curve.load(path)


def _check_allowed(path: Path) -> None:
    if path != Path() and not path.is_dir():
        raise ValueError(f"{path} is not a directory that is there: trade-archivist keys makes one")


def _check_workers(workers: int) -> None:
    if workers > WORKERS_MAX:
        raise ValueError(f"{workers} is too many: at most {WORKERS_MAX} are started")


def _check_frame_bytes(size: int) -> None:
    if size < FRAME_BYTES_MIN:
        raise ValueError(f"{size} is too small for a frame: {FRAME_BYTES_MIN} or more are needed")


def _check_block_bytes(size: int) -> None:
    if size > BLOCK_BYTES_MAX:
        raise ValueError(f"{size} is too large for a block: at most {BLOCK_BYTES_MAX} are taken")


def _check_path(path: Path) -> None:
    if path == Path():
        raise ValueError("is empty: name a directory (. is the current one)")
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file, not a directory")


CHECKS: dict[str, Callable[[Any], None]] = {
    "channels": _check_channels,
    "codec": lambda codec: _check_choice(codec, CODECS),
    "events": _check_endpoint,
    "records": lambda endpoint: _check_endpoint(endpoint) if endpoint else None,
    "ws_url": lambda url: _check_url(url, ("ws", "wss")) if url else None,
    "rest_url": lambda url: _check_url(url, ("http", "https")) if url else None,
    "listen": _check_address,
    "port": _check_port,
    "storage": _check_path,
    "journal": lambda path: _check_path(path) if path != Path() else None,
    "secret_key": _check_secret_key,
    "allowed": _check_allowed,
    "max_frame_bytes": _check_frame_bytes,
    "block_bytes": _check_block_bytes,
    "workers": _check_workers,
}
"""The range of a key's value, by the key's name."""
