"""A stream that comes on another connection than before, without a word: the topic goes over to it."""

import orjson

from common.events import body
from common.normaliser import Normaliser
from common.record import Record
from tests.simulated_processes import ADAPTER

SECOND = 10**9
START = Record(
    1, 0, "start", None, None, None, {"last": 0}, b'{"subscriptions":{"symbols":["AAA"],"channels":["trade"]}}'
)


def trade(seq: int, conn: int, id_: int, at_s: float) -> Record:
    data = {"e": "trade", "s": "AAA", "t": id_, "p": "1", "q": "1", "T": 1, "m": True}
    return Record(seq, int(at_s * SECOND), "in", conn, "trade", "AAA", {}, orjson.dumps({"data": data}))


def close(seq: int, conn: int) -> Record:
    return Record(seq, 20 * SECOND, "close", conn, None, None, {}, None)


def ids(records: list[Record]) -> list[str]:
    normaliser = Normaliser(ADAPTER)
    events = [orjson.loads(body(message)) for record in records for message in normaliser.messages(record)]
    return [event["id"] if event["channel"] == "trade" else event["state"] for event in events]


def test_a_stream_when_another_connection_alone_delivers_it_then_that_one_is_followed() -> None:
    moved = [trade(3 + place, 2, 11 + place, place) for place in range(8)]
    assert ids([START, trade(2, 1, 10, 0), *moved]) == [str(each) for each in range(10, 19)]


def test_a_stream_when_both_deliver_it_then_the_first_stays_followed() -> None:
    records = [START, trade(2, 1, 10, 0)]
    for place in range(1, 20):
        records += [trade(2 * place + 1, 2, 10 + place, place), trade(2 * place + 2, 1, 10 + place, place + 0.01)]
    assert ids([*records, close(50, 2)]) == [str(each) for each in range(10, 30)]


def test_a_connection_when_it_ends_then_trades_that_it_alone_brought_are_told() -> None:
    records = [START, trade(2, 1, 10, 0), trade(3, 2, 11, 1), trade(4, 2, 12, 1), close(5, 2)]
    assert ids([*records, trade(6, 1, 11, 2), trade(7, 1, 13, 2), close(8, 1)]) == ["10", "11", "12", "13", "open"]
