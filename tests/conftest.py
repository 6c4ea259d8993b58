"""Fixtures of several test files."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.pipeline import Live, Pipeline, Served, until
from tests.record_logs import Log
from tests.replays import recorded
from tests.standin_client import Standin

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")  # how long an example takes is the machine's: others may be at work on it


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


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """What a real pipeline left, recorded once for all tests that only read."""
    standin = Standin("--synthetic", "--symbols", "BTCUSDT,ETHUSDT", "--rate", "200", "--seed", "7")
    pipeline = Pipeline(tmp_path_factory.mktemp("served"), standin)
    subscriber = Live(pipeline.endpoint)
    try:
        pipeline.start()
        until(lambda: len(list(pipeline.exchange_dir.rglob("*.trade.parquet"))) >= 4, "tables are written")
        pipeline.stop()
        pipeline.start("history")
        yield Served(pipeline.server, pipeline.storage, subscriber.messages)
    finally:
        subscriber.close()
        pipeline.end()
        standin.stop()


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Log]:
    """A small archive out of a random log, to be replayed: its storage directory, and the log."""
    storage = tmp_path_factory.mktemp("replayed")
    return storage, recorded(storage)
