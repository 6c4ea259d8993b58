"""The feed's connections: made in helper threads, read, subscribed and replaced in the feed's one thread."""

import contextlib
import logging
import queue
import random
import selectors
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import websocket

from .adapter import Adapter
from .config import FeedConfig
from .connection import Connection, ConnectionLostError, Drain, Frame, close_code, connect
from .recorder import Recorder
from .routes import Routes
from .shards import TOO_BIG, Link, Shard, ShardPolicy, batches, spread
from .subscribing import Subscriber

log = logging.getLogger("feed")

SILENT = "silent"
"""The reason of a connection that was given up because nothing came on it."""

SORTS_MAX = 200
"""Sorts of frames not understood that are told apart."""


class Wires:
    """Everything between the exchange's sockets and the recorder. Times are monotonic seconds."""

    def __init__(
        self,
        adapter: Adapter,
        config: FeedConfig,
        recorder: Recorder,
        stamp: Callable[[], int],
        wake: Callable[[], None],
        remember: Callable[[int, dict[str, str]], None],
        first_conn: int,
    ) -> None:
        self.selector = selectors.DefaultSelector()
        self._adapter, self._config, self._recorder = adapter, config, recorder
        self._stamp, self._wake, self._remember = stamp, wake, remember
        self._subscriber = Subscriber(adapter, recorder, stamp, config.idle_timeout_s)
        streams = [
            adapter.streams(symbol, list(config.channels), list(config.candle_intervals)) for symbol in config.symbols
        ]
        self._routes = Routes(adapter, config.ws_route)
        self._limits = adapter.STREAMS_PER_CONNECTION, adapter.STREAMS_BYTES
        self._shards = spread(streams, self._limits[0], self._routes.path, self._limits[1])
        self._policy = ShardPolicy(
            adapter.CONNECTS_PER_5_MIN,
            adapter.CONNECT_INTERVAL_S,
            config.reconnect_after_s,
            config.overlap_s,
            config.backoff_max_s,
            config.silence_s + config.idle_timeout_s,  # each stream is silent by then, and was asked for again
            random.Random(),
        )
        self._open: dict[int, tuple[Connection, Shard, Link]] = {}
        self._next_conn = first_conn
        self._made: queue.SimpleQueue[tuple[Shard, websocket.WebSocket | None, str]] = queue.SimpleQueue()
        self._now = 0.0
        self._next_send_at = 0.0  # on whichever connection; who has waited longest goes first
        self._tls = ssl.create_default_context() if self.url("").startswith("wss:") else None
        self.paused = False  # no new connections: there is no room for what they would bring

    def url(self, path: str) -> str:
        """The exchange's WebSocket, or another host in its place that keeps the path."""
        return replaced(self._adapter.WS_URL, self._config.ws_url) + path

    # -- the feed's turn ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Connect, subscribe, replace and give up what is due."""
        self._now = now
        while not self._made.empty():
            self._take_over(now, *self._made.get())
        for shard in self._shards:
            if not self.paused and self._policy.may_connect(now, shard):
                self._policy.connecting(now, shard)
                threading.Thread(target=self._connect, args=(shard,), name="connect", daemon=True).start()
            if self._policy.is_ready(now, shard):
                self._switch(now, shard)
        for connection, shard, link in sorted(self._open.values(), key=lambda each: each[2].next_send_at):
            if now - link.last_heard_at > self._config.idle_timeout_s:
                self._lost(connection, shard, link, ConnectionLostError(SILENT))
            elif self._policy.brings_nothing(now, shard, link):
                self._lost(connection, shard, link, ConnectionLostError("no data"))
                if self._routes.may_change and link.data_at is None:
                    self._reroute(shard)
            elif shard.silent and link is shard.live and self._routes.is_partial(shard):
                self._lost(connection, shard, link, ConnectionLostError("no data of some kinds"))
                self._reroute(shard)
            elif now >= max(link.next_send_at, self._next_send_at):
                self._send_next(now, connection, shard, link)
            if link.dropped:
                link.let_go(now)

    def read(self, now: float, ready: list[Connection]) -> None:
        """Drain the connections that have something."""
        self._now = now
        for connection in ready:
            _, shard, link = self._open[connection.number]
            drains: list[Drain] = []
            lost: ConnectionLostError | None = None
            try:
                connection.drain(self._stamp, drains.append)
            except ConnectionLostError as error:
                lost = error  # what came before comes first
            if drains:  # whole frames: who drips one byte by byte says nothing
                link.last_heard_at = now
            try:
                self._take(link, drains)
            except ConnectionLostError as error:
                lost = error
            if lost is not None:
                self._lost(connection, shard, link, lost)

    def resubscribe(self, stream: str) -> None:
        """Ask again for a stream that is silent: leave it, and take it anew."""
        for _, shard, link in self._open.values():
            is_there = stream in shard.streams and stream not in link.not_there()  # else it is asked for in any case
            if is_there and link is shard.live and link.subscribed_at is not None:
                link.silent[stream] = None
                shard.silent.add(stream)

    def carry(self, streams: list[dict[str, tuple[str, str]]]) -> None:
        """Carry these streams (a dictionary for each symbol) from now on: leave others, put new ones where room is."""
        wanted = {name for of_symbol in streams for name in of_symbol}
        for shard in list(self._shards):
            gone = [name for name in shard.streams if name not in wanted]
            for name in gone:
                del shard.streams[name]
            for connection, other, link in list(self._open.values()):
                if other is shard and not shard.streams:
                    self._lost(connection, shard, link, ConnectionLostError("nothing is wanted of it", 1000))
                elif other is shard:
                    link.drop(gone)
            if not shard.streams:
                self._shards.remove(shard)
        carried = {name for shard in self._shards for name in shard.streams}
        new = [each for each in streams if not each.keys() <= carried]  # with what another connection carries, too
        for shard in spread(new, self._limits[0], self._routes.path, self._limits[1]):
            self._join(shard)

    def _join(self, new: Shard) -> None:
        """Let a connection that has room carry a new shard's streams; else it gets one of its own."""
        for shard in self._shards:
            if shard.path == new.path and shard.has_room(new.streams, *self._limits):
                names = [name for name in new.streams if name not in shard.streams]
                shard.streams.update(new.streams)
                for _, other, link in self._open.values():
                    if other is shard:
                        link.to_subscribe += batches(names, self._adapter.STREAMS_PER_SUBSCRIBE)
                return
        self._shards.append(new)

    def leaves(self, streams: Iterable[str]) -> bool:
        """Whether a connection was asked to leave one of these streams, and may still bring something of it."""
        return any(name in link.dropped for name in streams for _, _, link in self._open.values())

    def carrying(self, channel: str, before: float) -> dict[str, int]:
        """The symbols whose streams of a channel are subscribed to since before a time, each with its connection."""
        found: dict[str, int] = {}
        for connection, shard, link in self._open.values():
            if link is not shard.live or link.subscribed_at is None or link.subscribed_at > before:
                continue
            waiting = {name for names in (*link.asked.values(), *link.to_subscribe) for name in names}
            waiting |= link.not_there() | link.to_leave.keys() | link.silent.keys() | link.unanswered.keys()
            places = (place for name, place in shard.streams.items() if name not in waiting)
            found |= {symbol: connection.number for of, symbol in places if of == channel}
        return found

    def _reroute(self, shard: Shard) -> None:
        """Serve a shard's streams by another route: over as many connections as that takes."""
        if shard not in self._shards or shard.connecting:
            return
        for connection, other, link in list(self._open.values()):
            if other is shard:
                self._lost(connection, shard, link, ConnectionLostError("another route is tried", 1000))
        route = self._routes.change()
        by_symbol: dict[str, dict[str, tuple[str, str]]] = {}
        for name, (channel, symbol) in shard.streams.items():
            by_symbol.setdefault(symbol, {})[name] = (channel, symbol)
        new = spread(list(by_symbol.values()), self._limits[0], self._routes.path, self._limits[1])
        for each in new:
            each.in_vain, each.retry_at = shard.in_vain, shard.retry_at
        self._shards.remove(shard)
        self._shards += new
        text = "%s no data by %s: trying the route %s (feed.%s.ws_route sets one for good)"
        log.warning(text, self._adapter.NAME, shard.path, route, self._adapter.NAME)

    def renew_book(self, symbol: str) -> bool:
        """Ask for a book on the socket: by its own request, or by subscribing anew. False: it is too early."""
        asked = False
        for _, shard, link in list(self._open.values()):
            for name, place in shard.streams.items():
                if place == ("book", symbol) and link is shard.live and link.subscribed_at is not None:
                    if self._adapter.BOOK.snapshot == "request":
                        self._subscriber.ask_book(link, symbol)
                    else:
                        link.to_leave[name] = None
                    asked = True
        return asked

    def close_all(self, reason: str) -> None:
        for connection, shard, link in list(self._open.values()):
            self._lost(connection, shard, link, ConnectionLostError(reason, 1000))

    # -- connections -------------------------------------------------------------------------------------------

    def _connect(self, shard: Shard) -> None:
        """Runs in a helper thread."""
        try:
            made: tuple[Shard, websocket.WebSocket | None, str] = shard, self._make(shard.path), ""
        except (OSError, websocket.WebSocketException, ValueError) as error:
            made = shard, None, f"{type(error).__name__}: {error}"
        self._made.put(made)
        self._wake()

    def _make(self, path: str) -> websocket.WebSocket:
        return connect(self.url(path), self._config.connect_timeout_s, self._tls)

    def _take_over(self, now: float, shard: Shard, ws: websocket.WebSocket | None, error: str) -> None:
        if ws is None:
            self._policy.failed(now, shard)
            log.warning("%s connect failed: %s", self._adapter.NAME, error)
            if self._routes.fails(shard):
                self._reroute(shard)
            return
        if self.paused:
            if ws.sock is not None:
                ws.sock.close()
            self._policy.failed(now, shard)
            return
        number, self._next_conn = self._next_conn, self._next_conn + 1
        connection = Connection(number, ws, self.url(shard.path), self._config.max_frame_bytes)
        asked = batches(list(shard.streams), shard.most or self._adapter.STREAMS_PER_SUBSCRIBE)
        link = Link(number, now, asked, last_heard_at=now)
        link.ping_at = now + self._adapter.PING_INTERVAL_S
        shard.silent.clear()
        self._open[number] = (connection, shard, link)
        self._remember_open()
        self._recorder.record(self._stamp(), "open", conn=number, head={"url": connection.url})
        self.selector.register(connection, selectors.EVENT_READ, connection)
        self._policy.connected(now, shard, link)
        log.info("%s connection %d open: %s", self._adapter.NAME, number, connection.url)
        self.read(now, [connection])  # what came with the handshake's answer: the socket does not tell of it

    def _lost(self, connection: Connection, shard: Shard, link: Link, error: ConnectionLostError) -> None:
        self.selector.unregister(connection)
        del self._open[connection.number]
        self._recorder.closed(connection.number)
        connection.close()
        head = {"url": connection.url, "code": error.code, "reason": error.reason}
        self._recorder.record(self._stamp(), "close", conn=connection.number, head=head)
        self._remember_open()
        self._policy.learn(shard, link, was_ignored=error.reason == SILENT or error.code == TOO_BIG)
        self._policy.lost(self._now, shard, link)
        log.info("%s connection %d closed: %s", self._adapter.NAME, connection.number, error.reason)

    def _switch(self, now: float, shard: Shard) -> None:
        """The fresh connection has delivered beside the live one: let it feed the topics, then close the old."""
        assert shard.live is not None and shard.fresh is not None
        head = {"from": shard.live.conn}
        self._recorder.record(self._stamp(), "switch", conn=shard.fresh.conn, head=head)
        old = self._policy.switched(now, shard)
        if old is not None:
            connection, _, link = self._open[old.conn]
            self._lost(connection, shard, link, ConnectionLostError("planned", 1000))

    def _remember_open(self) -> None:
        self._remember(self._next_conn, {str(number): open_[0].url for number, open_ in self._open.items()})

    # -- frames ------------------------------------------------------------------------------------------------

    def _send_next(self, now: float, connection: Connection, shard: Shard, link: Link) -> None:
        """Send the next frame that is due, one in MESSAGE_INTERVAL_S: the exchange ends who sends too many."""
        if self._adapter.PING is not None and now >= link.ping_at:
            link.ping_at = now + self._adapter.PING_INTERVAL_S
            link.to_send.appendleft(self._adapter.PING)
        if not link.to_send:
            self._subscriber.next_frames(now, shard, link)
        if not link.to_send:
            return
        try:
            self._send(connection, link.to_send.popleft())
        except ConnectionLostError:
            self.read(now, [connection])  # what came before comes first; then it is lost
            return
        link.next_send_at = now + self._adapter.MESSAGE_INTERVAL_S
        if self._adapter.MESSAGES_TOGETHER:
            self._next_send_at = link.next_send_at

    def _send(self, connection: Connection, payload: bytes) -> None:
        connection.send(payload)
        self._recorder.record(self._stamp(), "out", conn=connection.number, payload=payload)

    def _take(self, link: Link, drains: list[Drain]) -> None:
        """What one drain brought: runs of text frames as they are, in one append; others one by one, in order."""
        runs: list[tuple[int, list[bytes]]] = []
        sort = b""  # of the frames in `runs`
        lost: ConnectionLostError | None = None  # by a close frame: whatever else came with it counts
        for ts, frames, has_rare in drains:
            if not has_rare and not sort:
                runs.append((ts, cast("list[bytes]", frames)))
                continue
            for frame in frames:
                payload, own = self._text_of(frame)
                if payload is None or own != sort:
                    self._record_runs(link, runs, sort)
                    runs, sort = [], own
                if payload is not None:
                    runs.append((ts, [payload]))
                elif not isinstance(frame, bytes):
                    lost = lost or self._take_rare(link, ts, frame)
        self._record_runs(link, runs, sort)
        if lost is not None:
            raise lost

    def _text_of(self, frame: bytes | Frame) -> tuple[bytes | None, bytes]:
        """A frame's text, and what the head of its record says of it; None where it is none."""
        if isinstance(frame, bytes):
            return frame, b""
        if frame.op is None:
            return frame.payload, b""
        if frame.op == "binary" and self._adapter.inflate is not None:
            with contextlib.suppress(ValueError):
                inflated = self._adapter.inflate(frame.payload, self._config.max_frame_bytes)
                return inflated, b',"op":"binary","encoding":"%b"' % self._adapter.ENCODING.encode()
        return None, b""

    def _record_runs(self, link: Link, runs: list[tuple[int, list[bytes]]], sort: bytes) -> None:
        if runs:
            others = self._recorder.runs(link.conn, runs, sort)
            if self._recorder.has_data:
                link.data_at = self._now
            for message in others:
                self._take_message(link, message)

    def _take_rare(self, link: Link, ts: int, frame: Frame) -> ConnectionLostError | None:
        self._recorder.binary(ts, link.conn, "in", str(frame.op), frame.payload)
        connection = self._open[link.conn][0]
        while connection.sent_pongs:
            self._recorder.binary(ts, link.conn, "out", "pong", connection.sent_pongs.pop(0))
        if frame.op == "close":
            code, reason = close_code(frame.payload)
            return ConnectionLostError(reason or "closed by the exchange", code)
        if frame.op == "binary":
            self._note_unknown("binary frame")
        return None

    def _take_message(self, link: Link, message: Any) -> None:
        """A frame that is no market data: an answer, an announcement, or something that is not understood."""
        if (answer := self._adapter.answer(message)) is not None:
            link.to_send.appendleft(answer)
            return
        reply = self._adapter.reply(message)
        if reply is not None:
            self._subscriber.take(self._now, self._open[link.conn][1], link, reply)
        elif self._adapter.is_shutdown(message):
            log.info("%s connection %d: the exchange will close it", self._adapter.NAME, link.conn)
            link.shuts_down = True
        else:
            self._note_unknown(_sort_of(message))

    def _note_unknown(self, sort: str) -> None:
        unknown = self._recorder.unknown
        sort = sort if sort in unknown or len(unknown) < SORTS_MAX else "others"
        unknown[sort] += 1
        if unknown[sort] == 1:
            log.warning("%s frames not understood, kept as they are: %s", self._adapter.NAME, sort)


def replaced(url: str, other: str) -> str:
    """A URL with scheme, host and port of another one, if that is given."""
    if not other:
        return url
    scheme, netloc = urlsplit(other)[:2]
    return urlunsplit((scheme, netloc, *urlsplit(url)[2:]))


def _sort_of(message: Any) -> str:
    if not isinstance(message, dict):
        return f"JSON {type(message).__name__}"
    data = message.get("data", message)
    kind = data.get("e") if isinstance(data, dict) else None
    return f"event {str(kind)[:40]!r}" if kind is not None else f"keys {sorted(message)[:8]!r}"[:120]
