from datetime import timedelta

import pytest
from sqlalchemy import Connection, text

from nexus_tasks.db import deliveries, runs, upload_log
from nexus_tasks.db.rows import AttemptEnd
from nexus_tasks.states import AttemptState, DeliveryState
from tests.integration.db import CDCS, ELABFTW, add_record, add_run

SESSION = "https://nemo.example.org/api/usage_events/?id=303"
LOGGED = [AttemptState.SUCCEEDED, AttemptState.TRANSIENT, AttemptState.PERMANENT, AttemptState.CONFIGURATION]


def attempt_all(connection: Connection, record_id: int, state: AttemptState, message: str | None = None) -> None:
    """One run over all deliveries of the record, whose attempts end like this."""
    rows = {row.id: row for row in deliveries.of_record(connection, record_id).deliveries}
    _, _, attempts = add_run(connection, record_id, list(rows))
    for delivery_id, attempt_id in attempts.items():
        attempt = runs.lock_attempt(connection, attempt_id)
        assert attempt is not None
        if not state.ended:
            continue
        succeeded = state is AttemptState.SUCCEEDED
        end = AttemptEnd(
            state,
            DeliveryState.SUCCEEDED if succeeded else DeliveryState.RETRYING,
            wait=None if succeeded else timedelta(0),
            error_message=message,
            remote_record_id="7" if succeeded else None,
            remote_record_url="https://example.org/7" if succeeded else None,
            remote_metadata={"title": rows[delivery_id].destination} if succeeded else None,
        )
        result = {"record_id": end.remote_record_id, "record_url": end.remote_record_url}
        runs.end(connection, attempt, end, result)
    runs.close_ended(connection, record_id)


@pytest.mark.parametrize("state", AttemptState)
def test_an_attempt_is_logged_when_the_destination_or_its_settings_gave_an_answer(
    connection: Connection, state: AttemptState
) -> None:
    record_id = add_record(connection, SESSION, CDCS)
    attempt_all(connection, record_id, state)
    upload_log.write_missing(connection, record_id, SESSION)
    assert len(upload_log.of_session(connection, SESSION)) == (state in LOGGED)


def test_a_success_is_logged_with_its_identifier_and_link(connection: Connection) -> None:
    record_id = add_record(connection, SESSION, CDCS)
    attempt_all(connection, record_id, AttemptState.SUCCEEDED)
    upload_log.write_missing(connection, record_id, SESSION)
    [row] = upload_log.of_session(connection, SESSION)
    assert (row.destination_name, row.success, row.error_message) == ("cdcs", 1, None)
    assert (row.record_id, row.record_url) == ("7", "https://example.org/7")
    assert connection.execute(text("SELECT metadata_json FROM upload_log")).scalar_one() == {"title": "cdcs"}


def test_a_failure_is_logged_with_its_message(connection: Connection) -> None:
    record_id = add_record(connection, SESSION, CDCS)
    attempt_all(connection, record_id, AttemptState.TRANSIENT, "CDCS is away")
    upload_log.write_missing(connection, record_id, SESSION)
    [row] = upload_log.of_session(connection, SESSION)
    assert (row.success, row.error_message, row.record_id, row.record_url) == (0, "CDCS is away", None, None)


def test_an_attempt_is_logged_once_however_often_it_is_asked_for(connection: Connection) -> None:
    record_id = add_record(connection, SESSION, CDCS, ELABFTW)
    attempt_all(connection, record_id, AttemptState.TRANSIENT)
    for _ in range(2):
        upload_log.write_missing(connection, record_id, SESSION)
    assert len(upload_log.of_session(connection, SESSION)) == 2
    attempt_all(connection, record_id, AttemptState.SUCCEEDED)
    for _ in range(2):
        upload_log.write_missing(connection, record_id, SESSION)
    assert len(upload_log.of_session(connection, SESSION)) == 4


def test_writing_the_log_says_how_many_rows_were_missing(connection: Connection) -> None:
    record_id = add_record(connection, SESSION, CDCS, ELABFTW)
    attempt_all(connection, record_id, AttemptState.TRANSIENT)
    assert upload_log.write_missing(connection, record_id, SESSION) == 2
    assert upload_log.write_missing(connection, record_id, SESSION) == 0


def test_the_time_in_the_log_is_when_the_attempt_ended(connection: Connection) -> None:
    record_id = add_record(connection, SESSION, CDCS)
    attempt_all(connection, record_id, AttemptState.TRANSIENT)
    connection.execute(text("UPDATE attempt SET ended_at = '2025-01-27T12:00:00Z'"))
    upload_log.write_missing(connection, record_id, SESSION)
    [row] = upload_log.of_session(connection, SESSION)
    assert row.timestamp.isoformat() == "2025-01-27T12:00:00+00:00"


def test_the_log_of_a_session_is_newest_first_and_holds_no_other_session(connection: Connection) -> None:
    record_id = add_record(connection, SESSION, CDCS)
    other = add_record(connection, "other", CDCS)
    attempt_all(connection, record_id, AttemptState.TRANSIENT, "first")
    connection.execute(text("UPDATE attempt SET ended_at = ended_at - interval '1 hour'"))
    attempt_all(connection, record_id, AttemptState.TRANSIENT, "second")
    attempt_all(connection, other, AttemptState.PERMANENT, "not ours")
    upload_log.write_missing(connection, record_id, SESSION)
    upload_log.write_missing(connection, other, "other")
    assert [row.error_message for row in upload_log.of_session(connection, SESSION)] == ["second", "first"]
