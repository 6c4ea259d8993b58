"""Subscribe the streams of a connection in frames within the exchange's limits, and again where no answer comes."""

import logging
from collections.abc import Callable

import orjson

from .adapter import Adapter
from .events import Reply
from .recorder import Recorder
from .shards import Link, Shard, batches

log = logging.getLogger("feed")

Make = Callable[[list[str], int], list[bytes]]  # an adapter's `subscribe` or `unsubscribe`


class Subscriber:
    """Makes the frames that subscribe and unsubscribe. Times are monotonic seconds; `retry_s` is between two attempts.

    A request that the exchange refuses or does not answer is sent again in halves, down to single streams: one bad
    name, or a limit that is not known, costs the stream that it is about alone.
    """

    def __init__(self, adapter: Adapter, recorder: Recorder, stamp: Callable[[], int], retry_s: float) -> None:
        self._adapter, self._recorder, self._stamp, self._retry_s = adapter, recorder, stamp, retry_s
        self._next_request = 1

    def next_frames(self, now: float, shard: Shard, link: Link) -> None:
        """Queue the frames of the next request that is due."""
        self._give_up(now, shard, link)
        link.agree(now)
        while link.refused and now >= link.refused[0][0]:
            link.to_subscribe.append(link.refused.popleft()[1])
        if link.silent and now >= link.again_at:
            link.to_leave |= link.silent
            link.silent, link.again_at = {}, now + self._adapter.AGAIN_INTERVAL_S
        if link.to_drop:
            self._unsubscribe(link, link.to_drop)
        elif link.to_leave:
            link.to_subscribe.append(self._unsubscribe(link, link.to_leave))
        elif link.to_subscribe:
            self._subscribe(now, link)
        self._next_request += 1

    def ask_book(self, link: Link, symbol: str) -> None:
        """Queue the request of a snapshot on the socket."""
        link.to_send.append(self._adapter.snapshot_frame(symbol, self._next_request))
        self._next_request += 1

    def take(self, now: float, shard: Shard, link: Link, reply: Reply) -> None:
        """Take the exchange's answer to a request."""
        names = link.answered(reply)
        if reply.error is not None:
            self._refused(now, shard, link, names, reply)
        link.agree(now)

    def _unsubscribe(self, link: Link, waiting: dict[str, None]) -> list[str]:
        """Queue a request for as many of the names as fit, and take them out; returns them."""
        names, frames = self._fitting(self._adapter.unsubscribe, list(waiting)[: self._adapter.STREAMS_PER_SUBSCRIBE])
        link.to_send += frames
        for name in names:
            del waiting[name]
        return names

    def _subscribe(self, now: float, link: Link) -> None:
        batch = link.to_subscribe.popleft()
        names, frames = self._fitting(self._adapter.subscribe, batch)
        if len(names) < len(batch):
            link.to_subscribe.appendleft(batch[len(names) :])
        link.to_send += frames
        link.asked[self._next_request] = names
        link.asked_at[self._next_request] = now, self._recorder.next

    def _fitting(
        self, make: Callable[[list[str], int], list[bytes]], names: list[str]
    ) -> tuple[list[str], list[bytes]]:
        """The first of the names whose frames are within SUBSCRIBE_BYTES, one at least, and these frames."""
        most = self._adapter.SUBSCRIBE_BYTES
        while True:
            frames = make(names, self._next_request)
            longest = max(map(len, frames))
            if longest <= most or len(names) == 1:
                return names, frames
            names = names[: max(1, min(len(names) * most // longest, len(names) - 1))]

    def _give_up(self, now: float, shard: Shard, link: Link) -> None:
        """Ask again for what had no answer in time, unless its data came all the same."""
        for names, after in link.give_up(now - self._retry_s):
            brought = {name for name in names if self._recorder.has_brought(*shard.streams[name], link.conn, after)}
            link.settle(brought)
            if missing := [name for name in names if name not in brought]:
                link.unanswered |= dict.fromkeys(missing)
                self._refused(now, shard, link, missing, Reply(None, "no answer"))

    def _refused(self, now: float, shard: Shard, link: Link, names: list[str], reply: Reply) -> None:
        """A subscription that the exchange refuses is a gap until data flows; it is asked for again, later.

        At once, in halves, where it does not name what it refuses: one that is not known there may have all refused
        that it came with.
        """
        waiting = link.not_there()
        names = [name for name in names if name not in waiting]  # asked for twice meanwhile: from now on once
        for name in names:
            channel, symbol = shard.streams[name]
            payload = orjson.dumps({"state": "open", "reason": f"refused: {reply.error}", "stream": name})
            self._recorder.record(self._stamp(), "gap", channel=channel, symbol=symbol, payload=payload)
        if len(names) > 1 and not reply.names:
            text = "%s %d streams refused together, asked for again in halves: %s"
            log.warning(text, self._adapter.NAME, len(names), reply.error)
            link.to_subscribe += batches(names, (len(names) + 1) // 2)
            return
        for name in names:
            log.warning("%s %s refused: %s", self._adapter.NAME, name, reply.error)
        most = self._adapter.STREAMS_PER_SUBSCRIBE
        if reply.names and link.refused and len(link.refused[-1][1]) + len(names) <= most:
            link.refused[-1][1].extend(names)  # named one by one, asked for in one request
        elif names:
            link.refused.append((now + self._retry_s, names))
