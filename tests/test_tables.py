"""Tables: every event is a row (a book event a row for each level) that tells all of it but the digits."""

from collections.abc import Iterable
from functools import partial
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.normalise import RECORDING, record_lines
from common import exchanges
from common.adapter import version
from common.archive import ArchiveWriter
from common.book import Book
from common.disk import Disk
from common.normaliser import Normaliser
from common.process import boot_id
from common.record import decode, encode, seq_of
from common.sealing import seal
from common.storage import encode_symbol, sealed_lines
from common.table_proof import prove_tables
from common.tables import COLUMNS, NUMBER, inexact, table
from common.tabling import tabulate
from common.verify import verify
from tests.record_logs import ADAPTER, Log
from tests.test_reader import Recording, a_log

NORMALISER = version(exchanges.get("binance"))

Event = dict[str, Any]
HEAD = {"exchange": "binance", "symbol": "BTCUSDT", "seq": 7, "prev": 5, "ts_event": 3, "ts_recv": 4}


def floated(event: Event) -> Event:
    """An event whose digits are numbers."""
    found = dict(event)
    for name, value in event.items():
        if COLUMNS[event["channel"]].get(name) == NUMBER:
            found[name] = float(value)
        if name in ("bids", "asks"):
            found[name] = [[float(price), float(amount)] for price, amount in value]
    return found


def events_of(made: pa.Table, exchange: str, channel: str) -> list[Event]:
    """The events of a table, without what they do not carry."""
    rows = made.to_pylist()
    found = []
    for _, group in groupby(
        rows, lambda row: (row["seq"], row["part"], row["derived"]) if "derived" in row else id(row)
    ):
        levels = list(group)
        event = {"exchange": exchange, "channel": channel, **levels[0]}
        if channel == "book":
            for side in ("bid", "ask"):
                own = [row for row in levels if row["side"] == side]
                event[side + "s"] = [[row["price"], row["amount"]] for row in own]
            for name in ("side", "price", "amount"):
                del event[name]
        if event["of"] == 1:
            del event["part"], event["of"]
        kept = ("ts_event", "ts_from", "ts_to")
        found.append({key: value for key, value in event.items() if value is not None or (key in kept)})
    return found


def without_nulls(event: Event) -> Event:
    return {key: value for key, value in event.items() if value is not None or key in ("ts_event", "ts_from", "ts_to")}


def tables_of(directory: Path) -> list[tuple[dict[str, Any], dict[str, pa.Table]]]:
    """The manifest lines of sealed files that have tables, with those, by their numbers."""
    found = []
    for manifest in sorted(directory.glob("*/*/manifest.jsonl")):
        for line in sealed_lines(Disk(), manifest.parent).values():
            if "tables" in line:
                read = {
                    channel: pq.read_table(manifest.parent / facts["file"]) for channel, facts in line["tables"].items()
                }
                found.append((line, read))
    return sorted(found, key=lambda item: (item[0]["symbol"], item[0]["covers"]))


# -- one table -----------------------------------------------------------------------------------------------------

TRADE = {"id": "123456789012345678901234567", "price": "61837.64000000", "amount": "0.00100000", "side": "buy"}
LEVELS = {"bids": [["1.5", "2"], ["1.4", "0"]], "asks": [["1.6", "3.25"]]}
EVENTS: dict[str, list[Event]] = {
    "trade": [TRADE, {**TRADE, "late": True, "gap": 12, "part": 0, "of": 2}, {**TRADE, "type": "block"}],
    "agg_trade": [{**TRADE, "first_id": "1", "last_id": "2"}],
    "book": [
        {"type": "snapshot", **LEVELS, "last_id": "9", "part": 0, "of": 2},
        {"type": "delta", **LEVELS, "first_id": "8", "last_id": "9", "prev_id": "7", "part": 1, "of": 2},
        {"type": "delta", **LEVELS, "last_id": "9", "checksum": -5, "seq": 8},
        {"type": "delta", "bids": [], "asks": [], "first_id": "8", "last_id": "9", "seq": 9},
        {"type": "delta", "bids": [], "asks": [["1", "2"]], "first_id": "8", "last_id": "9", "seq": 10},
        {"type": "delta", "bids": [["1", "2"]], "asks": [], "first_id": "8", "last_id": "9", "seq": 11},
    ],
    "quote": [{"bid_price": "1", "bid_amount": "2", "ask_price": "3", "ask_amount": "4"}],
    "ticker": [dict.fromkeys(("last", "open", "high", "low", "volume", "quote_volume"), "1.25")],
    "candle": [
        {
            "interval": "1m", "open_ts": 1, "close_ts": 2, "open": "1", "high": "2", "low": "0.5", "close": "1.5",
            "volume": "3", "quote_volume": "4", "trades": 17, "closed": closed,
        }
        for closed in (False, True)
    ],
    "funding": [{"rate": "-0.0001", "predicted_rate": "0.0001", "next_ts": 5}],
    "mark": [{"mark_price": "1.5", "index_price": "1.25"}],
    "open_interest": [{"open_interest": "12.5"}],
    "liquidation": [TRADE],
    "instrument": [
        {
            "base": "BTC", "quote": "USDT", "settle": "USDT", "type": "option", "expiry": 9, "strike": "5",
            "option_type": "call", "contract_size": "1", "tick_size": "0.5", "lot_size": "1", "status": "live",
            "name": "BTC-USDT-20261225",
        }
    ],
    "gap": [
        {
            "gap": 3, "state": "open", "reason": "sequence", "channels": ["trade"], "first_id": "1", "last_id": "2",
            "ts_from": None, "ts_to": None,
        },
        {
            "gap": 3, "state": "closed", "reason": "dropped", "channels": ["trade", "book"], "first_seq": 1,
            "last_seq": 2, "ts_from": 1, "ts_to": 2,
        },
    ],
}  # fmt: skip


@pytest.mark.parametrize("channel", sorted(COLUMNS))
def test_table_of_every_channel_tells_the_whole_event(channel: str) -> None:
    events = [{**HEAD, "channel": channel, **fields} for fields in EVENTS[channel]]
    made = table(channel, events)
    assert events_of(made, "binance", channel) == [floated(event) for event in events]
    assert inexact(made) == 0
    assert made.schema.names == list(COLUMNS[channel])
    assert table(channel, []).schema.equals(made.schema)


def trades(*prices: Any) -> list[Event]:
    return [{**HEAD, "channel": "trade", **TRADE, "price": price} for price in prices]


def test_table_counts_the_values_that_a_float_does_not_carry_exactly() -> None:
    exact = ["0.1", "61837.64000000", "1e-7", "123456789012345", "12345678901234.50000000", "0.30000000000000004"]
    made = table("trade", trades(*exact))
    assert (inexact(made), made["price"].to_pylist()) == (0, [float(price) for price in exact])
    rounded = ["0.1234567890123456789", "9007199254740993", "1e-400", "1.000000000000000000001"]
    made = table("trade", trades("0.1", *rounded))
    assert (inexact(made), made["price"].to_pylist()[1:]) == (4, [float(price) for price in rounded])


def test_table_when_a_value_is_no_number_then_it_is_null_and_counted_and_its_neighbours_are_as_ever() -> None:
    made = table("trade", trades("1.5", "abc", "", "nan", "inf", "1e999", None, "-0", "2.5"))
    assert made["price"].to_pylist() == [1.5, None, None, None, None, None, None, 0.0, 2.5]
    assert inexact(made) == 5
    made = table("trade", [{**event, "ts_event": 1 << 64} for event in trades("1")])
    assert (made["ts_event"].to_pylist(), inexact(made)) == ([None], 1)


def test_table_when_an_event_carries_what_has_no_column_then_it_is_refused() -> None:
    with pytest.raises(ValueError, match="carry colour: there is no column"):
        table("trade", [{**trades("1")[0], "colour": "red"}])
    with pytest.raises(ValueError, match="levels"):
        table("book", [{**HEAD, "channel": "book", "type": "delta", "bids": [["1", "2", "3"]], "asks": []}])


def test_table_of_several_symbols_holds_each() -> None:
    events = [{**event, "symbol": symbol} for symbol in ("BTCUSDT", "币安人生USDT", "BTCUSDT") for event in trades("1")]
    assert table("trade", events)["symbol"].to_pylist() == ["BTCUSDT", "币安人生USDT", "BTCUSDT"]


# -- the tables of an archive --------------------------------------------------------------------------------------


def assert_tables(directory: Path, messages: Iterable[tuple[int, list[bytes]]]) -> int:
    """All tables together hold what was live, each event in the one file that covers its number. Returns their rows."""
    live: dict[tuple[str, str], list[Event]] = {}
    for _, found in messages:
        for event in [orjson.loads(message.partition(b" ")[2]) for message in found]:
            live.setdefault((event["symbol"], event["channel"]), []).append(event)
    rows, ends = 0, dict[str, int]()
    for line, tables in tables_of(directory):
        symbol, (first, last) = line["symbol"], line["covers"]
        assert first == ends.get(symbol, 0) + 1
        ends[symbol] = last
        for channel in {*(channel for name, channel in live if name == symbol), *tables}:
            expected = [event for event in live.get((symbol, channel), []) if first <= event["seq"] <= last]
            assert line["events"].get(channel, 0) == len(expected)
            assert bool(expected) == (channel in tables)
            if not expected:
                continue
            made, facts = tables[channel], line["tables"][channel]
            found_events = events_of(made, "binance", channel)
            if channel == "book":
                before = [event for event in live[symbol, "book"] if event["seq"] < first]
                found_events = assert_derived(found_events, before, line["gaps"])
            assert found_events == [without_nulls(floated(event)) for event in expected]
            assert (facts["rows"], facts["events"]) == (made.num_rows, len(expected))
            assert facts["seq"] == [expected[0]["seq"], expected[-1]["seq"]]
            stamps = [event["ts_recv"] for event in expected]
            assert facts["ts_recv"] == [min(stamps), max(stamps)]
            rows += made.num_rows
        gaps = [event for event in live.get((symbol, "gap"), []) if first <= event["seq"] <= last]
        assert line["gaps"] == gaps
    return rows


def assert_derived(events: list[Event], before: list[Event], gaps: list[Event]) -> list[Event]:
    """The book before is that which the events before it give; returns the others."""
    if not events[0].get("derived"):
        return events
    snapshot, *others = events
    assert not any("derived" in event for event in others)
    book = Book()
    for event in before:
        (book.replace if event["type"] == "snapshot" else book.apply)(event["bids"], event["asks"])
    bids, asks = ([[float(price), float(amount)] for price, amount in side] for side in book.top())
    assert (snapshot["bids"], snapshot["asks"]) == (bids, asks)
    assert (snapshot["seq"], snapshot["ts_recv"]) == (before[-1]["seq"], before[-1]["ts_recv"])
    assert snapshot["last_id"] == before[-1]["last_id"]
    return others


class TableRecording(Recording):
    """Seals with tables."""

    def seal(self) -> None:
        for path in self.writer.sealable():
            seal(Disk(), path, self.codec, 3, 2000, NORMALISER, partial(tabulate, adapter=ADAPTER))


@pytest.mark.parametrize("seed", range(12))
def test_tables_of_any_log_hold_what_was_live(seed: int, tmp_path: Path) -> None:
    log, random = a_log(seed), Random(seed)
    recording = TableRecording(tmp_path, log, random.choice(["bz2", "zstd"]))
    while recording.done < len(log.lines):
        recording.take(random.randrange(1, 120))
        if random.random() < 0.7:
            recording.seal()
    recording.seal()
    recording.writer.close()
    messages = [(record.seq, found) for record, found in zip(log.records, log.messages, strict=True)]
    rows = assert_tables(tmp_path / "binance", messages)
    proof = prove_tables(tmp_path / "binance", 2, lambda done, files: None)
    assert (proof.findings, proof.notes, proof.stale, proof.missing) == ([], [], 0, 0)
    assert proof.files > 0
    print(f"{rows} rows in {proof.files} files' tables")


def renamed(symbol: str, data: bytes) -> bytes:
    return data.replace(b"AAA", symbol.encode())


def test_tables_when_the_symbol_is_not_ascii_then_they_are_found_and_proved(tmp_path: Path) -> None:
    symbol, log = "币安/人生.USDT", Log(3, 300, step_ns=60 * 10**9)
    log.lines[:] = [renamed(symbol, line) for line in log.lines]
    recording = TableRecording(tmp_path, log)
    recording.take(len(log.lines))
    recording.seal()
    recording.writer.close()
    mine = [(line, tables) for line, tables in tables_of(tmp_path / "binance") if line["symbol"] == symbol]
    assert mine
    assert all(set(made["symbol"].to_pylist()) == {symbol} for _, tables in mine for made in tables.values())
    assert list((tmp_path / "binance" / encode_symbol(symbol)).glob("*/*.parquet"))
    proof = prove_tables(tmp_path / "binance", 1, lambda done, files: None)
    assert (proof.findings, proof.notes) == ([], [])
    assert proof.files >= len(mine)


def test_sealing_waits_until_the_next_files_first_record_is_synced(tmp_path: Path) -> None:
    """Else it could not know what its tables cover."""
    log = a_log(1)
    writer = ArchiveWriter(Disk(), tmp_path / "binance", boot_id=boot_id(), rotate_min_bytes=1)
    writer.open(None)
    for line in log.lines:
        record = decode(line)
        if record.kind == "start":
            writer.hole(record.seq, record.head["last"] if record.seq > 1002 else 0)
        if writer.turned:
            break
        writer.sync(lambda: None)
        writer.take([line])
    assert writer.turned[0][1] == writer.position
    assert writer.sealable() == []
    writer.sync(lambda: None)
    (path,) = writer.sealable()
    writer.close()
    sealed = seal(Disk(), path, "bz2", 3, 2000, NORMALISER, partial(tabulate, adapter=ADAPTER))
    assert sealed is not None
    assert path.parents[1].name == "_" or sealed["covers"] == [1, writer.position - 1]


def test_tables_of_a_recorded_hour_hold_what_was_live(tmp_path: Path) -> None:
    if not RECORDING.exists():
        pytest.skip(f"no recording at {RECORDING}")
    writer = ArchiveWriter(Disk(), tmp_path / "binance", boot_id=boot_id(), rotate_min_bytes=1)
    writer.open(None)
    writer.hole(1, 0)
    normaliser = Normaliser(ADAPTER)
    lines = record_lines(RECORDING)[:12_000]
    messages = []
    for line in lines:
        work = normaliser.work(line)
        messages.append((seq_of(line), [] if work is None else normaliser.messages(work)))
        normaliser.actions.clear()
    last = decode(lines[-1])
    next_day = last.ts_recv + 86_400 * 10**9
    lines.append(
        encode(last.seq + 1, next_day, "checkpoint", symbol="BTCUSDT", payload=normaliser.checkpoint("BTCUSDT"))
    )
    writer.take(lines)
    writer.sync(lambda: None)
    for path in writer.sealable():
        seal(Disk(), path, "zstd", 3, 900_000, NORMALISER, partial(tabulate, adapter=ADAPTER))
    writer.close()
    assert assert_tables(tmp_path / "binance", messages) > 10_000
    assert verify(tmp_path / "binance", jobs=1).tables == 1
