"""The feed's middle: appended before it is published, published before its events, dense whatever the disk does."""

import errno
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import exchanges
from common.adapter import Adapter
from common.disk import AppendFile, Disk
from common.journal import Journal
from common.normaliser import Normaliser
from common.record import decode
from common.recorder import Recorder
from common.storage import Archived
from tests.record_logs import ADAPTER, quote_frame, trade_frame
from tests.test_okx import LIQUIDATION, TICKER

START = orjson.dumps({"subscriptions": {"symbols": ["AAA"], "channels": ["trade", "quote"]}})


class Memory:
    """A journal in memory, in which there is room for a while; every call and message is noted in `story`."""

    def __init__(self, room: Iterable[int] = ()) -> None:
        self.next, self.lines = 1, list[bytes]()
        self.story: list[tuple[str, bytes]] = []
        self._room = iter(room)

    def append(self, lines: list[bytes]) -> int:
        stand = min(len(lines), next(self._room, len(lines)))
        self.lines += lines[:stand]
        self.next += stand
        self.story += [("appended", line) for line in lines[:stand]]
        return stand

    def published(self, lines: bytes) -> None:
        self.story += [("published", line) for line in lines.splitlines(keepends=True)]

    def event(self, message: bytes) -> None:
        self.story.append(("event", message))


def recorder_on(journal: Any, memory: Memory) -> Recorder:
    recorder = Recorder(ADAPTER, Normaliser(ADAPTER), cast(Journal, journal), memory.published, memory.event)
    recorder.file_under({("trade", "AAA")})
    return recorder


def trade(number: int) -> bytes:
    return orjson.dumps({"stream": "s", "data": trade_frame("AAA", number)})


def numbered(event: bytes) -> int:
    seq: int = orjson.loads(event.partition(b" ")[2])["seq"]
    return seq


def check(memory: Memory) -> None:
    """Each record appended, then published, then its events, all in order and once."""
    done: dict[str, int] = {"appended": 0, "published": 0}
    events = 0
    for what, message in memory.story:
        if what == "event":
            assert events <= numbered(message) <= done["published"]
            events = numbered(message)
        else:
            assert decode(message).seq == done[what] + 1
            done[what] += 1
        assert done["published"] <= done["appended"]


def test_records_are_appended_then_published_then_their_events() -> None:
    memory = Memory()
    recorder = recorder_on(memory, memory)
    recorder.record(1, "start", payload=START)
    others = recorder.frames(1, 2, [trade(1), b'{"result":null,"id":1}', trade(2)])
    check(memory)
    assert others == [{"result": None, "id": 1}]
    assert [what for what, _ in memory.story] == ["appended", "published"] + ["appended"] * 3 + ["published"] * 3 + [
        "event"
    ] * 2
    assert (recorder.next, recorder.published, recorder.is_behind()) == (5, 4, False)


def test_frames_are_filed_where_they_belong_and_kept_byte_for_byte() -> None:
    memory = Memory()
    recorder = recorder_on(memory, memory)
    recorder.record(1, "start", payload=START)
    odd = [trade(1), orjson.dumps(quote_frame("AAA", 1)), b"no JSON", b'{"x":\n1}', b" " + trade(2) + b"\r", b"", b"1"]
    recorder.frames(3, 7, odd)
    recorder.binary(8, 3, "in", "ping", b"p")
    recorder.binary(9, 3, "in", "binary", trade(3))
    records = [decode(line) for line in memory.lines[1:]]
    assert [record.payload for record in records] == [*odd, b"p", trade(3)]
    places = [(record.channel, record.symbol) for record in records[:5]]
    assert places == [("trade", "AAA"), (None, None), (None, None), (None, None), ("trade", "AAA")]
    assert {(record.kind, record.conn) for record in records} == {("in", 3)}
    assert [record.head.get("op") for record in records[-2:]] == ["ping", "binary"]
    assert recorder.unknown["not JSON"] == 2


def test_a_frame_that_brings_more_than_was_asked_for_is_filed_under_what_was() -> None:
    """OKX's tickers hold quotes too; a frame that speaks of several symbols lies with those of none."""
    memory = Memory()
    okx = cast(Adapter, exchanges.get("okx"))
    recorder = Recorder(okx, Normaliser(okx), cast(Journal, memory), memory.published, memory.event)
    recorder.file_under({("ticker", "BTC-USDT"), ("liquidation", "A-B-SWAP")})
    recorder.frames(1, 1, [TICKER, LIQUIDATION])
    records = [decode(line) for line in memory.lines]
    assert [(record.channel, record.symbol) for record in records] == [("ticker", "BTC-USDT"), (None, None)]


def test_several_reads_are_one_append_each_frame_with_its_own_time() -> None:
    memory = Memory()
    recorder = recorder_on(memory, memory)
    recorder.runs(1, [(5, [trade(1), trade(2)]), (6, [trade(3)])])
    assert [decode(line).ts_recv for line in memory.lines] == [5, 5, 6]


@settings(max_examples=70, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 2**32))
def test_while_the_disk_is_full_nothing_is_published_and_the_order_stands(room: list[int], seed: int) -> None:
    random = Random(seed)
    memory = Memory([1, *room])
    recorder = recorder_on(memory, memory)
    recorder.record(1, "start", payload=START)
    number = 0
    for _ in range(30):
        act = random.randrange(4)
        if act == 0:
            recorder.retry()
        elif act == 1:
            recorder.record(2, "open", conn=1)
        else:
            count = random.randrange(1, 5)
            recorder.frames(1, 3, [trade(number + place) for place in range(1, count + 1)])
            number += count
        check(memory)
        assert recorder.published == len(memory.lines) == memory.next - 1
        assert recorder.is_behind() == (recorder.next > memory.next)
        assert (recorder.backlog_bytes > 0) == recorder.is_behind()
    for _ in range(50):
        recorder.retry()
    check(memory)
    assert not recorder.is_behind() and recorder.backlog_bytes == 0 and recorder.next == memory.next
    events = [orjson.loads(message.partition(b" ")[2]) for what, message in memory.story if what == "event"]
    assert [int(event["id"]) for event in events] == list(range(1, number + 1))


class SmallFile(AppendFile):
    """A file on a disk that has room for `disk.room` bytes more."""

    disk: "SmallDisk"

    def write(self, data: bytes) -> int:
        if self.disk.room == 0:
            raise OSError(errno.ENOSPC, "no room left")
        written = super().write(data[: self.disk.room])
        self.disk.room -= written
        return written


class SmallDisk(Disk):
    room = 10**9

    def open(self, path: Path) -> AppendFile:
        file = SmallFile(path)
        file.disk = self
        return file


@pytest.mark.parametrize("seed", range(8))
def test_a_real_journal_that_fills_up_in_the_middle_of_a_line_goes_on_whole_when_there_is_room(
    tmp_path: Path, seed: int
) -> None:
    random, disk = Random(seed), SmallDisk()
    journal = Journal(disk, tmp_path / "journal", "binance", boot_id="a", segment_bytes=2000, report=lambda text: None)
    memory = Memory()
    first = journal.open(1_000_000, Archived()).next
    recorder = recorder_on(journal, memory)
    recorder.record(1, "start", payload=START)
    for number in range(1, 200, 2):
        recorder.frames(1, 2, [trade(number), trade(number + 1)])
        if random.random() < 0.3:
            disk.room = random.choice([0, 1, 100, 500])
        if random.random() < 0.3:
            disk.room = 10**9
            recorder.retry()
        on_disk = b"".join(path.read_bytes() for path in sorted((tmp_path / "journal").glob("*.records")))
        lines = on_disk.splitlines(keepends=True)
        assert lines == [message for what, message in memory.story if what == "published"]
        assert [decode(line).seq for line in lines] == list(range(first, recorder.published + 1))
    disk.room = 10**9
    recorder.retry()
    journal.close()
    assert not recorder.is_behind() and recorder.published == first + 200
    again = Journal(Disk(), tmp_path / "journal", "binance", boot_id="a", report=lambda text: None)
    opened = again.open(2_000_000, Archived())
    again.close()
    assert (opened.next, opened.jumped) == (first + 201, False)
