"""Recordings that others made, read as they stand."""

import gzip
import re
from pathlib import Path

import pytest

from common.foreign_recording import BINARY, CONNECT, REST, SENT, TEXT, Line, read_frames, read_lines, read_rest


def recording(path: Path, *lines: bytes) -> Path:
    with gzip.open(path, "wb") as file:
        file.write(b"".join(line + b"\n" for line in lines))
    return path


def test_text_lines_when_read_then_give_frames_requests_and_answers_byte_for_byte(tmp_path: Path) -> None:
    path = recording(
        tmp_path / "a.gz",
        b'https://api.x.com/v1/book?s=A&limit=5 -> 1618677816.8414998: {"a": [1.10]}',
        b"https://api.x.com -> 1618677816: []",
        b"wss://ws.x.com:8443/ws/v5 <-> 1618677817.5",
        b'wss://ws.x.com:8443/ws/v5 <- 1618677817.50000001: {"op":"sub"}',
        b'1618677818.1: {"p": 1.10, "u": "https://x -> 1: "}',
        b"1618677818.2: pong",
        rb"1618677818.3: b'\x1f\x8b\'\n'",
        b"",
        b"configuration: {}",
    )
    lines = list(read_lines(path))
    rest, socket = "https://api.x.com", "wss://ws.x.com:8443/ws/v5"
    assert lines == [
        Line(1618677816841499800, REST, b'{"a": [1.10]}', "/v1/book?s=A&limit=5", f"{rest}/v1/book?s=A&limit=5"),
        Line(1618677816000000000, REST, b"[]", "/", rest),
        Line(1618677817500000000, CONNECT, b"", "", socket),
        Line(1618677817500000010, SENT, b'{"op":"sub"}', "", socket),
        Line(1618677818100000000, TEXT, b'{"p": 1.10, "u": "https://x -> 1: "}'),
        Line(1618677818200000000, TEXT, b"pong"),
        Line(1618677818300000000, BINARY, b"\x1f\x8b'\n"),
    ]
    assert list(read_frames(path)) == [line[:3] for line in lines if line.kind in (TEXT, BINARY)]
    assert read_rest(path) == {"/v1/book?s=A&limit=5": b'{"a": [1.10]}', "/": b"[]"}


def test_json_lines_when_read_then_give_the_same(tmp_path: Path) -> None:
    path = recording(
        tmp_path / "a.gz",
        b'{"t":"header","format":2}',
        b'{"t":"http","conn":"X.http.1","ts":1786310817.601629,"url":"https://x.com/v5/i?&c=s","data":"{\\"r\\": 0}"}',
        b'{"t":"connect","conn":"X.ws.2","ts":1786310818.2235148,"addr":"wss://x.com"}',
        b'{"t":"send","conn":"X.ws.2","ts":1786310819.5,"addr":"wss://x.com","data":"{}"}',
        '{"t":"recv","conn":"X.ws.2","ts":1786310819.500001,"data":"{\\"ü\\": 1.10}"}'.encode(),
    )
    assert list(read_lines(path)) == [
        Line(1786310817601629000, REST, b'{"r": 0}', "/v5/i?&c=s", "https://x.com/v5/i?&c=s", "X.http.1"),
        Line(1786310818223515000, CONNECT, b"", "", "wss://x.com", "X.ws.2"),
        Line(1786310819500000000, SENT, b"{}", "", "wss://x.com", "X.ws.2"),
        Line(1786310819500001000, TEXT, '{"ü": 1.10}'.encode(), "", "", "X.ws.2"),
    ]


def test_times_with_payload_when_read_then_a_bare_book_is_an_answer_named_after_the_file(tmp_path: Path) -> None:
    frame, book = b'{"stream":"btcusdt@trade","data":{}}', b'{"lastUpdateId":7,"bids":[]}'
    path = recording(tmp_path / "btcusdt.gz", b"1723161255030314667 " + frame, b"1723161255030314668 " + book)
    assert list(read_frames(path)) == [(1723161255030314667, TEXT, frame)]
    assert read_rest(path) == {"/btcusdt.gz": book}


@pytest.mark.parametrize(
    "bad",
    [b"nonsense", b"1618677818.1 {}", b"1618677818.1: b'open", b'{"t":"recv"}', b'{"t":"new","ts":1.0}', b"{", b"[]"],
)
def test_a_line_when_it_is_none_of_these_then_file_and_line_are_named(tmp_path: Path, bad: bytes) -> None:
    path = recording(tmp_path / "a.gz", b"1618677818.1: {}", bad)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} line 2: "):
        list(read_frames(path))


def test_a_file_when_it_is_torn_then_its_name_is_told(tmp_path: Path) -> None:
    path = recording(tmp_path / "a.gz", b"1618677818.1: {}")
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        list(read_frames(path))
