"""The command `trade-archivist`, as it is run by a shell."""

import base64
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
import zmq

from common import __version__, exchanges
from common.cli import main
from common.codec import lines
from common.normaliser import Normaliser
from common.record import decode, encode
from tests.archives import FIRST, FIRST_TS, ODD, Archive, start, trade, written

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 30.0


def run(*words: object, data: bytes = b"", code: int = 0) -> tuple[bytes, str]:
    """What a command prints on stdout and stderr."""
    command = [sys.executable, "-W", "error", "-m", "common.cli", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, input=data, capture_output=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout, done.stderr.decode()


Told = Callable[..., tuple[str, str]]


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str]) -> Told:
    """The same within this process, for what does not depend on bytes."""

    def told(*words: object, code: int = 0) -> tuple[str, str]:
        assert main([str(word) for word in words]) == code
        return capfd.readouterr()

    return told


@pytest.fixture
def refused(tell: Told) -> Callable[..., str]:
    """The one sentence of a command that fails."""

    def sentence(*words: object, code: int = 2) -> str:
        text = tell(*words, code=code)[1]
        assert text.startswith("trade-archivist: ")
        assert text.count("\n") == 1
        return text

    return sentence


Refused = Callable[..., str]


@pytest.fixture(scope="module", params=["bz2", "zstd"])
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return written(tmp_path_factory.mktemp("storage"), request.param)


def all_files(archive: Archive) -> list[Path]:
    return [path for suffix in (".bz2", ".zst", ".open") for path in archive.files(suffix)]


def all_lines(archive: Archive) -> list[bytes]:
    """Every line of an archive, by number."""
    return sorted((line for path in all_files(archive) for line in lines(path)), key=lambda line: decode(line).seq)


def expected_messages(records: list[bytes], symbols: list[str] | None = None) -> list[bytes]:
    return Normaliser(exchanges.get("binance"), symbols).all_messages([decode(line) for line in records])


# -- cat -----------------------------------------------------------------------------------------------------------


def test_cat_when_nothing_is_chosen_then_prints_the_lines_byte_for_byte(archive: Archive) -> None:
    (path,) = (path for path in archive.files(".open") if path.name.startswith("_-"))
    assert run("cat", path)[0] == path.read_bytes()
    sealed = next(path for path in all_files(archive) if path.suffix != ".open")
    printed = run("cat", path, sealed)[0]
    assert printed == path.read_bytes() + b"".join(line + b"\n" for line in lines(sealed))


def test_cat_when_payloads_are_asked_then_prints_what_was_received_byte_for_byte(archive: Archive) -> None:
    paths = sorted(archive.directory.glob("_/*/_-*.*"))
    payloads = [decode(line).payload for path in paths for line in lines(path) if decode(line).kind == "in"]
    printed = run("cat", "--payload", *paths)[0]
    assert printed == b"".join((payload or b"") + b"\n" for payload in payloads)
    assert {base64.b64encode(payload or b"") for payload in payloads} == set(map(base64.b64encode, ODD))


def test_cat_when_payloads_are_asked_then_control_frames_are_left_out_unless_their_kind_is_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / "00000000000000000001.records"
    path.write_bytes(
        encode(1, FIRST_TS, "in", conn=1, head={"op": "ping"}, payload=b"ping")
        + encode(2, FIRST_TS, "in", conn=1, head={"op": "binary"}, payload=b"\x00binary")
        + encode(3, FIRST_TS, "rest", head={"url": "/x", "status": 200}, payload=b"[1]")
        + encode(4, FIRST_TS, "in", conn=2, symbol="A", payload=b"[2]")
        + encode(5, FIRST_TS, "open", conn=2)
    )
    assert run("cat", "--payload", path)[0] == b"\x00binary\n[2]\n"
    assert run("cat", "--payload", "--kind", "rest,in", path)[0] == b"ping\n\x00binary\n[1]\n[2]\n"
    assert run("cat", "--payload", "--conn", 1, path)[0] == b"\x00binary\n"
    assert run("cat", "--payload", "--symbol", "A", path)[0] == b"[2]\n"
    assert [decode(line).seq for line in run("cat", "--conn", 2, path)[0].splitlines()] == [4, 5]


def test_cat_when_files_are_merged_then_prints_the_log(archive: Archive) -> None:
    printed = run("cat", "--merge", *reversed(all_files(archive)))[0]
    assert printed == b"".join(line + b"\n" for line in all_lines(archive))
    assert printed.count(b"\n") == 601


def test_merge_when_a_file_is_given_sealed_and_open_then_each_record_comes_once(
    archive: Archive, tmp_path: Path
) -> None:
    """They are there together for a moment at each sealing."""
    sealed = [path for path in all_files(archive) if path.suffix != ".open"]
    twins = [tmp_path / f"{number}.open" for number in range(len(sealed))]
    for path, twin in zip(sealed, twins, strict=True):
        twin.write_bytes(b"".join(line + b"\n" for line in lines(path)))
    assert run("cat", "--merge", sealed[0], *twins, *all_files(archive)) == run("cat", "--merge", *all_files(archive))
    assert run("normalise", "binance", *twins, *all_files(archive)) == run("normalise", "binance", *all_files(archive))


def test_merge_when_two_records_of_a_number_differ_then_says_which(tmp_path: Path) -> None:
    paths = [tmp_path / "a.open", tmp_path / "b.open"]
    for path, payload in zip(paths, (b"1", b"2"), strict=True):
        path.write_bytes(encode(1, FIRST_TS, "open", conn=1) + encode(2, FIRST_TS, "in", conn=1, payload=payload))
    printed, said = run("cat", "--merge", *paths, code=1)
    assert printed == paths[0].read_bytes()
    assert f"{paths[1]}: record 2 differs" in said
    assert "record 2 differs" in run("normalise", "binance", *paths, code=1)[1]


def test_cat_when_a_file_is_damaged_then_prints_what_is_before_and_says_where(
    archive: Archive, tmp_path: Path, refused: Refused
) -> None:
    path = next(path for path in all_files(archive) if path.suffix != ".open" and path.name.startswith("BTCUSDT"))
    blocks = orjson.loads((path.parent / "manifest.jsonl").read_bytes().splitlines()[0])["blocks"]
    broken = bytearray(path.read_bytes())
    broken[blocks[2]["offset"] + blocks[2]["bytes"] // 2] ^= 0x10
    copy = tmp_path / path.name
    copy.write_bytes(broken)
    whole = list(lines(path))
    for options in ([], ["--merge"], ["--kind", "in,checkpoint"]):
        printed, text = run("cat", *options, copy, code=1)
        assert printed == b"".join(line + b"\n" for line in whole[: blocks[0]["records"] + blocks[1]["records"]])
        assert text.startswith(f"trade-archivist: {copy} offset {blocks[2]['offset']}: ")
    copy.write_bytes(path.read_bytes()[:-5])
    assert "the file ends in the middle of a block" in refused("cat", copy, code=1)


def test_cat_when_a_line_is_no_record_then_its_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.open"
    path.write_bytes(trade(1) + trade(2) + b"garbage\n" + trade(4))
    printed, text = run("cat", "--kind", "in", path, code=1)
    assert printed == trade(1) + trade(2)
    assert f"{path} line 3: not a record" in text
    assert run("cat", path)[0] == path.read_bytes()


def test_cat_when_nobody_reads_on_then_is_quiet(archive: Archive) -> None:
    words = [str(path) for path in all_files(archive)] * 20
    command = [sys.executable, "-m", "common.cli", "cat", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr.read() == b""


def test_cat_when_a_file_cannot_be_read_then_says_so(tmp_path: Path, refused: Refused) -> None:
    assert "No such file" in refused("cat", tmp_path / "none.open")
    (tmp_path / "a.txt").write_bytes(b"")
    assert "not an archive file" in refused("cat", tmp_path / "a.txt", code=1)


def test_base_install_when_a_zst_is_to_be_read_then_says_what_to_install(tmp_path: Path) -> None:
    """Everything else works without zstandard."""
    archive = written(tmp_path, "zstd")
    path = next(path for path in all_files(archive) if path.suffix == ".zst")
    without = "import sys; sys.modules['zstandard'] = None; from common.cli import main; sys.exit(main())"
    for words in (["cat", str(path)], ["verify", str(tmp_path)]):
        command = [sys.executable, "-c", without, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "install trade-archivist[daemons]" in done.stderr


# -- normalise -----------------------------------------------------------------------------------------------------


def test_normalise_when_given_the_log_then_prints_the_live_messages(archive: Archive) -> None:
    log = b"".join(line + b"\n" for line in all_lines(archive))
    messages = expected_messages(all_lines(archive))
    assert len(messages) > 300
    assert run("normalise", "binance", "--topics", data=log)[0] == b"".join(line + b"\n" for line in messages)
    bodies = b"".join(line.partition(b" ")[2] + b"\n" for line in messages)
    assert run("normalise", "binance", data=log)[0] == bodies
    assert run("normalise", "binance", data=log[:-1])[0] == bodies, "the last line needs no end"
    assert run("normalise", "binance", *all_files(archive))[0] == bodies


def test_normalise_when_one_symbol_is_asked_then_its_file_with_those_of_none_is_enough(archive: Archive) -> None:
    paths = [path for path in all_files(archive) if not path.name.startswith("ETHUSDT")]
    messages = [m for m in expected_messages(all_lines(archive)) if m.startswith(b"binance/trade/BTCUSDT ")]
    printed = run("normalise", "binance", "--topics", "--symbols", "BTCUSDT", *paths)[0].splitlines(keepends=True)
    assert [line for line in printed if b"/trade/" in line[:20]] == [message + b"\n" for message in messages]


def test_normalise_when_a_line_is_no_record_then_names_it_after_what_came_before(tmp_path: Path) -> None:
    log = start(FIRST, 0) + trade(FIRST + 1) + b"\n" + trade(FIRST + 2)
    printed, text = run("normalise", "binance", data=log, code=1)
    assert printed.count(b"\n") == 1
    assert text.startswith("trade-archivist: line 3: not a record")
    (tmp_path / "a.open").write_bytes(log)
    assert f"{tmp_path}/a.open line 3: " in run("normalise", "binance", tmp_path / "a.open", code=1)[1]


def test_normalise_when_the_exchange_is_unknown_then_names_the_known(refused: Refused) -> None:
    assert "known are binance" in refused("normalise", "nasdaq")


def test_normalise_when_the_log_grows_then_prints_at_once() -> None:
    command = [sys.executable, "-m", "common.cli", "normalise", "binance"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(start(FIRST, 0) + trade(FIRST + 1))
        process.stdin.flush()
        assert orjson.loads(process.stdout.readline())["seq"] == FIRST + 1
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0


# -- verify and symbols --------------------------------------------------------------------------------------------


def test_verify_when_run_then_prints_a_summary_and_json(archive: Archive, tell: Told) -> None:
    printed, text = tell("verify", archive.storage)
    assert printed.startswith("binance whole: 9 files (6 sealed), 601 records, ")
    assert text == "", "no progress in a pipe"
    told = orjson.loads(tell("verify", archive.directory, "--json", "--jobs", 1)[0])
    assert told["whole"] is True
    assert told["exchanges"]["binance"]["seq"] == [FIRST, FIRST + 600]


def test_verify_when_damaged_then_exits_1_with_file_offset_and_mend(tmp_path: Path, tell: Told) -> None:
    archive = written(tmp_path)
    path = archive.files(".bz2")[0]
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    printed = tell("verify", tmp_path, code=1)[0]
    assert f"{path} offset 0: the block's checksum is wrong: restore the file from a copy\n" in printed
    assert "binance DAMAGED (1 findings): " in printed
    (finding,) = orjson.loads(tell("verify", tmp_path, "--json", code=1)[0])["exchanges"]["binance"]["findings"]
    assert (finding["file"], finding["offset"]) == (str(path), 0)


def test_verify_when_there_is_nothing_to_prove_then_exits_2(archive: Archive, tmp_path: Path, refused: Refused) -> None:
    assert "no such directory" in refused("verify", tmp_path / "none")
    assert "nothing is archived" in refused("verify", tmp_path)
    assert "no exchange 'okx' in it: there are binance" in refused("verify", archive.storage, "okx")
    (tmp_path / "binance" / "_" / "2026-01").mkdir(parents=True)
    assert "nothing to verify" in refused("verify", tmp_path)


def test_symbols_when_run_then_tells_files_bytes_and_times(archive: Archive, tell: Told) -> None:
    rows = orjson.loads(tell("symbols", "--storage", archive.storage, "--json")[0])["symbols"]
    assert [(row["exchange"], row["symbol"], row["files"]) for row in rows] == [
        ("binance", "BTCUSDT", 3), ("binance", "ETHUSDT", 3), ("binance", None, 3),
    ]  # fmt: skip
    assert rows[2]["first"] == FIRST_TS
    assert sum(row["bytes"] for row in rows) == sum(path.stat().st_size for path in all_files(archive))
    printed = tell("symbols", "binance", "--storage", archive.storage)[0].splitlines()
    assert len(printed) == 4
    assert "2024-08-08T23:00:00Z" in printed[3]
    assert f"{rows[0]['records']} + open" in printed[1]  # the last hour is being written


def test_symbols_when_nothing_is_sealed_then_says_open_instead_of_a_count(tmp_path: Path, tell: Told) -> None:
    archive = Archive(tmp_path)
    archive.begin()
    archive.sync()
    row = orjson.loads(tell("symbols", "--storage", tmp_path, "--json")[0])["symbols"][0]
    assert row["records"] is None and row["open_bytes"] == row["bytes"] > 0
    assert "open" in tell("symbols", "--storage", tmp_path)[0].splitlines()[1].split()


# -- follow --------------------------------------------------------------------------------------------------------


@pytest.fixture
def publisher() -> Iterator[tuple["zmq.Socket[bytes]", str]]:
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.linger = 0
        socket.rcvtimeo = int(DEADLINE_S * 1000)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        yield socket, f"tcp://127.0.0.1:{port}"


def test_follow_when_events_come_then_prints_those_asked_for_until_the_count(
    publisher: tuple["zmq.Socket[bytes]", str],
) -> None:
    socket, endpoint = publisher
    command = [sys.executable, "-m", "common.cli", "follow", "binance", "BTCUSDT", "--channels", "trade"]
    command += ["--events", endpoint, "--count", "2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        subscriptions = {socket.recv() for _ in range(4)}
        assert subscriptions == {
            b"\x01binance/trade/BTCUSDT ", b"\x01binance/gap/BTCUSDT ",
            b"\x01binance/heartbeat/BTCUSDT ", b"\x01binance/heartbeat ",
        }  # fmt: skip
        assert process.stdout is not None
        heartbeats = (b'heartbeat {"at":7}', b'heartbeat/BTCUSDT {"at":7,"topics":{}}')
        event = b'{"exchange":"binance","channel":"trade","symbol":"BTCUSDT","seq":8,"prev":7,"ts_recv":1}'
        for message in (*heartbeats, b"trade/BTCUSDTX {}", b"trade/BTCUSDT " + event):
            socket.send(b"binance/" + message)
        assert process.stdout.readline() == event + b"\n"
        gap = event.replace(b"trade", b"gap").replace(b"8", b"9")
        socket.send(b"binance/gap/BTCUSDT " + gap)
        assert process.stdout.read() == gap + b"\n"
        assert process.wait(DEADLINE_S) == 0


def test_follow_when_interrupted_then_exits_0_and_when_nothing_comes_then_says_so(
    publisher: tuple["zmq.Socket[bytes]", str],
) -> None:
    socket, endpoint = publisher
    program = "import sys; from common import quiet; quiet.QUIET_S = 0.5; from common.cli import main; "
    command = [sys.executable, "-c", program + "sys.exit(main())", "follow", "binance", "BTCUSDT", "--events", endpoint]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert f"not even a heartbeat, from {endpoint}" in process.stderr.readline()
        stop = threading.Event()

        def beat() -> None:
            while not stop.is_set():
                socket.send(b'binance/heartbeat {"at":7}')
                time.sleep(0.05)

        thread = threading.Thread(target=beat)
        thread.start()
        process.send_signal(2)
        assert process.wait(DEADLINE_S) == 0
        stop.set()
        thread.join()


def test_follow_when_arguments_are_wrong_then_says_what_is_known(refused: Refused) -> None:
    assert "known are binance" in refused("follow", "nasdaq", "A")
    assert "unknown channel 'trades'" in refused("follow", "binance", "A", "--channels", "trades")
    assert "name the feed's events" in refused("follow", "binance", "A", "--events", "nowhere")


# -- the command itself --------------------------------------------------------------------------------------------


def test_version_when_asked_then_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"trade-archivist {__version__}\n"
    with pytest.raises(SystemExit, match="2"):
        main(["verify"])
