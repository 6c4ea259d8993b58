"""Compressed files that others made to fill the memory: little on disk, a gigabyte and more once decompressed."""

import bz2
import gzip
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import pytest
import zstandard

from common import checked
from common.process import ConfigError
from common.settings import load
from tests.archives import written
from tests.standin_client import ROOT

SIZE = 1024**3
MEMORY_MB = 600
PIECE = 32 * 1024**2
BEGIN = b'{"seq":1000001,"ts_recv":1723161253937085768,"kind":"in","data":"'


MEASURED = """
import os, subprocess, sys
process = subprocess.Popen([sys.executable, "-m", "common.cli", *sys.argv[1:]])
_, status, used = os.wait4(process.pid, 0)
print("\\n%d %d" % (os.waitstatus_to_exitcode(status), used.ru_maxrss), file=sys.stderr)
"""


class Ended(NamedTuple):
    code: int
    said: str
    peak_mb: int


def run(*arguments: object) -> Ended:
    """The command as a process of its own, whose output nobody keeps, and the memory that it took at most.

    A small process begins it: the system counts to a child's peak what its parent had when it was begun.
    """
    command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said, _, told = process.stderr.read().rstrip().rpartition("\n")
    code, peak_kb = map(int, told.split())
    return Ended(code, said, peak_kb // 1024)


def of_zstd(piece: bytes, begin: bytes = b"") -> bytes:
    """One frame. What it is made of is all that it tells of its size."""
    stream = zstandard.ZstdCompressor().compressobj()
    return b"".join([stream.compress(begin), *(stream.compress(piece) for _ in range(SIZE // PIECE)), stream.flush()])


def of_bz2(piece: bytes, begin: bytes = b"") -> bytes:
    """Several streams; the first one is as large as a block may not be."""
    first, rest = bz2.BZ2Compressor(1), bz2.compress(piece, 1) * (SIZE // PIECE // 2)
    return b"".join([first.compress(begin), *(first.compress(piece) for _ in range(8)), first.flush(), rest])


def of_gzip(piece: bytes, begin: bytes = b"") -> bytes:
    return gzip.compress(begin + piece, 1) + gzip.compress(piece, 1) * (SIZE // PIECE)


MAKERS = {"zst": of_zstd, "bz2": of_bz2, "gz": of_gzip}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One endless line, of each codec."""
    return {suffix: make(bytes(PIECE), BEGIN) for suffix, make in MAKERS.items()}


@pytest.mark.parametrize("command", ["cat", "cat --payload", "cat --merge", "normalise binance"])
@pytest.mark.parametrize("suffix", ["zst", "bz2"])
def test_command_when_a_file_is_a_bomb_then_says_where_in_bounded_memory(
    tmp_path: Path, bombs: dict[str, bytes], suffix: str, command: str
) -> None:
    (path := tmp_path / f"BTCUSDT-2024-08-08-23-1723161253937.{suffix}").write_bytes(bombs[suffix])
    ended = run(*command.split(), path)
    assert ended.code == 1 and f"{path} offset 0: a line longer than" in ended.said
    assert ended.peak_mb < MEMORY_MB


def test_cat_when_a_block_holds_a_gigabyte_of_lines_then_streams_them(tmp_path: Path) -> None:
    (path := tmp_path / "many.zst").write_bytes(of_zstd((BEGIN + b'"}\n') * (PIECE // len(BEGIN))))
    ended = run("cat", path)
    assert ended.code == 0 and ended.peak_mb < 250


@pytest.mark.parametrize("suffix", ["gz", "zst", "bz2"])
@pytest.mark.parametrize("form", ["hftbacktest", "cryptofeed", "tardis", "archivist"])
def test_import_when_a_file_is_a_bomb_then_says_where_in_bounded_memory(
    tmp_path: Path, bombs: dict[str, bytes], form: str, suffix: str
) -> None:
    (path := tmp_path / f"btcusdt_20240808.{suffix}").write_bytes(bombs[suffix])
    ended = run("import", form, path, "--storage", tmp_path / "storage", "--exchange", "binance")
    assert ended.code not in (0, -9) and str(path) in ended.said and "Traceback" not in ended.said
    assert ended.peak_mb < MEMORY_MB


def bombed(storage: Path, codec: str, bomb: bytes) -> Path:
    """An archive that somebody made: its manifest tells of a bomb, with all checksums right."""
    archive = written(storage, codec)
    path = sorted((archive.directory / "BTCUSDT").rglob("*.bz2" if codec == "bz2" else "*.zst"))[0]
    manifest = path.parent / "manifest.jsonl"
    lines = [checked.loads(line) for line in manifest.read_bytes().splitlines()]
    (line,) = (line for line in lines if line["file"] == path.name)
    block = {**line["blocks"][0], "offset": 0, "bytes": len(bomb), "crc32": crc32(bomb), "seq": line["seq"]}
    block |= {"ts_recv": line["ts_recv"], "records": line["records"], "raw_bytes": line["raw_bytes"]}
    line |= {"bytes": len(bomb), "sha256": hashlib.sha256(bomb).hexdigest(), "blocks": [block]}
    del line["normaliser"]
    line["normaliser"] = "none"  # its tables are stale: they are to be made anew
    path.write_bytes(bomb)
    manifest.write_bytes(b"".join(checked.dumps(each) + b"\n" for each in lines))
    return path


@pytest.mark.parametrize("codec", ["zstd", "bz2"])
def test_archive_when_a_block_is_a_bomb_then_every_reader_says_where_in_bounded_memory(
    tmp_path: Path, bombs: dict[str, bytes], codec: str
) -> None:
    bomb = bombs["bz2"] if codec == "bz2" else zstandard.compress(bytes(SIZE))
    path = bombed(tmp_path / "storage", codec, bomb)
    storage = tmp_path / "storage"
    readers: list[tuple[tuple[object, ...], Callable[[Ended], bool]]] = [
        (("slice", "binance", "BTCUSDT", "--storage", storage), lambda ended: f"{path} offset 0" in ended.said),
        (("coverage", "binance", "BTCUSDT", "--storage", storage), lambda ended: True),
        (("verify", storage), lambda ended: ended.code == 1),
        (("rebuild", storage, "--force"), lambda ended: ended.code in (0, 1)),
    ]
    for arguments, is_right in readers:
        ended = run(*arguments)
        assert is_right(ended), (arguments, ended)
        assert "Traceback" not in ended.said and ended.peak_mb < MEMORY_MB, (arguments, ended)


def test_config_when_blocks_are_larger_than_readers_take_then_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "my.toml").write_text("[archive]\nblock_bytes = 100_000_000\n")
    with pytest.raises(ConfigError, match="block_bytes"):
        load(path, ["binance"], {}, {})
