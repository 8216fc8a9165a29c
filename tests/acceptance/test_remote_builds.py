"""Builds by real workers, one of which is killed in the middle of one."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.sandbox.waiting import wait_until
from nexus_tasks.states import SessionStatus
from tests.acceptance.conftest import InstallationMaker
from tests.acceptance.installation import START, Installation, finish, new_session

MANY_FILES = 500  # take some seconds: time enough to kill their reader's worker
SETTINGS = {
    "NX_BUILD_LEASE": "8",  # seconds: longer than a busy machine takes to start a process that reads files
    "NX_RUN_PATIENCE": "3",
}


def add_session(installation: Installation, session: str, files: int) -> None:
    """A session with an instrument of its own and that many small files."""
    folder: Path = installation.instruments / session
    folder.mkdir()
    for number in range(files):
        (folder / f"{number:03}.txt").write_text(f"file {number}", encoding="utf-8")
        moment = (START + timedelta(minutes=1, seconds=number)).timestamp()
        os.utime(folder / f"{number:03}.txt", (moment, moment))
    with transaction(installation.deployment.engine) as connection:
        sessions.add_instrument(connection, InstrumentRow(session, None, None, session, "Europe/Berlin"))
        row = SessionRow(session, session, START, START + timedelta(hours=1), "ann", SessionStatus.TO_BE_BUILT)
        sessions.add_session(connection, row)


@pytest.mark.thorough
def test_both_records_come_although_a_worker_is_killed_in_the_middle_of_one(
    make_installation: InstallationMaker,
) -> None:
    installation = make_installation(SETTINGS)
    large, small = new_session(), new_session()
    add_session(installation, large, MANY_FILES)
    add_session(installation, small, 2)
    installation.start_beat()
    worker = installation.start_worker("killed", concurrency=2)

    waiting = installation.begin("build", large, small, "--enqueue", "--wait", "--json")
    renewed = (
        "SELECT 1 FROM build_claim JOIN build_request USING (session_identifier) WHERE session_identifier = :session "
        "AND expires_at > begun_at + make_interval(secs => :lease)"
    )
    lease = float(SETTINGS["NX_BUILD_LEASE"])
    wait_until(lambda: bool(installation.rows(renewed, session=large, lease=lease + 0.1)), 60, "files to be read")
    worker.kill()
    assert installation.rows("SELECT 1 FROM record WHERE session_identifier = :session", session=large) == []
    installation.start_worker("second", concurrency=2)

    finished = finish(waiting)
    assert finished.status == 0, finished.errors
    documents = {document["session_identifier"]: document for document in finished.document}
    assert {document["record_status"] for document in documents.values()} == {"COMPLETED"}
    assert {document["problem"] for document in documents.values()} == {None}
    for session, files in ((large, MANY_FILES), (small, 2)):
        assert Path(documents[session]["record"]).read_bytes().count(b"</dataset>") == files
        generated = installation.rows(
            "SELECT count(*) FROM session_log WHERE session_identifier = :session AND event_type = 'RECORD_GENERATION'",
            session=session,
        )
        assert generated == [(1,)]
    assert installation.rows("SELECT deaths FROM build_request WHERE session_identifier = :session", session=large) == [
        (1,)
    ]

    # The same session built here is the same document.
    rebuilt = installation.command("build", large, "--rebuild", "--json")
    assert rebuilt.status == 0, rebuilt.errors
    assert rebuilt.document[0]["record"] == documents[large]["record"]


def test_what_a_worker_cannot_build_is_said_by_the_one_who_waits(installation: Installation) -> None:
    session = new_session()
    add_session(installation, session, 1)
    (installation.instruments / session).rename(installation.folder / session)

    finished = installation.command("build", session, "--enqueue", "--wait", "--json")

    assert finished.status == 1
    [document] = finished.document
    assert document["record_status"] == "TO_BE_BUILT"
    assert "check that the share is mounted" in document["problem"]
    assert "check that the share is mounted" in finished.errors


def test_who_does_not_wait_is_told_that_a_worker_builds(installation: Installation) -> None:
    session = new_session()
    add_session(installation, session, 1)

    finished = installation.command("build", session, "--enqueue")

    assert (finished.status, finished.output) == (0, f"{session} is to be built by a worker\n")
    query = "SELECT 1 FROM record WHERE session_identifier = :session"
    wait_until(lambda: bool(installation.rows(query, session=session)), 60, "the record")
    installation.wait_until_settled(session)
    again = installation.command("build", session, "--enqueue")
    assert (again.status, again.output) == (0, "There is nothing to build.\n")
