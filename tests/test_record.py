"""The record line: whatever came over the wire comes back byte for byte, and nothing is taken for what it is not."""

import base64
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.record import Record, RecordError, accepts, decode, encode, seq_of, whole_lines

TRAPS = [
    ',"data":',
    ',"base64":"',
    '{"seq":1,"data":{}}',
    "\u2028",
    "\r\n",
    "\\",
    '"',
    "}",
    "\0",
    "é",
    "币安人生",
    "😀",
]
texts = st.one_of(st.text(max_size=20), st.lists(st.sampled_from(TRAPS), max_size=4).map("".join)).filter(
    lambda text: text.isascii() or not any(0xD800 <= ord(each) < 0xE000 for each in text)
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["data", "base64", "a"]), inner)
    ),
    max_leaves=8,
)
raw_payloads = st.sampled_from(
    [
        b"", b"{}", b" {}", b'{"a":1.50}', b'{"id":123456789012345678901234567890}', b'{ "a" :\t1e5 }', b"1.10",
        b'{\n"a":1}', b'{"a":1}\n', b'{"a":1}\r', b"[1,\r\n2]", b'{"a":', b"not JSON", b"\xff\xfe", b"\x1f\x8b\x08",
        b'","data":{"x":1}}', b'"}', b'{"x":1,"data":{"y":2,"base64":"AA"},"base64":"BB"}', '"\u2028"'.encode(),
        b"null",
    ]
)  # fmt: skip
payloads = st.one_of(json_values.map(orjson.dumps), raw_payloads, st.binary(max_size=40), texts.map(str.encode))
heads = st.dictionaries(
    st.sampled_from(["url", "status", "reason", "headers", "ts_sent"]),
    st.one_of(st.none(), st.integers(-(2**63), 2**63), texts, st.dictionaries(st.just("retry-after"), texts)),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.integers(1, 2**63), st.integers(0, 2**63 - 1), st.sampled_from(["in", "out", "rest", "x"]),
    st.none() | st.integers(0, 2**31), st.none() | texts, st.none() | texts, heads, st.none() | payloads,
)  # fmt: skip
@example(1, 1, "in", 1, ',"data":', ',"base64":"', {}, b"\xff")
def test_a_record_comes_back_as_it_was(
    seq: int, ts: int, kind: str, conn: int | None, channel: str | None, symbol: str | None,
    head: dict[str, Any], payload: bytes | None,
) -> None:  # fmt: skip
    line = encode(seq, ts, kind, conn=conn, channel=channel, symbol=symbol, head=head, payload=payload)
    record = decode(line)
    assert record[:6] == (seq, ts, kind, conn, channel, symbol) and record.payload == payload
    assert {key: record.head[key] for key in head} == head
    assert decode(line[:-1]) == record
    assert line.count(b"\n") == 1 and b"\r" not in line and seq_of(line) == seq
    whole = orjson.loads(line)
    if payload is not None and "base64" in whole:
        assert base64.b64decode(whole["base64"]) == payload
    elif payload is not None:
        assert whole["data"] == orjson.loads(payload)


def test_digits_stay_as_they_were_sent() -> None:
    payload = b'{"id":123456789012345678901234567890,"p":0.10,"q":1E+2}'
    assert payload in encode(1, 2, "in", payload=payload)


@pytest.mark.parametrize("payload", [b'{"a":1}\n', b'{\r"a":1}', b"\xff", b"", b"NaN", b'{"a":1'])
def test_what_would_break_the_line_or_is_no_json_stands_in_base64(payload: bytes) -> None:
    line = encode(1, 2, "in", payload=payload)
    assert b'"base64":"' + base64.b64encode(payload) in line and decode(line).payload == payload


def test_a_head_names_its_keys_in_their_order() -> None:
    line = encode(17, 5, "rest", conn=3, channel="book", symbol="币", head={"url": "/a"}, payload=b"[1]")
    expected = '{"seq":17,"ts_recv":5,"conn":3,"kind":"rest","channel":"book","symbol":"币","url":"/a","data":[1]}\n'
    assert line == expected.encode()


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"{}", b"[]", b"null", b'{"seq":1}', b'{"seq":"1","ts_recv":1,"kind":"in"}\n',
        b'{"seq":true,"ts_recv":1,"kind":"in"}\n', b'{"seq":1,"ts_recv":1,"kind":1}\n',
        b'{"seq":1,"ts_recv":1.5,"kind":"in"}',
        b'{"seq":1,"ts_recv":1,"kind":"in","data":{}\xff', b'{"seq":1,"ts_recv":1,"kind":"in","base64":"AA',
        b'{"seq":1,"ts_recv":1,"kind":"in","base64":"*"}\n', b'{"seq":1,"ts_recv":1,"kind":"in"', b'x,"data":{}}\n',
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused(line: bytes) -> None:
    with pytest.raises(RecordError):
        decode(line)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(1, 2**63), payloads, st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_a_line_that_was_damaged_is_refused_or_a_record_but_never_another_error(
    seq: int, payload: bytes, place: int, other: bytes
) -> None:
    line = encode(seq, 5, "in", conn=1, channel="trade", symbol="A", payload=payload)
    place %= len(line)
    for damaged in (line[:place], line[:place] + other + line[place + len(other) :], line[place:]):
        for look in (decode, seq_of):
            try:
                found = look(damaged)
            except RecordError:
                continue
            assert isinstance(found, Record | int)


@pytest.mark.parametrize(
    "line", [b"", b'{"seq":', b'{"seq":,', b'{"seq":1', b'{"seq":-1,', b'{"seq":1.5,', b' {"seq":1,']
)
def test_a_number_is_read_only_where_one_stands(line: bytes) -> None:
    with pytest.raises(RecordError):
        seq_of(line)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=6).map(lambda data: data.replace(b"\n", b"\r")), max_size=6), st.binary(max_size=6))
def test_whole_lines_end_at_line_feeds_alone(lines: list[bytes], rest: bytes) -> None:
    """Neither a carriage return nor what Unicode counts as a line break ends a record."""
    rest = rest.replace(b"\n", b"\r")
    whole = [line + b"\n" for line in lines]
    assert whole_lines(b"".join(whole) + rest) == (whole, rest)


def test_json_is_what_orjson_takes() -> None:
    assert accepts(b'{"a":123456789012345678901234567890}') and accepts(b"null")
    assert not any(map(accepts, (b"", b"NaN", b"{'a':1}", b'"\xff"', b'"\\ud800"', b"{}{}")))
