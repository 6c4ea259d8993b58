"""Trade frames from a socket at full speed through the feed to a SUB socket, against the plain loop, in one run.

    python -m benchmarks.feed_speed [--count 400000] [--rounds 3] [--tls]

The plain loop: websocket-client's recv(), orjson.loads, one PUB message each; no journal, no numbers, no events.
The feed: the real process, with journal, records and events on. Printed: messages per second at the subscriber.
"""

import argparse
import os
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson
import websocket
import zmq

from benchmarks.ports import free_port


def plain_loop(url: str, endpoint: str) -> None:
    publisher = zmq.Context.instance().socket(zmq.PUB)
    publisher.set(zmq.SNDHWM, 0)
    publisher.bind(endpoint)
    ws = websocket.create_connection(url, sslopt={"cert_reqs": ssl.CERT_NONE}, skip_utf8_validation=True)
    ws.send('{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}')
    while True:
        message = orjson.loads(ws.recv())
        if "data" in message:
            publisher.send(b"binance/trade/BTCUSDT " + orjson.dumps(message["data"]))


def count_events(endpoint: str, count: int) -> float:
    """Seconds from the first to the last of `count` events."""
    subscriber = zmq.Context.instance().socket(zmq.SUB)
    subscriber.set(zmq.RCVHWM, 0)
    subscriber.set(zmq.RCVTIMEO, 60_000)
    subscriber.subscribe(b"binance/trade/")
    subscriber.connect(endpoint)
    subscriber.recv()
    began = time.perf_counter()
    for _ in range(count - 1):
        subscriber.recv()
    taken = time.perf_counter() - began
    subscriber.close(0)
    return taken


def certificate(directory: Path) -> list[str]:
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    cert, key = directory / "cert.pem", directory / "key.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    return [str(cert), str(key)]


def main_thread_s(pid: int) -> float:
    """CPU seconds of a process's main thread: what bounds it, and steadier than the wall on a busy machine."""
    fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(kind: str, count: int, tls: bool, archiver: bool = False) -> tuple[float, float]:
    """Events per second of one way through, and CPU µs of its main thread for each."""
    with tempfile.TemporaryDirectory() as directory:
        port, events = free_port(), f"tcp://127.0.0.1:{free_port()}"
        scheme = "wss" if tls else "ws"
        command = [sys.executable, "-m", "benchmarks.exchange", str(port), str(count)]
        command += ["--tls", *certificate(Path(directory))] if tls else []
        environ = {**os.environ, "TRADE_ARCHIVIST_FEED__BINANCE__EVENTS_HIGH_WATER": "10000000"}
        environ["SSL_CERT_FILE"] = f"{directory}/ca.pem"
        children = [subprocess.Popen(command, stdout=subprocess.PIPE)]
        assert children[0].stdout is not None
        children[0].stdout.readline()
        try:
            if kind == "plain":
                call = f"plain_loop('{scheme}://127.0.0.1:{port}/', '{events}')"
                code = f"from benchmarks.feed_speed import plain_loop; {call}"
                children.append(subprocess.Popen([sys.executable, "-c", code]))
            else:
                options = ["binance", "--storage", directory, "--symbols", "BTCUSDT", "--channels", "trade"]
                options += ["--publish", events.removeprefix("tcp://"), "--log-level", "ERROR"]
                if archiver:
                    children.append(
                        subprocess.Popen([sys.executable, "-m", "processes.archiver", *options], env=environ)
                    )
                options += ["--ws-url", f"{scheme}://127.0.0.1:{port}", "--rest-url", f"http://127.0.0.1:{free_port()}"]
                children.append(subprocess.Popen([sys.executable, "-m", "processes.feed", *options], env=environ))
            time.sleep(0.8)  # it has started, and the frames have not
            before = main_thread_s(children[-1].pid)
            rate = count / count_events(events, count)
            return rate, (main_thread_s(children[-1].pid) - before) / count * 1e6
        finally:
            for child in children:
                child.send_signal(signal.SIGKILL)
                child.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--archiver", action="store_true", help="an archiver beside the feed, too")
    args = parser.parse_args()
    ratios = []
    for _ in range(args.rounds):
        plain, plain_us = measure("plain", args.count, args.tls)
        ours, ours_us = measure("feed", args.count, args.tls, args.archiver)
        ratios.append((ours / plain, plain_us / ours_us))
        print(
            f"plain loop {plain:9,.0f} msg/s {plain_us:5.2f} µs CPU   feed {ours:9,.0f} msg/s {ours_us:5.2f} µs CPU   "
            f"ratio {ours / plain:.2f}, of CPU {plain_us / ours_us:.2f}",
            flush=True,
        )
    wall, cpu = (statistics.median(each) for each in zip(*ratios, strict=True))
    print(f"{'TLS' if args.tls else 'plain socket'}: median ratio {wall:.2f}, of the main thread's CPU {cpu:.2f}")


if __name__ == "__main__":
    main()
