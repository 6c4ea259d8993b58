"""The symbols that a feed is to record: the configuration's, its names and patterns as the exchange's list means them.

    start, SIGHUP ─▶ configuration ─▶ the exchange's list ─▶ `take`, the symbols to be recorded
                                        │ no list in the answer: asked again, with a back-off
                                        └ a name that means nothing: told, and asked for again while others are recorded

The list is asked for in a helper thread, one at a time, whoever wants it how often.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from .adapter import Adapter
from .config import FeedConfig
from .naming import Meant, catalogue, instruments, is_own, resolve
from .process import ConfigError
from .rest import RestClient, budget_of, pause_s
from .storage import has_place
from .wires import replaced

log = logging.getLogger("feed")

AGAIN_S, AGAIN_MAX_S = 60.0, 3600.0  # between two looks for names that mean nothing
EMPTY_MAX = 5  # answers without an instrument until one of several lists counts as empty
LOGGED_BYTES = 200
POLL_S = 0.1


class WantedSymbols:
    """`read` reads the configuration anew; `goes_on` tells whether to go on; `wake` is called when `take` has one."""

    def __init__(
        self, adapter: Adapter, read: Callable[[], FeedConfig], goes_on: Callable[[], bool], wake: Callable[[], None]
    ) -> None:
        self.unknown: dict[str, str] = {}  # names that mean no instrument, or several, with a sentence
        self._adapter, self._read, self._goes_on, self._wake = adapter, read, goes_on, wake
        self._is_asked = False  # SIGHUP came
        self._thread: threading.Thread | None = None
        self._found: tuple[str, ...] | None = None
        self._known: tuple[str, ...] = ()
        self._again_at, self._pause_s = 0.0, AGAIN_S

    def begin(self, config: FeedConfig, now: float) -> tuple[str, ...]:
        """The symbols to begin with, one at least: waits until the exchange knows one. None where it is stopped."""
        found = self._meant(config, config.symbols, at_least_one=True)
        self._keep(found, now)
        return found.symbols

    def ask(self) -> None:
        """Read the configuration anew, soon. May be called by a signal handler."""
        self._is_asked = True

    def tick(self, now: float) -> None:
        """Begin what is due, unless a look is under way."""
        if self._thread is not None and self._thread.is_alive():
            return
        if self._is_asked:
            self._is_asked = False
            self._begin_look(self._reread)
        elif self.unknown and now >= self._again_at:
            self._again_at, self._pause_s = now + self._pause_s, min(2 * self._pause_s, AGAIN_MAX_S)
            self._begin_look(self._look_again)

    def take(self) -> tuple[str, ...] | None:
        """What is to be recorded from now on, if that was read anew. It is given again until `done`."""
        return self._found

    def done(self, symbols: tuple[str, ...]) -> None:
        """These are recorded."""
        if self._found is symbols:
            self._found = None

    def _begin_look(self, look: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=look, name="symbols", daemon=True)
        self._thread.start()

    def _reread(self) -> None:
        try:
            config = self._read()
        except ConfigError as error:
            log.error("%s nothing is changed: %s", self._adapter.NAME, error)
            return
        found = self._meant(config, config.symbols)
        if found.symbols:
            self._keep(found, time.monotonic())
            self._found = found.symbols
            self._wake()
        elif found.unknown:
            log.error("%s nothing is changed: no symbol of the configuration means anything there", self._adapter.NAME)

    def _look_again(self) -> None:
        found = self._meant(self._read(), self.unknown)
        new = tuple(symbol for symbol in found.symbols if symbol not in self._known)
        self._known, self.unknown = (*self._known, *new), found.unknown
        if new:
            self._found = self._known
            self._wake()

    def _keep(self, found: Meant, now: float) -> None:
        self._known, self.unknown = found
        self._again_at, self._pause_s = now + AGAIN_S, 2 * AGAIN_S

    def _meant(self, config: FeedConfig, texts: Iterable[str], *, at_least_one: bool = False) -> Meant:
        """Ask until the exchange answers what texts mean; nothing where it is stopped."""
        wanted = list(texts)
        if all(is_own(self._adapter, text) for text in wanted):
            return Meant(tuple(wanted), {})
        attempts = 0
        while (answers := self._list(config)) is not None:
            found = resolve(self._adapter, wanted, answers)
            if long := [symbol for symbol in found.symbols if not has_place(symbol)]:
                log.error("%s %s: too long to name a file by, and not recorded", self._adapter.NAME, ", ".join(long))
                found = found._replace(symbols=tuple(each for each in found.symbols if each not in long))
            for sentence in found.unknown.values():
                log.error("%s %s: it is asked for again, and not recorded", self._adapter.NAME, sentence)
            if found.symbols or not at_least_one:
                return found
            attempts += 1
            self._sleep(pause_s(attempts + 4))
        return Meant((), {})

    def _list(self, config: FeedConfig) -> dict[str, bytes] | None:
        """The exchange's lists of instruments, by their paths. None where it is stopped before it knows them."""
        base = replaced(self._adapter.REST_URL, config.rest_url)
        budget = budget_of(base, self._adapter.WEIGHT_PER_MIN, self._adapter.REQUEST_INTERVAL_S)
        rest = RestClient(base, config.rest_timeout_s, budget, lambda _: None)
        wanted, answers, attempts = catalogue(self._adapter), dict[str, bytes](), 0
        while (answer := rest.ask_now(wanted[len(answers)], self._goes_on)) is not None:
            path, body = answer.request.path, answer.body
            some = bool(instruments(self._adapter, path, body)) if answer.status == 200 else None
            if some or (some is False and len(wanted) > 1 and attempts >= EMPTY_MAX):
                answers[path], attempts = body, 0
                if len(answers) == len(wanted):
                    rest.close()
                    return answers
                continue
            attempts += 1
            said = f"no instruments in {body[:LOGGED_BYTES].decode(errors='replace')!r}"
            why = answer.error or (said if answer.status == 200 else f"status {answer.status}")
            log.warning("%s %s: %s: asking again", self._adapter.NAME, path, why)
            self._sleep(pause_s(attempts))
        rest.close()
        return None

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._goes_on() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL_S))
