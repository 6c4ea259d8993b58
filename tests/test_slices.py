"""Slices, from a server that answers as it should, and as it should not: lazy, read ahead, never short, merged."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson
import pytest

from common.client import Client
from common.errors import ArchivistError, BadRequestError, DamagedError, UnavailableError
from tests.answering import Answering
from tests.standin_client import ROOT

Answer = Sequence[dict[str, Any] | bytes]
Serve = Callable[[Callable[[dict[str, Any]], Answer | None]], tuple[Answering, Client]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    closers: list[Callable[[], None]] = []

    def begin(answer: Callable[[dict[str, Any]], Answer | None]) -> tuple[Answering, Client]:
        server = Answering(answer)
        client = Client(server.endpoint, timeout_s=20)
        closers.extend((client.close, server.stop))
        return server, client

    yield begin
    for close in closers:
        close()


def trade(exchange: str, seq: int, ts_recv: int) -> dict[str, Any]:
    return {
        "exchange": exchange, "channel": "trade", "symbol": "A", "seq": seq, "prev": seq - 1, "ts_event": None,
        "ts_recv": ts_recv, "id": str(seq), "price": "0.10", "amount": "1.0", "side": "buy",
    }  # fmt: skip


def lines(events: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(event) + b"\n" for event in events)


def page(request: dict[str, Any], number: int, pages: int, events: Sequence[dict[str, Any]], **other: Any) -> Answer:
    """A page of as many events as records, `events` of all of them."""
    header = {
        "op": "slice", "format": request["format"], "after": number, "covered": number + 1, "to": pages,
        "events": len(events), "records": len(events), "next": None if number + 1 == pages else str(number + 1),
    }  # fmt: skip
    if header["next"] is None:
        header["total"] = {"events": pages * len(events), "records": pages * len(events)}
    return ({**header, **other}, lines(events))


def paged(pages: int, per_page: int = 2) -> Callable[[dict[str, Any]], Answer]:
    def answer(request: dict[str, Any]) -> Answer:
        number = int(request.get("next", 0))
        first = number * per_page + 1
        events = [trade("binance", seq, seq) for seq in range(first, first + per_page)]
        return page(request, number, pages, events)

    return answer


def test_slice_when_made_then_asks_nothing_and_when_iterated_reads_one_page_ahead(serve: Serve) -> None:
    server, client = serve(paged(50))
    found = client.slice("binance", "A", "trade", start=10**17, end=10**18)
    assert server.requests == []
    events = found.events()
    assert [next(events)["seq"] for _ in range(4)] == [1, 2, 3, 4]
    assert len(server.requests) <= 4
    assert [event["seq"] for event in events] == list(range(5, 101))
    assert len(server.requests) == 50
    asked = {"exchange": "binance", "symbols": ["A"], "channels": ["trade"], "start": 10**17, "end": 10**18}
    for request in server.requests:  # the same words on every page
        assert {key: request[key] for key in asked} == asked
    assert [event["seq"] for event in found] == list(range(1, 101))  # and again


def test_slice_when_left_in_the_middle_then_the_next_one_is_right(serve: Serve) -> None:
    _, client = serve(paged(9))
    for _ in range(3):
        assert next(client.slice("binance", "A", "trade").events())["seq"] == 1
    assert len(list(client.slice("binance", "A", "trade"))) == 18


def test_slice_when_its_client_was_closed_meanwhile_then_is_an_error(serve: Serve) -> None:
    _, client = serve(paged(9))
    events = client.slice("binance", "A", "trade").events()
    next(events)
    client.close()
    with pytest.raises(UnavailableError, match="client is closed") as caught:
        list(events)
    assert caught.value.code == "closed"


@pytest.mark.parametrize("key", ["events", "records"])
def test_slice_when_the_total_says_more_than_came_then_is_an_error(serve: Serve, key: str) -> None:
    total = {"events": 2, "records": 2, key: 3}
    _, client = serve(
        lambda request: page(request, 0, 1, [trade("binance", 1, 1), trade("binance", 2, 2)], total=total)
    )
    with pytest.raises(DamagedError, match="came: ask again") as caught:
        list(client.slice("binance", "A", "trade"))
    assert caught.value.code == "short"


def test_slice_when_a_page_is_cut_then_is_an_error(serve: Serve) -> None:
    _, client = serve(
        lambda request: (page(request, 0, 1, [trade("binance", 1, 1)] * 2)[0], lines([trade("binance", 1, 1)]))
    )
    with pytest.raises(DamagedError, match="1 lines instead of 2"):
        list(client.slice("binance", "A", "trade"))


def test_slice_when_a_later_page_is_corrupt_then_what_came_before_is_given_and_the_code_kept(serve: Serve) -> None:
    error = {"error": {"code": "corrupt", "message": "file.bz2 offset 7: wrong checksum: run verify"}}
    _, client = serve(lambda request: (error,) if "next" in request else paged(9)(request))
    got: list[int] = []
    with pytest.raises(DamagedError, match="offset 7: wrong checksum") as caught:
        for event in client.slice("binance", "A", "trade"):
            got.append(event["seq"])
    assert caught.value.code == "corrupt"
    assert got == [1, 2]


def of_two(request: dict[str, Any]) -> Answer:
    """Two exchanges, whose clocks step back now and then; nothing is in tables."""
    if request["op"] == "plan":
        return ({"files": [], "tails": [], "after": 0, "to": 9},)
    times = {"binance": (10, 30, 20, 50), "other": (15, 25, 40, 35)}[request["exchange"]]
    return page(request, 0, 1, [trade(request["exchange"], seq, ts) for seq, ts in enumerate(times, 1)])


def test_exchanges_when_several_then_are_merged_by_ts_recv_and_each_keeps_its_order(serve: Serve) -> None:
    _, client = serve(of_two)
    found = client.slice(["binance", "other"], "A", "trade")
    events = [(event["exchange"], event["seq"]) for event in found]
    assert [seq for exchange, seq in events if exchange == "other"] == [1, 2, 3, 4]
    assert [seq for exchange, seq in events if exchange == "binance"] == [1, 2, 3, 4]
    assert events[:4] == [("binance", 1), ("other", 1), ("other", 2), ("binance", 2)]
    pytest.importorskip("polars", reason="the extra [frames] is not installed")
    for exact in (False, True):
        frame = found.to_polars(exact=exact)
        assert list(zip(frame["exchange"], frame["seq"], strict=True)) == events
        batches = [row for table in found.batches(exact=exact) for row in table.to_pylist()]
        assert [(row["exchange"], row["seq"]) for row in batches] == events
        assert {row["price"] for row in batches} == {"0.10" if exact else 0.1}


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda client: client.slice("binance", "A", "trade", start="yesterday"), "bad_time"),
        (lambda client: client.slice("binance", [], "trade"), "bad_value"),
        (lambda client: list(client.slice(["a", "b"], "A", ["trade", "book"]).batches()), "bad_value"),
        (lambda client: client.follow("nasdaq", "A"), "unknown_exchange"),
        (lambda client: client.follow("binance", "A", "trades"), "unknown_channel"),
        (lambda client: Client("127.0.0.1:1", storage="."), "bad_value"),
        (lambda client: Client("127.0.0.1:1", key="mine"), "bad_value"),
        (lambda client: Client(storage="/nowhere"), "bad_value"),
    ],
)
def test_arguments_when_wrong_then_are_refused_with_a_code(
    serve: Serve, ask: Callable[[Client], object], code: str
) -> None:
    server, client = serve(lambda request: None)
    with pytest.raises(BadRequestError) as caught:
        ask(client)
    assert isinstance(caught.value, ArchivistError)
    assert caught.value.code == code
    assert server.requests == []


MEASURE = r"""
import re, sys
from pathlib import Path
from common.client import Client
with Client(sys.argv[1]) as client:
    asked = client.slice("binance", "A", "trade")
    size = sum(map(len, asked.blocks("raw"))) if sys.argv[2] == "raw" else sum(1 for _ in asked.events())
    print(size, int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process's own peak is read from /proc")
@pytest.mark.parametrize(("kind", "pages"), [("raw", 150), ("events", 6)])
def test_memory_when_a_slice_is_larger_than_it_then_stays_at_a_few_pages(serve: Serve, kind: str, pages: int) -> None:
    many = [trade("binance", seq, seq) for seq in range(30_000)]
    block = lines(many)  # about 4 MiB

    def answer(request: dict[str, Any]) -> Answer:
        header = page(request, int(request.get("next", 0)), pages, many)[0]
        return (header, block)

    server, _ = serve(answer)
    command = [sys.executable, "-c", MEASURE, server.endpoint, kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    size, peak_mib = map(int, done.stdout.split())
    assert size == (pages * len(block) if kind == "raw" else pages * len(many))
    assert peak_mib < 120
