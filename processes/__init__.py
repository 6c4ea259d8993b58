"""The daemons: one module, one process."""

import sys

from common import hangup

if sys.argv[0] == "-m":  # one of them begins
    hangup.ignore()
