"""Requests on their way: lost, late, doubled, refused, and who is not there."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from common import curve
from common import transport as transport_module
from common.errors import ArchivistError, BadRequestError, DamagedError, UnavailableError
from common.transport import Keys, Remote, request
from tests.answering import Answer, Answering
from tests.pipeline import free_port, until

Serve = Callable[..., tuple[Answering, Remote]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    closers: list[Callable[[], None]] = []

    def begin(answer: Answer, timeout_s: float = 20.0) -> tuple[Answering, Remote]:
        server = Answering(answer)
        remote = Remote(server.endpoint, timeout_s)
        closers.extend((remote.close, server.stop))
        return server, remote

    yield begin
    for close in closers:
        close()


def echo(request: dict[str, Any]) -> Sequence[dict[str, Any] | bytes]:
    return {"n": request["n"]}, b"payload"


def test_answers_when_several_are_under_way_then_come_in_the_order_of_asking(serve: Serve) -> None:
    _, remote = serve(echo)
    dialogue = remote.dialogue()
    for n in range(100):
        dialogue.ask({"n": n})
    assert [dialogue.answer()[0]["n"] for _ in range(100)] == list(range(100))
    dialogue.close()
    again = remote.dialogue()
    assert again.sockets == dialogue.sockets
    again.close()


def test_answer_when_the_server_went_away_meanwhile_then_is_asked_again(serve: Serve) -> None:
    is_dead = threading.Event()
    server, remote = serve(lambda request: echo(request) if is_dead.is_set() else None)
    dialogue = remote.dialogue()
    for n in range(5):
        dialogue.ask({"n": n})
    until(lambda: len(server.requests) == 5, "the requests are there")
    server.stop()
    is_dead.set()
    server.start()
    began = time.monotonic()
    assert [dialogue.answer()[0]["n"] for _ in range(5)] == list(range(5))
    assert time.monotonic() - began < transport_module.ASK_AGAIN_S
    dialogue.close()


def test_answer_when_one_is_lost_on_a_living_connection_then_is_asked_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "ASK_AGAIN_S", 0.1)
    tries: list[int] = []

    def forgets(request: dict[str, Any]) -> Sequence[dict[str, Any] | bytes] | None:
        tries.append(request["n"])
        return None if len(tries) < 3 else echo(request)

    _, remote = serve(forgets)
    assert request(remote, {"n": 7})[0]["n"] == 7
    assert request(remote, {"n": 8})[0]["n"] == 8  # a second answer to the first is no answer to this


def test_request_when_nobody_is_there_then_says_so_soon() -> None:
    remote = Remote(f"tcp://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="no history server at tcp") as caught:
        remote.dialogue()
    assert caught.value.code == "unreachable"
    assert time.monotonic() - began < 10
    remote.close()


def test_request_when_the_server_is_away_for_a_while_then_waits(serve: Serve) -> None:
    server, remote = serve(echo)
    assert request(remote, {"n": 1})[0]["n"] == 1
    server.stop()
    timer = threading.Timer(0.3, server.start)
    timer.start()
    assert request(remote, {"n": 2})[0]["n"] == 2
    timer.join()


def test_request_when_no_answer_comes_in_time_then_is_a_timeout(serve: Serve) -> None:
    _, remote = serve(lambda request: None, timeout_s=0.2)
    with pytest.raises(UnavailableError, match=r"no answer within") as caught:
        request(remote, {"n": 1})
    assert caught.value.code == "timeout"


def test_request_when_the_server_is_busy_then_is_asked_again(serve: Serve) -> None:
    said: list[dict[str, Any]] = [{"error": {"code": "busy", "message": "later"}}] * 2
    server, remote = serve(lambda request: (said.pop(),) if said else echo(request))
    assert request(remote, {"n": 1})[0]["n"] == 1
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("busy", UnavailableError), ("corrupt", DamagedError), ("unknown_symbol", BadRequestError),
        ("bad_range", BadRequestError), ("internal", ArchivistError), ("of_next_year", BadRequestError),
    ],
)  # fmt: skip
def test_errors_when_told_by_a_server_then_keep_their_code(serve: Serve, code: str, kind: type[ArchivistError]) -> None:
    _, remote = serve(lambda request: ({"error": {"code": code, "message": "a sentence"}},), timeout_s=0.1)
    with pytest.raises(ArchivistError, match="a sentence") as caught:
        request(remote, {"n": 1})
    assert type(caught.value) is kind
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["nowhere", "tcp://nowhere", "http://127.0.0.1:1"])
def test_request_when_the_server_is_no_address_then_is_refused(name: str) -> None:
    remote = Remote(name)
    with pytest.raises(BadRequestError, match="name the server as"):
        remote.dialogue()
    remote.close()


def test_keys_when_the_server_wants_them_then_who_has_them_is_answered_and_others_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "CONNECT_S", 0.5)
    made = curve.make(tmp_path, "mine")
    server = Answering(echo, curve.load(made.server_secret).secret)
    try:
        remote = Remote(server.endpoint, keys=Keys(made.server_public, made.client_secret))
        assert request(remote, {"n": 3})[0]["n"] == 3
        remote.close()
        remote = Remote(server.endpoint)
        with pytest.raises(UnavailableError, match="knows your key"):
            request(remote, {"n": 3})
        remote.close()
    finally:
        server.stop()
    with pytest.raises(BadRequestError) as caught:
        Keys("no key at all", made.client_secret)
    assert caught.value.code == "bad_key"


def test_threads_when_they_share_a_transport_then_each_gets_its_own_answers(serve: Serve) -> None:
    _, remote = serve(echo)
    wrong: list[int] = []

    def ask(first: int) -> None:
        wrong.extend(n for n in range(first, first + 50) if request(remote, {"n": n})[0]["n"] != n)

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_close_when_other_threads_still_wait_then_they_are_told(serve: Serve) -> None:
    _, remote = serve(lambda request: None)
    told: list[str] = []

    def ask() -> None:
        with pytest.raises(UnavailableError) as caught:
            request(remote, {"n": 1})
        told.append(caught.value.code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: remote.was_there, "they wait")
    remote.close()
    for thread in threads:
        thread.join()
    assert told == ["closed"] * 3
    with pytest.raises(UnavailableError, match="make a new one"):
        request(remote, {"n": 1})


def _ask_in_a_fork(remote: Remote) -> None:
    assert request(remote, {"n": 5})[0]["n"] == 5
    remote.close()


def test_fork_when_it_uses_its_parents_transport_then_has_sockets_of_its_own(serve: Serve) -> None:
    """Loaders of training data fork."""
    _, remote = serve(echo)
    request(remote, {"n": 1})
    child = multiprocessing.get_context("fork").Process(target=_ask_in_a_fork, args=(remote,))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert request(remote, {"n": 2})[0]["n"] == 2
