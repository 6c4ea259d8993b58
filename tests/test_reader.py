"""Reading an archive: whatever is asked for, in the hour being written and in sealed ones, is what the log says."""

import json
import shutil
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest

from common import exchanges
from common.adapter import version
from common.archive import ArchiveWriter
from common.codec import CodecError
from common.disk import Disk
from common.process import boot_id
from common.reader import Reader
from common.record import decode, seq_of
from common.sealing import seal
from tests.archives import FIRST, Archive, hours, written
from tests.record_logs import ADAPTER, SYMBOLS, Log

NORMALISER = version(exchanges.get("binance"))

MINUTE_NS = 60 * 10**9
SEEDS = range(12)


class Recording:
    """A log on its way into an archive, a piece at a time: files turn every few hours, and are sealed or not."""

    def __init__(self, storage: Path, log: Log, codec: str = "bz2") -> None:
        self.log, self.codec, self.done = log, codec, 0
        self.writer = ArchiveWriter(Disk(), storage / "binance", boot_id=boot_id(), rotate_min_bytes=1)
        self.writer.open(None)

    def take(self, count: int) -> None:
        for line in self.log.lines[self.done : self.done + count]:
            record = decode(line)
            if record.kind == "start":
                self.writer.hole(record.seq, record.head["last"] if record.seq > 1002 else 0)
            self.writer.take([line])
        self.done = min(self.done + count, len(self.log.lines))
        self.writer.sync(lambda: None)

    def seal(self) -> None:
        for path in self.writer.sealable():
            seal(Disk(), path, self.codec, 3, 2000, NORMALISER)

    @property
    def last(self) -> int:
        return seq_of(self.log.lines[self.done - 1])


def a_log(seed: int) -> Log:
    print(f"seed {seed}")
    return Log(seed, 400, step_ns=MINUTE_NS)


def expected(log: Log, symbols: Iterable[str], after: int, to: int) -> list[tuple[int, list[bytes]]]:
    ends = tuple(f"/{symbol}" for symbol in symbols)
    found = []
    for record, messages in zip(log.records, log.messages, strict=True):
        own = [message for message in messages if message.partition(b" ")[0].decode().endswith(ends)]
        if own and after < record.seq <= to:
            found.append((record.seq, own))
    return found


def lines_of(log: Log, symbols: Iterable[str], after: int, to: int) -> bytes:
    places = {None, *symbols}
    chosen = zip(log.records, log.lines, strict=True)
    return b"".join(line for record, line in chosen if record.symbol in places and after < record.seq <= to)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_reader_of_an_archive_that_grows_turns_and_is_sealed_always_gives_what_the_log_says(
    seed: int, tmp_path: Path
) -> None:
    log, random = a_log(seed), Random(seed)
    recording, reader = Recording(tmp_path, log, random.choice(["bz2", "zstd"])), Reader(tmp_path, ADAPTER)
    while recording.done < len(log.lines):
        recording.take(random.randrange(1, 120))
        if random.random() < 0.5:
            recording.seal()
        numbers = [record.seq for record in log.records[: recording.done]]
        assert reader.complete() == recording.last
        after, to = sorted((random.choice(numbers) - 1, random.choice(numbers)))
        symbols = random.choice([list(SYMBOLS), [random.choice(SYMBOLS)]])
        assert list(reader.messages(symbols, after, to)) == expected(log, symbols, after, to)
        assert b"".join(reader.raw(symbols, after, to)) == lines_of(log, symbols, after, to)
        channels = [random.choice(["trade", "book", "quote"])]
        wanted = tuple(f"binance/{channel}/".encode() for channel in (*channels, "gap"))
        chosen = [
            (seq, own)
            for seq, messages in expected(log, symbols, after, to)
            if (own := [message for message in messages if message.startswith(wanted)])
        ]
        assert list(reader.messages(symbols, after, to, channels)) == chosen


@pytest.mark.parametrize("seed", SEEDS)
def test_a_range_of_times_holds_every_record_received_in_it_and_little_else(seed: int, tmp_path: Path) -> None:
    log, random = a_log(seed), Random(seed)
    recording, reader = Recording(tmp_path, log), Reader(tmp_path, ADAPTER)
    recording.take(len(log.lines))
    recording.seal()
    times = [record.ts_recv for record in log.records]
    for _ in range(20):
        start, end = sorted(random.choice(times) + random.randrange(-1, 2) for _ in range(2))
        symbol = random.choice(SYMBOLS)
        after, to = reader.range([symbol], start, end)
        own = [record for record in log.records if record.symbol in (None, symbol)]
        inside = [record.seq for record in own if start <= record.ts_recv < end]
        assert not inside or (after < inside[0] and inside[-1] <= to)
        first = [record.seq for record in own if record.ts_recv >= start]
        assert reader.seq_at(start, [symbol]) == (first[0] if first else recording.last + 1)
        place = bisect_left(times, start)
        assert reader.seq_at(start) == (log.records[place].seq if place < len(times) else recording.last + 1)
    assert reader.range([symbol], times[-1] + 1, times[-1] + 2) == (recording.last, recording.last)
    after, to = reader.range([symbol], 0, times[0])
    assert after == to


def test_the_state_after_any_record_is_the_live_one(tmp_path: Path) -> None:
    log = a_log(3)
    recording, reader = Recording(tmp_path, log), Reader(tmp_path, ADAPTER)
    recording.take(len(log.lines))
    recording.seal()
    live = type(log.normaliser)(ADAPTER)
    for line in log.lines[::1]:
        live.messages(decode(line))
        if seq_of(line) % 7 == 0 and (state := live.symbols.get(SYMBOLS[0])) is not None:
            found = reader.normaliser(SYMBOLS[0], seq_of(line)).symbols[SYMBOLS[0]]
            assert found.state() == state.state()
            alone = reader.normaliser(SYMBOLS[0], seq_of(line), "book").symbols[SYMBOLS[0]]
            assert alone.sync.state() == state.sync.state()


def test_a_file_that_is_sealed_while_it_is_read_hurts_nobody(tmp_path: Path) -> None:
    log = a_log(5)
    recording, reader = Recording(tmp_path, log), Reader(tmp_path, ADAPTER)
    recording.take(len(log.lines))
    symbol = SYMBOLS[0]
    pieces = reader.raw([symbol], 0, recording.last)
    found = [next(pieces)]
    recording.seal()
    found += pieces
    assert b"".join(found) == lines_of(log, [symbol], 0, recording.last)


def test_a_flipped_bit_is_an_error_with_its_place(tmp_path: Path) -> None:
    log = a_log(7)
    recording = Recording(tmp_path / "whole", log)
    recording.take(len(log.lines))
    recording.seal()
    symbol, random = SYMBOLS[0], Random(7)
    for index in range(10):
        storage = tmp_path / str(index)
        shutil.copytree(tmp_path / "whole", storage)
        path = sorted((storage / "binance" / symbol).rglob("*.bz2"))[0]
        data = bytearray(path.read_bytes())
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        path.write_bytes(data)
        with pytest.raises(CodecError, match=rf"{path.name} offset \d+: wrong checksum"):
            list(Reader(storage, ADAPTER).messages([symbol], 0, recording.last))


def test_files_when_a_manifest_line_is_spelt_otherwise_then_they_are_the_same(tmp_path: Path) -> None:
    archive = written(tmp_path / "storage")

    def seen() -> list[object]:
        files = Reader(archive.storage, ADAPTER).files("BTCUSDT")
        return [
            (file.path, file.seq, file.ts_recv, file.codec, file.manifest, file.blocks)
            for file in files
            if file.is_sealed
        ]

    known = seen()
    for manifest in archive.directory.rglob("manifest.jsonl"):
        lines = [json.loads(line) for line in manifest.read_bytes().splitlines()]
        manifest.write_text("".join(json.dumps({"codec": line.pop("codec", None), **line}) + "\n" for line in lines))
    assert seen() == known
    assert len(known) > 1


def test_files_when_listed_at_once_then_what_is_sealed_meanwhile_is_found(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "storage")
    archive.begin()
    archive.take(hours(FIRST + 1, 600))
    reader = Reader(archive.storage, ADAPTER)
    expected = list(reader.lines("BTCUSDT", 0, FIRST + 600))
    with reader.at_once():
        before = reader.files("BTCUSDT")
        archive.close()  # seals what was open
        assert reader.files("BTCUSDT") == before, "one request sees one listing"
        assert list(reader.lines("BTCUSDT", 0, FIRST + 600)) == expected
    assert reader.files("BTCUSDT") != before
