"""The examples run: against a server that records meanwhile, against a directory, and on what was really recorded."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.normalise import RECORDING, record_lines
from tests.archives import Archive
from tests.pipeline import Pipeline, until
from tests.standin_client import ROOT, Standin

EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "first_ten_minutes.ipynb"
RECORDED = 4000  # records
DEADLINE_S = 60.0
PYTHON = os.environ.get("EXAMPLES_PYTHON", sys.executable)
"""CI gives that of an environment with the built wheel."""

pytest.importorskip("polars", reason="the examples need the extra `frames`")

RUN_CELLS = """
import json, pathlib, sys
names = {"__name__": "__main__"}
for place, cell in enumerate(json.loads(pathlib.Path(sys.argv[1]).read_text())["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"cell {place}", "exec"), names)
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A generated market that is recorded and served, for some seconds already."""
    made = Pipeline(tmp_path_factory.mktemp("examples"), Standin("--synthetic", "--rate", "300", "--seed", "7"))
    made.start("archiver", "feed", "history")
    try:
        first = until(made.complete, "something is recorded")
        until(lambda: made.complete() > first + RECORDED, "enough is recorded")
        yield made
    finally:
        made.end()
        made.standin.stop()


def run(*arguments: object, **environ: object) -> str:
    """A script in a process of its own, away from the checkout: what it prints. A warning is an error."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ARCHIVIST_")}
    result = subprocess.run(
        [PYTHON, "-W", "error", *map(str, arguments)],
        capture_output=True, text=True, timeout=DEADLINE_S, cwd="/",
        env={**environment, **{key: str(value) for key, value in environ.items()}},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_look_tells_symbols_coverage_and_book(pipeline: Pipeline) -> None:
    told = run(EXAMPLES / "look.py", ARCHIVIST_SERVER=pipeline.server)
    assert {"BTCUSDT", "ETHUSDT"} <= set(told.split())
    assert re.search(r"trade +\d.* proven", told) and "book at" in told


def test_live_bars_go_on_from_the_past(pipeline: Pipeline) -> None:
    wish = ("--start=-3s", "--interval", "500ms", "--count", 16)
    lines = run(EXAMPLES / "live_bars.py", "--server", pipeline.server, *wish).splitlines()
    assert len(lines) == 16
    for symbol in ("BTCUSDT", "ETHUSDT"):
        first, *others = [line for line in lines if symbol in line]
        assert "not whole" in first and others and not any("not whole" in line for line in others)


@pytest.mark.parametrize("of", ["server", "storage"])
def test_slice_to_polars_has_trades_and_their_bars(pipeline: Pipeline, of: str) -> None:
    told = run(EXAMPLES / "slice_to_polars.py", f"--{of}", getattr(pipeline, of), "--interval", "1s")
    match = re.search(r"(\d+) bars of (\d+) trades, (\d+) of them whole", told)
    assert match and int(match[1]) >= int(match[3]) > 0 and int(match[2]) > 10
    assert "bid" not in told and "sell" in told


def test_training_on_a_server_judges_what_it_has_not_seen(pipeline: Pipeline) -> None:
    told = run(EXAMPLES / "train_direction.py", "--interval", "50ms", ARCHIVIST_SERVER=pipeline.server)
    assert re.search(r"logistic regression +right +\d", told)
    assert re.search(r"PyTorch", told)


@pytest.mark.skipif(not RECORDING.exists(), reason="the recordings are not there")
def test_training_on_a_recording_learns_something(tmp_path: Path) -> None:
    """Six minutes of BTCUSDT: the imbalance of the book foretells the next move better than chance does."""
    archive = Archive(tmp_path)
    archive.take(record_lines(RECORDING))
    archive.close()
    told = run(EXAMPLES / "train_direction.py", "--storage", tmp_path, "--interval", "500ms")
    right = {name: float(value) for name, value in re.findall(r"^(.*?) +right +([\d.]+)%", told, re.MULTILINE)}
    assert right["logistic regression"] > 70 > right["always the same"]


@pytest.mark.parametrize(
    "words",
    [
        ("look.py",),
        ("live_bars.py", "--start=-3s", "--interval", "500ms"),
        ("slice_to_polars.py", "--start=-3s"),
        ("train_direction.py", "--interval", "50ms"),
    ],
)
def test_an_example_whose_reader_is_gone_ends_without_a_word(pipeline: Pipeline, words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        command = [PYTHON, EXAMPLES / words[0], *words[1:], "--server", pipeline.server]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, timeout=DEADLINE_S, cwd="/", check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_the_notebook_runs_cell_by_cell(pipeline: Pipeline) -> None:
    run("-c", RUN_CELLS, NOTEBOOK, ARCHIVIST_SERVER=pipeline.server)


def test_the_notebook_is_one_without_outputs() -> None:
    """Format 4.5: each cell has an id of its own; outputs belong to who runs it."""
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        expected = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            expected |= {"outputs", "execution_count"}
            assert cell["outputs"] == [] and cell["execution_count"] is None
        assert set(cell) == expected
