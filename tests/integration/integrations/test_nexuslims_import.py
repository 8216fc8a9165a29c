import json
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from nexus_tasks.builder.record_xml import RecordContent, write_record
from nexus_tasks.celery import get_app
from nexus_tasks.cli import cli
from nexus_tasks.config import get_settings
from nexus_tasks.db import deliveries, planning, records
from nexus_tasks.db.engine import engine_for, transaction
from nexus_tasks.db.models import Base, Planner
from nexus_tasks.delivery.export_records import RecordToExport, export_records
from nexus_tasks.delivery.fingerprint import outdated
from nexus_tasks.entry import current_deployment
from nexus_tasks.exporters.registry import get_registry
from nexus_tasks.plain_error import PlainError
from tests.integration.integrations.nexuslims_file import OLD, PID, NexusLimsFile

USAGE_EVENT = "https://nemo.example.org/api/usage_events/?id=31"
UUID = "6c7d3f14-8b0a-4f3a-9e7c-1f2f6a2f0c11"


class House:
    """Ours, with NexusLIMS's files beside it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.theirs = folder / "nexuslims"
        self.records = self.theirs / "records"
        (self.records / "uploaded").mkdir(parents=True)
        self.our_records = folder / "ours" / "records"

    def run(self, *arguments: str | Path) -> Result:
        return CliRunner().invoke(cli, ["db", "import-nexuslims", *map(str, arguments)])

    def take_over(self, file: Path, *more: str) -> dict[str, Any]:
        result = self.run(file, "--records", self.records, "--json", *more)
        assert result.exit_code == 0, (result.output, result.exception)
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with transaction(engine_for(self.url)) as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        return {
            table.name: sorted(self.rows(f'SELECT * FROM "{table.name}"'), key=repr)
            for table in Base.metadata.sorted_tables
            if table.name != Planner.__tablename__  # its row is there from the beginning
        }

    def built(self, name: str, *, uploaded: bool = True) -> bytes:
        """A record as NexusLIMS leaves it behind."""
        start = datetime(2026, 3, 2, 15, tzinfo=UTC)
        xml = write_record(RecordContent(name, PID, "Titan", f"Record {name}", "ann", start, start, ()))
        (self.records / "uploaded" / name if uploaded else self.records / name).write_bytes(xml)
        return xml


@pytest.fixture
def house(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    settings = {
        "NX_DATABASE_URL": database_url,
        "NX_BROKER_URL": "redis://127.0.0.1:1/0",  # nobody is there, and nobody is needed
        "NX_RECORDS_PATH": str(tmp_path / "ours" / "records"),
        "NX_CDCS_URL": "https://cdcs.example.org",
        "NX_CDCS_TOKEN": "token",
        "NX_ELABFTW_URL": "https://elabftw.example.org",
        "NX_ELABFTW_API_KEY": "1-key",
        "COLUMNS": "300",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    _forget()
    yield House(database_url, tmp_path)
    engine_for(database_url).dispose()
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    for remembered in (get_settings, get_registry, get_app):
        remembered.cache_clear()


@pytest.fixture
def file(house: House) -> NexusLimsFile:
    return NexusLimsFile(house.theirs / "nexuslims.db")


def refused(house: House, result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, PlainError), result.exception
    assert not any(house.everything().values())
    message = str(result.exception)
    assert "\n" not in message
    return message


def fill(house: House, file: NexusLimsFile) -> None:
    """One session of each kind."""
    file.add_session(USAGE_EVENT, "COMPLETED")
    file.add_event(USAGE_EVENT, "RECORD_GENERATION", "2026-03-04T07:59:00-05:00", "COMPLETED", user="nexuslims")
    file.add_upload(USAGE_EVENT, "cdcs", success=False, error_message="502", timestamp="2026-03-03T08:00:00")
    file.add_upload(USAGE_EVENT, "cdcs", metadata_json='{"workspace": 3}')
    file.add_upload(USAGE_EVENT, "elabftw")
    house.built(f"2026-03-02_{PID}_31.xml")
    file.add_session(UUID, "BUILT_NOT_EXPORTED")
    file.add_upload(UUID, "cdcs")
    file.add_upload(UUID, "elabftw", success=False, error_message="The key is wrong")
    house.built(f"2026-03-02_{PID}_6c7d3f14.xml", uploaded=False)
    file.add_session("lost-document", "COMPLETED")
    file.add_upload("lost-document", "cdcs")
    for status in ("TO_BE_BUILT", "NO_FILES_FOUND", "NO_CONSENT", "NO_RESERVATION", "ERROR"):
        file.add_session(f"session of {status}", status)
    file.add_event("runs", "START", "2026-03-05T10:00:00-05:00", "WAITING_FOR_END")


def test_a_database_taken_over_twice_gives_the_same_rows_as_once(house: House, file: NexusLimsFile) -> None:
    fill(house, file)
    first = house.take_over(file.file)
    once, files = house.everything(), sorted(house.our_records.rglob("*.xml"))
    second = house.take_over(file.file)

    assert house.everything() == once
    assert sorted(house.our_records.rglob("*.xml")) == files
    assert (first["instruments_new"], first["sessions_new"], first["uploads_new"], first["records_new"]) == (1, 9, 6, 2)
    assert (first["deliveries_succeeded"], first["deliveries_failed"]) == (3, 1)
    assert (second["sessions_unchanged"], second["instruments_known"]) == (9, 1)
    assert not any(second[name] for name in second if name.endswith("_new"))


def test_every_session_keeps_its_status_and_its_times(house: House, file: NexusLimsFile) -> None:
    fill(house, file)
    house.take_over(file.file)
    statuses = dict(house.rows("SELECT DISTINCT session_identifier, record_status FROM session_log"))
    assert statuses.pop(USAGE_EVENT) == "COMPLETED"
    assert statuses.pop(UUID) == "BUILT_NOT_EXPORTED"
    assert statuses.pop("lost-document") == "COMPLETED"
    assert statuses.pop("runs") == "WAITING_FOR_END"
    assert all(identifier == f"session of {status}" for identifier, status in statuses.items())
    assert house.rows(
        f"SELECT event_type, timestamp, \"user\" FROM session_log WHERE session_identifier = '{USAGE_EVENT}' ORDER BY 2"
    ) == [
        ("START", datetime(2026, 3, 2, 15, tzinfo=UTC), "ann"),
        ("END", datetime(2026, 3, 2, 17, 30, tzinfo=UTC), "ann"),
        ("RECORD_GENERATION", datetime(2026, 3, 4, 12, 59, tzinfo=UTC), "nexuslims"),
    ]


def test_what_nexuslims_exported_is_delivered_with_its_identifiers_and_links(house: House, file: NexusLimsFile) -> None:
    fill(house, file)
    xml = (house.records / "uploaded" / f"2026-03-02_{PID}_31.xml").read_bytes()
    house.take_over(file.file)
    with transaction(engine_for(house.url)) as connection:
        record = records.of_session(connection, USAGE_EVENT)
        assert record is not None
        whole = deliveries.of_record(connection, record.id)
    assert (house.our_records / record.document).read_bytes() == xml
    assert (record.instrument_pid, record.user, record.timezone) == (PID, "ann", "America/New_York")
    columns = "destination, state, remote_record_id, remote_record_url, remote_metadata, depends_on, updates"
    assert house.rows(f"SELECT {columns} FROM delivery WHERE record_id = {record.id} ORDER BY 1") == [
        ("cdcs", "succeeded", "17", "https://cdcs.example.org/17", {"workspace": 3}, [], True),
        ("elabftw", "succeeded", "17", "https://elabftw.example.org/17", {}, ["cdcs"], True),
    ]
    assert house.rows(f"SELECT remote FROM delivery WHERE record_id = {record.id} ORDER BY destination") == [
        ({"record": {"id": "17", "content": None}},),
        ({"experiment": {"id": "17", "content": None}},),
    ]
    assert outdated(whole) == []
    # a time without a zone is the instrument's
    assert whole.deliveries[0].succeeded_at == datetime(2026, 3, 4, 13, 0, 0, 123456, tzinfo=UTC)


def test_a_failed_upload_is_a_failed_delivery_that_can_be_retried(house: House, file: NexusLimsFile) -> None:
    fill(house, file)
    house.take_over(file.file)
    assert house.rows(
        "SELECT destination, delivery.state, error_message FROM delivery JOIN record ON record.id = record_id "
        f"WHERE session_identifier = '{UUID}' ORDER BY 1"
    ) == [("cdcs", "succeeded", None), ("elabftw", "failed", "The key is wrong")]


def test_nothing_is_due_after_it(house: House, file: NexusLimsFile) -> None:
    fill(house, file)
    house.take_over(file.file)
    assert house.rows("SELECT 1 FROM delivery WHERE state IN ('pending', 'retrying')") == []
    with transaction(engine_for(house.url)) as connection:
        assert planning.due(connection, {"cdcs": 16, "elabftw": 16}, ()) == []


def test_the_page_in_labarchives_is_known_by_its_link(house: House, file: NexusLimsFile) -> None:
    file.add_session(UUID, "COMPLETED")
    house.built(f"2026-03-02_{PID}_6c7d3f14.xml")
    link = "https://mynotebook.labarchives.com/#/notebook-5/tree-9"
    file.add_upload(UUID, "labarchives", record_id="entry-3", record_url=link)
    house.take_over(file.file)
    assert house.rows("SELECT remote_record_id, remote_record_url, remote FROM delivery") == [
        ("entry-3", link, {"page": {"id": "tree-9", "content": "notebook-5"}})
    ]


def test_an_exported_session_without_its_document_gets_no_record_and_this_is_said(
    house: House, file: NexusLimsFile
) -> None:
    fill(house, file)
    report = house.take_over(file.file)
    [said] = report["without_record"]
    assert said["what"] == "session lost-document"
    assert said["reason"].startswith(f"Its record 2026-03-02_{PID}_lost.xml is not in {house.records}")
    assert house.rows("SELECT 1 FROM record WHERE session_identifier = 'lost-document'") == []
    assert house.rows("SELECT success FROM upload_log WHERE session_identifier = 'lost-document'") == [(1,)]
    # if it is built again some day, the destinations are looked through first
    assert house.rows("SELECT count(*) FROM restore") == [(1,)]


def test_a_document_found_later_completes_it(house: House, file: NexusLimsFile) -> None:
    fill(house, file)
    house.take_over(file.file)
    house.built(f"2026-03-02_{PID}_lost.xml")
    report = house.take_over(file.file)
    assert (report["records_new"], report["deliveries_succeeded"], report["without_record"]) == (1, 1, [])


def test_a_session_without_its_document_that_is_built_again_begins_with_what_nexuslims_made(
    house: House, file: NexusLimsFile
) -> None:
    fill(house, file)
    file.add_upload("lost-document", "elabftw", success=False, error_message="502")
    house.take_over(file.file)
    house.take_over(file.file)
    start = datetime(2026, 3, 2, 15, tzinfo=UTC)
    xml = write_record(RecordContent("lost-document", PID, "Titan", "Built again", "ann", start, start, ()))
    export_records([RecordToExport("lost-document", PID, start, start, "UTC", "ann", xml)], current_deployment())
    assert house.rows(
        "SELECT destination, delivery.state, remote FROM delivery JOIN record ON record.id = record_id "
        "WHERE session_identifier = 'lost-document' ORDER BY 1"
    ) == [("cdcs", "pending", {"record": {"id": "17", "content": None}}), ("elabftw", "pending", {})]


def test_two_sessions_never_share_a_document(house: House, file: NexusLimsFile) -> None:
    house.built(f"2026-03-02_{PID}_same.xml")
    for session in ("same-1", "same-2"):
        file.add_session(session, "COMPLETED")
        file.add_upload(session, "cdcs")
    assert house.take_over(file.file)["records_new"] == 0


def test_a_damaged_document_is_said_and_stops_nothing(house: House, file: NexusLimsFile) -> None:
    fill(house, file)
    (house.records / f"2026-03-02_{PID}_6c7d3f14.xml").write_text("<Experiment")
    report = house.take_over(file.file)
    assert report["records_new"] == 1
    assert any("is damaged" in each["reason"] for each in report["without_record"])


def test_a_database_from_before_the_upload_log_is_taken_over_without_deliveries(house: House) -> None:
    old = NexusLimsFile(house.theirs / "old.db", OLD)
    old.add_session(UUID, "COMPLETED", offset="")
    old.add_session("to build", "TO_BE_BUILT", offset="")
    house.built(f"2026-03-02_{PID}_6c7d3f14.xml")
    report = house.take_over(old.file)
    assert (report["sessions_new"], report["records_new"], report["uploads_new"]) == (2, 0, 0)
    assert report["without_record"] == [
        {"what": f"session {UUID}", "reason": "NexusLIMS has logged no upload of it."},
    ]
    assert house.rows("SELECT display_name, filestore_path, timezone FROM instruments") == [
        ("FEI Titan TEM", "Titan_TEM", "America/New_York")
    ]
    assert house.rows("SELECT DISTINCT min(timestamp) FROM session_log") == [(datetime(2026, 3, 2, 15, tzinfo=UTC),)]


def test_what_nexuslims_does_meanwhile_is_taken_over_the_next_time(house: House, file: NexusLimsFile) -> None:
    file.add_session(UUID, "TO_BE_BUILT")
    house.take_over(file.file)
    file.do("UPDATE session_log SET record_status = 'COMPLETED'")
    file.add_upload(UUID, "cdcs")
    house.built(f"2026-03-02_{PID}_6c7d3f14.xml")
    report = house.take_over(file.file)
    assert (report["sessions_updated"], report["records_new"]) == (1, 1)
    assert house.rows("SELECT DISTINCT record_status FROM session_log") == [("COMPLETED",)]
    assert house.rows("SELECT count(*) FROM session_log") == [(2,)]


def test_what_happened_here_meanwhile_stays(house: House, file: NexusLimsFile) -> None:
    file.add_session(UUID, "TO_BE_BUILT")
    house.take_over(file.file)
    with transaction(engine_for(house.url)) as connection:
        connection.execute(text("UPDATE session_log SET record_status = 'NO_FILES_FOUND'"))
        connection.execute(text("UPDATE instruments SET timezone = 'Europe/Berlin', location = 'Building 2'"))
    before = house.everything()
    assert house.take_over(file.file)["sessions_kept"] == 1
    assert house.everything() == before


def test_a_record_that_was_handed_over_to_us_is_not_taken_for_an_export(house: House, file: NexusLimsFile) -> None:
    file.add_session(UUID, "COMPLETED")
    file.add_upload(UUID, "nexus_tasks")
    house.take_over(file.file)
    assert house.rows("SELECT 1 FROM upload_log") == []
    assert house.rows("SELECT 1 FROM record") == []


def test_rows_that_make_no_sense_are_left_out_with_their_reason(house: House, file: NexusLimsFile) -> None:
    file.add_session("good", "TO_BE_BUILT")
    file.add_event("no time", "START", "yesterday", "TO_BE_BUILT")
    file.add_event("no status", "START", "2026-03-02T10:00:00", "DONE")
    file.add_event("no event", "MIDDLE", "2026-03-02T10:00:00", "TO_BE_BUILT")
    file.add_event("no instrument", "START", "2026-03-02T10:00:00", "TO_BE_BUILT", pid="gone")
    file.add_upload("nobody", "cdcs")
    report = house.take_over(file.file)
    assert house.rows("SELECT DISTINCT session_identifier FROM session_log") == [("good",)]
    assert {each["what"]: each["reason"] for each in report["skipped"]} == {
        "session no time": "'yesterday' is not a time.",
        "session no status": "There is no status 'DONE'.",
        "session no event": "There is no event 'MIDDLE'.",
        "session no instrument": "Its instrument gone is not taken over.",
        "upload of session nobody to cdcs": "Its session is not taken over.",
    }


def test_a_build_that_was_broken_off_does_not_hide_the_sessions_status(house: House, file: NexusLimsFile) -> None:
    file.add_session(UUID, "TO_BE_BUILT")
    file.add_event(UUID, "RECORD_GENERATION", "2026-03-04T08:00:00-05:00", "WAITING_FOR_END", user="nexuslims")
    house.take_over(file.file)
    assert house.rows("SELECT DISTINCT record_status FROM session_log") == [("TO_BE_BUILT",)]


@pytest.mark.parametrize("revision", ["2e1408e573b1", "v1_4_3", "v2_4_0_2", "v2_4_0b", "v2_5_0a"])
def test_the_database_of_an_older_release_or_checkout_is_taken_over(
    house: House, file: NexusLimsFile, revision: str
) -> None:
    fill(house, file)
    file.do(f"UPDATE alembic_version SET version_num = '{revision}'")
    assert house.take_over(file.file)["sessions_new"] == 9


def test_a_dry_run_says_the_same_and_keeps_nothing(house: House, file: NexusLimsFile) -> None:
    fill(house, file)
    report = house.take_over(file.file, "--dry-run")
    assert not any(house.everything().values())
    assert not house.our_records.exists()
    assert house.take_over(file.file) == {**report, "dry_run": False}


def test_people_are_told_in_sentences(house: House, file: NexusLimsFile) -> None:
    fill(house, file)
    lines = house.run(file.file, "--records", house.records).output.splitlines()
    assert lines[:5] == [
        "Instruments: 1 new, 0 known before.",
        "Sessions: 9 new, 0 updated, 0 unchanged, 0 left as nexus-tasks has them.",
        "Upload log: 6 new rows.",
        "Records: 2 new.",
        "Deliveries: 3 succeeded, 1 failed.",
    ]
    assert lines[5].startswith("No record for session lost-document: Its record")


def _not_sqlite(file: Path) -> None:
    file.write_text("This is not a database, although it is long enough to be taken for the head of one." * 20)


def _another_schema(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE notes (id INTEGER)")


def _half_the_columns(file: Path) -> None:
    NexusLimsFile(file).do("ALTER TABLE session_log DROP COLUMN record_status")


def _from_the_future(file: Path) -> None:
    NexusLimsFile(file).do("UPDATE alembic_version SET version_num = 'v9_0_0'")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda _: None, "There is no file"),
        (Path.mkdir, "There is no file"),
        (_not_sqlite, "cannot be read as an SQLite database"),
        (_another_schema, "no NexusLIMS database of version 1.4 or newer: its table instruments is missing"),
        (_half_the_columns, "its table session_log has no column record_status"),
        (_from_the_future, "at revision v9_0_0, which this version does not know"),
    ],
)
def test_what_is_no_nexuslims_database_is_refused_in_one_line(
    house: House, make: Callable[[Path], None], says: str
) -> None:
    file = house.theirs / "given.db"
    make(file)
    assert says in refused(house, house.run(file))


def test_a_folder_of_records_that_is_not_there_is_refused(house: House, file: NexusLimsFile) -> None:
    assert "There is no folder" in refused(house, house.run(file.file, "--records", house.theirs / "recrods"))
