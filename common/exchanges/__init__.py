"""One file per exchange: what it sends and how to ask for it. Pure: no socket, clock, thread or logging."""

import importlib
from types import ModuleType

NAMES = ("binance",)
"""The exchanges that there is an adapter for. Modules beside them (`binance_standin`) are no exchanges."""


def names() -> tuple[str, ...]:
    """The exchanges that can be recorded."""
    return NAMES


def get(name: str) -> ModuleType:
    """The adapter of an exchange. Raises LookupError for a name that is not one of `names()`."""
    if name not in NAMES:
        raise LookupError(f"unknown exchange {name!r}: known are {', '.join(NAMES)}")
    return importlib.import_module(f".{name}", __package__)
