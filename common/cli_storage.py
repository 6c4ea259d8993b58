"""The commands that look at a whole storage directory: `verify` and `symbols`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import orjson

from . import exchanges
from . import verify as proof
from .adapter import Adapter
from .deep import prove
from .disk import Disk
from .output import aligned
from .process import EXIT_OK, ConfigError
from .progress import Progress
from .record import RecordError, decode, whole_lines
from .storage import MANIFEST, OPEN, month_dirs, sealed_lines, symbol_dirs
from .survey import symbol_of

EXIT_DAMAGED = 1
FINDINGS_MAX = 100
TAIL_BYTES = 1024 * 1024


def exchange_dirs(directory: Path, wanted: Sequence[str]) -> list[Path]:
    """The directories of the exchanges that are wanted. Raises ConfigError."""
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such directory: name the storage directory")
    found = proof.exchange_dirs(directory)
    for name in wanted:
        if name not in (path.name for path in found):
            known = ", ".join(path.name for path in found) or "none"
            raise ConfigError(f"{directory}: no exchange {name!r} in it: there are {known}")
    if not found:
        raise ConfigError(f"{directory}: nothing is archived in it: name the storage directory")
    return [path for path in found if not wanted or path.name in wanted]


# -- verify --------------------------------------------------------------------------------------------------------


def verify(directory: Path, wanted: Sequence[str], jobs: int, *, as_json: bool, deep: bool = False) -> int:
    reports = [_verified(path, jobs, deep=deep) for path in exchange_dirs(directory, wanted)]
    if not any(report.files or report.findings for report in reports):
        raise ConfigError(f"{directory}: no records are archived in it yet: nothing to verify")
    whole = all(report.is_whole for report in reports)
    if as_json:
        exchanges = {report.exchange: report.as_json() for report in reports}
        print(orjson.dumps({"whole": whole, "exchanges": exchanges}).decode())
    else:
        for report in reports:
            _print_report(report)
    return EXIT_OK if whole else EXIT_DAMAGED


def _verified(path: Path, jobs: int, *, deep: bool) -> proof.Report:
    with Progress(path.name, "files") as shown:
        report = proof.verify(path, jobs, lambda _, done, files: shown.update(done, files))
    if deep and report.is_whole:  # what the files hold must stand before their events can
        report.findings += prove(path, cast(Adapter, exchanges.get(path.name)))
    return report


def _print_report(report: proof.Report) -> None:
    for finding in report.findings[:FINDINGS_MAX]:
        offset = "" if finding.offset is None else f" offset {finding.offset}"
        print(f"{finding.file}{offset}: {finding.what}: {finding.mend}")
    if len(report.findings) > FINDINGS_MAX:
        print(f"{report.exchange} and {len(report.findings) - FINDINGS_MAX} more: --json lists all")
    for note in report.notes:
        print(f"note: {note}")
    for hole in report.holes:
        print(f"note: {report.exchange} records {hole.first} to {hole.last} are named as {hole.reason}")
    state = "whole" if report.is_whole else f"DAMAGED ({len(report.findings)} findings)"
    print(
        f"{report.exchange} {state}: {report.files} files ({report.sealed} sealed), {report.records} records, "
        f"{report.bytes_} bytes, seq {report.seq[0]} to {report.seq[1]}, complete to {report.complete}, "
        f"{len(report.holes)} holes named, tables of {report.tables} files proved"
    )


# -- symbols -------------------------------------------------------------------------------------------------------

COLUMNS = ("exchange", "symbol", "files", "records", "open_bytes", "bytes", "first", "last")


def symbols(directory: Path, exchange: str | None, *, as_json: bool) -> int:
    disk = Disk()
    rows = [
        {"exchange": path.name, **_summary(disk, symbol_dir)}
        for path in exchange_dirs(directory, [exchange] if exchange else [])
        for symbol_dir in symbol_dirs(disk, path)
    ]
    if as_json:
        print(orjson.dumps({"symbols": rows}).decode())
        return EXIT_OK
    print(aligned([COLUMNS, *(tuple(_cell(column, row) for column in COLUMNS) for row in rows)]))
    return EXIT_OK


def _cell(column: str, row: dict[str, Any]) -> str:
    value = row[column]
    if column == "records" and row["open_bytes"]:
        return "open" if value is None else f"{value} + open"
    if column in ("first", "last"):
        return "-" if value is None else f"{datetime.fromtimestamp(value // 1_000_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return "_" if value is None else str(value)


def _summary(disk: Disk, symbol_dir: Path) -> dict[str, Any]:
    """What is archived of a symbol. `records` are those of sealed files (None: none is); an open one is not read."""
    files = records = open_bytes = size = 0
    times: list[int] = []
    for month in month_dirs(disk, symbol_dir):
        names = disk.files(month)
        sealed = _manifest(disk, month)
        for line in sealed.values():
            files, records, size = files + 1, records + line["records"], size + line["bytes"]
            times += line["ts_recv"]
        for path in (month / name for name in names if name.endswith(OPEN) and name.removesuffix(OPEN) not in sealed):
            ends = _ends(disk, path)
            files, open_bytes, size = files + 1, open_bytes + ends[0], size + ends[0]
            times += ends[1]
    return {
        "symbol": symbol_of(symbol_dir / "month"),
        "files": files,
        "records": records or None,
        "open_bytes": open_bytes,
        "bytes": size,
        "first": min(times, default=None),
        "last": max(times, default=None),
    }


def _manifest(disk: Disk, month: Path) -> dict[str, dict[str, Any]]:
    try:
        return sealed_lines(disk, month)
    except (orjson.JSONDecodeError, TypeError) as error:
        raise ConfigError(f"{month / MANIFEST}: {error}: trade-archivist verify says where") from None


def _ends(disk: Disk, path: Path) -> tuple[int, list[int]]:
    """An open file's size, and the times of its first and last records; nothing of one that was sealed meanwhile."""
    try:
        size = disk.size(path)
        ends = [disk.read(path, 0, TAIL_BYTES), disk.read(path, max(0, size - TAIL_BYTES), TAIL_BYTES)]
    except FileNotFoundError:
        return 0, []
    times = []
    for lines, order in zip((whole_lines(data)[0] for data in ends), (1, -1), strict=True):
        for line in lines[::order]:
            try:
                times.append(decode(line).ts_recv)
                break
            except RecordError:
                continue
    return size, times
