"""The command `exchanges`: what can be recorded of each exchange, and how surely it is whole. Out of their files."""

from types import SimpleNamespace

from . import exchanges
from .events import CHANNELS
from .process import EXIT_OK

_MARKS = {"proven": "●", "detected": "◐"}
_OFFERED = "○"

_LEGEND = """\
● that nothing is missing is proven: each number goes on from the one before, and every hole is a gap
◐ a loss shows, if not always at once
○ the exchange sends nothing by which a hole could be seen, but for lost connections and silence
"""

_SNAPSHOTS = {
    "rest": "a snapshot over REST",
    "request": "a snapshot asked for on the socket",
    "stream": "a snapshot on the stream",
}
_LINKS = {
    "range": "then deltas of ids that may overlap, never leave one out",
    "exact": "then each delta goes on exactly from the last",
    "none": "then deltas that no id links",
}


def exchanges_table(*, markdown: bool) -> int:
    """Print the exchanges with their channels, and how each one's books stay in step."""
    known = [exchanges.get(name) for name in exchanges.names()]
    channels = [["exchange", *(channel.replace("_", " ") for channel in CHANNELS)]]
    channels += [[each.NAME, *(_mark(each, channel) for channel in CHANNELS)] for each in known]
    books = [["exchange", "its book"], *([each.NAME, in_words(each)] for each in known if "book" in each.CHANNELS)]
    write = _markdown if markdown else _plain
    print("\n".join([*write(channels), "", *_legend(markdown=markdown), "", *write(books)]))
    return EXIT_OK


def in_words(adapter: SimpleNamespace) -> str:
    """How an exchange's book stays in step."""
    rule = adapter.BOOK
    said = [_SNAPSHOTS[rule.snapshot], _LINKS[rule.link]]
    if adapter.count is not None:
        said.append("messages numbered for each connection")
    if rule.check is not None:
        said.append("proved by a checksum")
    if rule.depth is not None:
        said.append(f"{rule.depth:,} levels a side")
    return ", ".join(said)


def _mark(adapter: SimpleNamespace, channel: str) -> str:
    return _MARKS.get(adapter.WHOLE.get(channel, ""), _OFFERED) if channel in adapter.CHANNELS else ""


def _legend(*, markdown: bool) -> list[str]:
    return [f"* {line}" if markdown else line for line in _LEGEND.splitlines()]


def _plain(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _markdown(rows: list[list[str]]) -> list[str]:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|" + "---|" * len(rows[0]), *rest]
