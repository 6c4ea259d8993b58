"""The symbols of an index, found by the index: an exchange may send an index price once for all of its derivatives."""

from collections.abc import Callable, Iterator

from .topic import SymbolState


class IndexedStates(dict[str, SymbolState]):
    """The state of each symbol, which can also be looked up by the index of the symbol."""

    def __init__(self, index_of: Callable[[str], str | None]) -> None:
        super().__init__()
        self._index_of = index_of
        self._names: dict[str, dict[str, None]] = {}  # by index; a symbol stays here when it is removed above

    def __setitem__(self, name: str, state: SymbolState) -> None:
        super().__setitem__(name, state)
        if (index := self._index_of(name)) is not None:
            self._names.setdefault(index, {})[name] = None

    def of_index(self, index: str) -> Iterator[SymbolState]:
        """The states of the symbols whose marks an index is part of."""
        for name in self._names.get(index, ()):
            if (state := self.get(name)) is not None:
                yield state
