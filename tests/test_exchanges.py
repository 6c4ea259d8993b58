"""Every exchange that can be recorded, end to end: stand-in, feed, archiver, proof, slice, with one book frame lost."""

import base64
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from common import exchanges
from common.book import BookRule
from common.client import Client
from common.events import GAP, Snapshot, Update
from common.foreign_recording import BINARY, read_frames
from common.record import Record
from tests.archives import FIRST, FIRST_TS, Archive
from tests.made_recordings import SAID, is_made, made
from tests.pipeline import (
    Live,
    Pipeline,
    archived,
    assert_dense,
    assert_live_equals_archive,
    events_of,
    free_port,
    payloads,
    until,
)
from tests.standin_client import ROOT, Standin, cut_recording, standin

RECORDINGS = ROOT.parent / "shared" / "recordings"
FILES = {
    "binance-usdm": ("binance/usdm-btcusdt-20240808.gz",),
    "bitstamp": ("bitstamp/ws-1.txt.gz", "bitstamp/instruments.txt.gz", "bitstamp/rest.txt.gz"),
    "bybit-linear": ("bybit/all.jsonl.gz",),
    "coinbase": ("coinbase/ws-28.txt.gz", "coinbase/instruments.txt.gz"),
    "coinbase-advanced": ("coinbase-advanced/all.jsonl.gz",),
    "htx": ("htx/ws-44.txt.gz", "htx/instruments.txt.gz"),
    "okx": ("okx/ws-1.txt.gz", "okx/instruments.txt.gz"),
}
LINES_MAX = 8_000
DEADLINE_S = 20
BOUND = 2**26
NUMBERS = {"exchange", "symbol", "seq", "prev", "part", "of", "ts_recv"}
NUMBER = re.compile(rb'"sequence_num":\d+')  # counted anew on each connection


class Frame(NamedTuple):
    """A recorded frame that a stand-in sends: what it says is of `channel` and `symbol`, the first of several."""

    stream: str
    payload: bytes
    channel: str
    symbol: str
    type: str


class Source(NamedTuple):
    """Recordings of an exchange, and what they hold."""

    exchange: str
    paths: list[Path]
    frames: list[Frame]
    symbols: list[str]

    @property
    def rule(self) -> BookRule:
        rule: BookRule = exchanges.get(self.exchange).BOOK
        return rule

    def tells_a_lost_delta(self) -> bool:
        """Whether the exchange's rule shows that a delta is missing, and deltas were recorded."""
        counted = exchanges.get(self.exchange).count is not None
        has_deltas = any(frame.channel == "book" and frame.type == "delta" for frame in self.frames)
        return has_deltas and (self.rule.link != "none" or self.rule.check is not None or counted)

    def streams(self) -> set[str]:
        """What the feed will ask for, and the recordings bring."""
        adapter = exchanges.get(self.exchange)
        asked = {
            name
            for symbol in self.symbols
            for name in adapter.streams(symbol, list(adapter.CHANNELS), [adapter.CANDLE_DEFAULT])
        }
        return asked & {frame.stream for frame in self.frames}

    def delta_amid(self) -> tuple[str, int]:
        """The symbol of most deltas, and how many frames go before the one in their middle."""
        deltas = [place for place, frame in enumerate(self.frames) if frame.channel == "book" and frame.type == "delta"]
        symbol = Counter(self.frames[place].symbol for place in deltas).most_common(1)[0][0]
        own = [place for place in deltas if self.frames[place].symbol == symbol]
        return symbol, own[len(own) // 2]


def source_of(exchange: str, directory: Path) -> Source:
    if is_made(exchange):
        return source_in(exchange, [made(exchange, directory / "made.gz")])
    if exchange not in FILES:
        pytest.skip(f"no recording of {exchange} is at hand")
    paths = []
    for name in FILES[exchange]:
        if not (RECORDINGS / name).exists():
            pytest.skip(f"no recording {RECORDINGS / name}")
        paths.append(cut_recording(RECORDINGS / name, directory / Path(name).name, LINES_MAX))
    return source_in(exchange, paths)


def source_in(exchange: str, paths: list[Path]) -> Source:
    adapter, dialect, frames = exchanges.get(exchange), exchanges.dialect(exchange), []
    for path in paths:
        for _, kind, payload in read_frames(path):
            text = adapter.inflate(payload, BOUND) if kind == BINARY and adapter.inflate else payload
            if (stream := dialect.stream_of(text)) is not None:
                frames.append(Frame(stream, text, *_said(adapter.parse(adapter.loads(text)))))
    symbols = sorted({frame.symbol for frame in frames if adapter.symbol_error(frame.symbol) is None} - {""})
    return Source(exchange, paths, frames, symbols)


def _said(parsed: Any) -> tuple[str, str, str]:
    first = parsed[0] if isinstance(parsed, list) else parsed
    if isinstance(first, Snapshot):
        return "book", first.symbol, "snapshot"
    return (first.channel, first.symbol, first.fields.get("type", "")) if isinstance(first, Update) else ("", "", "")


Begin = Callable[..., tuple[Pipeline, Live]]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts the stand-in of an exchange, and a pipeline on it with a subscriber."""
    ends: list[Callable[[], None]] = []

    def start(source: Source, *faults: str) -> tuple[Pipeline, Live]:
        exchange = Standin(
            *("--recording", *source.paths, "--speed", "max", "--start-after", len(source.streams())),
            *("--sent", tmp_path / "sent.jsonl", *(option for fault in faults for option in ("--fault", fault))),
            exchange=source.exchange,
        )
        ends.append(exchange.stop)
        pipeline = Pipeline(tmp_path, exchange, ",".join(source.symbols), source.exchange)
        ends.append(pipeline.end)
        live = Live(pipeline.endpoint)
        ends.append(live.close)
        pipeline.start()
        return pipeline, live

    yield start
    for end in reversed(ends):
        end()


@pytest.mark.parametrize("exchange", [name for name in exchanges.names() if name != "binance"])
def test_exchange_when_recorded_then_keeps_every_byte_and_tells_the_frame_that_was_lost(
    tmp_path: Path, begin: Begin, exchange: str
) -> None:
    (folder := tmp_path / "source").mkdir()
    source = source_of(exchange, folder)
    lost, after = source.delta_amid() if source.tells_a_lost_delta() else ("", 0)
    awaits = lost and source.rule.snapshot == "rest"  # else a short recording is over before the book is known
    faults = [f"do=drop&symbol={lost}&after={after}"] if lost else []
    pipeline, live = begin(source, *faults, *([f"do=pause&after={after // 2}"] if awaits else []))
    if awaits:
        until(lambda: books(live, lost), f"the book of {lost} is known", DEADLINE_S)
        pipeline.standin.fault(do="resume")
    until(lambda: pipeline.standin.status()["ended"], "the end of the recording", DEADLINE_S)
    if lost:
        until(lambda: book_gaps(live, lost)[1:], f"the gap in {lost} is told and ends", DEADLINE_S)
    sent = sum(each["frames"] for each in pipeline.standin.status()["connections"])
    until(lambda: sum(map(len, payloads(archived(pipeline.exchange_dir)).values())) >= sent, "all is archived")
    told = book_gaps(live, lost)
    pipeline.stop()
    assert [gap["state"] for gap in told] == (["open", "closed"] if lost else []), told
    records = archived(pipeline.exchange_dir)
    assert_dense(records, pipeline.exchange_dir)
    assert_live_equals_archive(live, records, pipeline.exchange_dir, source.symbols)
    pipeline.verify()
    pipeline.standin.status()  # flushes what it has written of what it sent
    assert_bytes_are_kept(source, records, tmp_path / "sent.jsonl", source.frames[after] if lost else None)
    assert_slice_equals_live(pipeline, live, source)


def book_gaps(live: Live, symbol: str) -> list[dict[str, Any]]:
    told = events_of(message for message in list(live.messages) if b"/gap/" in message[:40])
    return [gap for gap in told if gap["symbol"] == symbol and "book" in gap["channels"]]


def books(live: Live, symbol: str) -> bool:
    topic = f"/book/{symbol} ".encode()
    return any(topic in message[:60] for message in list(live.messages))


def assert_slice_equals_live(pipeline: Pipeline, live: Live, source: Source) -> None:
    pipeline.start("history")
    with Client(pipeline.server) as client:
        sliced = list(client.slice(source.exchange, source.symbols, snapshot=False))
    pipeline.stop()
    assert sliced == [event for event in events_of(live.messages) if event["symbol"] in source.symbols]
    offered = set(exchanges.get(source.exchange).CHANNELS)
    assert {event["channel"] for event in sliced} - {GAP} >= {frame.channel for frame in source.frames} & offered
    told = [{name: value for name, value in event.items() if name not in NUMBERS} for event in sliced]
    for said in SAID.get(source.exchange, ()):
        alike = [event for event in told if event["channel"] == said["channel"]]
        assert said in alike, f"{said} is not one of {alike[:3]}"


def assert_bytes_are_kept(source: Source, records: list[Record], path: Path, lost_frame: Frame | None) -> None:
    """All that was sent is there, connection by connection, and it is what was recorded: inflated, if it was packed."""
    adapter = exchanges.get(source.exchange)
    stream_of = exchanges.dialect(source.exchange).stream_of
    whole: dict[int, list[bytes]] = {}
    for line in path.read_bytes().splitlines():
        sent = orjson.loads(line)
        packed = base64.b64decode(sent["payload_b64"]) if "payload_b64" in sent else None
        text = sent["payload"].encode() if packed is None else adapter.inflate(packed, BOUND)
        whole.setdefault(sent["conn"], []).append(text)
    kept = payloads(records)
    for each in kept.values():  # connections that begin at once are numbered otherwise here and there
        assert any(sent[: len(each)] == each for sent in whole.values())
    frames = [record for record in records if record.kind == "in" and record.head.get("op", "binary") == "binary"]
    assert {record.head.get("encoding", "") for record in frames} == {adapter.ENCODING}
    found: dict[str, list[bytes]] = {}
    for record in frames:
        payload = record.payload or b""
        if (stream := stream_of(payload)) is not None:
            found.setdefault(stream, []).append(NUMBER.sub(b"", payload))
    assert found.keys() == source.streams()
    books = {frame.stream for frame in source.frames if frame.channel == "book"}
    for stream, each in found.items():
        expected = [NUMBER.sub(b"", frame.payload) for frame in source.frames if frame.stream == stream]
        if lost_frame is not None and source.rule.snapshot == "stream" and stream in books:
            assert set(each) == set(expected), stream  # subscribed anew: the way to where the book is, once more
            continue
        if lost_frame is not None and stream == lost_frame.stream:
            expected.remove(lost_frame.payload)
        assert each == expected, stream


def test_archive_when_started_on_two_exchanges_then_records_both_side_by_side(tmp_path: Path) -> None:
    """Symbols by their unified names, all else by default; each stream with the spelling of its exchange."""
    storage, environ = tmp_path / "storage", dict(os.environ)
    with contextlib.ExitStack() as stack:
        for name in ("okx", "htx"):
            (folder := tmp_path / name).mkdir()
            paths = source_of(name, folder).paths
            server = stack.enter_context(standin("--recording", *paths, "--loop", "--speed", "5", exchange=name))
            urls = {"WS_URL": f"ws://127.0.0.1:{server.port}", "REST_URL": f"http://127.0.0.1:{server.port}"}
            for key, value in {**urls, "EVENTS": f"tcp://127.0.0.1:{free_port()}"}.items():
                environ[f"TRADE_ARCHIVIST_FEED__{name.upper()}__{key}"] = value
        options = ["--symbols", "BTC-USDT,OMG-BTC", "--storage", storage, "--listen", f"127.0.0.1:{free_port()}"]
        command = [sys.executable, "-m", "processes.archive", "okx", "htx", *map(str, options)]
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(process.kill)
        for path in ("okx/BTC-USDT", "htx/omgbtc"):
            until(lambda: list((storage / path).glob("*/*.open")), f"{path} is archived", DEADLINE_S)  # noqa: B023
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    verified = subprocess.run([sys.executable, "-m", "common.cli", "verify", storage], cwd=ROOT, capture_output=True)
    assert verified.returncode == 0, verified.stdout
    assert {path.name for path in storage.iterdir() if path.name[0] != "."} == {"okx", "htx"}


def test_inflated_frame_when_archived_then_lies_with_its_symbol(tmp_path: Path) -> None:
    """Their heads tell of the compression before channel and symbol."""
    head = b'{"seq":%d,"ts_recv":%d,"conn":1,"kind":"in","op":"binary","encoding":"gzip","channel":"trade",'
    line = head % (FIRST + 1, FIRST_TS) + b'"symbol":"btcusdt","data":{"ch":1}}\n'
    archive = Archive(tmp_path)
    archive.begin()
    archive.take([line])
    assert [path.read_bytes() for path in archive.directory.glob("btcusdt/*/*.open")] == [line]
