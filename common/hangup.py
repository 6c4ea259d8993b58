"""SIGHUP, which a terminal that goes sends to all that was begun there: it ends no recording."""

import signal

WAS_IGNORED = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
"""As after `nohup`."""


def ignore() -> None:
    """Until `run_service` takes over."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def restore() -> None:
    """For a program that this process becomes: an ignored signal stays ignored."""
    if not WAS_IGNORED:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
