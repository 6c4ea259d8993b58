"""What the README shows, runs: the blocks below `<!-- test: NAME -->`, on free ports and in a folder of its own."""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from benchmarks.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
DEADLINE_S = 120.0


def blocks() -> dict[str, str]:
    return dict(re.findall(r"<!-- test: (\w+) -->\n```\w+\n(.*?)```", README, re.DOTALL))


@pytest.fixture(scope="module")
def ports() -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme") / "sandbox-dir"


@pytest.fixture(scope="module")
def sandbox(ports: list[int], storage: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The README's first command."""
    listen, events, standin = ports
    environ = os.environ | {
        "TRADE_ARCHIVIST_ARCHIVE__STORAGE": str(storage),
        "TRADE_ARCHIVIST_HISTORY__LISTEN": f"127.0.0.1:{listen}",
        "TRADE_ARCHIVIST_STANDIN__PORT": str(standin),
        "TRADE_ARCHIVIST_FEED__BINANCE__EVENTS": f"tcp://127.0.0.1:{events}",
        "TRADE_ARCHIVIST_FEED__BINANCE__WS_URL": f"ws://127.0.0.1:{standin}",
        "TRADE_ARCHIVIST_FEED__BINANCE__REST_URL": f"http://127.0.0.1:{standin}",
    }
    command = blocks()["sandbox"]
    process = subprocess.Popen(["bash", "-ec", command], cwd=ROOT, env=environ, start_new_session=True)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(DEADLINE_S)


def test_readme_marks_its_blocks() -> None:
    assert set(blocks()) == {"sandbox", "follow", "slice", "join", "replay", "verify", "watch", "ask", "export"}


def test_watching_prints_trades_of_both_symbols(
    sandbox: subprocess.Popen[bytes], ports: list[int], tmp_path: Path
) -> None:
    (tmp_path / "watch.py").write_text(blocks()["watch"].replace("127.0.0.1:9011", f"127.0.0.1:{ports[1]}"))
    command = [str(ROOT / ".venv" / "bin" / "python"), "-u", str(tmp_path / "watch.py")]
    wanted = {"BTCUSDT", "ETHUSDT"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        signal.signal(signal.SIGALRM, lambda *_: watch.kill())
        signal.alarm(int(DEADLINE_S))
        assert watch.stdout is not None
        for line in watch.stdout:
            symbol, side, price, *_ = line.split()
            assert side in ("buy", "sell")
            assert float(price) > 0
            wanted.discard(symbol)
            if not wanted:
                break
        signal.alarm(0)
        watch.kill()
    assert wanted == set()


def run(commands: str) -> str:
    """Run shell lines in the checkout, which must succeed, and give what they print."""
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, f"{commands}{done.stdout}{done.stderr}"
    return done.stdout


def shown(name: str, ports: list[int], storage: Path) -> str:
    """A block, with this run's ports and storage directory."""
    block = blocks()[name].replace("127.0.0.1:9010", f"127.0.0.1:{ports[0]}")
    return block.replace("127.0.0.1:9011", f"127.0.0.1:{ports[1]}").replace("sandbox-dir", shlex.quote(str(storage)))


def wait_for_a_book(ports: list[int]) -> None:
    """Until the sandbox has recorded for some seconds."""
    book = f"{ROOT}/.venv/bin/trade-archivist book binance BTCUSDT --at -4s --server 127.0.0.1:{ports[0]}"
    deadline = time.monotonic() + DEADLINE_S
    while subprocess.run(shlex.split(book), capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, "the sandbox has no book"
        time.sleep(0.5)


def run_script(text: str, folder: Path) -> list[str]:
    """Run a script with the checkout's interpreter, which must succeed, and give the lines that it prints."""
    (folder / "script.py").write_text(text)
    return run(f"{ROOT}/.venv/bin/python {folder}/script.py").splitlines()


def test_following_prints_events_of_the_channels_asked_past_and_live(
    sandbox: subprocess.Popen[bytes], ports: list[int], storage: Path
) -> None:
    printed = run(shown("follow", ports, storage))
    events = [json.loads(line) for line in printed.splitlines()]
    assert len(events) == 10
    assert {event["symbol"] for event in events} == {"BTCUSDT"}
    assert {event["channel"] for event in events} <= {"trade", "quote", "gap"}


def test_the_first_scripts_slice_ask_and_join_what_the_sandbox_records(
    sandbox: subprocess.Popen[bytes], ports: list[int], storage: Path, tmp_path: Path
) -> None:
    wait_for_a_book(ports)
    frames = run_script(shown("slice", ports, storage), tmp_path)
    assert any("whole" in line for line in frames) and any(", 40)" in line for line in frames)
    assert max(map(len, frames)) <= 80  # a terminal
    prices = run_script(shown("ask", ports, storage), tmp_path)
    assert prices and all(float(price) > 0 for price in prices)
    joined = [line.split() for line in run_script(shown("join", ports, storage), tmp_path)]
    assert len(joined) == 1000 and {channel for _, _, channel in joined} == {"trade", "book"}


def test_a_replay_gives_a_plain_subscriber_what_was_recorded(
    sandbox: subprocess.Popen[bytes], ports: list[int], storage: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = shown("replay", ports, storage).replace("127.0.0.1:9100", address).replace("--speed 10", "--speed max")
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.set(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        subscriber.set(zmq.LINGER, 0)
        subscriber.subscribe(b"binance/trade/")
        with subprocess.Popen(["bash", "-ec", f"exec {command}"], cwd=ROOT) as replay:
            subscriber.connect(f"tcp://{address}")
            assert subscriber.recv().startswith(b"binance/trade/BTCUSDT ")
            replay.terminate()


def test_exporting_writes_whole_files(
    sandbox: subprocess.Popen[bytes], ports: list[int], storage: Path, tmp_path: Path
) -> None:
    wait_for_a_book(ports)
    run(shown("export", ports, storage).replace("./export", shlex.quote(str(tmp_path))))
    assert {path.parent.name for path in tmp_path.glob("binance/*/BTCUSDT-*.parquet")} == {"trade", "book"}
    assert list(tmp_path.glob("binance_trades_*_BTCUSDT.csv.gz"))
    assert {path.suffix for path in tmp_path.glob("binance/btcusdt_*")} == {".npz", ".gz"}
    assert list(tmp_path.glob("catalogue/data/order_book_delta/BTCUSDT.BINANCE/*.parquet"))
    assert {path.name for path in (tmp_path / "binance").glob("*.feather")} == {
        "BTC_USDT-trades.feather",
        "BTC_USDT-1m.feather",
    }


def test_what_was_recorded_is_proved_by_the_shown_commands_while_recording_and_after(
    sandbox: subprocess.Popen[bytes], ports: list[int], storage: Path
) -> None:
    wait_for_a_book(ports)
    commands = shown("verify", ports, storage)
    assert "BTCUSDT" in run(commands)
    os.killpg(sandbox.pid, signal.SIGINT)
    sandbox.wait(DEADLINE_S)
    assert "BTCUSDT" in run("\n".join(line for line in commands.splitlines() if "--server" not in line))


def test_the_documented_options_and_keys_exist() -> None:
    """Every `--option` that the README shows is one of the command that it is shown with."""
    helped = run(".venv/bin/python -m processes.archive --help")
    shown = re.findall(r"-m processes\.archive (.*)", README)[-1]
    assert [option for option in re.findall(r"--[a-z-]+", shown) if option not in helped] == []


def test_the_table_of_exchanges_is_what_the_command_prints() -> None:
    shown = README.partition("<!-- trade-archivist exchanges --markdown -->\n")[2].partition("\n<!-- end -->")[0]
    assert shown == run(".venv/bin/trade-archivist exchanges --markdown").strip()
