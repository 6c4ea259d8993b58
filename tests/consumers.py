"""Consumers of a pipeline's events, each in a thread of its own, and how their events are compared."""

import threading
from collections.abc import Callable, Iterable

from common.events import Event
from common.following import Following
from tests.pipeline import until


class Consumer:
    """Takes what it is given until it is stopped; while it is stalled, it takes nothing."""

    def __init__(self, begin: Callable[[], Following], *, strict: bool = False) -> None:
        self.strict = strict
        self.events: list[Event] = []
        self.failed: Exception | None = None
        self.waiting = ""  # in its own words, what it waits for
        self._begin, self._stop, self._goes = begin, threading.Event(), threading.Event()
        self._goes.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._begin() as following:
                while not self._stop.is_set():
                    self.events.extend(following.poll(0.05))
                    self.waiting = following.waiting
                    self._goes.wait()
        except Exception as error:
            self.failed = error  # told by who waits for it

    def stall(self) -> None:
        self._goes.clear()

    def go_on(self) -> None:
        self._goes.set()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        until(lambda: self.failed or condition(), what)
        if self.failed is not None:
            raise self.failed

    def wait_count(self, count: int) -> None:
        self.wait(lambda: len(self.events) >= count, f"{count} events have come")

    def wait_number(self, number: int) -> list[Event]:
        """What came up to a number, once something above it came."""
        self.wait(lambda: self.events and self.events[-1]["seq"] > number, f"events up to {number} have come")
        return [event for event in self.events if event["seq"] <= number]

    def stop(self) -> None:
        self._stop.set()
        self._goes.set()
        self._thread.join()


def by_topic(events: Iterable[Event]) -> dict[tuple[str, str], list[Event]]:
    found: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        found.setdefault((event["channel"], event["symbol"]), []).append(event)
    return found
