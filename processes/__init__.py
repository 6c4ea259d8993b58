"""The daemons: one module, one process."""

import contextlib
import signal

with contextlib.suppress(ValueError):  # not in the main thread: it is no process that begins
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until `run_service` takes it: a terminal that goes ends no recording
