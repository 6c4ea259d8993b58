"""What is reported when a feed sends nothing or no heartbeat, or when a replay has ended."""

from common.quiet import NAMED, QUIET_S, Quiet

BEAT = b"binance/heartbeat "


def test_quiet_when_a_symbol_or_all_are_late_then_each_is_told_once() -> None:
    quiet = Quiet("binance", ["A", "B"], "tcp://x", 0.0)
    quiet.hear(BEAT, BEAT + b'{"at":7}', 3.0)
    quiet.hear(b"binance/heartbeat/A ", b"", 3.0)
    (text,) = quiet.check(QUIET_S)
    assert text.startswith("binance B: no heartbeat from tcp://x")
    assert quiet.check(QUIET_S) == []
    assert quiet.check(3.0 + QUIET_S)[0].startswith("binance nothing, not even a heartbeat, from tcp://x")
    assert quiet.check(4.0 + QUIET_S) == []
    quiet.hear(b"binance/heartbeat/B ", b"", 20.0)
    assert quiet.check(20.0) == []
    assert quiet.check(20.0 + QUIET_S)[0].startswith("binance nothing")


def test_quiet_when_events_come_without_heartbeats_then_does_not_say_that_nothing_comes() -> None:
    quiet = Quiet("binance", ["A"], "tcp://x", 0.0)
    quiet.hear(b"binance/trade/A ", b"", QUIET_S - 1)
    assert quiet.check(QUIET_S) == [
        "binance events, but no heartbeat from tcp://x for 5 s: see that this is the events endpoint of a feed; waiting"
    ]
    assert quiet.check(QUIET_S) == []


def test_quiet_when_many_symbols_are_late_then_one_line_names_some_and_counts_the_rest() -> None:
    symbols = [f"S{number}" for number in range(NAMED + 20)]
    quiet = Quiet("binance", symbols, "tcp://x", 0.0)
    quiet.hear(BEAT, BEAT + b'{"at":7}', 1.0)
    (text,) = quiet.check(QUIET_S)
    assert text.startswith("binance S0, S1, S2, S3, S4 and 20 more: no heartbeat from tcp://x")


def test_quiet_when_a_replay_has_ended_then_says_so_once_until_it_goes_on() -> None:
    quiet = Quiet("binance", ["A"], "tcp://x", 0.0)
    quiet.hear(BEAT, BEAT + b'{"at":7,"end":true}', 1.0)
    assert [text for now in (1.0, 2.0, 1.0 + QUIET_S) for text in quiet.check(now)] == [
        "binance the replay at tcp://x has ended, unless it is told to seek back; waiting"
    ]
    quiet.hear(BEAT, BEAT + b'{"at":3}', 10.0)
    assert quiet.check(10.0 + QUIET_S)[0].startswith("binance nothing, not even a heartbeat")
