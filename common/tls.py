"""TLS that is read in bulk: one system call brings what many records hold, instead of two calls for each record.

An `SSLSocket` reads a record's head and body from the system one by one. Here the socket is read in large pieces into
a memory buffer, and OpenSSL decrypts from there. websocket-client uses it through `BulkContext.wrap_socket`.
"""

import contextlib
import socket
import ssl
from typing import Any

from .deadline import Deadline

RAW_BYTES = 256 * 1024
RECORD_BYTES = 16 * 1024  # the most that one TLS record holds


class TlsStream:
    """A client's TLS on a connected socket: as much of a socket as websocket-client needs, and `recv_all`."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str) -> None:
        self.is_over = False  # nothing more is read: what ended it comes with the next `recv_all`
        self._failure: OSError | None = None
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

        Raises BlockingIOError where there is nothing whole yet, OSError where the connection or its TLS broke. Nothing
        decrypted is left behind: an error comes after it, with the next call, and `is_over` tells of it.
        """
        if not self.is_over and (parts := self._read_all()):
            return b"".join(parts)
        if self._failure is not None:
            raise self._failure
        if not self.is_over:
            raise BlockingIOError
        return b""

    def _read_all(self) -> list[bytes]:
        read, parts = self._tls.read, list[bytes]()
        try:
            with contextlib.suppress(BlockingIOError):
                self.is_over = not self._receive()
        except OSError as error:
            self._fail(error)
        try:
            while part := read(RECORD_BYTES):
                parts.append(part)
            self.is_over = True  # the peer said goodbye: from then on a read gives b"", again and again
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_over = True
        except OSError as error:
            self._fail(error)
        try:
            self._flush()
        except OSError as error:
            self._fail(error)
        return parts

    def _fail(self, error: OSError) -> None:
        self._failure, self.is_over = self._failure or error, True

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

    def __init__(self, context: ssl.SSLContext, deadline: Deadline) -> None:
        self._context, self._deadline = context, deadline

    def wrap_socket(self, sock: socket.socket, *, server_hostname: str, **_: Any) -> TlsStream:
        self._deadline.watch(lambda: sock.shutdown(socket.SHUT_RDWR))
        return TlsStream(sock, self._context, server_hostname)
