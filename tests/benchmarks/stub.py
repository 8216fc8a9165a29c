"""The three services in one process that costs next to nothing, whose processor time counts as nobody's.

`python -m tests.benchmarks.stub CDCS ELABFTW LABARCHIVES CONTROL` listens on these ports of 127.0.0.1. It remembers
nothing that it was sent: every creating call gets a new identifier, every look-up what an installation with one
template, one workspace and one folder would answer. `CONTROL` answers `/counters` and takes `/latency/SECONDS`.
"""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path

from tests.benchmarks.record import INSTRUMENT

HOST = "127.0.0.1"
TOP_FOLDER, TOP_FOLDER_ID, INSTRUMENT_FOLDER_ID = "NexusLIMS Records", "10", "11"
TEMPLATE_TITLE, WORKSPACE_TITLE = "Nexus Experiment Schema", "Global Public Workspace"
TEMPLATE_ID, WORKSPACE_ID = "7", 3
ELABFTW_VERSION = 50311
SCHEMA = Path(__file__).parents[2] / "nexus_tasks" / "builder" / "nexus-experiment.xsd"

_HEAD_END = b"\r\n\r\n"
_REASONS = {200: b"OK", 201: b"Created", 404: b"Not Found"}
_XML = b'<?xml version="1.0" encoding="UTF-8"?>\n'
_JSON, _TEXT_XML = b"application/json", b"text/xml"


@dataclass
class Counters:
    """What one service has seen since it was started."""

    calls: int = 0
    connections: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass
class Latency:
    """Seconds from the last byte of a call to the first one of its answer."""

    seconds: float = 0.0


def response(status: int, content_type: bytes, body: bytes, location: bytes = b"") -> bytes:
    """An answer as it goes over the line."""
    extra = b"Location: " + location + b"\r\n" if location else b""
    return b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n%s" % (
        status,
        _REASONS[status],
        content_type,
        extra,
        len(body),
        body,
    )


class Service:
    """Answers by method and path; a subclass for each service."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._numbers = count(1)
        self._port = 0

    def listens_on(self, port: int) -> None:
        """Called once, before the first call."""
        self._port = port

    def answer(self, method: bytes, path: bytes) -> bytes:
        """The whole answer to a call; `path` comes without its query."""
        raise NotImplementedError

    def _not_found(self) -> bytes:
        return response(404, _JSON, b'{"code": 404, "message": "not part of the benchmark", "description": ""}')


class Cdcs(Service):
    """CDCS: template and workspace by title, records."""

    def __init__(self) -> None:
        super().__init__()
        template = {"id": TEMPLATE_ID, "title": TEMPLATE_TITLE, "is_disabled": False, "current": TEMPLATE_ID}
        schema = {"id": TEMPLATE_ID, "format": "XSD", "content": SCHEMA.read_text(encoding="utf-8"), "hash": "0"}
        workspace = {"id": WORKSPACE_ID, "title": WORKSPACE_TITLE, "is_public": True}
        self._looked_up = {
            b"/rest/template-version-manager/global/": _json([template]),
            b"/rest/template/%s/" % TEMPLATE_ID.encode(): _json(schema),
            b"/rest/workspace/read_access/": _json([workspace]),
        }

    def answer(self, method: bytes, path: bytes) -> bytes:
        """See `Service`."""
        if method == b"POST" and path == b"/rest/data/":
            return response(201, _JSON, b'{"id": %d, "title": "", "xml_content": ""}' % next(self._numbers))
        if method == b"PATCH" and b"/assign/" in path:
            return response(200, _JSON, b"{}")
        if method == b"POST" and path == b"/rest/data/query/":
            return _json([])
        return self._looked_up.get(path) or self._not_found()


class Elabftw(Service):
    """eLabFTW: experiments and their uploads."""

    def answer(self, method: bytes, path: bytes) -> bytes:
        """See `Service`."""
        if path == b"/api/v2/info":
            return _json({"elabftw_version": "5.3.11", "elabftw_version_int": ELABFTW_VERSION})
        if method == b"POST" and path.startswith(b"/api/v2/experiments"):
            location = b"http://127.0.0.1:%d%s/%d" % (self._port, path, next(self._numbers))
            return response(201, _JSON, b"", location)
        if method == b"GET" and path == b"/api/v2/experiments":
            return _json([])
        return self._not_found()


class LabArchives(Service):
    """LabArchives: one notebook in which the folders of the records are there already."""

    def answer(self, method: bytes, path: bytes) -> bytes:
        """See `Service`."""
        del method  # LabArchives goes by the path alone
        call = path.rpartition(b"/")[2]
        if call == b"insert_node":
            node = b"<node><tree-id>%d</tree-id></node>" % (1000 + next(self._numbers))
            return response(200, _TEXT_XML, _XML + b"<tree-tools>" + node + b"</tree-tools>")
        if call == b"get_tree_level":
            return _LEVEL
        if call in {b"add_entry", b"add_attachment"}:
            entry = b"<entry><eid>%d</eid></entry>" % next(self._numbers)
            return response(200, _TEXT_XML, _XML + b"<entries>" + entry + b"</entries>")
        return self._not_found()


class Control(Service):
    """What the harness asks; it has no latency and is not counted."""

    def __init__(self, services: dict[str, Service], latency: Latency) -> None:
        super().__init__()
        self._services, self._latency = services, latency

    def answer(self, method: bytes, path: bytes) -> bytes:
        """See `Service`."""
        del method
        if path.startswith(b"/latency/"):
            self._latency.seconds = float(path.rpartition(b"/")[2])
        return _json({name: asdict(service.counters) for name, service in self._services.items()})


class Connection(asyncio.Protocol):
    """One kept-alive connection: calls one after the other, bodies counted and forgotten."""

    def __init__(self, service: Service, latency: Latency) -> None:
        self._service, self._latency = service, latency
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._line = b""  # of the call whose body is coming in
        self._body_left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._service.counters.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Answers that are still to come have nobody to go to."""
        del exc
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Take in a part of a call."""
        self._service.counters.bytes_in += len(data)
        while data:
            if self._line:
                taken = min(self._body_left, len(data))
                self._body_left -= taken
                data = data[taken:]
            else:
                data = self._take_head(data)
            if self._line and not self._body_left:
                self._answer()

    def _take_head(self, data: bytes) -> bytes:
        """What comes after the head of the next call, if that is whole."""
        self._head += data
        head, end, rest = self._head.partition(_HEAD_END)
        if not end:
            return b""
        self._head = b""
        self._line = head.partition(b"\r\n")[0]
        lower = head.lower()
        at = lower.find(b"\r\ncontent-length:")
        self._body_left = 0 if at < 0 else int(lower[at + 17 :].partition(b"\r\n")[0])
        return rest

    def _answer(self) -> None:
        method, target, _ = self._line.split(b" ", 2)
        self._line = b""
        self._service.counters.calls += 1
        answer = self._service.answer(method, target.partition(b"?")[0])
        self._service.counters.bytes_out += len(answer)
        if self._latency.seconds:
            asyncio.get_running_loop().call_later(self._latency.seconds, self._write, answer)
        else:
            self._write(answer)

    def _write(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.write(answer)


def _json(document: object) -> bytes:
    return response(200, _JSON, json.dumps(document).encode())


def _level_node(tree_id: str, text: str) -> str:
    return (
        f"<level-node><tree-id>{tree_id}</tree-id><display-text>{text}</display-text><is-page>false</is-page>"
        "<user-access><can-write>true</can-write></user-access></level-node>"
    )


# Every level shows both folders: whoever looks for one by its name finds it.
_FOLDERS = _level_node(TOP_FOLDER_ID, TOP_FOLDER) + _level_node(INSTRUMENT_FOLDER_ID, INSTRUMENT)
_LEVEL = response(200, _TEXT_XML, _XML + f"<tree-tools>{_FOLDERS}</tree-tools>".encode())


async def serve(ports: list[int]) -> None:
    """Listen until the process is ended."""
    latency, none = Latency(), Latency()
    services: dict[str, Service] = {"cdcs": Cdcs(), "elabftw": Elabftw(), "labarchives": LabArchives()}
    all_services = [(service, latency) for service in services.values()] + [(Control(services, latency), none)]
    loop = asyncio.get_running_loop()
    for (service, delay), port in zip(all_services, ports, strict=True):
        service.listens_on(port)
        await loop.create_server(partial(Connection, service, delay), HOST, port)
    print("ready", flush=True)  # noqa: T201 - what the starter waits for
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve([int(port) for port in sys.argv[1:]]))
