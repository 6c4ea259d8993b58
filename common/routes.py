"""Which paths an exchange's streams take, where it may spread them over paths in several ways (Binance futures)."""

from .adapter import Adapter
from .events import SPARSE
from .shards import Shard

ATTEMPTS = 5
"""Connections that fail one after the other before a route other than the usual one is left."""


class Routes:
    """The configured route, else the usual one and, after a connection that brings nothing, the next."""

    def __init__(self, adapter: Adapter, chosen: str) -> None:
        self._adapter = adapter
        self._place = adapter.ROUTES.index(chosen) if chosen else 0
        self.may_change = not chosen and len(adapter.ROUTES) > 1

    def path(self, stream: str) -> str:
        """The path that serves a stream now."""
        routes = self._adapter.routes(stream)
        return routes[self._place] if routes else self._adapter.path(stream)

    def change(self) -> str:
        """Take the next route; returns its name."""
        self._place = (self._place + 1) % len(self._adapter.ROUTES)
        return self._adapter.ROUTES[self._place]

    def fails(self, shard: Shard) -> bool:
        """Whether a route other than the usual one cannot be connected to."""
        return self.may_change and self._place > 0 and shard.attempts >= ATTEMPTS

    def is_partial(self, shard: Shard) -> bool:
        """Whether streams that another route serves apart have all been silent, and the others of the shard not."""
        apart: dict[tuple[str, ...], list[bool]] = {}
        for name, (channel, _) in shard.streams.items():
            if channel not in SPARSE:
                apart.setdefault(self._adapter.routes(name), []).append(name in shard.silent)
        return self.may_change and len(apart) > 1 and any(map(all, apart.values()))
