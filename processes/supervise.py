"""supervisord for a pipeline in the foreground, which ends cleanly when its terminal goes.

supervisord takes SIGHUP as a restart: without its terminal it cannot open its output again, and stays without children.
Who began it with `nohup` wants it to go on: then SIGHUP is nothing.
"""

import os
import signal
import sys

from supervisor.options import ServerOptions
from supervisor.supervisord import go

from common import hangup


class Options(ServerOptions):  # type: ignore[misc]  # the library has no types
    """supervisord's own, but for what SIGHUP is."""

    def get_signal(self) -> int | None:
        number: int | None = super().get_signal()
        if number != signal.SIGHUP:
            return number
        if hangup.WAS_IGNORED:
            return None
        nowhere = os.open(os.devnull, os.O_RDWR)  # what is still said has no terminal to stand on
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        return signal.SIGTERM


def main() -> int:
    options = Options()
    options.realize(sys.argv[1:], doc=__doc__)
    options.first, options.test = True, False
    go(options)
    options.close_httpservers()
    options.close_logger()
    return 0


if __name__ == "__main__":
    sys.exit(main())
