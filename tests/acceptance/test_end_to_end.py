"""The whole way with the real builder: files → record → CDCS → both notebooks, by commands and real processes."""

import base64
import hashlib
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from sqlalchemy import text

from nexus_tasks.builder.schema import NAMESPACE
from nexus_tasks.cli.waiting import at_rest
from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.monitoring.status import view
from nexus_tasks.sandbox import sample_data
from nexus_tasks.sandbox.services.cdcs.objects import PUBLIC_WORKSPACE
from nexus_tasks.sandbox.services.client import calls, objects
from nexus_tasks.sandbox.waiting import wait_until
from nexus_tasks.states import SessionStatus
from tests.acceptance.installation import START, Finished, Installation, finish, new_session, record_xml

MICROSCOPE = "Demo-SEM-01"
USER = "Ann <b>"  # an angle bracket, to see it escaped
DAY = sample_data.FIRST_SESSION
FILES = sample_data.PICTURES + 1


@dataclass(frozen=True)
class Exported:
    """A session that went the whole way, by commands: what they said, and what the stand-ins held afterwards."""

    session: str
    build: Finished
    shown_before: list[dict[str, Any]]
    xml: bytes
    records: list[dict[str, Any]]
    experiments: list[dict[str, Any]]
    notebook: list[dict[str, Any]]

    @property
    def document(self) -> dict[str, Any]:
        """The session, as `build --json` printed it."""
        [document] = self.build.document
        return dict(document)

    def delivery(self, destination: str) -> dict[str, Any]:
        return next(dict(found) for found in self.document["deliveries"] if found["destination"] == destination)

    @property
    def cdcs_link(self) -> str:
        return str(self.delivery("cdcs")["record_url"])


@pytest.fixture(scope="module")
def exported(running_installation: Installation) -> Exported:
    installation, session = running_installation, new_session()
    installation.stand_ins.reset()
    sample_data.make(installation.instruments, 1)
    arguments = ("--folder", MICROSCOPE, "--name", "Demo SEM", "--timezone", "Europe/Berlin")
    added = installation.command("instruments", "add", MICROSCOPE, *arguments)
    assert added.status == 0, added.errors
    times = ("--start", DAY.isoformat(), "--end", (DAY + timedelta(hours=1)).isoformat())
    added = installation.command("sessions", "add", session, "--instrument", MICROSCOPE, *times, "--user", USER)
    assert added.status == 0, added.errors
    shown_before = installation.command("sessions", "show", session, "--json").document
    build = installation.command("build", session, "--wait", "--json")
    stand_ins = installation.stand_ins
    return Exported(
        session,
        build,
        shown_before,
        installation.wait_until_archived(session).read_bytes(),
        objects(stand_ins.cdcs.url, content=True),
        objects(stand_ins.elabftw.url, content=True),
        objects(stand_ins.labarchives.url, content=True),
    )


def data_files(installation: Installation) -> list[str]:
    return sorted(path.name for path in (installation.instruments / MICROSCOPE).iterdir())


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_build_with_wait_ends_well_and_says_so_in_one_document(exported: Exported) -> None:
    assert exported.build.status == 0, exported.build.errors
    assert exported.build.errors == ""
    document = exported.document
    assert document["session_identifier"] == exported.session
    assert document["instrument"] == MICROSCOPE
    assert document["record_status"] == "COMPLETED"
    assert document["problem"] is None
    assert [delivery["destination"] for delivery in document["deliveries"]] == ["cdcs", "labarchives", "elabftw"]
    assert {delivery["state"] for delivery in document["deliveries"]} == {"succeeded"}
    assert {delivery["attempts"] for delivery in document["deliveries"]} == {1}


def test_the_record_names_the_files_and_is_put_away(installation: Installation, exported: Exported) -> None:
    record = etree.fromstring(exported.xml)
    names = [str(name.text) for name in record.iterfind(f".//{{{NAMESPACE}}}dataset/{{{NAMESPACE}}}name")]

    assert sorted(names) == data_files(installation)
    assert len(names) == FILES
    document = Path(exported.document["record"])
    assert document.parent == installation.records / "uploaded"
    assert document.read_bytes() == exported.xml
    assert not (installation.records / document.name).exists()


def test_cdcs_holds_the_file_byte_for_byte_in_the_public_workspace(
    installation: Installation, exported: Exported
) -> None:
    [held] = exported.records
    assert held["xml_content"].encode() == exported.xml
    assert held["workspace"] == PUBLIC_WORKSPACE
    assert held["title"] == f"2026-03-02_{MICROSCOPE}_{exported.session}"
    assert str(held["id"]) == exported.delivery("cdcs")["record_id"]
    assert exported.cdcs_link == f"{installation.stand_ins.cdcs.url}/data?id={held['id']}"


def test_elabftw_holds_one_experiment_with_fields_link_and_attachment(
    installation: Installation, exported: Exported
) -> None:
    [experiment] = exported.experiments
    assert experiment["title"] == f"NexusLIMS Experiment - {exported.session}"
    assert sorted(experiment["tags"]) == sorted(["NexusLIMS", MICROSCOPE, USER])
    metadata = experiment["metadata"]
    fields = (json.loads(metadata) if isinstance(metadata, str) else metadata)["extra_fields"]
    values = {name: field["value"] for name, field in fields.items()}
    assert values["Session ID"] == exported.session
    assert values["Instrument"] == MICROSCOPE
    assert values["User"] == USER
    assert values["CDCS URL"] == exported.cdcs_link
    assert values["Start"] == "2026-03-02T10:00:00"  # as it was where the instrument stands
    assert f'href="{exported.cdcs_link}"' in experiment["body"]
    assert "Ann &lt;b&gt;" in experiment["body"]
    assert USER not in experiment["body"]
    [upload] = experiment["uploads"]
    assert upload["sha256"] == sha256(exported.xml)
    assert upload["real_name"] == f"2026-03-02_{MICROSCOPE}_{exported.session}.xml"
    delivery, url = exported.delivery("elabftw"), installation.stand_ins.elabftw.url
    assert delivery["record_id"] == str(experiment["id"])
    assert delivery["record_url"] == f"{url}/experiments.php?mode=view&id={experiment['id']}"


def test_labarchives_holds_one_page_with_previews_link_and_attachment(
    installation: Installation, exported: Exported
) -> None:
    path = f"NexusLIMS Records/{MICROSCOPE}/2026-03-02 — {exported.session}"
    [page] = [found for found in exported.notebook if found["kind"] == "page"]
    assert page["path"] == path
    assert page["id"] == exported.delivery("labarchives")["record_id"]
    assert len([found for found in exported.notebook if found["kind"] == "folder"]) == 2
    entries = [found for found in exported.notebook if found["kind"] == "entry"]
    assert {entry["path"] for entry in entries} == {path}
    [summary] = [entry["entry_data"] for entry in entries if entry["filename"] is None]
    [attachment] = [entry for entry in entries if entry["filename"] is not None]
    assert attachment["sha256"] == sha256(exported.xml)
    assert attachment["filename"] == f"2026-03-02_{MICROSCOPE}_{exported.session}.xml"
    assert f'href="{exported.cdcs_link}"' in summary
    assert all(name in summary for name in data_files(installation))
    assert summary.count('<img src="data:image/png;base64,') == FILES
    assert USER not in summary


def test_status_log_and_sessions_tell_what_became_of_it(installation: Installation, exported: Exported) -> None:
    links = {delivery["destination"]: delivery["record_url"] for delivery in exported.document["deliveries"]}

    told = installation.commands(
        ["status", exported.session, "--json"],
        ["log", exported.session, "--json"],
        ["sessions", "show", exported.session, "--json"],
    )
    listed, log, [shown] = (command.document for command in told)
    [status] = listed["sessions"]

    assert [row["status"] for row in exported.shown_before] == ["TO_BE_BUILT"]
    assert (shown["instrument_pid"], shown["user"], shown["status"]) == (MICROSCOPE, USER, "COMPLETED")
    assert status == {key: value for key, value in exported.document.items() if key != "problem"}
    assert {row["destination_name"]: (row["success"], row["record_url"]) for row in log} == {
        name: (1, link) for name, link in links.items()
    }
    assert len(log) == 3


def test_a_session_that_is_completed_is_not_built_again(installation: Installation, exported: Exported) -> None:
    again = installation.command("build", exported.session, "--wait", "--json")

    assert again.status == 0
    assert again.document == []
    for stand_in in (installation.stand_ins.cdcs, installation.stand_ins.elabftw, installation.stand_ins.labarchives):
        assert calls(stand_in.url)["recent"] == []
    assert installation.delivered(exported.session).runs == [(1, "closed")]


def test_a_session_without_files_gets_its_status_and_goes_nowhere(
    installation: Installation, exported: Exported
) -> None:
    session, start = new_session(), DAY - timedelta(days=1000)
    row = SessionRow(session, MICROSCOPE, start, start + timedelta(hours=1), USER, SessionStatus.TO_BE_BUILT)
    with transaction(installation.deployment.engine) as connection:
        sessions.add_session(connection, row)

    [built] = installation.command("build", session, "--json").document

    assert built["record_status"] == "NO_FILES_FOUND"
    assert built["record"] is None
    assert built["deliveries"] == []


def test_a_record_made_elsewhere_is_exported_with_its_preview(installation: Installation, tmp_path: Path) -> None:
    session = new_session()
    record, picture = tmp_path / "theirs.xml", tmp_path / "overview.png"
    record.write_bytes(record_xml(session))
    picture.write_bytes(b"\x89PNG\r\n\x1a\n of somebody else's making")
    arguments = ("--session", session, "--instrument", "Their-TEM", "--user", "bob")
    times = ("--start", "2026-04-01T10:00:00+02:00", "--end", "2026-04-01T12:00:00+02:00")

    enqueued = installation.command("enqueue", record, *arguments, *times, "--preview", picture, "--wait", "--json")

    assert enqueued.status == 0, (enqueued.output, installation.history(session))
    assert enqueued.document["record_status"] == "COMPLETED"
    [held] = objects(installation.stand_ins.cdcs.url, content=True)
    assert held["xml_content"].encode() == record.read_bytes()
    notebook = objects(installation.stand_ins.labarchives.url, content=True)
    [page] = [found["path"] for found in notebook if found["kind"] == "page"]
    assert page == f"NexusLIMS Records/Their-TEM/2026-04-01 — {session}"
    [summary] = [found["entry_data"] for found in notebook if found.get("part_type") == "text entry"]
    assert base64.b64encode(picture.read_bytes()).decode() in summary
    assert len(objects(installation.stand_ins.elabftw.url)) == 1


def test_handing_the_same_record_over_again_changes_nothing(installation: Installation) -> None:
    session = new_session()
    first = installation.hand_over(session)
    installation.wait_until_settled(session)
    before = installation.delivered(session)

    second = installation.hand_over(session)
    installation.wait_until_settled(session)

    assert second.record_ids == first.record_ids
    assert installation.delivered(session) == before
    assert before.status == "COMPLETED"
    assert len(objects(installation.stand_ins.cdcs.url)) == 1


def test_nothing_is_at_rest_while_the_last_answer_is_not_settled(installation: Installation) -> None:
    """Otherwise `--wait` would see a session that is not completed, and end with a failure, a moment too early."""
    session, engine = new_session(), installation.deployment.engine
    with ExitStack() as settling_is_held_up:
        with installation.frozen_worker():
            installation.hand_over(session)
            connection = settling_is_held_up.enter_context(engine.begin())
            lock = "SELECT 1 FROM record WHERE session_identifier = :session FOR NO KEY UPDATE"
            connection.execute(text(lock), {"session": session})
        wait_until(
            lambda: set(installation.delivered(session).deliveries.values()) == {"succeeded"}, 20, "the last answer"
        )
        seen = view(engine, installation.deployment.settings, [session])
        assert [found.record_status for found in seen] == ["BUILT_NOT_EXPORTED"]
        assert not at_rest(seen)
    installation.wait_until_settled(session)
    assert installation.status(session) == "COMPLETED"


def test_two_builders_at_once_share_twenty_sessions(installation: Installation) -> None:
    instrument, count = "Shared-SEM", 20
    folder = installation.instruments / instrument
    folder.mkdir()
    identifiers = [new_session() for _ in range(count)]
    with transaction(installation.deployment.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow(instrument, None, None, instrument, "UTC"))
        for number, identifier in enumerate(identifiers):
            start = START + timedelta(days=number)
            end = start + timedelta(hours=1)
            row = SessionRow(identifier, instrument, start, end, "ann", SessionStatus.TO_BE_BUILT)
            sessions.add_session(connection, row)
            file = folder / f"notes_{number:02d}.txt"
            file.write_text(f"session {number}", encoding="utf-8")
            written = (start + timedelta(minutes=30)).timestamp()
            os.utime(file, (written, written))

    builders = [installation.begin("build", *identifiers, "--wait", "--json") for _ in range(2)]
    finished = [finish(builder) for builder in builders]

    undone = [item for builder in finished for item in builder.document if item["record_status"] != "COMPLETED"]
    assert [builder.status for builder in finished] == [0, 0], [
        (item, installation.history(item["session_identifier"])) for item in undone
    ]
    built = [item["session_identifier"] for builder in finished for item in builder.document]
    assert sorted(built) == sorted(identifiers)
    installation.wait_until_settled(*identifiers)
    generated = installation.rows(
        "SELECT session_identifier, count(*) FROM session_log "
        "WHERE event_type = 'RECORD_GENERATION' AND session_identifier = ANY(:sessions) GROUP BY 1",
        sessions=identifiers,
    )
    assert sorted(generated) == sorted((identifier, 1) for identifier in identifiers)
    titles = sorted(record["title"] for record in objects(installation.stand_ins.cdcs.url))
    assert len(titles) == len(set(titles)) == count
    experiments = sorted(found["title"] for found in objects(installation.stand_ins.elabftw.url))
    assert experiments == sorted(f"NexusLIMS Experiment - {identifier}" for identifier in identifiers)
    notebook = objects(installation.stand_ins.labarchives.url)
    pages = [found["path"] for found in notebook if found["kind"] == "page"]
    assert len(pages) == len(set(pages)) == count
    assert {path.rpartition(" — ")[2] for path in pages} == set(identifiers)
    folders = [found["path"] for found in notebook if found["kind"] == "folder"]
    assert sorted(folders) == ["NexusLIMS Records", f"NexusLIMS Records/{instrument}"]
    log = installation.rows(
        "SELECT session_identifier, destination_name, success FROM upload_log "
        "WHERE session_identifier = ANY(:sessions)",
        sessions=identifiers,
    )
    assert sorted(log) == sorted(
        (identifier, destination, 1) for identifier in identifiers for destination in ("cdcs", "elabftw", "labarchives")
    )
