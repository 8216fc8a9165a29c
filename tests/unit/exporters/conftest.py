"""A tiny HTTP server on loopback that answers as a test scripts it, and a record to export."""

import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import Activity, ExportContext
from tests.requirements import require_program


@dataclass
class Received:
    """One request that the fake server got."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    connection: tuple[str, int]

    @property
    def call(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Reply:
    status: int = 200
    body: bytes | str = b""
    headers: dict[str, str] = field(default_factory=dict)


Script = Callable[[Received], Reply | Callable[[Any], None]]


class FakeServer:
    """Answers each request with `answer(received)`: a `Reply`, or a function that gets the request handler."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Script = lambda _: Reply(404)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def reply(self, status: int = 200, body: bytes | str = b"", **headers: str) -> None:
        """Give every request this answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answer = lambda _: Reply(status, body, named)

    @property
    def calls(self) -> list[str]:
        return [received.call for received in self.received]

    @property
    def connections(self) -> set[tuple[str, int]]:
        return {received.connection for received in self.received}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(fake: "FakeServer") -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler has a self of its own
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def _serve(self) -> None:
                parts = urlsplit(self.path)
                received = Received(
                    self.command,
                    parts.path,
                    {name: values[-1] for name, values in parse_qs(parts.query).items()},
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(int(self.headers.get("Content-Length") or 0)),
                    self.client_address,
                )
                fake.received.append(received)
                reply = fake.answer(received)
                if not isinstance(reply, Reply):
                    self.close_connection = True
                    reply(self)
                    return
                body = reply.body.encode() if isinstance(reply.body, str) else reply.body
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = _serve  # noqa: N815 - the names that http.server calls

            def log_message(self, *args: object) -> None:
                pass

        return Handler


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def secure_server(server: FakeServer, tmp_path: Path) -> FakeServer:
    """The server with TLS, and a certificate that nobody trusts; `tmp_path/certificate.pem` holds it."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = (
        f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout {key} -out {certificate}"
    )
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([require_program("openssl"), *command.split(), *names], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    server._server.socket = tls.wrap_socket(server._server.socket, server_side=True)
    server.url = server.url.replace("http:", "https:")
    return server


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Set NX_* for this test; what the machine has set does not count."""
    import os

    for name in [name for name in os.environ if name.startswith("NX_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def set_all(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))
        get_settings.cache_clear()

    set_all()
    yield set_all
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.fixture
def context(tmp_path: Path) -> ExportContext:
    record = tmp_path / "record.xml"
    record.write_bytes('<?xml version="1.0" encoding="UTF-8"?>\n<Experiment>Größe 5 µm</Experiment>\n'.encode())
    zone = timezone(timedelta(hours=-5))
    return ExportContext(
        xml_file_path=record,
        session_identifier="2025-01-27_10-30-15_abc123",
        instrument_pid="FEI-Titan-TEM-012345",
        dt_from=datetime(2025, 1, 27, 10, 30, 15, tzinfo=zone),
        dt_to=datetime(2025, 1, 27, 14, 45, tzinfo=zone),
        user="jsmith",
        activities=[Activity((Path("/data/Titan/a.dm3"), Path("/data/Titan/b.dm3")), (None, None))],
    )
