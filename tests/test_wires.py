"""The feed's connections: what is asked when, and what becomes of refusals, silence and replacement."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import orjson
import pytest
import websocket

from common import exchanges
from common.adapter import Adapter
from common.config import FeedConfig
from common.connection import Connection
from common.errands import QUIET_S, Errands
from common.journal import Journal
from common.normaliser import Normaliser
from common.record import Record, decode, encode
from common.recorder import Recorder
from common.shards import LET_GO_S
from common.standin_dialect import Rate
from common.wires import Wires
from tests.test_connection import TEXT, frame

DEADLINE_S = 60.0
SYMBOLS = tuple(f"S{number}" for number in range(120))


class Memory:
    """A journal in memory."""

    def __init__(self) -> None:
        self.next = 1

    def append(self, lines: list[bytes]) -> int:
        self.next += len(lines)
        return len(lines)


class Line:
    """Wires whose sockets end here; connections are made when the test says so."""

    def __init__(self, exchange: str = "binance", **settings: Any) -> None:
        self.servers: list[socket.socket] = []
        self.paths: list[str] = []  # that they are at
        self.records: list[Record] = []
        self.greeting = b""
        adapter = cast(Adapter, exchanges.get(exchange))
        config = FeedConfig(**{"symbols": SYMBOLS, "channels": ("trade", "quote"), **settings})
        recorder = Recorder(adapter, Normaliser(adapter), cast(Journal, Memory()), self._publish, lambda message: None)
        self.wires = Wires(adapter, config, recorder, lambda: 1, lambda: None, lambda number, open_: None, 1)
        self.wires._make = self._make  # type: ignore[method-assign]  # the one place where a socket is made
        self.now = 100.0

    def _publish(self, lines: bytes) -> None:
        self.records += map(decode, lines.splitlines())

    def _make(self, path: str) -> websocket.WebSocket:
        server, client = socket.socketpair()
        server.sendall(self.greeting)
        server.setblocking(False)
        self.servers.append(server)
        self.paths.append(path)
        ws = websocket.WebSocket(skip_utf8_validation=True)
        ws.sock, ws.connected = client, True
        return ws

    def tick(self, seconds: float = 0.0) -> None:
        """Time goes on in steps of the feed's tick."""
        for _ in range(max(1, round(seconds / 0.05))):
            self.now += 0.05
            self.wires.tick(self.now)

    def until(self, count: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while len(self.of("open")) < count:  # made in a helper thread
            assert time.monotonic() < deadline, f"{len(self.of('open'))} connections, not {count}"
            self.wires.tick(self.now)

    def says(self, message: Any, place: int = -1) -> None:
        self.sends(frame(TEXT, orjson.dumps(message)), place)

    def sends(self, data: bytes, place: int = -1) -> None:
        self.servers[place].sendall(data)
        ready = [key.data for key, _ in self.wires.selector.select(1)]
        self.wires.read(self.now, [each for each in ready if isinstance(each, Connection)])

    def of(self, kind: str) -> list[Record]:
        return [record for record in self.records if record.kind == kind]

    def asked(self) -> list[dict[str, Any]]:
        return [orjson.loads(record.payload or b"") for record in self.of("out")]

    def agree_to(self, count: int = 2) -> None:
        """Subscribe everything on the newest connection, by so many requests, and let the exchange say yes."""
        conn = self.of("open")[-1].conn
        while len(sent := [record for record in self.of("out") if record.conn == conn]) < count:
            self.tick()
        for record in sent:
            self.says({"result": None, "id": orjson.loads(record.payload or b"")["id"]})

    def end(self) -> None:
        self.wires.paused = True
        self.wires.close_all("the test ends")
        for thread in threading.enumerate():
            if thread.name == "connect":
                thread.join()
        self.wires.tick(self.now)
        self.wires.selector.close()
        for server in self.servers:
            server.close()


@pytest.fixture
def made() -> Iterator[Callable[..., Line]]:
    lines: list[Line] = []

    def make(**settings: Any) -> Line:
        lines.append(Line(**settings))
        return lines[-1]

    yield make
    for line in lines:
        line.end()


def test_many_silent_streams_are_asked_for_again_in_few_frames_within_the_exchanges_pace(
    made: Callable[..., Line],
) -> None:
    """One frame for each went out at once: the exchange ends a connection at more than five in a second."""
    line = made()
    line.until(1)
    line.agree_to()
    for number in range(100):
        line.wires.resubscribe(f"s{number}@trade")
    line.wires.resubscribe("s0@trade")
    line.tick(2.0)
    again = line.asked()[2:]
    assert [(each["method"], len(each["params"])) for each in again] == [("UNSUBSCRIBE", 100), ("SUBSCRIBE", 100)]
    assert len({each["id"] for each in line.asked()}) == 4


def test_a_book_that_is_asked_for_before_all_is_subscribed_is_told_to_ask_again(made: Callable[..., Line]) -> None:
    """It waited for the time of an answer that was never asked for: ten seconds without a book, at each start."""
    line = made(channels=("trade", "book"))
    assert not line.wires.renew_book("S1")
    line.until(1)
    line.tick()
    assert not line.wires.renew_book("S1")
    line.agree_to()
    assert line.wires.renew_book("S1")
    line.tick(1.0)
    assert [each["params"] for each in line.asked()[2:]] == [["s1@depth@100ms"]] * 2


def test_a_frame_is_sent_no_sooner_than_the_exchange_allows_after_the_one_before(made: Callable[..., Line]) -> None:
    line = made()
    line.until(1)
    line.tick()
    sent = []
    for _ in range(20):
        sent.append(len(line.asked()))
        line.tick()
    assert sent[0] == 1 and sent[-1] == 2 and sent.index(2) >= 4


def test_many_connections_share_the_pace_of_an_address_and_each_says_its_first_word_in_time(
    made: Callable[..., Line],
) -> None:
    """Coinbase Advanced: 8 frames a second in all, and who is silent for its first five seconds is left."""
    line = made(
        exchange="coinbase-advanced", symbols=tuple(f"S{number}-USD" for number in range(500)), idle_timeout_s=9999.0
    )
    rate, opened, first, seen = Rate(8, 1.0), dict[int, float](), dict[int, float](), 0
    while len(first) < 10:
        line.tick()
        new, seen = line.records[seen:], len(line.records)
        for record in new:
            assert record.conn is not None
            if record.kind == "open":
                opened[record.conn] = line.now
            elif record.kind == "out":
                first.setdefault(record.conn, line.now)
                assert not rate.is_over(line.now)
    assert all(first[conn] - opened[conn] < 5 for conn in opened)


def test_a_refusal_of_what_is_wanted_no_more_is_passed_over(made: Callable[..., Line]) -> None:
    """Its place was looked up among what is wanted: the feed ended."""
    line = made()
    line.until(1)
    line.tick()
    asked = line.asked()[0]
    kept = asked["params"][0]
    symbol = kept.partition("@")[0].upper()
    line.wires.carry([{kept: ("trade", symbol)}])
    line.says({"code": 2, "msg": "Invalid request", "id": asked["id"]})
    assert [(record.channel, record.symbol) for record in line.of("gap")] == [("trade", symbol)]


def test_what_was_refused_and_is_wanted_no_more_is_not_asked_for_again(made: Callable[..., Line]) -> None:
    """Who takes a wrong symbol out of the configuration would see it subscribed if it came to be listed just then."""
    line = made(symbols=("S1", "S2"), channels=("trade",), idle_timeout_s=60.0)
    line.until(1)
    for _ in range(3):  # both together, then each
        line.tick(0.3)
        line.says({"code": 2, "msg": "Invalid request", "id": line.asked()[-1]["id"]})
    line.wires.carry([{"s2@trade": ("trade", "S2")}])
    for _ in range(5):
        line.tick(14.0)
        line.says({"data": {"e": "odd"}})
    asked = [(each["method"], *each["params"]) for each in line.asked()[3:]]
    assert asked == [("UNSUBSCRIBE", "s1@trade"), ("SUBSCRIBE", "s2@trade")]


def test_what_was_refused_and_is_taken_out_and_put_in_again_is_asked_for_once(made: Callable[..., Line]) -> None:
    """Each time it was one more request a minute, for ever."""
    line = made(symbols=("S1", "S2"), channels=("trade",), idle_timeout_s=60.0)
    line.until(1)
    line.tick()
    both = [{"s1@trade": ("trade", "S1")}, {"s2@trade": ("trade", "S2")}]
    for _ in range(4):  # where it is asked, where it is refused, where it is to be asked for
        line.wires.carry(both[1:])
        line.wires.carry(both)
        for _ in range(3):
            line.says({"code": 2, "msg": "Invalid request", "id": line.asked()[-1]["id"]})
            line.tick(0.3)
    before = len(line.asked())
    for _ in range(5):
        line.tick(14.0)
        line.says({"data": {"e": "odd"}})
    asked = [tuple(each["params"]) for each in line.asked()[before:]]
    assert sorted(asked) == [("s1@trade",), ("s2@trade",)]


def test_a_stream_leaves_until_nothing_of_it_can_be_on_its_way(made: Callable[..., Line]) -> None:
    """Added again before, its last frames on the old connection were taken for the new subscription's: the new one's
    were held back, and a kill left them told by no event and in no gap."""
    line = made(symbols=("S1", "S2"), channels=("trade",), idle_timeout_s=60.0)
    line.until(1)
    line.agree_to(1)
    assert not line.wires.leaves(["s1@trade"])
    line.wires.carry([{"s2@trade": ("trade", "S2")}])
    assert line.wires.leaves(["s1@quote", "s1@trade"])
    line.now += 30.0  # however long the request waits to be sent
    assert line.wires.leaves(["s1@trade"])
    line.tick(LET_GO_S - 0.5)
    assert [each["method"] for each in line.asked()] == ["SUBSCRIBE", "UNSUBSCRIBE"]
    assert line.wires.leaves(["s1@trade"])
    assert not line.wires.leaves(["s2@trade"])
    line.tick(1.0)
    assert not line.wires.leaves(["s1@trade"])
    line.wires.carry([{"s3@trade": ("trade", "S3")}])  # nothing is left on the connection: it is closed
    assert not line.wires.leaves(["s2@trade"])


def test_what_is_refused_and_silent_at_once_is_asked_for_no_oftener(made: Callable[..., Line]) -> None:
    """It is silent, too, of course: each hour it was asked for once more a minute, for as long as the feed ran."""
    line = made(symbols=("S1",), channels=("trade",), idle_timeout_s=60.0)
    line.until(1)
    asked: list[float] = []
    for second in range(1200):
        line.tick(1.0)
        if second % 100 == 50 or line.asked()[-1]["method"] == "UNSUBSCRIBE":
            line.wires.resubscribe("s1@trade")
        subscribes = [each["id"] for each in line.asked() if each["method"] == "SUBSCRIBE"]
        for number in subscribes[len(asked) :]:
            asked.append(line.now)
            line.wires.resubscribe("s1@trade")  # while it is asked for
            line.says({"code": 2, "msg": "Invalid request", "id": number})
        if second % 30 == 0:
            line.says({"data": {"e": "odd"}})
    assert sum(at > line.now - 600 for at in asked) <= 21


def test_a_connection_is_subscribed_where_the_last_that_was_to_be_asked_is_wanted_no_more(
    made: Callable[..., Line],
) -> None:
    """It waited for an answer to what was never asked: its books could not be renewed, and none replaced it."""
    line = made(channels=("trade", "book"))
    line.until(1)
    line.tick()
    (asked,) = line.asked()
    line.says({"result": None, "id": asked["id"]})
    places = {name: "book" if "depth" in name else "trade" for name in asked["params"]}
    line.wires.carry([{name: (place, name.partition("@")[0].upper()) for name, place in places.items()}])
    line.tick(1.0)
    assert line.wires.renew_book("S1")


def test_a_request_that_is_never_answered_holds_up_nothing_for_ever(made: Callable[..., Line]) -> None:
    line = made(channels=("trade", "book"), idle_timeout_s=60.0)
    line.until(1)
    line.tick()
    line.says({"result": None, "id": line.asked()[0]["id"]})
    line.tick(0.5)
    assert len(line.asked()) == 2
    for number in range(4):
        assert not line.wires.renew_book("S1")
        kept = {"s119@trade": ("trade", "S119"), "s1@depth@100ms": ("book", "S1")}
        line.wires.carry([kept | {f"n{number}@trade": ("trade", f"N{number}")}])
        line.tick(14.0)  # what is asked later, and answered, puts nothing off
        line.says({"result": None, "id": line.asked()[-1]["id"]})
    assert not line.wires.renew_book("S1")
    line.tick(5.0)
    assert line.wires.renew_book("S1")


def test_a_refused_batch_is_a_gap_of_each_stream_and_holds_up_no_other(made: Callable[..., Line]) -> None:
    """Its halves are asked for at once: a minute later each time, one bad name kept the others out for many."""
    line = made(idle_timeout_s=60.0)
    line.until(1)
    line.tick()
    line.says({"code": 2, "msg": "Invalid request", "id": line.asked()[0]["id"]})
    gaps = line.of("gap")
    assert len(gaps) == len(line.asked()[0]["params"]) == 200
    assert (gaps[0].channel, gaps[0].symbol) == ("trade", "S0") and b"Invalid request" in (gaps[0].payload or b"")
    line.tick(1.0)
    first, second, *halves = (each["params"] for each in line.asked())
    assert (len(first), len(second)) == (200, 40)
    assert [len(half) for half in halves] == [100, 100] and [*halves[0], *halves[1]] == first


def test_what_came_with_the_greeting_is_read_without_waiting_for_more(made: Callable[..., Line]) -> None:
    line = made()
    line.greeting = frame(TEXT, b'{"e":"serverShutdown"}')
    line.until(1)
    assert [record.kind for record in line.records][:2] == ["open", "in"]


def test_a_planned_replacement_switches_before_it_closes_and_only_after_the_overlap(made: Callable[..., Line]) -> None:
    line = made(overlap_s=5.0)
    line.until(1)
    line.agree_to()
    line.says({"e": "serverShutdown", "E": 1})
    line.until(2)
    line.agree_to()
    line.tick(4.8)
    assert not line.of("switch")
    line.tick(0.5)
    (switch,), (close,) = line.of("switch"), line.of("close")
    assert (switch.conn, switch.head["from"], close.conn, close.head["reason"]) == (2, 1, 1, "planned")
    assert switch.seq < close.seq
    line.tick(5.0)
    assert len(line.of("open")) == 2


def test_a_connection_without_a_word_is_given_up_and_made_anew(made: Callable[..., Line]) -> None:
    line = made(idle_timeout_s=10.0)
    line.until(1)
    line.tick(10.1)
    assert [record.head["reason"] for record in line.of("close")] == ["silent"]
    line.now += 1
    line.until(2)


def test_an_answer_to_something_never_asked_and_frames_of_odd_kinds_do_no_harm(made: Callable[..., Line]) -> None:
    line = made()
    line.until(1)
    odd: list[Any] = [
        {"result": None, "id": 99},
        {"code": 1, "msg": "x"},
        {"result": None, "id": "1"},
        [],
        None,
        5,
        "s",
    ]
    for message in odd:
        line.says(message)
    line.says({"data": {"e": ["odd"]}})
    assert len(line.of("in")) == 8 and not line.of("close")


def test_a_quiet_book_is_asked_for_on_the_socket_that_is_subscribed(made: Callable[..., Line]) -> None:
    """Who gives snapshots on the socket alone was never asked before a change came."""
    config: dict[str, Any] = {"symbols": ("btcusdt",), "channels": ("book",)}
    line = made(exchange="htx", **config)
    recorder, adapter = line.wires._recorder, cast(Adapter, exchanges.get("htx"))
    normaliser = recorder._normaliser
    begun = {"subscriptions": {"symbols": ["btcusdt"], "channels": ["book"]}}
    normaliser.record(decode(encode(1, 1, "start", payload=orjson.dumps(begun))))
    of_feed = adapter, FeedConfig(**config), recorder, normaliser, line.wires
    errands = Errands(*of_feed, lambda: 1, lambda: None)
    line.until(1)
    line.tick()
    for second in range(12):
        if second == 3:
            line.says({"id": "1", "status": "ok", "subbed": "market.btcusdt.mbp.150", "ts": 1})
        errands.tick(line.now)
        line.tick(1.0)
        assert "req" not in line.asked()[-1] or second > 3 + QUIET_S
    assert line.asked()[-1]["req"] == "market.btcusdt.mbp.150"
    assert normaliser.symbols["btcusdt"].sync.asked
