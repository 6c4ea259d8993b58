"""Replay: the past as it was live, whoever takes it, however fast, as often as it is asked for."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
import zmq

from common import curve
from common.adapter import Adapter
from common.codec import CodecError
from common.events import CHANNELS
from common.exchanges import binance
from common.reader import Reader
from common.replay import LAG_S, Pace, Part, steps
from common.replay_control import Request
from common.replayer import SETTLE_S, Replayer
from tests.archives import FIRST, FIRST_TS, Archive, trade
from tests.pipeline import DEADLINE_S, Live, Pipeline, archived, free_port, normalised, until
from tests.record_logs import ADAPTER, SYMBOLS, T0, Log
from tests.standin_client import ROOT
from tests.test_reader import Recording

TICK_NS = 50_000_000
SECOND_NS = 10**9
END = 1 << 62
OTHER = cast(Adapter, SimpleNamespace(**{**vars(binance), "NAME": "other"}))
"""A second exchange, that trades the same."""


def recorded(storage: Path, seed: int = 3, count: int = 600, step_ns: int = TICK_NS) -> Log:
    """An archive of a random log, sealed but for its last file."""
    log = Log(seed, count, step_ns=step_ns)
    recording = Recording(storage, log)
    while recording.done < len(log.lines):
        recording.take(200)
        recording.seal()
    return log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    storage = tmp_path_factory.mktemp("archive")
    return storage, recorded(storage)


def part(storage: Path, symbols: Sequence[str] = SYMBOLS, channels: Sequence[str] = CHANNELS) -> Part:
    return Part(ADAPTER, Reader(storage, ADAPTER), tuple(symbols), tuple(channels))


def played(parts: Sequence[Part], start: int = 0, end: int = END) -> list[bytes]:
    return [message for step in steps(parts, start, end) for message in step.messages]


def is_beat(message: bytes) -> bool:
    return b"/heartbeat" in message[:40]


def events(messages: Sequence[bytes]) -> list[bytes]:
    return [each for each in messages if not is_beat(each) and b'"derived":true' not in each]


def expected(log: Log, start: int, end: int, symbols: Sequence[str] = SYMBOLS) -> list[bytes]:
    ends = tuple(f"/{symbol}" for symbol in symbols)
    return [
        message
        for record, messages in zip(log.records, log.messages, strict=True)
        if start <= record.ts_recv < end
        for message in messages
        if message.partition(b" ")[0].decode().endswith(ends)
    ]


def body(message: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(message.partition(b" ")[2])
    return found


def hashed(messages: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for message in messages:
        digest.update(message + b"\n")
    return digest.hexdigest()


# -- what is sent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbols", [SYMBOLS, SYMBOLS[:1]])
@pytest.mark.parametrize("step_ns", [TICK_NS, 10 * SECOND_NS], ids=["being written", "sealed"])
def test_steps_of_any_range_are_what_was_live_then(tmp_path: Path, step_ns: int, symbols: tuple[str, ...]) -> None:
    storage, recorded_log = tmp_path, recorded(tmp_path, step_ns=step_ns)
    times = [record.ts_recv for record in recorded_log.records]
    for start, end in ((0, END), (times[137], times[511]), (times[300] + 1, times[301] + 1), (0, times[90])):
        got = played([part(storage, symbols)], start, end)
        assert events(got) == expected(recorded_log, start, end, symbols)
        assert played([part(storage, symbols)], start, end) == got


def test_steps_with_channels_then_those_and_gaps_alone(log: tuple[Path, Log]) -> None:
    storage, recorded_log = log
    got = events(played([part(storage, channels=("trade",))]))
    assert got == [each for each in expected(recorded_log, 0, END) if each.split(b"/")[1] in (b"trade", b"gap")]
    beats = [body(each) for each in played([part(storage, channels=("trade",))]) if is_beat(each)]
    assert {channel for beat in beats for channel in beat.get("topics", ())} == {"trade", "gap"}


def test_steps_begin_with_each_book_and_a_book_kept_from_them_is_that_of_the_archive(log: tuple[Path, Log]) -> None:
    storage, recorded_log = log
    begun = 0
    for place in range(100, len(recorded_log.records), 97):
        start = recorded_log.records[place].ts_recv
        reader = Reader(storage, ADAPTER)
        for symbol in SYMBOLS:
            got = played([part(storage, [symbol], ["book"])], start)
            if not (snapshots := [body(each) for each in got if b'"derived":true' in each]):
                continue
            begun += 1
            first = next(record.seq for record in recorded_log.records if record.ts_recv >= start)
            book = reader.normaliser(symbol, first - 1).symbols[symbol].sync.book
            assert ([*map(tuple, snapshots[0]["bids"])], [*map(tuple, snapshots[0]["asks"])]) == book.top()
            assert [is_beat(got[0]), b'"derived":true' in got[1], len(snapshots)] == [True, True, 1]
    assert begun


def test_heartbeats_come_each_second_of_the_recorded_time_and_say_what_was_sent_before(log: tuple[Path, Log]) -> None:
    storage, _ = log
    whole = list(steps([part(storage)], 0, END))
    beats = [step.ts for step in whole[:-1] if step.messages[0].startswith(b"binance/heartbeat ")]
    assert beats == [beats[0] + index * SECOND_NS for index in range(len(beats))]
    assert beats[-1] <= whole[-1].ts < beats[-1] + SECOND_NS
    assert [step.ts for step in whole] == sorted(step.ts for step in whole)
    last: dict[tuple[str, str], list[int]] = {}
    at = 0
    for message in (message for step in whole for message in step.messages):
        event = body(message)
        if not is_beat(message):
            last[event["symbol"], event["channel"]] = [event["seq"], event.get("part", 0)]
            at = event["seq"]
        elif "symbol" not in event:
            assert event["at"] >= at
        else:
            for channel, place in event["topics"].items():
                assert (
                    place == last.get((event["symbol"], channel), place) or place[0] > last[event["symbol"], channel][0]
                )
                assert place[0] <= event["at"]
    assert body(whole[-1].messages[-1])["end"] is True
    assert sum(b'"end":true' in message for step in whole for message in step.messages) == 1


def test_steps_of_two_exchanges_are_merged_by_time_then_name_and_each_is_as_it_is_alone(tmp_path: Path) -> None:
    log = recorded(tmp_path)
    recorded(tmp_path / "second", seed=4)
    shutil.copytree(tmp_path / "second" / "binance", tmp_path / "other")
    other = Part(OTHER, Reader(tmp_path, OTHER), SYMBOLS, CHANNELS)
    got = played([other, part(tmp_path)])
    assert got == played([part(tmp_path), other])
    for name, alone in (("binance", part(tmp_path)), ("other", other)):
        assert events([each for each in got if each.startswith(name.encode())]) == events(played([alone]))
    merged = [(body(each)["ts_recv"], body(each)["exchange"]) for each in events(got)]
    assert merged == sorted(merged)
    assert len({name for _, name in merged}) == 2
    assert [body(each)["exchange"] for each in got if b'"end":true' in each] == ["binance", "other"]
    assert events(played([part(tmp_path)])) == expected(log, 0, END)


def test_steps_where_a_clock_was_set_back_hold_their_time_and_keep_the_order(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.begin()
    seconds = [0, 5, 2, 3, 6]
    archive.take(trade(FIRST + 1 + place, FIRST_TS + each * SECOND_NS) for place, each in enumerate(seconds))
    archive.close()
    one = part(tmp_path, ["BTCUSDT"])
    found = [step for step in steps([one], 0, END) if not is_beat(step.messages[0])]
    assert [(step.ts - FIRST_TS) // SECOND_NS for step in found] == [0, 5, 5, 5, 6]
    assert [body(step.messages[0])["ts_recv"] for step in found] == [FIRST_TS + each * SECOND_NS for each in seconds]
    inside = events(played([one], FIRST_TS + 2 * SECOND_NS, FIRST_TS + 6 * SECOND_NS))
    assert [(body(each)["ts_recv"] - FIRST_TS) // SECOND_NS for each in inside] == [5, 2, 3]


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


# -- when it is sent -----------------------------------------------------------------------------------------------


def test_pace_follows_the_datas_clock_times_the_speed() -> None:
    for speed in (0.5, 1.0, 10.0, 1000.0):
        pace = Pace(speed)
        assert pace.wait_s(T0, 100.0) == 0.0
        assert pace.wait_s(T0 + SECOND_NS, 100.0) == pytest.approx(1 / speed)
        assert pace.wait_s(T0 + SECOND_NS, 100.0 + 0.5 / speed) == pytest.approx(0.5 / speed)
        assert pace.wait_s(T0 + SECOND_NS, 100.001 + 1 / speed) == 0.0


def test_pace_when_held_up_then_catches_up_little_and_goes_on_from_there_after_much() -> None:
    pace = Pace(10.0)
    pace.wait_s(T0, 0.0)
    assert pace.wait_s(T0 + 5 * SECOND_NS, LAG_S) == 0.0
    assert pace.wait_s(T0 + 10 * SECOND_NS, LAG_S) == 0.0
    assert pace.wait_s(T0 + 10 * SECOND_NS, 60.0) == 0.0
    assert pace.wait_s(T0 + 20 * SECOND_NS, 60.0) == pytest.approx(1.0)


def drained(replayer: Replayer, now: float) -> list[bytes]:
    found: list[bytes] = []
    while replayer.wait_s(now) == 0.0:
        found += replayer.take()
    return found


def test_replayer_when_paused_changed_and_resumed_then_the_clock_stands_still_meanwhile(log: tuple[Path, Log]) -> None:
    storage, recorded_log = log
    replayer = Replayer([part(storage)], 0, END, 1.0, "subscribed")
    assert replayer.wait_s(0.0) is None
    replayer.subscribed(10.0)
    assert replayer.wait_s(10.0) == pytest.approx(SETTLE_S)
    now = 10.0 + 2 * SETTLE_S
    got = drained(replayer, now)
    got += drained(replayer, now + 1.0)
    first = replayer.status()["at"]
    replayer.act(Request("pause"), now + 1.0)
    assert replayer.state == "paused" and replayer.wait_s(now + 50.0) is None
    replayer.act(Request("step", 3), now + 60.0)
    taken = drained(replayer, now + 61.0)
    assert len(taken) >= 3 and replayer.wait_s(now + 61.0) is None
    got += taken
    replayer.act(Request("speed", 10.0), now + 100.0)
    replayer.act(Request("resume"), now + 200.0)
    got += drained(replayer, now + 200.0)
    got += drained(replayer, now + 200.5)
    assert first < replayer.status()["at"] <= first + 6 * SECOND_NS
    replayer.act(Request("speed", 0), now + 201.0)
    got += drained(replayer, now + 201.0)
    assert replayer.state == "ended"
    assert got == played([part(storage)])
    assert replayer.status()["sha256"] == hashed(got)
    replayer.act(Request("speed", 2.0), now + 300.0)
    middle = recorded_log.records[300].ts_recv
    assert replayer.act(Request("seek", middle), now + 300.0)
    got = drained(replayer, now + 300.0)
    assert 0 < len(got) < 200
    replayer.act(Request("speed", 0), now + 300.0)
    assert got + drained(replayer, now + 300.0) == played([part(storage)], middle)


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
