"""A block of an archive file: whole record lines that can be read without the others, and what is known about them."""

import re
from typing import Any

from .record import is_text, seq_of

_CHECKPOINT = re.compile(rb'^\{"seq":(\d+),"ts_recv":\d+,"kind":"checkpoint"', re.MULTILINE)
_EVENT = re.compile(rb'^\{"seq":\d+,"ts_recv":\d+,"kind":"event"', re.MULTILINE)
_LINE = re.compile(rb'\{"seq":\d+,"ts_recv":(\d+),[^\n]*\}\n')


def describe(raw: bytes) -> dict[str, Any]:
    """Counts, and the ranges of `seq` and `ts_recv`; where `checkpoints` lie; whether `event` records are in it.

    Raises ValueError where it is damaged.
    """
    stamps, records = _LINE.findall(raw), raw.count(b"\n")
    begins = raw.startswith(b'{"seq":') and raw.count(b'\n{"seq":') == records - 1
    if not begins or len(stamps) != records or not is_text(raw):
        raise ValueError("not whole record lines")
    checkpoints = [int(seq) for seq in _CHECKPOINT.findall(raw)] if b'"checkpoint"' in raw else []
    last = raw[raw.rfind(b"\n", 0, -1) + 1 :]
    of_one_length = sum(map(len, stamps)) == 19 * records  # then they compare as they are
    by_time = None if of_one_length else int
    return {
        "raw_bytes": len(raw),
        "records": records,
        "seq": [seq_of(raw), seq_of(last)],
        "ts_recv": [int(min(stamps, key=by_time)), int(max(stamps, key=by_time))],
        **({"checkpoints": checkpoints} if checkpoints else {}),  # where a reader may begin
        **({"told": True} if b'"kind":"event"' in raw and _EVENT.search(raw) else {}),  # events that no frame proves
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
