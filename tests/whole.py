"""What must be true of what a real pipeline leaves, whatever was done to it: judged from the outside."""

import base64
import json
import os
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from common.record import Record, decode
from tests.pipeline import (
    Pipeline,
    archive_files,
    archived,
    assert_dense,
    events_of,
    is_part,
    lines,
    normalised,
    payloads,
)


class Witness:
    """Keeps every file that the journal ever had, by a second name: all that was ever appended."""

    def __init__(self, journal: Path, kept: Path) -> None:
        self._journal, self._kept = journal, kept
        self._stop = threading.Event()
        kept.mkdir()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self._look()

    def _look(self) -> None:
        for path in self._journal.glob("[0-9]*.records"):
            try:
                os.link(path, self._kept / f"{path.name}.{path.stat().st_ino}")
            except (FileExistsError, FileNotFoundError):
                continue  # known, or gone just now: then `appended` has a hole where nothing jumps

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def appended(self) -> dict[int, bytes]:
        """Every line that ever stood whole in the journal, by its number."""
        found: dict[int, bytes] = {}
        for path in sorted(self._kept.iterdir()):
            for line in path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    line = line[:-1]
                    seq = decode(line).seq
                    assert found.setdefault(seq, line) == line, f"{seq} was used for {found[seq]!r} and for {line!r}"
        return found


def assert_archived(appended: dict[int, bytes], exchange_dir: Path) -> list[Record]:
    """The archive holds what was appended: each line once, byte for byte, dense but for the jumps of a `start`."""
    held = [line for path in archive_files(exchange_dir) for line in lines(path)]
    records = sorted((decode(line) for line in held), key=lambda record: record.seq)
    assert_dense(records, exchange_dir)
    found = {decode(line).seq: line for line in held}
    assert found.keys() == appended.keys(), f"only in one: {sorted(found.keys() ^ appended.keys())[:10]}"
    assert found == appended
    for before, after in pairwise(records):
        if after.kind == "start":
            assert after.head["last"] == before.seq, f"{before.seq} is followed by {after.head}"
    return records


def assert_sent(records: list[Record], sent: Path) -> None:
    """What is archived of each connection is what was sent on it, from its first frame on without a hole.

    The connections are in the same order on both sides; one whose feed was killed while it connected is there alone.
    """
    whole: dict[int, list[bytes]] = {}
    with sent.open("rb") as told:
        for line in told:
            frame = json.loads(line)
            payload = frame["payload"].encode() if "payload" in frame else base64.b64decode(frame["payload_b64"])
            whole.setdefault(frame["conn"], []).append(payload)
    left = iter(whole[conn] for conn in sorted(whole))
    for conn, parts in sorted(payloads(records).items()):
        assert any(parts == frames[: len(parts)] for frames in left), f"connection {conn}"


def assert_ordered_part(pipeline: Pipeline, sent: Path) -> list[Record]:
    """The archive is dense and holds the beginning of what was sent on each connection."""
    pipeline.standin.status()  # flushes what it has written of what it sent
    records = archived(pipeline.exchange_dir)
    assert_dense(records, pipeline.exchange_dir)
    assert_sent(records, sent)
    return records


def assert_losses_are_told(records: list[Record]) -> None:
    """Whatever ids of trades are missing lie in a gap that was opened for them."""
    last: dict[str, int] = {}
    late: dict[str, set[int]] = {}
    gaps: list[dict[str, object]] = []
    events = events_of(normalised(records))
    for event in events:
        if event["channel"] == "gap" and event["channels"] == ["trade"]:
            gaps.append(event)
        elif event.get("late"):
            late.setdefault(event["symbol"], set()).add(int(event["id"]))
    for event in events:
        if event["channel"] == "trade" and not event.get("late"):
            symbol, trade_id = event["symbol"], int(event["id"])
            missing = range(last.get(symbol, trade_id - 1) + 1, trade_id)
            told = [gap for gap in gaps if gap["symbol"] == symbol and int(gap.get("first_id", 0)) == missing.start]
            assert not missing or told, f"{symbol} {missing} is missing and nobody says so"
            assert set(missing) <= late.get(symbol, set()) or told
            last[symbol] = trade_id


def assert_live(live: Sequence[bytes], records: list[Record], *, drops: bool = False) -> None:
    """What was live is `normalise(archive)`: of each run one piece without a hole, of the last one to its end.

    A run begins before its subscribers are connected again, and what is on its way when it is killed is lost. With
    `drops`, the sockets hold so little that some are lost anywhere.
    """
    whole = normalised(records)
    if drops:
        assert is_part(list(live), whole)
        return
    starts = [record.seq for record in records if record.kind == "start"]
    numbers = [event["seq"] for event in events_of(live)]
    runs: dict[int, list[bytes]] = {start: [] for start in starts}
    for message in whole:
        runs[max(start for start in starts if start <= events_of([message])[0]["seq"])].append(message)
    for start, end in pairwise([*starts, 1 << 63]):
        got = [message for message, number in zip(live, numbers, strict=True) if start <= number < end]
        first = runs[start].index(got[0]) if got else 0
        assert got == runs[start][first : first + len(got)], f"the run that began at {start}"
        assert end < 1 << 63 or first + len(got) == len(runs[start]), "the last run was not live to its end"
    assert numbers == sorted(numbers)
