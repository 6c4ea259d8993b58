"""The configuration's records: typed, frozen, with every default. `settings.py` reads them from files."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from .private import private_dir
from .schedule import CHECKPOINT_BYTES
from .storage import JOURNALS

CODECS = {"bz2": 9, "zstd": 22}
"""What archives can be compressed with, and the highest level of each."""

SOCKET_PATH_BYTES = 100
"""The longest path of a socket: Linux allows 107, macOS 103."""


@dataclass(frozen=True)
class FeedConfig:
    """One exchange's feed: `[feed.NAME]`."""

    symbols: tuple[str, ...] = ()
    """The exchange's own names; at least one."""
    channels: tuple[str, ...] = ()
    """What to record of each symbol, out of events.CHANNELS; none named: all that the exchange offers."""
    events: str = "tcp://127.0.0.1:9001"
    """Endpoint of the events, tcp:// or ipc://. Where none is set, each further exchange takes the next port."""
    records: str = ""
    """Endpoint of the records, for the archiver; empty: a socket file in the journal's directory, or, where that
    path is too long, in a private one below the temporary directory."""
    ws_url: str = ""
    """Scheme, host and port instead of those of the exchange's WebSocket; empty: the exchange itself."""
    rest_url: str = ""
    """Scheme, host and port instead of those of the exchange's REST; empty: the exchange itself."""
    ws_route: str = ""
    """How the exchange spreads its streams over paths, split or unsplit (Binance futures); empty: the usual way, and
    the other one after a connection that has brought nothing."""
    candle_intervals: tuple[str, ...] = ()
    """The exchange's own names of the candles' lengths; none named: a minute."""
    snapshot_depth: int = 5000
    """Levels of a book's side to ask for in a snapshot."""
    journal: Path = Path()
    """Directory of the journals; empty: `.journal` in the storage directory."""
    journal_segment_bytes: int = 64 * 1024 * 1024
    """Size at which the journal begins its next file."""
    journal_max_bytes: int = 8 * 1024**3
    """The journal's bound on disk: beyond it the oldest files go, archived or not, and a gap says so."""
    journal_memory_bytes: int = 256 * 1024**2
    """The journal's bound in memory while the disk is full."""
    fsync_interval_s: float = 1.0
    """Seconds of records that a power loss may take."""
    busy_poll: bool = False
    """Never sleep between two frames, nor (run as root) let any core: less latency, for a core that others get only
    when they want it, and for the current that awake cores take."""
    checkpoint_s: int = 300
    """Seconds between two checkpoints of one symbol: history replays that much at most. A book of 5,000 levels a side
    takes 0.3 MB of the journal each time, and 50 KB of the archive."""
    checkpoint_bytes: int = CHECKPOINT_BYTES
    """Bytes of one symbol's frames, about, after which its next checkpoint comes sooner; at least 16 times its own."""
    heartbeat_interval_s: float = 1.0
    """Seconds between two heartbeats of one symbol."""
    max_frame_bytes: int = 64 * 1024**2
    """Largest frame that is taken, inflated."""
    events_high_water: int = 100_000
    """Events that one slow subscriber may be behind before it loses some."""
    events_clients: int = 32
    """Connections that the events' socket takes at once: so many may ask for much in the worst moment."""
    records_high_water: int = 1_000
    """Batches of records that the archiver may be behind before it reads the journal instead."""
    connect_timeout_s: float = 10.0
    """Seconds for a connection to be made, TLS and handshake included."""
    rest_timeout_s: float = 10.0
    """Seconds for a REST answer."""
    idle_timeout_s: float = 60.0
    """Seconds without any frame after which a connection is given up."""
    silence_s: float = 300.0
    """Seconds without a frame after which one subscription counts as silent."""
    reconnect_after_s: float = 85_800.0
    """Age in seconds at which a connection is replaced by a new one, before the exchange ends it."""
    overlap_s: float = 5.0
    """Seconds that the old connection stays open beside the new one."""
    backoff_max_s: float = 30.0
    """Longest pause in seconds before the next try to connect."""


@dataclass(frozen=True)
class ArchiveConfig:
    """The archiver: `[archive]`."""

    storage: Path = Path("./storage-dir")
    """The storage directory."""
    codec: str = "bz2"
    """How sealed files are compressed: bz2 or zstd."""
    level: int = 9
    """The codec's level: 1 to 9 for bz2, 1 to 22 for zstd."""
    rotate_s: int = 3600
    """Seconds that one file covers; a multiple of `checkpoint_s`, since a file begins with a checkpoint."""
    rotate_min_bytes: int = 1024 * 1024
    """Size below which a file is not turned, except at the UTC day."""
    flush_interval_s: float = 0.2
    """Seconds between two writes of what has arrived."""
    sync_interval_s: float = 60.0
    """Seconds between two fsyncs; the journal keeps what is not synced."""
    block_bytes: int = 900_000
    """Size of the blocks, before compression, that can be read each by itself."""
    seal_workers: int = 1
    """Processes that compress sealed files."""


@dataclass(frozen=True)
class HistoryConfig:
    """The history server: `[history]`."""

    listen: str = "127.0.0.1:9000"
    """HOST:PORT where requests are answered."""
    workers: int = 2
    """Processes that answer; each takes one request at a time."""
    waiting_max: int = 1_000
    """Requests that may wait for a worker; beyond them the answer is `busy`."""
    timeout_s: float = 60.0
    """Seconds that one answer may take before its worker is ended."""


@dataclass(frozen=True)
class CurveConfig:
    """Keys of every TCP socket that is bound, and whose may connect: `[curve]`. `trade-archivist keys` makes them."""

    secret_key: Path = Path()
    """The server's .key_secret file; empty: no keys, and only loopback addresses are bound."""
    allowed: Path = Path()
    """Directory of the public keys (NAME.key) of the clients that may connect, read at each connection."""

    @property
    def is_set(self) -> bool:
        return self.secret_key != Path()


@dataclass(frozen=True)
class StandinConfig:
    """The stand-in exchange that `processes.archive` starts beside the pipeline: `[standin]`."""

    port: int = 0
    """Its port on 127.0.0.1; 0: there is none."""


@dataclass(frozen=True)
class Config:
    """Everything that is configured. `feeds` has the exchanges of the command line, in their order."""

    path: Path | None = None
    archive: ArchiveConfig = field(default_factory=ArchiveConfig)
    feeds: dict[str, FeedConfig] = field(default_factory=dict)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    standin: StandinConfig = field(default_factory=StandinConfig)
    curve: CurveConfig = field(default_factory=CurveConfig)

    @property
    def listen(self) -> str:
        """HOST:PORT of the history server."""
        return self.history.listen

    def exchange_dir(self, exchange: str) -> Path:
        """Where the archive of one exchange lies."""
        return self.archive.storage / exchange

    def journal_dir(self, exchange: str) -> Path:
        """Where the journal of one exchange lies: beside the archives, unless the configuration says otherwise."""
        base = self.feeds[exchange].journal if exchange in self.feeds else Path()
        return (base if base != Path() else self.archive.storage / JOURNALS) / exchange

    def records_endpoint(self, exchange: str) -> str:
        """Where the feed of one exchange publishes its records."""
        configured = self.feeds[exchange].records if exchange in self.feeds else ""
        return configured or f"ipc://{socket_path(self.journal_dir(exchange), 'records.ipc')}"


def socket_path(directory: Path, name: str, spare_bytes: int = 0) -> Path:
    """Where a socket file of this directory lies: in it, or, where that path is too long, in the private one.

    `spare_bytes` are what the program that binds it appends for a while.
    """
    directory = directory.absolute()
    if len(os.fsencode(directory / name)) + spare_bytes <= SOCKET_PATH_BYTES:
        return directory / name
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return private_dir() / f"{digest}{Path(name).suffix}"
