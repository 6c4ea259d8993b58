"""The socket between feed and archiver: without it nothing is lost and it is told, and nobody else's records get in."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from common.config import ArchiveConfig, Config
from common.disk import Disk
from common.journal import Journal
from common.keeper import JournalKeeper
from common.normaliser import Normaliser
from common.private import private_dir, secure
from common.recorder import Recorder
from common.storage import Archived, write_archived
from tests.archives import trade
from tests.pipeline import Pipeline, archived, until
from tests.record_logs import ADAPTER
from tests.standin_client import ROOT

Make = Callable[..., Pipeline]
GENERATED = ("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "200")
RECORDS = "TRADE_ARCHIVIST_FEED__BINANCE__RECORDS"
NOBODY = 65534
FORGED = b'"p":"0.66600000"'

FORGER = """
import os, sys, time, zmq
from pathlib import Path
endpoint, archived, uid = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
from common.storage import read_archived
from common.disk import Disk
from tests.archives import trade
os.setuid(uid)
path = Path(endpoint.removeprefix("ipc://"))
if endpoint.startswith("ipc://"):
    path.parent.mkdir(exist_ok=True)
socket = zmq.Context().socket(zmq.PUB)
socket.bind(endpoint)
if endpoint.startswith("ipc://"):
    path.chmod(0o777)
print("bound", flush=True)
while True:
    complete = read_archived(Disk(), archived).complete
    line = trade(complete + 1, 1_900_000_000_000_000_000).replace(b'"p":"61837.64000000"', b'"p":"0.66600000"')
    assert b"0.666" in line
    socket.send(b"binance/records " + line)
    socket.send(b"binance/records " + b"no record at all")
    socket.send(b"binance/heartbeat no JSON")
    time.sleep(0.001)
"""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory of everybody, as /tmp is."""
    with tempfile.TemporaryDirectory(prefix="ta-", dir="/tmp") as directory:
        Path(directory).chmod(0o1777)
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Callable[[str, Path, int], None]]:
    """Starts a process that sends forged records from an endpoint, as a user."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(endpoint: str, exchange_dir: Path, uid: int) -> None:
        command = [sys.executable, "-c", FORGER, endpoint, str(exchange_dir), str(uid)]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == b"bound\n"

    yield begin
    for each in started:
        each.send_signal(signal.SIGKILL)
        each.wait()
        assert each.stdout is not None
        each.stdout.close()


def goes_on(pipeline: Pipeline) -> None:
    """The archive takes what is recorded from now on."""
    behind = pipeline.journal_last()
    until(lambda: pipeline.complete() > behind + 200, "the archiver takes what comes")


def count(pipeline: Pipeline, text: str) -> int:
    return pipeline.log.read_text().count(text)


def assert_nothing_forged(pipeline: Pipeline) -> None:
    pipeline.wait_archived()
    pipeline.stop()
    pipeline.verify()
    records = archived(pipeline.exchange_dir)
    assert records and not any(FORGED in (record.payload or b"") for record in records)


def test_an_archiver_without_its_socket_archives_the_journal_and_tells_so_until_it_comes_back(
    short: Path, make: Make
) -> None:
    pipeline = make(*GENERATED)
    pipeline.start("archiver", **{RECORDS: f"ipc://{short}/other"})
    pipeline.start("feed", **{RECORDS: f"ipc://{short}/records"})
    goes_on(pipeline)
    until(lambda: count(pipeline, f"nothing comes over ipc://{short}/other"), "it is told")
    goes_on(pipeline)
    assert count(pipeline, "nothing comes over") == 1
    pipeline.kill("feed")
    pipeline.start("feed", **{RECORDS: f"ipc://{short}/other"})
    until(lambda: count(pipeline, f"come over ipc://{short}/other again"), "the socket is back")
    goes_on(pipeline)
    assert count(pipeline, "nothing comes over") == 1
    assert_nothing_forged(pipeline)


def test_records_that_the_journal_does_not_hold_are_not_archived(
    short: Path, make: Make, forge: Callable[[str, Path, int], None]
) -> None:
    pipeline = make(*GENERATED)
    forge(f"ipc://{short}/forged", pipeline.exchange_dir, os.geteuid())
    pipeline.start("archiver", **{RECORDS: f"ipc://{short}/forged"})
    until(lambda: count(pipeline, "brings what is not in the journal"), "it is told")
    pipeline.start("feed", **{RECORDS: f"ipc://{short}/records"})
    goes_on(pipeline)
    goes_on(pipeline)
    assert_nothing_forged(pipeline)
    assert count(pipeline, "Traceback") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_socket_in_the_temporary_directory_is_not_used_and_recording_goes_on(
    short: Path, make: Make, forge: Callable[[str, Path, int], None]
) -> None:
    pipeline = make(*GENERATED)
    pipeline.storage = short / ("long" * 25)
    pipeline.exchange_dir, pipeline.journal = pipeline.storage / "binance", pipeline.storage / ".journal/binance"
    endpoint = Config(archive=ArchiveConfig(storage=pipeline.storage)).records_endpoint("binance")
    assert endpoint.startswith(f"ipc://{short}/")
    forge(endpoint, pipeline.exchange_dir, NOBODY)
    pipeline.start()
    goes_on(pipeline)
    assert_nothing_forged(pipeline)
    assert count(pipeline, f"not connected to {endpoint}: {private_dir()} is not a directory of this user alone") == 1
    assert count(pipeline, "until then the archiver reads the journal") == 1


@pytest.mark.parametrize("what", ["of another user", "open to others", "link", "file"])
def test_secure_when_the_directory_is_not_ours_alone_then_it_is_refused(short: Path, what: str) -> None:
    directory = private_dir()
    assert directory.parent == short
    if what == "link":
        (short / "elsewhere").mkdir(0o700)
        directory.symlink_to(short / "elsewhere")
    elif what == "file":
        directory.write_bytes(b"")
    else:
        directory.mkdir(0o700)
        if what == "open to others":
            directory.chmod(0o770)
        elif os.geteuid() == 0:
            os.chown(directory, NOBODY, NOBODY)
        else:
            pytest.skip("only root can give a directory away")
    with pytest.raises(PermissionError, match="not a directory of this user alone"):
        secure(directory / "records.ipc")


def test_secure_when_nothing_is_there_then_makes_a_directory_for_us_alone(short: Path) -> None:
    for _ in range(2):
        secure(private_dir() / "records.ipc")
    assert private_dir().stat().st_mode & 0o777 == 0o700
    secure(short / "of the user's choice")
    assert [path.name for path in short.iterdir()] == [private_dir().name]


def test_the_feed_tells_once_when_a_quarter_and_when_half_of_the_journals_bound_is_not_archived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "binance"
    directory.mkdir()
    lines = [trade(seq) for seq in range(1, 401)]
    size = sum(map(len, lines))
    journal = Journal(Disk(), tmp_path / "journal", "binance", boot_id="", segment_bytes=size // 8, max_bytes=size)
    journal.next = 1
    keeper = JournalKeeper(
        Disk(), journal, Recorder(ADAPTER, Normaliser(ADAPTER), journal, lambda _: None, lambda _: None), directory
    )
    journal.open(0, Archived())
    first = journal.next
    lines = [trade(first + index) for index in range(400)]
    told: list[tuple[int, int]] = []

    def fill(upto: int) -> None:
        for index in range(journal.next - first, upto):
            journal.append([lines[index]])
            keeper.trim()
            keeper.tell_unarchived()
            if caplog.messages:
                told.append((index, len(caplog.messages)))
                caplog.clear()

    fill(380)
    assert [count for _, count in told] == [1, 1]
    assert 95 <= told[0][0] <= 105 and 190 <= told[1][0] <= 210
    write_archived(Disk(), directory, Archived(first + 370, 0, "", known=True), durable=True)
    fill(400)
    assert len(told) == 2, "what is archived counts no more"
    assert orjson.loads((directory / "archived.json").read_bytes())["complete"] == first + 370
