"""The process that replays: the same bytes for whoever takes them, at any speed, and under control."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import zmq

from common import curve
from common.codec import CodecError
from tests.archives import FIRST, FIRST_TS, Archive, trade
from tests.pipeline import DEADLINE_S, Live, Pipeline, archived, free_port, normalised, until
from tests.record_logs import Log
from tests.replays import END, SECOND_NS, body, events, expected, hashed, is_beat, part, played, recorded
from tests.standin_client import ROOT

# -- the process ---------------------------------------------------------------------------------------------------


class Player:
    """A replay process."""

    def __init__(self, storage: Path, *arguments: str, what: Sequence[str] = ("binance", "AAA,BBB")) -> None:
        self.endpoint, self.control = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        self.log = storage.parent / f"replay-{free_port()}.log"
        command = [sys.executable, "-m", "processes.replay", *what, f"--storage={storage}"]
        command += [f"--bind={self.endpoint[6:]}", *(each.replace("CONTROL", self.control[6:]) for each in arguments)]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("TRADE_ARCHIVIST_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=log)

    def ended(self) -> str:
        """Wait until it ended by itself; the log."""
        assert self.process.wait(DEADLINE_S) == 0, self.log.read_text()
        return self.log.read_text()


@pytest.fixture
def play() -> Iterator[Callable[..., Player]]:
    players: list[Player] = []

    def begin(*arguments: Any, **more: Any) -> Player:
        players.append(Player(*arguments, **more))
        return players[-1]

    yield begin
    for player in players:
        player.process.kill()
        player.process.wait()


@contextlib.contextmanager
def subscriber(endpoint: str, *topics: bytes, **options: int) -> Iterator["zmq.Socket[bytes]"]:
    with zmq.Context() as context, context.socket(zmq.SUB) as opened:
        for name, value in {"linger": 0, "rcvtimeo": int(DEADLINE_S * 1000), "reconnect_ivl": 10, **options}.items():
            setattr(opened, name, value)
        for topic in topics or (b"",):
            opened.subscribe(topic)
        opened.connect(endpoint)
        yield opened


def received(opened: "zmq.Socket[bytes]", pause_s: float = 0.0) -> list[bytes]:
    """Everything up to the end."""
    found = [opened.recv()]
    while b'"end":true' not in found[-1]:
        if pause_s:
            time.sleep(pause_s)
        found.append(opened.recv())
    return found


@contextlib.contextmanager
def controlled(player: Player) -> Iterator[Callable[[Any], dict[str, Any]]]:
    with zmq.Context() as context, context.socket(zmq.REQ) as opened:
        opened.linger = 0
        opened.rcvtimeo = int(DEADLINE_S * 1000)
        opened.connect(player.control)

        def ask(request: Any) -> dict[str, Any]:
            opened.send(request if isinstance(request, bytes) else orjson.dumps(request))
            found: dict[str, Any] = orjson.loads(opened.recv())
            return found

        yield ask


def test_replay_at_any_speed_then_a_subscriber_gets_the_same_bytes_and_the_process_ends(
    log: tuple[Path, Log], play: Callable[..., Player]
) -> None:
    storage, _ = log
    whole = played([part(storage)])
    for speed in ("max", "max", "100"):
        player = play(storage, f"--speed={speed}")
        with subscriber(player.endpoint) as opened:
            got = received(opened)
            assert f"end: {len(whole)} messages, sha256 {hashed(whole)}" in player.ended()
        assert got == whole


def many(storage: Path) -> list[bytes]:
    """An archive of more trades than any buffer on the way holds, and what its replay sends."""
    archive = Archive(storage)
    archive.begin()
    archive.take(trade(FIRST + 1 + place, FIRST_TS + place * 1_000_000) for place in range(50_000))
    archive.close()
    return played([part(storage, ["BTCUSDT"])])


def test_replay_when_a_subscriber_is_slow_then_it_is_waited_for_and_nobody_loses_anything(
    play: Callable[..., Player], tmp_path: Path
) -> None:
    whole = many(tmp_path / "long")
    player = play(tmp_path / "long", "--speed=max", "--control=CONTROL", what=["binance", "BTCUSDT"])
    sent = [0]

    def is_held_up() -> bool:
        time.sleep(0.1)
        sent.append(ask({"op": "status"})["sent"])
        return 0 < sent[-1] == sent[-2]

    with (
        subscriber(player.endpoint, rcvhwm=10, rcvbuf=4096) as slow,
        subscriber(player.endpoint, rcvhwm=0) as fast,
        controlled(player) as ask,
    ):
        until(is_held_up, "the replay waits")
        assert sent[-1] < len(whole)
        assert received(slow) == whole
        assert received(fast) == whole
        ask({"op": "stop"})
    player.ended()


def test_steps_when_a_block_is_damaged_then_that_is_an_error_with_its_place(
    tmp_path: Path, play: Callable[..., "Player"]
) -> None:
    recorded(tmp_path, step_ns=10 * SECOND_NS)
    sealed = sorted(tmp_path.rglob("*.bz2"), key=lambda path: path.stat().st_size)[-1]
    data = bytearray(sealed.read_bytes())
    data[len(data) // 2] ^= 1
    sealed.write_bytes(data)
    with pytest.raises(CodecError, match=rf"{sealed} offset \d+"):
        played([part(tmp_path)])
    player = play(tmp_path, "--speed=max", "--begin=now")
    assert player.process.wait(DEADLINE_S) == 1
    assert f"{sealed} offset" in player.log.read_text()


def test_replay_when_it_is_at_its_end_then_goes_only_when_a_slow_subscriber_has_everything(
    log: tuple[Path, Log], play: Callable[..., Player]
) -> None:
    player = play(log[0], "--speed=max")
    with subscriber(player.endpoint, rcvhwm=10, rcvbuf=4096) as slow:
        until(lambda: "end:" in player.log.read_text(), "everything is sent")
        assert received(slow) == played([part(log[0])])
    player.ended()


def test_replay_for_a_plain_subscriber_of_some_topics_then_it_gets_those(
    log: tuple[Path, Log], play: Callable[..., Player]
) -> None:
    storage, recorded_log = log
    player = play(storage, "--speed=max", what=["binance:AAA", "binance:BBB,AAA"])
    with subscriber(player.endpoint, b"binance/trade/AAA ", b"binance/heartbeat ") as opened:
        got = received(opened)
    trades = [each for each in expected(recorded_log, 0, END) if each.startswith(b"binance/trade/AAA ")]
    assert events(got) == trades
    player.ended()


def test_control_when_asked_then_pauses_steps_seeks_changes_the_speed_and_stops(
    log: tuple[Path, Log], play: Callable[..., Player]
) -> None:
    storage, recorded_log = log
    player = play(storage, "--speed=1", "--begin=paused", "--control=CONTROL")
    whole = played([part(storage)])
    middle = recorded_log.records[400].ts_recv
    with subscriber(player.endpoint) as opened, controlled(player) as ask:
        assert ask({"op": "status", "id": 7}).items() >= {"op": "status", "id": 7, "state": "paused", "sent": 0}.items()
        until(lambda: ask({"op": "step"})["state"] == "paused" and opened.poll(100), "the subscriber is connected")
        assert ask({"op": "seek", "time": str(recorded_log.records[0].ts_recv)})["state"] == "paused"
        while opened.poll(100):
            opened.recv()
        assert ask({"op": "step", "count": 4})["state"] == "paused"
        got = [opened.recv() for _ in range(4)]
        assert got == whole[:4]
        assert ask({"op": "speed", "speed": "max"})["speed"] == "max"
        assert ask({"op": "resume"})["state"] in ("playing", "ended")
        assert got[:4] + received(opened) == whole
        assert ask({"op": "status"})["state"] == "ended"
        assert ask({"op": "status"})["sha256"] == hashed(whole)
        ask({"op": "seek", "time": middle})
        assert received(opened) == played([part(storage)], middle)
        assert ask({"op": "stop"})["op"] == "stop"
    player.ended()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"", "malformed"), (b"\xff", "malformed"), (b"[]", "malformed"), (b"5", "malformed"),
        (b"[" * 10_000, "malformed"),
        ({}, "unknown_op"), ({"op": "explode"}, "unknown_op"), ({"op": ["pause"]}, "unknown_op"),
        ({"op": "pause", "for": 5}, "unknown_key"), ({"op": "seek"}, "bad_time"),
        ({"op": "seek", "time": "x"}, "bad_time"),
        ({"op": "seek", "time": -1}, "bad_time"), ({"op": "seek", "time": 1 << 63}, "bad_time"),
        ({"op": "seek", "time": "-" + "9" * 400 + "s"}, "bad_time"), ({"op": "seek", "time": 1}, "bad_time"),
        ({"op": "speed", "speed": 0}, "bad_value"), ({"op": "speed", "speed": True}, "bad_value"),
        ({"op": "speed", "speed": "fast"}, "bad_value"), ({"op": "speed", "speed": None}, "bad_value"),
        ({"op": "step", "count": 0}, "bad_value"), ({"op": "step", "count": 1.5}, "bad_value"),
        ({"op": "step"}, "bad_value"),
    ],
)  # fmt: skip
def test_control_when_a_request_is_wrong_then_says_so_and_goes_on(
    waiting: tuple[Player, Callable[[Any], dict[str, Any]]], request_: Any, code: str
) -> None:
    _, ask = waiting
    assert ask(request_)["error"]["code"] == code
    assert ask({"op": "status"})["state"] == "waiting"


@pytest.fixture(scope="module")
def waiting(log: tuple[Path, Log]) -> Iterator[tuple[Player, Callable[[Any], dict[str, Any]]]]:
    """A replay that waits for its first subscriber."""
    start = log[1].records[0].ts_recv
    player = Player(log[0], "--control=CONTROL", f"--start={start}")
    try:
        with controlled(player) as ask:
            yield player, ask
    finally:
        player.process.kill()
        player.process.wait()


@pytest.mark.parametrize("begin", ["subscribed", "now"])
def test_replay_when_told_by_sigterm_then_exits_zero(
    log: tuple[Path, Log], play: Callable[..., Player], begin: str
) -> None:
    player = play(log[0], f"--begin={begin}", "--speed=0.001")
    until(lambda: b" replay tcp://" in player.log.read_bytes(), "it runs")
    player.process.send_signal(signal.SIGTERM)
    player.ended()


def test_replay_when_a_subscriber_takes_nothing_any_more_then_sigterm_still_ends_it(
    tmp_path: Path, play: Callable[..., Player]
) -> None:
    many(tmp_path / "long")
    player = play(tmp_path / "long", "--speed=max", what=["binance", "BTCUSDT"])
    with subscriber(player.endpoint, rcvhwm=10, rcvbuf=4096) as stuck:
        stuck.recv()
        player.process.send_signal(signal.SIGTERM)
        player.ended()


@pytest.mark.parametrize(
    ("what", "arguments", "told"),
    [
        (["binance", "AAB"], [], "symbol 'AAB' is not in"),
        (["binance", "aaa"], [], "did you mean AAA?"),
        (["binance", "../AAA"], [], "symbol '../AAA' is not in"),
        (["binanc", "AAA"], [], "unknown exchange 'binanc'"),
        (["binance"], [], "give an exchange and its symbols"),
        (["binance:AAA", "BBB"], [], "'BBB': give an exchange and its symbols"),
        (["binance", "AAA"], ["--start=yesterday"], "--start: not a time: 'yesterday'"),
        (["binance", "AAA"], ["--end=-1"], "--end: not a time"),
        (["binance", "AAA"], [f"--start={1 << 70}"], "is not a time since 1970"),
        (["binance", "AAA"], ["--start=2024-01-02", "--end=2024-01-01"], "is not before --end"),
        (["binance", "AAA"], ["--start=2001-01-01", "--end=2001-01-02"], "there is from 2023-11-14T22:13"),
        (["binance", "AAA"], ["--speed=0"], "--speed: '0' is not a speed"),
        (["binance", "AAA"], ["--channels=trades"], "--channels: 'trades' is not one of"),
        (["binance", "AAA"], ["--bind=0.0.0.0:9100"], "--bind: 0.0.0.0:9100 is open to other machines"),
        (["binance", "AAA"], ["--control=9100"], "--control: '9100' is not HOST:PORT"),
        (["binance", "AAA"], ["--begin=paused"], "--begin paused needs --control"),
        (["binance", "AAA"], ["--storage=/nowhere"], "/nowhere/binance is not there"),
    ],
)
def test_replay_when_it_is_asked_wrongly_then_exits_two_with_one_line(
    log: tuple[Path, Log], capsys: pytest.CaptureFixture[str], what: list[str], arguments: list[str], told: str
) -> None:
    from processes.replay import main

    assert main([*what, f"--storage={log[0]}", *arguments]) == 2
    printed = capsys.readouterr().err
    assert told in printed
    assert printed.count("\n") == 1


def test_replay_when_its_port_is_used_then_exits_one_with_one_line(
    log: tuple[Path, Log], play: Callable[..., Player]
) -> None:
    first = play(log[0])
    until(lambda: b" replay tcp://" in first.log.read_bytes(), "it runs")
    second = play(log[0], f"--bind={first.endpoint[6:]}")
    assert second.process.wait(DEADLINE_S) == 1
    assert "cannot be bound" in second.log.read_text()
    assert second.log.read_text().count("\n") == 1


def test_replay_with_keys_then_only_an_allowed_client_gets_it(
    log: tuple[Path, Log], play: Callable[..., Player], tmp_path: Path
) -> None:
    made = curve.make(tmp_path / "keys", "mine")
    conf = tmp_path / "my.toml"
    conf.write_text(f'[curve]\nsecret_key = "{made.server_secret}"\nallowed = "{made.allowed}"')
    player = play(log[0], "--speed=max", f"--conf={conf}")
    with zmq.Context() as context, context.socket(zmq.SUB) as opened:
        opened.linger, opened.rcvtimeo = 0, int(DEADLINE_S * 1000)
        curve.secure_client(opened, curve.public_key(made.server_public), curve.load(made.client_secret))
        opened.subscribe(b"")
        with subscriber(player.endpoint) as stranger:
            opened.connect(player.endpoint)
            assert received(opened) == played([part(log[0])])
            assert not stranger.poll(100)
    player.ended()


def test_replay_of_a_pipeline_is_what_was_live_and_its_heartbeats_have_the_same_form(
    make: Callable[..., Pipeline], live: Callable[[Pipeline], Live], play: Callable[..., Player]
) -> None:
    pipeline = make("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--speed", "20")
    subscribed = live(pipeline)
    pipeline.start()
    until(lambda: len(subscribed.messages) > 300 and len(subscribed.heartbeats) > 3, "some market")
    pipeline.stop()
    pipeline.start("archiver")
    pipeline.wait_archived()
    whole = normalised(archived(pipeline.exchange_dir))
    until(lambda: len(subscribed.messages) >= len(whole), "the subscriber has everything")
    player = play(pipeline.storage, "--speed=max", what=["binance", "BTCUSDT,ETHUSDT"])
    with subscriber(player.endpoint) as opened:
        got = received(opened)
    player.ended()
    assert events(got) == subscribed.messages == whole
    forms = {
        tuple((key, type(value)) for key, value in body(each).items() if key != "end")
        for messages in (got, subscribed.heartbeats)
        for each in messages
        if is_beat(each)
    }
    assert len(forms) == 2
