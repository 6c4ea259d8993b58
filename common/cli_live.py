"""The command on what happens now: `follow`."""

import sys
from collections.abc import Sequence
from typing import Any

import orjson

from .client import Client
from .process import EXIT_OK

POLL_S = 0.5


def follow(
    client: Client, exchange: str, symbols: Sequence[str], channels: Sequence[str], start: str | None,
    count: int | None, on_gap_after_s: float | None,
) -> int:  # fmt: skip
    """Print events, from a start on or only live ones, until Ctrl-C, or `count` of them. Raises ArchivistError.

    With `on_gap_after_s` a hole that history does not fill for so long is gone over.
    """
    going_on: dict[str, Any] = {}
    if on_gap_after_s is not None:
        going_on = {"on_gap": "continue", "on_gap_after_s": on_gap_after_s}
    try:
        if start is None:
            following = client.live(exchange, symbols, channels, tell=_tell)
        else:
            following = client.follow(exchange, symbols, channels, start, tell=_tell, **going_on)
        out, left = sys.stdout.buffer, count
        with following:
            while left is None or left > 0:
                events = following.poll(POLL_S)[:left]
                out.write(b"".join(orjson.dumps(event) + b"\n" for event in events))
                out.flush()
                left = None if left is None else left - len(events)
    except KeyboardInterrupt:
        pass
    return EXIT_OK


def _tell(text: str) -> None:
    print(f"trade-archivist: {text}", file=sys.stderr, flush=True)
