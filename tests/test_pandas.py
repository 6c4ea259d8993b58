"""Plain pandas reads times to the nanosecond from every table that is written here, also where some are null."""

from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common import tabling
from common.cli import main
from common.client import Client
from common.tables import COLUMNS, INT, NEVER_NULL, schema
from common.verify import verify
from tests.archives import written
from tests.pipeline import Served

PLACE = ("binance", "BTCUSDT")


def check(frame: Any, table: pa.Table) -> int:
    """Every integer is what Arrow has; returns how many are null."""
    nulls = 0
    for field in table.schema:
        if field.type == pa.int64():
            assert frame[field.name].dtype == ("int64" if field.name in NEVER_NULL else "Int64"), field.name
            found = [None if value is pandas.NA else int(value) for value in frame[field.name]]
            assert found == table[field.name].to_pylist(), field.name
            nulls += table[field.name].null_count
    return nulls


def check_file(path: Path) -> int:
    return check(pandas.read_parquet(path), pq.read_table(path))


def test_the_archive_s_own_tables_are_exact_in_plain_pandas(served: Served) -> None:
    """A book table has a snapshot without `ts_event` before its deltas."""
    for channel in ("book", "trade"):
        paths = list(served.storage.rglob(f"*.{channel}.parquet"))
        assert paths and sum(map(check_file, paths))


def test_slices_and_directories_are_exact_in_plain_pandas(served: Served, tmp_path: Path) -> None:
    with Client(served.server) as client:
        asked = client.slice(*PLACE, ["book", "trade", "gap"])
        asked.to_parquet(tmp_path / "files")
        asked.to_directory(tmp_path / "directory")
        for channel, table in asked.to_arrow().items():
            assert check(table.to_pandas(), table) == check(asked.to_pandas()[channel], table)
        for table in client.slice(*PLACE, "book").batches():
            check(table.to_pandas(), table)
        exact = client.slice(*PLACE, "book", end="-1s").to_arrow(exact=True)
        check(exact.to_pandas(), exact)
        bars = client.slice(*PLACE, "trade").bars("1s")
        check(bars.to_pandas(), bars.to_arrow())
    paths = list(tmp_path.rglob("*.parquet"))
    assert len(paths) > 3 and sum(map(check_file, paths))
    assert check_file(tmp_path / "files" / "book.parquet")


def test_exports_and_arrow_streams_are_exact_in_plain_pandas(served: Served, tmp_path: Path) -> None:
    place = [*PLACE, "--storage", str(served.storage)]
    assert main(["slice", *place, "--channels", "book", "--format", "arrow", "-o", str(tmp_path / "book.arrow")]) == 0
    table = pa.ipc.open_stream(tmp_path / "book.arrow").read_all()
    assert check(table.to_pandas(), table)
    assert main(["export", "parquet", *place, "--kinds", "book", "-o", str(tmp_path / "export")]) == 0
    (path, *_) = tmp_path.rglob("*.parquet")
    assert check_file(path)


def test_tables_without_the_metadata_for_pandas_are_still_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions wrote such."""
    monkeypatch.setattr(tabling, "for_pandas", lambda columns, metadata: columns.with_metadata(metadata))
    archive = written(tmp_path)
    files = archive.files(".parquet")
    assert files and all(b"pandas" not in pq.read_schema(path).metadata for path in files)
    monkeypatch.undo()
    assert verify(archive.directory, jobs=1).is_whole


def test_the_metadata_for_pandas_name_every_integer_that_may_be_null() -> None:
    for channel, columns in COLUMNS.items():
        told = schema(channel).pandas_metadata["columns"]
        assert [each["name"] for each in told] == [
            name for name, sort in columns.items() if sort == INT and name not in NEVER_NULL
        ]
