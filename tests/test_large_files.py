"""Files that are larger than the memory: the archiver starts on them, whatever is wrong with them, in a few MB."""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from common import record_file
from common.archive import ArchiveWriter
from common.disk import Disk
from common.record import encode, seq_of, whole_lines
from common.record_file import Span, backwards, below, crc_of, extend, lines, lines_of
from common.storage import ARCHIVED, read_archived, write_archived
from common.synced import SYNCED
from tests.archives import FIRST, start, trade
from tests.standin_client import ROOT

FILE_BYTES = 24 * 1024**2
PEAK_BYTES = 12 * 1024**2
"""How much a start may take: before, it took 2.1 times the file."""

OPEN = """
import sys
from pathlib import Path
from common.archive import ArchiveWriter
from common.disk import Disk
def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
directory, boot, front = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) or None
writer = ArchiveWriter(Disk(), directory, boot_id=boot)
before = peak()
writer.open(front)
print(writer.position, peak() - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with one large file that is being written, synced."""
    directory = tmp_path_factory.mktemp("large") / "binance"
    writer = ArchiveWriter(Disk(), directory, boot_id="boot")
    writer.open(None)
    writer.hole(FIRST, 0)
    writer.take([start(FIRST, 0)])
    tail = trade(1)[len('{"seq":1') :]
    seqs = iter(range(FIRST + 1, FIRST + 1 + FILE_BYTES // (len(tail) + 14)))
    while some := list(itertools.islice(seqs, 5000)):
        writer.take(b'{"seq":%d%b' % (seq, tail) for seq in some)
        writer.flush()
    writer.sync(lambda: None)
    writer.close()
    return directory


def flip(directory: Path, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def tear(directory: Path, path: Path) -> None:
    (directory / SYNCED).unlink()
    with path.open("ab") as file:
        file.write(b'{"seq":999999999999,"ts_re')


def forget(directory: Path, path: Path) -> None:
    (directory / ARCHIVED).unlink()


def nothing(directory: Path, path: Path) -> None: ...


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak")
@pytest.mark.parametrize(
    ("harm", "boot", "front"),
    [
        (nothing, "boot", 0),
        (nothing, "another", 0),
        (flip, "boot", 0),
        (flip, "boot", FIRST),
        (tear, "boot", 0),
        (forget, "boot", 0),
        (nothing, "cut", 0),
    ],
)
def test_archiver_when_a_file_is_large_then_its_start_takes_a_few_megabytes(
    large: Path, tmp_path: Path, harm: Callable[[Path, Path], None], boot: str, front: int
) -> None:
    directory = tmp_path / "binance"
    shutil.copytree(large, directory)
    (path,) = directory.glob("BTCUSDT/*/*.open")
    archived = read_archived(Disk(), directory)
    if boot == "cut":  # of another boot, and less of it was synced
        archived = archived.__class__(**{**vars(archived), "fsynced": archived.complete // 2 + FIRST // 2})
    write_archived(Disk(), directory, archived, durable=True)  # else it is a copy
    harm(directory, path)
    command = [sys.executable, "-c", OPEN, str(directory), boot, str(front)]
    position, peak = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.splitlines()[-1].split()
    assert int(peak) < PEAK_BYTES
    if harm is flip and front:
        assert FIRST + 1000 < int(position) < archived.complete
    else:
        assert int(position) == (archived.fsynced if boot == "cut" else archived.complete)
    kept = sum(path.stat().st_size for path in directory.glob("BTCUSDT/*/*"))
    assert kept >= FILE_BYTES * 9 // 10, "what is not kept is set aside"


def random_lines(random: Random) -> list[bytes]:
    count = random.randrange(6)
    texts = [random.choice((b"{}", b'"%b"' % (b"x" * random.randrange(60)), b'{\r"a":1}')) for _ in range(count)]
    return [encode(10 * number, number, "in", payload=text) for number, text in enumerate(texts, 1)]


def test_lines_when_read_piece_by_piece_from_either_end_then_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, disk = tmp_path / "file", Disk()
    for seed in range(300):
        random = Random(seed)
        monkeypatch.setattr(record_file, "READ_BYTES", random.choice((1, 7, 64, 4096)))
        whole = random_lines(random)
        torn = random.choice((b"", b'{"seq":', b"\0" * 20))
        path.write_bytes(b"".join(whole) + torn)
        places = list(itertools.accumulate(map(len, whole), initial=0))
        expected = list(zip(places, whole, strict=False))
        assert whole_lines(path.read_bytes())[0] == whole
        assert list(lines(disk, path)) == expected
        assert list(backwards(disk, path)) == expected[::-1]
        spans: list[Span] = []
        for place, line in expected:
            extend(spans, Span(place, place + len(line), seq_of(line)))
        assert len(spans) == min(1, len(whole))
        limit = random.randrange(70)
        kept = [line for line in whole if seq_of(line) < limit]
        assert list(lines_of(disk, path, below(disk, path, spans, limit))) == kept
        assert crc_of(disk, path, path.stat().st_size + 1) is None
