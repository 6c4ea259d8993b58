"""The stand-in exchange: its bytes, its protocol, its limits, its REST answers."""

import contextlib
import hashlib
import json
import random
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
import websocket

from tests.standin_client import (
    BTC,
    ETH,
    ROOT,
    STREAMS,
    NaiveBook,
    Reader,
    Standin,
    ask,
    cut_recording,
    deltas,
    is_running,
    lines,
    standin,
    streamed,
    take,
    timed_lines,
    until,
)

needs_recordings = pytest.mark.skipif(not BTC.exists(), reason=f"no recordings at {BTC.parent}")


@pytest.fixture(scope="module")
def synthetic() -> Iterator[Standin]:
    with standin("--seed", 3, "--weight-limit", 100_000) as started:
        yield started


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    """A stand-in whose timeline (2,000 lines of BTCUSDT) has passed."""
    part = cut_recording(BTC, tmp_path_factory.mktemp("recording") / "btc.gz", 2000)
    with standin("--recording", part, "--speed", "max") as started:
        Reader(started.connect(subscribe=STREAMS))
        until(lambda: started.status()["ended"], "the end of the timeline")
        yield started


# sources


@needs_recordings
def test_recording_when_played_at_full_speed_then_arrives_byte_for_byte(tmp_path: Path) -> None:
    sent = tmp_path / "sent.jsonl"
    expected = streamed(lines(BTC))
    with standin("--recording", BTC, "--speed", "max", "--sent", sent) as started:
        received = take(started.connect(subscribe=STREAMS), len(expected))
        account = until(lambda: started.status()["ended"] and started.status(), "the end")["connections"][0]
    assert received == expected
    assert account["stream_sha256"] == hashlib.sha256(b"".join(expected)).hexdigest()
    assert account["sha256"] == hashlib.sha256(b"".join([b'{"result":null,"id":1}', *expected])).hexdigest()
    assert account["stream_frames"] == len(expected)
    assert [json.loads(line)["payload"].encode() for line in sent.read_bytes().splitlines()][1:] == expected


@needs_recordings
def test_recordings_when_several_then_merge_by_time(tmp_path: Path) -> None:
    parts = [cut_recording(path, tmp_path / path.name, 1500) for path in (BTC, ETH)]
    whole = sorted((line for path in parts for line in timed_lines(path)), key=lambda line: line[:19])
    streams = [*STREAMS, *(name.replace("btc", "eth") for name in STREAMS)]
    with standin("--recording", *parts, "--speed", "max") as started:
        received = take(started.connect(f"/stream?streams={'/'.join(streams)}"), len(whole) - 2)
    assert received == streamed(line[20:] for line in whole)


@needs_recordings
def test_raw_connection_when_fed_from_combined_frames_then_gets_the_inner_bytes(tmp_path: Path) -> None:
    part = cut_recording(BTC, tmp_path / "btc.gz", 500)
    trades = [line for line in lines(part) if b'"btcusdt@trade"' in line]
    with standin("--recording", part, "--speed", "max") as started:
        received = take(started.connect("/ws/btcusdt@trade?timeUnit=MICROSECOND"), len(trades))
    assert received == [trade[len(b'{"stream":"btcusdt@trade","data":') : -1] for trade in trades]


@needs_recordings
def test_timeline_when_sped_up_then_keeps_the_recorded_pace(tmp_path: Path) -> None:
    part = cut_recording(BTC, tmp_path / "btc.gz", 1000)
    times = [int(line[:19]) for line in timed_lines(part)]
    with standin("--recording", part, "--speed", 20) as started:
        begun = time.monotonic()
        take(started.connect(subscribe=STREAMS), len(times) - 1)
        elapsed = time.monotonic() - begun
    recorded = (times[-1] - times[0]) / 1e9 / 20
    assert recorded < elapsed < recorded + 5


@needs_recordings
def test_timeline_when_told_to_wait_for_streams_then_starts_with_the_last_of_them(tmp_path: Path) -> None:
    part = cut_recording(BTC, tmp_path / "btc.gz", 100)
    with standin("--recording", part, "--speed", "max", "--start-after", 3) as started:
        client = started.connect(subscribe=STREAMS[:2])
        assert not started.status()["started"]
        ask(client, {"method": "SUBSCRIBE", "params": STREAMS[2:], "id": 2})
        assert take(client, 99) == streamed(lines(part))


@needs_recordings
def test_timeline_when_looped_then_begins_again(tmp_path: Path) -> None:
    part = cut_recording(BTC, tmp_path / "btc.gz", 50)
    with standin("--recording", part, "--speed", "max", "--loop") as started:
        assert take(started.connect(subscribe=STREAMS), 3 * 49) == 3 * streamed(lines(part))


# books


@needs_recordings
def test_depth_when_asked_at_any_moment_then_is_the_naive_book_and_clients_sync(tmp_path: Path) -> None:
    moments = [3, *sorted(random.Random(5).sample(range(20, 6000), 5))]
    part = cut_recording(BTC, tmp_path / "btc.gz", 6500)
    payloads = lines(part)
    recorded = next(line for line in payloads if line.startswith(b'{"lastUpdateId"'))
    stops = [word for moment in moments for word in ("--fault", f"do=pause&after={moment}")]
    clients: list[tuple[NaiveBook, Reader]] = []
    with standin("--recording", part, "--speed", "max", *stops, "--weight-limit", 100_000) as started:
        Reader(started.connect(subscribe=STREAMS))
        for moment in moments:
            until_passed(started, moment)
            reader = Reader(started.connect(subscribe=STREAMS[:1]))
            snapshot = started.get("/api/v3/depth", symbol="BTCUSDT", limit=5000).data
            expected = NaiveBook(recorded)
            for delta in deltas(payloads[:moment]):
                expected.apply(delta)
            assert snapshot == recorded if moment < 8 else NaiveBook(snapshot) == expected
            clients.append((NaiveBook(snapshot), reader))
            started.fault(do="resume")
        until_passed(started, len(payloads))
        final = NaiveBook(started.get("/api/v3/depth", symbol="BTCUSDT", limit=5000).data)
        last = [payload for payload in payloads if b"@depth" in payload[:30]][-1]
        assert json.loads(last)["data"]["u"] == final.last_id
        for book, reader in clients:
            reader.wait_for(last)
            for delta in deltas(reader.payloads):
                book.apply(delta)
            assert book == final


def until_passed(started: Standin, count: int) -> None:
    until(lambda: started.status()["passed"] == count, f"message {count}")


# the control protocol


@pytest.mark.parametrize(
    ("request_text", "reply"),
    [
        ('{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":"abc"}', {"result": None, "id": "abc"}),
        ('{"method":"SUBSCRIBE","params":["nosuch@trade"],"id":null}', {"result": None, "id": None}),
        ('{"method":"UNSUBSCRIBE","params":["btcusdt@trade"],"id":312}', {"result": None, "id": 312}),
        ('{"method":"LIST_SUBSCRIPTIONS","id":3}', {"result": ["ethusdt@ticker"], "id": 3}),
        ('{"method":"SET_PROPERTY","params":["combined",true],"id":5}', {"result": None, "id": 5}),
        ('{"method":"GET_PROPERTY","params":["combined"],"id":2}', {"result": False, "id": 2}),
    ],
)
def test_request_when_well_formed_then_is_acknowledged(
    synthetic: Standin, request_text: str, reply: dict[str, object]
) -> None:
    assert ask(synthetic.connect("/ws/ethusdt@ticker"), request_text) == reply


@pytest.mark.parametrize(
    ("request_text", "code", "text"),
    [
        ("not JSON", 3, "Invalid JSON"),
        ("[1]", 2, "Invalid request"),
        ('{"params":[],"id":1}', 2, "missing field"),
        ('{"method":"SHOUT","id":1}', 2, "unknown variant"),
        ('{"method":"SUBSCRIBE","params":"btcusdt@trade","id":1}', 2, "must be an array"),
        ('{"method":"SUBSCRIBE","params":[1],"id":1}', 2, "must be a string"),
        ('{"method":"SUBSCRIBE","params":[],"id":1.5}', 2, "request ID"),
        ('{"method":"SET_PROPERTY","params":["combined","yes"],"id":1}', 1, "expected Boolean"),
        ('{"method":"GET_PROPERTY","params":["colour"],"id":1}', 0, "Unknown property"),
    ],
)
def test_request_when_malformed_then_is_refused_with_its_code(
    synthetic: Standin, request_text: str, code: int, text: str
) -> None:
    reply = ask(synthetic.connect("/ws"), request_text)
    assert reply["code"] == code
    assert text in reply["msg"]


def test_property_combined_when_changed_then_wraps_what_follows(synthetic: Standin) -> None:
    client = synthetic.connect("/ws/btcusdt@trade")
    assert json.loads(client.recv())["e"] == "trade"
    ask(client, {"method": "SET_PROPERTY", "params": ["combined", True], "id": 1})
    assert json.loads(client.recv())["stream"] == "btcusdt@trade"


def test_connection_when_it_sends_six_messages_in_a_second_then_is_ended(synthetic: Standin) -> None:
    client = synthetic.connect("/ws")
    for _ in range(6):
        client.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
    assert closing_code(client) == 1008


def test_connection_when_it_wants_more_than_1024_streams_then_is_ended(synthetic: Standin) -> None:
    names = [f"{number}@t" for number in range(1024)]
    client = synthetic.connect(subscribe=names[:400])
    for part in (names[400:800], names[800:]):
        assert ask(client, {"method": "SUBSCRIBE", "params": part, "id": 1}) == {"result": None, "id": 1}
    client.send('{"method":"SUBSCRIBE","params":["one@more"],"id":2}')
    assert closing_code(client) == 1008


def test_subscribe_frame_when_longer_than_4088_bytes_then_has_no_effect_and_no_answer(synthetic: Standin) -> None:
    client = synthetic.connect()
    client.send(json.dumps({"method": "SUBSCRIBE", "params": ["a" * 4_100], "id": 1}))
    assert ask(client, {"method": "LIST_SUBSCRIPTIONS", "id": 2}) == {"result": [], "id": 2}


def closing_code(client: websocket.WebSocket) -> int:
    while True:
        opcode, payload = client.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return int.from_bytes(payload[:2], "big")


def test_connection_when_it_leaves_pings_unanswered_then_is_ended() -> None:
    with standin("--ping-s", 0.4, "--pong-timeout-s", 0.2) as started:
        quiet, polite = started.connect("/ws"), started.connect("/ws")
        frame = quiet.recv_frame()  # type: ignore[no-untyped-call]  # the library has no types here
        assert frame.opcode == websocket.ABNF.OPCODE_PING
        Reader(polite)
        until(lambda: [each["conn"] for each in started.status()["closed"]] == [1], "the end of the quiet one")
        assert [each["conn"] for each in started.status()["connections"]] == [2]


# REST


@needs_recordings
def test_trades_when_asked_by_id_then_are_those_that_passed(ended: Standin) -> None:
    sent = [json.loads(line)["data"] for line in lines(BTC, 2000) if b'"btcusdt@trade"' in line]
    first = sent[5]["t"]
    trades = json.loads(ended.get("/api/v3/historicalTrades", symbol="BTCUSDT", fromId=first, limit=10).data)
    assert [trade["id"] for trade in trades] == list(range(first, first + 10))
    assert (trades[0]["price"], trades[0]["qty"], trades[0]["time"]) == (sent[5]["p"], sent[5]["q"], sent[5]["T"])
    newest = json.loads(ended.get("/api/v3/aggTrades", symbol="BTCUSDT", limit=2).data)
    assert [trade["a"] for trade in newest] == [trade["t"] for trade in sent[-2:]]


@needs_recordings
def test_depth_when_limited_then_is_ordered_from_the_best_and_weighs_accordingly(ended: Standin) -> None:
    before = int(ended.get("/api/v3/ping").headers["X-MBX-USED-WEIGHT-1M"])
    answer = ended.get("/api/v3/depth", symbol="BTCUSDT", limit=500)
    book = json.loads(answer.data)
    assert [len(book["bids"]), len(book["asks"])] == [500, 500]
    assert book["bids"] == sorted(book["bids"], key=lambda level: -float(level[0]))
    assert book["asks"] == sorted(book["asks"], key=lambda level: float(level[0]))
    assert int(answer.headers["X-MBX-USED-WEIGHT-1M"]) in (25, before + 25)  # a new minute may have begun


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v3/depth?symbol=NOSUCH", 400, -1121),
        ("/api/v3/depth", 400, -1102),
        ("/api/v3/depth?symbol=BTCUSDT&limit=many", 400, -1100),
        ("/api/v3/exchangeInfo?symbol=NOSUCH", 400, -1121),
        ("/api/v1/depth?symbol=BTCUSDT", 404, -1000),
    ],
)
def test_rest_request_when_wrong_then_is_refused_as_the_exchange_does(
    synthetic: Standin, path: str, status: int, code: int
) -> None:
    answer = synthetic.get(path)
    assert (answer.status, json.loads(answer.data)["code"]) == (status, code)


def test_exchange_info_when_asked_then_describes_the_symbols(synthetic: Standin) -> None:
    everything = json.loads(synthetic.get("/api/v3/exchangeInfo").data)
    one = json.loads(synthetic.get("/api/v3/exchangeInfo", symbols='["ETHUSDT"]').data)["symbols"]
    assert [symbol["symbol"] for symbol in everything["symbols"]] == ["BTCUSDT", "ETHUSDT"]
    assert [(each["symbol"], each["status"], each["baseAsset"], each["quoteAsset"]) for each in one] == [
        ("ETHUSDT", "TRADING", "ETH", "USDT")
    ]
    assert {each["filterType"] for each in one[0]["filters"]} == {"PRICE_FILTER", "LOT_SIZE", "NOTIONAL"}
    assert everything["rateLimits"][0]["limit"] == 100_000
    assert abs(json.loads(synthetic.get("/api/v3/time").data)["serverTime"] / 1000 - time.time()) < 60


def test_weight_when_spent_then_requests_are_answered_429_with_retry_after() -> None:
    with standin("--weight-limit", 500) as started:
        answers = [started.get("/api/v3/depth", symbol="BTCUSDT", limit=5000) for _ in range(6)]
        refused = [answer for answer in answers if answer.status == 429]
        assert refused
        assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in refused)


# the process


def test_connection_when_tls_is_asked_for_then_is_encrypted(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with standin("--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem") as started:
        url = f"wss://localhost:{started.port}/ws/btcusdt@depth@100ms"
        with contextlib.closing(websocket.create_connection(url, sslopt={"context": context}, timeout=10)) as client:
            assert json.loads(client.recv())["e"] == "depthUpdate"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["kraken9"], "kraken9"),
        (["binance", "--recording", "/no/such/file.gz"], "/no/such/file.gz"),
        (["binance", "--speed", "0"], "--speed"),
        (["binance", "--fault", "do=nonsense"], "nonsense"),
        (["binance", "--recording", "setup.cfg"], "setup.cfg"),
        (["binance", "--tls-cert", "setup.cfg"], "--tls-key"),
    ],
)
def test_process_when_arguments_are_wrong_then_exits_2_with_one_line(arguments: list[str], word: str) -> None:
    command = [sys.executable, "-m", "processes.standin", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10)
    assert run.returncode == 2
    assert word in run.stderr
    assert run.stderr.count("\n") == 1


def test_process_when_its_supervisor_is_gone_then_ends() -> None:
    script = f"SUPERVISOR_ENABLED=1 {sys.executable} -m processes.standin binance --port 0 2>&1 & echo $!; wait"
    with subprocess.Popen(["sh", "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        process_id = int(supervisor.stdout.readline())
        assert "listening" in supervisor.stdout.readline()
        supervisor.send_signal(signal.SIGKILL)
        until(lambda: not is_running(process_id), "the end of the orphan")
