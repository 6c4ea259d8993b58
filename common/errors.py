"""What can go wrong for who asks: one tree. Each error has a stable `code` and a sentence that says the mend."""

from typing import Any


class ArchivistError(Exception):
    """Any error of client and server; `code` never changes its meaning, the sentence may."""

    code = "internal"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or type(self).code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code)


class BadRequestError(ArchivistError):
    """What was asked cannot be answered, now or later: ask otherwise."""

    code = "bad_value"


class UnavailableError(ArchivistError):
    """Nobody answered, in time or at all: the same may be asked again later."""

    code = "unreachable"


class DamagedError(ArchivistError):
    """What is stored, or what came, is not whole: nothing of it was passed off as data."""

    code = "corrupt"


class MissingExtraError(ArchivistError):
    """A package that this call needs is not installed here."""

    code = "missing_package"


_KINDS: dict[str, type[ArchivistError]] = {
    "busy": UnavailableError,
    "closed": UnavailableError,
    "timeout": UnavailableError,
    "unreachable": UnavailableError,
    "corrupt": DamagedError,
    "short": DamagedError,
    "internal": ArchivistError,
    "changed": ArchivistError,
    "stale": ArchivistError,
}
"""Which codes are no mistake in the request."""


def error_of(code: str, message: str) -> ArchivistError:
    """The error that a code of the history protocol stands for; a code that is not known is the request's."""
    return _KINDS.get(code, BadRequestError)(message, code)
