"""Record one exchange: every frame into the journal, then live as records and as events.

python -m processes.feed binance [--conf FILE]

WebSocket  connects  the exchange            frames; a connection for each 1,024 streams
REST       connects  the exchange            snapshots, missed trades (a helper thread)
signal     SIGHUP                            the symbols of the configuration are read anew
files      writes    feed.journal            every record, before anyone sees it
PUB        binds     feed.records            batches of records, for the archiver
PUB        binds     feed.events             events, one message each, for everyone
"""

import argparse
import contextlib
import gc
import logging
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import orjson
import zmq

from common import exchanges
from common.adapter import Adapter
from common.begin import owed
from common.clock import Clock, why_unset
from common.config import Config
from common.connection import Connection
from common.curve import Gate
from common.disk import Disk
from common.endpoint import SocketFiles, bind
from common.errands import Errands
from common.events import SPARSE, topic
from common.footing import check_footing
from common.guests import SUBSCRIBERS, take_in
from common.journal import Journal, JournalError
from common.keeper import JournalKeeper, archived_at_start
from common.normaliser import Normaliser
from common.process import ConfigError, LockedError, Parent, boot_id, cores_awake, lock, run_service, setup_logging
from common.reader import Reader
from common.recorder import Recorder
from common.schedule import Checkpoints, Heartbeats, Silence
from common.settings import add_arguments, from_arguments
from common.subscription_log import SubscriptionLog
from common.times import iso
from common.wanted import WantedSymbols
from common.wires import Wires

log = logging.getLogger("feed")

TICK_S = 0.05
HOUSEKEEPING_S = 1.0
LINGER_MS = 500  # at a clean stop, for the last events to go out; who does not read holds it up no longer


class Feed:
    """One thread owns sockets, numbers, journal and normaliser; connecting, REST and fsync run beside it."""

    def __init__(self, config: Config, exchange: str, reload: Callable[[], Config] | None = None) -> None:
        self._config, self._settings = config, config.feeds[exchange]
        self._exchange = exchange
        self._adapter = cast(Adapter, exchanges.get(exchange))
        self._parent = Parent()
        self._stopping = False
        read = reload or (lambda: config)  # reads the configuration anew
        self._wanted = WantedSymbols(self._adapter, lambda: read().feeds[exchange], self._goes_on, self._wake)
        self._disk = Disk()
        self._clock = Clock()
        self._normaliser = Normaliser(self._adapter)
        self._told_full = False
        self._told_unknown: list[str] = []

    def stop(self) -> None:
        self._stopping = True

    def reload(self) -> None:
        self._wanted.ask()

    def run(self) -> None:
        directory = self._config.journal_dir(self._exchange)
        if (wrong := why_unset(time.time_ns())) is not None:
            raise LockedError(f"{self._exchange}: {wrong}; nothing is recorded until then")
        check_footing(directory)
        with contextlib.ExitStack() as stack:
            self._lock = stack.enter_context(lock(directory / "lock", f"a feed of {self._exchange}"))
            self._wake_in, self._wake_out = socket.socketpair()
            stack.callback(self._wake_in.close)
            stack.callback(self._wake_out.close)
            self._wake_in.setblocking(False)
            self._bind(stack)
            if not self._name_symbols():
                return
            self._lock.check()  # the names may have taken long
            self._begin(directory)
            if self._settings.busy_poll and (error := stack.enter_context(cores_awake())) is not None:
                log.info("%s busy_poll: cores may fall asleep (as root they would not): %s", self._exchange, error)
            gc.freeze()
            gc.set_threshold(100_000, 50, 100)
            try:
                self._loop()
            finally:
                self._end()

    # -- begin and end -----------------------------------------------------------------------------------------

    def _bind(self, stack: contextlib.ExitStack) -> None:
        context = stack.enter_context(zmq.Context())
        self._gate = stack.enter_context(Gate(context, self._config.curve, self._wake))
        self._files = SocketFiles(log)
        of_events = self._settings.events, self._settings.events_high_water
        of_records = self._config.records_endpoint(self._exchange), self._settings.records_high_water
        self._events, self._records = (self._publisher(context, stack, *each) for each in (of_events, of_records))
        self._records_topic = topic(self._exchange, "records", None)

    def _name_symbols(self) -> bool:
        """Find out which symbols are meant; False where it is stopped before it knows."""
        symbols = self._wanted.begin(self._settings, time.monotonic())
        self._settings = replace(self._settings, symbols=symbols)
        return bool(symbols)

    def _publisher(
        self, context: zmq.Context[zmq.Socket[bytes]], stack: contextlib.ExitStack, endpoint: str, high_water: int
    ) -> zmq.Socket[bytes]:
        publisher = context.socket(zmq.PUB)
        stack.callback(publisher.close)
        publisher.set(zmq.SNDHWM, high_water)
        publisher.set(zmq.LINGER, LINGER_MS)
        self._gate.secure(publisher, endpoint, SUBSCRIBERS._replace(clients=self._settings.events_clients))
        try:
            bind(publisher, endpoint, lambda: not self._stopping, "--publish or feed.events")
        except PermissionError as error:  # a stranger's directory: capture does not wait
            log.error("%s %s; until then the archiver reads the journal", self._exchange, error)
        self._files.add(publisher, endpoint)
        return publisher

    def _begin(self, directory: Path) -> None:
        """Open the journal, append `start`, and set up what works from then on."""
        settings, exchange_dir = self._settings, self._config.exchange_dir(self._exchange)
        self._journal = Journal(
            self._disk, directory, self._exchange,
            boot_id=boot_id(), segment_bytes=settings.journal_segment_bytes, max_bytes=settings.journal_max_bytes,
            report=lambda text: log.warning("%s %s", self._exchange, text),
        )  # fmt: skip
        try:
            opened = self._journal.open(time.time_ns() // 1000, archived_at_start(self._disk, exchange_dir))
        except JournalError as error:
            raise ConfigError(str(error)) from None
        archive = Reader(exchange_dir.parent, self._adapter, self._disk)
        debt = owed(self._disk, directory, self._adapter, opened, archive)
        self._recorder = Recorder(
            self._adapter, self._normaliser, self._journal, self._publish_records, super(zmq.Socket, self._events).send,
            self._settings.checkpoint_bytes,
        )  # fmt: skip  # the events' socket without pyzmq's conveniences: half the time of a send
        self._keeper = JournalKeeper(self._disk, self._journal, self._recorder, exchange_dir)
        of_run = self._adapter, self._normaliser, self._recorder, self._journal, self._stamp
        self._subscriptions = SubscriptionLog(*of_run)
        first_conn = self._subscriptions.begin(opened, settings.symbols, settings.channels, debt)
        self._run_seq = self._subscriptions.run
        how = " (new journal)" if opened.jumped else ""
        log.info("%s run %d begins, last %d%s", self._exchange, self._run_seq, opened.last, how)
        self._set_up(first_conn)

    def _set_up(self, first_conn: int) -> None:
        settings = self._settings
        self._plan()
        self._wires = Wires(
            self._adapter, settings, self._recorder, self._stamp, self._wake, self._remember_open, first_conn
        )
        self._errands = Errands(
            self._adapter, settings, self._recorder, self._normaliser, self._wires, self._stamp, self._wake
        )
        self._errands.begin(time.monotonic(), list(settings.symbols))
        self._errands.start()
        self._silence = Silence(settings.silence_s, time.monotonic())

    def _plan(self) -> list[dict[str, tuple[str, str]]]:
        """What the symbols need: where their frames are filed, when their heartbeats are due; returns their streams."""
        settings, symbols = self._settings, list(self._settings.symbols)
        streams = [self._streams_of(symbol) for symbol in symbols]
        self._streams = {place: name for of_symbol in streams for name, place in of_symbol.items()}
        self._recorder.file_under({(channel, symbol) for channel in self._adapter.CHANNELS for symbol in symbols})
        self._heartbeats = Heartbeats(symbols, settings.heartbeat_interval_s, time.monotonic())
        self._checkpoints = Checkpoints(symbols, settings.checkpoint_s, time.time())
        return streams

    def _streams_of(self, symbol: str) -> dict[str, tuple[str, str]]:
        return self._adapter.streams(symbol, list(self._settings.channels), list(self._settings.candle_intervals))

    def _change_symbols(self, wanted: tuple[str, ...]) -> bool:
        """Add and remove symbols while running: those that stay notice nothing. Raises OSError: nothing is changed.

        False where something of a removed one may still come, taken for the new subscription's: it is added later.
        """
        recorded = frozenset(self._settings.symbols)
        symbols = tuple(each for each in wanted if each in recorded or not self._wires.leaves(self._streams_of(each)))
        streams: list[dict[str, tuple[str, str]]] = []

        def plan() -> None:
            self._settings = replace(self._settings, symbols=symbols)
            streams.extend(self._plan())

        added, removed = self._subscriptions.change(symbols, plan) if symbols else ([], [])
        if added or removed:
            self._wires.carry(streams)
            self._errands.begin(time.monotonic(), list(symbols))
            log.info("%s symbols added: %s; removed: %s", self._exchange, added or "none", removed or "none")
        elif symbols == wanted:
            log.info("%s the symbols are what they were", self._exchange)
        return symbols == wanted

    def _end(self) -> None:
        """Say goodbye, and leave a journal that the next boot of the machine can go on with."""
        self._errands.stop()
        self._wires.close_all("stopped")
        try:
            self._recorder.retry()
            self._keeper.close()
        except OSError as error:
            left = self._recorder.next - self._recorder.published - 1
            log.error("%s %d records in memory are lost, no room for them: %s", self._exchange, left, error)
        log.info("%s stopped at %d", self._exchange, self._recorder.published)

    # -- the loop ----------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        selector = self._wires.selector
        selector.register(self._wake_in, selectors.EVENT_READ, None)
        due_tick = due_house = due_sync = 0.0
        while not self._stopping:
            now = time.monotonic()
            if self._settings.busy_poll:
                os.sched_yield()  # to ZeroMQ's thread above all, which sends what was published
                ready = selector.select(0)
            else:
                ready = selector.select(max(0.0, min(due_tick - now, TICK_S)))
            now = time.monotonic()
            connections = [key.data for key, _ in ready if isinstance(key.data, Connection)]
            if len(connections) < len(ready):
                self._drain_wake()
                due_tick = 0.0
            if connections:
                self._wires.read(now, connections)
            if self._normaliser.actions:
                self._errands.ask(now)
            if now >= due_tick:
                self._tick(now)
                due_tick = now + min(TICK_S, self._settings.heartbeat_interval_s / 20)
            if now >= due_sync:
                due_sync = now + self._settings.fsync_interval_s
                self._keeper.sync()
            if now >= due_house:
                due_house = now + HOUSEKEEPING_S
                if self._parent.is_gone():
                    log.warning("%s the supervisor is gone: stopping", self._exchange)
                    return
                self._keep_house(now)

    def _tick(self, now: float) -> None:
        take_in((self._events, self._records), is_busy=self._gate.is_busy)
        self._wanted.tick(now)
        self._errands.tick(now)
        self._wires.tick(now)
        if self._recorder.is_behind():
            self._wait_for_room()
        for symbol in self._heartbeats.due(now):
            self._heartbeat(symbol)
        for symbol in dict.fromkeys([*self._checkpoints.due(time.time()), *self._recorder.weights.heavy]):
            self._subscriptions.checkpoint(symbol)

    def _keep_house(self, now: float) -> None:
        try:
            if (wanted := self._wanted.take()) is not None and self._change_symbols(wanted):
                self._wanted.done(wanted)
            self._subscriptions.refresh()
        except OSError as no_room:
            log.error("%s a change of the symbols waits for the journal: %s", self._exchange, no_room)
        self._files.keep(now)
        self._tell_clock()
        self._tell_unknown()
        self._keeper.keep(self._lock, self._stamp)
        for symbol, state in self._normaliser.symbols.items():
            for channel, topic_ in state.channels.items():
                if channel not in SPARSE and self._silence.check(now, (channel, symbol), topic_.heard):
                    self._silent(channel, symbol)
        for error, count in self._normaliser.errors.items():
            if count > 0:
                log.error("%s %s (%d times): the records are kept, please report", self._exchange, error, count)
                self._normaliser.errors[error] = 0

    def _tell_clock(self) -> None:
        clock = self._clock
        if (refused := clock.refused) is not None:
            clock.refused = None
            self._recorder.record(self._stamp(), "clock", payload=orjson.dumps({"refused": iso(refused)}))
            log.error("%s %s; times go on by the monotonic clock", self._exchange, why_unset(refused))
        if clock.step:
            payload = orjson.dumps({"step_ns": clock.step})
            clock.step = 0
            self._recorder.record(self._stamp(), "clock", payload=payload)
            log.warning("%s the wall clock was set: %s", self._exchange, payload.decode())

    def _tell_unknown(self) -> None:
        """Record which names of the configuration mean nothing, where that has changed."""
        if (names := list(self._wanted.unknown)) != self._told_unknown:
            self._told_unknown = names
            payload = {"state": "open" if names else "closed", "reason": "unknown names", "names": names}
            self._recorder.record(self._stamp(), "gap", payload=orjson.dumps(payload))

    # -- out ---------------------------------------------------------------------------------------------------

    def _stamp(self) -> int:
        return self._clock.stamp(time.time_ns(), time.monotonic_ns())

    def _publish_records(self, lines: bytes) -> None:
        self._records.send(self._records_topic + lines)

    def _heartbeat(self, symbol: str | None) -> None:
        message = self._recorder.heartbeat(symbol, self._run_seq)
        if message is not None:
            self._events.send(message)
            if symbol is None:
                self._records.send(message)

    def _silent(self, channel: str, symbol: str) -> None:
        name = self._streams.get((channel, symbol))
        if name is None:
            return
        log.warning("%s %s silent: subscribing again", self._exchange, name)
        payload = orjson.dumps({"state": "open", "reason": "silent", "stream": name})
        self._recorder.record(self._stamp(), "gap", channel=channel, symbol=symbol, payload=payload)
        self._wires.resubscribe(name)

    # -- room --------------------------------------------------------------------------------------------------

    def _wait_for_room(self) -> None:
        """The disk is full: what arrives is kept in memory up to a bound, then the connections are closed."""
        self._recorder.retry()
        behind = self._recorder.is_behind()
        if behind and not self._told_full:
            log.error("%s journal: %s; keeping records in memory", self._exchange, self._journal.error)
        if not behind and self._told_full:
            log.warning("%s journal: there is room again, at %d", self._exchange, self._recorder.published)
        self._told_full = behind
        full = self._recorder.backlog_bytes > self._settings.journal_memory_bytes
        if full and not self._wires.paused:
            log.error("%s memory full too: closing the connections until the disk has room", self._exchange)
            self._wires.close_all("no room left")
        self._wires.paused = full or (self._wires.paused and behind)

    # -- between threads ---------------------------------------------------------------------------------------

    def _remember_open(self, next_conn: int, connections: dict[str, str]) -> None:
        self._remember(next_conn=next_conn, connections=connections)

    def _remember(self, **facts: Any) -> None:
        try:
            self._journal.remember(**facts)
        except OSError as error:
            log.error("%s journal: %s", self._exchange, error)

    def _goes_on(self) -> bool:
        return not self._stopping and not self._parent.is_gone()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_out.send(b"!")

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_in.recv(4096)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m processes.feed", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("exchange", metavar="EXCHANGE", help="the exchange to record, for example binance")
    add_arguments(parser)
    args = parser.parse_args(argv)
    setup_logging(args.log_level)

    def read() -> Config:
        return from_arguments(args, [args.exchange])

    return run_service("feed", lambda: Feed(read(), args.exchange, read))


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a helper thread may still be in a connect or REST call: not to be torn down within OpenSSL
