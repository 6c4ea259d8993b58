"""Random bit flips in every kind of file of a storage directory.

    python -m tests.flips [--flips 2000] [--seed N]

One bit at a time is flipped, and flipped back after. Each flip is found by `verify`, or no answer changes: slices of
every format, frames, books, coverage and gaps. Nothing ends in a traceback, whatever `verify` says. Some flips are
followed by a start of the archiver and of the feed's journal, on a copy.

The same of a journal that the archiver has not read: after a flip it catches up, on a copy. Then `verify` has found the
flip and the records are named as lost, or no answer differs from those without it.
"""

import argparse
import contextlib
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson

from common import checked
from common.answers import Answers
from common.archive import ArchiveWriter
from common.client import Client
from common.disk import Disk
from common.errors import ArchivistError
from common.import_commit import stage
from common.intake import Intake
from common.journal import META, Journal, JournalError
from common.journal_marks import complete_marks
from common.journal_reader import JournalReader
from common.ledger import LEDGER
from common.process import boot_id
from common.record import decode, seq_of
from common.sealing import seal
from common.storage import IMPORT, JOURNALS, append_hole, holes, read_archived
from common.tabling import tabulate
from common.verify import verify
from tests.record_logs import ADAPTER, CHANNELS, SYMBOLS, Log

FLIPS = 2000
STARTED_EVERY = 10
"""Of so many flips one is followed by a start of the archiver."""

UNREAD_PART = 6
"""For so many flips there is one more in a journal that was not read yet."""

PIECE_LINES = 10

MINUTE_NS = 60 * 10**9
NORMALISER = f"binance/{ADAPTER.VERSION}"


class Failed(NamedTuple):
    """A flip that nobody noticed, or that ended in a traceback."""

    file: Path
    offset: int
    bit: int
    what: str


def build(storage: Path, seed: int) -> Path:
    """A directory with every kind of file: sealed as bz2 and zstd, tables, waiting, being written, a journal."""
    log = Log(seed, 400, step_ns=MINUTE_NS)
    directory = storage / "binance"
    writer = ArchiveWriter(Disk(), directory, boot_id=boot_id(), rotate_min_bytes=1)
    writer.open(None)
    parts = len(log.lines) // 3, len(log.lines) * 2 // 3, len(log.lines)
    done = 0
    for end, codec in zip(parts, ("bz2", "zstd", None), strict=True):
        full: list[Path] = []
        while done < end or (codec is not None and not full and done < len(log.lines)):  # until something is sealed
            _take(writer, log.lines[done : max(end, done + 1)])
            done = max(end, done + 1)
            writer.sync(lambda: None)
            full = writer.sealable() if codec is not None else []
        for path in full:
            seal(Disk(), path, codec, 3, 2000, NORMALISER, partial(tabulate, adapter=ADAPTER))
    append_hole(Disk(), directory, 1, 1000, "dropped", decode(log.lines[0]).ts_recv)
    writer.sync(lambda: None)
    writer.close()
    imported = {"file": "x", "sha256": "0" * 64, "seq": [1, 900]}
    (directory / LEDGER).write_bytes(checked.dumps(imported) + b"\n")
    stage(Disk(), make_dir(storage / IMPORT / "binance"), [imported], [])
    write_journal(storage / JOURNALS / "binance", log.lines[len(log.lines) // 2 :])
    return directory


def build_behind(storage: Path, seed: int) -> Path:
    """A directory whose archiver has not read the second half of the journal."""
    log = Log(seed, 200, step_ns=MINUTE_NS)
    writer = ArchiveWriter(Disk(), storage / "binance", boot_id=boot_id(), rotate_min_bytes=1)
    writer.open(None)
    _take(writer, log.lines[: len(log.lines) // 2])
    append_hole(Disk(), storage / "binance", 1, 1000, "dropped", decode(log.lines[0]).ts_recv)
    writer.sync(lambda: None)
    writer.close()
    write_journal(storage / JOURNALS / "binance", log.lines[len(log.lines) // 3 :])
    return storage / "binance"


def make_dir(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def _take(writer: ArchiveWriter, lines: list[bytes]) -> None:
    for line in lines:
        if (record := decode(line)).kind == "start":
            writer.hole(record.seq, record.head["last"] if record.seq > 1002 else 0)
        writer.take([line])


def write_journal(directory: Path, lines: list[bytes]) -> None:
    """A journal with marks: a segment for each dense range of lines, pieces of some lines each."""
    make_dir(directory)
    begins = [0, *(index for index, (one, other) in enumerate(pairwise(lines), 1) if seq_of(other) != seq_of(one) + 1)]
    for begin, end in pairwise([*begins, len(lines)]):
        path = directory / f"{seq_of(lines[begin]):020d}.records"
        for some in range(begin, end, PIECE_LINES):
            with path.open("ab") as file:
                file.writelines(lines[some : min(end, some + PIECE_LINES)])
            complete_marks(Disk(), path, path.stat().st_size)
    meta = {"format": 1, "exchange": "binance", "boot_id": boot_id(), "clean": False, "ceiling": 10**9, "begins": 0}
    (directory / META).write_bytes(checked.dumps({**meta, "facts": {}}))


# -- what is asked ---------------------------------------------------------------------------------------------------


def requests(complete: int) -> Iterator[dict[str, Any]]:
    every = {"symbols": [*SYMBOLS], "channels": [*CHANNELS]}
    for format_ in ("json", "raw", "arrow"):
        yield {"op": "slice", **every, "after": 0, "format": format_}
    yield {"op": "slice", **every, "by": "ts_event", "start": 0, "end": 10**15}
    for op in ("coverage", "gaps", "symbols"):
        yield {"op": op, **(every if op != "symbols" else {})}
    for symbol in SYMBOLS:
        yield {"op": "slice", "symbols": [symbol], "channels": ["book"], "after": complete * 2 // 3}
        yield {"op": "book", "symbol": symbol}


def answers(storage: Path, complete: int) -> list[Any]:
    """What everybody is answered. Raises what is no clear error."""
    found: list[Any] = []
    server = Answers(storage)
    for request in requests(complete):
        header, *payload = server.answer(orjson.dumps({"exchange": "binance", **request}))
        answer = orjson.loads(header)
        message = answer.get("error", {}).get("message", "")
        if "a fault of ours" in message:
            raise AssertionError(f"{request['op']}: {message}")
        found.append((answer, payload))
    with Client(storage=storage, progress=False) as client:
        for channel in ("trade", "book"):
            try:
                found.append(client.slice("binance", [*SYMBOLS], channel).to_polars().to_dicts())
            except ArchivistError as error:
                found.append(str(error))
    return found


def start(storage: Path) -> None:
    """A feed and an archiver start on a copy, as after any flip."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(storage, Path(folder) / "storage"))
        feed_starts(copy)
        archiver_catches_up(copy, is_reading=False)


def feed_starts(storage: Path) -> None:
    feed = Journal(Disk(), storage / JOURNALS / "binance", "binance", boot_id=boot_id(), report=lambda _: None)
    with contextlib.suppress(JournalError):
        feed.open(time.time_ns() // 1000, read_archived(Disk(), storage / "binance"))
        feed.close()


def archiver_catches_up(storage: Path, *, is_reading: bool = True) -> None:
    reader = JournalReader(Disk(), storage / JOURNALS / "binance")
    writer = ArchiveWriter(Disk(), storage / "binance", boot_id=boot_id(), report=lambda _: None)
    writer.open(reader.front())
    if is_reading:
        Intake(writer, reader, lambda _: None).catch_up()
    writer.sync(reader.sync)
    writer.close()


# -- flips -----------------------------------------------------------------------------------------------------------


def kind_of(path: Path) -> str:
    name = path.name
    return name if name.endswith((".json", ".jsonl")) else path.suffix


def flipped(storage: Path, flips: int, random: Random) -> Iterator[tuple[Path, int, int]]:
    """Flip one bit after another, of each kind of file as often as of the others."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(path for path in storage.rglob("*") if path.is_file() and path.stat().st_size):
        kinds.setdefault(kind_of(path), []).append(path)
    for index in range(flips):
        path = random.choice(kinds[sorted(kinds)[index % len(kinds)]])
        whole = path.read_bytes()
        offset, bit = random.randrange(len(whole)), random.randrange(8)
        broken = bytearray(whole)
        broken[offset] ^= 1 << bit
        path.write_bytes(broken)
        yield path, offset, bit
        path.write_bytes(whole)


def run(storage: Path, flips: int, seed: int) -> tuple[list[Failed], Counter[str]]:
    """Play all flips; returns what failed, and how many of each kind of file were found by `verify`."""
    directory = build(storage, seed)
    complete = read_archived(Disk(), directory).complete
    assert verify(directory, jobs=1).findings == []
    right = answers(storage, complete)
    failed: list[Failed] = []
    counts: Counter[str] = Counter()
    for index, (path, offset, bit) in enumerate(flipped(storage, flips, Random(seed))):
        what = ""
        try:
            is_found = bool(verify(directory, jobs=1).findings)
            counts[f"{kind_of(path)} {'found' if is_found else 'without effect'}"] += 1
            got = answers(storage, complete)
            if not is_found and got != right:
                differing = [place for place, (one, other) in enumerate(zip(right, got, strict=True)) if one != other]
                what = f"verify says whole, answers {differing} differ"
            if index % STARTED_EVERY == 0 or JOURNALS in path.parts:
                start(storage)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
        if what:
            failed.append(Failed(path.relative_to(storage), offset, bit, what))
    return failed, counts


def caught_up(storage: Path, *, does_feed_start: bool) -> tuple[list[Any], list[Any]]:
    """What everybody is answered once the archiver has read the journal, on a copy; and what is named as lost."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(storage, Path(folder) / "storage"))
        if does_feed_start:
            feed_starts(copy)
        archiver_catches_up(copy)
        complete = read_archived(Disk(), copy / "binance").complete
        return answers(copy, complete), [*holes(Disk(), copy / "binance")]


def run_behind(storage: Path, flips: int, seed: int) -> tuple[list[Failed], Counter[str]]:
    """Play flips of a journal that the archiver has not read yet."""
    directory = build_behind(storage, seed)
    assert verify(directory, jobs=1).findings == []
    right, said = caught_up(storage, does_feed_start=False)
    failed: list[Failed] = []
    counts: Counter[str] = Counter()
    for index, (path, offset, bit) in enumerate(flipped(storage / JOURNALS, flips, Random(seed))):
        what = ""
        try:
            found = verify(directory, jobs=1).findings
            got, says = caught_up(storage, does_feed_start=index % 2 == 1)
            effect = "named as lost" if says != said else "found" if found else "without effect"
            counts[f"{kind_of(path)} unread, {effect}"] += 1
            if got != right and says == said:
                what = "nothing is named as lost, answers differ"
            elif says != said and not found:
                what = "verify does not say what will be lost"
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
        if what:
            failed.append(Failed(path.relative_to(storage), offset, bit, what))
    return failed, counts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.flips", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--flips", type=int, default=FLIPS)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        failed, counts = run(Path(folder) / "storage", args.flips, args.seed)
        of_unread = run_behind(Path(folder) / "unread", args.flips // UNREAD_PART, args.seed)
    failed, counts = failed + of_unread[0], counts + of_unread[1]
    for each in failed:
        print(f"FAILED {each.file} offset {each.offset} bit {each.bit}: {each.what}")
    for kind, count in sorted(counts.items()):
        print(f"{kind}: {count}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
