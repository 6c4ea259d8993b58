"""A block of an archive file: whole record lines that can be read without the others, and what is known about them."""

import re
from typing import Any

from .record import is_text, seq_of

_HEAD = rb'\{"seq":\d+,"ts_recv":(\d+(?:,"kind":"(?:checkpoint|event)")?),'
_FIRST = re.compile(_HEAD)
_OTHERS = re.compile(rb"\n(?:(?<=\}\n)" + _HEAD + rb"|)")
"""At each end of a line: the time of the record that follows, and its kind where that is of interest; nothing at the
last one, and where something is torn."""
_CHECKPOINT = re.compile(rb'^\{"seq":(\d+),"ts_recv":\d+,"kind":"checkpoint"', re.MULTILINE)
_EVENT = b',"kind":"event"'
_STAMP_DIGITS = 19


def describe(raw: bytes) -> dict[str, Any]:
    """Counts, and the ranges of `seq` and `ts_recv`; where `checkpoints` lie; whether `event` records are in it.

    Raises ValueError where it is damaged.
    """
    first, stamps = _FIRST.match(raw), _OTHERS.findall(raw)
    if first is None or not stamps or stamps.pop() or b"" in stamps or not raw.endswith(b"}\n") or not is_text(raw):
        raise ValueError("not whole record lines")
    stamps.append(first[1])
    checkpoints: list[int] = []
    told = False
    times = stamps  # of one length they compare as they are
    if sum(map(len, stamps)) != _STAMP_DIGITS * len(stamps):
        checkpoints = [int(seq) for seq in _CHECKPOINT.findall(raw)]
        told = any(stamp.endswith(_EVENT) for stamp in stamps)
        times = [int(stamp.partition(b",")[0]) for stamp in stamps]
    last = raw[raw.rfind(b"\n", 0, -1) + 1 :]
    return {
        "raw_bytes": len(raw),
        "records": len(stamps),
        "seq": [seq_of(raw), seq_of(last)],
        "ts_recv": [int(min(times)), int(max(times))],
        **({"checkpoints": checkpoints} if checkpoints else {}),  # where a reader may begin
        **({"told": True} if told else {}),  # events that no frame proves
    }


def place_of(raw: bytes, seq: int) -> int:
    """Where in a block's bytes the first record above a number begins (its length, if there is none)."""
    low, high = 0, len(raw)  # each the beginning of a line, or the end
    while low < high:
        middle = raw.rfind(b"\n", low, (low + high) // 2) + 1 or low
        if seq_of(raw[middle : middle + 40]) > seq:
            high = middle
        else:
            low = raw.find(b"\n", middle) + 1
    return low
