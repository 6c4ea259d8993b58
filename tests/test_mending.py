"""Which records of a copied or damaged archive are missing."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from common.disk import Disk
from common.mending import Numbers, missing, whole_to
from common.record import encode
from tests.archives import FIRST, FIRST_TS, HOUR_NS, Archive, start, trade


@given(st.sets(st.integers(0, 1 << 63)), st.sets(st.integers(1 << 16, (1 << 16) + 200)))
def test_numbers_come_back_once_and_in_their_order(some: set[int], dense: set[int]) -> None:
    numbers = Numbers()
    for number in [*some, *dense, *some]:
        numbers.add(number)
    assert list(numbers) == sorted(some | dense)


def test_a_copy_that_took_five_hours_is_whole_to_where_its_first_symbol_ends(tmp_path: Path) -> None:
    """A symbol whose last record lay an hour before the newest one counted as recorded no more."""
    archive = Archive(tmp_path)
    archive.begin()
    archive.take([trade(FIRST + place, FIRST_TS + place) for place in range(1, 9)])
    five_hours_later = FIRST_TS + 5 * HOUR_NS
    end = encode(FIRST + 10, five_hours_later + 1, "checkpoint", payload=b'{"run":1}')
    archive.take([trade(FIRST + 9, five_hours_later, "ETHUSDT"), end])
    archive.close()
    (copied_first,) = archive.directory.glob("BTCUSDT/*/*.open")
    copied_first.write_bytes(b"".join(copied_first.read_bytes().splitlines(keepends=True)[:4]))
    assert whole_to(Disk(), archive.directory) == FIRST + 4
    assert missing(Disk(), archive.directory, [], FIRST + 10, FIRST + 4) == [(FIRST + 5, FIRST + 8)]


def test_a_symbol_that_was_recorded_long_ago_does_not_make_a_copy_count_from_there(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.begin()
    archive.take([trade(FIRST + 1, FIRST_TS, "BTCUSDT"), trade(FIRST + 2, FIRST_TS, "OLDUSDT")])
    later = FIRST_TS + 50 * HOUR_NS
    archive.take([trade(FIRST + place, later + place, ("BTCUSDT", "ETHUSDT")[place % 2]) for place in range(3, 9)])
    archive.take([start(FIRST + 9, FIRST + 8, later + 9)])
    archive.close()
    assert whole_to(Disk(), archive.directory) == FIRST + 7
