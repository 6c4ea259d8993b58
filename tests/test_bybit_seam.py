"""Bybit where connections change hands: what bears one `seq`, or one time, comes once, and nothing is lost."""

from collections import Counter
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from common.normaliser import Normaliser
from common.record import decode, encode
from tests.test_bybit import LINEAR, LIQUIDATION, SYMBOLS, TRADE, changed, normaliser, told


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_no_trade_is_lost_where_connections_change_hands_amid_messages_of_one_seq(data: st.DataObject) -> None:
    """Each message of one `seq` once, whichever connection is ahead; at most what is not remembered comes twice."""
    seqs = sorted(data.draw(st.lists(st.integers(10, 13), min_size=1, max_size=8)))
    frames = [changed(TRADE, seq=seq, i=f"{place}") for place, seq in enumerate(seqs)]
    ahead = {conn: data.draw(st.integers(0, len(frames))) for conn in (1, 2)}
    made, events, at = normaliser(), list[dict[str, Any]](), {1: 0, 2: 0}
    for number, conn in enumerate(data.draw(st.permutations([1] * ahead[1] + [2] * ahead[2])), 2):
        events += told(made, [frames[at[conn]]], number, conn)
        at[conn] += 1
        if data.draw(st.booleans()):
            made = resumed(made)
    line = encode(100, 100, "switch", conn=2, head={"from": 1})
    events += [orjson.loads(message.partition(b" ")[2]) for message in made.messages(decode(line))]
    events += told(made, frames[at[2] :], 101, 2)
    ids = [event["id"] for event in events if event["channel"] == "trade"]
    assert set(ids) == {str(place) for place in range(len(frames))}
    for twice in (name for name, count in Counter(ids).items() if count > 1):
        assert seqs.count(seqs[int(twice)]) > 1
    if len(set(seqs)) == len(seqs):
        assert ids == sorted(ids)


def resumed(made: Normaliser) -> Normaliser:
    """Another one that goes on from a checkpoint of this one."""
    other = Normaliser(LINEAR)
    other.begin(SYMBOLS)
    payload = made.checkpoint("BTCUSDT")
    other.messages(decode(encode(1, 1, "checkpoint", symbol="BTCUSDT", payload=payload)))
    return other


def test_of_liquidations_of_one_time_and_trades_of_one_frame_none_is_lost_nor_told_twice_at_a_switch() -> None:
    one = orjson.loads(TRADE)["data"][0]
    trades = [orjson.dumps({"topic": "publicTrade.BTCUSDT", "data": [{**one, "i": name} for name in "ab"]})]
    trades += [changed(TRADE, i="c"), changed(TRADE, i="d", seq=one["seq"] + 1)]
    liquidations = [changed(LIQUIDATION, v=amount) for amount in ("1", "1", "2")]  # two alike: that is two
    made = normaliser()
    before = told(made, [trades[0], *liquidations[:2]], 2, 1)
    assert told(made, [*trades[:2], *liquidations], 10, 2) == []
    line = encode(20, 20, "switch", conn=2, head={"from": 1})
    after = [orjson.loads(message.partition(b" ")[2]) for message in made.messages(decode(line))]
    after += told(made, trades[2:], 21, 2)
    events = [event for event in before + after if event["channel"] != "gap"]
    assert sorted(event["id"] for event in events if event["channel"] == "trade") == ["a", "b", "c", "d"]
    assert [event["amount"] for event in events if event["channel"] == "liquidation"] == ["1", "1", "2"]
