"""Real schedules of faults, with processes: the rules of the protocol for the archive and for those who follow.

    python -m tests.soak --seeds 0-299 [--jobs 2] [--keep DIR]
    python -m tests.soak --chaos MINUTES [--seed N] [--keep DIR]     see `chaos.py`

Each seed is a pipeline of its own around a stand-in, what is done to it in some seconds, and then the judgement:
everything that was appended is archived once, byte for byte; nothing of what was sent is missing without a word; what
was live is `normalise(archive)`; consumers that were there all along, came late, or were stalled have the same events;
`verify` finds nothing. A seed prints what it does before it does it; one that fails is run again by its number.
"""

import argparse
import contextlib
import heapq
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from common import following
from common.client import Client
from common.errors import UnavailableError
from common.events import GAP, Event
from common.following import Following
from tests import chaos
from tests.consumers import Consumer, by_topic
from tests.pipeline import Live, Pipeline, events_of, normalised, until
from tests.standin_client import Standin
from tests.supervised import PROCESSES, SUPERVISOR, Supervised
from tests.whole import Witness, assert_archived, assert_live, assert_losses_are_told, assert_sent

SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT")
QUIET = "bnbusdt"
CHANNELS = ("trade", "book", "quote")
STREAMS = [f"{QUIET}@{stream}" for stream in ("trade", "depth@100ms", "bookTicker")]
HIGH_WATER_SMALL = 10
FAULTS_S = 2.5
"""Within this time all faults begin."""
WORDS = ("kill", "kill", "kill", "end", "freeze", "cut", "reset", "close", "drop", "workers", "stall", "late")


class Fault(NamedTuple):
    """What is done to whom at a moment, and how long until it is undone. Both in s."""

    at_s: float
    do: str
    names: tuple[str, ...]
    for_s: float

    def __str__(self) -> str:
        return f"{self.at_s} {self.do}{''.join(' ' + name for name in self.names)} {self.for_s}"


@dataclass(frozen=True)
class Schedule:
    """What a seed says."""

    seed: int
    supervised: bool  # as users run it, under supervisord
    drops: bool  # every socket of live events holds so little that it drops some
    codec: str
    faults: list[Fault]

    @classmethod
    def of(cls, seed: int) -> "Schedule":
        rng = random.Random(seed)
        supervised, drops, codec = rng.random() < 0.25, rng.random() < 0.3, rng.choice(["bz2", "zstd"])
        faults = [_fault(rng, supervised=supervised) for _ in range(rng.randrange(2, 7))]
        return cls(seed, supervised, drops, codec, sorted(faults))

    def __str__(self) -> str:
        traits = [self.codec, *(["supervised"] if self.supervised else []), *(["drops"] if self.drops else [])]
        return f"seed {self.seed}: {' '.join(traits)}: {', '.join(map(str, self.faults))}"


def _fault(rng: random.Random, *, supervised: bool) -> Fault:
    do = rng.choice(WORDS)
    processes = (*PROCESSES, SUPERVISOR) if supervised else PROCESSES
    names: tuple[str, ...] = ()
    if do == "end" and supervised:  # what ends by itself stays away there: its supervisor is told to end
        names = (SUPERVISOR,)
    elif do in ("kill", "end", "freeze"):
        names = tuple(rng.sample(processes, rng.choice([1, 1, 2, len(processes)])))
    elif do == "workers":
        names = (rng.choice(["archiver", "history"]),)
    return Fault(round(rng.uniform(0, FAULTS_S), 2), do, names, round(rng.uniform(0, 0.8), 2))


@dataclass
class Run:
    """One schedule on a pipeline."""

    schedule: Schedule
    pipeline: Pipeline
    client: Client
    first: int = 0  # the number after which consumers begin
    frozen: set[str] = field(default_factory=set)
    consumers: dict[str, Consumer] = field(default_factory=dict)

    def follow(self, name: str, *, strict: bool) -> None:
        """Begin a consumer, in its own thread, which tries again while history is away."""

        def begin() -> Following:
            while True:
                with contextlib.suppress(UnavailableError):
                    return self.client.follow(
                        "binance", SYMBOLS, CHANNELS, after=self.first, strict=strict, tell=_silently
                    )

        self.consumers[name] = Consumer(begin, strict=strict)

    def play(self) -> None:
        """Do what the schedule says, at its times, and undo it."""
        began = time.monotonic()
        todo = [(fault.at_s, place, self.do, fault) for place, fault in enumerate(self.schedule.faults)]
        while todo:
            at_s, place, act, fault = heapq.heappop(todo)
            time.sleep(max(0.0, began + at_s - time.monotonic()))
            act(fault)
            if act == self.do:
                heapq.heappush(todo, (time.monotonic() - began + fault.for_s, place, self.undo, fault))

    def do(self, fault: Fault) -> None:
        pipeline = self.pipeline
        running = [name for name in fault.names if pipeline.pid(name)]
        if fault.do in ("kill", "end"):
            self.thaw(self.frozen if SUPERVISOR in running else running)  # who is frozen does not end
            pipeline.kill(*running, signal_number=signal.SIGKILL if fault.do == "kill" else signal.SIGTERM)
        elif fault.do == "freeze":
            self.frozen.update(running)
            pipeline.kill(*running, signal_number=signal.SIGSTOP)
        elif fault.do == "workers":
            for pid in pipeline.workers(fault.names[0]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        elif fault.do == "stall":
            self.consumers["stalled"].stall()
        elif fault.do == "late":
            self.follow(f"late{len(self.consumers)}", strict=len(self.consumers) % 2 == 0)
        elif fault.do == "drop":
            pipeline.standin.fault(do="drop", symbol="BTCUSDT")
        else:
            options = {"cut": {}, "reset": {"reset": 1}, "close": {"code": 1001}}[fault.do]
            pipeline.standin.fault(do="close" if fault.do == "close" else "cut", **options)

    def undo(self, fault: Fault) -> None:
        if fault.do in ("kill", "end"):
            for name in fault.names:
                if not self.pipeline.pid(name):
                    self.pipeline.start(name)
        elif fault.do == "freeze":
            self.thaw(fault.names)
        elif fault.do == "stall":
            self.consumers["stalled"].go_on()

    def thaw(self, names: Iterable[str]) -> None:
        for name in self.frozen.intersection(names):
            self.pipeline.kill(name, signal_number=signal.SIGCONT)
        self.frozen.difference_update(names)

    def settle(self) -> list[Event]:
        """Wait until all consumers have everything up to a number; what history says it is."""
        pipeline = self.pipeline
        before = pipeline.journal_last()
        until(lambda: pipeline.complete() > before, "the archive goes on")
        last = pipeline.complete()
        self.follow("last", strict=True)
        expected = list(self.client.slice("binance", SYMBOLS, CHANNELS, after=self.first, to=last))
        for name, consumer in self.consumers.items():
            try:
                consumer.wait(partial(_has, consumer, expected, last), f"the consumer {name} has what history has")
            except AssertionError as error:
                raise AssertionError(f"{error}: {_difference(consumer, expected, last)}") from None
        return expected


def _has(consumer: Consumer, expected: list[Event], last: int) -> bool:
    """Whether a consumer was given exactly this up to a number; in any order of topics where it is not strict."""
    got = [event for event in list(consumer.events) if event["seq"] <= last]
    return got == expected if consumer.strict else by_topic(got) == by_topic(expected)


def _difference(consumer: Consumer, expected: list[Event], last: int) -> str:
    """The first topic of a consumer that is not what history gave, in words."""
    got, wanted = by_topic(consumer.events), by_topic(expected)
    for topic, events in wanted.items():
        own = [event for event in got.get(topic, []) if event["seq"] <= last]
        if own != events:
            place = next((index for index, pair in enumerate(zip(own, events, strict=False)) if pair[0] != pair[1]), -1)
            return (
                f"{topic}: {len(own)} events, not {len(events)}, unlike at {place}; it is {consumer.waiting or 'live'}"
            )
    return f"only the order differs; it is {consumer.waiting or 'live'}"


def _silently(text: str) -> None:
    """Consumers say that they wait: they should."""


@contextlib.contextmanager
def _pipeline(schedule: Schedule, directory: Path) -> Iterator[Pipeline]:
    quiet = [word for stream in STREAMS for word in ("--fault", f"do=mute&stream={stream}")]
    standin = Standin(
        "--synthetic", "--symbols", ",".join(SYMBOLS), "--rate", 150, "--seed", schedule.seed,
        "--sent", directory / "sent", *quiet,
    )  # fmt: skip
    settings = {"ARCHIVE__ROTATE_S": "1", "ARCHIVE__CODEC": schedule.codec}
    if schedule.drops:
        settings["FEED__BINANCE__EVENTS_HIGH_WATER"] = str(HIGH_WATER_SMALL)
    kind = Supervised if schedule.supervised else Pipeline
    pipeline = kind(directory, standin, ",".join(SYMBOLS), **settings)
    try:
        yield pipeline
    finally:
        pipeline.end()
        standin.stop()


def soak(schedule: Schedule, directory: Path) -> str:
    """Run one schedule and judge what it left. Returns what there was, in words. Raises AssertionError."""
    with contextlib.ExitStack() as stack:
        pipeline = stack.enter_context(_pipeline(schedule, directory))
        high_water, following.HIGH_WATER = following.HIGH_WATER, HIGH_WATER_SMALL if schedule.drops else 1_000_000
        stack.callback(setattr, following, "HIGH_WATER", high_water)
        live = Live(pipeline.endpoint)
        stack.callback(live.close)
        witness = Witness(pipeline.journal, directory / "appended")
        stack.callback(witness.stop)
        pipeline.start(*PROCESSES)
        begun = [pipeline.exchange_dir / name for name in SYMBOLS]
        until(lambda: all(path.exists() for path in begun), "the archive has begun")
        run = Run(schedule, pipeline, stack.enter_context(Client(pipeline.server)), pipeline.complete())
        stack.callback(lambda: [consumer.stop() for consumer in run.consumers.values()])
        for name in ("early", "loose", "stalled"):
            run.follow(name, strict=name == "early")
        run.play()
        expected = run.settle()
        for consumer in run.consumers.values():
            consumer.stop()
        pipeline.stop()
        witness.stop()
        pipeline.standin.status()  # flushes what it has written of what it sent
        records = assert_archived(witness.appended(), pipeline.exchange_dir)
        assert_sent(records, directory / "sent")
        assert_losses_are_told(records)
        whole = normalised(records)
        until(lambda: schedule.drops or live.messages[-1:] == whole[-1:], "the subscriber has the last event")
        assert_live(live.messages, records, drops=schedule.drops)
        _assert_history(expected, whole, run.first)
        pipeline.verify("--deep")
        runs = sum(record.kind == "start" for record in records)
        return f"{len(records)} records, {runs} runs, {len(run.consumers)} consumers of {len(expected)} events"


def _assert_history(expected: list[Event], whole: list[bytes], first: int) -> None:
    """What history gave is that part of what was archived."""
    last = expected[-1]["seq"]
    events = [event for event in events_of(whole) if first < event["seq"] <= last]
    wanted = [event for event in events if event["channel"] in (*CHANNELS, GAP)]
    assert [event for event in expected if event["seq"] > first] == wanted


def _run(seed: int, keep: Path | None) -> tuple[bool, str]:
    """Whether a seed passed, and what it came to; the files of one that failed are kept."""
    schedule = Schedule.of(seed)
    print(schedule, flush=True)
    directory = Path(tempfile.mkdtemp(prefix=f"soak-{seed}-", dir=keep))
    began = time.monotonic()
    try:
        told = soak(schedule, directory)
    except Exception:
        return False, f"seed {seed}: FAILED, its files are in {directory}\n{traceback.format_exc()}"
    shutil.rmtree(directory)
    return True, f"seed {seed}: passed, {told}, {time.monotonic() - began:.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Real schedules of faults.")
    parser.add_argument("--seeds", default="0-99", help="first-last, or one; default: 0-99")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once; default: 1")
    parser.add_argument("--keep", type=Path, help="where the files of a seed lie; default: the temporary directory")
    parser.add_argument("--chaos", type=float, metavar="MINUTES", help="everything at once, for so long, instead")
    parser.add_argument("--seed", type=int, help="of the chaos; default: any")
    args = parser.parse_args()
    if args.chaos is not None:
        return chaos.run(args.chaos, args.seed, args.keep)
    first, _, last = args.seeds.partition("-")
    failed = []
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        seeds = range(int(first), int(last or first) + 1)
        running = {pool.submit(_run, seed, args.keep): seed for seed in seeds}
        for future in as_completed(running):
            passed, told = future.result()
            print(told, flush=True)
            failed += [] if passed else [running[future]]
    print(f"{len(running) - len(failed)} of {len(running)} passed{f'; failed: {failed}' if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
