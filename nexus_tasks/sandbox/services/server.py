"""A small HTTP/1.1 server for one stand-in, with keep-alive and faults down to the socket; `StandIns` starts three.

It listens on loopback only, and logs nothing: a LabArchives URL is a credential.
"""

import ipaddress
import logging
import select
import socket
import socketserver
import struct
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from nexus_tasks.sandbox.services import admin
from nexus_tasks.sandbox.services.calls import Call, CallLog
from nexus_tasks.sandbox.services.faults import Fault, FaultInjector, FaultKind
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.service import Service

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.02  # seconds between two looks at whether a silent call is still wanted
BACKLOG = 256  # connections that may wait to be accepted
NO_LINGER = struct.pack("ii", 1, 0)  # SO_LINGER 0: closing resets the connection

HANDLED_FIRST = {FaultKind.STATUS_AFTER, FaultKind.RESET_AFTER, FaultKind.HANG_AFTER, FaultKind.TRUNCATE}


def check_loopback(host: str) -> None:
    """Raise ValueError for an address that other computers can reach."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(
            f"a stand-in listens on loopback only (127.0.0.1), not on {host!r}: its credentials are public"
        )


class StandInServer:
    """One stand-in on one port. What it holds outlives `stop()`: `start()` again ends an outage."""

    def __init__(self, service: Service, port: int = 0, host: str = "127.0.0.1") -> None:
        check_loopback(host)
        self.service = service
        self.faults = FaultInjector()
        self.calls = CallLog()
        self._host = host
        self._port = port
        self._lock = threading.Lock()  # guards the service's state
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None
        self.generation = 0  # counts resets and stops: a call of an older one changes nothing any more

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end; the port is known once it has started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def start(self) -> None:
        """Listen; raises OSError if the port is taken."""
        if self._listener is not None:
            return
        self._listener = _Listener((self._host, self._port), self)
        self._port = int(self._listener.server_address[1])
        self._thread = threading.Thread(
            target=self._listener.serve_forever,
            kwargs={"poll_interval": POLL_INTERVAL},
            name=f"stand-in {self.service.name}",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and close every connection."""
        listener, thread = self._listener, self._thread
        if listener is None or thread is None:
            return
        self.generation += 1
        listener.shutdown()
        listener.server_close()
        listener.close_connections()
        thread.join()
        self._listener = self._thread = None

    def answer(self, request: Request) -> Response:
        """Let the service handle a request; a defect in it becomes a 500 without details."""
        try:
            with self._lock:
                return self.service.answer(request)
        except Exception:
            logger.exception("stand-in %s: defect in %s %s", self.service.name, request.method, request.path)
            return Response.html(500, "<h1>Server Error (500)</h1>")

    def objects(self, *, content: bool = False) -> list[dict[str, Any]]:
        """All the service holds."""
        with self._lock:
            return self.service.objects(content=content)

    def reset(self) -> None:
        """Forget objects, calls and faults; calls that hang are let go."""
        with self._lock:
            self.generation += 1
            self.service.reset()
        self.faults.replace([])
        self.calls.reset()

    def handle_later(self, request: Request, seconds: float) -> None:
        """Handle a request that nobody waits for any more, unless a reset or a stop comes first."""
        generation = self.generation

        def handle() -> None:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if self.generation != generation:
                    return
                time.sleep(min(POLL_INTERVAL, max(0.0, deadline - time.monotonic())))
            if self.generation == generation:
                self.answer(request)

        threading.Thread(target=handle, name=f"late {self.service.name}", daemon=True).start()


class _Listener(ThreadingHTTPServer):
    """The listening socket and its connections."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = BACKLOG

    def __init__(self, address: tuple[str, int], stand_in: StandInServer) -> None:
        self.stand_in = stand_in
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Connection)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would ask the name service who we are

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        with self._connections_lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        logger.debug("stand-in %s: a connection broke", self.stand_in.service.name)


class _Connection(BaseHTTPRequestHandler):
    """One connection: reads requests, plays faults, writes each answer in one send."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener
    counted = False

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing."""

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        stand_in = self.server.stand_in
        body = self._read_body()
        if body is None:
            return
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        request = Request(self.command, parts.path or "/", query, self.headers, body)
        if request.path.startswith(admin.PREFIX):
            self._send(admin.answer(stand_in, request))
        elif stand_in.service.is_page(request):
            self._send(stand_in.answer(request))
        else:
            self._call(stand_in, request)

    def _call(self, stand_in: StandInServer, request: Request) -> None:
        if not self.counted:
            self.counted = True
            stand_in.calls.count_connection()
        template = stand_in.service.path_template(request.path)
        call, load = stand_in.calls.begin(request.method, request.path, template)
        try:
            refusal = stand_in.service.admit(load.concurrent, load.seconds_since_last)
            trouble = stand_in.faults.choose(request.method, request.path)
            generation = stand_in.generation
            if trouble.latency and not self._wait(trouble.latency, generation, while_connected=False):
                self.close_connection = True
            elif refusal is not None:
                self._finish(call, refusal)
            elif trouble.fault is None:
                self._finish(call, stand_in.answer(request))
            else:
                self._fail(call, request, trouble.fault)
        finally:
            stand_in.calls.end(call, None)

    def _fail(self, call: Call, request: Request, fault: Fault) -> None:
        stand_in = self.server.stand_in
        generation = stand_in.generation
        handled = stand_in.answer(request) if fault.kind in HANDLED_FIRST else None
        call.fault = fault.kind.value
        if fault.kind is FaultKind.LATE:
            stand_in.handle_later(request, fault.seconds or 0.0)
        match fault.kind:
            case FaultKind.STATUS | FaultKind.STATUS_AFTER:
                self._finish(call, fault.response())
            case FaultKind.LATE if fault.status is not None:
                self._finish(call, fault.response())
            case FaultKind.RESET | FaultKind.RESET_AFTER:
                stand_in.calls.end(call, None, call.fault)
                self._reset()
            case FaultKind.TRUNCATE:
                self._finish(call, handled or fault.response(), truncate=True)
            case _:
                self._wait(None if fault.kind is FaultKind.LATE else fault.seconds, generation, while_connected=True)
                stand_in.calls.end(call, None, call.fault)
                self.close_connection = True

    def _finish(self, call: Call, response: Response, *, truncate: bool = False) -> None:
        # ended before the client can know, so that its next call never counts as concurrent with this one
        self.server.stand_in.calls.end(call, response.status, call.fault)
        self._send(response, truncate=truncate)

    def _send(self, response: Response, *, truncate: bool = False) -> None:
        message = response.encoded(close=self.close_connection, head_only=self.command == "HEAD")
        if truncate:
            head = len(message) - len(response.body)
            message = message[: head + len(response.body) // 2] if response.body else message[: head // 2]
            self.close_connection = True
        try:
            self.connection.sendall(message)
        except OSError:
            self.close_connection = True

    def _wait(self, seconds: float | None, generation: int, *, while_connected: bool) -> bool:
        """Say nothing for so long; False if a reset, a stop or (where asked) the client's leaving ended it."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            if self.server.stand_in.generation != generation or (while_connected and self._client_has_left()):
                return False
            left = POLL_INTERVAL if deadline is None else deadline - time.monotonic()
            time.sleep(max(0.0, min(POLL_INTERVAL, left)))
        return True

    def _client_has_left(self) -> bool:
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def _reset(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            socket.close(self.connection.detach())  # a polite shutdown would send FIN before RST

    def _read_body(self) -> bytes | None:
        if "chunked" in str(self.headers.get("Transfer-Encoding", "")).lower():
            return self._read_chunks()
        try:
            length = int(self.headers.get("Content-Length", 0))
        except ValueError:
            self.close_connection = True
            self._send(Response.html(400, "<h1>400 Bad Request</h1>"))
            return None
        body = self.rfile.read(length)
        if len(body) < length:  # the client left in the middle: nothing to handle
            self.close_connection = True
            return None
        return body

    def _read_chunks(self) -> bytes | None:
        body = bytearray()
        while True:
            try:
                size = int(self.rfile.readline().split(b";")[0], 16)
            except ValueError:
                self.close_connection = True
                return None
            chunk = self.rfile.read(size + 2)
            if len(chunk) < size + 2:
                self.close_connection = True
                return None
            if size == 0:
                return bytes(body)
            body += chunk[:size]
