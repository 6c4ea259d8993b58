"""Keeping the feed's journal: durable every second, no longer than it must be, and within its bound."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import orjson

from .disk import Disk
from .journal import Journal, JournalError
from .process import Lock, LockedError, end_at_once
from .recorder import Recorder
from .storage import ARCHIVED, Archived, read_archived

log = logging.getLogger("feed")


REMOVED = "the journal's file was removed while it was written: a new run begins a new one"

SHARES = (0.25, 0.5)
"""Of the journal's bound: so much of it unarchived is told."""


class JournalKeeper:
    """Rules 5 and 8 of the protocol, the feed's half. `sync` works in a thread of its own."""

    def __init__(self, disk: Disk, journal: Journal, recorder: Recorder, exchange_dir: Path) -> None:
        self._disk, self._journal, self._recorder, self._directory = disk, journal, recorder, exchange_dir
        self._seen: tuple[int, int] | None = None  # time and size of the archived.json that was read last
        self._complete = 0  # how far the archive is, as archived.json said last
        self._told_share = 0.0  # of the journal's bound, that is filled with what is not archived
        self._durable = 0  # how far the archive was synced, the last time that could be read
        self._told = ""  # what went wrong last, and goes on doing so
        self._syncing: threading.Thread | None = None

    def sync(self) -> None:
        """Begin to make what was appended durable, unless the last time still lasts."""
        if self._syncing is None or not self._syncing.is_alive():
            self._syncing = threading.Thread(target=_logged(self._journal.sync_job()), name="fsync", daemon=True)
            self._syncing.start()

    def close(self) -> None:
        if self._syncing is not None:
            self._syncing.join()
        self._journal.close()

    def keep(self, held: Lock, stamp: Callable[[], int]) -> None:
        """To be called once a second. No file of another process ends the capture: errors are told, and tried again.

        Raises JournalError where the journal is gone.
        """
        steps: tuple[Callable[[], None], ...] = (
            lambda: self.check(held), self.trim, self.tell_unarchived, lambda: self.keep_within_bound(stamp)
        )  # fmt: skip
        failed = ""
        for step in steps:
            try:
                step()
            except OSError as error:
                failed = failed or str(error)
        if failed and failed != self._told:
            log.error("%s journal is not looked after: %s; recording goes on", self._directory.name, failed)
        self._told = failed

    def check(self, held: Lock) -> None:
        """Stop where somebody removed the journal under our hands. Raises JournalError: the next start begins anew.

        Where the journal's directory is another one than that which is locked, the process ends at once.
        """
        try:
            held.check()
        except LockedError as error:
            end_at_once("feed", LockedError(f"{REMOVED} ({error})"))
        if not self._journal.is_there():
            raise JournalError(REMOVED)

    def trim(self) -> None:
        """Let go what the archive holds synced, once its word of that is durable (rule 8)."""
        path = self._directory / ARCHIVED
        try:
            seen = (self._disk.mtime_ns(path), self._disk.size(path))
        except FileNotFoundError:
            return
        if seen == self._seen:
            return
        archived = read_archived(self._disk, self._directory)
        self._complete = archived.complete
        if self._journal.can_trim(archived.fsynced):
            self._journal.trim(self._fsynced())
        self._seen = seen

    def tell_unarchived(self) -> None:
        """Warn when a quarter, and when half of the journal's bound is filled with what nobody has archived."""
        share = self._journal.share_beyond(self._complete)
        if share < self._told_share / 2:
            self._told_share = 0.0
        reached = max((each for each in SHARES if each <= share), default=0.0)
        if reached > self._told_share:
            self._told_share = reached
            log.warning(
                "%s journal: %d %% of its bound hold what is not archived: is the archiver running, with this journal "
                "and %s? At the bound the oldest records are lost",
                self._directory.name, 100 * share, self._directory,
            )  # fmt: skip

    def keep_within_bound(self, stamp: Callable[[], int]) -> None:
        """The journal is full of what nobody archived: name what goes, durably, and drop it (rule 5)."""
        last = self._journal.overflow()
        if last is None or self._recorder.is_behind():
            return
        try:
            fsynced = self._fsynced()
        except OSError:  # `trim` tells it; what was known last counts, the bound holds
            fsynced = self._durable
        first = fsynced + 1
        if first > last:  # the archiver has just come to it
            self._journal.trim(last)
            return
        ts_from, ts_to = self._journal.times(first, last)
        lost = {"first_seq": first, "last_seq": last, "ts_from": ts_from, "ts_to": ts_to}
        payload = orjson.dumps({"state": "open", "reason": "journal full", **lost})
        self._recorder.record(stamp(), "gap", payload=payload)
        if self._recorder.is_behind():
            return
        self._journal.sync_job()()
        self._journal.trim(last)
        log.error("journal full: records %d to %d dropped; is the archiver running?", first, last)

    def _fsynced(self) -> int:
        """How far the archive is synced, by a word that is durable itself. It may go back: the lower one counts."""
        fsynced = read_archived(self._disk, self._directory).fsynced
        if fsynced:
            self._disk.sync_file(self._directory / ARCHIVED)
            self._disk.sync_dir(self._directory)
        self._durable = min(fsynced, read_archived(self._disk, self._directory).fsynced)
        return self._durable


def archived_at_start(disk: Disk, directory: Path) -> Archived:
    """What `archived.json` says; nothing where it cannot be read: capture does not wait for the archiver's disk."""
    try:
        return read_archived(disk, directory)
    except OSError as error:
        log.error("%s cannot be read, recording begins without it: %s", directory / ARCHIVED, error)
        return Archived()


def _logged(act: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            act()
        except OSError as error:
            log.error("journal cannot be synced: %s", error)

    return run
