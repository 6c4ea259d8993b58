"""What the tests of several exchanges share: a normaliser that is fed frames, and frames that went wrong."""

import json
from types import SimpleNamespace
from typing import Any

import orjson
from hypothesis import strategies as st

from common.adapter import Adapter
from common.events import Event, body
from common.normaliser import Normaliser
from common.record import decode, encode


class Run:
    """A normaliser that follows some symbols, and the events it has given."""

    def __init__(self, adapter: Adapter | SimpleNamespace, *symbols: str) -> None:
        self.normaliser = Normaliser(adapter)  # type: ignore[arg-type]  # a namespace of all that an Adapter has
        self.events: list[Event] = []
        self._seq = 0
        start = {"subscriptions": {"symbols": symbols, "channels": adapter.CHANNELS}}
        self._take("start", None, orjson.dumps(start))

    def take(self, payload: bytes, conn: int = 1) -> list[Event]:
        """The events that a frame gives."""
        return self._take("in", conn, payload)

    def close(self, conn: int) -> list[Event]:
        return self._take("close", conn, b"{}")

    def _take(self, kind: str, conn: int | None, payload: bytes) -> list[Event]:
        self._seq += 1
        line = encode(self._seq, self._seq, kind, conn=conn, payload=payload)
        found = [orjson.loads(body(message)) for message in self.normaliser.messages(decode(line))]
        self.events += found
        return found

    def of(self, channel: str) -> list[Event]:
        return [event for event in self.events if event["channel"] == channel]

    def gaps(self) -> list[tuple[str, str]]:
        """State and reason of each gap event."""
        return [(event["state"], event["reason"]) for event in self.of("gap")]


def dumps(value: Any) -> bytes:
    """As an exchange may send it: with integers of any size."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


ODD = st.one_of(
    st.none(), st.booleans(), st.just([]), st.just({}), st.text(max_size=3), st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False), st.lists(st.lists(st.text(max_size=2), max_size=3), max_size=2),
    st.sampled_from(["9" * 30, "-1", "nan", "1e9", 2**63, 2**64 - 1, -1]),
)  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn, good: list[bytes]) -> bytes:
    """A good frame with values replaced, keys or elements taken away, or its end cut off."""
    message = json.loads(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(0, 3))):
        place: Any = message
        while isinstance(place, (dict, list)) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
            if isinstance(place[key], (dict, list)) and place[key] and draw(st.integers(0, 3)):
                place = place[key]
                continue
            if draw(st.booleans()):
                del place[key]
            else:
                place[key] = draw(ODD)
            break
    payload = dumps(message)
    return payload[: draw(st.integers(0, len(payload)))] if draw(st.integers(0, 9)) == 0 else payload
