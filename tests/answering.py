"""A server that answers as a test wants: a ROUTER socket in a thread."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import zmq

from tests.pipeline import free_port

Answer = Callable[[dict[str, Any]], Sequence[dict[str, Any] | bytes] | None]
"""From a request to header and payload; None: no answer."""


class Answering:
    """Answers each request with `answer`. It can be stopped and started again on its port."""

    def __init__(self, answer: Answer, secret_key: bytes | None = None) -> None:
        self.answer, self._secret_key = answer, secret_key
        self.requests: list[dict[str, Any]] = []
        self.port = free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self._thread: threading.Thread | None = None
        self.start()

    def start(self) -> None:
        self._stop = threading.Event()
        bound = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(bound,))
        self._thread.start()
        assert bound.wait(10)

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, bound: threading.Event) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.linger = 1000
            if self._secret_key is not None:
                socket.curve_server, socket.curve_secretkey = True, self._secret_key
            while True:
                try:
                    socket.bind(self.endpoint)
                    break
                except zmq.ZMQError:  # the port of who was there before is not free yet
                    time.sleep(0.01)
            bound.set()
            while not self._stop.is_set():
                if socket.poll(10):
                    self._answer(socket)

    def _answer(self, socket: "zmq.Socket[bytes]") -> None:
        client, empty, body = socket.recv_multipart()
        request = orjson.loads(body)
        self.requests.append(request)
        if (answer := self.answer(request)) is not None:
            header, *payload = answer
            assert isinstance(header, dict)
            socket.send_multipart([client, empty, orjson.dumps({"id": request["id"], **header}), *payload])  # type: ignore[list-item]
