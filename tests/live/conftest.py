"""The destination against a real CDCS: one server for the whole run, every test with sessions of its own."""

import http.client
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from nexus_tasks.builder.record_xml import RecordContent, write_record
from nexus_tasks.builder.schema import OWN_SCHEMA
from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import ExportContext, ExportResult, MemoryCheckpoint
from nexus_tasks.exporters.destinations.cdcs import CDCSDestination
from tests.requirements import require, require_module

require_module("psutil", "nexus-tasks[sandbox]")
from nexus_tasks.sandbox.real_cdcs.environment import CdcsNotAvailableError, ensure_environment  # noqa: E402
from nexus_tasks.sandbox.real_cdcs.server import ADMINISTRATOR, CURATOR, Account, RealCdcs  # noqa: E402

NIST_SCHEMA = Path(__file__).resolve().parents[3] / "shared" / "specs" / "nexus-experiment.xsd"
VISITOR = Account("visitor", "visitor-of-the-tests", "everybody-knows-the-visitors-token", may_publish=False)
INSTRUMENT = "Test-SEM-01"
START = datetime(2026, 3, 2, 9, tzinfo=UTC)


@pytest.fixture(scope="session")
def cdcs_python() -> Path:
    """Of CDCS's environment."""
    return require_cdcs()


def require_cdcs() -> Path:
    """The Python that CDCS runs with; its packages are installed if that was never done before."""
    try:
        return ensure_environment()
    except CdcsNotAvailableError as error:
        require(condition=False, reason=str(error))
        raise


@pytest.fixture(scope="session")
def server(servers_folder: Path, cdcs_python: Path) -> Iterator[RealCdcs]:
    """A lab's CDCS has NIST's schema, which is not ours to bring along."""
    schema = NIST_SCHEMA if NIST_SCHEMA.is_file() else OWN_SCHEMA
    with RealCdcs(servers_folder / "cdcs", cdcs_python, schema=schema, more_accounts=[VISITOR]) as running:
        yield running


@dataclass
class Person:
    """Somebody who uses CDCS beside us."""

    server: RealCdcs
    account: Account
    web: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.web.trust_env = False
        self.web.headers["Authorization"] = f"Token {self.account.token}"
        self.web.headers["Connection"] = "close"  # one that is kept may be closed over there at this moment

    def call(self, method: str, path: str, json: Any = None) -> Any:
        answer = self.web.request(method, f"{self.server.url}/{path}", json=json, timeout=30)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def records(self, title: str) -> list[dict[str, Any]]:
        """All with this title that they can read, the oldest first."""
        found = self.call("POST", "rest/data/query/", {"query": {}, "title": title, "all": "true"})
        return sorted(found, key=lambda record: int(record["id"]))

    def content(self, number: str | None) -> bytes:
        answer = self.web.get(f"{self.server.url}/rest/data/download/{number}/", timeout=30)
        assert answer.ok, answer.text
        return answer.content

    def user_id(self, name: str) -> int:
        return next(int(user["id"]) for user in self.call("GET", "rest/user/") if user["username"] == name)

    def give(self, number: str | None, name: str) -> None:
        self.call("PATCH", f"rest/data/{number}/change-owner/{self.user_id(name)}")

    def owner(self, number: str | None) -> str:
        owner = int(self.call("GET", f"rest/data/{number}/")["user_id"])
        return next(str(user["username"]) for user in self.call("GET", "rest/user/") if user["id"] == owner)


class Exporter:
    """The destination as a worker has it, its settings among them."""

    def __init__(self, server: RealCdcs, patch: pytest.MonkeyPatch) -> None:
        self._server = server
        self._patch = patch
        self.plugin = CDCSDestination()
        self.use()

    def use(self, account: Account = CURATOR, **settings: str) -> None:
        """With another account or other settings; nothing is remembered of the earlier ones."""
        for name, value in {**self._server.environment(account), **settings}.items():
            self._patch.setenv(name, value)
        get_settings.cache_clear()
        self.plugin = CDCSDestination()

    def export(self, context: ExportContext) -> ExportResult:
        return self.plugin.export(context)


@pytest.fixture
def exporter(server: RealCdcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Exporter]:
    for name in [name for name in os.environ if name.startswith("NX_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield Exporter(server, monkeypatch)
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def curator(server: RealCdcs) -> Person:
    return Person(server, CURATOR)


@pytest.fixture(scope="session")
def administrator(server: RealCdcs) -> Person:
    return Person(server, ADMINISTRATOR)


@pytest.fixture
def context(tmp_path: Path) -> ExportContext:
    """A record that CDCS has never seen."""
    session = f"session-{uuid.uuid4().hex[:12]}"
    record = tmp_path / "record.xml"
    record.write_bytes(record_xml(session))
    return ExportContext(record, session, INSTRUMENT, START, START + timedelta(hours=1), user="ann")


def record_xml(session: str, text: str = "first", motivation: str | None = None) -> bytes:
    end = START + timedelta(hours=1)
    return write_record(RecordContent(session, INSTRUMENT, "Test SEM", text, "ann", START, end, (), motivation))


def rebuild(context: ExportContext, text: str = "second") -> bytes:
    """Another document for the same session, as a rebuild gives."""
    context.xml_file_path.write_bytes(record_xml(context.session_identifier, text))
    return context.xml_file_path.read_bytes()


def forget(context: ExportContext) -> None:
    """As after `retry --recreate`: nothing is remembered of the record."""
    context.checkpoint = MemoryCheckpoint()


class LosingProxy:
    """Stands before CDCS and passes everything on; of the calls in `lose`, (method, path), it drops the answer once."""

    def __init__(self, target: str) -> None:
        self.lose: list[tuple[str, str]] = []
        self.lost: list[tuple[str, str, int]] = []  # with the status that nobody saw
        place = urlsplit(target)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline()
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                call = (self.command, urlsplit(self.path).path)
                self.close_connection = True
                if call in proxy.lose:
                    proxy.lose.remove(call)
                    proxy.lost.append((*call, answer.status))
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"connection", "content-length", "transfer-encoding", "server", "date"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def proxy(server: RealCdcs) -> Iterator[LosingProxy]:
    running = LosingProxy(server.url)
    yield running
    running.stop()
