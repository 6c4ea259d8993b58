"""History's answers, out of archives of random record logs, against the whole log normalised at once."""

import itertools
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from common import exchanges
from common.answers import Answers
from common.normaliser import Normaliser
from tests.logged import Logged
from tests.pipeline import seeded
from tests.record_logs import CHANNELS, Log

STEPS = 350


@pytest.fixture
def random() -> Random:
    return seeded()


@pytest.fixture
def logged(tmp_path: Path, random: Random) -> Iterator[Logged]:
    """Both symbols, some files sealed, the rest open."""
    for attempt in itertools.count():
        log = Log(random.randrange(1_000_000), STEPS)
        archive = Logged(tmp_path / f"storage{attempt}", log)
        archive.take(len(log.lines) // 2)
        if archive.seal() and {record.symbol for record in log.records} >= {"AAA", "BBB"}:
            break
        archive.close()
    archive.take()
    yield archive
    archive.close()


def bodies(
    whole: dict[int, list[bytes]], channels: tuple[str, ...] = CHANNELS
) -> list[tuple[int, dict[str, Any], bytes]]:
    wanted = {*channels, "gap"}
    found = [(seq, message.partition(b" ")[2]) for seq, messages in whole.items() for message in messages]
    events = [(seq, orjson.loads(body), body + b"\n") for seq, body in found]
    return [each for each in events if each[1]["channel"] in wanted]


SYMBOLS = (["AAA"], ["BBB"], ["AAA", "BBB"])


@pytest.mark.parametrize("symbols", SYMBOLS, ids="-".join)
def test_slice_when_cut_at_any_number_then_equals_the_whole_normalised(
    logged: Logged, random: Random, symbols: list[str]
) -> None:
    whole = bodies(logged.whole(symbols))
    seqs = [record.seq for record in logged.log.records]
    assert logged.slice(symbols=symbols, snapshot=False) == b"".join(body for *_, body in whole)
    for _ in range(12):
        after, to = sorted(random.choices(range(seqs[0] - 2, seqs[-1] + 1), k=2))
        size = random.choice([1, 300, 3_000, 100_000])
        part = logged.slice(symbols=symbols, snapshot=False, after=after, to=to, max_bytes=size, fresh=0.2)
        assert part == b"".join(body for seq, _, body in whole if after < seq <= to), (after, to, size)


def test_slice_when_cut_at_any_time_then_has_what_was_received_in_between(logged: Logged, random: Random) -> None:
    symbols, channels = random.choice(SYMBOLS), random.choice([("trade",), ("book", "quote"), CHANNELS])
    whole = bodies(logged.whole(symbols), channels)
    times = [record.ts_recv for record in logged.log.records]
    for _ in range(12):
        start, end = sorted(random.choices(range(times[0] - 5, times[-1] + 5), k=2))
        part = logged.slice(
            symbols=symbols, channels=channels, snapshot=False, start=start, end=end, max_bytes=2_000, fresh=0.1
        )
        assert part == b"".join(body for _, event, body in whole if start <= event["ts_recv"] < end), (start, end)


def test_slice_when_by_ts_event_then_late_events_are_in_their_place(logged: Logged, random: Random) -> None:
    """A log's own times of the exchange are small numbers: between any two lies what happened, whenever it came."""
    whole = bodies(logged.whole(["AAA"]))
    times = [event["ts_event"] for _, event, _ in whole if event["ts_event"] is not None]
    end = logged.log.records[-1].ts_recv + 1
    for _ in range(5):
        start = random.choice(times)
        part = logged.slice(symbols=["AAA"], snapshot=False, start=start, end=end, by="ts_event", fresh=0.2)
        happened = [
            body
            for _, event, body in whole
            if start <= (event["ts_recv"] if event["ts_event"] is None else event["ts_event"]) < end
        ]
        assert part == b"".join(happened)


def test_slice_when_raw_then_normalise_gives_the_events(logged: Logged, random: Random) -> None:
    symbols = random.choice(SYMBOLS)
    lines = [
        line
        for line, record in zip(logged.log.lines, logged.log.records, strict=True)
        if record.symbol is None or record.symbol in symbols
    ]
    raw = logged.slice(symbols=symbols, format="raw", max_bytes=1_000, fresh=0.2)
    assert raw == b"".join(lines) == logged.slice(symbols=symbols, format="raw")
    times = [record.ts_recv for record in logged.log.records]
    for _ in range(10):
        start, end = sorted(random.choices(range(times[0] - 5, times[-1] + 5), k=2))
        part = logged.slice(symbols=symbols, format="raw", start=start, end=end, max_bytes=3_000)
        stamps = ((line, int(line.partition(b'"ts_recv":')[2].partition(b",")[0])) for line in lines)
        assert part == b"".join(line for line, stamp in stamps if start <= stamp < end)


def test_slice_of_a_book_begins_with_the_book_before_it(logged: Logged, random: Random) -> None:
    """The derived snapshot and the deltas behind it give the book that a naive reader has."""
    for _ in range(8):
        records = logged.log.records
        at, to = sorted(random.choices(range(len(records)), k=2))
        naive = Normaliser(exchanges.get("binance"), ["AAA"])
        for record in records[: at + 1]:
            naive.messages(record)
        state = naive.symbols.get("AAA")
        question = {"symbols": ["AAA"], "channels": ["book"], "after": records[at].seq, "to": records[to].seq}
        first, *rest = [*map(orjson.loads, logged.slice(**question).splitlines()), None]
        without = logged.slice(**question, snapshot=False).splitlines()
        if state is None or "book" not in state.channels or not state.sync.synced:
            assert [event for event in (first, *rest) if event] == list(map(orjson.loads, without))
            continue
        assert first is not None
        assert (first["derived"], first["type"], first["seq"]) == (True, "snapshot", state.channels["book"].last)
        assert dict(first["bids"]) == state.sync.book.bids
        assert rest[:-1] == list(map(orjson.loads, without))


def test_book_at_any_time_equals_that_of_a_naive_reader(logged: Logged, random: Random) -> None:
    records = logged.log.records
    for _ in range(10):
        at = random.randrange(records[0].ts_recv - 2, records[-1].ts_recv + 3)
        naive = Normaliser(exchanges.get("binance"), ["BBB"])
        for record in records:
            if record.ts_recv <= at:
                naive.messages(record)
        state = naive.symbols.get("BBB")
        question = {"op": "book", "symbol": "BBB", "at": at}
        if state is None or "book" not in state.channels or not state.sync.synced:
            assert logged.error(**question)[0] == "no_book"
            continue
        header, (payload,) = logged.ask(**question)
        book = orjson.loads(payload)
        bids, asks = state.sync.book.top()
        assert (list(map(tuple, book["bids"])), list(map(tuple, book["asks"]))) == (bids, asks)
        assert (header["seq"], header["last_id"]) == (state.channels["book"].last, str(state.sync.id))
        assert header["ts_recv"] == state.channels["book"].ts
        assert len(orjson.loads(logged.ask(**question, depth=1)[1][0])["bids"]) == min(1, len(bids))


def test_slice_when_files_are_written_and_sealed_between_its_pages_then_nothing_changes(
    tmp_path: Path, random: Random
) -> None:
    log = Log(random.randrange(1_000_000), STEPS)
    archive = Logged(tmp_path / "storage", log)
    archive.take(len(log.lines) // 2)
    complete = log.records[len(log.lines) // 2 - 1].seq
    symbol = archive.ask(op="symbols")[0]["symbols"][0]
    expected = b"".join(body for seq, _, body in bodies(archive.whole([symbol])) if seq <= complete)
    payload, token = b"", None
    while True:
        question = {"symbols": [symbol], "snapshot": False, "max_bytes": 400, **({"next": token} if token else {})}
        header, (page,) = archive.ask(op="slice", **question)
        payload, token = payload + page, header["next"]
        assert header["to"] == complete, "the end is frozen"
        if token is None:
            break
        archive.take(random.randrange(20))
        if random.random() < 0.3:
            archive.seal()
        if random.random() < 0.3:
            archive.answers = Answers(archive.storage)
    archive.close()
    assert payload == expected


def test_slice_when_the_range_is_empty_or_in_the_future_then_no_events_and_no_error(logged: Logged) -> None:
    first, last = logged.log.records[0], logged.log.records[-1]
    future = {"start": last.ts_recv + 10**9, "end": last.ts_recv + 2 * 10**9}
    for question, partial in (
        (future, True),
        ({"start": last.ts_recv + 10**9}, False),
        ({"start": first.ts_recv - 20, "end": first.ts_recv - 10}, False),
        ({"start": first.ts_recv, "end": first.ts_recv}, False),
        ({"after": last.seq, "to": last.seq + 100}, True),
        ({"after": last.seq + 50, "to": last.seq + 100}, True),
        ({"after": first.seq, "to": first.seq}, False),
    ):
        header, payload = logged.ask(op="slice", symbols=["AAA"], snapshot=False, **question)
        assert (header["events"], header["next"], header["partial"], payload) == (0, None, partial, [b""]), question
        assert header["total"] == {"events": 0, "records": header["records"]}
        assert header["covered"] >= header["after"] == question.get("after", header["after"])


def test_slice_when_the_end_lies_beyond_then_partial_and_nothing_beyond_complete(logged: Logged) -> None:
    last = logged.log.records[-1]
    header, _ = logged.ask(op="slice", symbols=["AAA"], after=0, to=last.seq + 1)
    assert (header["to"], header["partial"], header["complete_to"]) == (last.seq, True, last.seq)
    assert not logged.ask(op="slice", symbols=["AAA"], after=0, to=last.seq)[0]["partial"]
    archived = logged.storage / "binance" / "archived.json"
    known = orjson.loads(archived.read_bytes())
    token = logged.ask(op="slice", symbols=["AAA"], max_bytes=1)[0]["next"]
    archived.write_bytes(orjson.dumps({**known, "complete": last.seq - 5, "fsynced": last.seq - 5}))
    events = map(orjson.loads, logged.slice(symbols=["AAA"]).splitlines())
    assert max(event["seq"] for event in events) <= last.seq - 5, "what is flushed beyond is not told"
    assert logged.error(op="slice", symbols=["AAA"], max_bytes=1, next=token)[0] == "changed"


def test_next_when_it_is_not_ours_or_of_another_slice_then_is_refused(logged: Logged) -> None:
    token = logged.ask(op="slice", symbols=["AAA"], max_bytes=1)[0]["next"]
    for wrong in ("x", "AAAA", token[:-8], token[8:], "W10=", token[::-1]):
        assert logged.error(op="slice", symbols=["AAA"], next=wrong)[0] == "bad_value"
    code, message = logged.error(op="slice", symbols=["BBB"], next=token)
    assert (code, "another slice" in message) == ("bad_value", True)


@pytest.mark.parametrize("format_", ["json", "raw"])
def test_slice_when_any_bit_of_a_sealed_file_is_flipped_then_an_error_names_the_place(
    logged: Logged, random: Random, format_: str
) -> None:
    paths = [path for path in logged.storage.rglob("*") if path.suffix in (".bz2", ".zst")]
    whole = logged.slice(symbols=["AAA", "BBB"], format=format_)
    for _ in range(10):
        path = random.choice(paths)
        data = bytearray(path.read_bytes())
        place = random.randrange(len(data))
        data[place] ^= 1 << random.randrange(8)
        kept = path.read_bytes()
        path.write_bytes(data)
        logged.answers = Answers(logged.storage)
        code, message = logged.error(op="slice", symbols=["AAA", "BBB"], format=format_)
        assert (code, str(path) in message, "offset" in message) == ("corrupt", True, True)
        path.write_bytes(kept)
    assert logged.slice(symbols=["AAA", "BBB"], format=format_) == whole


def as_event(gap: dict[str, Any]) -> dict[str, Any]:
    """A gap event as it was live: it does not know yet that a run will supersede it."""
    if gap["state"] != "superseded":
        return gap
    return {key: value for key, value in gap.items() if key != "superseded_by"} | {"state": "open", "ts_to": None}


def test_gaps_and_coverage_equal_what_the_events_tell(logged: Logged, random: Random) -> None:
    symbols = ["AAA", "BBB"]
    for _ in range(2):  # the second time files are sealed, and the past is known from before
        events = [event for _, event, _ in bodies(logged.whole(symbols))]
        gaps = [event for event in events if event["channel"] == "gap"]
        told = logged.ask(op="gaps", symbols=symbols)[0]["gaps"]
        key = lambda gap: (gap["seq"], gap["symbol"], gap.get("part", 0))  # noqa: E731
        assert [as_event(gap) for gap in told] == sorted(gaps, key=key)
        trades = logged.ask(op="gaps", symbols=symbols, channels=["trade"])[0]["gaps"]
        assert trades == [gap for gap in told if "trade" in gap["channels"]]
        intervals = logged.ask(op="coverage", symbols=symbols)[0]["coverage"]
        counted = Counter({(each["symbol"], each["channel"]): 0 for each in intervals})
        for each in intervals:
            counted[each["symbol"], each["channel"]] += each["events"]
            assert each["whole"] == ("proven" if each["channel"] in ("trade", "agg_trade", "book") else "unverifiable")
            assert each["start"] <= each["end"] and each["first_seq"] <= each["last_seq"]
            assert each["bytes"] != 0  # None where there are no tables yet
        assert counted == Counter((event["symbol"], event["channel"]) for event in events if event["channel"] != "gap")
        logged.seal()
    assert logged.ask(op="coverage", symbols=symbols, end=logged.log.records[0].ts_recv)[0]["coverage"] == []


def test_plan_and_chunk_bring_the_tables_verbatim(logged: Logged, random: Random) -> None:
    logged.seal()
    last = logged.log.records[-1].seq
    plan, _ = logged.ask(op="plan", symbols=["AAA", "BBB"], channels=["trade", "book"])
    assert (plan["after"], plan["to"]) == (0, last)
    for symbol in ("AAA", "BBB"):
        covers = {tuple(file["covers"]) for file in plan["files"] if file["symbol"] == symbol}
        tails = [(tail["after"] + 1, tail["to"]) for tail in plan["tails"] if tail["symbol"] == symbol]
        parts = sorted([*covers, *tails])
        assert all(one[1] < other[0] for one, other in pairwise(parts)), "each number lies in one part"
        assert parts[-1][1] == last
    for file in plan["files"]:
        asked = {"op": "chunk", "token": file["token"], "sha256": file["sha256"], "bytes": random.randrange(1, 5_000)}
        data = b""
        while len(data) < file["bytes"]:
            header, (part,) = logged.ask(**asked, offset=len(data))
            assert (header["offset"], header["bytes"], header["size"]) == (len(data), len(part), file["bytes"])
            data += part
        assert data == next(logged.storage.rglob(file["file"])).read_bytes()
        assert logged.error(**{**asked, "sha256": "0" * 64}, offset=0)[0] == "changed"
        assert logged.error(**asked, offset=1 << 40)[0] == "bad_value"
        assert logged.error(**{**asked, "token": "../../etc/passwd"}, offset=0)[0] == "bad_value"
        next(logged.storage.rglob(file["file"])).unlink()
        assert logged.error(**asked, offset=0)[0] == "changed"


def test_answers_when_names_are_unknown_then_say_which_there_are(logged: Logged) -> None:
    assert logged.ask(op="symbols")[0]["symbols"] == ["AAA", "BBB"]
    assert logged.ask(op="instruments")[0]["instruments"] == []
    (exchange,) = logged.answers.answer(b'{"op":"exchanges","id":"x"}')
    assert orjson.loads(exchange)["exchanges"][0]["complete"] == logged.log.records[-1].seq
    assert orjson.loads(exchange)["id"] == "x"
    for symbol in ("../AAA", "..", "_", "/etc/passwd", "aaa", "A\x00", "AAA/2023-11", "%2e%2e"):
        code, message = logged.error(op="slice", symbols=[symbol])
        assert code == "unknown_symbol" and "`symbols`" in message
    assert "did you mean AAA?" in logged.error(op="book", symbol="AAAA")[1]
    assert logged.error(op="symbols", exchange="../binance")[0] == "unknown_exchange"
    assert logged.error(op="symbols", exchange="okx") == (
        "unknown_exchange",
        "no archive of exchange 'okx' here: there are binance",
    )
