"""`normalise` is a function of a symbol's records: whatever is recorded, in whatever order, and wherever one begins."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from common.events import GAP, Event, body
from common.normaliser import Normaliser
from common.record import Record
from tests.record_logs import ADAPTER, CHANNELS, SYMBOLS, Log

logs = st.integers(0, 2**32).map(Log)
many = settings(max_examples=40, deadline=None, derandomize=True)


def normalised(records: Iterable[Record], symbols: Iterable[str] | None = None) -> list[bytes]:
    normaliser = Normaliser(ADAPTER, None if symbols is None else frozenset(symbols))
    messages = normaliser.all_messages(records)
    assert not normaliser.errors
    return messages


def flat(messages: Iterable[list[bytes]]) -> list[bytes]:
    return [message for of_record in messages for message in of_record]


def of_symbol(messages: Iterable[bytes], symbol: str) -> list[bytes]:
    return [message for message in messages if message.partition(b" ")[0].endswith(b"/" + symbol.encode())]


def events_of(log: Log) -> list[Event]:
    return [orjson.loads(body(message)) for message in flat(log.messages)]


@many
@given(logs)
def test_a_symbols_events_are_those_of_its_own_records_and_the_ones_of_no_symbol(log: Log) -> None:
    for symbol in SYMBOLS:
        own = [record for record in log.records if record.symbol in (symbol, None)]
        assert normalised(own, [symbol]) == of_symbol(flat(log.messages), symbol)


@many
@given(logs)
def test_without_any_checkpoint_the_events_are_the_same(log: Log) -> None:
    assert normalised(record for record in log.records if record.kind != "checkpoint") == flat(log.messages)


@many
@given(logs)
def test_from_any_checkpoint_on_the_events_are_the_live_ones(log: Log) -> None:
    for place, record in enumerate(log.records):
        if record.kind == "checkpoint" and record.symbol is not None:
            own = [other for other in log.records[place:] if other.symbol in (record.symbol, None)]
            assert normalised(own, [record.symbol]) == of_symbol(flat(log.messages[place:]), record.symbol)


@many
@given(logs)
def test_a_checkpoint_of_another_version_is_passed_over(log: Log) -> None:
    def aged(record: Record) -> Record:
        if record.kind != "checkpoint" or record.payload is None:
            return record
        return record._replace(payload=record.payload.replace(b'"binance/', b'"binance/9'))

    own = [aged(record) for record in log.records[1:]]
    assert normalised(own) == normalised(record for record in own if record.kind != "checkpoint")


@many
@given(logs)
def test_numbers_of_each_topic_only_grow_and_prev_and_parts_are_exact(log: Log) -> None:
    last: dict[tuple[str, str], int] = {}
    start = 0
    for record, messages in zip(log.records, log.messages, strict=True):
        if record.kind == "start":
            start, last = record.seq, {}
        if record.kind == "subscriptions":  # what is carried of an added symbol begins anew, as at a start
            added = orjson.loads(record.payload or b"")["added"]
            last |= {(channel, symbol): record.seq for symbol in added for channel in (*CHANNELS, GAP)}
        parts: dict[tuple[str, str], list[Event]] = defaultdict(list)
        for event in [orjson.loads(body(message)) for message in messages]:
            parts[event["channel"], event["symbol"]].append(event)
        for topic, events in parts.items():
            for part, event in enumerate(events):
                assert (event["seq"], event["ts_recv"]) == (record.seq, record.ts_recv)
                assert event["prev"] == last.get(topic, start) <= event["seq"]
                assert event["prev"] < event["seq"] or record.kind in ("start", "subscriptions")
                assert (event.get("part", 0), event.get("of", 1)) == (part, len(events))
                assert ("part" in event) == ("of" in event) == (len(events) > 1)
            last[topic] = record.seq


@many
@given(logs)
def test_the_book_that_the_events_give_is_the_exchanges_at_each_of_its_ids(log: Log) -> None:
    books: dict[str, dict[str, str]] = {}
    for event in events_of(log):
        if event["channel"] != "book":
            continue
        levels = dict(event["bids"])
        if event["type"] == "snapshot":
            books[event["symbol"]] = {}
        book = books[event["symbol"]]
        book.update(levels)
        for price in [price for price, amount in levels.items() if float(amount) == 0]:
            del book[price]
        assert book == log.markets[event["symbol"]].books[int(event["last_id"])]
    for symbol, state in log.normaliser.symbols.items():
        if state.sync.synced:
            assert state.sync.book.bids == books[symbol]


@many
@given(logs)
def test_a_gap_is_opened_and_ends_once_unless_it_is_open_still(log: Log) -> None:
    open_gaps: set[tuple[str, int, str]] = set()
    ended: set[tuple[str, int, str]] = set()
    for record, messages in zip(log.records, log.messages, strict=True):
        if record.kind == "start":
            open_gaps = {gap for gap in open_gaps if is_unsubscribed(log, record, gap)}
        for event in [orjson.loads(body(message)) for message in messages]:
            if event["channel"] != GAP:
                continue
            (channel,) = event["channels"]
            gap = (event["symbol"], event["gap"], channel)
            assert gap not in ended and event["gap"] <= record.seq
            if event["state"] == "open":
                open_gaps.add(gap)
            else:
                open_gaps.remove(gap)
                ended.add(gap)
    assert open_gaps == set(still_open(log.normaliser))


def is_unsubscribed(log: Log, start: Record, gap: tuple[str, int, str]) -> bool:
    symbol, number, channel = gap
    away = orjson.loads(start.payload or b"{}")["owed"].get("away", {})
    return number == away.get(symbol, {}).get(channel, {}).get("gap")


def still_open(normaliser: Normaliser) -> Iterator[tuple[str, int, str]]:
    for symbol, topics in normaliser.away.items():
        for channel, topic in topics.items():
            yield symbol, topic.gap, channel
    for symbol, state in normaliser.symbols.items():
        for channel, topic in state.channels.items():
            if topic.gap is not None:
                yield symbol, topic.gap.id, channel
            for miss in topic.missing:
                yield symbol, miss.gap, channel


@many
@given(st.integers(0, 2**32).map(lambda seed: Log(seed, repeats=False)))
def test_a_trade_is_given_once_in_a_run_and_whatever_lies_between_two_is_in_a_gap_that_is_open(log: Log) -> None:
    given: dict[tuple[str, str], set[int]] = defaultdict(set)
    since: dict[str, int] = {}  # by symbol, the first id that counts: what a removal left missing is not fetched
    for record, messages in zip(log.records, log.messages, strict=True):
        if record.kind == "start":
            given.clear()
            since.clear()
        if record.kind == "subscriptions":
            for symbol in orjson.loads(record.payload or b"")["removed"]:
                since[symbol] = log.markets[symbol].trades
        for event in [orjson.loads(body(message)) for message in messages]:
            if event["channel"] in ("trade", "agg_trade"):
                ids = given[event["channel"], event["symbol"]]
                assert int(event["id"]) not in ids, event
                ids.add(int(event["id"]))
    for (channel, symbol), ids in given.items():
        state = log.normaliser.symbols.get(symbol)
        missing = state.channels[channel].missing if state is not None else []
        ids = {number for number in ids if number > since.get(symbol, 0)}
        lost = {number for miss in missing for number in range(miss.next, miss.last + 1)}
        assert not ids or (set(range(min(ids), max(ids) + 1)) - ids <= lost and not ids & lost)


@many
@given(logs)
def test_a_line_read_in_one_go_gives_what_its_record_gives(log: Log) -> None:
    normaliser = Normaliser(ADAPTER)
    assert normaliser.all_messages(map(normaliser.work, log.lines)) == flat(log.messages)
