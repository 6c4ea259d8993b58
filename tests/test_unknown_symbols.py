"""A symbol that there is not costs itself alone: an hour of the feed's connections with what each exchange answers."""

import contextlib
import logging
from collections.abc import Iterator

import orjson
import pytest

from common import exchanges
from tests.test_connection import BINARY, PING, TEXT, frame
from tests.test_standin_refusals import KNOWN
from tests.test_wires import Line

UNKNOWN = {
    "binance-usdm": "NO{}USDT",
    "binance-coinm": "NO{}USD_PERP",
    "kraken": "NO{}/USD",
    "bitstamp": "no{}usd",
    "coinbase": "NO{}-USD",
    "coinbase-advanced": "NO{}-USD",
    "bybit-spot": "NO{}USDT",
    "bybit-linear": "NO{}USDT",
    "bybit-inverse": "NO{}USD",
    "okx": "NO{}-USDT",
    "htx": "no{}usdt",
}
SILENT = ("binance-usdm", "binance-coinm")
STEP_S = 0.05
SOON_S, HOUR_S = 20, 3600


class Hour:
    """Connections of a feed and the exchange at their other ends, second by second."""

    def __init__(self, exchange: str, line: Line, *known: str) -> None:
        self.line, self.dialect = line, exchanges.dialect(exchange)
        self.adapter = exchanges.get(exchange)
        self.sessions = [self.dialect.Session(path, known) for path in line.paths]
        self.seen = self.asked = 0
        self.places = {self.adapter.WS_URL + path: place for place, path in enumerate(line.paths)}
        self.by_conn = {record.conn: self.places[record.head["url"]] for record in line.of("open")}
        self._answer()  # what was asked until now

    def streams(self) -> set[str]:
        return {name for session in self.sessions for name in session.streams}

    def go_on(self, seconds: int) -> None:
        for _ in range(seconds):
            asked = self.asked
            for _ in range(round(1 / STEP_S)):
                self.line.tick()
                self._answer()
            assert self.asked - asked <= self.dialect.MESSAGES_PER_S
            for place, session in enumerate(self.sessions):
                self._say(place, session.beat(round(self.line.now * 1000)))
            if round(self.line.now) % 20 == 0:
                for place, server in enumerate(self.line.servers):
                    self.line.sends(frame(PING, b""), place)
                    with contextlib.suppress(BlockingIOError):
                        server.recv(1 << 20)

    def _answer(self) -> None:
        new, self.seen = self.line.records[self.seen :], len(self.line.records)
        for record in new:
            if record.kind == "out" and "op" not in record.head:
                self.asked += 1
                place = self.by_conn[record.conn]
                self._say(place, self.sessions[place].answer(record.payload or b""))

    def _say(self, place: int, payloads: list[bytes]) -> None:
        for payload in payloads:
            packed = self.dialect.pack(payload)
            self.line.sends(frame(TEXT, payload) if packed is None else frame(BINARY, packed), place)


def streams(exchange: str, symbol: str) -> set[str]:
    adapter = exchanges.get(exchange)
    return set(adapter.streams(symbol, list(adapter.CHANNELS), [adapter.CANDLE_DEFAULT]))


@pytest.fixture(params=UNKNOWN)
def line(request: pytest.FixtureRequest) -> Iterator[tuple[str, Line]]:
    exchange: str = request.param
    adapter = exchanges.get(exchange)
    symbols = (UNKNOWN[exchange].format(1), KNOWN[exchange], *(UNKNOWN[exchange].format(number) for number in (2, 3)))
    settings = {"channels": adapter.CHANNELS, "candle_intervals": (adapter.CANDLE_DEFAULT,)}
    made = Line(exchange, symbols=symbols, silence_s=2.0 * HOUR_S, **settings)
    yield exchange, made
    made.end()


def test_a_wrong_symbol_costs_itself_alone_for_an_hour(
    line: tuple[str, Line], caplog: pytest.LogCaptureFixture
) -> None:
    """Right ones waited minutes for their halves; books were never asked for; OKX ends who asks 480 times an hour."""
    exchange, made = line
    known, unknown = KNOWN[exchange], [UNKNOWN[exchange].format(number) for number in (1, 2, 3)]
    adapter, wanted = exchanges.get(exchange), streams(exchange, known)
    wrong = {name for symbol in unknown for name in streams(exchange, symbol)} - wanted
    count = len({adapter.path(name) for name in wanted})
    for number in range(count):
        made.until(number + 1)
        made.tick(1.0)
    hour = Hour(exchange, made, known)
    with caplog.at_level(logging.WARNING):
        hour.go_on(SOON_S)
        assert hour.streams() == wanted
        assert made.wires.renew_book(known), "all is agreed that will be"
        hour.go_on(HOUR_S - SOON_S)
    assert hour.streams() == wanted and len(made.of("open")) == count and not made.of("close")
    refused = {record.symbol for record in made.of("gap") if b"refused" in (record.payload or b"")}
    if exchange in SILENT:
        assert not refused and not [each for each in caplog.records if each.levelno >= logging.WARNING]
        return
    assert refused >= set(unknown)
    assert {line.split()[1] for line in caplog.messages if " refused: " in line} == wrong
    assert {orjson.loads(record.payload or b"")["stream"] for record in made.of("gap")[-len(wrong) :]} == wrong


def test_streams_that_are_silent_all_the_time_are_asked_for_again_within_what_okx_bears() -> None:
    """One in a second, asked for by itself, is 7,200 requests an hour: at 480 the exchange ends the connection."""
    symbols = tuple(f"A{number}-USDT" for number in range(60))
    made = Line("okx", symbols=symbols, channels=("trade", "quote"), silence_s=2.0 * HOUR_S)
    made.until(1)
    made.tick()
    hour = Hour("okx", made, *symbols)
    hour.go_on(10)
    names = list(hour.streams())
    assert len(names) == 120
    for second in range(HOUR_S):
        made.wires.resubscribe(names[second % len(names)])
        hour.go_on(1)
    made.end()
    assert len(made.of("open")) == 1 and hour.streams() == set(names)
    frames = [
        orjson.loads(record.payload) for record in made.of("out") if record.payload and record.payload[:1] == b"{"
    ]
    assert sum(len(frame["args"]) for frame in frames) > 2 * HOUR_S - 240, "each was left and asked for again"
