from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import Connection, text

from nexus_tasks.db import attempts, deliveries, reconciling, upload_log
from nexus_tasks.db.rows import AttemptEnd
from nexus_tasks.states import AttemptState, DeliveryState
from tests.integration.db import CDCS, ELABFTW, add_record, add_run, begin

SESSION = "https://nemo.example.org/api/usage_events/?id=303"
LOGGED = [AttemptState.SUCCEEDED, AttemptState.TRANSIENT, AttemptState.PERMANENT, AttemptState.CONFIGURATION]


def attempt_all(connection: Connection, record_id: int, state: AttemptState, message: str | None = None) -> None:
    """One run over all deliveries of the record, whose attempts end like this."""
    rows = {row.id: row for row in deliveries.of_record(connection, record_id).deliveries}
    _, _, planned = add_run(connection, record_id, list(rows))
    for delivery_id, attempt_id in planned.items():
        if state is AttemptState.CANCELLED:
            attempts.cancel(connection, [attempt_id])
        elif state is AttemptState.ORPHANED:
            attempts.orphan(connection, [attempt_id])
        elif state is not AttemptState.PLANNED:
            lease = begin(connection, attempt_id)
            if state is AttemptState.EXPIRED:
                attempts.expire(connection, attempt_id, message, "fingerprint")
            elif state is not AttemptState.STARTED:
                finish(connection, attempt_id, lease, rows[delivery_id].destination, state, message)


def finish(
    connection: Connection, attempt_id: int, lease: UUID, destination: str, state: AttemptState, message: str | None
) -> None:
    succeeded = state is AttemptState.SUCCEEDED
    end = AttemptEnd(
        state,
        DeliveryState.SUCCEEDED if succeeded else DeliveryState.RETRYING,
        wait=None if succeeded else timedelta(0),
        error_message=message,
        remote_record_id="7" if succeeded else None,
        remote_record_url="https://example.org/7" if succeeded else None,
        remote_metadata={"title": destination} if succeeded else None,
    )
    result = {"record_id": end.remote_record_id, "record_url": end.remote_record_url}
    assert attempts.finish(connection, attempt_id, lease, end, result=result, known={}, fingerprint="fingerprint")


def write_missing(connection: Connection, record_id: int) -> None:
    """What reconcile does first: close the run, log what the attempts have come to."""
    reconciling.close_and_log(connection, reconciling.lock(connection, record_id))


@pytest.mark.parametrize("state", AttemptState)
def test_an_attempt_is_logged_when_the_destination_or_its_settings_gave_an_answer(
    connection: Connection, state: AttemptState
) -> None:
    record_id = add_record(connection, SESSION, CDCS)
    attempt_all(connection, record_id, state)
    write_missing(connection, record_id)
    assert len(upload_log.of_session(connection, SESSION)) == (state in LOGGED)


def test_a_success_is_logged_with_its_identifier_and_link(connection: Connection) -> None:
    record_id = add_record(connection, SESSION, CDCS)
    attempt_all(connection, record_id, AttemptState.SUCCEEDED)
    write_missing(connection, record_id)
    [row] = upload_log.of_session(connection, SESSION)
    assert (row.destination_name, row.success, row.error_message) == ("cdcs", 1, None)
    assert (row.record_id, row.record_url) == ("7", "https://example.org/7")
    assert connection.execute(text("SELECT metadata_json FROM upload_log")).scalar_one() == {"title": "cdcs"}


def test_a_failure_is_logged_with_its_message(connection: Connection) -> None:
    record_id = add_record(connection, SESSION, CDCS)
    attempt_all(connection, record_id, AttemptState.TRANSIENT, "CDCS is away")
    write_missing(connection, record_id)
    [row] = upload_log.of_session(connection, SESSION)
    assert (row.success, row.error_message, row.record_id, row.record_url) == (0, "CDCS is away", None, None)


def test_an_attempt_is_logged_once_however_often_it_is_asked_for(connection: Connection) -> None:
    record_id = add_record(connection, SESSION, CDCS, ELABFTW)
    attempt_all(connection, record_id, AttemptState.TRANSIENT)
    for _ in range(2):
        write_missing(connection, record_id)
    assert len(upload_log.of_session(connection, SESSION)) == 2
    attempt_all(connection, record_id, AttemptState.SUCCEEDED)
    for _ in range(2):
        write_missing(connection, record_id)
    assert len(upload_log.of_session(connection, SESSION)) == 4


def test_a_death_is_logged_only_when_the_delivery_fails_by_it(connection: Connection) -> None:
    record_id = add_record(connection, SESSION, CDCS)
    attempt_all(connection, record_id, AttemptState.EXPIRED)
    write_missing(connection, record_id)
    assert upload_log.of_session(connection, SESSION) == []
    attempt_all(connection, record_id, AttemptState.EXPIRED, "The worker died 5 times")
    write_missing(connection, record_id)
    [row] = upload_log.of_session(connection, SESSION)
    assert (row.success, row.error_message) == (0, "The worker died 5 times")


def test_the_time_in_the_log_is_when_the_attempt_ended(connection: Connection) -> None:
    record_id = add_record(connection, SESSION, CDCS)
    attempt_all(connection, record_id, AttemptState.TRANSIENT)
    connection.execute(text("UPDATE attempt SET ended_at = '2025-01-27T12:00:00Z'"))
    write_missing(connection, record_id)
    [row] = upload_log.of_session(connection, SESSION)
    assert row.timestamp.isoformat() == "2025-01-27T12:00:00+00:00"


def test_the_log_of_a_session_is_newest_first_and_holds_no_other_session(connection: Connection) -> None:
    record_id = add_record(connection, SESSION, CDCS)
    other = add_record(connection, "other", CDCS)
    attempt_all(connection, record_id, AttemptState.TRANSIENT, "first")
    connection.execute(text("UPDATE attempt SET ended_at = ended_at - interval '1 hour'"))
    connection.execute(text("UPDATE run SET state = 'closed'"))
    attempt_all(connection, record_id, AttemptState.TRANSIENT, "second")
    attempt_all(connection, other, AttemptState.PERMANENT, "not ours")
    write_missing(connection, record_id)
    write_missing(connection, other)
    assert [row.error_message for row in upload_log.of_session(connection, SESSION)] == ["second", "first"]
