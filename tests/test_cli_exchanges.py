"""The command `exchanges`: the table is what the exchanges' files say."""

import pytest

from common import exchanges
from common.cli import main
from common.cli_exchanges import in_words
from common.events import CHANNELS


def test_every_exchange_has_a_row_with_a_mark_for_each_channel_that_it_offers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["exchanges", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in exchanges.names():
        adapter = exchanges.get(name)
        row, *_ = (line.split("|")[2:-1] for line in lines if line.startswith(f"| {name} |"))
        assert len(row) == len(CHANNELS)
        for channel, cell in zip(CHANNELS, row, strict=True):
            mark = {"proven": "●", "detected": "◐"}.get(adapter.WHOLE.get(channel), "○")
            assert cell.strip() == (mark if channel in adapter.CHANNELS else "")


def test_the_table_on_a_terminal_says_the_same_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exchanges"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line == line.rstrip() and "|" not in line for line in lines)
    place = lines[0].index("book")
    assert next(line for line in lines if line.startswith("binance "))[place] == "●"


def test_the_books_rule_is_said_in_words() -> None:
    assert in_words(exchanges.get("binance")) == (
        "a snapshot over REST, then deltas of ids that may overlap, never leave one out"
    )
    assert in_words(exchanges.get("bybit-linear")) == (
        "a snapshot on the stream, then each delta goes on exactly from the last"
    )


@pytest.mark.parametrize("name", exchanges.names())
def test_what_an_exchange_says_of_its_channels_is_of_those_it_offers(name: str) -> None:
    adapter = exchanges.get(name)
    assert set(adapter.CHANNELS) <= set(CHANNELS) and len(set(adapter.CHANNELS)) == len(adapter.CHANNELS)
    assert set(adapter.WHOLE) <= set(adapter.CHANNELS) and set(adapter.WHOLE.values()) <= {"proven", "detected"}
    assert adapter.BACKFILLS <= adapter.DENSE <= set(adapter.CHANNELS)
