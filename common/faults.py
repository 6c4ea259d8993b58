"""Faults on demand for a stand-in exchange: what is wrong at the moment, and frames that no one expects. Pure."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .recording import Message

TEXT, BINARY = 0x1, 0x2
"""WebSocket opcodes of the frames below."""

NOW = ("cut", "close", "garble", "shutdown", "elapse")
"""Faults that happen once; the others last until they are used up or cleared."""

LASTING = (
    "drop",
    "mute",
    "unmute",
    "rest-late",
    "rest-fail",
    "rest-429",
    "refuse",
    "slow",
    "ignore",
    "pause",
    "resume",
)


class FaultError(ValueError):
    """A fault that cannot be understood; the message says why."""


@dataclass
class RestFault:
    """What happens to REST requests: `kind` as in LASTING, to `left` requests more, or to all (-1)."""

    kind: str
    path: str
    left: int
    seconds: float
    status: int
    body: str


@dataclass
class Faults:
    """The lasting faults that are on."""

    drops: dict[str, int] = field(default_factory=dict)  # by stream, or SYMBOL@depth for all its delta streams
    muted: set[str] = field(default_factory=set)  # `*` for all
    rest: list[RestFault] = field(default_factory=list)
    refuse_status: int = 0
    """What a new connection is answered; 0 lets it in, -1 cuts it."""
    refuse_left: int = -1
    slow_s: float = 0.0
    ignored_bytes: int = sys.maxsize
    """Longer frames of a client have no effect and no answer."""
    paused: bool = False

    def change(self, params: Mapping[str, str]) -> None:
        """Switch a lasting fault as told. Raises FaultError."""
        do = params.get("do", "")
        if do == "drop":
            symbol = params.get("symbol", "").lower()
            stream = params.get("stream") or (f"{symbol}@depth" if symbol else "")
            self.drops[need(stream, "drop: stream= or symbol= is missing")] = number(params, "n", 1)
        elif do == "mute":
            self.muted.add(params.get("stream", "*"))
        elif do == "unmute":
            self.muted.discard(params["stream"]) if "stream" in params else self.muted.clear()
        elif do == "refuse":
            self.refuse_status, self.refuse_left = number(params, "status", 503), number(params, "n", -1)
        elif do == "slow":
            self.slow_s = seconds(params, "seconds", 1.0)
        elif do == "ignore":
            self.ignored_bytes = number(params, "bytes", 0)
        elif do in ("pause", "resume"):
            self.paused = do == "pause"
        else:
            self._change_rest(do, params)

    def _change_rest(self, do: str, params: Mapping[str, str]) -> None:
        if do not in LASTING:
            raise FaultError(f"do={do!r} is unknown: {', '.join((*NOW, *LASTING, 'clear'))}")
        status = number(params, "status", 429 if do == "rest-429" else 503)
        wait = seconds(params, "seconds", 1.0)
        path, left = params.get("path", ""), number(params, "n", -1)
        self.rest.append(RestFault(do, path, left, wait, status, params.get("body", "")))

    def rest_faults(self, path: str) -> list[RestFault]:
        """The faults that this request meets; those with a count are used up by it."""
        met = [fault for fault in self.rest if path.endswith(fault.path)]
        for fault in met:
            fault.left -= fault.left > 0
        self.rest = [fault for fault in self.rest if fault.left != 0]
        return met

    def refused(self) -> int:
        """What a new connection is answered (see refuse_status); a refusal with a count is used up by it."""
        status = self.refuse_status
        if status and self.refuse_left > 0:
            self.refuse_left -= 1
            if self.refuse_left == 0:
                self.refuse_status, self.refuse_left = 0, -1
        return status

    def passing(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages that are sent."""
        if not self.drops and not self.muted:
            return messages
        return [message for message in self.unmuted(messages) if not self._is_dropped(message.stream)]

    def unmuted(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Those whose stream does not keep silent."""
        if "*" in self.muted:
            return []
        return [message for message in messages if message.stream not in self.muted]

    def _is_dropped(self, stream: str) -> bool:
        symbol, _, channel = stream.partition("@")
        for key in (stream, f"{symbol}@depth" if channel.startswith("depth") else stream):
            if self.drops.get(key, 0) > 0:
                self.drops[key] -= 1
                if not self.drops[key]:
                    del self.drops[key]
                return True
        return False


def check(params: Mapping[str, str]) -> None:
    """Refuse a fault that cannot happen, before it is armed or half done. Raises FaultError."""
    do = params.get("do", "")
    for name in ("after", "n", "code", "status", "bytes"):
        if number(params, name, 0) < -1:
            raise FaultError(f"{name}={params[name]} is negative")
    if do == "garble":
        garbled(params)
    elif do == "elapse":
        seconds(params, "seconds", 1.0)
    elif do not in (*NOW, "clear"):
        Faults().change(params)


def garbled(params: Mapping[str, str]) -> tuple[int, bytes]:
    """Opcode and payload of a frame that no one expects. Raises FaultError."""
    kind = params.get("kind", "truncated")
    if kind == "huge":
        room = number(params, "bytes", 1_000_000) - len(b'{"stream":"huge","data":""}')
        return TEXT, b'{"stream":"huge","data":"%b"}' % (b"x" * max(room, 0))
    if kind == "text":
        return TEXT, params.get("text", "").encode()
    if kind not in GARBLED:
        raise FaultError(f"kind={kind!r} is unknown: {', '.join((*GARBLED, 'huge', 'text'))}")
    return GARBLED[kind]


GARBLED = {
    "truncated": (TEXT, b'{"stream":"btcusdt@trade","data":{"e":"trade","E":17231612'),
    "binary": (BINARY, b"\x00\x01\xfe\xff not JSON"),
    "empty": (TEXT, b""),
    "unknown": (TEXT, b'{"stream":"btcusdt@mystery","data":{"e":"mystery","E":1723161255208,"s":"BTCUSDT"}}'),
    "linebreak": (TEXT, b'{"stream":"btcusdt@mystery",\n "data":{"e":"mystery","s":"BTCUSDT"}}'),
    "digits": (TEXT, b'{"stream":"btcusdt@mystery","data":{"e":"mystery","n":123456789012345678901234567890}}'),
    "utf8": (TEXT, b'{"stream":"btcusdt@mystery","data":"\xff\xfe"}'),
    "noise": (TEXT, b"<html>502 Bad Gateway</html>"),
}


def need(value: str, problem: str) -> str:
    """A value that must be there. Raises FaultError."""
    if not value:
        raise FaultError(problem)
    return value


def number(params: Mapping[str, str], name: str, default: int) -> int:
    """A whole number of a fault's parameters. Raises FaultError."""
    try:
        return int(params.get(name, default))
    except ValueError:
        raise FaultError(f"{name}={params[name]!r} is no whole number") from None


def seconds(params: Mapping[str, str], name: str, default: float) -> float:
    """A time of a fault's parameters. Raises FaultError."""
    try:
        return float(params.get(name, default))
    except ValueError:
        raise FaultError(f"{name}={params[name]!r} is no number") from None
