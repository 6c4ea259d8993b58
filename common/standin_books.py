"""What a stand-in knows of the books that it has sent: a late subscriber gets the way there, a request the book itself.

Out of recorded frames alone, understood as the exchange's own file does. Pure.
"""

from collections import deque
from collections.abc import Sequence

from .adapter import Adapter
from .book import Book
from .events import Snapshot, Update
from .recording import Message

KEPT_MAX = 50_000
"""Frames of one book's stream that are kept, the oldest go first."""


class StandinBooks:
    """The book frames that have passed, by stream, each from its last snapshot on where one comes on the stream."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._others: set[str] = set()  # streams that bring something else
        self._passed: dict[str, deque[tuple[Message, Update]]] = {}

    def add(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.stream not in self._others:
                self._add(message)

    def _add(self, message: Message) -> None:
        try:
            found = self._adapter.parse(self._adapter.loads(message.payload))
        except ValueError:
            return  # no JSON
        for update in found if isinstance(found, list) else [found]:
            if isinstance(update, Update) and update.channel == "book":
                passed = self._passed.setdefault(message.stream, deque(maxlen=KEPT_MAX))
                if update.fields["type"] == "snapshot":
                    passed.clear()
                passed.append((message, update))
            elif update is not None:
                self._others.add(message.stream)

    def clear(self) -> None:
        self._passed.clear()

    def since_snapshot(self, stream: str) -> list[Message]:
        """The last snapshot of a stream and all after it: whoever takes them is where the stream is."""
        passed = self._passed.get(stream)
        if not passed or passed[0][1].fields["type"] != "snapshot":
            return []
        return list(dict.fromkeys(message for message, _ in passed))  # one frame may bring several

    def now(self, snapshot: Snapshot) -> Snapshot:
        """A recorded snapshot with the deltas that have passed since."""
        book, last, ts_event = Book(), snapshot.last, snapshot.ts_event
        book.replace(snapshot.bids, snapshot.asks)
        for passed in self._passed.values():
            for _, update in passed:
                if update.symbol == snapshot.symbol and update.last > last:
                    book.apply(update.fields["bids"], update.fields["asks"])
                    last, ts_event = update.last, update.ts_event
        return Snapshot(snapshot.symbol, last, ts_event, *book.top())
