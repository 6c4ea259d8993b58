"""Send past events out of an archive in the live format, at the pace they came, faster, or as fast as they are taken.

python -m processes.replay binance BTCUSDT --start 2024-08-08T23:50 --speed 10 --bind 127.0.0.1:9100
python -m processes.replay binance:BTCUSDT,ETHUSDT okx:BTC-USDT --start … --end … --speed max

PUB    binds  --bind       events and heartbeats as the feeds' (an XPUB: it waits for who is slow)
REP    binds  --control    pause, resume, seek, speed, step, status, stop (common/replay_control.py)
files  reads  --storage    the archive
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence

import zmq

from common import replay_control
from common.codec import CodecError
from common.curve import Gate
from common.errors import BadRequestError
from common.guests import SUBSCRIBERS, Bounds
from common.process import EXIT_CRASH, ConfigError, LockedError, Parent, run_service, setup_logging
from common.record import RecordError
from common.replay_options import Options, checked, nothing, parse_arguments
from common.replayer import Replayer

log = logging.getLogger("replay")

Socket = zmq.Socket[bytes]

HIGH_WATER = 10_000
"""Messages that a subscriber may be behind before all wait for it."""
REQUEST_BYTES_MAX = 64 * 1024
CONTROLLERS = Bounds(REQUEST_BYTES_MAX, clients=100, burst_bytes=4 * 1024**2, bytes_s=64 * 1024)
TAKEN_A_TURN = 1_000
"""Subscriptions and requests that are taken before events are sent again."""
POLL_S = 0.05
BATCH = 256
GOODBYE_S = 0.5


class Replay:
    """One thread: what is due is sent, or the control socket is asked."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._parent = Parent()
        self._stopping = False
        self._held: deque[bytes] = deque()
        self.exit_code = 0

    def stop(self) -> None:
        self._stopping = True

    def run(self) -> None:
        parts, start, end, speed, begin, *_ = self._options
        try:
            self._replayer = Replayer(parts, start, end, speed, begin)
            if self._replayer.is_empty:
                raise ConfigError(nothing(parts, start, end))
            self._serve()
        except (CodecError, RecordError) as error:
            log.error("%s", error)
            self.exit_code = EXIT_CRASH

    def _serve(self) -> None:
        context: zmq.Context[Socket] = zmq.Context()
        gate = Gate(context, self._options.curve)
        try:
            self._sender = _bound(gate, context.socket(zmq.XPUB), self._options.events)
            endpoint = self._options.control
            self._control = None if endpoint is None else _bound(gate, context.socket(zmq.REP), endpoint)
            state = self._replayer.state
            log.info("%s %s", self._options.events, "waits for a subscriber" if state == "waiting" else state)
            self._loop()
            if self._replayer.state == "ended" and not self._stopping:
                self._sender.set(zmq.LINGER, -1)  # who is slow gets everything, unless we are told to stop
        finally:
            gate.close()
            self._close(context)

    def _close(self, context: "zmq.Context[Socket]") -> None:
        ending = threading.Thread(target=context.destroy, daemon=True)
        ending.start()
        ending.join(GOODBYE_S)
        while ending.is_alive() and not self._stopping and not self._parent.is_gone():
            ending.join(POLL_S)

    def _loop(self) -> None:
        poller = zmq.Poller()
        for each in filter(None, (self._sender, self._control)):
            poller.register(each, zmq.POLLIN)
        told_end = False
        while not self._stopping and not self._parent.is_gone():
            self._listen()
            wait_s = 0.0 if self._held else self._replayer.wait_s(time.monotonic())
            if wait_s == 0.0:
                self._send()
                continue
            if self._replayer.state != "ended":
                told_end = False
            elif not told_end:
                told_end = True
                status = self._replayer.status()
                log.info("end: %d messages, sha256 %s", status["sent"], status["sha256"])
                if self._control is None:
                    return
            poller.poll(max(1, int(1000 * min(POLL_S if wait_s is None else wait_s, POLL_S))))

    # -- out -----------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Send what is due, a batch at most. What a slow subscriber has no room for is held, and everything behind."""
        held, replayer, send = self._held, self._replayer, super(zmq.Socket, self._sender).send
        with contextlib.suppress(zmq.Again):
            for _ in range(BATCH):
                if not held:
                    if replayer.wait_s(time.monotonic()) != 0.0:
                        return
                    held.extend(replayer.take())
                while held:
                    send(held[0])
                    held.popleft()

    # -- in ------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Take subscriptions, and answer what is asked."""
        with contextlib.suppress(zmq.Again):
            for _ in range(TAKEN_A_TURN):
                if self._sender.recv(zmq.NOBLOCK)[:1] == b"\1":
                    self._replayer.subscribed(time.monotonic())
        with contextlib.suppress(zmq.Again):
            for _ in range(TAKEN_A_TURN if self._control is not None else 0):
                if self._control is None or self._stopping:
                    return
                self._control.send(self._answer(self._control.recv_multipart(zmq.NOBLOCK)))

    def _answer(self, frames: list[bytes]) -> bytes:
        try:
            request = replay_control.parse(frames, time.time_ns())
            if request.op == "stop":
                self._stopping = True
            elif self._replayer.act(request, time.monotonic()):
                self._held.clear()
        except BadRequestError as error:
            return replay_control.failed(error, frames)
        return replay_control.reply(request, self._replayer.status())


def _bound(gate: Gate, opened: Socket, endpoint: str) -> Socket:
    """A socket that is ready to be bound: an XPUB that waits for who is slow, or the control's."""
    if opened.type == zmq.XPUB:
        opened.set(zmq.LINGER, 0)
        opened.set(zmq.SNDHWM, HIGH_WATER)
        opened.set(zmq.SNDTIMEO, int(POLL_S * 1000))
        opened.set(zmq.XPUB_NODROP, 1)
        opened.set(zmq.XPUB_VERBOSE, 1)
    else:
        opened.set(zmq.LINGER, int(GOODBYE_S * 1000))
    gate.secure(opened, endpoint, SUBSCRIBERS if opened.type == zmq.XPUB else CONTROLLERS)
    try:
        opened.bind(endpoint)
    except zmq.ZMQError as error:
        message = f"{endpoint} cannot be bound ({error}): take another port"
        raise (LockedError if error.errno == zmq.EADDRINUSE else ConfigError)(message) from None
    return opened


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    setup_logging(args.log_level)
    made: list[Replay] = []

    def make() -> Replay:
        made.append(Replay(checked(args)))
        return made[0]

    code = run_service("replay", make)
    return code or (made[0].exit_code if made else code)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a subscriber that takes nothing any more may still hold the context
