"""Followers and history in the simulated world: the very `Follower`, links that drop, answers that get lost or late."""

from collections import deque
from typing import Any

import orjson

from common.codec import CodecError
from common.errors import BadRequestError
from common.events import Event
from common.follow import Follower
from common.pages import Pages
from common.reader import Reader
from common.record import RecordError
from common.requests import Slice, parse
from common.storage import read_archived
from tests.simulated_disk import NEVER, Killed
from tests.simulated_processes import ADAPTER, CHANNELS, SYMBOLS
from tests.simulation import World
from tests.truth import STORAGE

Reply = tuple[dict[str, Any], list[Event]]


class SimFollower:
    """One consumer: what `client.follow` does, without sockets."""

    def __init__(self, world: "FollowWorld", start: int | None, **options: Any) -> None:
        self.world, self.start, self.options = world, start, options
        self.follower = Follower("binance", options.pop("symbols", SYMBOLS), CHANNELS, start, **options)
        self.link: deque[bytes] = deque()
        self.high_water = NEVER
        self.replies: list[Reply] = []
        self.events: list[Event] = []
        self.dropped = False  # something that was published to it is lost
        self.pending: list[bytes] = []  # subscriptions that the feed has not got yet
        self.disconnect(in_flight=False)

    def publish(self, message: bytes) -> None:
        world = self.world
        name = message[: message.index(b" ") + 1]
        if self.pending and world.random.random() < 0.7:
            self.pending.pop(world.random.randrange(len(self.pending)))
        if name not in self.follower.subscriptions:
            return
        if name in self.pending or len(self.link) >= self.high_water or world.drops():
            self.dropped = True
            return
        self.link.append(message)

    def disconnect(self, *, in_flight: bool) -> None:
        """The feed is gone: so may be what was on its way. Subscriptions are sent again to the next one."""
        if in_flight:
            for _ in range(self.world.random.randint(0, len(self.link))):
                self.link.pop()
                self.dropped = True
        self.pending = self.follower.subscriptions if self.world.lossy else []

    def receive(self, count: int) -> None:
        for _ in range(min(count, len(self.link))):
            message = self.link.popleft()
            if self.start is None:
                content = orjson.loads(message.partition(b" ")[2])
                self.start = content["at"] + 1 if message.startswith(b"binance/heartbeat") else content["seq"]
            self.events += self.follower.take(message, self.world.now)

    def hear(self, reply: Reply) -> None:
        self.events += self.follower.answer(*reply, self.world.now)

    def look(self) -> None:
        """Time passes; what is to be asked is asked."""
        self.events += self.follower.tick(self.world.now)
        if (request := self.follower.request(self.world.now)) is not None:
            self.world.requests.append((self, request))


class SimHistory:
    """Answers slices with the server's own code, out of the archive's files on the simulated disk."""

    def __init__(self, world: "FollowWorld") -> None:
        self.world, self.disk = world, world.new_disk("history")
        self._pages = Pages(Reader(STORAGE.parent, ADAPTER, self.disk), ADAPTER, lambda *asked: asked[-1])

    def answer(self, request: dict[str, Any], page_bytes: int) -> Reply:
        """Raises Killed."""
        head = {"id": request["id"], "op": "slice"}
        try:
            complete = read_archived(self.disk, STORAGE).trusted(self.world.boot_id)  # before the files (rule 18)
            asked = parse(request, self.world.wall)
            assert isinstance(asked, Slice)
            header, payload = self._pages.page(asked, complete, page_bytes)
        except BadRequestError as error:
            return head | {"error": {"code": error.code, "message": str(error)}}, []
        except (CodecError, RecordError) as error:
            truth = self.world.truth  # a tail that the power tore is there until the archiver's next start
            assert truth.rotten or truth.lost_power, f"history: {error}"
            return head | {"error": {"code": "corrupt", "message": str(error)}}, []
        finally:
            if self.disk.kill_within:
                raise Killed
        events = [orjson.loads(line) for part in payload for line in part.split(b"\n") if line]
        return head | {"complete_to": complete, **header}, events


class FollowWorld(World):
    """The world with an early follower, late ones, and history."""

    turns = (40, 150)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.followers: list[SimFollower] = []
        self.requests: list[tuple[SimFollower, dict[str, Any]]] = []
        self.late: list[tuple[SimFollower, Reply]] = []
        self.lossy = self.random.random() < 0.5
        self.history: SimHistory | None = SimHistory(self)
        if not self.calm:
            self.join(1)

    @property
    def now(self) -> float:
        return self.monotonic / 1e9

    def drops(self) -> bool:
        return self.lossy and not self.calm and self.random.random() < 0.1

    def join(self, start: int | None, **options: Any) -> SimFollower:
        follower = SimFollower(self, start, **options)
        self.followers.append(follower)
        return follower

    # -- turns -------------------------------------------------------------------------------------------------

    def choices(self) -> tuple[list[str], list[float]]:
        names, weights = super().choices()
        weights = [
            4 * weight if name in ("feed", "sealer") else weight for name, weight in zip(names, weights, strict=True)
        ]
        joins = 0.5 if len(self.followers) < 6 else 0.0
        return [*names, "follower", "history", "history_fails", "join", "checkpoint"], [
            *weights,
            10.0,
            7.0,
            0.4,
            joins,
            2.0,
        ]

    def _join(self) -> None:
        random = self.random
        highest = max(self.truth.used, default=0)
        lowest = min(self.truth.used, default=1)
        start = random.choice((1, lowest, highest, highest + 1, random.randint(lowest, highest + 3), None))
        follower = self.join(
            start,
            strict=random.random() < 0.4,
            symbols=random.choice((SYMBOLS, SYMBOLS, SYMBOLS[:1], (*SYMBOLS, "ZZZ"))),
            hold_bytes=random.choice((400, 3000, 1 << 26)),
            on_gap="continue" if random.random() < 0.15 else "wait",
            deadline_s=5.0,
        )
        follower.high_water = random.choice((3, 20, NEVER)) if self.lossy else NEVER

    def _checkpoint(self) -> None:
        """Files are turned at checkpoints; what is turned gets sealed."""
        if self.feed is not None and "feed" not in self.acting:
            self.acting.append("feed")
            self.alive("feed", self.feed.checkpoint)
            self.acting.remove("feed")

    def _follower(self) -> None:
        if not self.followers:
            return
        follower = self.random.choice(self.followers)
        follower.receive(self.random.randint(0, 8))
        for _ in range(self.random.randint(0, 2)):
            if follower.replies:
                follower.hear(follower.replies.pop(self.random.randrange(len(follower.replies))))
        follower.look()

    def _history(self) -> None:
        if self.history is None:
            self.history = SimHistory(self)
        for _ in range(self.random.randint(1, 3)):
            if self.requests:
                self._serve(*self.requests.pop(0))
        if self.late and self.random.random() < 0.3:
            follower, reply = self.late.pop()
            follower.replies.append(reply)

    def _serve(self, follower: SimFollower, request: dict[str, Any]) -> None:
        chance = 1.0 if self.calm else self.random.random()
        if chance < 0.1 or self.history is None:
            return  # lost
        try:
            reply = self.history.answer(request, self.random.choice((1, 1000, 1 << 20)))
        except Killed:
            self._history_fails()
            return
        if chance < 0.15:
            error = {"code": "busy", "message": "ask again"}
            reply = {"id": request["id"], "op": "slice", "error": error}, []
        follower.replies += [reply] * (2 if chance < 0.25 else 1)
        if chance < 0.35:
            self.late.append((follower, follower.replies.pop()))

    def _history_fails(self) -> None:
        self.history = None
        self.requests.clear()

    # -- the feed's other socket ---------------------------------------------------------------------------------

    def publish(self, message: bytes) -> None:
        for follower in self.followers:
            follower.publish(message)
        if self.feed is not None:
            self.feed.disk.step()
            if self.feed.disk.kill_within:
                raise Killed

    def bury(self, name: str) -> None:
        if name == "feed" and self.feed is not None:
            self.disconnect()
        super().bury(name)

    def feed_dies_with_power(self) -> None:
        super().feed_dies_with_power()
        self.disconnect()
        self._history_fails()

    def disconnect(self) -> None:
        in_flight = self.lossy and not self.calm and self.random.random() < 0.5
        for follower in self.followers:
            follower.disconnect(in_flight=in_flight)

    # -- the end -------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        super().settle()
        self.settle_followers()

    def settle_followers(self) -> None:
        """Nothing fails any more: within some seconds every follower has everything."""
        assert self.feed is not None
        self.history = SimHistory(self)
        for follower in self.followers:
            follower.pending = []
        for _ in range(60):
            self.monotonic += 1_000_000_000
            self.feed.heartbeats()
            for follower in self.followers:
                self._settle_one(follower)
            if all(self.is_done(follower) for follower in self.followers):
                return
        waiting = [(follower.follower.waiting, follower.options) for follower in self.followers]
        raise AssertionError(f"followers do not get on: {waiting}")

    def _settle_one(self, follower: SimFollower) -> None:
        for _ in range(30):
            self.monotonic += 20_000_000
            follower.receive(1 << 20)
            for reply in follower.replies:
                follower.hear(reply)
            follower.replies.clear()
            follower.look()
            while self.requests:
                self._serve(*self.requests.pop(0))

    def is_done(self, follower: SimFollower) -> bool:
        assert self.feed is not None
        inner = follower.follower
        ahead = inner.known - self.feed.recorder.published  # who begins in the future waits for it
        return not follower.link and ahead >= 0 and (not inner.waiting or ahead > 0)
