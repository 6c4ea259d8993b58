"""The configuration: typed, frozen records with every default, read from `conf/*.toml`.

Later wins: defaults here, the file, environment variables (`TRADE_ARCHIVIST_FEED__BINANCE__SYMBOLS=BTCUSDT,ETHUSDT`),
options of the command line. What is not known, has the wrong type or an impossible value is a ConfigError.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class FeedConfig:
    """One exchange's feed: `[feed.NAME]`."""

    symbols: tuple[str, ...] = ()
    channels: tuple[str, ...] = ("trade", "agg_trade", "book", "quote", "ticker", "candle")
    events: str = "tcp://127.0.0.1:9001"
    records: str = ""
    ws_url: str = ""
    rest_url: str = ""
    candle_intervals: tuple[str, ...] = ("1m",)
    snapshot_depth: int = 5000
    journal: Path = Path("")
    journal_segment_bytes: int = 64 * 1024 * 1024
    journal_max_bytes: int = 8 * 1024**3
    journal_memory_bytes: int = 256 * 1024**2
    fsync_interval_s: float = 1.0
    checkpoint_s: int = 600
    heartbeat_interval_s: float = 1.0
    max_frame_bytes: int = 64 * 1024**2
    events_high_water: int = 100_000
    records_high_water: int = 1_000
    connect_timeout_s: float = 10.0
    rest_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    silence_s: float = 300.0
    reconnect_after_s: float = 85_800.0
    overlap_s: float = 5.0
    backoff_max_s: float = 30.0


@dataclass(frozen=True)
class ArchiveConfig:
    """The archiver: `[archive]`."""

    storage: Path = Path("./storage-dir")
    codec: str = "bz2"
    level: int = 9
    rotate_s: int = 3600
    rotate_min_bytes: int = 1024 * 1024
    flush_interval_s: float = 0.2
    sync_interval_s: float = 60.0
    block_bytes: int = 900_000
    seal_workers: int = 1


@dataclass(frozen=True)
class StandinConfig:
    """The stand-in exchange that `processes.archive` starts beside the pipeline: `[standin]`; port 0 starts none."""

    port: int = 0


@dataclass(frozen=True)
class Config:
    path: Path | None = None
    archive: ArchiveConfig = field(default_factory=ArchiveConfig)
    feeds: dict[str, FeedConfig] = field(default_factory=dict)
    listen: str = "127.0.0.1:9000"
    standin: StandinConfig = field(default_factory=StandinConfig)

    def exchange_dir(self, exchange: str) -> Path:
        """Where the archive of one exchange lies."""
        return self.archive.storage / exchange

    def journal_dir(self, exchange: str) -> Path:
        """Where the journal of one exchange lies: beside the archives, unless the configuration says otherwise."""
        base = self.feeds[exchange].journal if exchange in self.feeds else Path("")
        return (base if base != Path("") else self.archive.storage / ".journal") / exchange
