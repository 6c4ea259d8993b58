"""The seam between files that others recorded and our log: what a format's file `import_NAME.py` holds, and yields.

    import_NAME.exchanges(path)                which exchanges the file says it is of, by their names here
    import_NAME.read(path, adapter, symbol)    what it tells, one Item after the other, in the file's order

Both read a file alone and write nothing; `imports.py` calls them twice (to look, then to write), merges the files of
one command by time, and turns Items into records. What cannot be read raises ForeignFileError with file, line and mend:
then nothing of any file is imported.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol, cast

from .adapter import Adapter

OPEN, IN, OUT, REST, EVENT = "open", "in", "out", "rest", "event"

_FILES = {
    "hftbacktest": "import_hftbacktest",
    "cryptofeed": "import_cryptofeed",
    "tardis": "import_tardis",
    "archivist": "import_archivist",
}
"""Which file of `common` reads a format."""


class Item(NamedTuple):
    """One thing that a file tells, as it will be a record. `payload` is what came, byte for byte.

    OPEN    a connection opens: `conn`, `url`
    IN      a frame was received on `conn`; `is_binary` where it was no text
    OUT     a frame was sent on `conn`
    REST    an answer: `url` is the `/path?query` that was asked, as `parse_rest` of the adapter reads it
    EVENT   an event of `channel` and `symbol`: `payload` is the JSON of its `ts_event` and of the channel's fields
    """

    ts: int  # when it was received: ns
    kind: str
    payload: bytes = b""
    conn: str = ""  # a name: files of one command that use the same one go on with it; "" is never closed
    url: str = ""
    channel: str | None = None
    symbol: str | None = None
    is_binary: bool = False
    line: int = 0  # where it stands in the file, from 1; 0 where it has no lines


class Format(Protocol):
    """A module `import_NAME.py`."""

    NAME: str

    def exchanges(self, path: Path) -> tuple[str, ...]:
        """The exchanges that a file says it is of (perhaps none that we know); empty where it does not tell.

        Looks at the file's beginning only. Raises ForeignFileError where it is no file of this format.
        """
        ...

    def read(self, path: Path, adapter: Adapter, symbol: str | None) -> Iterator[Item]:
        """What the file tells of one exchange, an iterator of Items. Raises ForeignFileError.

        `symbol` is what the user says a file is of that does not tell; where it tells otherwise, that is an error.
        """
        ...


def names() -> tuple[str, ...]:
    """The formats that can be imported."""
    return tuple(_FILES)


def get(name: str) -> Format:
    """The module of a format. Raises LookupError for an unknown name."""
    if name not in _FILES:
        raise LookupError(f"unknown format {name!r}: known are {', '.join(_FILES)}")
    module: ModuleType = importlib.import_module(f".{_FILES[name]}", __package__)
    return cast(Format, module)
