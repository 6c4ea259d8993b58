"""A book that stays crossed is a loss: a gap record, and a new book."""

from itertools import pairwise

import pytest

from common import exchanges
from common.book import crossed
from common.crossing import AGAIN_S, CROSSED_S, Crossing
from common.events import Action
from common.record import decode
from tests.coinbase_run import Run
from tests.test_book import records

SYMBOL = "btcusd"


def crossed_run() -> tuple[Run, Crossing]:
    """The recorder of the case, at its end, with what looks for crossed books."""
    run = Run("bitstamp", SYMBOL)
    for line in records("crossed-book-bitstamp.jsonl")[2:]:
        record = decode(line)
        if record.kind == "rest":
            run.record("rest", head=dict(record.head), payload=record.payload, channel="book", symbol=SYMBOL)
        else:
            run.frames(1, record.payload or b"")
    run.actions()
    return run, Crossing(run.adapter, run.normaliser, run.recorder, lambda: run.next * 10)


def look(crossing: Crossing, begin: float, end: float) -> None:
    for quarter in range(int(begin * 4), int(end * 4)):
        crossing.tick(quarter / 4)


def test_a_book_that_stays_crossed_is_a_gap_and_is_asked_for_anew() -> None:
    run, crossing = crossed_run()
    assert crossed(run.normaliser.symbols[SYMBOL].sync.book)
    look(crossing, 100, 100 + CROSSED_S)
    assert run.frames(1) == [] and run.actions() == [], "not at once"
    look(crossing, 100 + CROSSED_S, 110)
    (gap,) = run.frames(1)
    assert (gap["channel"], gap["state"], gap["reason"], gap["channels"]) == ("gap", "open", "crossed", ["book"])
    assert run.actions() == [Action("snapshot", "book", SYMBOL)]
    assert decode(run.lines[-1]).kind == "gap" and not run.normaliser.symbols[SYMBOL].sync.synced
    look(crossing, 110, 200)
    assert run.frames(1) == [], "the lost book is told of once"


def test_a_gap_of_a_crossed_book_ends_with_the_new_book_and_is_the_same_out_of_the_records() -> None:
    run, crossing = crossed_run()
    look(crossing, 100, 110)
    before = run.frames(1)
    fresh = b'{"microtimestamp":"1790000000000000","bids":[["1","1"]],"asks":[["2","1"]]}'
    head = {"url": "/api/v2/order_book/btcusd/?group=1", "status": 200, "subscribed": 1}
    after = run.record("rest", head=head, payload=fresh, channel="book", symbol=SYMBOL)
    assert [(event["channel"], event.get("state")) for event in after] == [("book", None), ("gap", "closed")]
    look(crossing, 110, 150)
    assert run.frames(1) == [] and not crossed(run.normaliser.symbols[SYMBOL].sync.book)
    again = Run("bitstamp", SYMBOL).normaliser
    events = [event for line in run.lines for _, event in again.record(decode(line))]
    assert events[-len(before + after) :] == before + after


def test_a_book_that_is_crossed_anew_is_told_of_ever_more_rarely() -> None:
    """In an auction a book is crossed by right."""
    run, crossing = crossed_run()
    answer = next(decode(line) for line in run.lines if decode(line).kind == "rest")
    head, told = {**answer.head, "subscribed": 1}, []
    for quarter in range(400, 400 + 4 * 600):
        crossing.tick(quarter / 4)
        if [event for event in run.frames(1) if event["channel"] == "gap"]:
            told.append(quarter / 4)
            run.record("rest", head=head, payload=answer.payload, channel="book", symbol=SYMBOL)
            number = 1_790_000_000_000_000 + quarter
            run.frames(1, delta(number, "18250.00"), delta(number + 1, "18251.00"))
            run.normaliser.symbols[SYMBOL].sync.book.apply([("99999", "1")], [])
    pauses = [later - earlier for earlier, later in pairwise(told)]
    assert 3 <= len(told) <= 6 and pauses == sorted(pauses) and pauses[0] >= AGAIN_S


def delta(number: int, price: str) -> bytes:
    return (
        b'{"event":"data","channel":"diff_order_book_btcusd","data":{"microtimestamp":"%d","bids":[["%b","1"]],"asks":[]}}'
        % (number, price.encode())
    )


@pytest.mark.parametrize("exchange", ["binance", "okx", "kraken"])
def test_books_that_ids_or_a_checksum_prove_are_not_looked_at(exchange: str) -> None:
    adapter = exchanges.get(exchange)
    run = Run("bitstamp", SYMBOL)
    crossing = Crossing(adapter, run.normaliser, run.recorder, lambda: 1)
    run.normaliser.symbols[SYMBOL].sync.id = 1
    run.normaliser.symbols[SYMBOL].sync.book.replace([("2", "1")], [("1", "1")])
    look(crossing, 0, 60)
    assert run.frames(1) == []
