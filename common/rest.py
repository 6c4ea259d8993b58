"""REST beside the feed: one thread that asks, one request after the other, and never more than the exchange allows.

`Budget` decides when; it is told the time. `RestClient` waits and asks.
"""

import queue
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import urllib3

from .deadline import Cutter, Deadline
from .events import Action, Request

RETRY_AFTER_MAX_S = 3 * 86_400
"""The longest ban there is."""

ANSWER_MAX_BYTES = 64 * 1024**2
"""The longest body that is taken: the largest of the exchange, its list of all symbols, is a quarter of it."""

READ_BYTES = 64 * 1024
POLL_S = 0.05

_KEPT_HEADERS = ("x-mbx-used-weight-1m", "retry-after", "date", "content-type", "etag", "cf-ray", "x-cache")


RETRY_MAX_S = 60.0


def pause_s(attempts: int) -> float:
    """How long to wait before a request that has failed so often is sent again."""
    return min(RETRY_MAX_S, 0.25 * 2.0 ** min(attempts, 10)) * random.uniform(0.5, 1.0)


class Answer(NamedTuple):
    """An answer, or a failure: then `status` is 0 and `error` says why."""

    action: Action | None
    request: Request
    status: int
    body: bytes
    headers: dict[str, str]
    ts_sent: int
    error: str | None


class Budget:
    """Weights of the last minute, and what the host says about waiting (429, 418): obeyed by every request to it.

    Requests are `interval_s` apart. Hold `lock` where several threads ask.
    """

    def __init__(self, weight_per_min: int, interval_s: float = 0.0) -> None:
        self.lock = threading.Lock()
        self._limit, self._interval_s = weight_per_min, interval_s
        self._next_at = 0.0
        self._spent: list[tuple[float, int]] = []
        self._blocked_until = 0.0

    def wait_s(self, now: float, weight: int) -> float:
        """How long a request of this weight must wait."""
        self._spent = [(at, spent) for at, spent in self._spent if at > now - 60]
        wait = max(0.0, self._blocked_until - now, self._next_at - now)
        excess = sum(spent for _, spent in self._spent) + weight - self._limit
        for at, spent in self._spent:
            if excess <= 0:
                break
            excess -= spent
            wait = max(wait, at + 60 - now)
        return wait

    def spend(self, now: float, weight: int) -> None:
        self._spent.append((now, weight))
        self._next_at = now + self._interval_s

    def heed(self, now: float, status: int, headers: dict[str, str]) -> None:
        """Take what an answer says: the weight used in this minute by everybody on this address, and Retry-After."""
        used = _number(headers.get("x-mbx-used-weight-1m", ""), 0)
        ours = sum(spent for at, spent in self._spent if at > now - 60)
        if used > ours:
            self._spent.append((now, used - ours))
        if status in (429, 418):
            self._blocked_until = now + min(_number(headers.get("retry-after", ""), 60), RETRY_AFTER_MAX_S)


_budgets: dict[str, Budget] = {}


def budget_of(base_url: str, weight_per_min: int, interval_s: float) -> Budget:
    """The one budget of a host: whoever in this process asks there shares it."""
    return _budgets.setdefault(base_url.rstrip("/"), Budget(weight_per_min, interval_s))


class RestClient:
    """Runs in a thread of its own; answers go to `deliver`, which is called there."""

    def __init__(self, base_url: str, timeout_s: float, budget: Budget, deliver: Callable[[Answer], None]) -> None:
        self._base, self._budget, self._deliver = base_url.rstrip("/"), budget, deliver
        self._timeout_s = timeout_s
        self._pool: Any = None
        self._cutter: Cutter | None = None
        self._queue: queue.PriorityQueue[tuple[float, int, Action | None, Request]] = queue.PriorityQueue()
        self._count = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rest", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def ask(self, action: Action | None, request: Request, delay_s: float = 0.0) -> None:
        """Queue a request, not to be sent before `delay_s` have passed."""
        self._count += 1
        self._queue.put((time.monotonic() + delay_s, self._count, action, request))

    def ask_now(self, request: Request, goes_on: Callable[[], bool]) -> Answer | None:
        """Ask in the caller's thread as soon as the budget allows, instead of `start`; None where it is stopped."""
        while goes_on():
            if (wait := self._reserve(request)) <= 0:
                return self._ask(None, request)
            time.sleep(min(wait, POLL_S))
        return None

    def _reserve(self, request: Request) -> float:
        """Take a request's weight off the budget, or say how long it must wait."""
        with self._budget.lock:
            now = time.monotonic()
            if (wait := self._budget.wait_s(now, request.weight)) <= 0:
                self._budget.spend(now, request.weight)
            return wait

    def close(self) -> None:
        """Close the connection. Who has begun a thread calls `stop` instead, and the thread does it."""
        if self._pool is not None:
            self._pool.clear()
        if self._cutter is not None:
            self._cutter.close()

    def _run(self) -> None:
        self._serve()
        self.close()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                due, count, action, request = self._queue.get(timeout=POLL_S)
            except queue.Empty:
                continue
            wait = due - time.monotonic()
            if wait > 0 or (wait := self._reserve(request)) > 0:
                self._queue.put((due, count, action, request))
                self._stopping.wait(min(wait, POLL_S))
                continue
            self._deliver(self._ask(action, request))

    def _ask(self, action: Action | None, request: Request) -> Answer:
        ts_sent, deadline = time.time_ns(), Deadline(self._timeout_s)
        try:
            if self._pool is None:
                self._pool = _pool(self._base, self._timeout_s, self._keep)
            deadline.watch(self._cut)
            with deadline:
                response = self._pool.request(
                    "GET", self._base + request.path, headers=request.headers, retries=False, preload_content=False
                )
                headers = {name.lower(): value for name, value in response.headers.items()}
                with self._budget.lock:
                    self._budget.heed(time.monotonic(), response.status, headers)
                kept = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
                return Answer(action, request, response.status, self._body(response), kept, ts_sent, None)
        except Exception as error:  # whatever it is: this one thread asks for all symbols, and must go on
            why = f"{type(error).__name__}: {error}"
            if deadline.is_over:
                why = f"TimeoutError: the answer is not whole after {self._timeout_s} s ({why})"
            return Answer(action, request, 0, b"", {}, ts_sent, why)

    def _body(self, response: Any) -> bytes:
        """The body, within the bound."""
        body = bytearray()
        try:
            while part := response.read1(READ_BYTES):
                body += part
                if len(body) > ANSWER_MAX_BYTES:
                    raise OSError(f"the answer is longer than {ANSWER_MAX_BYTES} bytes")
        except BaseException:
            response.close()  # with its connection: the rest of the answer would come first there
            raise
        response.release_conn()
        return bytes(body)

    def _cut(self) -> None:
        if self._cutter is not None:
            self._cutter.cut()

    def _keep(self, sock: socket.socket) -> None:
        """Remember the one connection that there is."""
        if self._cutter is not None:
            self._cutter.close()
        self._cutter = Cutter(sock)


def _number(text: str, default: int) -> int:
    """A header's number; `default` where it is none (a date, or what Python takes for a digit: ²)."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


def _pool(base_url: str, timeout_s: float, keep: Callable[[socket.socket], None]) -> Any:
    """A pool of a kept-alive connection, through the proxy that the environment names, if it does.

    `keep` is given each new socket.
    """
    from urllib.request import getproxies, proxy_bypass

    scheme, _, rest = base_url.partition("://")
    proxy = getproxies().get(scheme)
    timeout = urllib3.Timeout(connect=timeout_s, read=timeout_s)
    if proxy and not proxy_bypass(rest.partition("/")[0].partition(":")[0]):
        pool: urllib3.PoolManager = urllib3.ProxyManager(proxy, timeout=timeout)
    else:
        pool = urllib3.PoolManager(timeout=timeout)

    class Plain(urllib3.connection.HTTPConnection):
        def _new_conn(self) -> socket.socket:
            keep(sock := super()._new_conn())
            return sock

    class Secure(urllib3.connection.HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            keep(sock := super()._new_conn())
            return sock

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    pool.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return pool
