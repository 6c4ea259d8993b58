"""What public reports tell of Coinbase, and what must follow from it: no loss where nothing is lost."""

from typing import Any, cast

import orjson
import pytest

from common import exchanges
from common.adapter import Adapter
from common.normaliser import Normaliser
from common.record import Record, decode
from common.recorder import Recorder
from tests.coinbase_run import Run
from tests.test_coinbase import SNAPSHOT
from tests.test_coinbase_advanced import ACK, BEAT, BEGIN, BOOK, trades
from tests.test_recorder import Memory


def numbered(number: int, payload: bytes) -> bytes:
    return orjson.dumps({**orjson.loads(payload), "sequence_num": number})


SENT = [numbered(number, each) for number, each in enumerate((ACK, BEAT, BEGIN, BEAT, trades(0, 7), ACK, BOOK, BEAT))]
"""Of one connection of Coinbase Advanced, whose `sequence_num` counts control frames as well as market data."""


def gaps(payloads: list[bytes], *, at_once: bool) -> list[Record]:
    adapter, memory = cast(Adapter, exchanges.get("coinbase-advanced")), Memory()
    recorder = Recorder(adapter, Normaliser(adapter), cast(Any, memory), memory.published, memory.event)
    for part in [payloads] if at_once else [[each] for each in payloads]:
        recorder.frames(1, 1, part)
    return [record for record in map(decode, memory.lines) if record.kind == "gap"]


@pytest.mark.parametrize("at_once", [True, False])
def test_control_frames_are_counted_with_the_others(at_once: bool) -> None:
    assert gaps(SENT, at_once=at_once) == []


@pytest.mark.parametrize("lost", range(1, len(SENT) - 1))
def test_a_lost_frame_is_a_gap_of_its_number_whichever_it_is(lost: int) -> None:
    (gap,) = gaps(SENT[:lost] + SENT[lost + 1 :], at_once=True)
    told = orjson.loads(gap.payload or b"")
    assert (told["first_id"], told["last_id"], gap.conn) == (str(lost), str(lost), 1)


def test_a_connection_whose_control_frames_are_counted_has_events_without_a_gap() -> None:
    run = Run("coinbase-advanced", "BTC-USD")
    events = run.frames(1, *SENT)
    assert [event["channel"] for event in events] == ["book", "trade", "book"]


def test_a_level_that_was_never_published_may_be_deleted() -> None:
    """Coinbase deletes levels that its snapshot and deltas never told of."""
    run = Run("coinbase", "SKL-BTC")
    changes = [["sell", "0.99", "0.0"], ["buy", "0.00000001", "0"], ["buy", "0.00001304", "3"]]
    delta = {"type": "l2update", "product_id": "SKL-BTC", "changes": changes, "time": "2021-04-17T16:43:37.089723Z"}
    events = run.frames(1, SNAPSHOT, orjson.dumps(delta), orjson.dumps(delta))
    assert [event["channel"] for event in events] == ["book", "book", "book"]
    sync = run.normaliser.symbols["SKL-BTC"].sync
    assert sync.synced and list(sync.book.bids.items()) == [("0.00001305", "7"), ("0.00001304", "3")]


def test_a_level_that_was_never_published_may_be_deleted_on_advanced_trade_too() -> None:
    run = Run("coinbase-advanced", "BTC-USD")
    update = {"side": "bid", "event_time": "2026-08-09T21:05:48.170326Z", "price_level": "1", "new_quantity": "0"}
    delta = {**orjson.loads(BOOK), "sequence_num": 14}
    delta["events"] = [{"type": "update", "product_id": "BTC-USD", "updates": [update]}]
    events = run.frames(1, numbered(13, BEGIN), orjson.dumps(delta))
    assert [event["channel"] for event in events] == ["book", "book"]
    sync = run.normaliser.symbols["BTC-USD"].sync
    assert sync.synced and dict(sync.book.bids.items()) == {"65083.66": "1.0"}
