"""Faults on demand: each is made to happen once, and seen by a client."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import websocket

from tests.standin_client import (
    BTC,
    STREAMS,
    NaiveBook,
    Reader,
    Standin,
    ask,
    cut_recording,
    deltas,
    lines,
    standin,
    streamed,
    take,
    until,
)

needs_recordings = pytest.mark.skipif(not BTC.exists(), reason=f"no recordings at {BTC.parent}")


@pytest.fixture(scope="module")
def synthetic() -> Iterator[Standin]:
    with standin("--rate", 300) as started:
        yield started


@pytest.fixture(autouse=True)
def cleared(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "synthetic" in request.fixturenames:
        request.getfixturevalue("synthetic").fault(do="clear")


def number_of(started: Standin, stream: str) -> int:
    """The number of the last connection that has subscribed to this stream."""
    return max(int(each["conn"]) for each in started.status()["connections"] if stream in each["streams"])


def ending(client: websocket.WebSocket) -> str:
    """How a connection ends: the close code, or `cut`."""
    with contextlib.suppress(OSError, websocket.WebSocketConnectionClosedException):
        while True:
            opcode, payload = client.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return str(int.from_bytes(payload[:2], "big"))
    return "cut"


@pytest.mark.parametrize(
    ("fault", "how"),
    [({"do": "cut"}, "cut"), ({"do": "cut", "reset": 1}, "cut"), ({"do": "close", "code": 1012}, "1012")],
)
def test_connection_when_it_is_to_end_then_ends_and_the_other_stays(
    synthetic: Standin, fault: dict[str, object], how: str
) -> None:
    victim, other = synthetic.connect(subscribe=["victim"]), synthetic.connect(subscribe=["btcusdt@trade"])
    synthetic.fault(**fault, conn=number_of(synthetic, "victim"))
    assert ending(victim) == how
    assert take(other, 2)


@needs_recordings
def test_connections_when_cut_after_a_number_of_messages_then_end_there_exactly(tmp_path: Path) -> None:
    part = cut_recording(BTC, tmp_path / "btc.gz", 300)
    with standin("--recording", part, "--speed", "max", "--fault", "do=close&after=100") as started:
        reader = Reader(started.connect(subscribe=STREAMS))
        reader.join(10)
        assert reader.payloads[:-1] == streamed(lines(part, 100))  # the last is the end itself, without payload
        assert take(started.connect(subscribe=STREAMS), 200) == lines(part)[100:]


@pytest.mark.parametrize(
    ("fault", "payload"),
    [
        ({"kind": "truncated"}, b'{"stream":"btcusdt@trade","data":{"e":"trade","E":17231612'),
        ({"kind": "binary"}, b"\x00\x01\xfe\xff not JSON"),
        ({"kind": "empty"}, b""),
        ({"kind": "linebreak"}, b'{"stream":"btcusdt@mystery",\n "data":{"e":"mystery","s":"BTCUSDT"}}'),
        ({"kind": "text", "text": "any <words> & ümläuts"}, "any <words> & ümläuts".encode()),
    ],
)
def test_frame_when_garbled_then_is_sent_as_told(synthetic: Standin, fault: dict[str, str], payload: bytes) -> None:
    client = synthetic.connect(subscribe=["garbage"])
    synthetic.fault(do="garble", conn=number_of(synthetic, "garbage"), **fault)
    opcode, received = client.recv_data()
    assert received == payload
    assert opcode == (websocket.ABNF.OPCODE_BINARY if fault["kind"] == "binary" else websocket.ABNF.OPCODE_TEXT)


def test_frame_when_huge_then_has_the_size_told_and_the_connection_goes_on(synthetic: Standin) -> None:
    client = synthetic.connect(subscribe=["btcusdt@trade", "huge"])
    synthetic.fault(do="garble", kind="huge", bytes=3_000_000, conn=number_of(synthetic, "huge"))
    sizes = [len(take(client, 1)[0])]
    while sizes[-1] < 3_000_000:
        sizes.append(len(take(client, 1)[0]))
    assert sizes[-1] == 3_000_000
    assert json.loads(client.recv())["stream"] == "btcusdt@trade"


@pytest.mark.parametrize("kind", ["unknown", "digits"])
def test_frame_when_unknown_or_of_too_many_digits_then_is_still_json(synthetic: Standin, kind: str) -> None:
    client = synthetic.connect(subscribe=[kind])
    synthetic.fault(do="garble", kind=kind, conn=number_of(synthetic, kind))
    data = json.loads(client.recv())["data"]
    assert data["e"] == "mystery"
    assert kind == "unknown" or len(str(data["n"])) == 30


@needs_recordings
def test_deltas_when_dropped_then_are_missing_to_clients_and_not_to_the_book(tmp_path: Path) -> None:
    part = cut_recording(BTC, tmp_path / "btc.gz", 1000)
    payloads = lines(part)
    faults = ["--fault", "do=drop&symbol=BTCUSDT&n=3&after=300"]
    with standin("--recording", part, "--speed", "max", *faults) as started:
        reader = Reader(started.connect(subscribe=STREAMS))
        until(lambda: started.status()["ended"] and reader.payloads[-1:] == payloads[-1:], "the end")
        book = NaiveBook(started.get("/api/v3/depth", symbol="BTCUSDT", limit=5000).data)
    gone = [payload for payload in payloads[300:] if b"@depth" in payload[:40]][:3]
    assert reader.payloads == [payload for payload in streamed(payloads) if payload not in gone]
    assert book.last_id == deltas(payloads)[-1]["u"]


def test_stream_when_muted_then_is_silent_until_unmuted(synthetic: Standin) -> None:
    synthetic.fault(do="mute", stream="btcusdt@trade")
    client = synthetic.connect(subscribe=["btcusdt@trade", "ethusdt@trade"])
    assert {json.loads(payload)["stream"] for payload in take(client, 30)} == {"ethusdt@trade"}
    synthetic.fault(do="unmute", stream="btcusdt@trade")
    until(lambda: json.loads(client.recv())["stream"] == "btcusdt@trade", "the unmuted stream")


def test_rest_when_late_then_answers_after_the_delay(synthetic: Standin) -> None:
    synthetic.fault(do="rest-late", seconds=0.5, path="depth", n=1)
    before = time.monotonic()
    synthetic.get("/api/v3/time")
    other = time.monotonic() - before
    assert synthetic.get("/api/v3/depth", symbol="BTCUSDT").status == 200
    late = time.monotonic() - before
    synthetic.get("/api/v3/depth", symbol="BTCUSDT")
    assert other < 0.5 <= late
    assert time.monotonic() - before - late < 0.5


def test_rest_when_failing_then_answers_the_status_and_the_controls_still_answer(synthetic: Standin) -> None:
    synthetic.fault(do="rest-fail", status=502, body="<html>")
    answer = synthetic.get("/api/v3/depth", symbol="BTCUSDT")
    assert (answer.status, answer.data) == (502, b"<html>")
    assert synthetic.status()["rest"]["/api/v3/depth"] > 0
    synthetic.fault(do="clear")
    assert synthetic.get("/api/v3/depth", symbol="BTCUSDT").status == 200


def test_rest_when_429_is_asked_for_then_says_when_to_come_back(synthetic: Standin) -> None:
    synthetic.fault(do="rest-429", seconds=7, n=1)
    answer = synthetic.get("/api/v3/depth", symbol="BTCUSDT")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    assert synthetic.get("/api/v3/depth", symbol="BTCUSDT").status == 200


def test_connection_when_refused_then_is_answered_the_status_as_often_as_told(synthetic: Standin) -> None:
    before = synthetic.status()["attempts"]
    synthetic.fault(do="refuse", status=503, n=1)
    with pytest.raises(websocket.WebSocketBadStatusException):
        synthetic.connect()
    synthetic.fault(do="refuse", status=-1, n=1)
    with pytest.raises((OSError, websocket.WebSocketException)):
        synthetic.connect()
    synthetic.connect()
    assert synthetic.status()["attempts"] == before + 3


def test_shutdown_event_when_asked_for_then_is_wrapped_as_the_connection_wants(synthetic: Standin) -> None:
    wrapped, raw = synthetic.connect("/stream"), synthetic.connect("/ws")
    synthetic.fault(do="shutdown")
    event = json.loads(wrapped.recv())
    assert (event["stream"], event["data"]["e"]) == ("!serverShutdown", "serverShutdown")
    assert json.loads(raw.recv())["e"] == "serverShutdown"


def test_timeline_when_paused_then_nothing_passes_until_it_is_resumed(synthetic: Standin) -> None:
    client = synthetic.connect(subscribe=["btcusdt@trade"])
    synthetic.fault(do="pause")
    passed = synthetic.status()["passed"]
    assert ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": 2})["result"] == ["btcusdt@trade"]
    assert synthetic.status()["passed"] == passed
    synthetic.fault(do="resume")
    assert take(client, 5)


def test_requests_when_read_slowly_then_are_answered_late(synthetic: Standin) -> None:
    synthetic.fault(do="slow", seconds=0.3)
    client = synthetic.connect("/ws")
    before = time.monotonic()
    ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": 1})
    assert time.monotonic() - before >= 0.3


@pytest.mark.parametrize(
    "query", [{}, {"do": "nonsense"}, {"do": "drop"}, {"do": "garble", "kind": "odd"}, {"do": "cut", "after": "soon"}]
)
def test_fault_when_it_cannot_be_understood_then_is_refused(synthetic: Standin, query: dict[str, str]) -> None:
    assert synthetic.get("/standin/fault", **query).status == 400


@needs_recordings
def test_reader_when_too_slow_at_a_pace_then_is_cut(tmp_path: Path) -> None:
    part = cut_recording(BTC, tmp_path / "btc.gz", 8000)
    with standin("--recording", part, "--speed", 10_000, "--loop", "--buffer-bytes", 100_000) as started:
        lazy = started.connect(subscribe=STREAMS)
        until(lambda: [each["conn"] for each in started.status()["closed"]] == [1], "the cut")
        assert lazy.recv()  # what was on its way may still arrive
