"""Answer what is asked about the past: slices, books, gaps, tables, out of the storage directory.

python -m processes.history [binance …] [--conf FILE] [--storage DIR] [--listen HOST:PORT]

ROUTER   binds     history.listen      requests: one JSON frame; replies: a JSON header, then payload frames
ROUTER   binds     a temporary socket  its workers, one request at a time each
child    starts    history.workers     a worker, DEALER: reads the files, normalises
files    reads     archive.storage     everything; it writes nothing

It keeps nothing of a client beyond its reply: several may run on one directory, and each can be killed at any time.
"""

import argparse
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import orjson
import zmq

from common.answers import Answers, failed
from common.bulk import Part
from common.config import Config
from common.curve import Gate
from common.endpoint import bind, is_removed
from common.errors import ArchivistError
from common.guests import Bounds
from common.process import (
    Parent,
    give_back_memory,
    keep_freed_memory,
    resident_bytes,
    run_service,
    setup_logging,
)
from common.requests import PAGE_BYTES_MAX, REQUEST_BYTES_MAX
from common.settings import add_arguments, from_arguments
from common.turns import Turns

log = logging.getLogger("history")

_EXCHANGES = "those whose live events clients are told the endpoints of (default: binance)"

Socket = zmq.Socket[bytes]

POLL_MS = 100
HELD_POLL_MS = 2  # while somebody's turn waits for bytes to be taken
MESSAGES_A_TURN = 100
FRAME_BYTES_MAX = 4 * REQUEST_BYTES_MAX
"""Who sends a longer frame is disconnected before it is in memory; a request that is too large below it is told so."""
CLIENTS = Bounds(FRAME_BYTES_MAX, clients=500, burst_bytes=16 * 1024**2, bytes_s=8 * 1024**2)
REQUESTS_AHEAD = 16
"""Requests of one client that zeromq holds before its connection has to wait."""
REPLIES_MAX = 1_000
"""Replies that one client may leave unread; what comes then is dropped, and it asks again."""
TRACKED_BYTES = 1024
"""Replies from this size on count as unsent until they are gone."""
UNSENT_MAX = 96 * 1024**2
"""Bytes unsent to all clients together from which pages become small."""
PAGE_BYTES_MIN = 64 * 1024
RESIDENT_MAX = 512 * 1024**2
"""Memory of this process at which all connections are closed: replies and waiting requests never take as much."""
KEPT_BYTES = 32 * 1024**2
"""Freed memory that each process keeps for the next replies."""
LOOK_S = 0.2
GIVE_BACK_S = 2.0
"""So long after all connections were closed freed memory is given back at each look: libzmq frees it by and by."""
TRIES = 2
ENVELOPE_MAX = 8
RESPAWN_S = 1.0


@dataclass
class Job:
    """One request: `envelope` is what stood before it, and stands before the reply."""

    client: bytes
    envelope: list[bytes]
    frame: bytes
    tries: int = 0


@dataclass
class Worker:
    name: bytes
    process: BaseProcess
    started: float
    is_ready: bool = False
    job: Job | None = None
    number: int = 0
    since: float = 0.0


@dataclass
class Counts:
    answered: int = 0
    refused: int = 0
    dropped: int = 0
    died: int = 0


class History:
    """The front: takes requests by turns, hands them to the workers, and their replies back."""

    def __init__(self, config: Config) -> None:
        self._config, self._settings = config, config.history
        self._parent = Parent()
        self._stopping = False
        self._turns: Turns[Job] = Turns(self._settings.waiting_max)
        self._workers: dict[bytes, Worker] = {}
        self._jobs = self._names = 0
        self._counts = Counts()
        self._due_start = self._due_look = 0.0
        self._closed_at = -GIVE_BACK_S  # all connections

    def stop(self) -> None:
        self._stopping = True

    def run(self) -> None:
        keep_freed_memory(KEPT_BYTES)
        with ExitStack() as stack:
            context = stack.enter_context(zmq.Context())
            gate = stack.enter_context(Gate(context, self._config.curve))
            self._key = gate.public
            self._front = self._open_front(context, gate, stack)
            self._back = self._router(context, stack)
            self._back_endpoint, self._told_removed = "", False
            stack.callback(self._end_workers)
            self._bind_back(stack)
            log.info("history of %s answers on %s", self._config.archive.storage, self._settings.listen)
            while not self._stopping and not self._parent.is_gone():
                self._turn()
                now = time.monotonic()
                if now < self._due_look:
                    continue
                self._due_look = now + LOOK_S
                if is_removed(self._back_endpoint):
                    self._bind_back(stack)
                if self._is_filled(now):
                    self._front.close(linger=0)
                    self._turns = Turns(self._settings.waiting_max)
                    self._front = self._open_front(context, gate, stack)
            log.info("history ends: %s", self._counts)

    def _open_front(self, context: "zmq.Context[Socket]", gate: Gate, stack: ExitStack) -> Socket:
        endpoint = f"tcp://{self._settings.listen}"
        front = self._router(context, stack)
        front.set(zmq.SNDHWM, REPLIES_MAX)
        front.set(zmq.RCVHWM, REQUESTS_AHEAD)
        gate.secure(front, endpoint, CLIENTS)
        bind(front, endpoint, lambda: not self._stopping, "--listen or history.listen")
        return front

    @staticmethod
    def _router(context: "zmq.Context[Socket]", stack: ExitStack) -> Socket:
        router = context.socket(zmq.ROUTER)
        stack.callback(router.close, linger=0)
        router.set(zmq.ROUTER_MANDATORY, 1)
        return router

    def _bind_back(self, stack: ExitStack) -> None:
        """Bind the workers' socket, in a directory of its own: at first, and where somebody removed that one.

        Workers that are connected stay so, and nothing of theirs is lost. Where there is no room for another directory,
        they answer until the last one is gone. Raises OSError, ZMQError then: the next start looks for one elsewhere.
        """
        try:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="trade-archivist-"))
            self._back.bind(f"ipc://{directory}/workers")
        except (OSError, zmq.ZMQError) as error:
            if not any(worker.is_ready for worker in self._workers.values()):
                raise
            if not self._told_removed:
                log.error("%s was removed, and workers that die are not replaced: %s", self._back_endpoint, error)
            self._told_removed = True
            return
        if self._back_endpoint:
            log.warning("%s was removed: the workers' socket is bound anew", self._back_endpoint)
        self._back_endpoint, self._told_removed = f"ipc://{directory}/workers", False
        for worker in self._workers.values():
            if not worker.is_ready:
                worker.process.kill()  # it looks for the old one

    def _is_filled(self, now: float) -> bool:
        """Whether clients have filled the memory: libzmq holds a message until its last frame, however many there are.

        Nobody can tell whose it is; so all connections are closed, and whoever means well connects and asks again.
        """
        is_much = resident_bytes() >= RESIDENT_MAX
        if is_much or now < self._closed_at + GIVE_BACK_S:
            give_back_memory()  # of many small pieces malloc would keep what the closed connections took
        if not is_much or (resident := resident_bytes()) < RESIDENT_MAX:
            return False
        self._closed_at = now
        log.warning("clients have filled %s MB: all connections are closed", resident // 10**6)
        return True

    # -- one turn ------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Wait for something to do, and do what there is."""
        self._keep_workers()
        self._hand_out()
        poller = zmq.Poller()
        for socket in (self._front, self._back):
            poller.register(socket, zmq.POLLIN)
        for worker in self._workers.values():
            poller.register(worker.process.sentinel, zmq.POLLIN)
        is_held = self._turns.waiting and any(worker.is_ready and not worker.job for worker in self._workers.values())
        poller.poll(HELD_POLL_MS if is_held else POLL_MS)
        self._turns.settle()
        for _ in range(MESSAGES_A_TURN):
            if not self._take_reply():
                break
        for _ in range(MESSAGES_A_TURN):
            if not self._take_request():
                break

    def _take_request(self) -> bool:
        try:
            client, *frames = self._front.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        cut = frames.index(b"") + 1 if b"" in frames else 0
        envelope, rest = frames[:cut], frames[cut:]
        if len(envelope) > ENVELOPE_MAX:
            return True
        job = Job(client, envelope, rest[0] if rest else b"")
        if len(rest) != 1:
            self._refuse(job, "malformed", f"{len(rest)} frames: send one, a JSON object")
        elif len(job.frame) > REQUEST_BYTES_MAX:  # it must not take memory while it waits
            self._refuse(job, "too_large", f"{len(job.frame)} bytes: send at most {REQUEST_BYTES_MAX}, ask in parts")
        elif not self._turns.add(client, job):
            self._refuse(job, "busy", "too many requests are waiting: ask again in a moment")
        return True

    def _hand_out(self) -> None:
        """Give each worker that is free the next request; the one who answered a client before, if it can be had."""
        free = {name: each for name, each in self._workers.items() if each.is_ready and each.job is None}
        while free and (taken := self._turns.take()) is not None:
            _, client, job = taken
            worker = free.pop(client.worker if client.worker in free else next(iter(free)))
            self._jobs += 1
            worker.job, worker.number, worker.since, client.worker = job, self._jobs, time.monotonic(), worker.name
            page_bytes = min(PAGE_BYTES_MAX, max(PAGE_BYTES_MIN, (UNSENT_MAX - self._turns.unsent_bytes) // 4))
            told = orjson.dumps({"number": worker.number, "page_bytes": page_bytes, "about": self._about()})
            self._back.send_multipart([worker.name, told, job.frame])

    def _about(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "listen": self._settings.listen,
            "workers": [worker.process.pid for worker in self._workers.values()],
            "clients": len(self._turns),
            "waiting": self._turns.waiting,
            "unsent_bytes": self._turns.unsent_bytes,
            **vars(self._counts),
        }

    def _take_reply(self) -> bool:
        try:
            name, told, *reply = self._back.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        worker = self._workers.get(name.bytes)
        if worker is None:
            return True
        worker.is_ready = True
        number, parts = orjson.loads(told.bytes)
        if worker.job is not None and number == worker.number:
            job, worker.job = worker.job, None
            self._counts.answered += 1
            frames = [memoryview(frame.buffer) for frame in reply]
            try:  # of a file nothing passes through the worker: the bytes would be copied twice more
                self._reply(job, frames + [memoryview(Part(*part).read()) for part in parts])
            except (ArchivistError, OSError) as error:
                self._refuse(job, getattr(error, "code", "internal"), str(error))
        return True

    def _refuse(self, job: Job, code: str, message: str) -> None:
        self._counts.refused += 1
        self._reply(job, [memoryview(frame) for frame in failed(job.frame, code, message)])

    def _reply(self, job: Job, frames: list[memoryview]) -> None:
        """Send without waiting. Who is gone, or leaves too much unread, does not get it."""
        size = sum(map(len, frames))
        try:
            self._front.send_multipart([job.client, *job.envelope], zmq.NOBLOCK | zmq.SNDMORE)
            if size < TRACKED_BYTES:
                self._front.send_multipart(frames, zmq.NOBLOCK)
            else:
                tracker = self._front.send_multipart(frames, zmq.NOBLOCK, copy=False, track=True)
                self._turns.sent(job.client, lambda: tracker is None or bool(tracker.done), size)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            self._counts.dropped += 1

    # -- workers -------------------------------------------------------------------------------------------------

    def _keep_workers(self) -> None:
        """Start what is missing; what died, or takes too long, is replaced."""
        now = time.monotonic()
        for worker in list(self._workers.values()):
            if worker.job is not None and now - worker.since > self._settings.timeout_s:
                job, worker.job = worker.job, None
                log.warning(
                    "worker %s ended: a request took more than %s s", worker.process.pid, self._settings.timeout_s
                )
                worker.process.kill()
                self._refuse(job, "internal", f"it took more than {self._settings.timeout_s} s: ask for less")
            if not worker.process.is_alive():
                del self._workers[worker.name]
                self._due_start = max(self._due_start, worker.started + RESPAWN_S)
                self._mourn(worker)
        while len(self._workers) < self._settings.workers and now >= self._due_start:
            self._start_worker(now)

    def _mourn(self, worker: Worker) -> None:
        self._counts.died += 1
        log.warning("worker %s died with %s", worker.process.pid, worker.process.exitcode)
        worker.process.close()
        if (job := worker.job) is None:
            return
        job.tries += 1
        if job.tries < TRIES:
            self._turns.add(job.client, job, first=True)
        else:
            self._refuse(job, "internal", "the process that worked on it died, twice: the server's log may say why")

    def _start_worker(self, now: float) -> None:
        self._names += 1
        name = b"worker-%d" % self._names
        endpoints = {exchange: (feed.events, self._key) for exchange, feed in self._config.feeds.items()}
        arguments = (self._back_endpoint, name, os.getpid(), self._config.archive.storage, endpoints)
        os.environ.setdefault("MALLOC_ARENA_MAX", "1")  # the threads that decompress would keep heaps of their own
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=work, args=arguments, daemon=True)
        process.start()
        self._workers[name] = Worker(name, process, now)

    def _end_workers(self) -> None:
        for worker in self._workers.values():
            worker.process.kill()  # it writes nothing
        for worker in self._workers.values():
            worker.process.join()


def work(endpoint: str, name: bytes, parent: int, storage: Path, endpoints: dict[str, tuple[str, str | None]]) -> None:
    """Runs in a worker process: one request at a time, until the front is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    setup_logging()
    keep_freed_memory(KEPT_BYTES)
    answers = Answers(storage, endpoints)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.ROUTING_ID, name)
        socket.connect(endpoint)
        socket.send(b"[0,[]]")
        warming: Iterator[None] | None = answers.warm()
        while os.getppid() == parent:
            if warming is not None and not socket.poll(0):
                warming = None if next(warming, warming) is warming else warming
            elif socket.poll(POLL_MS * 5):
                told, frame = socket.recv_multipart()
                job = orjson.loads(told)
                header, payload = answers.unread(frame, page_bytes=job["page_bytes"], about=job["about"])
                parts = [list(each) for each in payload if isinstance(each, Part)]
                data = [each for each in payload if isinstance(each, bytes)]
                socket.send_multipart([orjson.dumps([job["number"], parts]), header, *data], copy=False)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m processes.history", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("exchanges", nargs="*", default=["binance"], metavar="EXCHANGE", help=_EXCHANGES)
    add_arguments(parser)
    args = parser.parse_args(argv)
    setup_logging(args.log_level)
    return run_service("history", lambda: History(from_arguments(args, args.exchanges)))


if __name__ == "__main__":
    sys.exit(main())
