"""TLS that is read in bulk: one system call brings what many records hold, instead of two calls for each record.

An `SSLSocket` reads a record's head and body from the system one by one. Here the socket is read in large pieces into
a memory buffer, and OpenSSL decrypts from there. websocket-client uses it through `BulkContext.wrap_socket`.
"""

import contextlib
import socket
import ssl
from typing import Any

RAW_BYTES = 256 * 1024
RECORD_BYTES = 16 * 1024  # the most that one TLS record holds


class TlsStream:
    """A client's TLS on a connected socket: as much of a socket as websocket-client needs, and `recv_all`."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._exchange()
        self._flush()

    def recv(self, size: int) -> bytes:
        """Up to `size` decrypted bytes, b"" at the end; as a socket's recv, blocking or not."""
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._exchange()
            except ssl.SSLZeroReturnError:
                return b""

    def recv_all(self) -> bytes:
        """Everything that one read of the socket brings, decrypted; b"" at the end.

        Raises BlockingIOError where there is nothing whole yet. Nothing decrypted is left behind, nor what came
        together with the answer to the handshake.
        """
        at_end = False
        with contextlib.suppress(BlockingIOError):
            at_end = not self._receive()
        read, parts = self._tls.read, []
        try:
            while True:
                parts.append(read(RECORD_BYTES))
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            if not parts:
                return b""
        if self._outgoing.pending:
            self._flush()
        if not parts and not at_end:
            raise BlockingIOError
        return b"".join(parts)

    def send(self, data: bytes) -> int:
        self._tls.write(data)
        self._flush()
        return len(data)

    def _exchange(self) -> None:
        """Send what TLS wants to say, and wait for the peer's part."""
        self._flush()
        if not self._receive():
            raise ssl.SSLEOFError("the peer ended the connection within TLS")

    def _receive(self) -> bool:
        data = self._sock.recv(RAW_BYTES)
        self._incoming.write(data)
        return bool(data)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._sock.sendall(self._outgoing.read())

    def fileno(self) -> int:
        return self._sock.fileno()

    def gettimeout(self) -> float | None:
        return self._sock.gettimeout()

    def settimeout(self, timeout: float | None) -> None:
        self._sock.settimeout(timeout)

    def close(self) -> None:
        self._sock.close()

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)


class BulkContext:
    """Takes an SSLContext's place where a socket is wrapped, checks and certificates being that context's."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_socket(self, sock: socket.socket, *, server_hostname: str, **_: Any) -> TlsStream:
        return TlsStream(sock, self._context, server_hostname)
