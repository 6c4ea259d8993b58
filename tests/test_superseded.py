"""A gap that a new run ended is not open for ever, and a process that ended does not look alive."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from common.cli import main
from common.client import Client
from common.disk import Disk
from common.record import encode
from common.storage import Archived, read_archived, write_archived
from common.superseded import ended
from tests.archives import FIRST, FIRST_TS, Archive, trade
from tests.pipeline import DEADLINE_S
from tests.standin_client import ROOT

SECOND = 10**9
SUBSCRIBED = {"subscriptions": {"symbols": ["BTCUSDT"], "channels": ["trade"]}}


def begun(seq: int, last: int, ts: int, **more: Any) -> bytes:
    return encode(seq, ts, "start", head={"last": last}, payload=orjson.dumps({**SUBSCRIBED, **more}))


@pytest.fixture
def killed(tmp_path: Path) -> Archive:
    """A run whose trades are silent when it is killed, and the next one."""
    archive = Archive(tmp_path)
    archive.writer.hole(FIRST, 0)
    silent = orjson.dumps({"state": "open", "reason": "silent"})
    owed = {"ts": FIRST_TS + 2 * SECOND, "topics": {"BTCUSDT": {"trade": FIRST + 1}}}
    archive.take([
        begun(FIRST, 0, FIRST_TS),
        trade(FIRST + 1, FIRST_TS + SECOND),
        encode(FIRST + 2, FIRST_TS + 2 * SECOND, "gap", channel="trade", symbol="BTCUSDT", payload=silent),
        begun(FIRST + 3, FIRST + 2, FIRST_TS + 60 * SECOND, owed=owed),
        trade(FIRST + 4, FIRST_TS + 61 * SECOND, trade_id=FIRST + 2),
        trade(FIRST + 5, FIRST_TS + 62 * SECOND, trade_id=FIRST + 3),
    ])  # fmt: skip
    archive.close()
    return archive


def test_gaps_when_a_start_superseded_one_then_it_has_ended_with_the_next_one_s_id(killed: Archive) -> None:
    with Client(storage=killed.storage) as client:
        gaps = client.gaps("binance", "BTCUSDT", "trade")
        first, *rest = gaps
        assert (first["gap"], first["state"], first["reason"]) == (FIRST + 2, "superseded", "silent")
        assert (first["superseded_by"], first["ts_to"]) == (FIRST + 3, FIRST_TS + 60 * SECOND)
        assert [(gap["gap"], gap["state"], gap["reason"]) for gap in rest] == [
            (FIRST + 3, "open", "restart"), (FIRST + 3, "closed", "restart"),
        ]  # fmt: skip
        for start, end in ((FIRST_TS, FIRST_TS + 3 * SECOND), (FIRST_TS + 30 * SECOND, FIRST_TS + 40 * SECOND)):
            assert client.gaps("binance", "BTCUSDT", "trade", start, end)[0] == first
        live = [event for event in client.slice("binance", "BTCUSDT", "gap") if event["gap"] == FIRST + 2]
        assert [event["state"] for event in live] == ["open"]


def gap(number: int, seq: int, state: str, reason: str) -> dict[str, Any]:
    common = {"symbol": "A", "channels": ["trade"], "ts_recv": seq, "ts_from": None, "ts_to": None}
    return {**common, "gap": number, "seq": seq, "state": state, "reason": reason}


def test_a_gap_that_is_still_filled_is_not_superseded_by_a_gap_of_the_same_run() -> None:
    events = [gap(5, 5, "open", "disconnected"), gap(7, 7, "open", "ids"), gap(5, 9, "backfilled", "disconnected")]
    assert ended(events) == events
    closed = [gap(5, 5, "open", "silent"), gap(5, 6, "closed", "silent"), gap(8, 8, "open", "restart")]
    assert ended(closed) == closed
    again = [gap(5, 5, "open", "unsubscribed"), gap(5, 9, "open", "unsubscribed")]  # a start that goes on with it
    assert ended(again) == again


HOLD = """
import sys, os
from pathlib import Path
from common.process import lock
with lock(Path(sys.argv[1]), "a test"):
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def test_status_when_the_archiver_runs_stops_or_was_of_another_boot_then_says_so(
    killed: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    told = read_archived(Disk(), killed.directory)

    def states(pid: int, boot_id: str) -> dict[str, Any]:
        said = {"archiver": {"pid": pid, "sealing": 0}}
        archived = Archived(told.complete, told.fsynced, boot_id, said, highest=told.highest)
        write_archived(Disk(), killed.directory, archived, durable=False)
        with Client(storage=killed.storage) as client:
            found: dict[str, Any] = client.status()["processes"]["binance"]["archiver"]
        return found

    command = [sys.executable, "-c", HOLD, str(killed.directory / ".archiver.lock")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        running = states(pid, told.boot_id)
        assert (running["state"], running["pid"]) == ("running", pid) and 0 <= running["said_s_ago"] < DEADLINE_S
        assert states(pid + 1, told.boot_id)["state"] == "stopped"  # another one holds it, as an import does
        holder.communicate()
    assert states(pid, told.boot_id)["state"] == "stopped"
    assert states(pid, "another boot")["state"] == "stopped, or on another machine"
    assert main(["status", "--storage", str(killed.storage)]) == 0
    assert "stopped, or on another machine" in capsys.readouterr().out
