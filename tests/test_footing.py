"""Where is nothing recorded: network file systems, those that take two names for one, other systems than Linux."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import footing
from common.footing import ANYWHERE, NETWORK, check_footing, file_system
from common.process import EXIT_CONFIG, ConfigError
from tests.pipeline import free_port
from tests.standin_client import ROOT

LINES = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
41 27 0:44 / /mnt/my\\040nas rw,relatime - nfs4 nas:/export rw,vers=4.2
broken line
"""


def test_the_file_system_of_a_device_is_found_in_linuxs_own_words(tmp_path: Path) -> None:
    assert file_system(LINES, os.makedev(254, 0)) == "ext4"
    assert file_system(LINES, os.makedev(0, 44)) == "nfs4"
    assert file_system(LINES, os.makedev(9, 9)) == ""
    found = file_system(footing.MOUNTS.read_text(), tmp_path.stat().st_dev)
    assert found and found not in NETWORK


def test_a_local_disk_is_taken_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    check_footing(tmp_path / "storage" / "binance")
    assert list((tmp_path / "storage" / "binance").iterdir()) == []


def refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with pytest.raises(ConfigError) as raised:
        check_footing(directory)
    monkeypatch.setenv(ANYWHERE, "1")
    check_footing(directory)
    return str(raised.value)


def test_a_network_file_system_is_refused_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path.stat().st_dev
    (mounts := tmp_path / "mountinfo").write_text(
        f"41 27 {os.major(device)}:{os.minor(device)} / {tmp_path} rw - cifs //nas/share rw\n"
    )
    monkeypatch.setattr(footing, "MOUNTS", mounts)
    said = refused(tmp_path, monkeypatch)
    assert said.startswith(f"{tmp_path}: it lies on a network file system (cifs): record on a local disk of Linux")


def test_names_that_differ_in_case_alone_and_locks_that_two_get_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as alike:
        alike.setattr(Path, "exists", lambda self: "PROBE" in self.name)
        assert "does not tell capital letters from small ones" in refused(tmp_path, alike)
    monkeypatch.delenv(ANYWHERE, raising=False)
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert "gives one lock to two" in refused(tmp_path, monkeypatch)


def test_other_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "recording is for Linux, this is darwin" in refused(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["feed", "archiver"])
def test_a_process_refuses_at_its_start(tmp_path: Path, name: str) -> None:
    code = f"import sys; sys.platform = 'darwin'; from processes.{name} import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "binance", "--storage", str(tmp_path / "storage"), "--symbols", "BTCUSDT"]
    listen = ["--publish", f"127.0.0.1:{free_port()}"]
    done = subprocess.run([*command, *listen], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == EXIT_CONFIG and "recording is for Linux, this is darwin" in done.stderr
    assert done.stderr.count("\n") == 1
