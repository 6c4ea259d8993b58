"""Symbols added and taken away while the feed runs: those that stay notice nothing, and the archive knows."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from common import exchanges
from common.adapter import Adapter
from common.events import body
from common.reader import Reader
from tests.pipeline import Live, Pipeline, events_of, until

ADAPTER = cast(Adapter, exchanges.get("binance"))
GENERATED = ("--synthetic", "--symbols", "BTCUSDT,ETHUSDT,BNBUSDT", "--rate", "200", "--seed", "3")


def configured(path: Path, *symbols: str) -> None:
    named = ", ".join(f'"{symbol}"' for symbol in symbols)
    path.write_text(f'[feed.binance]\nsymbols = [{named}]\nchannels = ["trade", "book", "instrument"]\n')


@pytest.fixture
def changing(make: Callable[..., Pipeline], tmp_path: Path) -> tuple[Pipeline, Path]:
    """A pipeline whose symbols stand in a file."""
    conf = tmp_path / "my.toml"
    configured(conf, "BTCUSDT", "ETHUSDT")
    return make(*GENERATED, symbols="", CONF=str(conf)), conf


def test_sighup_adds_and_removes_symbols_without_touching_the_others(
    changing: tuple[Pipeline, Path], live: Callable[[Pipeline], Live]
) -> None:
    pipeline, conf = changing
    subscriber = live(pipeline)
    pipeline.start()

    def heard(symbol: str, since: int = 0) -> int:
        mark = f"binance/trade/{symbol} ".encode()
        return sum(message.startswith(mark) for message in list(subscriber.messages)[since:])

    until(lambda: heard("BTCUSDT") > 20 and heard("ETHUSDT") > 20, "two symbols are heard")
    configured(conf, "BTCUSDT", "BNB-USDT")
    pipeline.kill("feed", signal_number=signal.SIGHUP)
    until(lambda: heard("BNBUSDT") > 20, "the new one is heard")
    since = len(subscriber.messages)
    until(lambda: heard("BTCUSDT", since) > 20, "the old one goes on")
    assert heard("ETHUSDT", since) == 0
    configured(conf, "BTCUSDT", "ETHUSDT")
    pipeline.kill("feed", signal_number=signal.SIGHUP)
    until(lambda: heard("ETHUSDT", since) > 20, "the other one is back")
    pipeline.wait_archived()
    gaps = [event for event in events_of(list(subscriber.messages)) if event["channel"] == "gap"]
    assert [gap for gap in gaps if gap["symbol"] == "BTCUSDT"] == []
    pipeline.stop()
    pipeline.verify()
    assert pipeline.log.read_text().count("connection 1 closed") == 1  # at the end
    reader = Reader(pipeline.storage, ADAPTER)
    last = reader.complete()
    for symbol in ("BTCUSDT", "ETHUSDT", "BNBUSDT"):
        mark = f"/{symbol} ".encode()
        was_live = [each for each in subscriber.messages if mark in each[:40] and not each.startswith(b"binance/heart")]
        whole = [message for _, messages in reader.messages([symbol], 0, last) for message in messages]
        assert whole[-len(was_live) :] == was_live and was_live
        middle = events_of(was_live)[len(was_live) // 2]["seq"]
        later = [message for _, messages in reader.messages([symbol], middle, last) for message in messages]
        assert later == [message for message in whole if events_of([message])[0]["seq"] > middle]
        assert body(later[-1])


def test_a_file_that_is_wrong_changes_nothing_and_is_told(
    changing: tuple[Pipeline, Path], live: Callable[[Pipeline], Live]
) -> None:
    pipeline, conf = changing
    subscriber = live(pipeline)
    pipeline.start("feed")
    until(lambda: len(subscriber.messages) > 20, "it is heard")
    for text, told in (
        ('[feed.binance]\nsymbls = ["A"]', b"nothing is changed: "),
        ('[feed.binance]\nsymbols = ["*-EUR"]', b"*-EUR means no instrument"),
    ):
        conf.write_text(text)
        pipeline.kill("feed", signal_number=signal.SIGHUP)
        until(lambda told=told: told in pipeline.log.read_bytes(), f"{told!r} is told")  # type: ignore[misc]
    since = len(subscriber.messages)
    until(lambda: len(subscriber.messages) > since + 20, "it goes on")
