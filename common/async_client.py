"""The client for asyncio: the same calls, awaited, and iterated with `async for`.

    async with AsyncClient("tcp://127.0.0.1:9000") as client:
        frame = await client.slice("binance", "BTCUSDT", "trade", start="-1h").to_polars()
        async for event in client.follow("binance", "BTCUSDT", ["trade", "book"], start="-10m"):
            ...

The work is done in threads: frames keep a core busy, and an event loop must not wait for that either.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from .client import Client
from .events import Event
from .following import Following
from .record import Record
from .slices import Slice

if TYPE_CHECKING:
    import pyarrow

MANY = 1_000
"""Events that come from a thread at a time."""

POLL_S = 0.5

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")


def _awaited(call: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """The same call in a thread, on what `self._inner` is."""

    async def run(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(call, self._inner, *args, **kwargs)

    run.__name__, run.__doc__ = call.__name__, call.__doc__
    return run


async def _iterated(
    make: Callable[[], Iterator[T]], take: Callable[[Iterator[T]], list[T] | None]
) -> AsyncGenerator[T, None]:
    """What an iterator gives, in a thread of its own: `take` takes some, None at the end. It is closed there too."""
    loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1, "trade-archivist")
    opened: list[Iterator[T]] = []

    def some() -> list[T] | None:
        if not opened:
            opened.append(make())
        return take(opened[0])

    def close() -> None:
        for source in opened:
            if (closing := getattr(source, "close", None)) is not None:
                closing()

    try:
        while (found := await loop.run_in_executor(thread, some)) is not None:
            for each in found:
                yield each
    finally:
        thread.submit(close)  # after what runs there now, should this be cancelled
        thread.shutdown(wait=False)


def _next_many(source: Iterator[T]) -> list[T] | None:
    return list(islice(source, MANY)) or None


class AsyncSlice:
    """A part of the past: see `Slice`, whose calls these are."""

    to_arrow = _awaited(Slice.to_arrow)
    to_polars = _awaited(Slice.to_polars)
    to_pandas = _awaited(Slice.to_pandas)
    to_parquet = _awaited(Slice.to_parquet)
    to_directory = _awaited(Slice.to_directory)
    gaps = _awaited(Slice.gaps)

    def __init__(self, inner: Slice) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return f"<Async{repr(self._inner)[1:]}"

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.events()

    def events(self) -> AsyncIterator[Event]:
        """The events as they were live."""
        return _iterated(self._inner.events, _next_many)

    @overload
    def records(self, *, decoded: Literal[True] = True) -> AsyncIterator[Record]: ...
    @overload
    def records(self, *, decoded: Literal[False]) -> AsyncIterator[bytes]: ...
    def records(self, *, decoded: bool = True) -> AsyncIterator[Record] | AsyncIterator[bytes]:
        """What was on the wire: records, or, not `decoded`, their lines."""
        if decoded:
            return _iterated(self._inner.records, _next_many)
        return _iterated(lambda: self._inner.records(decoded=False), _next_many)

    def blocks(self, kind: Literal["json", "raw"]) -> AsyncIterator[bytes]:
        """Events or records as lines, many at a time."""
        return _iterated(lambda: self._inner.blocks(kind), lambda source: list(islice(source, 1)) or None)

    def batches(self, *, exact: bool = False) -> "AsyncIterator[pyarrow.Table]":
        """One channel as Arrow tables, one after another."""
        return _iterated(lambda: self._inner.batches(exact=exact), lambda source: list(islice(source, 1)) or None)


class AsyncClient:
    """Asks one history server, or reads one storage directory. Arguments and calls are those of `Client`."""

    book = _awaited(Client.book)
    exchanges = _awaited(Client.exchanges)
    symbols = _awaited(Client.symbols)
    instruments = _awaited(Client.instruments)
    coverage = _awaited(Client.coverage)
    gaps = _awaited(Client.gaps)
    status = _awaited(Client.status)
    close = _awaited(Client.close)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._inner = Client(*args, **kwargs)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Async{repr(self._inner)[1:]}"

    def slice(self, *args: Any, **kwargs: Any) -> AsyncSlice:
        """Events of the past: see `Client.slice`."""
        return AsyncSlice(self._inner.slice(*args, **kwargs))

    def follow(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Event, None]:
        """Events of the past, then live, for ever: see `Client.follow`."""
        return _followed(lambda: self._inner.follow(*args, **kwargs))

    def live(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Event, None]:
        """Live events alone: see `Client.live`."""
        return _followed(lambda: self._inner.live(*args, **kwargs))


def _followed(make: Callable[[], Following]) -> AsyncGenerator[Event, None]:
    def take(source: Iterator[Event]) -> list[Event] | None:
        assert isinstance(source, Following)
        return None if source.is_closed else source.poll(POLL_S)

    return _iterated(make, take)
