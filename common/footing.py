"""Where recordings may lie: a local file system on which locks, renames and synced directories are what they say.

What is promised over a kill or a loss of power rests on `flock`, on `rename` within a directory, and on `fsync` of
files and directories. Network file systems keep only some of it.
"""

import contextlib
import fcntl
import os
import sys
from pathlib import Path

from .process import ConfigError

NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse"}
)
"""Types of file systems, as Linux names them, on which nothing is recorded."""

ANYWHERE = "TRADE_ARCHIVIST_ANYWHERE"
"""Names the environment variable that, set to 1, takes the responsibility over: nothing is refused."""

MOUNTS = Path("/proc/self/mountinfo")


def check_footing(directory: Path) -> None:
    """Raise ConfigError, with the reason, where a recorder must not write."""
    if os.environ.get(ANYWHERE) == "1":
        return
    mend = f"record on a local disk of Linux, or set {ANYWHERE}=1 and have no promise for kills and power losses"
    if (why := _why_not(directory)) is not None:
        raise ConfigError(f"{directory}: {why}: {mend}")


def _why_not(directory: Path) -> str | None:
    if sys.platform != "linux":
        return f"recording is for Linux, this is {sys.platform}, where a sync does not reach the disk"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        kind = file_system(MOUNTS.read_text(errors="replace"), directory.stat().st_dev)
        if kind in NETWORK:
            return f"it lies on a network file system ({kind})"
        return _probe(directory)
    except OSError:
        return None  # whoever writes there first says what is wrong, and a full disk is not


def file_system(mounts: str, device: int) -> str:
    """The type of a device's file system, by the text of `/proc/self/mountinfo`; empty where it is not told."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) > 2 and fields[2] == number:
            return after.split(" ", 1)[0]
    return ""


def _probe(directory: Path) -> str | None:
    """Try out what is relied on, with a file that nobody else has."""
    probe = directory / f".probe-{os.getpid()}"
    try:
        with probe.open("w") as one, probe.open("w") as other:
            if probe.with_name(probe.name.upper()).exists():
                return "its file system does not tell capital letters from small ones, and symbols do"
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return "its file system gives one lock to two"
    finally:
        probe.unlink(missing_ok=True)
    return None
