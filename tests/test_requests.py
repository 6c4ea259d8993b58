"""The schema of history's requests: what is not known is refused, with a code and a mend, whatever it looks like."""

import dataclasses
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import requests
from common.errors import BadRequestError
from common.events import CHANNELS
from common.requests import OPS, REQUEST_BYTES_MAX, SYMBOLS_MAX

NOW = 1_700_000_000_000_000_000
HOUR_NS = 3_600_000_000_000
SLICE: dict[str, Any] = {"op": "slice", "exchange": "binance", "symbols": ["BTCUSDT"]}
CHUNK = {"op": "chunk", "exchange": "binance", "token": "t", "sha256": "s", "offset": 0}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
KEYS = sorted({field.name for kind in OPS.values() for field in dataclasses.fields(kind)} | {"id", "nonsense"})


def parsed(document: object) -> requests.Request:
    return requests.parse(requests.read(orjson.dumps(document)), NOW)


def refused(frame: bytes) -> str:
    """The code of the refusal; what is taken is "". Anything else that is raised is a fault."""
    try:
        document = requests.read(frame)
        orjson.dumps(requests.identity(document))
        requests.parse(document, NOW)
    except BadRequestError as error:
        assert str(error) and len(str(error)) < 2_000
        return error.code
    return ""


@given(st.binary(max_size=200))
def test_read_when_bytes_are_random_then_refuses_or_takes_them(data: bytes) -> None:
    assert refused(data) in ("malformed", "unknown_op")


@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6), st.sampled_from([*OPS, "nonsense"]))
def test_parse_when_values_are_random_then_refuses_or_takes_them(values: dict[str, Any], op: str) -> None:
    try:
        frame = orjson.dumps({"op": op, **values})
    except TypeError:  # an integer that no JSON of ours can hold
        return
    refused(frame)


@given(st.sampled_from(KEYS), JSON)
def test_parse_when_one_value_of_a_slice_is_random_then_refuses_or_takes_it(key: str, value: Any) -> None:
    try:
        frame = orjson.dumps({**SLICE, key: value})
    except TypeError:
        return
    refused(frame)


def test_parse_takes_all_that_may_be_asked() -> None:
    asked = parsed(
        {**SLICE, "id": 7, "channels": ["book", "gap", "book"], "start": "-2h", "end": "now", "max_bytes": 1}
    )
    assert isinstance(asked, requests.Slice)
    assert (asked.start, asked.end) == (NOW - 2 * HOUR_NS, NOW)
    assert (asked.channels, asked.format, asked.snapshot) == (("book", "gap"), "json", True)
    assert parsed({**SLICE, "next": None, "end": None}).__class__ is requests.Slice, "null is as if it were not there"
    assert getattr(parsed(SLICE), "channels") == CHANNELS  # noqa: B009
    assert parsed({"op": "book", "exchange": "b", "symbol": "A", "at": "2024-08-08"}) == requests.Book(
        "b", "A", 1_723_075_200_000_000_000
    )
    assert parsed({"op": "status"}) == requests.Status()
    assert getattr(parsed(CHUNK), "bytes") == 1024**2  # noqa: B009


def test_digest_is_that_of_the_words_and_of_nothing_else() -> None:
    def digest(**more: Any) -> str:
        return str(getattr(parsed({**SLICE, "start": "-2h", **more}), "digest"))  # noqa: B009

    assert digest() == digest(id=3, max_bytes=7, next="x")
    assert len({digest(), digest(start="-1h"), digest(channels=["trade"]), digest(format="raw")}) == 4
    later = requests.parse(requests.read(orjson.dumps({**SLICE, "start": "-2h"})), NOW + HOUR_NS)
    assert getattr(later, "digest") == digest(), "a relative time is the same word an hour later"  # noqa: B009


@pytest.mark.parametrize(
    ("document", "code", "says"),
    [
        ([], "malformed", "send one"),
        ({}, "unknown_op", "give one of"),
        ({"op": "slcie"}, "unknown_op", "did you mean slice?"),
        ({"op": ["slice"]}, "unknown_op", "unknown op"),
        ({**SLICE, "sybmols": []}, "unknown_key", "did you mean symbols?"),
        ({**SLICE, "digest": "x"}, "unknown_key", "has no key"),
        ({"op": "slice", "symbols": ["A"]}, "bad_value", "needs the key exchange"),
        ({**SLICE, "symbols": []}, "bad_value", "name at least one"),
        ({**SLICE, "symbols": "BTCUSDT"}, "bad_value", "not a list of texts"),
        ({**SLICE, "symbols": [1]}, "bad_value", "not a text"),
        ({**SLICE, "symbols": None}, "bad_value", "not a list of texts"),
        (
            {**SLICE, "symbols": [str(n) for n in range(SYMBOLS_MAX + 1)]},
            "too_many_symbols",
            f"{SYMBOLS_MAX} at a time",
        ),
        ({**SLICE, "channels": ["trades"]}, "unknown_channel", "did you mean trade?"),
        ({**SLICE, "start": "yesterday"}, "bad_time", "start: not a time"),
        ({**SLICE, "start": 1.5}, "bad_time", "start: not a time"),
        ({**SLICE, "end": 1_723_161_600_000}, "bad_time", "end: 1723161600000 looks like milliseconds: write 17231616"),
        ({**SLICE, "start": -1}, "bad_time", "start: -1 is not a time in ns"),
        ({**SLICE, "start": True}, "bad_time", "start: not a time"),
        ({**SLICE, "end": "9" * 5_000}, "bad_time", "too long"),
        ({**SLICE, "end": 1 << 63}, "bad_time", "64 bits"),
        ({**SLICE, "start": 5 * 10**17, "end": 3 * 10**17}, "bad_range", "exchange them"),
        ({**SLICE, "after": 5, "to": 3}, "bad_range", "exchange them"),
        ({**SLICE, "start": 5 * 10**17, "to": 3}, "bad_range", "leave one pair out"),
        ({**SLICE, "after": -1}, "bad_value", "after: -1"),
        ({**SLICE, "after": 1.0}, "bad_value", "not an integer"),
        ({**SLICE, "max_bytes": 0}, "bad_value", "not an integer from 1"),
        ({**SLICE, "max_bytes": True}, "bad_value", "not an integer"),
        ({**SLICE, "max_bytes": 1 << 40}, "bad_value", "not an integer from 1 to"),
        ({**SLICE, "snapshot": 1}, "bad_value", "not true or false"),
        ({**SLICE, "format": "csv"}, "unsupported_format", "json, arrow, raw"),
        ({**SLICE, "by": "time"}, "bad_value", "ts_recv, ts_event"),
        ({**SLICE, "id": [1]}, "bad_value", "id: give a number"),
        ({**SLICE, "id": "x" * 201}, "bad_value", "id: give a number"),
        ({**CHUNK, "bytes": 1 << 30}, "bad_value", "bytes: "),
        ({**CHUNK, "offset": -1}, "bad_value", "offset: -1"),
    ],
)
def test_parse_when_something_cannot_be_then_says_what_and_the_mend(document: Any, code: str, says: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        parsed(document)
    assert caught.value.code == code
    assert says in str(caught.value)


def test_read_when_it_is_too_large_or_too_deep_then_refuses_before_anything_else() -> None:
    assert refused(b" " * (REQUEST_BYTES_MAX + 1)) == "too_large"
    assert refused(b"[" * REQUEST_BYTES_MAX) == "malformed"
    assert refused(b'{"op":' + b"[" * 500 + b"]" * 500 + b"}") == "unknown_op"
    assert refused(b'{"op":"status","id":' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}") == "bad_value"
    assert refused(b'{"op":"slice","symbols":' + b"[" * 900 + b"]" * 900 + b"}") == "bad_value"


def test_parse_when_every_symbol_of_a_large_exchange_is_named_then_is_taken() -> None:
    """A follower of 2,000 symbols asks for all of them when something is missing."""
    symbols = tuple(f"SYMBOL{number}USDT" for number in range(3_000))
    assert vars(parsed({**SLICE, "symbols": symbols}))["symbols"] == symbols
