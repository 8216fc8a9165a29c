"""Cuts an HTTP call at a total deadline; used by `exporters/http.py` around every call.

The time-outs of requests count from one read to the next, so a server that drips one byte a second would hold a worker
for ever. Here a thread, one for all calls of a process, shuts the call's socket down, whatever the call is doing:
sending, waiting or reading. Reaching the host has a limit of its own, `NX_CONNECT_TIMEOUT` for each of its addresses.
"""

import math
import os
import socket
import threading
import time
from contextlib import suppress
from contextvars import ContextVar, Token
from http.client import HTTPException
from types import TracebackType
from typing import Any, ClassVar, Self

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import ConnectionPool, HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError

_running: ContextVar["Deadline | None"] = ContextVar("nexus_tasks_http_deadline", default=None)


class Deadline:
    """`with Deadline(seconds) as deadline:` every socket used inside is shut down when the seconds are over.

    `expired` says afterwards whether that happened: what was read then is not to be trusted, even if no error came.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.expired = False
        self.until = 0.0  # by `time.monotonic`, from when the block is entered
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._token: Token[Deadline | None] | None = None

    def __enter__(self) -> Self:
        self._token = _running.set(self)
        self.until = time.monotonic() + self.seconds
        _watchdog.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _watchdog.discard(self)
        with self._lock:
            self._socket = None
        if self._token is not None:
            _running.reset(self._token)

    def watch(self, connection_socket: socket.socket | None) -> None:
        """Make `connection_socket` the one to shut down; at once, if the time is already over."""
        with self._lock:
            self._socket = connection_socket
            if self.expired:
                self._shut_down()

    def expire(self) -> None:
        """Shut the socket down, and every one that comes later."""
        with self._lock:
            self.expired = True
            self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                # Not SSLSocket.shutdown: that takes the TLS layer away under the reader, who must see an end of file.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Watchdog:
    """One thread that expires the deadlines of all calls of a process; it starts with the first of them.

    A call costs it no wake-up: it sleeps until the earliest deadline that it knew of when it last looked, by when most
    calls have long been over, and is woken only for an earlier one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._running: set[Deadline] = set()  # as many as there are calls at this moment, so that it can be searched
        self._wakes_at = math.inf  # by `time.monotonic`
        self._thread: threading.Thread | None = None

    def add(self, deadline: Deadline) -> None:
        """Expire `deadline` when its time has come."""
        with self._changed:
            self._running.add(deadline)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="nexus-tasks-http-deadlines", daemon=True)
                self._thread.start()
            elif deadline.until < self._wakes_at:
                self._changed.notify()

    def discard(self, deadline: Deadline) -> None:
        """Forget about `deadline`, whether or not it has been expired."""
        with self._changed:
            self._running.discard(deadline)

    def _watch(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                over = [deadline for deadline in self._running if deadline.until <= now]
                self._running.difference_update(over)
                if not over:
                    self._wakes_at = min((deadline.until for deadline in self._running), default=math.inf)
                    self._changed.wait(None if self._wakes_at == math.inf else self._wakes_at - now)
                    continue
            for deadline in over:
                deadline.expire()


_watchdog = Watchdog()


def _begin_anew() -> None:
    """After a fork: the thread is the parent's, its lock may be held for ever, and so are the sockets the parent's."""
    global _watchdog  # noqa: PLW0603 - one for each process
    _watchdog = Watchdog()


os.register_at_fork(after_in_child=_begin_anew)


def _watch(connection: HTTPConnection) -> None:
    deadline = _running.get()
    if deadline is not None and connection.sock is not None:
        connection.sock.settimeout(deadline.seconds)  # urllib3 would send the body with the time-out for connecting
        deadline.watch(connection.sock)


class _WatchedConnection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _watch(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _watch(self)  # a kept-alive connection does not connect again
        super().request(*args, **kwargs)


class _WatchedSecureConnection(HTTPSConnection):
    def _tunnel(self) -> None:
        deadline = _running.get()
        if deadline is not None:
            deadline.watch(self.sock)
        try:
            super()._tunnel()
        except (OSError, HTTPException):  # a connection that the proxy does not make is one that was not made
            raise NewConnectionError(self, "the proxy does not make the connection") from None

    def connect(self) -> None:
        super().connect()
        _watch(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _watch(self)
        super().request(*args, **kwargs)


class _WatchedPool(HTTPConnectionPool):
    ConnectionCls = _WatchedConnection


class _WatchedSecurePool(HTTPSConnectionPool):
    ConnectionCls = _WatchedSecureConnection


class DeadlineAdapter(HTTPAdapter):
    """A requests adapter for one host whose connections obey the `Deadline` around the call; it keeps one alive."""

    _pools: ClassVar[dict[str, type[HTTPConnectionPool]]] = {"http": _WatchedPool, "https": _WatchedSecurePool}

    def __init__(self) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._found: dict[tuple[Any, ...], ConnectionPool] = {}

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> ConnectionPool:
        """See `HTTPAdapter`, which takes the address apart for every call."""
        key = (verify, cert, *sorted((proxies or {}).items()))
        if key not in self._found:
            self._found[key] = super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)
        return self._found[key]

    def build_response(self, req: PreparedRequest, resp: Any) -> Response:
        """See `HTTPAdapter`, which also looks for cookies and for the encoding of a text."""
        response = Response()
        response.status_code, response.reason, response.raw = resp.status, resp.reason, resp
        response.headers = CaseInsensitiveDict(resp.headers)
        response.url, response.request = req.url or "", req
        return response

    def request_url(self, request: PreparedRequest, proxies: Any) -> str:
        """See `HTTPAdapter`, which looks for a proxy in whatever case."""
        return super().request_url(request, proxies) if proxies else request.path_url

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """See `HTTPAdapter.init_poolmanager`."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """See `HTTPAdapter.proxy_manager_for`."""
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager
