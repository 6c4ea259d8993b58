"""What the cases by hand share: a calm world, a process killed at its n-th operation, and the judgement at the end."""

from collections.abc import Callable
from pathlib import Path

from common.storage import read_archived
from tests.simulated_disk import NEVER, Killed, SimDisk
from tests.simulated_processes import SimArchiver, SimFeed
from tests.simulation import World
from tests.truth import STORAGE

TRIES = 25
"""How often a case is played whose power loss, or short write, takes this or that."""


def calm(seed: int = 0) -> World:
    world = World(seed, calm=True)
    world.journal_max_bytes, world.segment_bytes = NEVER, 700
    return world


def feed_of(world: World) -> SimFeed:
    """The running feed, started where there is none."""
    if world.feed is None:
        world.start_feed()
    assert world.feed is not None
    return world.feed


def archiver_of(world: World) -> SimArchiver:
    if world.archiver is None:
        world.start_archiver()
    assert world.archiver is not None
    return world.archiver


def frames(world: World, count: int) -> None:
    for _ in range(count):
        world.pass_time()
        feed_of(world).frames()


def sync(feed: SimFeed) -> None:
    feed.journal.sync_job()()


def archive(world: World) -> None:
    """The archiver takes, and syncs, all there is."""
    archiver = archiver_of(world)
    archiver.intake.catch_up()
    archiver.writer.sync(archiver.reader.sync)


def archive_but_for_the_last_step(world: World) -> None:
    """The archiver is killed when archived.json stands renamed, and its directory is not synced yet."""
    archiver = archiver_of(world)
    archiver.intake.catch_up()
    sync_dir = archiver.disk.sync_dir

    def killed(directory: Path) -> None:
        if directory == STORAGE and read_archived(archiver.disk, STORAGE).fsynced == archiver.writer.position:
            raise Killed
        sync_dir(directory)

    archiver.disk.sync_dir = killed  # type: ignore[method-assign]
    assert not survives(world, "archiver", lambda: archiver.writer.sync(archiver.reader.sync))


def settled(world: World) -> dict[int, bytes]:
    """Start what is down and catch up; what the archive then holds has been judged."""
    world.settle()
    world.truth.judge()
    return world.truth.contents()


def kill_at(disk: SimDisk, operation: int) -> None:
    """Kill the process before, or within, its n-th operation from now on."""

    def due(disk: SimDisk) -> None:
        disk.left, disk.kill_within = NEVER, True

    disk.left, disk.due = operation, due


def survives(world: World, name: str, act: Callable[[], object]) -> bool:
    """Whether a process comes through something; buried where it does not."""
    try:
        act()
    except Killed:
        world.bury(name)
        return False
    disk = getattr(world, name).disk
    disk.left, disk.kill_within = NEVER, False
    return True


def operations(play: Callable[[int], bool]) -> None:
    """Play a case with a kill at its first operation, its second, … until it comes through without one."""
    operation = 1
    while not play(operation):
        operation += 1
    assert operation > 3, "nothing was killed"
