"""Real processes whose symbols and channels come and go: nothing that was sent is missing without a gap.

    python -m tests.churn --seeds 0-9 [--symbols 300] [--for 20] [--keep DIR]

A stand-in with a generated market keeps an account of every message that it sent. Symbols are changed by SIGHUP and
over restarts, channels over restarts; feeds and archivers are ended and killed, and the journal is removed in between.
Then every message of the account is archived once, or it lies in a gap: in history, coverage, gaps and bars.
"""

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.churn_truth import judge
from tests.pipeline import Live, Pipeline, until
from tests.standin_client import Standin
from tests.whole import Witness, assert_archived, assert_live

CHANNELS = ("trade", "agg_trade", "quote", "book", "ticker")
RATE = 5
QUIET_S = 4.0
"""How long nothing is done at the end."""


@dataclass
class Churn:
    """One seed's schedule, drawn while it is played: a step depends on those before it alone."""

    seed: int
    pipeline: Pipeline
    conf: Path
    pool: tuple[str, ...]

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.steps: list[str] = []
        self.channels = CHANNELS
        self.symbols = self.some()
        self.write()

    def some(self) -> tuple[str, ...]:
        return tuple(sorted(self.random.sample(self.pool, self.random.randint(len(self.pool) // 2, len(self.pool)))))

    def write(self) -> None:
        names, channels = (", ".join(f'"{each}"' for each in some) for some in (self.symbols, self.channels))
        text = f"[feed.binance]\nsymbols = [{names}]\nchannels = [{channels}]\nsnapshot_depth = 100\n"
        self.conf.write_text(text)

    def play(self, for_s: float) -> None:
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            time.sleep(self.random.uniform(0.1, 1.0))
            step = self.random.choices((self.change, self.restart, self.archiver, self.journal), (6, 3, 1, 1))[0]
            self.steps.append(step.__name__)
            step()
        self.symbols, self.channels = self.some(), CHANNELS
        self.steps.append("settle")
        self.restart(self.channels)

    def change(self) -> None:
        """Symbols are added and removed with SIGHUP."""
        self.symbols = self.some()
        self.write()
        self.pipeline.kill("feed", signal_number=signal.SIGHUP)

    def restart(self, channels: tuple[str, ...] | None = None) -> None:
        """The feed goes on with other channels, and perhaps other symbols."""
        if channels is None:
            channels = tuple(each for each in CHANNELS if self.random.random() < 0.7) or CHANNELS[:1]
            self.symbols = self.some() if self.random.random() < 0.5 else self.symbols
        self.channels = channels
        self.write()
        self.end_feed(self.random.choice((signal.SIGTERM, signal.SIGKILL)))
        time.sleep(self.random.uniform(0, 0.5))
        self.start_feed()

    def archiver(self) -> None:
        self.pipeline.kill("archiver", signal_number=self.random.choice((signal.SIGTERM, signal.SIGKILL)))
        time.sleep(self.random.uniform(0, 0.5))
        self.pipeline.start("archiver")

    def journal(self) -> None:
        """The journal does not come along, after everything in it was archived."""
        self.end_feed(signal.SIGKILL)
        self.pipeline.kill("archiver", signal_number=signal.SIGTERM)  # nobody tells it of the last records any more
        self.pipeline.start("archiver")
        until(lambda: self.pipeline.complete() >= self.pipeline.journal_last(), "the archive has the journal")
        names = self.random.choice(("*", "journal.json"))
        for path in self.pipeline.journal.glob(names):
            if path.name != "lock":
                path.unlink()
        self.steps.append(f"without {names}")
        self.start_feed()

    def end_feed(self, signal_number: int) -> None:
        self.pipeline.kill("feed", signal_number=signal_number)

    def start_feed(self) -> None:
        began = self.pipeline.log.stat().st_size
        self.pipeline.start("feed")
        until(lambda: b" begins, last " in self.pipeline.log.read_bytes()[began:], "the feed has begun")


def churn(seed: int, directory: Path, symbols: int, for_s: float) -> str:
    """Play one seed and judge what it left. Returns what there was, in words. Raises AssertionError."""
    pool = tuple(f"S{number:03}USDT" for number in range(symbols))
    sent = directory / "sent"
    with contextlib.ExitStack() as stack:
        standin = Standin(
            "--synthetic", "--symbols", ",".join(pool), "--rate", RATE, "--seed", seed, "--sent", sent,
            "--weight-limit", 1_000_000,
        )  # fmt: skip
        stack.callback(standin.stop)
        conf = directory / "churn.toml"
        pipeline = Pipeline(
            directory, standin, "", CONF=str(conf), FEED__BINANCE__HEARTBEAT_INTERVAL_S="1", ARCHIVE__ROTATE_S="10"
        )
        stack.callback(pipeline.end)
        played = Churn(seed, pipeline, conf, pool)
        live = Live(pipeline.endpoint)
        stack.callback(live.close)
        witness = Witness(pipeline.journal, directory / "appended")
        stack.callback(witness.stop)
        pipeline.start("archiver")
        played.start_feed()
        try:
            played.play(for_s)
        finally:
            print(f"seed {seed}: {' '.join(played.steps)}", flush=True)
        heard = len(live.messages)
        until(lambda: len(live.messages) > heard + 10 * len(played.symbols), "the last run is heard")
        time.sleep(QUIET_S)  # a stretch of time in which nothing is done
        pipeline.stop()
        witness.stop()
        standin.status()  # flushes what it has written of what it sent
        records = assert_archived(witness.appended(), pipeline.exchange_dir)
        assert_live(live.messages, records)
        told = judge(pipeline.storage, records, sent, pool, played.symbols)
        pipeline.verify("--deep")
        runs = sum(record.kind == "start" for record in records)
        return f"{len(records)} records, {runs} runs, {len(played.steps)} steps, {told}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.churn", description="Symbols and channels come and go.")
    parser.add_argument("--seeds", default="0-9", help="first-last, or one; default: 0-9")
    parser.add_argument("--symbols", type=int, default=300, help="default: 300")
    parser.add_argument("--for", dest="for_s", type=float, default=20.0, metavar="S", help="default: 20")
    parser.add_argument("--keep", type=Path, help="where the files of a seed lie; default: the temporary directory")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("-")
    failed = []
    for seed in range(int(first), int(last or first) + 1):
        directory = Path(tempfile.mkdtemp(prefix=f"churn-{seed}-", dir=args.keep))
        began = time.monotonic()
        try:
            told = churn(seed, directory, args.symbols, args.for_s)
        except Exception:
            failed.append(seed)
            print(f"seed {seed}: FAILED, its files are in {directory}\n{traceback.format_exc()}", flush=True)
            continue
        shutil.rmtree(directory)
        print(f"seed {seed}: passed, {told}, {time.monotonic() - began:.1f} s", flush=True)
    print(f"failed: {failed}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
