"""A bare exchange for the benchmarks: accepts one WebSocket, answers the subscription, then sends trade frames.

    python -m benchmarks.exchange PORT COUNT [--rate N] [--tls CERT KEY]

At full speed plain frames go out in large pieces, over TLS each frame is a TLS record of its own, as exchanges send.
"""

import argparse
import base64
import hashlib
import socket
import ssl
import struct
import time

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FRAME = (
    '{"stream":"btcusdt@trade","data":{"e":"trade","E":%d,"s":"BTCUSDT","t":%d,'
    '"p":"61837.64000000","q":"0.00100000","T":%d,"m":true,"M":true}}'
)


def handshake(peer: socket.socket) -> None:
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


def send_at_rate(peer: socket.socket, count: int, rate: float) -> None:
    """Each frame carries the time at which it was sent, in µs, as its trade time."""
    began = time.perf_counter()
    for i in range(count):
        while (early := began + i / rate - time.perf_counter()) > 0:
            if early > 0.0005:
                time.sleep(early - 0.0003)
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
    peer, _ = listener.accept()
    if args.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*args.tls)
        peer = context.wrap_socket(peer, server_side=True)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    handshake(peer)
    peer.recv(4096)  # the subscription
    peer.sendall(frame(b'{"result":null,"id":1}'))
    time.sleep(1.0)  # subscribers of the events are there by now
    if args.rate:
        send_at_rate(peer, args.count, args.rate)
    elif args.tls:
        for one in frames:
            peer.send(one)
    else:
        data = b"".join(frames)
        for start in range(0, len(data), 1 << 20):
            peer.sendall(data[start : start + (1 << 20)])
    time.sleep(60)


if __name__ == "__main__":
    main()
