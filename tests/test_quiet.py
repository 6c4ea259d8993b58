"""What is said when nothing comes from a feed, or when a replay has ended."""

from common.quiet import QUIET_S, Quiet


def test_quiet_when_a_symbol_or_all_are_late_then_each_is_told_once() -> None:
    quiet = Quiet("binance", ["A", "B"], "tcp://x", 0.0)
    quiet.hear(b"binance/heartbeat ", b'binance/heartbeat {"at":7}', 3.0)
    quiet.hear(b"binance/heartbeat/A ", b"", 3.0)
    (text,) = quiet.check(QUIET_S)
    assert text.startswith("binance B not even a heartbeat")
    assert quiet.check(QUIET_S) == []
    assert quiet.check(3.0 + QUIET_S)[0].startswith("binance nothing, not even a heartbeat")
    assert quiet.check(4.0 + QUIET_S) == []
    quiet.hear(b"binance/heartbeat/B ", b"", 20.0)
    assert quiet.check(20.0) == []
    assert quiet.check(20.0 + QUIET_S)[0].startswith("binance nothing")


def test_quiet_when_a_replay_has_ended_then_says_so_once_until_it_goes_on() -> None:
    quiet = Quiet("binance", ["A"], "tcp://x", 0.0)
    beat = b"binance/heartbeat "
    quiet.hear(beat, beat + b'{"at":7,"end":true}', 1.0)
    assert [text for now in (1.0, 2.0, 1.0 + QUIET_S) for text in quiet.check(now)] == [
        "binance the replay at tcp://x has ended, unless it is told to seek back; waiting"
    ]
    quiet.hear(beat, beat + b'{"at":3}', 10.0)
    quiet.hear(b"binance/trade/A ", b"no heartbeat", 11.0)
    assert quiet.check(10.0 + QUIET_S)[0].startswith("binance nothing, not even a heartbeat")
