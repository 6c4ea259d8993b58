"""ZeroMQ sockets that close with their owner, also where nobody closes the owner.

pyzmq terminates a context when it is collected. That waits for ever while a socket is open, and in a cycle nobody says
which of them goes first. So the owner's end closes the sockets, then the context: a finaliser holds both until then.
"""

import os
import weakref

import zmq

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]


class Sockets:
    """A context and its sockets. They close when `owner` is collected, or by `close`; messages not sent yet are lost.

    A socket must not refer to the owner. At the end of the process nothing is closed: a thread may be using it.
    """

    def __init__(self, owner: object) -> None:
        self._context: Context = zmq.Context()
        self._opened: set[Socket] = set()
        self.close = weakref.finalize(owner, _close, self._context, self._opened, os.getpid())
        self.close.atexit = False

    def __contains__(self, socket: Socket) -> bool:
        return socket in self._opened

    def open(self, kind: int) -> Socket:
        socket = self._context.socket(kind)
        socket.linger = 0
        self._opened.add(socket)
        return socket

    def open_monitor(self, socket: Socket, events: int) -> Socket:
        """A socket that tells of another one's connections."""
        monitor: Socket = socket.get_monitor_socket(events)
        self._opened.add(monitor)
        return monitor

    def end(self, *sockets: Socket) -> None:
        """Close some of them."""
        for socket in sockets:
            socket.close(0)
            self._opened.discard(socket)


def _close(context: Context, opened: set[Socket], pid: int) -> None:
    if os.getpid() != pid:
        return  # a forked process must not touch its parent's sockets
    for socket in opened:
        socket.close(0)
    opened.clear()
    context.term()
