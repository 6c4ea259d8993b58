"""A simulated feed whose symbols and channels change: by SIGHUP, over restarts, with its journal lost or damaged.

    python -m tests.simulated_subscriptions --seeds 0-999

The market goes on whether anybody takes it or not, so that `simulated_absence` can say of each message whether the
archive has it, or else which gap it lies in. Every seed can be played again.
"""

import argparse
import sys
import traceback
from collections import defaultdict, deque
from typing import NamedTuple

import orjson

from common.events import Action
from common.journal import META
from common.storage import read_archived
from tests.simulated_disk import NEVER, File, SimDisk
from tests.simulated_processes import ADAPTER, SimFeed
from tests.simulation import SECOND, World, small_steps
from tests.truth import JOURNAL, STORAGE

POOL = ("AAA", "BBB", "CCC", "DDD")
CHANNELS = ("agg_trade", "quote", "trade")
QUIET_ROUNDS = 8
"""Seconds at the end in which nothing fails: some bars of them are whole."""
ANSWER_MAX = 5

Topic = tuple[str, str]


class Message(NamedTuple):
    """What the market sends; `is_dropped`: it never arrives, although it is subscribed."""

    topic: Topic
    id: int
    is_dropped: bool = False

    @property
    def payload(self) -> bytes:
        (channel, symbol), id_ = self.topic, self.id
        if channel == "quote":  # its price is its number
            return b'{"u":%d,"s":"%b","b":"%d","B":"1","a":"2","A":"1"}' % (id_, symbol.encode(), id_)
        data = _trade(channel, id_) | {"e": "trade" if channel == "trade" else "aggTrade", "s": symbol}
        return orjson.dumps({"stream": "x", "data": data})


def _trade(channel: str, id_: int) -> dict[str, object]:
    if channel == "trade":
        return {"t": id_, "p": "1.0", "q": "2", "T": 1, "m": True}
    return {"a": id_, "p": "1.0", "q": "2", "f": id_, "l": id_, "T": 1, "m": True}


class ChangingFeed(SimFeed):
    """A feed with one connection at most. `live` are the topics that the exchange sends on it."""

    world: "ChangingWorld"

    def __init__(self, world: "ChangingWorld") -> None:
        super().__init__(world)
        self.live: set[Topic] = set()
        self.inbox: deque[Message] = deque()
        self.asked: list[Action] = []
        self.wanted: tuple[str, ...] | None = None  # read from the configuration, not applied yet

    def topics(self) -> set[Topic]:
        if not self.connections:
            return set()
        told = self.subscriptions
        return {(channel, symbol) for channel in told.channels for symbol in told.symbols}

    def frames(self) -> None:
        world = self.world
        stamp = self.stamp()
        taken = [self.inbox.popleft() for _ in range(min(len(self.inbox), world.random.randint(1, 6)))]
        for message in taken:
            world.gone(message, stamp)
        payloads = [message.payload for message in taken if not message.is_dropped]
        if payloads:
            self.recorder.frames(int(next(iter(self.connections))), stamp, payloads)
        self.answer()

    def connect(self) -> None:
        if not self.connections:
            super().connect()
            return
        self.lose()
        conn = int(self.connections.popitem()[0])
        self.recorder.record(self.stamp(), "close", conn=conn, head={"reason": "lost"})
        try:
            self.journal.remember(connections=self.connections)
        except OSError as error:
            self.world.report(f"journal: {error}")

    def lose(self) -> None:
        """What is on its way is lost with its connection."""
        for message in self.inbox:
            self.world.gone(message, self.world.wall)
        self.inbox.clear()
        self.live.clear()

    def answer(self) -> None:
        actions, self.normaliser.actions = self.normaliser.actions, []
        self.asked += [action for action in actions if action.kind == "backfill"]
        while self.asked and (self.world.calm or self.world.random.random() < 0.5):
            action = self.asked.pop(0)
            if action.symbol in self.subscriptions.symbols:
                self.fetch(action)

    def fetch(self, action: Action) -> None:
        request = ADAPTER.request(action, 100)
        known = self.world.ids[action.channel, action.symbol]
        ids = range(action.from_id or 0, min((action.from_id or 0) + ANSWER_MAX, known + 1))
        if action.channel == "trade":
            trades = [{"id": i, "price": "1", "qty": "2", "isBuyerMaker": True, "time": 1} for i in ids]
        else:
            trades = [_trade("agg_trade", i) for i in ids]
        status = 200 if self.world.calm or self.world.random.random() < 0.8 else 503
        self.recorder.record(
            self.stamp(), "rest",
            channel=action.channel, symbol=action.symbol,
            head={"url": request.path, "status": status}, payload=orjson.dumps(trades if status == 200 else {}),
        )  # fmt: skip
        actions, self.normaliser.actions = self.normaliser.actions, []
        self.asked += actions

    def house(self) -> None:
        super().house()
        try:
            if self.wanted is not None:
                symbols = self.wanted
                while any(message.topic[1] not in self.subscriptions.symbols for message in self.inbox):
                    self.frames()  # of a removed symbol, nothing is on its way any more when it is added again
                self.subscriptions.change(symbols, lambda: self.plan(symbols))
                self.wanted = None
                self.live &= self.topics()
            self.subscriptions.refresh()
        except OSError as error:
            self.world.report(f"symbols: {error}")


class ChangingWorld(World):
    turns = (40, 140)
    feed: ChangingFeed | None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.times: defaultdict[Topic, dict[int, int]] = defaultdict(dict)
        """By topic and id: when the message was taken, or lost (ns)."""
        self.ids: defaultdict[Topic, int] = defaultdict(int)
        self.dropped: set[tuple[Topic, int]] = set()
        self.loses_journal = self.random.random() < 0.4 and not self.faults.clock
        self.configure()
        self.channels = self.some(CHANNELS)

    def some(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(self.random.sample(names, self.random.randint(1, len(names)))))

    def configure(self) -> None:
        self.symbols = self.some(POOL)

    # -- the market --------------------------------------------------------------------------------------------

    def pass_time(self) -> None:
        super().pass_time()
        for _ in range(self.random.randint(0, 5)):
            self.trade((self.random.choice(CHANNELS), self.random.choice(POOL)))

    def trade(self, topic: Topic) -> None:
        """A message of the market, for whoever is subscribed."""
        self.ids[topic] += 1
        is_dropped = topic[0] in ADAPTER.DENSE and not self.calm and self.random.random() < 0.04
        message = Message(topic, self.ids[topic], is_dropped)
        feed = self.feed if self.feed is not None and hasattr(self.feed, "run_seq") else None
        if feed is not None and (self.random.random() < 0.6 or self.calm):  # the exchange has done what was asked
            feed.live = feed.topics()
        if feed is not None and topic in feed.live:
            feed.inbox.append(message)
        else:
            self.gone(message._replace(is_dropped=False), self.wall)

    def gone(self, message: Message, ts: int) -> None:
        """A message was taken, or lost, at a time. One that was dropped shows with the next one of its topic only."""
        times = self.times[message.topic]
        times[message.id] = ts
        if message.is_dropped:
            self.dropped.add((message.topic, message.id))
            return
        id_ = message.id - 1
        while (message.topic, id_) in self.dropped:
            self.dropped.remove((message.topic, id_))
            times[id_], id_ = ts, id_ - 1

    # -- turns -------------------------------------------------------------------------------------------------

    def choices(self) -> tuple[list[str], list[float]]:
        names, weights = super().choices()
        lost = 0.3 if self.loses_journal else 0.0
        return [*names, "change", "channels", "lose_journal"], [*weights, 1.0, 0.3, lost]

    def start_feed(self) -> None:
        feed = self.feed = ChangingFeed(self)
        self.alive("feed", feed.begin)

    def _feed(self) -> None:
        if self.feed is not None and not self.feed.connections and self.random.random() < 0.5:
            self.alive("feed", self.feed.connect)
            return
        super()._feed()

    def _change(self) -> None:
        """The symbols of the configuration change: with SIGHUP, or for the next start."""
        self.configure()
        if self.feed is not None and self.random.random() < 0.7:
            self.feed.wanted = self.symbols

    def _channels(self) -> None:
        self.channels = self.some(CHANNELS)

    def _lose_journal(self) -> None:
        """The journal does not come along to the next run, or only a part of it."""
        if len(self.acting) > 1:
            return
        self.bury("feed")
        self.bury("archiver")
        directory = self.system.dirs.get(str(JOURNAL))
        if directory is None:
            return
        kind = self.random.choice(("all", "meta", "bit"))
        self.report(f"the journal is lost: {kind}")
        self.truth.lost_power = True  # its numbers jump
        meta = directory.entries.get(META)
        if kind == "all":
            archived = read_archived(self.calm_disk(), STORAGE)
            held = archived.trusted(self.boot_id)  # files may hold more
            self.truth.excused |= {seq for seq in self.truth.standing if seq > held} | (
                self.truth.standing - self.truth.contents().keys()
            )
            self.truth.durable = {seq for seq in self.truth.durable if seq <= archived.fsynced}
            directory.change(**dict.fromkeys(directory.entries))
        elif kind == "meta":
            directory.change(**{META: None})
        elif isinstance(meta, File) and meta.data:
            meta.data[self.random.randrange(len(meta.data))] ^= 1 << self.random.randrange(8)
        directory.sync()

    def calm_disk(self) -> SimDisk:
        """A view during which nothing else happens."""
        disk = self.new_disk("reader")
        disk.left = NEVER
        return disk

    def bury(self, name: str) -> None:
        if name == "feed" and self.feed is not None:
            self.feed.lose()
        super().bury(name)

    def feed_dies_with_power(self) -> None:
        if self.feed is not None:
            self.feed.lose()
        super().feed_dies_with_power()

    # -- the end -----------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        feed = self.feed
        assert feed is not None
        feed.retry()
        feed.house()
        if not feed.connections:
            feed.connect()
        feed.subscriptions.checkpoint(None)  # as each feed records from time to time
        for _ in range(QUIET_ROUNDS):
            self.wall += SECOND
            self.monotonic += SECOND
            for channel in CHANNELS:
                for symbol in POOL:
                    self.trade((channel, symbol))
            while feed.inbox or feed.asked:
                feed.frames()
        super().catch_up()

    def run(self) -> None:
        from tests.simulated_absence import judge

        with small_steps():
            super().run()
            judge(self)


def play(seed: int) -> str | None:
    """Why a seed fails, in words; None where it passes."""
    world = ChangingWorld(seed)
    try:
        world.run()
    except Exception as error:
        return f"seed {seed} {world.faults}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulated_subscriptions", description=__doc__)
    parser.add_argument("--seeds", default="0-99", help="first-last, or one; default: 0-99")
    first, _, last = parser.parse_args().seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    failed = []
    for seed in seeds:
        if (why := play(seed)) is not None:
            failed.append(seed)
            print(why.splitlines()[0] if len(seeds) > 1 else why, flush=True)
    print(f"{len(seeds) - len(failed)} of {len(seeds)} passed{f'; failed: {failed}' if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
