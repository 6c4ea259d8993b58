"""The archiver's rate and memory, and sealing against the codec alone.

    python -m benchmarks.archiver [--records 1000000] [--open-mib 500]

A journal of trade records is written first; the real archiver process then reads it all. Its memory is sampled on
the way, and that of a start with one large open file. Sealing is measured in this process, codec by codec, without
and with tables.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.exchange import trades
from benchmarks.normalise import RECORDING, record_lines
from common import exchanges
from common.adapter import version
from common.archive import ArchiveWriter
from common.begin import record_start
from common.codec import compressor
from common.disk import Disk
from common.journal import Journal
from common.normaliser import Normaliser
from common.process import boot_id
from common.recorder import Recorder
from common.sealing import Tables, seal
from common.storage import MANIFEST, Archived, read_archived
from common.tabling import Covers, Derivation, table_name, write

START = """
import sys, time
from pathlib import Path
from common.archive import ArchiveWriter
from common.disk import Disk
from common.process import boot_id
began = time.perf_counter()
ArchiveWriter(Disk(), Path(sys.argv[1]), boot_id=boot_id()).open(None)
taken = time.perf_counter() - began
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(f"{taken:.1f} s, {int(peak.split()[1]) // 1024} MiB of memory")
"""

ADAPTER = exchanges.get("binance")
NORMALISER = version(ADAPTER)


def write_journal(storage: Path, count: int) -> int:
    """Fill a journal, as a feed would; returns the last number."""
    journal = Journal(Disk(), storage / ".journal" / "binance", "binance", boot_id=boot_id())
    opened = journal.open(time.time_ns() // 1000, Archived())
    recorder = Recorder(ADAPTER, Normaliser(ADAPTER), journal, lambda lines: None, lambda message: None)
    recorder.file_under({("trade", "BTCUSDT")})
    record_start(recorder, ADAPTER, time.time_ns(), opened, {"symbols": ["BTCUSDT"], "channels": ["trade"]}, {})
    for start in range(0, count, 1000):
        batch = [frame[4 if frame[1] == 126 else 2 :] for frame in trades(1000)]
        recorder.frames(1, time.time_ns(), batch[: count - start])
    journal.close()
    return recorder.published


def rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def archive(storage: Path, first: int, last: int) -> None:
    """Let the real process read the journal; print its rate, and its memory at tenths of the way."""
    began = time.perf_counter()
    options = ["binance", "--storage", str(storage), "--symbols", "BTCUSDT", "--log-level", "ERROR"]
    child = subprocess.Popen([sys.executable, "-m", "processes.archiver", *options], env=dict(os.environ))
    started = complete = 0
    memory: list[float] = []
    while complete < last:
        time.sleep(0.01)
        complete = read_archived(Disk(), storage / "binance").complete
        if complete and not started:
            began, started = time.perf_counter(), complete
        if complete >= first + (last - first) * (len(memory) + 1) // 10:
            memory.append(rss_mib(child.pid))
    taken = time.perf_counter() - began
    child.send_signal(signal.SIGTERM)
    child.wait()
    print(f"archiver: {(last - started) / taken:,.0f} records/s out of the journal")
    print(f"archiver: MiB of memory at each tenth: {' '.join(f'{mib:.0f}' for mib in memory)}")


def measure_start(path: Path, directory: Path, mib: int) -> None:
    """Print what the archiver's start takes with one large file that is being written."""
    writer = ArchiveWriter(Disk(), directory, boot_id=boot_id())
    writer.open(None)
    tail = next(line[line.index(b",") :] for line in path.read_bytes().splitlines(keepends=True)[-1:])
    while writer.position * len(tail) < mib * 1024**2:
        writer.take([b'{"seq":%d%b' % (writer.position + 1 + index, tail) for index in range(10_000)])
        writer.flush()
    writer.sync(lambda: None)
    writer.close()
    child = subprocess.run([sys.executable, "-c", START, str(directory)], capture_output=True, check=True)
    print(f"archiver: start with a file of {mib} MiB: {child.stdout.decode().strip()}")


def measure_sealing(path: Path) -> None:
    """On the recording's records, where it is at hand: what compresses too well flatters nobody."""
    recorded = record_lines(RECORDING)[1:] * 4 if RECORDING.exists() else []
    lines = recorded or path.read_bytes()[: 100 * 1024**2].splitlines(keepends=True)[:-1]
    data = b"".join(b'{"seq":%d%b' % (seq, line[line.index(b",") :]) for seq, line in enumerate(lines, 1))
    month = path.parents[3] / "sealing" / "binance" / "BTCUSDT" / path.parent.name
    month.mkdir(parents=True)
    for codec, level in (("bz2", 9), ("zstd", 9)):
        copy = month / path.name
        began = time.process_time()
        compress = compressor(codec, level)
        for start in range(0, len(data), 900_000):
            compress(data[start : start + 900_000])
        alone = time.process_time() - began
        for what, tabulate in (("", None), (" with tables", tables_of)):
            copy.write_bytes(data)
            (month / MANIFEST).unlink(missing_ok=True)
            began = time.process_time()
            seal(Disk(), copy, codec, level, 900_000, NORMALISER, tabulate)
            ours, mib = time.process_time() - began, len(data) / 1024**2
            share = f"the codec alone {mib / alone:.1f}: {alone / ours:.0%} of it"
            print(f"sealing {codec}{what}: {mib / ours:.1f} MiB/s, {len(lines) / ours:,.0f} records/s, {share}")


def tables_of(path: Path) -> Tables:
    """The tables of one file that is all there is."""
    derivation = Derivation(path.parents[2], ADAPTER, "BTCUSDT")
    return write(derivation, Covers(1, 1 << 62), lambda channel: path.with_name(table_name(path.stem, channel)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--open-mib", type=int, default=500, help="size of a file that a start finds, default 500")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        storage = Path(directory)
        last = write_journal(storage, args.records)
        archive(storage, last - args.records, last)
        measure_start(next(storage.glob("binance/BTCUSDT/*/*.open")), storage / "start" / "binance", args.open_mib)
        measure_sealing(next(storage.glob("binance/BTCUSDT/*/*.open")))


if __name__ == "__main__":
    main()
