"""Records of the kind `event`: events without frames go the way of all others, and are never said to be proven."""

from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import Client
from common.event_record import FIELDS, read
from common.events import Event, body
from common.exchanges import get
from common.normaliser import Normaliser
from common.record import Record, decode, encode
from common.tables import table
from common.verify import verify
from tests.archives import FIRST, FIRST_TS, HOUR_NS, Archive, trade

SEED = 7
TRADE = {"ts_event": 1, "id": "7", "price": "61837.64", "amount": "0.001", "side": "buy"}
BOOK = {"ts_event": None, "type": "snapshot", "bids": [["1.0", "2"]], "asks": [["1.1", "3"], ["1.2", "0"]]}
values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(max_size=3), st.sampled_from(["1.5", "buy"]),
    st.lists(st.lists(st.sampled_from(["1", "0", "x", 1]), max_size=3), max_size=2),
)  # fmt: skip


def start(seq: int, channels: list[str]) -> bytes:
    payload = orjson.dumps({"subscriptions": {"symbols": ["BTCUSDT"], "channels": channels}})
    return encode(seq, FIRST_TS, "start", head={"last": 0 if seq == FIRST else seq - 1}, payload=payload)


def told(seq: int, data: dict[str, Any], ts: int = FIRST_TS, channel: str = "trade") -> bytes:
    return encode(seq, ts, "event", channel=channel, symbol="BTCUSDT", payload=orjson.dumps(data))


def market(random: Random, first: int, count: int, hours: int = 2) -> list[bytes]:
    """Trades and a book over some hours; each hour begins with a checkpoint."""
    lines, normaliser = [start(first, ["trade", "book"])], Normaliser(get("binance"))
    hour = -1
    normaliser.record(decode(lines[0]))
    for index in range(count):
        ts = FIRST_TS + index * hours * HOUR_NS // count
        if ts // HOUR_NS != hour:
            hour = ts // HOUR_NS
            payload = normaliser.checkpoint("BTCUSDT")
            lines.append(encode(first + len(lines), ts, "checkpoint", symbol="BTCUSDT", payload=payload))
            lines.append(encode(first + len(lines), ts, "checkpoint", payload=orjson.dumps({"run": first})))
        sides = [[[str(random.randrange(9)), str(random.randrange(3))]] for _ in range(2)]
        book = {"ts_event": ts - 5, "type": "delta" if index else "snapshot", "bids": sides[0], "asks": sides[1]}
        data, channel = (({**TRADE, "id": str(index)}, "trade"), (book, "book"))[index % 2 == 0]
        lines.append(told(first + len(lines), data, ts, channel))
        normaliser.record(decode(lines[-1]))
    return lines


def events_of(records: list[Record]) -> list[Event]:
    normaliser = Normaliser(get("binance"), ["BTCUSDT"])
    messages = normaliser.all_messages(records)
    assert not normaliser.errors
    return [orjson.loads(body(message)) for message in messages]


def test_a_record_of_a_trade_when_normalised_then_is_that_event_with_its_numbers() -> None:
    lines = [start(1, ["trade", "book"]), told(2, TRADE), told(3, {**TRADE, "note": "kept, and passed over"})]
    head = {"exchange": "binance", "channel": "trade", "symbol": "BTCUSDT"}
    numbers = [{"seq": 2, "prev": 1, "ts_recv": FIRST_TS}, {"seq": 3, "prev": 2, "ts_recv": FIRST_TS}]
    assert events_of([decode(line) for line in lines]) == [{**head, **each, **TRADE} for each in numbers]


def test_a_delta_when_no_snapshot_stands_before_it_then_gives_nothing() -> None:
    delta = {**BOOK, "type": "delta"}
    lines = [start(1, ["book"]), *(told(seq, each, channel="book") for seq, each in enumerate((delta, BOOK, delta), 2))]
    assert [event["seq"] for event in events_of([decode(line) for line in lines])] == [3, 4]


def test_a_gap_of_the_run_before_when_events_are_told_again_then_ends_with_the_first_that_counts() -> None:
    owed = {"ts": 5, "topics": {"BTCUSDT": {"trade": None, "book": None}}}
    payload = orjson.dumps({"subscriptions": {"symbols": ["BTCUSDT"], "channels": ["trade", "book"]}, "owed": owed})
    lines = [encode(1, FIRST_TS, "start", head={"last": 0}, payload=payload), told(2, TRADE)]
    lines += [told(seq, {**BOOK, "type": kind}, channel="book") for seq, kind in ((3, "delta"), (4, "snapshot"))]
    found = events_of([decode(line) for line in lines])
    in_short = [(each["seq"], each["channel"], each.get("state"), *each.get("channels", ())) for each in found]
    assert in_short == [
        (1, "gap", "open", "trade"), (1, "gap", "open", "book"),
        (2, "gap", "closed", "trade"), (2, "trade", None),
        (4, "book", None), (4, "gap", "closed", "book"),
    ]  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from([*FIELDS, *FIELDS, "gap", "instrument", "heartbeat", "x", None]), st.data())
def test_whatever_such_a_record_holds_then_it_gives_nothing_or_an_event_that_a_table_takes(
    channel: str | None, data: st.DataObject
) -> None:
    names = st.sampled_from([*FIELDS.get(channel or "", TRADE), "ts_event", "bids", "asks", "seq", "x"])
    said = data.draw(st.one_of(st.dictionaries(names, values), values))
    if type(said) is dict:
        said = {**dict.fromkeys(FIELDS.get(channel or "", {})), **(BOOK if channel == "book" else TRADE), **said}
    payload = data.draw(st.sampled_from([orjson.dumps(said) if _fits(said) else b"{", b"", b"[1", b"\xff"]))
    line = encode(2, 1, "event", channel=channel, symbol="BTCUSDT", payload=payload)
    lines = [start(1, [*FIELDS]), told(2, BOOK, channel="book"), line.replace(b'{"seq":2', b'{"seq":3')]
    events = events_of([decode(line) for line in lines])
    assert len(events) == 1 + (read(channel, payload) is not None)
    for event in events[1:]:
        assert event["channel"] == channel and channel in FIELDS
        assert table(channel, [event]).num_rows


def _fits(value: object) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


def test_told_events_when_read_from_any_checkpoint_on_then_are_those_of_the_whole() -> None:
    records = [decode(line) for line in market(Random(SEED), FIRST, 300, hours=5)]
    whole = events_of(records)
    places = [place for place, record in enumerate(records) if record.kind == "checkpoint" and record.symbol]
    assert len(places) == 5
    for place in places:
        assert events_of(records[place:]) == [event for event in whole if event["seq"] > records[place].seq]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """A run of two hours that was told, sealed; then one of captured trades."""
    archive = Archive(tmp_path)
    lines = market(Random(SEED), FIRST, 400)
    archive.writer.hole(FIRST, 0)
    archive.take(lines)
    first = FIRST + len(lines)
    now = FIRST_TS + 2 * HOUR_NS
    archive.take([start(first, ["trade"]), encode(first + 1, now, "checkpoint", symbol="BTCUSDT", payload=b"{}")])
    archive.take([trade(first + 2 + index, now + index, trade_id=1 + index) for index in range(50)])
    archive.close()
    return archive


def test_an_archive_of_told_events_when_read_then_slices_books_and_tables_are_what_was_told(archive: Archive) -> None:
    client = Client(storage=archive.storage)
    lines = market(Random(SEED), FIRST, 400)
    records = [decode(line) for line in lines]
    whole = events_of(records)
    end = FIRST_TS + 2 * HOUR_NS
    assert list(client.slice("binance", "BTCUSDT", ["trade", "book"], start=0, end=end).events()) == whole
    assert client.slice("binance", "BTCUSDT", "trade", start=0, end=end).to_arrow().num_rows == 200
    assert [event["channel"] for event in whole].count("book") == 200
    at = records[301]
    normaliser = Normaliser(get("binance"), ["BTCUSDT"])
    normaliser.all_messages(records[:302])
    book = client.book("binance", "BTCUSDT", at=at.ts_recv)
    bids, asks = normaliser.symbols["BTCUSDT"].sync.book.top()
    assert (book["bids"], book["asks"]) == ([list(each) for each in bids], [list(each) for each in asks])
    assert archive.files(".book.parquet")
    assert verify(archive.directory, 1).is_whole


def test_coverage_when_events_were_told_then_says_that_nothing_proves_them_and_keeps_captured_ones_apart(
    archive: Archive,
) -> None:
    found = Client(storage=archive.storage).coverage("binance", "BTCUSDT", ["trade"])
    assert [(each["events"], each["whole"]) for each in found] == [(200, "unverifiable"), (50, "proven")]


@pytest.mark.parametrize("place", [{"channel": ["trade"]}, {"symbol": ["BTCUSDT"]}, {"symbol": None}, {"channel": 1}])
def test_a_record_that_is_filed_under_no_text_then_gives_nothing(place: dict[str, Any]) -> None:
    head = {"channel": "trade", "symbol": "BTCUSDT", **place}
    line = encode(2, 1, "event", head=head, payload=orjson.dumps(TRADE))
    assert events_of([decode(start(1, ["trade"])), decode(line)]) == []
