"""A recorder of one exchange without disk or sockets: frames and records in, events out, as live."""

from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from common import exchanges
from common.adapter import Adapter
from common.events import GAP, Action, Event, body
from common.foreign_recording import TEXT, Line, read_lines
from common.journal import Journal
from common.normaliser import Normaliser
from common.record import decode
from common.recorder import Recorder

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings"


class Run:
    """`lines` are its records; each call returns the events that it gave."""

    def __init__(self, exchange: str, *symbols: str) -> None:
        self.adapter = cast(Adapter, exchanges.get(exchange))
        self.normaliser = Normaliser(self.adapter)
        self.next, self.lines = 1, list[bytes]()  # a journal with room for all
        self._events: list[Event] = []
        self.recorder = Recorder(self.adapter, self.normaliser, cast(Journal, self), lambda _: None, self._publish)
        subscriptions = {"symbols": symbols, "channels": self.adapter.CHANNELS}
        self.record("start", payload=orjson.dumps({"subscriptions": subscriptions}))

    def append(self, lines: list[bytes]) -> int:
        self.lines += lines
        self.next += len(lines)
        return len(lines)

    def _publish(self, message: bytes) -> None:
        self._events.append(orjson.loads(body(message)))

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        assert not self.normaliser.errors
        return events

    def frames(self, conn: int, *payloads: bytes) -> list[Event]:
        for payload in payloads:
            self.recorder.frames(conn, self.next * 10, [payload])
        return self._taken()

    def record(self, kind: str, **record: Any) -> list[Event]:
        self.recorder.record(self.next * 10, kind, **record)
        return self._taken()

    def rest(self, action: Action, body: bytes, status: int = 200) -> list[Event]:
        head = {"url": self.adapter.request(action, 5000).path, "status": status}
        return self.record("rest", head=head, payload=body, channel=action.channel, symbol=action.symbol)

    def actions(self) -> list[Action]:
        actions, self.normaliser.actions = self.normaliser.actions, []
        return actions

    def again(self) -> list[Event]:
        """All events once more, out of the records alone."""
        normaliser = Normaliser(self.adapter)
        return [orjson.loads(body(message)) for line in self.lines for message in normaliser.messages(decode(line))]


def told(events: list[Event]) -> list[tuple[Any, ...]]:
    """Events in short: a gap's channel, state and reason; a channel and, of trades, the id."""
    return [
        (*event["channels"], event["state"], event["reason"])
        if event["channel"] == GAP
        else (event["channel"], *([event["id"]] if "id" in event else []))
        for event in events
    ]


def recorded(name: str) -> list[Line]:
    """All that a recording tells; the test is skipped where there is none."""
    path = RECORDINGS / name
    if not path.exists():
        pytest.skip(f"no recording {path}")
    return list(read_lines(path))


def payloads(lines: list[Line]) -> list[bytes]:
    return [line.payload for line in lines if line.kind == TEXT]
