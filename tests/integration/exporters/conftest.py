"""The three destinations against the stand-ins: a record to export, and what stands over there afterwards."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import (
    Activity,
    ExportContext,
    ExportDestination,
    ExportResult,
    MemoryCheckpoint,
    TransientError,
)
from nexus_tasks.exporters.destinations.cdcs import CDCSDestination
from nexus_tasks.exporters.destinations.elabftw import ELabFTWDestination
from nexus_tasks.exporters.destinations.labarchives import LabArchivesDestination
from nexus_tasks.sandbox.services import StandIns
from nexus_tasks.sandbox.services.faults import Fault
from nexus_tasks.sandbox.services.server import StandInServer

PATIENCE = 10  # seconds until a condition must hold
INSTRUMENT = "Titan-012345"
SESSION = "2026-03-02_09_abc"
LINK = "https://cdcs.example.org/data?id=5"
READING_POST = "/rest/data/query/"
WRITING_GET = "/api/tree_tools/insert_node"


def record_xml(session: str, text: str = "first") -> bytes:
    return f"<Experiment><id>{session}</id><summary>{text}</summary></Experiment>".encode()


@dataclass
class Destination:
    """A destination with the stand-in that it talks to."""

    plugin: ExportDestination
    server: StandInServer

    def export(self, context: ExportContext) -> ExportResult:
        return self.plugin.export(context)

    def fail(self, context: ExportContext, *faults: Fault) -> None:
        """Export, which fails in a way that time can mend; afterwards the service works again."""
        self.server.faults.replace(faults)
        with pytest.raises(TransientError):
            self.export(context)
        assert all(fault["applied"] for fault in self.server.faults.as_json())
        self.server.faults.replace([])

    @property
    def calls(self) -> list[str]:
        return [f"{call['method']} {call['template']}" for call in self.server.calls.as_json()["recent"]]

    @property
    def writing_calls(self) -> list[str]:
        return [
            call
            for call in self.calls
            if call.endswith(WRITING_GET) or not (call.startswith("GET ") or call.endswith(READING_POST))
        ]

    @property
    def objects(self) -> list[dict[str, Any]]:
        return self.server.objects(content=True)


@pytest.fixture(scope="package")
def running() -> Iterator[StandIns]:
    with StandIns.start() as stand_ins:
        yield stand_ins


@pytest.fixture
def stand_ins(running: StandIns, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIns]:
    """All three, empty, and named by the settings."""
    running.reset()
    use(running, monkeypatch, tmp_path)
    yield running
    monkeypatch.undo()
    get_settings.cache_clear()


def use(stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in [name for name in os.environ if name.startswith("NX_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(folder)
    for name, value in stand_ins.environment().items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()


@pytest.fixture
def cdcs(stand_ins: StandIns) -> Destination:
    return Destination(CDCSDestination(), stand_ins.cdcs)


@pytest.fixture
def elabftw(stand_ins: StandIns) -> Destination:
    return Destination(ELabFTWDestination(), stand_ins.elabftw)


@pytest.fixture
def labarchives(stand_ins: StandIns) -> Destination:
    return Destination(LabArchivesDestination(), stand_ins.labarchives)


@pytest.fixture
def context(tmp_path: Path) -> ExportContext:
    record = tmp_path / "record.xml"
    record.write_bytes(record_xml(SESSION))
    return ExportContext(
        xml_file_path=record,
        session_identifier=SESSION,
        instrument_pid=INSTRUMENT,
        dt_from=datetime(2026, 3, 2, 9, tzinfo=UTC),
        dt_to=datetime(2026, 3, 2, 10, tzinfo=UTC),
        user="jsmith",
        activities=[Activity((Path("/data/a.dm3"),), (None,))],
    )


@pytest.fixture
def web() -> Iterator[requests.Session]:
    """For what other programs and people do over there."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def again(context: ExportContext) -> ExportContext:
    """The same record, of which nothing is remembered."""
    return replace(context, checkpoint=MemoryCheckpoint())


def of_session(context: ExportContext, session: str, **changes: Any) -> ExportContext:
    """Another record, of which nothing is remembered."""
    record = context.xml_file_path.with_name(f"record-{hashlib.sha256(session.encode()).hexdigest()[:8]}.xml")
    record.write_bytes(record_xml(session.replace("&", "&amp;").replace("<", "&lt;")))
    return replace(again(context), xml_file_path=record, session_identifier=session, **changes)


def linked(context: ExportContext, link: str = LINK) -> ExportContext:
    """The same record, after CDCS has got it."""
    result = ExportResult(success=True, destination_name="cdcs", record_url=link)
    return replace(context, previous_results={"cdcs": result})


def rebuild(context: ExportContext, text: str = "second") -> None:
    """Another document for the same session, as a rebuild gives."""
    context.xml_file_path.write_bytes(record_xml(context.session_identifier, text))
    context.activities.append(Activity((Path(f"/data/{text}.dm3"),), (None,)))


def sha256(context: ExportContext) -> str:
    return hashlib.sha256(context.xml_file_path.read_bytes()).hexdigest()


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


# How a creating call can go wrong; all but the last two have saved, or will.
FAULTS: dict[str, dict[str, Any]] = {
    "504 after saving": {"kind": "status_after", "status": 504},
    "a reset after saving": {"kind": "reset_after"},
    "a cut-off answer": {"kind": "truncate"},
    "an object that appears later": {"kind": "late", "status": 504, "seconds": 0.3},
    "503 before saving": {"kind": "status", "status": 503},
    "a reset before saving": {"kind": "reset"},
}
UNSAVED = {"503 before saving", "a reset before saving"}


def fault(name: str, method: str, path: str) -> Fault:
    return Fault.from_json({**FAULTS[name], "method": method, "path": path, "times": 1})
