"""Clients that nobody closes: a notebook's cell that makes one is run a thousand times, and the program ends."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.archives import written
from tests.pipeline import free_port
from tests.standin_client import ROOT
from tests.test_history import Server

HEAD = """
import asyncio, atexit, gc, os, sys, threading, time
from itertools import islice
from pathlib import Path
from common import AsyncClient, Client

server, storage, feed, count = *sys.argv[1:4], int(sys.argv[4])

def asked(client):
    return client.slice("binance", ["BTCUSDT", "ETHUSDT"], "trade")

def followed(client):
    return client.follow("binance", "BTCUSDT", "trade", after=1)
"""

USES = {
    "a slice": """
def use():
    assert sum(1 for _ in islice(asked(Client(server)), 100)) == 100
""",
    "a slice in a cycle": """
def use():
    client = Client(server)
    events = iter(asked(client))
    client.itself, client.events = client, events
    assert next(events)
""",
    "an error that holds its frames": """
def use():
    client = Client(server)
    try:
        events = iter(asked(client))
        next(events)
        raise ValueError
    except ValueError as error:
        kept = error
""",
    "a frame": """
def use():
    assert len(next(asked(Client(server)).batches()))
""",
    "a follower": """
def use():
    assert sum(1 for _ in islice(followed(Client(server, events=feed)), 100)) == 100
""",
    "a follower in a cycle": """
def use():
    following = followed(Client(server, events=feed))
    following.itself = following
    assert following.poll(10)
""",
    "live": """
def use():
    Client(server, events=feed).live("binance", "BTCUSDT", "trade").poll(0)
""",
    "no server": """
def use():
    Client(feed, timeout_s=0.01).slice("binance", "BTCUSDT", "trade")
    try:
        Client(feed, timeout_s=0.01).symbols("binance")
    except Exception as error:
        assert "no history server" in str(error)
    else:
        raise AssertionError
""",
    "a directory": """
def use():
    assert sum(1 for _ in islice(asked(Client(storage=storage)), 100)) == 100
""",
    "asyncio": """
async def some(events, count):
    async for _ in events:
        count -= 1
        if not count:
            return

async def main():
    await some(asked(AsyncClient(server)).events(), 10)
    await AsyncClient(server).symbols("binance")

def use():
    asyncio.run(main())
""",
    "asyncio in one loop": """
loop = asyncio.new_event_loop()

async def main():
    async for _ in asked(AsyncClient(server)):
        break
    async for _ in followed(AsyncClient(server, events=feed)):
        break

def use():
    loop.run_until_complete(main())
    for _ in range(5):
        loop.run_until_complete(asyncio.sleep(0))  # what was left is closed in the loop's next turns

atexit.register(loop.close)
""",
}

MANY = """
def taken():
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return resident, len(os.listdir("/proc/self/fd")), threading.active_count()

for _ in range(count // 3):
    use()
before = taken()
for _ in range(count - count // 3):
    use()
    gc.collect(0)
for _ in range(500):  # threads that close a dropped coroutine come to it by and by
    kb, files, threads = (now - then for now, then in zip(taken(), before))
    if kb < 4000 and files <= 8 and threads <= 4:
        break
    time.sleep(0.02)
assert kb < 4000 and files <= 8 and threads <= 4, (kb, files, threads)
"""

EXITS = {
    "with an open client": """
client = Client(server)
assert client.symbols("binance")
""",
    "in the middle of a slice": """
events = iter(asked(Client(server)))
next(events)
""",
    "in the middle of a frame": """
batches = asked(Client(server)).batches()
next(batches)
""",
    "in the middle of a follower": """
following = followed(Client(server, events=feed))
next(following)
""",
    "while a thread follows": """
following = followed(Client(server, events=feed))
begun = threading.Event()
def follow():
    for event in following:
        begun.set()
threading.Thread(target=follow, daemon=True).start()
begun.wait(20)
""",
    "while a coroutine follows": """
async def main():
    events = followed(AsyncClient(server, events=feed))
    await anext(events)
    kept.append(asyncio.ensure_future(anext(events)))
    await asyncio.sleep(0)
kept = []
asyncio.run(main())
""",
    "by an error": """
def main():
    client = Client(server, events=feed)
    following = followed(client)
    next(following)
    sys.exit(sum(1 for _ in islice(asked(client), 10)) - 10)
main()
""",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    begun = Server(written(tmp_path_factory.mktemp("left") / "storage", "zstd").storage)
    yield begun
    begun.stop()


def run(server: Server, program: str, *options: str) -> None:
    """Run it with a history server, its directory, and a feed's endpoint where none is."""
    feed = f"tcp://127.0.0.1:{free_port()}"
    arguments = [f"tcp://127.0.0.1:{server.port}", str(server.storage), feed, os.environ.get("CLIENTS", "45")]
    command = [sys.executable, *options, "-c", HEAD + program, *arguments]
    ended = subprocess.run(command, cwd=ROOT, timeout=600, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("use", USES)
def test_clients_when_many_are_left_open_then_nothing_hangs_or_grows(server: Server, use: str) -> None:
    """Where the collector closed them, ZeroMQ's context waited for its own sockets, for ever. `CLIENTS`: how many."""
    run(server, USES[use] + MANY, "-W", "error")


@pytest.mark.parametrize("way", EXITS)
def test_exit_when_a_client_is_open_then_the_program_ends(server: Server, way: str) -> None:
    run(server, EXITS[way])
