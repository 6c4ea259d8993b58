"""CURVE on real sockets: who has the keys gets the data; who has not gets nothing, and the log says so."""

import contextlib
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from common import curve, settings
from common.cli import main
from common.config import CurveConfig
from common.curve import Gate, KeyPair
from common.guests import SUBSCRIBERS
from common.process import ConfigError
from tests.pipeline import free_port, until
from tests.standin_client import ROOT

Context = zmq.Context["zmq.Socket[bytes]"]
SERVERS = [(zmq.PUB, zmq.SUB), (zmq.XPUB, zmq.SUB), (zmq.ROUTER, zmq.DEALER), (zmq.REP, zmq.REQ)]


@pytest.fixture
def keys(tmp_path: Path) -> CurveConfig:
    made = curve.make(tmp_path / "keys", "mine")
    return CurveConfig(made.server_secret, made.allowed)


def client_pair(keys: CurveConfig, name: str = "mine") -> KeyPair:
    return curve.load(keys.secret_key.parent / "clients" / f"{name}.key_secret")


def server_public(keys: CurveConfig) -> bytes:
    return curve.public_key(keys.secret_key.parent / "server.key")


@pytest.fixture
def context() -> Iterator[Context]:
    with zmq.Context() as made:
        yield made


@contextlib.contextmanager
def served(context: Context, keys: CurveConfig, kind: int = zmq.PUB) -> Iterator[tuple["zmq.Socket[bytes]", str]]:
    with Gate(context, keys) as gate, context.socket(kind) as server:
        server.linger = 0
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        gate.secure(server, endpoint, SUBSCRIBERS)
        server.bind(endpoint)
        yield server, endpoint


@contextlib.contextmanager
def asking(
    context: Context, endpoint: str, kind: int, pair: KeyPair | None, server: bytes
) -> Iterator["zmq.Socket[bytes]"]:
    with context.socket(kind) as client:
        client.linger = 0
        client.set(zmq.RECONNECT_IVL, 10)
        if pair is not None:
            curve.secure_client(client, server, pair)
        if kind == zmq.SUB:
            client.subscribe(b"")
        client.connect(endpoint)
        yield client


def exchange(server: "zmq.Socket[bytes]", client: "zmq.Socket[bytes]") -> bool:
    """Whether a message reaches the client within a moment; asked for, where the client must ask."""
    if client.type in (zmq.REQ, zmq.DEALER):
        with contextlib.suppress(zmq.ZMQError):  # a REQ that has asked already
            client.send(b"ask", zmq.NOBLOCK)
        if server.poll(20):
            frames = server.recv_multipart()
            server.send_multipart(frames)
    else:
        server.send(b"event")
    return bool(client.poll(20))


@pytest.mark.parametrize(("kind", "asks"), SERVERS)
def test_socket_when_the_client_has_its_keys_then_it_gets_what_is_sent(
    context: Context, keys: CurveConfig, kind: int, asks: int
) -> None:
    with (
        served(context, keys, kind) as (server, endpoint),
        asking(context, endpoint, asks, client_pair(keys), server_public(keys)) as client,
    ):
        until(lambda: exchange(server, client), "the client is let in", 10)


@pytest.mark.parametrize(("kind", "asks"), SERVERS)
@pytest.mark.parametrize("wrong", ["no keys", "another server", "unknown"])
def test_socket_when_the_client_has_not_the_keys_then_it_gets_nothing_and_is_told(
    context: Context, keys: CurveConfig, caplog: pytest.LogCaptureFixture, kind: int, asks: int, wrong: str
) -> None:
    stranger = KeyPair(*zmq.curve_keypair())
    pair, server_key, told = {
        "no keys": (None, b"", "it came without keys"),
        "another server": (client_pair(keys), stranger.public, "it has another server's public key"),
        "unknown": (stranger, server_public(keys), f"its key {stranger.public.decode()} is not in {keys.allowed}"),
    }[wrong]
    with (
        caplog.at_level(logging.WARNING),
        served(context, keys, kind) as (server, endpoint),
        asking(context, endpoint, asks, pair, server_key) as client,
    ):
        until(lambda: exchange(server, client) or told in caplog.text, "the refusal is told", 10)
        assert not any(exchange(server, client) for _ in range(10))
    assert caplog.text.count(told) == 1


def test_gate_when_a_client_is_added_or_removed_while_it_runs_then_it_counts_at_the_next_connection(
    context: Context, keys: CurveConfig
) -> None:
    with served(context, keys) as (server, endpoint):
        curve.make(keys.allowed.parent, "second")
        (keys.allowed / "broken.key").write_text("not a key")
        (keys.allowed / "folder.key").mkdir()
        second = client_pair(keys, "second")
        with asking(context, endpoint, zmq.SUB, second, server_public(keys)) as client:
            until(lambda: exchange(server, client), "a new client is let in", 10)
        (keys.allowed / "second.key").unlink()
        with asking(context, endpoint, zmq.SUB, second, server_public(keys)) as client:
            assert not any(exchange(server, client) for _ in range(10))
        (keys.allowed / "mine.key").rename(keys.allowed.parent / "mine.key")
        (keys.allowed / "broken.key").unlink()
        (keys.allowed / "folder.key").rmdir()
        keys.allowed.rmdir()
        with asking(context, endpoint, zmq.SUB, client_pair(keys), server_public(keys)) as client:
            assert not any(exchange(server, client) for _ in range(10))
        keys.allowed.mkdir()
        (keys.allowed.parent / "mine.key").rename(keys.allowed / "mine.key")
        with asking(context, endpoint, zmq.SUB, client_pair(keys), server_public(keys)) as client:
            until(lambda: exchange(server, client), "whoever is allowed again is let in: nothing broke", 10)


def test_gate_without_keys_or_for_a_file_then_the_socket_stays_open(
    context: Context, keys: CurveConfig, tmp_path: Path
) -> None:
    path = f"ipc://{tmp_path}/s"
    tcp = f"tcp://127.0.0.1:{free_port()}"
    for config, endpoint in ((CurveConfig(), tcp), (keys, path)):
        with Gate(context, config) as gate, context.socket(zmq.PUB) as server:
            gate.secure(server, endpoint, SUBSCRIBERS)
            server.bind(endpoint)
            with asking(context, endpoint, zmq.SUB, None, b"") as client:
                until(lambda: exchange(server, client), "an open socket", 10)


def test_secured_socket_when_its_gate_is_gone_then_nobody_gets_in(context: Context, keys: CurveConfig) -> None:
    """libzmq by itself takes any key where no authenticator runs."""
    gate = Gate(context, keys)
    with context.socket(zmq.PUB) as server:
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        gate.secure(server, endpoint, SUBSCRIBERS)
        server.bind(endpoint)
        gate.close()
        with asking(context, endpoint, zmq.SUB, client_pair(keys), server_public(keys)) as client:
            assert not any(exchange(server, client) for _ in range(20))


def test_keys_makes_pairs_that_work_and_says_what_to_put_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "keys"
    assert main(["keys", str(directory), "--name", "alice"]) == 0
    printed = capsys.readouterr().out
    conf = tmp_path / "my.toml"
    conf.write_text("\n".join(re.findall(r"^    (.*)$", printed, re.M)) + '\n[history]\nlisten = "0.0.0.0:9000"\n')
    config = settings.load(conf, ["binance"], {"--symbols": "BTCUSDT"}, {})
    assert config.listen == "0.0.0.0:9000"
    assert config.curve == CurveConfig(directory / "server.key_secret", directory / "allowed")
    assert server_public(config.curve).decode() in printed
    secrets = [path for path in directory.rglob("*") if path.suffix == ".key_secret"]
    assert len(secrets) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    assert [path.name for path in (directory / "allowed").iterdir()] == ["alice.key"]
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    assert main(["keys", str(directory), "--name", "bob"]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert main(["keys", str(directory), "--name", "bob"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["keys", str(directory), "--name", "../bob"]) == 2
    assert main(["keys", str(conf)]) == 2


def test_load_when_a_key_file_is_wrong_then_the_mend_is_told(tmp_path: Path, keys: CurveConfig) -> None:
    for content, told in (
        (b"", "is not a key file"),
        (os.urandom(100), "is not a key file"),
        (keys.secret_key.read_bytes().replace(server_public(keys), b"x" * 40), "is not a key file"),
        ((keys.secret_key.parent / "server.key").read_bytes(), "has no secret key in it"),
    ):
        path = tmp_path / "wrong"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ValueError, match=told):
            curve.load(path)
    keys.secret_key.chmod(0o640)
    with pytest.raises(ValueError, match=f"may be read by others: run chmod 600 {keys.secret_key}"):
        curve.load(keys.secret_key)
    with pytest.raises(ValueError, match="neither a public key of 40 characters nor"):
        curve.public_key("short")
    text = server_public(keys).decode()
    assert curve.public_key(text) == text.encode()


def test_load_when_libzmq_has_no_curve_then_says_what_to_install(
    keys: CurveConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zmq, "has", lambda capability: False)
    conf = keys.allowed.parent / "my.toml"
    conf.write_text(f'[curve]\nsecret_key = "{keys.secret_key}"\nallowed = "{keys.allowed}"')
    with pytest.raises(
        ConfigError, match=r"my.toml: curve.secret_key: this libzmq .* was built without CURVE: install"
    ):
        settings.load(conf, ["binance"], {"--symbols": "BTCUSDT"}, {})
    conf.write_text(f'[curve]\nallowed = "{keys.allowed}"')
    assert not settings.load(conf, ["binance"], {"--symbols": "BTCUSDT"}, {}).curve.is_set


def test_feed_with_keys_then_both_its_sockets_take_only_clients_that_have_theirs(
    tmp_path: Path, context: Context, keys: CurveConfig
) -> None:
    nobody, events, records = (f"127.0.0.1:{free_port()}" for _ in range(3))
    command = [
        sys.executable, "-m", "processes.feed", "binance", f"--storage={tmp_path}/storage", "--symbols=BTCUSDT",
        f"--ws-url=ws://{nobody}", f"--rest-url=http://{nobody}", f"--publish={events.replace('127.0.0.1', '0.0.0.0')}",
    ]  # fmt: skip
    environ = os.environ | {
        "TRADE_ARCHIVIST_FEED__BINANCE__RECORDS": f"tcp://{records}",
        "TRADE_ARCHIVIST_FEED__BINANCE__HEARTBEAT_INTERVAL_S": "0.05",
        "TRADE_ARCHIVIST_CURVE__SECRET_KEY": str(keys.secret_key),
        "TRADE_ARCHIVIST_CURVE__ALLOWED": str(keys.allowed),
    }
    with subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE) as feed:
        try:
            for address in (events, records):
                endpoint = f"tcp://{address}"
                with (
                    asking(context, endpoint, zmq.SUB, None, b"") as without,
                    asking(context, endpoint, zmq.SUB, client_pair(keys), server_public(keys)) as client,
                    context.socket(zmq.SUB) as own,
                ):
                    curve.own_client(own, endpoint, keys)
                    own.subscribe(b"")
                    own.connect(endpoint)
                    assert client.poll(20_000) and own.poll(20_000)
                    assert not without.poll(200)
        finally:
            feed.terminate()
            assert feed.wait(20) == 0
