"""The daemons: one module, one process."""

import signal
import sys

SIGHUP_WAS_IGNORED = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
"""As after `nohup`."""

if sys.argv[0] == "-m":  # one of them begins: a terminal that goes ends no recording before `run_service` takes over
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
