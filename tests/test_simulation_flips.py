"""Schedules in which, beside all other faults, bits of the journal flip: nothing wrong is ever archived.

`SIM_SEEDS=n` plays n schedules instead of the usual number, `SIM_SEED=k` the one with that seed.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.journal import segment_names
from common.journal_marks import Piece, marks_path, read_marks
from common.storage import holes
from tests.simulated_cases import archive, archiver_of, calm, feed_of, frames, settled, sync
from tests.simulated_disk import SimDisk
from tests.simulation import World, play_all, small_steps
from tests.truth import JOURNAL, STORAGE, numbers

SCHEDULES = 400


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_steps():
        yield


class FlippingWorld(World):
    """Bits of what is marked in the journal flip at any time; in every fifth schedule those of the marks instead.

    Two faults at once, in a record and in its mark, are not found.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.faults.damage = False

    def choices(self) -> tuple[list[str], list[float]]:
        names, weights = super().choices()
        return [*names, "flip"], [*weights, 0.6]

    def _flip(self) -> None:
        found = marked(self, durably=self.faults.power)
        if not found or len(self.acting) > 1:
            return
        path, pieces = self.random.choice(found)
        if self.seed % 5:
            piece = self.random.choice(pieces)
            flip(self, path, piece, self.random.randrange(piece.begin, piece.end), self.random.randrange(8))
        else:
            marks = self.system.file(marks_path(path)).data
            marks[self.random.randrange(len(marks))] ^= 1 << self.random.randrange(8)


def quiet(world: World) -> SimDisk:
    """A disk during whose operations nothing happens."""
    return SimDisk(world.system, lambda _: None, world.random)


def marked(world: World, *, durably: bool = False) -> list[tuple[Path, list[Piece]]]:
    """The journal's segments, with the pieces of them that have a mark (one that no power loss takes) and are there."""
    disk = quiet(world)
    found = []
    for path in (JOURNAL / name for name in segment_names(disk, JOURNAL)):
        pieces = [piece for piece in read_marks(disk, path).pieces if piece.end <= disk.size(path)]
        if durably:
            pieces = pieces[: (world.system.durable(marks_path(path)) or b"").count(b"\n")]
        found += [(path, pieces)] if pieces else []
    return found


def flip(world: World, path: Path, piece: Piece, offset: int, bit: int) -> None:
    """Flip a bit in a piece: its records, and they alone, may be missing from the archive now."""
    data, truth = world.system.file(path).data, world.truth
    before = bytes(data[piece.begin : piece.end])
    data[offset] ^= 1 << bit
    truth.excused.update(numbers(before), numbers(bytes(data[piece.begin : piece.end])))


def test_archive_when_bits_of_the_journal_flip_then_nothing_else_is_lost_and_nothing_wrong_is_archived() -> None:
    play_all(FlippingWorld, SCHEDULES)


def behind(world: World) -> tuple[Path, Piece]:
    """A marked piece that the archiver has not read, not the last one; a digit in it is flipped."""
    frames(world, 2)
    archive(world)
    world.bury("archiver")
    for _ in range(6):
        frames(world, 2)
        sync(feed_of(world))
    path, pieces = marked(world)[-2]
    piece = pieces[-1]
    data = world.system.file(path).data
    flip(world, path, piece, data.index(b'"p":"1.0"', piece.begin) + 5, 0)
    return path, piece


@pytest.mark.parametrize("does_restart", [False, True])
def test_archiver_when_a_digit_of_the_journal_flips_then_that_piece_alone_is_a_named_hole(does_restart: bool) -> None:
    world = calm()
    path, piece = behind(world)
    if does_restart:
        world.bury("feed")
        assert feed_of(world).journal.next > piece.last
        assert any("damaged: checksum wrong" in text and path.name in text for text in world.told)
    have = settled(world)
    (first, last), *others = holes(archiver_of(world).disk, STORAGE)
    assert others == []
    assert last == piece.last
    assert first > max(seq for seq in have if seq < piece.last)
    assert set(world.truth.standing) - set(have) == set(range(first, last + 1))
    told = [text for text in world.told if "journal damaged" in text]
    assert any(path.name in text and f"offset {piece.begin}" in text and "named as lost" in text for text in told)


def test_feed_when_the_journals_end_flips_then_the_next_run_goes_on_behind_it_and_nothing_else_is_lost() -> None:
    world = calm()
    frames(world, 4)
    archive(world)
    frames(world, 3)
    feed_of(world).end()
    world.bury("feed")
    world.bury("archiver")
    path, pieces = marked(world)[-1]
    held = numbers(bytes(world.system.file(path).data[pieces[-1].begin :]))
    flip(world, path, pieces[-1], pieces[-1].end - 9, 0)
    start = feed_of(world).run_seq
    assert start == pieces[-1].last + 1
    frames(world, 2)
    have = settled(world)
    assert set(world.truth.standing) - set(have) <= set(held)


def test_marks_when_they_are_gone_then_the_journal_is_read_as_before_and_the_next_start_makes_them_anew() -> None:
    world = calm()
    frames(world, 12)
    sync(feed_of(world))
    world.bury("feed")
    before = dict(marked(world))
    for path in before:
        quiet(world).remove(marks_path(path))
    archive(world)
    assert archiver_of(world).writer.position == max(world.truth.standing)
    feed_of(world)
    assert {path: pieces[-1].end for path, pieces in marked(world)} == {
        path: quiet(world).size(path) if path != max(before) else before[path][-1].end for path in before
    }
    settled(world)
