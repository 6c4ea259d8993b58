"""JSON that shows its own damage: the last key is the CRC32 of everything before it.

    {"complete":17,"fsynced":17,"line_crc32":2774283112}
    └────────── its CRC32 ─────┘

What was written before this key existed has none, and is read as it is.
"""

import re
from collections.abc import Mapping
from typing import Any
from zlib import crc32

import orjson

KEY = "line_crc32"

_END = re.compile(rb',"line_crc32":(\d{1,10})\}\s*\Z')


def dumps(data: Mapping[str, Any]) -> bytes:
    """An object that is not empty as JSON, with its checksum. Raises ValueError where it is empty."""
    text = orjson.dumps({key: value for key, value in data.items() if key != KEY})[:-1]
    if text == b"{":
        raise ValueError("an empty object has no place for a checksum")
    return b'%b,"%b":%d}' % (text, KEY.encode(), crc32(text))


def is_intact(text: bytes) -> bool:
    """Whether the checksum is right, or there is none."""
    end = _END.search(text, max(0, len(text) - 64))
    return end is None or crc32(memoryview(text)[: end.start()]) == int(end[1])


def has_checksum(text: bytes) -> bool:
    return _END.search(text, max(0, len(text) - 64)) is not None


def loads(text: bytes) -> Any:
    """What was written, without the checksum. Raises ValueError where the text is damaged."""
    if not is_intact(text):
        raise ValueError("its checksum is wrong")
    data = orjson.loads(text)
    if isinstance(data, dict):
        data.pop(KEY, None)
    return data
