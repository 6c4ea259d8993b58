"""Trade-archivist: records, events and archives of crypto exchanges' public trading events.

from trade_archivist import Client        # see `client.py`; AsyncClient is the same for asyncio
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .async_client import AsyncClient as AsyncClient
    from .client import Client as Client
    from .errors import ArchivistError as ArchivistError
    from .errors import BadRequestError as BadRequestError
    from .errors import DamagedError as DamagedError
    from .errors import MissingExtraError as MissingExtraError
    from .errors import UnavailableError as UnavailableError

_MODULES = {"AsyncClient": "async_client", "Client": "client"} | dict.fromkeys(
    ("ArchivistError", "BadRequestError", "DamagedError", "MissingExtraError", "UnavailableError"), "errors"
)


def __getattr__(name: str) -> Any:
    """What is exported is imported when it is wanted: the daemons, which share this package, want none of it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
