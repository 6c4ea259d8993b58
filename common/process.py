"""What every process does alike: arguments, logging, signals, exit codes, locks, and ending with its supervisor."""

import contextlib
import ctypes
import fcntl
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, Protocol

from .disk import kind, open_file

log = logging.getLogger("process")

EXIT_OK = 0
EXIT_CRASH = 1
EXIT_CONFIG = 2
"""Wrong configuration: supervisord does not try again."""

CRASH_PAUSE_S = 1.0
"""A crash waits so long before it exits, so that a supervisor that restarts at once does not spin."""

SUPERVISOR_VARIABLE = "TRADE_ARCHIVIST_SUPERVISOR"
"""Names the environment variable that tells the supervisor: its process id, or the file that holds it."""

LATENCY_DEVICE = "/dev/cpu_dma_latency"

LOCK_WAIT_S = 3.0
"""How long a start waits for a lock: an orphan of a killed supervisor ends within one second."""

FILES_ENOUGH = 1_000_000
"""What no limit counts as."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_MMAP_THRESHOLD_MAX = 32 * 1024**2


class ConfigError(Exception):
    """The user's to mend; the message names file, key and the mend. Ends a process with EXIT_CONFIG."""


class LockedError(Exception):
    """Something is in the way that ends by itself: another process does this job, the clock is not set yet.

    Ends a process with EXIT_CRASH, so that a supervisor tries again.
    """


class Service(Protocol):
    """What a process does. Who has a `reload` method, too, is told of SIGHUP by it, at any time since it was made."""

    def run(self) -> None: ...
    def stop(self) -> None: ...


def resident_bytes() -> int:
    """The memory that this process takes; 0 where the system does not tell it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, LookupError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def files_max() -> int:
    """How many files and connections this process may have open; the limit is raised as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return FILES_ENOUGH if soft == resource.RLIM_INFINITY else soft


def keep_freed_memory(size: int) -> None:
    """Let malloc keep so much of what was freed, instead of giving buffers of some MB back to the system each time.

    To have them anew costs more than to fill them. Of glibc alone: elsewhere it does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, size)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_MAX)


def give_back_memory() -> None:
    """Give the system what malloc keeps of what was freed. Of glibc alone: elsewhere it does nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def cores_awake() -> Iterator[OSError | None]:
    """Keep the cores from falling asleep while the block runs (Linux's PM QoS); gives why that cannot be, if so."""
    with contextlib.ExitStack() as stack:
        reason = None
        try:
            file = os.open(LATENCY_DEVICE, os.O_WRONLY)
            stack.callback(os.close, file)
            os.write(file, bytes(4))  # µs to wake up in, as an integer of 32 bits; it holds as long as the file is open
        except OSError as error:
            reason = error
        yield reason


def setup_logging(level: str = "INFO") -> None:
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )


def run_service(name: str, make: Callable[[], Service]) -> int:
    """Build a service, run it until it ends or is told to by SIGTERM or SIGINT, and return the exit code.

    SIGHUP ends nothing: a terminal that goes sends it to all that was begun there.
    """
    log = logging.getLogger(name)
    files_max()
    try:
        service = make()
        reload = getattr(service, "reload", lambda: None)
        handlers = {signal.SIGHUP: reload, signal.SIGTERM: service.stop, signal.SIGINT: service.stop}
        previous = {number: signal.signal(number, _calling(act)) for number, act in handlers.items()}
        try:
            service.run()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    except ConfigError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except LockedError as error:
        print(f"{name}: {error}", file=sys.stderr)
        time.sleep(CRASH_PAUSE_S)
        return EXIT_CRASH
    except Exception:
        log.exception("%s crashed", name)
        time.sleep(CRASH_PAUSE_S)
        return EXIT_CRASH
    return EXIT_OK


def _calling(act: Callable[[], object]) -> Callable[..., None]:
    def handle(*_: object) -> None:
        act()

    return handle


class Parent:
    """Tells when the supervisor that started this process is gone, however it died; without a supervisor, never.

    Who dies before this is constructed is missed, unless SUPERVISOR_VARIABLE tells whose child this process is.
    """

    def __init__(self) -> None:
        self._pid = _told_supervisor() or os.getppid()
        self._supervised = SUPERVISOR_VARIABLE in os.environ or "SUPERVISOR_ENABLED" in os.environ

    def is_gone(self) -> bool:
        return self._supervised and os.getppid() != self._pid


def _told_supervisor() -> int | None:
    told = os.environ.get(SUPERVISOR_VARIABLE, "")
    with contextlib.suppress(OSError, ValueError):  # on a full disk, supervisord leaves an empty file
        return int(told if told.isdigit() else Path(told).read_text())
    return None


class Lock:
    """A lock file that this process holds, and its directory with it.

    What keeps others away is the lock on the *directory*; the file only tells who holds it. A second process takes the
    directory first and touches the file after that. So whoever removes the file, or puts another in its place, lets
    nobody in, and `check` may put it back: nobody else can come between.

    A directory can be lost in one way only: it is moved or removed, and another stands under its name. Then the lock is
    on the wrong one, and `check` raises LockedError: its process writes nothing more. Call it before what is written by
    path. Between two calls, the one that has lost its directory may still write there: it must call it more often than
    a process takes to start.
    """

    def __init__(self, path: Path, what: str, directory: int) -> None:
        """`directory` is open, and locked by this process."""
        self._path, self._what, self._directory = path, what, directory
        self._file = _held_file(path, what)

    def check(self) -> None:
        """Put the file back if it was removed. Raises LockedError where the lock is lost, OSError."""
        if _identity(self._path.parent) != _identity(self._directory):
            raise LockedError(
                f"{self._what} stops: {self._path.parent} was moved or removed while it was locked, another process "
                f"may write there now: put it back, or start anew"
            )
        if _identity(self._path) != _identity(self._file):
            with contextlib.suppress(OSError):  # the disk is full: the directory's lock still holds
                self._file, removed = _held_file(self._path, self._what), self._file
                os.close(removed)
                log.warning("%s: %s was removed: put back, it is still held", self._what, self._path)

    def close(self) -> None:
        os.close(self._file)


@contextlib.contextmanager
def lock(path: Path, what: str, wait_s: float = LOCK_WAIT_S) -> Iterator[Lock]:
    """Hold an exclusive lock file, and its directory, while the block runs.

    Raises LockedError when another process keeps it, or when the supervisor is gone: an orphan begins nothing.
    """
    parent = Parent()
    deadline = time.monotonic() + wait_s
    with contextlib.ExitStack() as stack:
        directory = _opened_directory(path.parent, what)
        stack.callback(os.close, directory)
        while True:
            if parent.is_gone():
                raise LockedError(f"{what} is not begun: the supervisor is gone")
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = Lock(path, what, directory)
                break
            except (BlockingIOError, LockedError):
                if time.monotonic() >= deadline:
                    message = f"{what} already runs (process {_holder(path)} holds {path}): stop it first"
                    raise LockedError(message) from None
                time.sleep(0.05)
            except OSError as error:
                raise _cannot_lock(path, what, error) from None
        stack.callback(held.close)
        held.check()  # the directory may have been moved before it was locked
        yield held


def _opened_directory(path: Path, what: str) -> int:
    try:
        path.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _cannot_lock(path, what, error) from None


def _cannot_lock(path: Path, what: str, error: OSError) -> LockedError:
    """Something else has the name of a lock or its directory, or its disk is not mounted."""
    return LockedError(f"{what} is not begun: {path} is {kind(path)} and cannot be locked: {error.strerror}")


def _held_file(path: Path, what: str) -> int:
    """The lock file, open, locked, and with our process id in it. Raises LockedError, OSError."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(file, 0)
        os.write(file, b"%d\n" % os.getpid())
    except BlockingIOError:
        os.close(file)
        raise LockedError(f"{what} stops: process {_holder(path)} holds {path} now") from None
    except OSError:
        os.close(file)
        raise
    return file


def _holder(path: Path) -> str:
    """The process that a lock file names."""
    with contextlib.suppress(OSError), open_file(path) as file:
        return file.read().decode(errors="replace").strip() or "unknown"
    return "unknown"


def _identity(place: Path | int) -> tuple[int, int] | None:
    """Which file or directory this is, whatever its name; None where there is none."""
    try:
        found = os.stat(place)  # noqa: PTH116 an open file too, which a Path is not
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def end_at_once(name: str, error: LockedError) -> NoReturn:
    """End this process as a kill would: after a lost lock, nothing that cleans up may write."""
    print(f"{name}: {error}", file=sys.stderr, flush=True)
    os._exit(EXIT_CRASH)


def holds(path: Path, pid: int) -> bool:
    """Whether a process holds a lock file now. It is tried out for a moment, which `lock` waits for. Raises OSError."""
    with open_file(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() == str(pid).encode()
    return False


def boot_id() -> str:
    """What tells one boot of this machine from the next; empty where that cannot be known (then none is trusted)."""
    if override := os.environ.get("TRADE_ARCHIVIST_BOOT_ID"):
        return override
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
