"""How far long work is: one line on a terminal, a bar in a notebook, nothing in a pipe."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

CLEAR_LINE = "\r\x1b[K"
SHOW_AFTER_S = 0.5
"""Work that is done sooner shows nothing."""
REDRAW_S = 0.1
WIDTH = 24


class Progress:
    """Shows `done` of `total` until it is closed. `show`: None finds out whether anybody looks."""

    def __init__(self, label: str, unit: str = "", *, show: bool | None = None, after_s: float = SHOW_AFTER_S) -> None:
        self._label, self._unit = label, unit
        self._notebook = show is not False and _in_notebook()
        self._shown = self._notebook or (sys.stderr.isatty() if show is None else show)
        self._drawn_at = time.monotonic() + after_s - REDRAW_S
        self._drawn = False
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def update(self, done: int, total: int) -> None:
        """Tell how far it is; draws at most ten times a second."""
        now = time.monotonic()
        if not self._shown or now - self._drawn_at < REDRAW_S:
            return
        self._drawn_at, self._drawn = now, True
        if self._notebook and (make := _tqdm()) is not None:
            self._bar = self._bar or make(desc=self._label, total=total, leave=False)
            self._bar.total, self._bar.n = total, done
            self._bar.refresh()
            return
        clear = "\r" if self._notebook else CLEAR_LINE
        print(f"{clear}{self._label} {self._text(done, total)}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Wipe what was drawn."""
        if self._bar is not None:
            self._bar.close()
        elif self._drawn:
            print(end="\r" if self._notebook else CLEAR_LINE, file=sys.stderr, flush=True)
        self._shown = self._drawn = False

    def _text(self, done: int, total: int) -> str:
        if self._unit:
            return f"{done} of {total} {self._unit}"
        share = min(max(done / total, 0.0), 1.0) if total else 1.0
        filled = round(share * WIDTH)
        return f"[{'#' * filled}{'.' * (WIDTH - filled)}] {share:4.0%}"


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def _tqdm() -> Callable[..., Any] | None:
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]  # its types are a package of their own
    except ImportError:
        return None
    found: Callable[..., Any] = tqdm
    return found
