"""The archiver's end of a feed's records socket: when it connects, and whether it is told that nothing comes."""

import logging

import zmq

from .endpoint import is_file, socket_file
from .private import secure

log = logging.getLogger("archiver")

AGAIN_S = 1.0
SILENT_S = 5.0
"""Nothing came for so long, not even a heartbeat, and the journal grew: then it is told."""


class RecordsLink:
    """It brings records sooner than the journal is looked at. What it does not bring is read there."""

    def __init__(self, exchange: str, endpoint: str) -> None:
        self._exchange, self._endpoint = exchange, endpoint
        self._connected = False
        self._due_connect = 0.0
        self._refused = ""
        self._missed_since: float | None = None  # the journal has grown since then, and nothing came
        self._told = False

    def connect(self, subscriber: "zmq.Socket[bytes]", now: float) -> None:
        """Connect once, when the directory of the socket is ours alone. `now` is monotonic, in seconds."""
        if self._connected or now < self._due_connect:
            return
        self._due_connect = now + AGAIN_S
        try:
            if is_file(self._endpoint):
                secure(socket_file(self._endpoint))
        except OSError as error:
            if self._refused != str(error):
                log.error("%s not connected to %s: %s", self._exchange, self._endpoint, error)
            self._refused = str(error)
            return
        subscriber.connect(self._endpoint)
        self._connected = True

    def heard(self) -> None:
        """Something came."""
        self._missed_since = None
        if self._told:
            self._told = False
            log.info("%s records come over %s again", self._exchange, self._endpoint)

    def missed(self, now: float) -> None:
        """The journal has records that did not come."""
        if self._missed_since is None:
            self._missed_since = now
        elif now - self._missed_since >= SILENT_S and not self._told:
            self._told = True
            log.warning(
                "%s nothing comes over %s: archiving out of the journal, nothing is lost; see that feed.records (or "
                "TMPDIR) is the same for feed and archiver, and that the feed could bind it",
                self._exchange, self._endpoint,
            )  # fmt: skip
