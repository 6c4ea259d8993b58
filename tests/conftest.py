"""Fixtures of several test files."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pipeline import Live, Pipeline
from tests.standin_client import Standin


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    """Starts a stand-in with some arguments and lays out a pipeline on it; ends both."""
    made: list[Pipeline] = []

    def begin(*arguments: object, **settings: str) -> Pipeline:
        made.append(Pipeline(tmp_path, Standin(*arguments), **settings))
        return made[-1]

    yield begin
    for pipeline in made:
        pipeline.end()
        pipeline.standin.stop()


@pytest.fixture
def live() -> Iterator[Callable[[Pipeline], Live]]:
    """Opens a subscriber of a pipeline's events."""
    opened: list[Live] = []

    def begin(pipeline: Pipeline) -> Live:
        opened.append(Live(pipeline.endpoint))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()
