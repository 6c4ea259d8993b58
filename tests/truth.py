"""What the simulated world knows, and what must therefore be true of the archive: the oracle of the simulation."""

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson

from common import exchanges
from common.adapter import Adapter
from common.codec import decompress
from common.journal import SUFFIX
from common.journal_marks import read_marks
from common.normaliser import Normaliser
from common.record import decode, is_text
from common.storage import ARCHIVED, MANIFEST, OPEN
from tests.simulated_disk import File, SimDisk, Watcher

if TYPE_CHECKING:
    from tests.simulation import World

JOURNAL = Path("/sim/journal/binance")
STORAGE = Path("/sim/storage/binance")

_SEQ = re.compile(rb'^\{"seq":(\d+),.*\}\n', re.MULTILINE)


def numbers(data: bytes) -> list[int]:
    """The numbers of the whole records in some bytes."""
    return [int(found[1]) for found in _SEQ.finditer(data) if is_text(found[0])]


class Truth(Watcher):
    def __init__(self, world: "World") -> None:
        self.world = world
        self.used: dict[int, bytes] = {}  # every line that ever stood whole in the journal, for ever
        self.standing: set[int] = set()  # whose append returned
        self.durable: set[int] = set()  # that a sync of the journal has covered
        self.excused: set[int] = set()  # that a power loss or a damage may have taken
        self.named: list[tuple[int, int, int]] = []  # ranges that gap records name, and the record's own number
        self.live: dict[int, list[bytes]] = {}  # the events that were published, by their record
        self.done: list[tuple[int, int]] = []  # records whose every event was published
        self.lost_power = self.rotten = self.rotten_journal = False

    # -- as it happens -------------------------------------------------------------------------------------------

    def wrote(self, path: str, file: File) -> None:
        if not path.endswith(SUFFIX):
            return
        end = file.data.rfind(b"\n") + 1
        for line in bytes(file.data[file.seen : end]).splitlines(keepends=True):
            self._use(decode(line).seq, line)
        file.seen = max(file.seen, end)

    def _use(self, seq: int, line: bytes) -> None:
        known = self.used.setdefault(seq, line)
        assert known == line, f"the number {seq} was used for {known!r} and now for {line!r}"
        if b'"reason":"journal full"' in line:
            data = orjson.loads(decode(line).payload or b"")
            self.named.append((data["first_seq"], data["last_seq"], seq))

    def cutting(self, path: str, file: File, size: int) -> None:
        if path.endswith(SUFFIX):
            assert self.rotten or size >= file.seen, f"{path}: whole lines were taken back, {size} of {file.seen}"
            file.seen = min(file.seen, size)

    def synced(self, path: str, file: File) -> None:
        if path.endswith(SUFFIX):
            self.durable.update(numbers(bytes(file.data[: file.seen])))

    def removing(self, path: str, file: File) -> None:
        if not path.endswith(SUFFIX):
            return
        held = self._durably_archived()
        named = [(first, last) for first, last, seq in self.named if seq in self.durable]
        for seq in numbers(bytes(file.data)):
            safe = seq <= held or _within(seq, named) or seq in self.excused or self.rotten
            assert safe, f"{path} was dropped: {seq} is neither archived for good (up to {held}) nor named"

    def _durably_archived(self) -> int:
        data = self.world.system.durable(STORAGE / ARCHIVED) if str(STORAGE) in self.world.system.dirs else None
        return int(orjson.loads(data)["fsynced"]) if data else 0

    def appended(self, lines: list[bytes]) -> None:
        for line in lines:
            seq = decode(line).seq
            assert self.used.get(seq) == line, f"{seq} does not stand"
            self.standing.add(seq)
            if self.rotten_journal:
                self.excused.add(seq)

    def published(self, lines: bytes) -> None:
        for line in lines.splitlines(keepends=True):
            assert self.used.get(decode(line).seq) == line, f"published before it stood: {line!r}"

    def event(self, message: bytes) -> None:
        self.live.setdefault(orjson.loads(message.partition(b" ")[2])["seq"], []).append(message)

    def feed_ended(self) -> None:
        recorder = getattr(self.world.feed, "recorder", None)
        if recorder is not None:
            assert self.world.feed is not None
            self.done.append((self.world.feed.first, recorder.published))

    # -- power ---------------------------------------------------------------------------------------------------

    def power_goes(self) -> None:
        self.lost_power = True
        self.excused |= self.standing - self.durable

    def power_went(self) -> None:
        """What survived may be damaged where it was not synced: from there on lines may be taken back."""
        directory = self.world.system.dirs.get(str(JOURNAL))
        last: int | None = None
        for name, file in sorted(directory.entries.items()) if directory is not None else ():
            if name.endswith(SUFFIX) and isinstance(file, File):
                good = bytes(file.data).split(b"\0")[0]
                good = good[: good.rfind(b"\n") + 1]
                seqs = numbers(good)
                follows = last is None or (seqs and (seqs[0] == last + 1 or b'"kind":"start"' in good.split(b"\n")[0]))
                file.seen = len(good) if follows else 0
                last = seqs[-1] if follows and seqs and len(good) == len(file.data) else 1 << 62
        self.check_promise()

    def check_promise(self) -> None:
        """`archived.json` promises nothing that the files do not hold."""
        if self.rotten:
            return
        system = self.world.system
        try:
            told = orjson.loads(bytes(system.file(STORAGE / ARCHIVED).data))
        except FileNotFoundError:
            return
        limit = told["complete" if told["boot_id"] == self.world.boot_id else "fsynced"]
        have, holes = self.contents().keys(), self.holes()
        for seq in self.standing:
            if seq <= limit and seq not in have and seq not in self.excused and not _within(seq, holes):
                raise AssertionError(f"archived.json promises {limit}, but {seq} is in no file")

    # -- damage --------------------------------------------------------------------------------------------------

    def damage(self) -> None:
        """Something rots: a segment of the journal, or an archive file that is not sealed."""
        system, random = self.world.system, self.world.random
        found = [
            (Path(path), name, node)
            for path, directory in system.dirs.items()
            for name, node in directory.entries.items()
            if isinstance(node, File) and name.endswith((SUFFIX, OPEN)) and node.data.count(b"\n") > 1
        ]
        if not found:
            return
        directory_path, name, file = random.choice(found)
        before = bytes(file.data)
        is_journal = name.endswith(SUFFIX)
        self._rot(file, can_hole=is_journal and self.world.feed is None)
        file.synced, file.before = len(file.data), None
        self.rotten = True
        self.world.report(f"damage to {name}")
        after = bytes(file.data)
        same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
        start = before.rfind(b"\n", 0, same) + 1
        if is_journal:
            self.rotten_journal = True
            pieces = read_marks(SimDisk(system, lambda _: None, random), directory_path / name).pieces
            start = min([start, *(piece.begin for piece in pieces if piece.end > start)])  # checksums are of pieces
            self.excused.update(numbers(before[start:]))
            for other, node in system.dirs[str(directory_path)].entries.items():
                if other.endswith(SUFFIX) and other > name and isinstance(node, File):
                    self.excused.update(numbers(bytes(node.data)))
            file.seen = len(file.data)
        else:
            front = self._journal_front()
            gone = set(numbers(before)) - set(numbers(after))
            self.excused.update(seq for seq in gone if seq < front or self.rotten_journal)

    def _rot(self, file: File, *, can_hole: bool) -> None:
        """Zeros or garbage over the beginning of a line, or (where numbers are dense) whole lines that are gone."""
        random, data = self.world.random, file.data
        lines = data.count(b"\n")
        starts = [0, *[found.end() for found in re.finditer(b"\n", bytes(data))][:-1]]
        first = random.randrange(0, len(starts))
        start = starts[first]
        kind = random.random()
        if kind < 0.3 and can_hole and first < lines - 1:
            del data[start : starts[first + 1]]
            return
        first_byte = max(0, start - random.choice((0, 0, 1, 30)))
        size = min(len(data) - first_byte, start - first_byte + random.choice((8, 40, 300)))
        data[first_byte : first_byte + size] = bytes(size) if kind < 0.7 else b"\xfe" * size

    def _journal_front(self) -> int:
        directory = self.world.system.dirs.get(str(JOURNAL))
        names = [name for name in directory.entries if name.endswith(SUFFIX)] if directory is not None else []
        return int(min(names).removesuffix(SUFFIX)) if names else 1 << 62

    # -- the archive -----------------------------------------------------------------------------------------------

    def _months(self) -> Iterable[tuple[str, dict[str, Any]]]:
        for path, directory in self.world.system.dirs.items():
            if path.startswith(f"{STORAGE}/") and path.count("/") == str(STORAGE).count("/") + 2:
                yield path, cast("dict[str, Any]", directory.entries)

    def manifest(self, entries: dict[str, Any]) -> list[dict[str, Any]]:
        found = []
        for line in bytes(entries[MANIFEST].data).split(b"\n")[:-1] if MANIFEST in entries else ():
            try:
                found.append(orjson.loads(line))
            except orjson.JSONDecodeError:
                continue
        return found

    def contents(self, only: str | None = None) -> dict[int, bytes]:
        """Every record in the archive's files (those of one directory alone), each number once."""
        found: dict[int, bytes] = {}
        for path, entries in self._months():
            if only is not None and path.split("/")[-2] != only:
                continue
            sealed = {line["name"]: line for line in self.manifest(entries) if "name" in line}
            parts = [(line["file"], self._unpack(entries, line)) for line in sealed.values()]
            parts += [
                (name, bytes(file.data))
                for name, file in entries.items()
                if name.endswith(OPEN) and name.removesuffix(OPEN) not in sealed
            ]
            for name, data in parts:
                for match in _SEQ.finditer(data):
                    seq = int(match[1])
                    if b"\0" in match[0]:
                        continue
                    assert seq not in found, f"{path}/{name} holds {seq} again"
                    found[seq] = match[0]
        return found

    def _unpack(self, entries: dict[str, Any], line: dict[str, Any]) -> bytes:
        data = bytes(entries[line["file"]].data)
        blocks = [data[block["offset"] : block["offset"] + block["bytes"]] for block in line["blocks"]]
        assert sum(map(len, blocks)) == len(data) == line["bytes"], f"{line['file']} is not what its manifest says"
        return b"".join(decompress(block, line["codec"]) for block in blocks)

    def holes(self) -> list[tuple[int, int]]:
        return [
            (line["hole"][0], line["hole"][1])
            for _, entries in self._months()
            for line in self.manifest(entries)
            if "hole" in line
        ]

    # -- the end -----------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        have, holes = self.contents(), self.holes()
        order = sorted(have)
        for first, last, seq in self.named:
            if seq in self.excused:  # what named the range is lost, and nobody had passed it
                self.excused.update(used for used in self.used if first <= used <= last)
        for seq, line in have.items():
            assert self.used.get(seq) == line, f"{seq} is not what was recorded: {line!r}"
        for seq in self.standing - self.excused:
            assert seq in have or _within(seq, holes), f"{seq} was recorded and is not in the archive"
        self._judge_order(have, order, holes)
        self._judge_holes(holes)
        if not (self.lost_power or self.rotten or holes):
            self._judge_events(have, order)

    def _judge_order(self, have: dict[int, bytes], order: list[int], holes: list[tuple[int, int]]) -> None:
        for before, seq in pairwise([0, *order]):
            record = decode(have[seq])
            if before and seq != before + 1 and record.kind != "start":
                lost = _first_without(before + 1, seq, holes)
                assert lost is None, f"{lost} is missing: {seq} follows {before}"
            if record.kind == "start" and not self.rotten:
                last = record.head["last"]
                assert before <= last < seq, f"start {seq} says last {last}, the archive {before}"
                assert self.lost_power or before == 0 or last == seq - 1, f"start {seq} jumps, last {last}"

    def _judge_holes(self, holes: list[tuple[int, int]]) -> None:
        if self.rotten:
            return
        named = [(first, last) for first, last, _ in self.named]
        for first, last in holes:
            safe = (seq for seq in self.standing - self.excused if first <= seq <= last and not _within(seq, named))
            lost = next(safe, None)
            assert lost is None, f"the manifest names {first} to {last} as lost, but nothing took {lost}"

    def _judge_events(self, have: dict[int, bytes], order: list[int]) -> None:
        normaliser = Normaliser(cast(Adapter, exchanges.get("binance")))
        complete = {seq for first, last in self.done for seq in range(first, last + 1)}
        for seq in order:
            later, live = normaliser.messages(decode(have[seq])), self.live.get(seq, [])
            if seq in complete:
                assert later == live, f"record {seq} gave {live} live and {later} later"


def _first_without(first: int, end: int, ranges: list[tuple[int, int]]) -> int | None:
    """The first number from `first` on and before `end` that lies in none of the ranges."""
    for start, last in sorted(ranges):
        if start <= first <= last:
            first = last + 1
    return first if first < end else None


def _within(seq: int, ranges: list[tuple[int, int]]) -> bool:
    return any(first <= seq <= last for first, last in ranges)
