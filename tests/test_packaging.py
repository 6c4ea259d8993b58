"""What is shipped, and the shape of the code: who imports whom, how long files and functions are."""

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES = 400
FUNCTION_LINES = 40
IMPURE = {
    "asyncio",
    "datetime",
    "logging",
    "multiprocessing",
    "select",
    "socket",
    "subprocess",
    "threading",
    "time",
    "zmq",
}
"""What an adapter must not need: sockets, clocks, threads, logging."""

LIBRARY = sorted((ROOT / "common").rglob("*.py"))
PROCESSES = sorted((ROOT / "processes").glob("*.py"))
OTHERS = sorted(path for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Level (0 is absolute) and first word of each import of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, (node.module or "").split(".")[0]


def test_package_list_equals_the_folders_of_common() -> None:
    """A sub-package that the list lacks is left out of the wheel silently."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    folders = {path.parent.relative_to(ROOT / "common") for path in LIBRARY}
    expected = {".".join(("trade_archivist", *folder.parts)) for folder in folders}
    assert set(parser["options"]["packages"].split()) == expected
    assert expected == {"trade_archivist", "trade_archivist.exchanges"}


@pytest.mark.parametrize("path", LIBRARY, ids=named)
def test_library_imports_itself_relatively_and_no_process(path: Path) -> None:
    assert {name for level, name in imports(path) if level == 0} & {"common", "processes", "trade_archivist"} == set()


@pytest.mark.parametrize("path", PROCESSES, ids=named)
def test_processes_import_the_library_and_never_each_other(path: Path) -> None:
    found = list(imports(path))
    assert [name for level, name in found if level > 0] == []
    assert {name for _, name in found} & {"processes", "trade_archivist"} == set()


@pytest.mark.parametrize("path", OTHERS, ids=named)
def test_nothing_but_the_examples_imports_the_installed_name(path: Path) -> None:
    assert "trade_archivist" not in {name for _, name in imports(path)}


@pytest.mark.parametrize("path", sorted((ROOT / "common" / "exchanges").glob("*.py")), ids=named)
def test_adapters_have_no_socket_clock_thread_or_logging(path: Path) -> None:
    assert {name for level, name in imports(path) if level == 0} & IMPURE == set()


@pytest.mark.parametrize("path", LIBRARY + PROCESSES + OTHERS, ids=named)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES


@pytest.mark.parametrize("path", LIBRARY + PROCESSES, ids=named)
def test_functions_are_short(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > FUNCTION_LINES} == {}
