"""REST beside the feed: within the exchange's weights, obedient to Retry-After, one answer for each request."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import rest as rest_module
from common.events import Action, Request
from common.rest import RETRY_AFTER_MAX_S, Answer, Budget, RestClient
from tests.pipeline import Pipeline, until

ACTION = Action("backfill", "trade", "BNBBTC", 5)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.sampled_from([5, 25, 50, 250]), min_size=1, max_size=100))
def test_no_minute_ever_sees_more_weight_than_is_allowed(weights: list[int]) -> None:
    budget, now, sent = Budget(600), 0.0, []
    for weight in weights:
        while (wait := budget.wait_s(now, weight)) > 0:
            now += wait
        budget.spend(now, weight)
        sent.append((now, weight))
    for begin, _ in sent:
        assert sum(weight for at, weight in sent if begin <= at < begin + 60) <= 600


def test_what_others_on_this_address_used_counts_too() -> None:
    budget = Budget(6000)
    budget.spend(0.0, 250)
    budget.heed(1.0, 200, {"x-mbx-used-weight-1m": "5900"})
    assert budget.wait_s(2.0, 100) == 0
    assert budget.wait_s(2.0, 250) == pytest.approx(59.0, abs=1.1)
    budget.heed(70.0, 200, {"x-mbx-used-weight-1m": "5900"})
    assert budget.wait_s(70.0, 250) > 0, "what was spent a minute ago is not among what is used now"


def test_a_request_above_the_whole_limit_waits_for_an_empty_minute_and_not_for_ever() -> None:
    budget = Budget(100)
    budget.spend(0.0, 50)
    assert budget.wait_s(1.0, 250) == 59.0
    assert budget.wait_s(60.0, 250) == 0


@pytest.mark.parametrize("status", [429, 418])
@pytest.mark.parametrize(
    ("header", "wait"),
    [("120", 120), ("0", 0), ("", 60), ("Wed, 21 Oct 2026 07:28:00 GMT", 60), ("²", 60), ("-1", 60), ("9" * 5000, 60)],
)
def test_retry_after_holds_back_every_request(status: int, header: str, wait: int) -> None:
    """A header like ² is a digit to Python and no number: it ended the thread, and with it all snapshots."""
    budget = Budget(6000)
    budget.heed(10.0, status, {"retry-after": header, "x-mbx-used-weight-1m": header})
    assert budget.wait_s(10.0, 1) == wait
    assert budget.wait_s(10.0 + wait, 1) == 0


def test_no_ban_is_believed_to_be_longer_than_there_is() -> None:
    budget = Budget(6000)
    budget.heed(0.0, 418, {"retry-after": "999999999"})
    assert budget.wait_s(0.0, 1) == RETRY_AFTER_MAX_S


class Exchange(ThreadingHTTPServer):
    """Answers with what `answers` says for a path, and notes when it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[tuple[float, str, str | None]] = []
        self.answers: dict[str, list[tuple[int, dict[str, str], bytes]]] = {}
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, Exchange)
        self.server.asked.append((time.monotonic(), self.path, self.headers.get("X-MBX-TIME-UNIT")))
        status, headers, body = self.server.answers.get(self.path, [(200, {}, b"{}")]).pop(0)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if self.path != "/kept":
            self.send_header("Connection", "close")  # unannounced, the next request may meet the closing socket
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked has had enough
            if self.path == "/slow":
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.02)
            else:
                self.wfile.write(body if self.path != "/short" else body[:-1])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exchange]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Exchange()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


Asking = tuple[RestClient, "queue.Queue[Answer]"]


def client(url: str, timeout_s: float = 2.0) -> Asking:
    answers: queue.Queue[Answer] = queue.Queue()
    rest = RestClient(url, timeout_s, Budget(6000), answers.put)
    rest.start()
    return rest, answers


def test_answers_come_with_bytes_status_and_the_headers_that_matter(exchange: Exchange) -> None:
    headers = {"X-MBX-USED-WEIGHT-1M": "25", "Date": "now", "Set-Cookie": "a=b"}
    exchange.answers["/a?b=1"] = [(200, headers, b'{"odd": 1.50 }\n'), (404, {}, b"no")]
    rest, answers = client(exchange.url)
    before = time.time_ns()
    rest.ask(ACTION, Request("/a?b=1", 25, {"X-MBX-TIME-UNIT": "MICROSECOND"}))
    good = answers.get(timeout=5)
    assert (good.action, good.status, good.body, good.error) == (ACTION, 200, b'{"odd": 1.50 }\n', None)
    assert good.headers["x-mbx-used-weight-1m"] == "25" and "set-cookie" not in good.headers
    assert before <= good.ts_sent <= time.time_ns()
    assert exchange.asked[0][1:] == ("/a?b=1", "MICROSECOND")
    rest.ask(None, Request("/a?b=1", 25, {}))
    bad = answers.get(timeout=5)
    assert (bad.action, bad.status, bad.body) == (None, 404, b"no")
    rest.stop()


def test_after_429_nothing_is_asked_before_its_time(exchange: Exchange) -> None:
    exchange.answers["/a"] = [(429, {"Retry-After": "1"}, b"{}")]
    rest, answers = client(exchange.url)
    rest.ask(ACTION, Request("/a", 1, {}))
    assert answers.get(timeout=5).headers["retry-after"] == "1"
    answered = time.monotonic()
    rest.ask(None, Request("/b", 1, {}))
    assert answers.get(timeout=5).status == 200
    assert [path for _, path, _ in exchange.asked] == ["/a", "/b"]
    assert exchange.asked[1][0] >= answered + 0.9
    rest.stop()


def test_a_delayed_request_lets_others_go_first(exchange: Exchange) -> None:
    rest, answers = client(exchange.url)
    rest.ask(ACTION, Request("/late", 1, {}), delay_s=0.2)
    rest.ask(None, Request("/soon", 1, {}))
    assert [answers.get(timeout=5).request.path for _ in range(2)] == ["/soon", "/late"]
    rest.stop()


def test_an_exchange_that_cannot_be_reached_is_an_answer_with_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    rest, answers = client(f"http://127.0.0.1:{port}")
    rest.ask(ACTION, Request("/a", 1, {}))
    answer = answers.get(timeout=5)
    assert (answer.action, answer.status, answer.body) == (ACTION, 0, b"") and answer.error
    rest.stop()


def test_an_answer_that_drips_is_given_up_at_the_deadline_and_the_next_request_is_asked(exchange: Exchange) -> None:
    """Each byte came within the connection's own timeout, so that one answer held back those of all symbols."""
    exchange.answers["/slow"] = [(200, {}, b"x" * 1000)]
    rest, answers = client(exchange.url, 0.3)
    rest.ask(ACTION, Request("/slow", 1, {}))
    rest.ask(None, Request("/b", 1, {}))
    slow, good = (answers.get(timeout=5) for _ in range(2))
    assert (slow.action, slow.status, slow.body) == (ACTION, 0, b"") and "not whole after 0.3 s" in (slow.error or "")
    assert (good.status, good.body) == (200, b"{}")
    rest.stop()


def test_an_answer_past_the_bound_and_one_cut_short_are_errors_and_others_keep_their_connection(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_module, "ANSWER_MAX_BYTES", 100_000)
    exchange.answers |= {"/kept": [(200, {}, b"x" * 100_000)], "/huge": [(200, {}, b"x" * 100_001)]}
    exchange.answers["/short"] = [(200, {}, b"xyz")]
    rest, answers = client(exchange.url)
    for path in ("/kept", "/huge", "/short", "/b"):
        rest.ask(None, Request(path, 1, {}))
    kept, huge, short, good = (answers.get(timeout=5) for _ in range(4))
    assert len(kept.body) == 100_000
    assert (huge.status, huge.body) == (0, b"") and "longer than 100000 bytes" in (huge.error or "")
    assert (short.status, short.body) == (0, b"") and "IncompleteRead" in (short.error or "")
    assert (good.status, good.body) == (200, b"{}")
    rest.stop()


def test_whatever_goes_wrong_is_an_answer_and_the_thread_goes_on(exchange: Exchange) -> None:
    """An error that nobody had thought of ended the thread, and with it all snapshots."""
    rest, answers = client(exchange.url)
    rest.ask(ACTION, Request("/a", 1, {"X-A": "two\nlines"}))
    answer = answers.get(timeout=5)
    assert answer.status == 0 and "ValueError" in (answer.error or "")
    rest.ask(None, Request("/b", 1, {}))
    assert answers.get(timeout=5).status == 200
    rest.stop()


def test_the_feed_names_each_symbol_that_is_not_known_there_however_often_it_must_ask(
    make: Callable[..., Pipeline],
) -> None:
    """One unknown symbol made the exchange refuse the question about all, and a failure was never asked again."""
    pipeline = make("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--seed", "7", symbols="BTCUSDT,NOSUCH,ETHUSDT,NOR")
    pipeline.standin.fault(do="rest-fail", status=503, path="/api/v3/exchangeInfo", n=2)
    pipeline.start("feed")
    until(lambda: b" NOR is not known there" in pipeline.log.read_bytes(), "the last one is named")
    pipeline.kill("feed")
    said = pipeline.log.read_text()
    assert said.count("status 503") == 2
    assert said.count("NOSUCH is not known there") == 1
    assert "BTCUSDT is" not in said and "ETHUSDT is" not in said
    assert 'status 400 \'{"code":-1121,"msg":"Invalid symbol."}\'' in said
