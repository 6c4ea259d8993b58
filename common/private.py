"""A directory for sockets that only this user reaches, where the path of their own place is too long for a socket.

The temporary directory is everybody's: whoever binds a known name in it first is taken for us. Below it, sockets lie in

    /tmp/trade-archivist-UID/    owned by this user, mode 0700, no link

and one that is not so is not used: nobody else can put anything into it or take its name, while the temporary directory
has the sticky bit, as everywhere.
"""

import contextlib
import os
import stat
import tempfile
from pathlib import Path


def private_dir() -> Path:
    """Where it lies; it may not be there yet."""
    return Path(tempfile.gettempdir()) / f"trade-archivist-{os.geteuid()}"


def secure(path: Path) -> None:
    """Make the private directory, where a socket file is to lie in it. Raises PermissionError where it is not ours."""
    directory = path.parent
    if directory != private_dir():
        return
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(
            f"{directory} is not a directory of this user alone (mode 0700), no socket in it is trusted: remove it, or "
            f"choose a storage directory with a shorter path"
        )
