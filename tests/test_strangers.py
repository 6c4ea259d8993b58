"""Clients that mean no good, on every bound socket: no process grows by 50 MB, and all others are served on."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq

from tests.pipeline import Live, Pipeline, free_port, until
from tests.standin_client import ROOT, Standin
from tests.strangers import Memory, branches, chains, connected, frame, greeting, names, pour, subscription

MARKET = ("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "200", "--seed", "7")
GROWN_MAX_MB = 50
HUGE = 4 * 2**30
HUGE_COMMAND = [bytes([6]) + HUGE.to_bytes(8, "big"), *[bytes(1 << 20)] * 100]
HUGE_NAME = [bytes([2]) + (40 << 20).to_bytes(8, "big") + b"\1", *[os.urandom(1 << 20)] * 40]

Make = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pipeline, Live, list[int]]]:
    """A feed that records, with a subscriber, and its ports: events and records."""
    records = free_port()
    standin = Standin(*MARKET)
    pipeline = Pipeline(
        tmp_path_factory.mktemp("attacked"), standin, FEED__BINANCE__RECORDS=f"tcp://127.0.0.1:{records}"
    )
    live = Live(pipeline.endpoint)
    try:
        pipeline.start("feed")
        until(lambda: len(live.messages) > 200, "the feed records")
        yield pipeline, live, [int(pipeline.endpoint.rpartition(":")[2]), records]
        pipeline.stop()
        assert "Traceback" not in pipeline.log.read_text()
    finally:
        live.close()
        pipeline.end()
        standin.stop()


def wait_more(live: Live, count: int = 200) -> None:
    begun = len(live.messages)
    until(lambda: len(live.messages) >= begun + count, "events go on", 20)


ATTACKS: dict[str, tuple[Callable[[], Iterable[bytes]], int]] = {
    "a command of 4 GB": (lambda: HUGE_COMMAND, 8 << 20),
    "a subscription of 40 MB": (lambda: HUGE_NAME, 8 << 20),
    "550,000 subscriptions": (lambda: names(550_000), 9 << 20),
    "subscriptions that branch": (lambda: branches(100_000), 9 << 20),
    "subscriptions that share nothing": (lambda: chains(80_000, 250), 9 << 20),
    "subscriptions taken back": (lambda: [(subscription(b"x") + frame(b"\0x")) * 10_000] * 200, 9 << 20),
}


@pytest.mark.parametrize("at", [0, 1], ids=["events", "records"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_feed_when_a_client_sends_without_end_then_it_alone_is_disconnected(
    feed: tuple[Pipeline, Live, list[int]], attack: str, at: int
) -> None:
    """Each took 200 MB to 4 GB, or all of the feed's time, and kept it."""
    pipeline, live, ports = feed
    pieces, sent_max = ATTACKS[attack]
    with Memory(pipeline.pid("feed")) as memory:
        assert pour(ports[at], pieces()) < sent_max, "it is disconnected"
        wait_more(live)
    assert memory.grown < GROWN_MAX_MB


def test_feed_when_twenty_clients_attack_at_once_then_capture_goes_on(feed: tuple[Pipeline, Live, list[int]]) -> None:
    _, live, (port, _) = feed
    with ExitStack() as stack:
        open_ = [stack.enter_context(connected(port)) for _ in range(20)]
        for number, plain in enumerate(open_):
            plain.setblocking(False)
            for piece in branches(20_000, number):
                try:
                    plain.sendall(piece)
                except OSError:
                    break
        wait_more(live)


def test_feed_when_strangers_hold_more_connections_than_there_are_files_then_it_goes_on_and_others_come_in(
    make: Make,
) -> None:
    """At the usual limit of 1,024 files the feed ended, when it read archived.json, and so at each start."""
    pipeline = make(*MARKET)
    pipeline.start()
    pipeline.wait_archived()
    subprocess.run(["prlimit", f"--pid={pipeline.pid('feed')}", "--nofile=256"], check=True)
    port = int(pipeline.endpoint.rpartition(":")[2])
    with ExitStack() as stack:
        for number in range(400):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            if number % 2:
                idle.sendall(greeting())
        live = Live(pipeline.endpoint)
        stack.callback(live.close)
        wait_more(live)
        until(lambda: len(list(Path(f"/proc/{pipeline.pid('feed')}/fd").iterdir())) < 160, "most are disconnected")
    pipeline.wait_archived()
    pipeline.stop()
    assert "Traceback" not in pipeline.log.read_text()


def test_feed_when_more_come_than_it_is_configured_for_then_those_that_said_least_go(make: Make) -> None:
    pipeline = make(*MARKET, FEED__BINANCE__EVENTS_CLIENTS="12")
    pipeline.start()
    pipeline.wait_archived()
    live = Live(pipeline.endpoint)
    with ExitStack() as stack:
        stack.callback(live.close)
        wait_more(live)
        port = int(pipeline.endpoint.rpartition(":")[2])
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(30)]
        until(lambda: "more than 12 are connected" in pipeline.log.read_text(), "it is told")
        until(lambda: sum(map(is_ended, idle)) >= 30 - 12, "the others go")
        wait_more(live)


def is_ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            continue
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def test_feed_when_followers_of_2000_symbols_and_all_channels_come_at_once_then_all_are_subscribed(
    feed: tuple[Pipeline, Live, list[int]],
) -> None:
    pipeline, *_ = feed
    wanted = [b"binance/%s/SYM%04dUSDT " % (b"channel%02d" % at, each) for at in range(14) for each in range(2000)]
    with Memory(pipeline.pid("feed")) as memory, zmq.Context() as context, ExitStack() as stack:
        followers = [stack.enter_context(context.socket(zmq.SUB)) for _ in range(3)]
        for follower in followers:
            follower.linger, follower.sndhwm = 0, 0
            for name in [*wanted, b"binance/heartbeat "]:  # taken in as the last one
                follower.subscribe(name)
            follower.connect(pipeline.endpoint)
        began = time.monotonic()
        for follower in followers:
            assert follower.poll(30_000), "its last subscription has come"
        assert time.monotonic() - began < 20
    assert memory.grown < GROWN_MAX_MB


@pytest.mark.parametrize("attack", ["a command of 4 GB", "a subscription of 40 MB", "550,000 subscriptions"])
def test_replay_when_a_client_sends_without_end_then_it_alone_is_disconnected(
    log: tuple[Path, object], attack: str
) -> None:
    port, control = free_port(), free_port()
    command = [sys.executable, "-m", "processes.replay", "binance", "AAA", "--storage", str(log[0]), "--start", "0"]
    command += ["--bind", f"127.0.0.1:{port}", "--control", f"127.0.0.1:{control}"]
    pieces, sent_max = ATTACKS[attack]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as replay:
        try:
            with zmq.Context() as context, context.socket(zmq.REQ) as asking:
                asking.linger, asking.rcvtimeo = 0, 20_000
                asking.connect(f"tcp://127.0.0.1:{control}")
                asking.send(b'{"op":"status"}')
                assert b'"state"' in asking.recv()
                with Memory(replay.pid) as memory:
                    assert pour(port, pieces()) < sent_max
                    assert pour(control, HUGE_COMMAND, b"REQ") < 8 << 20
                    asking.send(b'{"op":"status"}')
                    assert b'"state"' in asking.recv()
            assert memory.grown < GROWN_MAX_MB
        finally:
            replay.kill()
