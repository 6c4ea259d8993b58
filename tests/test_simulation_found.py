"""Failures that the simulation's schedules found, each as a case by hand."""

from collections.abc import Iterator

import pytest

from common.storage import append_hole, holes
from tests.simulated_cases import (
    TRIES,
    archive,
    archiver_of,
    calm,
    feed_of,
    frames,
    kill_at,
    operations,
    settled,
    survives,
    sync,
)
from tests.simulated_disk import NEVER
from tests.simulated_processes import SimArchiver
from tests.simulation import SECOND, World, small_steps
from tests.truth import STORAGE


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_steps():
        yield


def test_trim_when_removals_are_undone_by_a_power_loss_then_nothing_that_was_synced_counts_as_damaged() -> None:
    for seed in range(TRIES):
        world = calm(seed)
        frames(world, 20)
        archive(world)
        frames(world, 1)
        feed_of(world).house()
        frames(world, 1)
        sync(feed_of(world))
        world.act("power")
        settled(world)


def test_sync_when_the_run_before_was_killed_then_what_it_left_unsynced_is_synced_too() -> None:
    for seed in range(TRIES):
        world = calm(seed)
        frames(world, 10)
        world.bury("feed")
        frames(world, 10)
        sync(feed_of(world))
        world.act("power")
        settled(world)


def test_sync_when_two_jobs_are_under_way_then_each_one_keeps_its_word() -> None:
    for seed in range(TRIES):
        world = calm(seed)
        frames(world, 8)
        feed = feed_of(world)
        waiting = feed.journal.sync_job()
        frames(world, 8)
        sync(feed)
        waiting()
        world.act("power")
        settled(world)


@pytest.mark.parametrize("codec", ["bz2", "zstd"])
def test_sealing_when_killed_anywhere_then_every_record_is_there_once(codec: str) -> None:
    def play(operation: int) -> bool:
        return all(sealed(World(100 * operation + attempt, calm=True), operation, codec) for attempt in range(8))

    operations(play)


def sealed(world: World, operation: int, codec: str) -> bool:
    """A sealing killed at its n-th operation, the archiver's next start, a power loss: whether it came through."""
    world.faults.codec = codec
    world.journal_max_bytes = NEVER
    while not world.to_seal:
        frames(world, 2)
        feed_of(world).checkpoint()
        archive(world)
        world.to_seal += archiver_of(world).writer.sealable()
    path = world.to_seal[0]
    disk = world.new_disk("sealer")
    kill_at(disk, operation)
    world.new_disk = lambda name: disk  # type: ignore[method-assign]
    world.act("sealer")
    del world.new_disk
    through = path not in world.to_seal
    feed_of(world).house()
    world.bury("archiver")
    archiver_of(world)
    world.act("power")
    settled(world)
    return through


def test_turning_when_the_clock_is_set_back_and_the_archiver_killed_then_the_newer_file_goes_on() -> None:
    for seed in range(TRIES):
        world = calm(seed)
        while not archiver_of(world).writer.turned:
            frames(world, 2)
            feed_of(world).checkpoint()
            archiver_of(world).intake.catch_up()
            world.wall -= 7 * SECOND
        frames(world, 2)
        archiver_of(world).intake.catch_up()
        archiver_of(world).writer.flush()
        world.bury("archiver")
        archive(world)
        feed_of(world).house()
        world.act("power")
        settled(world)


def test_mending_when_killed_anywhere_then_the_cut_is_not_forgotten() -> None:
    def play(operation: int) -> bool:
        world = calm()
        frames(world, 12)
        archive(world)
        world.bury("archiver")
        path, file = next(
            (path, file)
            for path, directory in world.system.dirs.items()
            for name, file in directory.entries.items()
            if name.endswith(".open") and "/AAA/" in path
        )
        file.data[len(file.data) // 3 : len(file.data) // 2] = b""  # type: ignore[union-attr]
        world.truth.rotten = True
        archiver = world.archiver = SimArchiver(world)
        kill_at(archiver.disk, operation)
        through = survives(world, "archiver", archiver.begin)
        settled(world)
        assert not holes(archiver_of(world).disk, STORAGE), path
        return through

    operations(play)


def test_hole_when_it_is_named_then_its_line_survives_a_power_loss() -> None:
    for seed in range(TRIES):
        world = calm(seed)
        disk = archiver_of(world).disk
        append_hole(disk, STORAGE, 1, 5, "lost", world.wall)
        world.act("power")
        assert holes(world.new_disk("reader"), STORAGE) == [(1, 5)]
