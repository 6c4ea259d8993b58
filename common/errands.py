"""What the feed asks an exchange for beside its streams: snapshots, missed trades, polls, instruments; and the answers.

Requests run in the thread of `RestClient`; everything else is the feed's one thread. Each answer is a record.
"""

import logging
import queue
import time
from collections.abc import Callable
from typing import Any

import orjson

from .adapter import Adapter
from .config import FeedConfig
from .crossing import Crossing
from .events import Action, Update
from .judge import poll_failure
from .normaliser import Normaliser
from .recorder import Recorder
from .rest import Answer, RestClient, budget_of, pause_s
from .schedule import Heartbeats
from .wires import Wires, replaced

log = logging.getLogger("feed")

INQUIRY_INTERVAL_S = 0.5  # between symbols that are asked for one by one: snapshots need most of the weight
INSTRUMENTS_INTERVAL_S = 3600.0
FORGET_S = 120.0  # a book that was asked for so long ago, and came, begins its back-off anew
BODY_LOGGED_BYTES = 200
UNREAD_NAMED = 5
QUIET_S = 5.0  # a book without a delta for so long is asked for: no delta may ever come
QUIET_AGAIN_S = 30.0


class Errands:
    def __init__(
        self,
        adapter: Adapter,
        config: FeedConfig,
        recorder: Recorder,
        normaliser: Normaliser,
        wires: Wires,
        stamp: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self._adapter, self._config, self._exchange = adapter, config, adapter.NAME
        self._recorder, self._normaliser, self._wires = recorder, normaliser, wires
        self._stamp, self._wake = stamp, wake
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._attempts: dict[Action, int] = {}
        self._inquiries: dict[str, list[str]] = {}  # the symbols that a path asks about, until it is answered
        self._failed_inquiries = 0
        self._renewals: dict[str, tuple[float, int]] = {}  # books asked for on the socket: when next, how often so far
        self._quiet: dict[str, int] = {}  # books asked for without a delta: the connection that was subscribed by then
        self._quiet_at: dict[str, float] = {}  # when such a book may be asked for again
        self._quiet_due = 0.0
        self._crossing = Crossing(adapter, normaliser, recorder, stamp)
        self._symbols: list[str] = []
        self._unread: set[str] = set()  # instruments that were told not to be understood
        self._inquire_at = 0.0
        self._polls: dict[str, Heartbeats] = {}
        self._polled: dict[Action, bool] = {}  # polls without an answer yet, and whether a gap tells of it
        base = replaced(adapter.REST_URL, config.rest_url)
        budget = budget_of(base, adapter.WEIGHT_PER_MIN, adapter.REQUEST_INTERVAL_S)
        self._rest = RestClient(base, config.rest_timeout_s, budget, self._deliver)

    def begin(self, now: float, symbols: list[str]) -> None:
        """Look after these symbols from now on."""
        self._symbols, self._inquire_at = symbols, now
        wanted = frozenset(symbols)
        self._polled = {action: told for action, told in self._polled.items() if action.symbol in wanted}
        self._polls = {
            channel: Heartbeats(symbols, interval, now)
            for channel, interval in self._adapter.POLLS.items()
            if channel in self._config.channels
        }

    def start(self) -> None:
        self._rest.start()

    def stop(self) -> None:
        self._rest.stop()

    def ask(self, now: float) -> None:
        """Begin what the normaliser wants done."""
        actions, self._normaliser.actions = self._normaliser.actions, []
        for action in actions:
            if action.kind == "snapshot" and self._adapter.BOOK.snapshot != "rest":
                at, times = self._renewals.get(action.symbol, (0.0, 0))
                times = times + 1 if now < at + FORGET_S else 0
                self._renewals[action.symbol] = (now + (pause_s(times) if times else 0.0), times)
                continue
            attempts = self._attempts.get(action, 0)
            self._attempts[action] = attempts + 1
            delay = pause_s(attempts) if attempts else 0.0
            self._rest.ask(action, self._adapter.request(action, self._config.snapshot_depth), delay)

    def tick(self, now: float) -> None:
        """Take the answers that came, and begin what is due."""
        while not self._answers.empty():
            self._take(self._answers.get())
        for symbol, (at, times) in self._renewals.items():
            state = self._normaliser.symbols.get(symbol)
            if at <= now and state is not None and state.sync.asked and self._wires.renew_book(symbol):
                self._renewals[symbol] = (now + self._config.rest_timeout_s + pause_s(times), times + 1)
        self._crossing.tick(now)
        if now >= self._quiet_due:
            self._quiet_due = now + 1.0
            self._ask_quiet_books(now)
        for channel, poll in self._polls.items():
            for polled in poll.due(now):
                if polled is not None:
                    self._poll(Action("poll", channel, polled))
        if now >= self._inquire_at:
            self._inquire_at = now + INSTRUMENTS_INTERVAL_S
            for symbols in self._adapter.inquiries(self._symbols):
                self._inquire(symbols, 0.0)

    def _poll(self, action: Action) -> None:
        """Ask for a polled channel. Where the poll before still waits, as during a ban, that is a gap instead."""
        if (told := self._polled.get(action)) is None:
            self._rest.ask(action, self._adapter.request(action, 0))
        elif not told:
            payload = orjson.dumps({"state": "open", "reason": poll_failure(0)})
            self._recorder.record(self._stamp(), "gap", channel=action.channel, symbol=action.symbol, payload=payload)
        self._polled[action] = told is not None

    def _ask_quiet_books(self, now: float) -> None:
        """Ask for the books of symbols that are subscribed to and have brought no delta yet."""
        if self._adapter.BOOK.snapshot == "stream" or "book" not in self._config.channels:
            return
        for symbol, conn in self._wires.carrying("book", now - QUIET_S).items():
            state = self._normaliser.symbols.get(symbol)
            if state is None or "book" not in state.channels or now < self._quiet_at.get(symbol, 0.0):
                continue
            if not (state.sync.synced or state.sync.asked or state.sync.held):
                state.sync.asked = True
                self._quiet[symbol], self._quiet_at[symbol] = conn, now + QUIET_AGAIN_S
                self._normaliser.actions.append(Action("snapshot", "book", symbol))
        self.ask(now)

    def _deliver(self, answer: Answer) -> None:
        """Called in the REST thread."""
        self._answers.put(answer)
        self._wake()

    def _take(self, answer: Answer) -> None:
        head: dict[str, Any] = {
            "url": answer.request.path,
            "status": answer.status,
            "ts_sent": answer.ts_sent,
            "headers": answer.headers,
        }
        if answer.error is not None:
            head["error"] = answer.error
        if answer.status != 200:
            said = f"status {answer.status} {answer.body[:BODY_LOGGED_BYTES].decode(errors='replace')!r}"
            log.warning("%s %s: %s", self._exchange, answer.request.path, answer.error or said)
        channel, symbol = (answer.action.channel, answer.action.symbol) if answer.action else (None, None)
        if answer.action is not None and answer.action.kind == "snapshot":
            conn = self._quiet.pop(answer.action.symbol, None)
            if conn is not None and self._wires.carrying("book", time.monotonic()).get(answer.action.symbol) == conn:
                head["subscribed"] = conn
        payload = None if answer.error else answer.body
        self._recorder.record(self._stamp(), "rest", channel=channel, symbol=symbol, head=head, payload=payload)
        if answer.action is None:
            self._check_symbols(answer)
        elif answer.action.kind == "poll":
            self._polled.pop(answer.action, None)
        elif answer.action not in self._normaliser.actions:
            self._attempts.pop(answer.action, None)

    def _inquire(self, symbols: list[str], delay_s: float) -> None:
        """Ask the exchange what it says about symbols."""
        request = self._adapter.instruments_request(symbols)
        self._inquiries[request.path] = symbols
        self._rest.ask(None, request, delay_s)

    def _check_symbols(self, answer: Answer) -> None:
        """Say which symbols do not trade. One that is not known there has all refused that it came with."""
        symbols, status = self._inquiries.pop(answer.request.path, []), answer.status
        if status in (0, 418, 429) or status >= 500:
            self._failed_inquiries += 1
            self._inquire(symbols, pause_s(self._failed_inquiries))
            self._tell_unasked(symbols, status)
            return
        self._failed_inquiries = 0
        if status != 200 and len(symbols) > 1:
            for index, symbol in enumerate(symbols):
                self._inquire([symbol], index * INQUIRY_INTERVAL_S)
            return
        known = self._adapter.trading_symbols(answer.body) if status == 200 else {}
        self._tell_unread(answer, known)
        unknown = "not known" if status in (200, 400) else f"not told of (status {status})"
        for symbol in symbols:
            if known.get(symbol) != "TRADING":
                log.warning("%s %s is %s there", self._exchange, symbol, known.get(symbol, unknown))

    def _tell_unasked(self, symbols: list[str], status: int) -> None:
        """What the exchange says of symbols may have changed, and it does not answer: a gap until it does."""
        payload = orjson.dumps({"state": "open", "reason": poll_failure(status)})
        for symbol in symbols:
            state = self._normaliser.symbols.get(symbol)
            topic = state.channels.get("instrument") if state is not None else None
            if topic is not None and topic.gap is None and topic.is_seen:  # else nothing was known that may be old
                self._recorder.record(self._stamp(), "gap", channel="instrument", symbol=symbol, payload=payload)

    def _tell_unread(self, answer: Answer, known: dict[str, str]) -> None:
        """Say, once, which instruments trade that are not understood: nothing but their records tells of them."""
        read = self._adapter.parse_rest(answer.request.path, answer.body) if known else None
        trading = {symbol for symbol, status in known.items() if status == "TRADING"}
        unread = trading - self._unread - {update.symbol for update in read or () if isinstance(update, Update)}
        self._unread |= unread
        if unread:
            some = ", ".join(sorted(unread)[:UNREAD_NAMED]) + (", …" if len(unread) > UNREAD_NAMED else "")
            log.warning("%s %s: instruments that are not understood: %d", self._exchange, some, len(unread))
