"""The stand-in that serves recordings: what any exchange has in common, with a small exchange of the test's own."""

import gzip
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
import websocket

from common import standin_options
from common.adapter import DEFAULTS, Adapter
from common.events import Parsed, Snapshot, Update
from common.process import ConfigError
from common.standin_dialect import DEFAULTS as DIALECT
from common.standin_dialect import RefusedError
from common.standin_recorded import RecordedStandin
from tests.pipeline import free_port
from tests.standin_client import Clients, standin, until

START = 1_600_000_000


class Session:
    def __init__(self, path: str, known: Container[str]) -> None:
        if not path.startswith("/public"):
            raise RefusedError(4001, f"nothing at {path}")
        self.streams: dict[str, None] = {}

    def answer(self, frame: bytes) -> list[bytes]:
        if frame == b"ping":
            return [b"pong"]
        if frame == b"quit":
            raise RefusedError(4000, "bye")
        request = orjson.loads(frame)
        for name in request.get("unsub", []):
            self.streams.pop(name, None)
        self.streams.update(dict.fromkeys(request.get("sub", [])))
        return [orjson.dumps({"ok": request})]

    def beat(self, now_ms: int) -> list[bytes]:
        return [b'{"beat":1}']

    def greeting(self) -> list[bytes]:
        return [b'{"hello":1}']


def stream_of(payload: bytes) -> str | None:
    found: str | None = orjson.loads(payload).get("ch")
    return found


def rest(path: str, query: dict[str, str], recorded: Mapping[str, bytes]) -> tuple[int, bytes]:
    body = recorded.get(f"{path}?s={query.get('s', '')}")
    return (404, b'{"no":1}') if body is None else (200, body)


def book(snapshot: Snapshot) -> bytes:
    return orjson.dumps({"last": snapshot.last, "bids": snapshot.bids, "asks": snapshot.asks})


def parse(message: Any) -> Parsed | None:
    channel, symbol = message["ch"].split(".")
    if channel != "book":
        return Update(channel, symbol, 0, 0, None, {})
    levels = {"bids": message["b"], "asks": []}
    fields = {"type": "snapshot" if "snap" in message else "delta", **levels}
    return Update("book", symbol, message["u"], message["u"], None, fields)


def parse_rest(url: str, body: bytes) -> Snapshot | None:
    found = orjson.loads(body)
    return Snapshot(url.rpartition("=")[2], found["last"], None, found["bids"], []) if "last" in found else None


def streams(symbol: str, channels: list[str], candle_intervals: list[str]) -> dict[str, tuple[str, str]]:
    return {f"{channel}.{symbol}": (channel, symbol) for channel in channels}


def trading_symbols(body: bytes) -> dict[str, str]:
    return dict.fromkeys(orjson.loads(body).get("list", []), "TRADING")


ADAPTER = SimpleNamespace(**{**DEFAULTS, "parse": parse, "parse_rest": parse_rest, "streams": streams})
ADAPTER.trading_symbols, ADAPTER.CATALOGUE = trading_symbols, ("/all?s=",)
ADAPTER.inflate = lambda payload, bound: gzip.decompress(payload)
SPEECH = SimpleNamespace(
    **{**DIALECT, "MESSAGES_PER_S": 50.0, "Session": Session, "stream_of": stream_of, "rest": rest, "book": book},
    pack=lambda payload: None,
)
PACKED = SimpleNamespace(**{**vars(SPEECH), "pack": lambda payload: gzip.compress(payload, mtime=0)})
Serve = Callable[..., Clients]


def message(channel: str, number: int, **more: object) -> bytes:
    """With spaces and digits that no second encoder would write alike."""
    return orjson.dumps({"ch": channel, "u": number, "b": [["1.50", f"{number}.0"]], **more}).replace(b",", b" ,")


def recording(path: Path, *frames: bytes, step_s: float = 0.1) -> Path:
    with gzip.open(path, "wb") as file:
        file.write(b'https://x.com/book?s=A -> %d.0: {"last":2,"bids":[["1.4","7"]]}\n' % START)
        for number, frame in enumerate(frames):
            text = frame if frame.startswith(b"{") else repr(frame).encode()
            file.write(b"%.6f: %b\n" % (START + number * step_s, text))
    return path


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[tuple[RecordedStandin, threading.Thread, Clients]] = []

    def start(*arguments: object, dialect: SimpleNamespace = SPEECH) -> Clients:
        port = free_port()
        options = standin_options.parse(["binance-usdm", "--port", str(port), *map(str, arguments)])
        server = RecordedStandin(options, cast(Adapter, ADAPTER), dialect)
        thread = threading.Thread(target=server.run)
        thread.start()
        clients = Clients(port)
        started.append((server, thread, clients))
        until(lambda: listens(clients), "the stand-in listens")
        return clients

    yield start
    for server, thread, clients in started:
        clients.hang_up()
        server.stop()
        thread.join(10)
        assert not thread.is_alive()


def listens(clients: Clients) -> bool:
    try:
        return bool(clients.status())
    except Exception:
        return False


def asked(clients: Clients, *names: str) -> websocket.WebSocket:
    """A client that has subscribed, and has read the greeting and the acknowledgement."""
    client = clients.connect("/public/v1")
    assert client.recv() == '{"hello":1}'
    client.send(orjson.dumps({"sub": names}))
    assert orjson.loads(unbeaten(client)) == {"ok": {"sub": list(names)}}
    return client


def unbeaten(client: websocket.WebSocket) -> bytes:
    """The next frame that is no beat."""
    while True:
        frame = client.recv()
        payload = frame.encode() if isinstance(frame, str) else frame
        if b"beat" not in payload:
            return payload


def test_frames_when_played_then_reach_the_subscribed_byte_for_byte_in_order(tmp_path: Path, serve: Serve) -> None:
    frames = [message(channel, number) for number in range(50) for channel in ("trade.A", "trade.B")]
    noise = [b'{"event":"ack"}', b'{"event":"heartbeat"}']
    clients = serve("--recording", recording(tmp_path / "a.gz", *noise, *frames), "--speed", "max", "--start-after", 2)
    first, second = asked(clients, "trade.A"), asked(clients, "trade.B", "trade.C")
    assert [unbeaten(first) for _ in range(50)] == frames[::2]
    assert [unbeaten(second) for _ in range(50)] == frames[1::2]
    status = until(lambda: clients.status()["ended"] and clients.status(), "the end")
    assert status["streams"] == ["trade.A", "trade.B"]
    assert [each["stream_frames"] for each in status["connections"]] == [50, 50]


def test_binary_frames_when_recorded_then_go_out_as_these_bytes_and_answers_packed(
    tmp_path: Path, serve: Serve
) -> None:
    recorded = [gzip.compress(message("trade.A", number), compresslevel=1) for number in range(5)]
    clients = serve("--recording", recording(tmp_path / "a.gz", *recorded), "--speed", "max", dialect=PACKED)
    client = clients.connect("/public")
    assert gzip.decompress(cast(bytes, client.recv())) == b'{"hello":1}'
    client.send('{"sub":["trade.A"]}')
    frames: list[bytes] = []
    while len(frames) < 5:
        frame = cast(bytes, client.recv())
        if b'"ch"' in gzip.decompress(frame):
            frames.append(frame)
    assert frames == recorded


def test_text_frames_when_the_exchange_compresses_then_are_packed(tmp_path: Path, serve: Serve) -> None:
    text = message("trade.A", 1)
    clients = serve("--recording", recording(tmp_path / "a.gz", text), "--speed", "max", dialect=PACKED)
    client = clients.connect("/public")
    client.send('{"sub":["trade.A"]}')
    until(lambda: gzip.decompress(cast(bytes, client.recv())) == text, "the frame")


def test_pace_when_sped_up_then_is_the_recorded_one(tmp_path: Path, serve: Serve) -> None:
    frames = [message("trade.A", number) for number in range(11)]
    clients = serve("--recording", recording(tmp_path / "a.gz", *frames, step_s=1), "--speed", 10)
    client = asked(clients, "trade.A")
    begun = time.monotonic()
    assert [unbeaten(client) for _ in frames] == frames
    assert 0.9 < time.monotonic() - begun < 5


def test_loop_when_asked_for_then_begins_again(tmp_path: Path, serve: Serve) -> None:
    frames = [message("trade.A", number) for number in range(3)]
    clients = serve("--recording", recording(tmp_path / "a.gz", *frames), "--speed", "max", "--loop")
    client = asked(clients, "trade.A")
    assert [unbeaten(client) for _ in range(9)] == frames * 3


def test_symbols_when_named_then_only_their_streams_are_served(tmp_path: Path, serve: Serve) -> None:
    frames = [message(channel, 1) for channel in ("trade.a", "trade.b")]
    path = recording(tmp_path / "a.gz", *frames)
    assert serve("--recording", path, "--symbols", "a").status()["streams"] == ["trade.a"]


def test_symbols_when_listed_over_rest_or_recorded_then_are_the_known_ones(tmp_path: Path, serve: Serve) -> None:
    class Telling(Session):
        def __init__(self, path: str, known: Container[str]) -> None:
            super().__init__(path, known)
            self._known = known

        def greeting(self) -> list[bytes]:
            return [orjson.dumps({symbol: symbol in self._known for symbol in "ABCD"})]

    path, dialect = tmp_path / "a.gz", SimpleNamespace(**{**vars(SPEECH), "Session": Telling})
    recording(path, message("trade.A", 1), message("book.B", 2))
    with gzip.open(path, "ab") as file:
        file.write(b'https://x.com/all?s= -> %d.0: {"list":["C"]}\n' % START)
    told = serve("--recording", path, "--start-after", 9, dialect=dialect).connect("/public").recv()
    assert orjson.loads(told) == {"A": True, "B": True, "C": True, "D": False}


def test_server_when_nothing_happens_then_beats_each_second_and_answers_pings(tmp_path: Path, serve: Serve) -> None:
    client = asked(serve("--recording", recording(tmp_path / "a.gz", message("trade.A", 1))))
    client.send("ping")
    assert unbeaten(client) == b"pong"
    assert client.recv() == '{"beat":1}'


def test_connection_when_the_exchange_would_end_it_then_is_closed_with_its_code(tmp_path: Path, serve: Serve) -> None:
    clients = serve("--recording", recording(tmp_path / "a.gz", message("trade.A", 1)))
    for client, code in ((asked(clients), 4000), (clients.connect("/private"), 4001)):
        if code == 4000:
            client.send("quit")
        with pytest.raises(websocket.WebSocketConnectionClosedException):
            opcode, payload = client.recv_data()
            while opcode != websocket.ABNF.OPCODE_CLOSE:
                opcode, payload = client.recv_data()
            assert int.from_bytes(payload[:2], "big") == code
            raise websocket.WebSocketConnectionClosedException
    flood = asked(clients)
    with pytest.raises((websocket.WebSocketException, OSError)):
        for _ in range(200):
            flood.send("ping")
        while flood.recv() != "":
            pass
        raise websocket.WebSocketConnectionClosedException


def test_book_when_subscribed_late_then_comes_from_its_snapshot_on(tmp_path: Path, serve: Serve) -> None:
    frames = [message("book.A", 1, snap=1), *(message("book.A", number) for number in (2, 3))]
    newer = [message("book.A", 4, snap=1), message("book.A", 5)]
    path = recording(tmp_path / "a.gz", *frames, *newer, message("trade.A", 1))
    clients = serve("--recording", path, "--speed", "max")
    clients.fault(do="drop", symbol="A", n=2)
    client = asked(clients, "book.A")
    assert [unbeaten(client) for _ in range(3)] == [frames[2], *newer]
    until(lambda: clients.status()["ended"], "the end")
    client.send(orjson.dumps({"unsub": ["book.A"]}))
    client.send(orjson.dumps({"sub": ["book.A"]}))
    assert [unbeaten(client) for _ in range(4)][2:] == newer
    clients.fault(do="mute")
    muted = asked(clients, "book.A")
    muted.send("ping")
    assert unbeaten(muted) == b"pong"


def test_rest_when_asked_then_is_the_recorded_answer_with_the_book_brought_on(tmp_path: Path, serve: Serve) -> None:
    frames = [message("book.A", number) for number in (2, 3, 4)]
    clients = serve("--recording", recording(tmp_path / "a.gz", *frames), "--speed", "max")
    assert orjson.loads(clients.get("/book", s="A").data)["last"] == 2
    asked(clients, "book.A")
    until(lambda: clients.status()["ended"], "the end")
    assert orjson.loads(clients.get("/book", s="A").data) == {
        "last": 4,
        "bids": [["1.50", "4.0"], ["1.4", "7"]],
        "asks": [],
    }
    assert clients.get("/book", s="B").status == 404
    clients.fault(do="rest-429", seconds=7, n=1)
    refused = clients.get("/book", s="A")
    assert (refused.status, refused.headers["Retry-After"]) == (429, "7")
    clients.fault(do="rest-fail", status=500, body="oops", path="/book", n=1)
    assert (answer := clients.get("/book", s="A")).status == 500 and answer.data == b"oops"
    assert clients.get("/book", s="A").status == 200


def test_faults_when_asked_for_then_happen(tmp_path: Path, serve: Serve) -> None:
    clients = serve("--recording", recording(tmp_path / "a.gz", message("trade.A", 1)), "--start-after", 9)
    client = asked(clients, "trade.A")
    clients.fault(do="garble", kind="noise")
    assert unbeaten(client) == b"<html>502 Bad Gateway</html>"
    assert clients.get("/standin/fault", do="shutdown").status == 400  # the exchange does not tell of it
    clients.fault(do="cut")
    with pytest.raises((websocket.WebSocketException, OSError)):
        unbeaten(client)
    clients.fault(do="refuse", status=503, n=1)
    with pytest.raises(websocket.WebSocketBadStatusException):
        clients.connect("/public")
    asked(clients)


def test_connection_when_the_exchange_has_waited_too_long_then_is_closed(tmp_path: Path, serve: Serve) -> None:
    class Impatient(Session):
        def beat(self, now_ms: int) -> list[bytes]:
            raise RefusedError(4004, "No data received")

    dialect = SimpleNamespace(**{**vars(SPEECH), "Session": Impatient})
    clients = serve("--recording", recording(tmp_path / "a.gz", message("trade.A", 1)), dialect=dialect)
    client = clients.connect("/public/v1")
    assert client.recv() == '{"hello":1}'
    opcode, data = client.recv_data()
    assert (opcode, data) == (websocket.ABNF.OPCODE_CLOSE, (4004).to_bytes(2, "big") + b"No data received")
    until(lambda: not clients.status()["connections"], "the connection is gone")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "needs --recording"),
        (["--recording", "{broken}"], "cannot be read: {broken} line 1"),
        (["--recording", "{empty}"], "holds no messages"),
    ],
)
def test_source_when_there_is_none_then_the_process_says_so(tmp_path: Path, arguments: list[str], told: str) -> None:
    names = {"broken": tmp_path / "broken.gz", "empty": tmp_path / "empty.gz"}
    names["broken"].write_bytes(gzip.compress(b"nonsense\n"))
    names["empty"].write_bytes(gzip.compress(b""))
    told, arguments = told.format(**names), [argument.format(**names) for argument in arguments]
    with pytest.raises(ConfigError, match=told.replace("--", "[-][-]")):
        server = RecordedStandin(
            standin_options.parse(["binance-usdm", "--port", str(free_port()), *arguments]),
            cast(Adapter, ADAPTER),
            SPEECH,
        )
        server.run()


def test_process_when_told_the_exchange_then_serves_its_recording(tmp_path: Path) -> None:
    frame = b'{"stream":"btcusdt@trade","data":{"e":"trade","E":1,"s":"BTCUSDT"}}'
    with standin("--recording", recording(tmp_path / "a.gz", frame), exchange="binance-usdm") as started:
        assert started.status()["streams"] == ["btcusdt@trade"]
