"""Feed and archiver of the simulation: what `processes/feed.py` and `processes/archiver.py` do, without sockets."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import orjson

from common import exchanges
from common.adapter import Adapter
from common.archive import ArchiveWriter
from common.begin import owed
from common.clock import Clock
from common.intake import Intake
from common.journal import Journal
from common.journal_reader import JournalReader
from common.keeper import JournalKeeper
from common.normaliser import Normaliser
from common.reader import Reader
from common.record import RecordError
from common.recorder import Recorder
from common.storage import read_archived
from common.subscription_log import SubscriptionLog
from tests.simulated_disk import Killed
from tests.truth import JOURNAL, STORAGE, Truth

if TYPE_CHECKING:
    from tests.simulation import World

ADAPTER = cast(Adapter, exchanges.get("binance"))
SYMBOLS = ("AAA", "BBB")
CHANNELS = ("trade", "quote")


class SimJournal(Journal):
    """The journal, with its appends told to the truth."""

    truth: Truth

    def append(self, lines: list[bytes]) -> int:
        stand = super().append(lines)
        self.truth.appended(lines[:stand])
        return stand


class SimReader(Reader):
    """A reader on the simulated machine."""

    boot_id: str

    def complete(self) -> int:
        return read_archived(self._disk, self._directory).trusted(self.boot_id)


class SimFeed:
    """`processes/feed.py` without its sockets."""

    def __init__(self, world: "World") -> None:
        self.world, self.disk = world, world.new_disk("feed")
        self.clock = Clock()
        self.normaliser = Normaliser(ADAPTER)
        self.syncing: Callable[[], None] | None = None
        self.connections: dict[str, str] = {}
        self.first = 0  # the first number of this run

    def begin(self) -> None:
        world = self.world
        self.journal = SimJournal(
            self.disk, JOURNAL, "binance",
            boot_id=world.boot_id, segment_bytes=world.segment_bytes, max_bytes=world.journal_max_bytes,
            report=world.report,
        )  # fmt: skip
        self.journal.truth = world.truth
        archived = read_archived(self.disk, STORAGE)
        opened = self.journal.open(world.wall // 1000, archived)
        world.truth.rotten_journal = False
        archive = SimReader(STORAGE.parent, ADAPTER, self.disk)
        archive.boot_id = world.boot_id
        debt = owed(self.disk, JOURNAL, ADAPTER, opened, archive)
        self.recorder = Recorder(ADAPTER, self.normaliser, self.journal, self.publish_records, self.publish_event)
        self.keeper = JournalKeeper(self.disk, self.journal, self.recorder, STORAGE)
        self.subscriptions = SubscriptionLog(ADAPTER, self.normaliser, self.recorder, self.journal, self.stamp)
        self.first = self.recorder.next
        self.plan(world.symbols)
        self.next_conn = self.subscriptions.begin(opened, world.symbols, world.channels, debt)
        self.run_seq = self.subscriptions.run

    def plan(self, symbols: Sequence[str]) -> None:
        self.recorder.file_under({(channel, symbol) for channel in ADAPTER.CHANNELS for symbol in symbols})

    def stamp(self) -> int:
        return self.clock.stamp(self.world.wall, self.world.monotonic)

    def publish_records(self, lines: bytes) -> None:
        self.world.truth.published(lines)
        self.world.send(("records", lines))
        self.disk.step()
        if self.disk.kill_within:
            raise Killed

    def publish_event(self, message: bytes) -> None:
        self.world.truth.event(message)
        self.world.publish(message)

    # -- what it does ------------------------------------------------------------------------------------------

    def frames(self) -> None:
        world = self.world
        conn = int(world.random.choice(list(self.connections or {"0": ""})))
        payloads = [world.market() for _ in range(world.random.randint(1, 4))]
        self.recorder.frames(conn, self.stamp(), payloads)
        self.answer()

    def answer(self) -> None:
        """Fetch at once what the normaliser asks for."""
        actions, self.normaliser.actions = self.normaliser.actions, []
        for action in actions:
            request = ADAPTER.request(action, 100)
            ids = range(action.from_id, action.from_id + 3)
            trades = [{"id": i, "price": "1", "qty": "2", "isBuyerMaker": True, "time": 1} for i in ids]
            self.recorder.record(
                self.stamp(), "rest",
                channel=action.channel, symbol=action.symbol,
                head={"url": request.path, "status": 200}, payload=orjson.dumps(trades),
            )  # fmt: skip

    def checkpoint(self) -> None:
        self.subscriptions.checkpoint(self.world.random.choice((None, *self.subscriptions.symbols)))

    def connect(self) -> None:
        if len(self.connections) > 1:
            conn = self.connections.popitem()[0]
            self.recorder.record(self.stamp(), "close", conn=int(conn), head={"reason": "lost"})
        else:
            self.recorder.record(self.stamp(), "open", conn=self.next_conn, head={"url": "ws"})
            self.connections[str(self.next_conn)] = "ws"
            self.next_conn += 1
        try:
            self.journal.remember(next_conn=self.next_conn, connections=self.connections)
        except OSError as error:
            self.world.report(f"journal: {error}")

    def heartbeat(self) -> None:
        """The exchange's, and a symbol's; `heartbeats` sends all."""
        self.world.send(("heartbeat", self.recorder.published))
        self.beat(None)
        self.beat(self.world.beating())

    def heartbeats(self) -> None:
        for symbol in (*self.subscriptions.symbols, None):
            self.beat(symbol)

    def beat(self, symbol: str | None) -> None:
        if (message := self.recorder.heartbeat(symbol, self.run_seq)) is not None:
            self.world.publish(message)

    def sync(self) -> None:
        """One turn takes up the job, the next one does it: it runs in a thread of its own."""
        if self.syncing is None:
            self.syncing = self.journal.sync_job()
        else:
            job, self.syncing = self.syncing, None
            job()

    def house(self) -> None:
        if self.clock.step:
            self.clock.step = 0
            self.recorder.record(self.stamp(), "clock", payload=b"{}")
        self.keeper.trim()
        self.keeper.keep_within_bound(self.stamp)

    def retry(self) -> None:
        if self.recorder.is_behind():
            self.recorder.retry()

    def end(self) -> None:
        self.recorder.retry()
        if self.syncing is not None:
            self.syncing()
        self.journal.close()


class SimArchiver:
    """`processes/archiver.py` without its socket: one exchange."""

    def __init__(self, world: "World") -> None:
        self.world, self.disk = world, world.new_disk("archiver")
        self.reader = JournalReader(self.disk, JOURNAL)
        self.writer = ArchiveWriter(
            self.disk, STORAGE,
            boot_id=world.boot_id, rotate_s=5, rotate_min_bytes=600, report=world.report,
        )  # fmt: skip
        self.intake = Intake(self.writer, self.reader, world.report)
        self.stalled = self.failed = False

    def begin(self) -> None:
        self.writer.open(self.reader.front())
        self.guard(self.intake.catch_up)

    def guard(self, act: Callable[[], object]) -> None:
        if self.stalled:
            return
        try:
            act()
        except OSError:
            self.stalled = True
        except RecordError as error:
            assert self.world.truth.rotten, f"the archiver stopped: {error}"
            self.failed = self.stalled = True

    def receive(self) -> None:
        for _ in range(self.world.random.randint(1, 4)):
            if self.world.link and not self.stalled:
                kind, content = self.world.link.popleft()
                if kind == "records":
                    self.guard(lambda content=content: self.intake.batch(content))
                else:
                    self.guard(self.intake.catch_up)

    def tick(self) -> None:
        if self.stalled:
            self.stalled = self.failed
            self.guard(self.intake.catch_up)
        if self.world.random.random() < 0.3:
            self.guard(lambda: self.writer.sync(self.reader.sync))
        else:
            self.guard(self.writer.flush)
        self.world.to_seal += self.writer.sealable()

    def end(self) -> None:
        self.guard(self.intake.catch_up)
        self.guard(lambda: self.writer.sync(self.reader.sync))
        self.writer.close()
