"""Genuine recordings, imported: each payload and its time, the events of a live capture, the book of a naive reader."""

import gzip
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from common import deep, exchanges
from common.adapter import Adapter
from common.client import Client
from common.disk import Disk
from common.events import Action
from common.foreign_recording import BINARY, CONNECT, REST, SENT, Line, read_lines
from common.import_cryptofeed import exchange_of
from common.imports import Order, run
from common.journal import Journal
from common.normaliser import Normaliser
from common.recorder import Recorder
from common.storage import Archived
from common.verify import verify
from tests.foreign import records, zipped

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings"
FILES = {
    "binance": ("hftbacktest", "binance/spot-btcusdt-20240808.gz"),
    "binance-usdm": ("hftbacktest", "binance/usdm-btcusdt-20240808.gz"),
    "bitstamp": ("cryptofeed", "bitstamp/ws-1.txt.gz", "bitstamp/instruments.txt.gz", "bitstamp/rest.txt.gz"),
    "bybit-linear": ("cryptofeed", "bybit/all.jsonl.gz"),
    "coinbase": ("cryptofeed", "coinbase/ws-28.txt.gz", "coinbase/instruments.txt.gz"),
    "coinbase-advanced": ("cryptofeed", "coinbase-advanced/all.jsonl.gz"),
    "htx": ("cryptofeed", "htx/ws-44.txt.gz", "htx/instruments.txt.gz"),
    "okx": ("cryptofeed", "okx/ws-1.txt.gz", "okx/instruments.txt.gz"),
}
LINES_MAX = 5_000
BOOK = Action("snapshot", "book", "BTCUSDT")  # whose book a recording of hftbacktest holds, and no word of the request

pytestmark = pytest.mark.skipif(not RECORDINGS.exists(), reason=f"no recordings at {RECORDINGS}")


def cut(name: str, folder: Path) -> Path:
    with gzip.open(RECORDINGS / name) as file:
        return zipped(folder / Path(name).name, (line.rstrip(b"\n") for line in islice(file, LINES_MAX)))


def told(paths: list[Path], adapter: Adapter) -> list[Line]:
    """What the recordings hold of one exchange, by time: read without any code of the import."""
    found = []
    for path in paths:
        for line in read_lines(path):
            if not line.address or exchange_of(line.address) == adapter.NAME:
                url = adapter.request(BOOK, 1000).path if line.url == f"/{path.name}" else line.url
                found.append(line._replace(url=url, payload=text(adapter, line)))
    return sorted(found, key=lambda line: line.ts)


def text(adapter: Adapter, line: Line) -> bytes:
    if line.kind == BINARY and adapter.inflate is not None:
        return adapter.inflate(line.payload, 2**24)
    return line.payload


class Imported:
    def __init__(self, exchange: str, storage: Path) -> None:
        self.adapter = cast(Adapter, exchanges.get(exchange))
        self.directory = storage / "storage" / exchange
        form, *names = FILES[exchange]
        self.paths = [cut(name, storage) for name in names]
        run(Order(form, self.paths, self.directory.parent, exchange))
        self.lines = told(self.paths, self.adapter)
        self.records = records(self.directory)


@pytest.fixture(scope="module", params=FILES)
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    return Imported(request.param, tmp_path_factory.mktemp(request.param))


def test_a_recording_when_imported_then_the_log_holds_each_payload_and_time_and_is_whole(imported: Imported) -> None:
    names = {SENT: "out", REST: "rest"}
    kept = [(each.ts_recv, each.kind, each.payload) for each in imported.records if each.kind in ("in", "out", "rest")]
    lines = [line for line in imported.lines if line.kind != CONNECT]
    wanted = [(line.ts, names.get(line.kind, "in"), line.payload) for line in lines]
    assert sorted(kept) == sorted(wanted)
    if imported.adapter.NAME != "bitstamp":  # whose books were asked for before the first delta: they follow it
        assert kept == wanted
    assert list(deep.prove(imported.directory, imported.adapter)) == []
    report = verify(imported.directory, 2)
    assert (report.findings, report.stale, report.without_tables) == ([], 0, 0)
    assert report.tables == sum(1 for path in imported.directory.glob("*/????-??/*[0-9].bz2")) // 2


def captured(imported: Imported, folder: Path) -> list[dict[str, Any]]:
    """The events that a feed gives live of the same frames, at the same times: its own middle, with a real journal."""
    adapter, events = imported.adapter, list[dict[str, Any]]()
    journal = Journal(Disk(), folder, adapter.NAME, boot_id="b", segment_bytes=2**26, max_bytes=2**30, report=print)
    journal.open(1, Archived())
    recorder = Recorder(
        adapter, Normaliser(adapter), journal, lambda _lines: None, lambda message: events.append(body(message))
    )
    about = orjson.loads(imported.records[0].payload or b"")["subscriptions"]
    recorder.file_under({(channel, symbol) for channel in adapter.CHANNELS for symbol in about["symbols"]})
    recorder.record(1, "start", head={"last": 0}, payload=orjson.dumps({"subscriptions": about}))
    conns: dict[str, int] = {}
    for line in in_the_logs_order(imported):
        if line.kind == CONNECT:
            conns[line.conn] = len(conns) + 1
        elif line.kind == REST:
            book = next((each for each in imported.records if (each.ts_recv, each.kind) == (line.ts, "rest")), None)
            assert book is not None
            place = {"channel": book.channel, "symbol": book.symbol}
            head = {
                "url": line.url,
                "status": 200,
                **{key: book.head[key] for key in ("subscribed",) if key in book.head},
            }
            recorder.record(line.ts, "rest", head=head, payload=line.payload, **place)
        elif line.kind != SENT:
            sort = b',"op":"binary","encoding":"%b"' % adapter.ENCODING.encode() if line.kind == BINARY else b""
            recorder.runs(conns.setdefault(line.conn, 1), [(line.ts, [line.payload])], sort)
    return events


def in_the_logs_order(imported: Imported) -> list[Line]:
    places = {(each.ts_recv, each.payload): each.seq for each in imported.records}
    return sorted(imported.lines, key=lambda line: (places.get((line.ts, line.payload), 0), line.ts))


def body(message: bytes) -> dict[str, Any]:
    """An event without the numbers that another log gives it."""
    event = orjson.loads(message.partition(b" ")[2])
    return {key: value for key, value in event.items() if key not in ("seq", "prev", "gap")}


def derived(imported: Imported) -> Iterator[dict[str, Any]]:
    normaliser = Normaliser(imported.adapter)
    for record in imported.records:
        if record.kind not in ("close", "checkpoint"):
            yield from map(body, normaliser.messages(record))


def test_a_recording_when_imported_then_its_events_are_those_of_a_live_capture(
    imported: Imported, tmp_path: Path
) -> None:
    events = list(derived(imported))
    assert events == captured(imported, tmp_path)
    assert len(events) > 50
    if imported.adapter.NAME == "bitstamp":
        assert [event["symbol"] for event in events if event["channel"] == "book"].count("sgbeur") == 1, "a quiet book"


def test_binances_book_when_imported_then_it_is_a_naive_readers(tmp_path: Path) -> None:
    imported = Imported("binance", tmp_path)
    found = [orjson.loads(line.payload) for line in imported.lines]
    snapshot = next(each for each in found if "lastUpdateId" in each)
    sides = {side: {Decimal(price): amount for price, amount in snapshot[side]} for side in ("bids", "asks")}
    deltas = [each["data"] for each in found if "@depth" in each.get("stream", "")]
    for delta in deltas:
        for side, key in (("bids", "b"), ("asks", "a")):
            if delta["u"] > snapshot["lastUpdateId"]:
                sides[side] |= {Decimal(price): amount for price, amount in delta[key]}
    with Client(storage=imported.directory.parent) as client:
        book = client.book("binance", "BTCUSDT")
    for side, levels in sides.items():
        kept = {price: amount for price, amount in levels.items() if Decimal(amount)}
        assert {Decimal(price): amount for price, amount in book[side]} == kept
    assert len(book["bids"]) > 500
