"""Bybit as the stand-in speaks it: what the exchange's own documents show, and what they refuse."""

import orjson
import pytest

from common.events import Reply
from common.exchanges import bybit, bybit_standin
from common.standin_dialect import RefusedError

NAMES = ["orderbook.200.BTCUSDT", "publicTrade.BTCUSDT"]


def session(category: str = "linear") -> bybit_standin.Session:
    return bybit_standin.Session(f"/v5/public/{category}", {"BTCUSDT"})


def said(at: bybit_standin.Session, frame: bytes) -> Reply | None:
    (answer,) = at.answer(frame)
    return bybit.reply(orjson.loads(answer))


def test_what_our_side_sends_is_agreed_to_and_left_again() -> None:
    at = session()
    (subscribe,), (leave,) = bybit.subscribe(NAMES, 7), bybit.unsubscribe(NAMES[:1], 8)
    assert said(at, subscribe) == Reply(7, None) and list(at.streams) == NAMES
    assert said(at, leave) == Reply(8, None) and list(at.streams) == NAMES[1:]
    assert said(at, bybit.PING) == Reply("pong", None)
    assert not at.beat(0) and not at.greeting()


@pytest.mark.parametrize(
    ("category", "names"),
    [
        ("linear", ["publicTrade.BTCUSDT", "nothing.BTCUSDT"]),
        ("linear", ["kline.7.BTCUSDT"]),
        ("linear", [7]),
        ("spot", ["allLiquidation.BTCUSDT"]),
        ("spot", [f"tickers.{number}" for number in range(11)]),
        ("linear", [f"publicTrade.{number:020}" for number in range(700)]),
    ],
)
def test_a_request_with_one_thing_wrong_is_refused_as_a_whole(category: str, names: list[str]) -> None:
    at = session(category)
    reply = said(at, bybit.subscribe(names, 3)[0])
    assert reply is not None and reply.id == 3 and reply.error and not at.streams


def test_an_address_that_there_is_not_ends_the_connection() -> None:
    with pytest.raises(RefusedError):
        session("swap").answer(bybit.subscribe(NAMES, 1)[0])


@pytest.mark.parametrize("frame", [b"", b"no", b"[]", b"7", b"{}", b'{"op":[]}', b'{"op":"subscribe","args":7}'])
def test_frames_that_say_nothing_are_answered_with_an_error(frame: bytes) -> None:
    (answer,) = session().answer(frame)
    assert orjson.loads(answer)["success"] is False


def test_a_frame_belongs_to_its_topic_in_whatever_order_its_keys_come() -> None:
    assert bybit_standin.stream_of(b'{"ts":1,"type":"delta","topic":"tickers.BTCUSDT"}') == "tickers.BTCUSDT"
    for none in (b'{"op":"ping"}', b"no", b"[]", b'{"topic":7}'):
        assert bybit_standin.stream_of(none) is None


def test_instruments_are_told_by_category_and_symbol() -> None:
    body = orjson.dumps({"result": {"category": "linear", "list": [{"symbol": "A"}, {"symbol": "B"}]}})
    known = {"/v5/market/instruments-info?&category=linear&limit=1000": body}
    ask = "/v5/market/instruments-info"
    assert bybit_standin.rest(ask, {"category": "linear"}, known) == (200, body)
    _, one = bybit_standin.rest(ask, {"category": "linear", "symbol": "B"}, known)
    assert orjson.loads(one)["result"]["list"] == [{"symbol": "B"}]
    _, none = bybit_standin.rest(ask, {"category": "spot"}, known)
    assert orjson.loads(none)["result"]["list"] == []
    assert bybit_standin.rest("/v5/elsewhere", {}, known)[0] == 404
