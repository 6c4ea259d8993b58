"""Which streams share a connection, and when connections are made, replaced and given up."""

import random
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.events import Reply
from common.exchanges import binance
from common.shards import REFUSED_WAIT_S, WINDOW_S, Link, Shard, ShardPolicy, batches, spread

BACKOFF_MAX_S = 30.0


def streams(symbol: str, count: int) -> dict[str, tuple[str, str]]:
    return {f"{symbol.lower()}@{number}": (f"channel{number}", symbol) for number in range(count)}


def policy(
    connects: int = 300, reconnect_after_s: float = 1000.0, overlap_s: float = 5.0, interval_s: float = 0.0
) -> ShardPolicy:
    return ShardPolicy(connects, interval_s, reconnect_after_s, overlap_s, BACKOFF_MAX_S, 360.0, random.Random(1))


def link(conn: int, opened_at: float = 0.0) -> Link:
    return Link(conn, opened_at, deque())


@pytest.fixture
def live() -> tuple[ShardPolicy, Shard, Link]:
    """A shard with a live connection, made at 0."""
    decide, shard, first = policy(), Shard({}), link(1)
    assert decide.may_connect(0.0, shard)
    decide.connecting(0.0, shard)
    decide.connected(0.0, shard, first)
    return decide, shard, first


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=200), st.integers(40, 1024))
def test_streams_are_spread_within_the_limit_and_a_symbols_stay_together(counts: list[int], limit: int) -> None:
    wanted = [streams(f"S{place}", count) for place, count in enumerate(counts)]
    shards = spread(wanted, limit, lambda _: "")
    assert all(len(shard.streams) <= limit for shard in shards)
    assert [name for shard in shards for name in shard.streams] == [name for each in wanted for name in each]
    for each in wanted:
        assert sum(bool(each.keys() & shard.streams.keys()) for shard in shards) == 1
    for full, following in pairwise(shards):
        _, symbol = next(iter(following.streams.values()))
        assert len(full.streams) + counts[int(symbol[1:])] > limit, "no connection more than is needed"


def test_a_thousand_symbols_of_binance_need_no_more_connections_than_its_limit_asks() -> None:
    channels = ["trade", "agg_trade", "book", "quote", "ticker"]
    shards = spread(
        [binance.streams(f"SYM{n}USDT", channels, []) for n in range(1000)],
        binance.STREAMS_PER_CONNECTION,
        binance.path,
    )
    assert len(shards) == 5 and max(len(shard.streams) for shard in shards) == 1020


def test_names_are_asked_for_in_batches_that_leave_none_out() -> None:
    names = [str(number) for number in range(450)]
    assert [len(batch) for batch in batches(names, 200)] == [200, 200, 50]
    assert [name for batch in batches(names, 200) for name in batch] == names


def test_never_more_attempts_in_five_minutes_than_the_exchange_allows() -> None:
    decide = policy(connects=300)
    shards = [Shard({}) for _ in range(200)]
    attempts: list[float] = []
    now = 0.0
    while now < 3 * WINDOW_S:
        for shard in shards:
            if decide.may_connect(now, shard):
                decide.connecting(now, shard)
                attempts.append(now)
                decide.failed(now, shard)
        now += 1.0
    assert len(attempts) == 900
    for begin in attempts:
        assert sum(begin <= at < begin + WINDOW_S for at in attempts) <= 300


def test_back_off_doubles_up_to_its_cap_with_jitter() -> None:
    decide, shard, waits = policy(), Shard({}), []
    for attempt in range(40):
        now = attempt * 1000.0
        assert decide.may_connect(now, shard)
        decide.connecting(now, shard)
        assert not decide.may_connect(now, shard)
        decide.failed(now, shard)
        waits.append(shard.retry_at - now)
        assert not decide.may_connect(now + waits[-1] - 0.001, shard)
    for attempt, wait in enumerate(waits):
        full = min(BACKOFF_MAX_S, 0.1 * 2**attempt)
        assert full / 2 <= wait <= full
    assert len(set(waits)) == len(waits)


def test_an_exchange_that_accepts_and_throws_out_is_asked_less_and_less() -> None:
    """Each success began the back-off anew: all attempts of five minutes went in half a minute."""
    decide, shard, now, waits = policy(), Shard({}), 0.0, []
    for conn in range(12):
        decide.connecting(now, shard)
        decide.connected(now, shard, link(conn, now))
        decide.lost(now + 0.5, shard, shard.live or link(0))
        waits.append(shard.retry_at - now - 0.5)
        now = shard.retry_at
    assert waits[-1] >= BACKOFF_MAX_S / 2
    decide.connecting(now, shard)
    decide.connected(now, shard, lasting := link(99, now))
    decide.lost(now + BACKOFF_MAX_S + 1, shard, lasting)
    assert shard.retry_at - now - BACKOFF_MAX_S - 1 <= 0.1


def test_a_connection_is_replaced_before_its_age_ends_it_and_the_old_one_stays_for_the_overlap(
    live: tuple[ShardPolicy, Shard, Link],
) -> None:
    decide, shard, old = live
    assert 950.0 <= shard.replace_at <= 1000.0
    assert not decide.may_connect(949.0, shard)
    assert decide.may_connect(1000.0, shard)
    decide.connecting(1000.0, shard)
    decide.connected(1000.5, shard, fresh := link(2, 1000.5))
    assert (shard.live, shard.fresh) == (old, fresh)
    assert not decide.may_connect(2000.0, shard), "one fresh connection is enough"
    assert not decide.is_ready(2000.0, shard), "it has not been subscribed"
    fresh.subscribed_at = 1001.0
    assert not decide.is_ready(1005.9, shard)
    assert decide.is_ready(1006.0, shard)
    assert decide.switched(1006.0, shard) is old
    assert (shard.live, shard.fresh) == (fresh, None)
    assert 1000.5 + 950.0 <= shard.replace_at <= 1000.5 + 1000.0
    before = (shard.retry_at, shard.attempts)
    decide.lost(1006.0, shard, old)
    assert (shard.live, shard.retry_at, shard.attempts) == (fresh, *before), "the old one's end is nobody's failure"


def test_a_fresh_connection_that_is_refused_what_the_live_one_has_waits_for_it_but_not_for_ever(
    live: tuple[ShardPolicy, Shard, Link],
) -> None:
    """A name that neither gets kept the old connection for ever: it was never agreed to everything."""
    decide, shard, first = live
    shard.fresh = fresh = link(2)
    fresh.subscribed_at = 1000.0
    fresh.refused.append((1060.0, ["a"]))
    assert not decide.is_ready(1100.0, shard) and decide.is_ready(1000.0 + REFUSED_WAIT_S + 1, shard)
    first.refused.append((1010.0, ["b", "a"]))
    assert not decide.is_ready(1004.0, shard) and decide.is_ready(1006.0, shard)


def test_connections_are_as_far_apart_as_the_exchange_asks() -> None:
    """OKX bears three a second: 1,000 symbols need 26, and all were made at once."""
    decide, shards, made = policy(interval_s=0.4), [Shard({}) for _ in range(26)], []
    for tick in range(400):
        for shard in shards:
            if shard.live is None and decide.may_connect(tick * 0.05, shard):
                decide.connecting(tick * 0.05, shard)
                made.append(tick * 0.05)
    assert len(made) == 26
    assert all(later - earlier >= 0.4 - 1e-9 for earlier, later in pairwise(made))


def test_an_answer_is_about_what_was_asked_for_alone() -> None:
    """Errors of Coinbase name four streams of a product: asked for in parts, each answer doubled the parts."""
    asking = link(1)
    asking.asked = {1: ["a", "b"], 2: ["c"], 3: ["d"]}
    assert asking.answered(Reply(None, "no", ("a", "c", "x"))) == ["a", "c"] and asking.asked == {1: ["b"], 3: ["d"]}
    assert asking.answered(Reply(3, None)) == ["d"] and asking.answered(Reply(3, None)) == []
    assert asking.answered(Reply(None, "no")) == ["b"] and asking.answered(Reply(None, "no")) == []


def test_an_announced_shutdown_is_a_reason_to_replace_at_once(live: tuple[ShardPolicy, Shard, Link]) -> None:
    decide, shard, old = live
    old.shuts_down = True
    assert decide.may_connect(1.0, shard)


def test_a_fresh_connection_becomes_the_live_one_when_the_old_one_dies(live: tuple[ShardPolicy, Shard, Link]) -> None:
    decide, shard, old = live
    decide.connecting(1000.0, shard)
    decide.connected(1000.0, shard, fresh := link(2, 1000.0))
    decide.lost(1001.0, shard, old)
    assert (shard.live, shard.fresh) == (fresh, None) and shard.replace_at >= 1950.0
    assert not decide.may_connect(1001.0, shard)


def test_a_fresh_connection_that_dies_leaves_the_old_one_live_and_is_tried_again(
    live: tuple[ShardPolicy, Shard, Link],
) -> None:
    decide, shard, old = live
    decide.connecting(1000.0, shard)
    decide.connected(1000.0, shard, fresh := link(2, 1000.0))
    decide.lost(1001.0, shard, fresh)
    assert (shard.live, shard.fresh) == (old, None)
    assert not decide.may_connect(1001.0, shard) and decide.may_connect(1001.2, shard)


def test_a_connection_lost_while_its_successor_is_being_made_does_not_make_a_second_one(
    live: tuple[ShardPolicy, Shard, Link],
) -> None:
    """Both came: one of them was followed by nobody's decision, and never closed."""
    decide, shard, old = live
    decide.connecting(1000.0, shard)
    decide.lost(1000.1, shard, old)
    assert not decide.may_connect(1040.0, shard)
    decide.connected(1041.0, shard, only := link(2, 1041.0))
    assert (shard.live, shard.fresh, shard.connecting) == (only, None, False)
