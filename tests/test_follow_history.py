"""The follower with the server's own answers, out of files: pages, tokens, and what a power loss took."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from common.answers import Answers
from common.disk import Disk
from common.events import Event
from common.follow import Follower
from common.process import boot_id
from common.storage import Archived, write_archived
from tests.archives import FIRST, Archive, hours, start, trade

Answer = Callable[[dict[str, Any]], tuple[dict[str, Any], list[Event]]]
LAST = FIRST + 300
AGAIN = FIRST + 1000
"""The number of a start after a power loss, which knows of everything up to LAST."""


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    archive = Archive(tmp_path)
    archive.begin()
    archive.take(hours(FIRST + 1, 300))
    archive.writer.hole(AGAIN, LAST)
    archive.take([start(AGAIN, LAST), trade(AGAIN + 1), trade(AGAIN + 2)])
    archive.close()
    return tmp_path


def replies(storage: Path, page_bytes: int) -> Answer:
    answers = Answers(storage)

    def answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[Event]]:
        header, payload = answers.unread(orjson.dumps(request), page_bytes=page_bytes)
        lines = b"".join(part for part in payload if isinstance(part, bytes)).split(b"\n")
        return orjson.loads(header), [orjson.loads(line) for line in lines if line]

    return answer


def followed(follower: Follower, answer: Answer, given: list[Event]) -> list[dict[str, Any]]:
    """Ask until it is live; returns the headers."""
    headers: list[dict[str, Any]] = []
    now = 1.0
    while follower.waiting and len(headers) < 1000:
        now += 1.0
        if (request := follower.request(now)) is not None:
            header, events = answer(request)
            headers.append(header)
            given += follower.answer(header, events, now)
    return headers


def message(event: Event) -> bytes:
    return f"binance/{event['channel']}/{event['symbol']} ".encode() + orjson.dumps(event)


@pytest.mark.parametrize("page_bytes", [1, 2000, 1 << 22])
def test_follower_when_pages_are_small_or_great_then_it_is_given_each_event_once(
    storage: Path, page_bytes: int
) -> None:
    answer = replies(storage, page_bytes)
    follower = Follower("binance", ["BTCUSDT", "ETHUSDT"], ["trade"], FIRST)
    request = {"op": "slice", "id": 1, "exchange": "binance", "symbols": ["BTCUSDT", "ETHUSDT"]}
    whole = replies(storage, 1 << 22)(request | {"channels": ["trade"], "after": 0, "to": AGAIN + 2})[1]
    given: list[Event] = list(follower.take(message(whole[-1]), 1.0))
    headers = followed(follower, answer, given)
    assert not [header for header in headers if "error" in header]
    assert len(headers) == 1 if page_bytes > 100_000 else len(headers) > 10
    assert given == whole
    assert len(given) > 200


@pytest.mark.parametrize("page_bytes", [1, 1 << 22])
def test_follower_when_the_archive_starts_before_what_it_was_given_then_that_is_withdrawn(
    storage: Path, page_bytes: int
) -> None:
    follower = Follower("binance", ["BTCUSDT"], ["trade"], None)
    lost: Event = {"channel": "trade", "symbol": "BTCUSDT", "seq": LAST + 5, "prev": LAST, "ts_recv": 1}
    newer: Event = {"channel": "trade", "symbol": "BTCUSDT", "seq": AGAIN + 1, "prev": AGAIN, "ts_recv": 2}
    given: list[Event] = [*follower.take(message(lost), 1.0), *follower.take(message(newer), 1.0)]
    headers = followed(follower, replies(storage, page_bytes), given)
    starts = [start for header in headers for start in header["starts"]]
    assert [(start["seq"], start["last"]) for start in starts] == [(AGAIN, LAST)]
    withdrawn = [event for event in given if event.get("state") == "withdrawn"]
    assert [(event["first_seq"], event["last_seq"]) for event in withdrawn] == [(LAST + 1, AGAIN - 1)]
    assert given[:2] == [lost, *withdrawn]
    assert given[-1]["seq"] == AGAIN + 1


def told(storage: Path, complete: int) -> None:
    """The archive says that it is complete up to a number, whatever its files hold beyond."""
    write_archived(Disk(), storage / "binance", Archived(complete, complete, boot_id(), {}), durable=False)


def test_rule_14_when_a_file_is_flushed_beyond_the_watermark_then_nothing_beyond_is_given(storage: Path) -> None:
    answer = replies(storage, 1 << 22)
    given: list[Event] = []
    follower = Follower("binance", ["BTCUSDT", "ETHUSDT"], ["trade"], FIRST)
    told(storage, FIRST + 100)
    request = follower.request(1.0)
    assert request is not None
    header, events = answer(request)
    assert header["covered"] == header["complete_to"] == FIRST + 100
    given += follower.answer(header, events, 1.0)
    assert FIRST + 90 < given[-1]["seq"] <= FIRST + 100 == follower.known
    told(storage, AGAIN + 2)
    newest: Event = {"channel": "trade", "symbol": "BTCUSDT", "seq": AGAIN + 2, "prev": AGAIN + 1, "ts_recv": 2}
    given += follower.take(message(newest), 1.0)
    followed(follower, answer, given)
    assert [event["seq"] for event in given] == sorted(event["seq"] for event in given)
    assert given[-1]["seq"] == AGAIN + 2


def test_rule_14_when_the_archive_goes_back_between_two_pages_then_the_rest_is_asked_for_anew(storage: Path) -> None:
    answer = replies(storage, 2000)
    given: list[Event] = []
    follower = Follower("binance", ["BTCUSDT", "ETHUSDT"], ["trade"], FIRST)
    request = follower.request(1.0)
    assert request is not None
    given += follower.answer(*answer(request), 1.0)
    told(storage, FIRST + 1)
    request = follower.request(2.0)
    assert request is not None
    header, events = answer(request)
    assert header["error"]["code"] == "changed"
    assert not follower.answer(header, events, 2.0)
    told(storage, AGAIN + 2)
    newest: Event = {"channel": "trade", "symbol": "BTCUSDT", "seq": AGAIN + 2, "prev": AGAIN + 1, "ts_recv": 2}
    given += follower.take(message(newest), 3.0)
    followed(follower, answer, given)
    assert len({(event["symbol"], event["channel"], event["seq"], event.get("part", 0)) for event in given}) == len(
        given
    )
    assert given[-1]["seq"] == AGAIN + 2


def test_history_when_there_is_nothing_new_then_no_record_is_read(storage: Path) -> None:
    follower = Follower("binance", ["BTCUSDT"], ["trade"], AGAIN + 3)
    for path in (storage / "binance" / "BTCUSDT").rglob("*.open"):
        path.write_bytes(b"damage\n")
    request = follower.request(1.0)
    assert request is not None
    header, events = replies(storage, 1 << 22)(request)
    assert (header["covered"], header["events"], events) == (AGAIN + 2, 0, [])
