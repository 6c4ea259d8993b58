"""`verify --deep`: what coverage, gaps and bars claim of an archive is walked through event by event."""

from typing import cast

from common import deep, exchanges
from common.adapter import Adapter
from tests.conftest import Served

ADAPTER = cast(Adapter, exchanges.get("binance"))


def test_an_archive_of_a_real_pipeline_holds_what_it_claims(served: Served) -> None:
    assert list(deep.prove(served.storage / "binance", ADAPTER)) == []
