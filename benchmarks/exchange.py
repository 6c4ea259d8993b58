"""A bare exchange for the benchmarks: accepts one WebSocket, answers the subscription, then sends trade frames.

    python -m benchmarks.exchange PORT COUNT [--rate N] [--tls CERT KEY]

At full speed everything goes out in large pieces, made before; over TLS each frame is a TLS record of its own, as
exchanges send.
"""

import argparse
import base64
import hashlib
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FRAME = (
    '{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"s":"BTCUSDT","t":%d,'
    '"p":"61837.64000000","q":"0.00100000","T":%d,"m":true,"M":true}}'
)


class Tls:
    """A TLS server that can encrypt ahead: frames that are `encrypted` are each a TLS record of its own."""

    def __init__(self, peer: socket.socket, cert: str, key: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self._peer, self._in, self._out = peer, ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._until_done(self._tls.do_handshake)

    def _until_done(self, act: Callable[[], Any]) -> Any:
        while True:
            try:
                result = act()
            except ssl.SSLWantReadError:
                self._peer.sendall(self._out.read())
                self._in.write(self._peer.recv(65536))
                continue
            self._peer.sendall(self._out.read())
            return result

    def recv(self, size: int) -> bytes:
        received: bytes = self._until_done(lambda: self._tls.read(size))
        return received

    def sendall(self, data: bytes) -> None:
        self._tls.write(data)
        self._peer.sendall(self._out.read())

    def encrypted(self, frames: list[bytes]) -> bytes:
        for one in frames:
            self._tls.write(one)
        return self._out.read()


def handshake(peer: "socket.socket | Tls") -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += peer.recv(4096)
    key = next(line.split(b": ")[1] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
    peer.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def frame(payload: bytes) -> bytes:
    head = (
        struct.pack("!BB", 0x81, len(payload)) if len(payload) < 126 else struct.pack("!BBH", 0x81, 126, len(payload))
    )
    return head + payload


def trades(count: int) -> list[bytes]:
    """Frames with contiguous ids."""
    return [
        frame((FRAME % (1723161255343 + i // 100, 3735683259 + i, 1723161255342 + i // 100)).encode())
        for i in range(count)
    ]


def send_at_rate(peer: socket.socket | Tls, count: int, rate: float) -> None:
    """Each frame carries the time at which it was sent, in µs, as its trade time."""
    began = time.perf_counter()
    for i in range(count):
        if (early := began + i / rate - time.perf_counter()) > 0:
            time.sleep(early)  # and no spinning: the core is the others'
        now = time.time_ns() // 1000
        peer.sendall(frame((FRAME % (now, 3735683259 + i, now)).encode()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--rate", type=float, default=0)
    parser.add_argument("--tls", nargs=2)
    args = parser.parse_args()
    frames = trades(args.count) if not args.rate else []
    listener = socket.create_server(("127.0.0.1", args.port))
    print("ready", flush=True)
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer = Tls(connection, *args.tls) if args.tls else connection
    handshake(peer)
    peer.recv(4096)  # the subscription
    peer.sendall(frame(b'{"result":null,"id":1}'))
    data = peer.encrypted(frames) if isinstance(peer, Tls) else b"".join(frames)
    time.sleep(1.0)  # subscribers of the events are there by now
    if args.rate:
        send_at_rate(peer, args.count, args.rate)
    for start in range(0, len(data), 1 << 20):
        connection.sendall(data[start : start + (1 << 20)])
    time.sleep(60)


if __name__ == "__main__":
    main()
