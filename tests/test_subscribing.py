"""Subscribe frames within the exchange's limits, requests without an answer, and connections that bring no data."""

import contextlib
import time
from collections.abc import Callable
from typing import cast

import orjson
import pytest

from common import exchanges
from common.adapter import Adapter
from tests.test_connection import CLOSE, PING, TEXT, frame
from tests.test_wires import Line, made

__all__ = ["made"]  # the fixture


def served(line: Line, seconds: float, is_answered: Callable[[bytes], bool], *, is_alive: bool = True) -> set[str]:
    """The streams that an exchange has after a time, of a connection whose frames it answers only in part.

    It pings, where it is not alive only a connection that has streams.
    """
    seen, streams, session = 0, set[str](), -1
    for second in range(round(seconds)):
        while not line.wires._open:  # made in a helper thread, which takes its time
            line.tick()
            time.sleep(0.001)
        for _ in range(20):
            line.tick()
            new, seen = line.of("out")[seen:], len(line.of("out"))
            for record in new:
                if record.conn != session:
                    session, streams = record.conn or 0, set()
                payload = record.payload or b""
                if "op" in record.head or not is_answered(payload):
                    continue
                request = orjson.loads(payload)
                changed = streams.update if request["method"] == "SUBSCRIBE" else streams.difference_update
                changed(request["params"])
                line.says({"result": None, "id": request["id"]})
        with contextlib.suppress(BlockingIOError):
            line.servers[-1].recv(1 << 20)  # else its buffer is full at last
        if not line.wires._open:
            continue
        if (is_alive or streams) and second % 10 == 0:
            line.sends(frame(PING, b""))
    return streams


LONG = tuple(f"1000000LONGNAMEDCOIN{number}USDT" for number in range(440))


@pytest.mark.parametrize("exchange", ["binance", "binance-usdm", "okx", "kraken", "coinbase-advanced"])
def test_no_frame_is_longer_than_the_exchange_reads_however_long_the_names(
    made: Callable[..., Line], exchange: str
) -> None:
    """Binance does not answer frames above about 4,088 bytes: 400 of 440 streams were never subscribed."""
    line = made(exchange=exchange, symbols=LONG, channels=("trade",))
    adapter = cast(Adapter, exchanges.get(exchange))
    count = -(-len(LONG) // adapter.STREAMS_PER_CONNECTION)
    line.until(1)
    while len(line.of("open")) < count:
        line.tick(1.0)
    line.tick(60.0)
    sent = [record.payload or b"" for record in line.of("out")]
    assert max(map(len, sent)) <= adapter.SUBSCRIBE_BYTES
    text = b"".join(sent).lower()
    assert all(symbol.lower().encode() in text for symbol in LONG)


def test_four_hundred_long_names_are_all_subscribed_where_longer_frames_have_no_answer(
    made: Callable[..., Line],
) -> None:
    line = made(symbols=LONG, channels=("trade",))
    line.until(1)
    assert len(served(line, 10, lambda payload: len(payload) <= 4_088)) == 440
    assert not line.of("gap")


def test_frames_without_an_answer_are_sent_again_in_halves_until_the_exchange_reads_them(
    made: Callable[..., Line],
) -> None:
    """Their limit is not known: the same frames were sent for ever."""
    line = made(symbols=LONG, channels=("trade",), idle_timeout_s=30.0)
    line.until(1)
    assert len(served(line, 240, lambda payload: len(payload) <= 300)) == 440
    assert not line.of("close")
    assert {record.symbol for record in line.of("gap")} == set(LONG), "what had no answer is a gap until data comes"


def test_one_name_that_gets_no_answer_costs_itself_alone(made: Callable[..., Line]) -> None:
    line = made(symbols=LONG[:100], channels=("trade",), idle_timeout_s=30.0)
    line.until(1)
    bad = f"{LONG[33].lower()}@trade"
    assert served(line, 300, lambda payload: bad.encode() not in payload) == {
        f"{name.lower()}@trade" for name in LONG[:100]
    } - {bad}


def test_a_connection_that_dies_of_too_long_frames_is_made_anew_with_shorter_ones(made: Callable[..., Line]) -> None:
    """Where not even a ping comes, each new connection said the same and was as silent."""
    line = made(symbols=LONG[:100], channels=("trade",), idle_timeout_s=20.0)
    line.until(1)
    found = served(line, 200, lambda payload: len(payload) <= 1_000, is_alive=False)
    assert len(found) == 100 and {record.head["reason"] for record in line.of("close")} == {"silent"}


def test_streams_whose_answer_is_lost_but_whose_data_come_are_not_asked_for_again(made: Callable[..., Line]) -> None:
    line = made(symbols=LONG[:2], channels=("trade",), idle_timeout_s=20.0)
    line.until(1)
    line.tick(1.0)
    for _ in range(5):
        for symbol in LONG[:2]:
            trade = {"e": "trade", "E": 1, "s": symbol, "t": 1, "p": "1", "q": "1", "T": 1, "m": True}
            line.says({"stream": f"{symbol.lower()}@trade", "data": trade})
        line.tick(10.0)
    assert len(line.asked()) == 1 and not line.of("gap")


def test_names_of_one_connection_stay_within_the_characters_that_bybit_allows(made: Callable[..., Line]) -> None:
    symbols = tuple(f"{'X' * 60}{number}USDT" for number in range(400))
    line = made(exchange="bybit-linear", symbols=symbols, channels=("trade",))
    line.until(1)
    while len(line.of("open")) < 2:
        line.tick(1.0)
    line.tick(30.0)
    chars: dict[int | None, int] = {}
    for record in line.of("out"):
        request = orjson.loads(record.payload or b"")
        args = request["args"] if request["op"] == "subscribe" else []
        chars[record.conn] = chars.get(record.conn, 0) + sum(len(arg) + 3 for arg in args)
    assert len(chars) == 2 and max(chars.values()) <= 21_000


@pytest.mark.parametrize("last", [b"", frame(CLOSE, b"\x03\xe9going away")])
def test_what_an_exchange_said_last_is_recorded_though_it_is_gone_when_we_send(
    made: Callable[..., Line], last: bytes
) -> None:
    """A failed send ended the connection with its last frames unread."""
    line = made()
    line.until(1)
    line.servers[-1].sendall(frame(TEXT, b'{"one":1}') + last + frame(TEXT, b'{"two":2}'))
    line.servers[-1].close()
    line.tick(1.0)
    assert [record.payload for record in line.of("in") if "op" not in record.head] == [b'{"one":1}', b'{"two":2}']
    assert line.of("in")[-1].seq < line.of("close")[0].seq


def test_a_connection_that_answers_and_brings_no_data_is_replaced_ever_more_seldom(made: Callable[..., Line]) -> None:
    """Its pongs kept it alive for ever. A market may be that quiet: so each is given twice the time."""
    line = made(symbols=("S1",), channels=("trade",), silence_s=300.0, idle_timeout_s=60.0)
    line.until(1)
    served(line, 62 * 60, lambda _: True)
    closed = [record.head["reason"] for record in line.of("close")]
    assert closed == ["no data"] * 3, "after 6, 18 and 42 minutes"


def test_a_connection_of_liquidations_alone_may_bring_nothing_for_long(made: Callable[..., Line]) -> None:
    line = made(exchange="bybit-linear", symbols=("S1USDT",), channels=("liquidation",))
    line.until(1)
    for _ in range(62 * 6):
        line.tick(10.0)
        for record in line.of("out")[-1:]:
            request = orjson.loads(record.payload or b"")
            line.says({"success": True, "ret_msg": "", "req_id": request["req_id"], "op": request["op"]})
    assert not line.of("close")


def test_a_fresh_connection_that_brings_none_of_what_the_live_one_brings_does_not_take_over(
    made: Callable[..., Line],
) -> None:
    line = made(symbols=("S1",), channels=("trade",), overlap_s=5.0)
    line.until(1)

    def agree() -> None:
        line.tick(1.0)
        line.says({"result": None, "id": line.asked()[-1]["id"]})

    def trade(number: int, place: int) -> None:
        data = {"e": "trade", "E": 1, "s": "S1", "t": number, "p": "1", "q": "1", "T": 1, "m": True}
        line.says({"stream": "s1@trade", "data": data}, place)

    agree()
    trade(1, 0)
    line.says({"e": "serverShutdown", "E": 1})
    line.until(2)
    agree()
    for second in range(20):
        line.tick(1.0)
        trade(2 + second, 0)
    assert not line.of("switch")
    trade(21, 1)
    line.tick(1.0)
    assert line.of("switch")
