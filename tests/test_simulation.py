"""Thousands of schedules of faults, and one by hand for each failure that the protocol names.

`SIM_SEEDS=n` plays n schedules instead of the usual number, `SIM_SEED=k` the one with that seed.
"""

from collections.abc import Iterator
from itertools import pairwise

import orjson
import pytest

from common.normaliser import Normaliser
from common.record import decode
from common.storage import holes
from tests.simulated_cases import (
    TRIES,
    archive,
    archive_but_for_the_last_step,
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
from tests.simulated_processes import ADAPTER, SimArchiver, SimFeed
from tests.simulation import SECOND, World, play_all, small_steps
from tests.truth import JOURNAL, STORAGE

SCHEDULES = 2000


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_steps():
        yield


def test_archive_when_anything_fails_at_any_time_then_nothing_is_lost_doubled_or_out_of_order() -> None:
    play_all(World, SCHEDULES)


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_rule_1_when_the_clock_is_set_back_and_the_power_goes_then_no_number_that_was_seen_live_comes_again() -> None:
    for seed in range(TRIES):
        world = calm(seed)
        frames(world, 3)
        sync(feed_of(world))
        frames(world, 15)
        seen = max(world.truth.used)
        world.wall -= 3600 * SECOND
        world.act("power")
        assert feed_of(world).run_seq > seen
        settled(world)


def test_rule_1_when_the_power_goes_in_the_first_minute_then_the_ceiling_is_still_there() -> None:
    """The journal's directory has a name that a power loss could take."""
    for seed in range(TRIES):
        world = calm(seed)
        frames(world, 2)
        seen = max(world.truth.used)
        world.wall -= 3600 * SECOND
        world.act("power")
        assert feed_of(world).run_seq > seen


def test_rule_2_when_a_start_is_killed_anywhere_then_start_is_first_and_the_owed_closes_come() -> None:
    def play(operation: int) -> bool:
        world = calm()
        feed_of(world).connect()
        frames(world, 3)
        sync(feed_of(world))
        world.act("power")  # so that a new journal begins
        feed = world.feed = SimFeed(world)
        kill_at(feed.disk, operation)
        through = survives(world, "feed", feed.begin)
        feed_of(world)
        records = [decode(line) for _, line in sorted(settled(world).items())]
        for before, record in pairwise(records):
            assert record.seq == before.seq + 1 or record.kind == "start"
        last_run = [record.kind for record in records][-1 - [r.kind for r in records][::-1].index("start") :]
        closes = [record for record in records if record.kind == "close" and record.head["reason"] == "killed"]
        assert closes
        assert last_run[0] == "start"
        return through

    operations(play)


def test_rule_3_when_the_front_is_gone_then_the_events_of_a_run_are_the_same_and_prev_is_its_start() -> None:
    world = calm()
    frames(world, 10)
    world.bury("feed")
    start = feed_of(world).run_seq
    frames(world, 10)
    records = [decode(line) for _, line in sorted(settled(world).items())]
    whole, tail = Normaliser(ADAPTER), Normaliser(ADAPTER)
    for record in records[: records.index(next(r for r in records if r.seq == start))]:
        whole.messages(record)
    first: dict[bytes, int] = {}
    for record in records:
        if record.seq >= start:
            messages = whole.messages(record)
            assert messages == tail.messages(record)
            for topic, _, body in (message.partition(b" ") for message in messages):
                first.setdefault(topic, orjson.loads(body)["prev"])
    assert set(first.values()) == {start}


def test_rule_4_when_a_write_is_short_then_whole_lines_stand_and_none_is_taken_back() -> None:
    kept = 0
    for seed in range(TRIES):
        world = calm(seed)
        feed, archiver = feed_of(world), archiver_of(world)
        before = feed.journal.next
        feed.disk.short = True
        feed.frames()
        kept += feed.journal.next - before
        archiver.intake.catch_up()  # what it has read stays true
        feed.retry()
        world.truth.check_promise()
        settled(world)
    assert kept > 0, "no short write held a whole line"


def bounded() -> World:
    """A journal beyond its bound, with an archive that is not synced to its end."""
    world = calm()
    frames(world, 3)
    archive(world)
    frames(world, 12)
    feed_of(world).journal._max_bytes = 1000
    return world


def test_rule_5_when_the_bound_is_kept_and_killed_anywhere_then_what_goes_is_named_durably_before() -> None:
    def play(operation: int) -> bool:
        world = bounded()
        feed = feed_of(world)
        world.bury("archiver")
        kill_at(feed.disk, operation)
        through = survives(world, "feed", feed.house)
        world.act("power")
        settled(world)
        return through

    operations(play)


def test_rule_5_when_the_naming_record_is_lost_with_a_damaged_tail_then_the_manifest_names_the_range() -> None:
    world = bounded()
    world.bury("archiver")
    feed_of(world).house()
    archive(world)
    named = holes(archiver_of(world).disk, STORAGE)
    assert len(named) == 1
    world.bury("feed")
    for name, file in world.system.dirs[str(JOURNAL)].entries.items():
        if name.endswith(".records"):
            file.data[-40:] = bytes(40)  # type: ignore[union-attr]
    world.truth.rotten = True
    settled(world)
    assert named[0] in holes(archiver_of(world).disk, STORAGE)


def test_rule_5_when_the_word_of_the_archive_is_not_durable_then_it_is_synced_before_a_range_is_named_from_it() -> None:
    for seed in range(TRIES):
        world = calm(seed)
        frames(world, 3)
        archive_but_for_the_last_step(world)
        frames(world, 12)
        feed = feed_of(world)
        feed.journal._max_bytes = 1000
        feed.keeper.keep_within_bound(feed.stamp)
        world.act("power")
        settled(world)


def test_rule_6_when_a_start_comes_from_the_socket_then_what_lies_before_it_is_read_from_the_journal_first() -> None:
    world = calm()
    archiver = archiver_of(world)
    frames(world, 2)
    archive(world)
    frames(world, 4)
    sync(feed_of(world))
    world.bury("feed")
    world.boots += 1  # the feed takes it for another boot, and begins a new journal
    world.truth.lost_power = True
    before = max(world.truth.used)
    world.link.clear()
    start = feed_of(world).run_seq
    assert start > before + 1
    archiver.receive()
    assert archiver.writer.position >= start
    settled(world)


def test_rule_6_when_files_hold_more_than_the_past_that_counts_then_it_is_set_aside_and_named() -> None:
    def play(operation: int) -> bool:
        world = calm()
        frames(world, 3)
        archive(world)
        frames(world, 3)
        archiver = archiver_of(world)
        archiver.intake.catch_up()
        archiver.writer.flush()
        keep = archiver.writer.position - 4
        kill_at(archiver.disk, operation)
        through = survives(world, "archiver", lambda: archiver.writer.hole(archiver.writer.position + 100, keep))
        archiver = archiver_of(world)
        if through:
            assert max(world.truth.contents()) == keep
            assert archiver.writer.position == keep + 103
        else:
            world.truth.check_promise()
        return through

    operations(play)


def test_rule_7_when_files_and_archived_json_lose_their_tails_apart_then_fsynced_counts() -> None:
    for seed in range(TRIES):
        world = calm(seed)
        frames(world, 4)
        archive(world)
        frames(world, 6)
        archiver = archiver_of(world)
        archiver.intake.catch_up()
        archiver.writer.flush()
        sync(feed_of(world))
        world.act("power")
        for name in world.random.sample(("feed", "archiver"), 2):
            getattr(world, f"start_{name}")()
        settled(world)


def test_rule_7_when_a_start_on_another_boot_is_killed_anywhere_then_the_next_one_goes_on() -> None:
    def play(operation: int) -> bool:
        world = calm(3)
        frames(world, 4)
        archive(world)
        frames(world, 6)
        archiver_of(world).intake.catch_up()
        archiver_of(world).writer.flush()
        sync(feed_of(world))
        world.act("power")
        feed_of(world)
        archiver = world.archiver = SimArchiver(world)
        kill_at(archiver.disk, operation)
        through = survives(world, "archiver", archiver.begin)
        world.truth.check_promise()
        settled(world)
        return through

    operations(play)


def test_rule_8_when_archived_json_is_not_durable_then_the_feed_syncs_it_before_it_trims() -> None:
    for seed in range(TRIES):
        world = calm(seed)
        frames(world, 12)
        archive_but_for_the_last_step(world)
        feed_of(world).house()
        world.act("power")
        settled(world)


def test_rule_8_when_the_archive_syncs_and_is_killed_anywhere_then_a_power_loss_leaves_what_it_promises() -> None:
    def play(operation: int) -> bool:
        world = calm(operation)
        frames(world, 6)
        archiver = archiver_of(world)
        archiver.intake.catch_up()
        kill_at(archiver.disk, operation)
        through = survives(world, "archiver", lambda: archiver.writer.sync(archiver.reader.sync))
        archive(world)  # by the next run: what the killed one made and did not sync is its to sync
        world.act("power")
        settled(world)
        return through

    operations(play)


def test_rule_9_when_the_last_message_before_a_silence_is_lost_then_the_heartbeat_tells() -> None:
    world = calm()
    archiver = archiver_of(world)
    frames(world, 3)
    world.link.clear()
    feed_of(world).heartbeat()
    archiver.receive()
    assert archiver.writer.position == feed_of(world).journal.next - 1
