"""Gaps that a new run ended: a `start` begins every topic anew, under a gap of its own, and forgets the one before.

The record of the earlier gap never comes to a `closed` event. Answers about gaps say that it is over.
"""

from collections.abc import Sequence

from .events import Event

BY = frozenset({"restart", "unsubscribed"})
"""Reasons of the gaps that a start opens."""


def ended(gaps: Sequence[Event]) -> list[Event]:
    """Gap events of one symbol, in order. The last one of a gap that a start superseded has the state `superseded`.

    `ts_to` then is when the run began, and `superseded_by` the id of the gap that goes on.
    """
    found = list(gaps)
    last: dict[tuple[str, int], int] = {}  # of each open gap of a channel, the place of its last event
    for place, gap in enumerate(found):
        for channel in gap["channels"]:
            if gap["state"] == "open" and gap["reason"] in BY and gap["gap"] == gap["seq"]:
                for key in [key for key in last if key[0] == channel and key[1] < gap["gap"]]:
                    at = last.pop(key)
                    over = {"state": "superseded", "ts_to": gap["ts_recv"], "superseded_by": gap["gap"]}
                    found[at] = {**found[at], **over}
            if gap["state"] == "open":
                last[channel, gap["gap"]] = place
            else:
                last.pop((channel, gap["gap"]), None)
    return found
