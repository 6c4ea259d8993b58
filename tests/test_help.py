"""`--help` of every command, as it stands on a terminal of 80 columns."""

import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from common.cli import main

PROCESSES = sorted(
    {path.stem for path in (Path(__file__).parent.parent / "processes").glob("[a-z]*.py")} - {"supervise"}
)
COLUMNS = 80


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command prints for `--help`."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))

    def run(command: Callable[[Sequence[str]], int], *words: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            command([*words, "--help"])
        return capsys.readouterr().out

    return run


def check(text: str, typed: str) -> None:
    """It names what one types, says something of each argument, and fits its lines without breaking a name."""
    assert text.startswith(f"usage: {typed} ")
    lines = text.splitlines()
    assert [line for line in lines if len(line) > COLUMNS or re.search(r"\w-$", line)] == []
    silent = [line for line, below in zip(lines, [*lines[1:], ""], strict=True) if is_silent(line, below)]
    assert silent == []


def is_silent(line: str, below: str) -> bool:
    """Whether a line is of an argument that nothing is said of."""
    return re.fullmatch(r"  (-|[A-Z])[^ ]*( [^ ]+)*", line) is not None and not below.startswith(" " * 12)


@pytest.mark.parametrize("name", PROCESSES)
def test_help_of_a_process_fits_the_terminal_and_names_what_is_typed(name: str, helped: Callable[..., str]) -> None:
    check(helped(importlib.import_module(f"processes.{name}").main), f"python -m processes.{name}")


def test_help_of_the_commands_fits_the_terminal_and_each_has_its_own(helped: Callable[..., str]) -> None:
    text = helped(main)
    check(text.replace("\n  COMMAND\n", "\n"), "trade-archivist")
    commands = re.findall(r"^    ([a-z]+)  ", text, re.MULTILINE)
    assert {"slice", "follow", "export", "import", "instruments"} < set(commands)
    for command in commands:
        check(helped(main, command), f"trade-archivist {command}")
