"""A simulated world around the code that must lose nothing: feed, journal, link, archiver, sealing, on a `SimDisk`.

`World(seed).run()` plays one schedule: processes are killed, the power goes, the disk fills up or rots, the clock is
set, messages are dropped; then everything is started again without faults, and `truth.Truth` says whether the archive
holds what it must. What the processes do here follows `processes/feed.py` and `processes/archiver.py` line by line.
"""

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from common import journal as journal_module
from common.adapter import version
from common.sealing import DamagedError, seal
from common.storage import OPEN
from tests.simulated_disk import NEVER, FileSystem, Killed, SimDisk
from tests.simulated_processes import ADAPTER, CHANNELS, SYMBOLS, SimArchiver, SimFeed
from tests.truth import JOURNAL, STORAGE, Truth

SECOND = 1_000_000_000
STEP = 60  # of the ceiling
NOON = 1_700_000_000 * SECOND


@dataclass
class Faults:
    """What may happen in a schedule."""

    kills: bool = True
    power: bool = False
    full: bool = False
    damage: bool = False
    bound: bool = False
    clock: bool = False
    preempt: bool = True
    seal: bool = True
    codec: str = "zstd"

    @classmethod
    def drawn(cls, random: Random) -> "Faults":
        return cls(
            kills=random.random() < 0.9,
            power=random.random() < 0.5,
            full=random.random() < 0.25,
            damage=random.random() < 0.15,
            bound=random.random() < 0.2,
            clock=random.random() < 0.4,
            preempt=random.random() < 0.6,
            seal=random.random() < 0.7,
            codec="bz2" if random.random() < 0.1 else "zstd",
        )


@dataclass
class World:
    seed: int
    calm: bool = False  # nothing fails by itself
    told: list[str] = field(default_factory=list)
    turns: ClassVar[tuple[int, int]] = (20, 70)  # of a schedule, at least and at most

    def __post_init__(self) -> None:
        self.random = random = Random(self.seed)
        self.faults = Faults.drawn(random)
        self.truth = Truth(self)
        self.system = FileSystem(self.truth)
        for path in (JOURNAL.parent, STORAGE.parent):
            self.system.make_dir(path)
        for directory in self.system.dirs.values():
            directory.sync()
        self.wall, self.monotonic = NOON, SECOND
        self.boots = 1
        self.segment_bytes = random.choice((700, 1500, 4000))
        self.journal_max_bytes = random.choice((2500, 6000)) if self.faults.bound else NEVER
        self.link: deque[tuple[str, Any]] = deque()
        self.feed: SimFeed | None = None
        self.archiver: SimArchiver | None = None
        self.to_seal: list[Path] = []
        self.acting: list[str] = []  # whose turn it is, and within whose
        self.ids = dict.fromkeys(SYMBOLS, 100)
        self.symbols, self.channels = SYMBOLS, CHANNELS  # of the configuration: the next start reads them

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    def report(self, text: str) -> None:
        self.told.append(text)

    # -- a schedule --------------------------------------------------------------------------------------------

    def run(self) -> None:
        with small_steps():
            for _ in range(self.random.randint(*self.turns)):
                self.turn()
            self.settle()
            self.truth.judge()

    def turn(self) -> None:
        self.pass_time()
        names, weights = self.choices()
        self.act(self.random.choices(names, weights)[0])

    def choices(self) -> tuple[list[str], list[float]]:
        faults = self.faults
        table = {
            "feed": 6.0,
            "archiver": 5.0,
            "sealer": 1.0 if self.to_seal and faults.seal else 0.0,
            "stop": 0.2,
            "kill": 0.4 if faults.kills else 0.0,
            "power": 0.25 if faults.power else 0.0,
            "full": 0.25 if faults.full else 0.0,
            "damage": 0.2 if faults.damage else 0.0,
            "clock": 0.3 if faults.clock else 0.0,
        }
        return list(table), list(table.values())

    def act(self, name: str) -> None:
        """Give a process, or the world, one turn. Who is in the middle of one has none."""
        if name in self.acting:
            return
        self.acting.append(name)
        try:
            getattr(self, f"_{name}")()
        finally:
            if name in self.acting:
                self.acting.remove(name)

    def pass_time(self) -> None:
        passed = self.random.randint(1, 2 * SECOND)
        self.wall += passed
        self.monotonic += passed
        self.system.now_ns = self.wall

    # -- processes ---------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        if self.feed is None:
            self.start_feed()
            return
        feed = self.feed
        actions = (feed.frames, feed.checkpoint, feed.connect, feed.heartbeat, feed.sync, feed.house, feed.retry)
        self.alive("feed", self.random.choices(actions, (6, 2, 0.7, 1, 1.5, 1.5, 0.5))[0])

    def start_feed(self) -> None:
        self.feed = SimFeed(self)
        self.alive("feed", self.feed.begin)

    def _archiver(self) -> None:
        if self.archiver is None:
            self.start_archiver()
            return
        archiver = self.archiver
        if archiver.failed:
            self.bury("archiver")
            return
        self.alive("archiver", self.random.choices((archiver.receive, archiver.tick), (4, 2))[0])

    def start_archiver(self) -> None:
        self.archiver = SimArchiver(self)
        self.alive("archiver", self.archiver.begin)

    def _sealer(self) -> None:
        path = self.to_seal.pop(0)
        disk = self.new_disk("sealer")
        try:
            seal(disk, path, self.faults.codec, 1, 500, version(ADAPTER))
        except (Killed, OSError) as error:
            if not isinstance(error, FileNotFoundError):
                self.to_seal.append(path)
        except DamagedError:
            assert self.truth.rotten

    def alive(self, name: str, act: Callable[[], None]) -> None:
        """Let a process do something that it may not survive."""
        process = getattr(self, name)
        try:
            act()
        except Killed:
            pass
        except OSError as error:  # it ends with exit code 1, supervisord starts it again
            self.report(f"{name} crashed: {error!r}")
            sealed_meanwhile = isinstance(error, FileNotFoundError) and str(error.filename).endswith(OPEN)
            assert error.errno == errno.ENOSPC or sealed_meanwhile, f"{name} crashed: {error!r}"
        else:
            return
        if getattr(self, name) is process:
            self.bury(name)

    def bury(self, name: str) -> None:
        """What goes with a process that is dead."""
        if name == "feed" and self.feed is not None:
            self.truth.feed_ended()
            self.feed = None
            if self.random.random() < 0.5:
                self.link.clear()
        elif name == "archiver" and self.archiver is not None:
            self.archiver = None
            self.link.clear()
            self.to_seal.clear()
            self.truth.check_promise()

    # -- faults ------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        name = self.random.choice(("feed", "archiver"))
        if name not in self.acting:
            self.bury(name)

    def _stop(self) -> None:
        name = self.random.choice(("feed", "archiver"))
        process = getattr(self, name)
        if process is not None and name not in self.acting:
            self.acting.append(name)
            self.alive(name, process.end)
            self.acting.remove(name)
            self.bury(name)

    def _power(self) -> None:
        if len(self.acting) > 1:
            return
        self.feed_dies_with_power()
        self.truth.power_goes()
        self.system.power_loss(self.random)
        self.boots += 1
        self.system.room = None
        self.truth.power_went()

    def feed_dies_with_power(self) -> None:
        if self.feed is not None:
            self.truth.feed_ended()
        self.feed = self.archiver = None
        self.link.clear()
        self.to_seal.clear()

    def _full(self) -> None:
        self.system.room = self.random.randint(0, 2000) if self.system.room is None else None

    def _clock(self) -> None:
        back = -self.random.randint(1, 3600 * 30) * SECOND
        self.wall += self.random.choice((back, -self.random.randint(1, SECOND), 5 * SECOND, 3600 * SECOND))

    def _damage(self) -> None:
        if len(self.acting) == 1:
            self.truth.damage()

    # -- between processes -------------------------------------------------------------------------------------

    def send(self, message: tuple[str, Any]) -> None:
        if self.archiver is not None and (self.calm or self.random.random() > 0.15):
            self.link.append(message)

    def publish(self, message: bytes) -> None:
        """On the feed's other socket: an event, or a heartbeat. Overridden where somebody listens."""

    def beating(self) -> str:
        """Whose heartbeat is due."""
        return SYMBOLS[self.monotonic % len(SYMBOLS)]

    def market(self) -> bytes:
        """A frame: mostly trades, sometimes with some missed, and what belongs to no symbol."""
        random = self.random
        kind, symbol = random.random(), random.choice(SYMBOLS)
        if kind < 0.6:
            self.ids[symbol] += 1 if random.random() < 0.9 else 3
            return b'{"stream":"x","data":{"e":"trade","s":"%b","t":%d,"p":"1.0","q":"2","T":1,"m":true}}' % (
                symbol.encode(), self.ids[symbol],
            )  # fmt: skip
        if kind < 0.85:
            self.ids[symbol] += 1
            return b'{"u":%d,"s":"%b","b":"1","B":"1","a":"2","A":"1"}' % (self.ids[symbol], symbol.encode())
        return random.choice((b'{"result":null,"id":1}', b"no\njson", b'{ "x":\n1}'))

    def new_disk(self, name: str) -> SimDisk:
        disk = SimDisk(self.system, lambda disk: self.due(disk, name), self.random)
        self.arm(disk)
        return disk

    def arm(self, disk: SimDisk) -> None:
        faults = self.faults
        if self.calm or not (faults.kills or faults.preempt or faults.full):
            disk.left = NEVER
        else:
            disk.left = self.random.randint(1, self.random.choice((8, 40, 120)))

    def due(self, disk: SimDisk, name: str) -> None:
        """Something happens before, or within, the operation at hand."""
        self.arm(disk)
        faults, chance = self.faults, self.random.random()
        if self.calm:
            return
        if chance < 0.35 and faults.kills:
            disk.left = NEVER
            disk.kill_within = True
        elif chance < 0.85 and faults.preempt and not self.system.locks and len(self.acting) < 4:
            names, weights = self.choices()
            self.act(self.random.choices(names, weights)[0])
        elif faults.full:
            disk.short = True

    # -- the end -----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """No more faults: start what is down, and restart what a damage was told to; then all must catch up."""
        self.calm = True
        self.system.room = None
        for process in (self.feed, self.archiver):
            if process is not None:
                process.disk.left, process.disk.kill_within, process.disk.short = NEVER, False, False
        if self.truth.rotten or self.random.random() < 0.3:
            self.bury("feed")
            self.bury("archiver")
        for name in self.random.sample(("feed", "archiver"), 2):
            if getattr(self, name) is None:
                getattr(self, f"start_{name}")()
        self.catch_up()

    def catch_up(self) -> None:
        feed, archiver = self.feed, self.archiver
        assert feed is not None
        assert archiver is not None
        feed.retry()
        self.drain(archiver)
        feed.frames()
        feed.heartbeat()
        self.drain(archiver)
        archiver.guard(lambda: archiver.writer.sync(archiver.reader.sync))
        assert not archiver.stalled, "the archiver does not get on"
        last = feed.journal.next - 1
        assert feed.recorder.published == last
        assert archiver.writer.position == last, f"the archive stays at {archiver.writer.position}, not {last}"
        self.truth.feed_ended()

    def drain(self, archiver: SimArchiver) -> None:
        archiver.tick()
        while self.link and not archiver.stalled:
            archiver.receive()
        archiver.tick()


@contextmanager
def small_steps() -> Iterator[None]:
    """A ceiling that is raised every few records."""
    step, journal_module.CEILING_STEP = journal_module.CEILING_STEP, STEP
    try:
        yield
    finally:
        journal_module.CEILING_STEP = step


def play_all(make: Callable[[int], World], schedules: int) -> None:
    """Play seeds from 0 on: SIM_SEEDS of them, where that is set; or only the one that SIM_SEED names."""
    one = os.environ.get("SIM_SEED")
    seeds = [int(one)] if one else range(int(os.environ.get("SIM_SEEDS", schedules)))
    for seed in seeds:
        world = make(seed)
        try:
            world.run()
        except Exception as error:
            if one:
                raise
            pytest.fail(f"SIM_SEED={seed} {world.faults}: {type(error).__name__}: {error}", pytrace=False)
