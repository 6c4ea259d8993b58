"""Files brought in parts, from a server that answers with less than asked, or with what is wrong."""

import hashlib
import resource
from pathlib import Path
from random import Random

import orjson
import pytest

from common.download import PART_BYTES, download, download_to
from common.errors import DamagedError
from common.transport import LocalDialogue
from tests.pipeline import seeded


class Giving:
    """Answers each request for a part with as much of it as it likes."""

    name = "giving"

    def __init__(self, data: bytes, random: Random) -> None:
        self.data, self.random, self.shift = data, random, 0

    def dialogue(self, *, wait: bool = True) -> LocalDialogue:
        return LocalDialogue(self.answer)

    def answer(self, question: bytes) -> list[bytes]:
        asked = orjson.loads(question)
        given = self.random.randint(asked["bytes"] // 2 + 1, asked["bytes"])
        place = asked["offset"] + self.shift
        return [orjson.dumps({"offset": place}), self.data[place : place + given]]

    def close(self) -> None: ...


class Most(Random):
    """Chance that gives the most there is."""

    def randint(self, a: int, b: int) -> int:
        return b


@pytest.fixture
def giving() -> Giving:
    random = seeded()
    return Giving(random.randbytes(5 * PART_BYTES + 12_345), random)


def file_of(data: bytes) -> dict[str, object]:
    return {"file": "f.parquet", "bytes": len(data), "token": "t", "sha256": hashlib.sha256(data).hexdigest()}


def test_parts_when_shorter_than_asked_then_the_file_is_whole(giving: Giving, tmp_path: Path) -> None:
    told: list[int] = []
    found = download(giving, "binance", file_of(giving.data), told.append)
    assert bytes(found) == giving.data
    assert sum(told) == len(giving.data)
    assert len(told) > 6
    download_to(tmp_path / "f.parquet", giving, "binance", file_of(giving.data), told.append)
    assert (tmp_path / "f.parquet").read_bytes() == giving.data


def test_file_when_its_last_part_finds_no_room_then_is_an_error(giving: Giving, tmp_path: Path) -> None:
    """A write that the system did in part passed for whole: the file was short, and nobody said so."""
    giving.random = Most()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(giving.data) - 100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            download_to(tmp_path / "f.parquet", giving, "binance", file_of(giving.data), lambda size: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_part_when_of_another_place_then_is_an_error_that_names_it(giving: Giving) -> None:
    giving.shift = 1
    with pytest.raises(DamagedError, match=r"at 1 came instead of \d+ at 0"):
        download(giving, "binance", file_of(giving.data), lambda size: None)


def test_part_when_other_bytes_then_the_hash_tells(giving: Giving) -> None:
    planned = file_of(giving.data)
    giving.data = giving.data[:-1] + bytes([giving.data[-1] ^ 1])
    with pytest.raises(DamagedError, match="SHA-256"):
        download(giving, "binance", planned, lambda size: None)
