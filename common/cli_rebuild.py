"""The command `rebuild`: tables made anew from the records."""

import sys
from collections.abc import Sequence
from pathlib import Path

from . import exchanges
from .chains import WorkerError
from .cli_storage import exchange_dirs
from .process import EXIT_OK, ConfigError
from .progress import Progress
from .rebuild import rebuild

EXIT_FAILED = 1


def run(directory: Path, wanted: Sequence[str], workers: int, *, force: bool) -> int:
    """Rebuild the exchanges of a storage directory; returns the exit code. Raises ConfigError."""
    code = EXIT_OK
    for path in exchange_dirs(directory, wanted):
        if path.name not in exchanges.names():
            names = ", ".join(exchanges.names())
            raise ConfigError(f"{path}: this version knows no exchange {path.name!r}: it knows {names}")
        try:
            with Progress(path.name, "files") as shown:
                known, outcomes = rebuild(path, workers, force=force, progress=shown.update)
        except WorkerError as error:
            print(f"trade-archivist: {path.name}: {error}", file=sys.stderr)
            return EXIT_FAILED
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        for outcome in failed:
            print(f"trade-archivist: {outcome.path}: no tables: {outcome.error}", file=sys.stderr)
            code = EXIT_FAILED
        made = sum(outcome.made for outcome in outcomes)
        print(f"{path.name}: {made} files rebuilt, {len(failed)} failed, {known - made - len(failed)} were in order")
    return code
