"""A proxy on loopback, as labs have them between their machines and the world: it forwards calls and makes tunnels."""

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_OF_ONE_CONNECTION = {"content-length", "transfer-encoding", "connection"}


class Proxy(ThreadingHTTPServer):
    """`asked` holds what it was asked for, `GET http://…` or `CONNECT host:port`; `credentials` what came along.

    `answer`, when set, answers whatever comes in its place: it gets the request handler.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"127.0.0.1:{self.server_port}"
        self.asked: list[str] = []
        self.credentials: set[str | None] = set()
        self.answer: Callable[[BaseHTTPRequestHandler], None] | None = None


@contextmanager
def running_proxy() -> Iterator[Proxy]:
    """A proxy, until the block ends."""
    proxy = Proxy()
    threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # whoever called has gone
            self.close_connection = True

    def _serve(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        self.server.credentials.add(self.headers.get("Proxy-Authorization"))
        if self.server.answer is not None:
            self.close_connection = True
            self.server.answer(self)
        elif self.command == "CONNECT":
            self.close_connection = True
            self._tunnel()
        else:
            self._forward()

    do_GET = do_POST = do_PATCH = do_CONNECT = _serve  # noqa: N815 - the names that http.server calls

    def _tunnel(self) -> None:
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as there:
            self.send_response(200)
            self.end_headers()
            _relay(self.connection, there)

    def _forward(self) -> None:
        host = urlsplit(self.path).netloc
        there = HTTPConnection(host)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if not name.startswith("Proxy-")}
        there.request(self.command, self.path.partition(host)[2], body, headers)
        answer = there.getresponse()
        content = answer.read()
        there.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _OF_ONE_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Carry what either side says to the other, until one of them has ended."""
    while True:
        for side in select.select([one, other], [], [])[0]:
            said = side.recv(65536)
            if not said:
                return
            (other if side is one else one).sendall(said)
