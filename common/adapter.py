"""What an exchange's file in `exchanges/` holds: the seam between one exchange's ways and everything else."""

from collections.abc import Mapping
from typing import Any, Protocol

from .events import Action, Reply, Request, Snapshot, Update


class Adapter(Protocol):
    """A module of `exchanges/`. Pure; nothing in it raises for what an exchange may send."""

    NAME: str
    VERSION: int
    WS_URL: str
    WS_PATH: str
    REST_URL: str
    STREAMS_PER_CONNECTION: int
    STREAMS_PER_SUBSCRIBE: int
    MESSAGE_INTERVAL_S: float
    CONNECTS_PER_5_MIN: int
    WEIGHT_PER_MIN: int
    DENSE: frozenset[str]
    WHOLE: Mapping[str, str]
    CANDLE_INTERVALS: tuple[str, ...]
    SNAPSHOT_DEPTH_MAX: int

    def symbol_error(self, symbol: str) -> str | None: ...
    def streams(self, symbol: str, channels: list[str], candle_intervals: list[str]) -> dict[str, tuple[str, str]]: ...
    def subscribe(self, names: list[str], request_id: int) -> bytes: ...
    def unsubscribe(self, names: list[str], request_id: int) -> bytes: ...
    def reply(self, message: object) -> Reply | None: ...
    def is_shutdown(self, message: object) -> bool: ...
    def parse(self, message: Any) -> Update | None: ...
    def request(self, action: Action, depth: int) -> Request: ...
    def instruments_request(self, symbols: list[str]) -> Request: ...
    def trading_symbols(self, body: bytes) -> dict[str, str]: ...
    def parse_rest(self, url: str, body: bytes) -> Snapshot | list[Update] | None: ...


FAULTS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError)
"""What a mistake in an exchange's file, or in the normaliser, raises: it costs that record's events, no more."""


def version(adapter: Adapter) -> str:
    """The normaliser's version as it stands in `start` records, checkpoints and manifests: `binance/1`."""
    return f"{adapter.NAME}/{adapter.VERSION}"
