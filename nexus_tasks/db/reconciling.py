"""The statements of reconcile: a record under its lock, what its attempts imply, and what is written of it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from nexus_tasks.db.columns import DELIVERY, delivery_row, record_row
from nexus_tasks.db.rows import RecordDeliveries, RecordRow
from nexus_tasks.states import AttemptState, SessionStatus

_LOCK = text("SELECT * FROM record WHERE id = :record FOR NO KEY UPDATE")
_LOCK_OF_RUN = text("SELECT * FROM record WHERE id = (SELECT record_id FROM run WHERE id = :run) FOR NO KEY UPDATE")
_LOGGED = ", ".join(f"'{state}'" for state in AttemptState if state.logged)
# A death is no answer, unless the delivery failed by it; only then it has a message.
_CLOSE = text(f"""
    WITH closed AS (
        UPDATE run SET state = 'closed', closed_at = now()
        WHERE record_id = :record AND state = 'open' AND NOT EXISTS (
            SELECT FROM attempt WHERE attempt.run_id = run.id AND attempt.state IN ('planned', 'started', 'orphaned')
        )
    ), logged AS (
        INSERT INTO upload_log (session_identifier, destination_name, success, timestamp, record_id, record_url,
            error_message, metadata_json, attempt_id)
        SELECT :session, attempt.destination, CAST(attempt.state = 'succeeded' AS int), attempt.ended_at,
            attempt.result ->> 'record_id', attempt.result ->> 'record_url', attempt.error_message,
            CASE WHEN attempt.state = 'succeeded' THEN delivery.remote_metadata ELSE '{{}}' END, attempt.id
        FROM run
        JOIN attempt ON attempt.run_id = run.id
        JOIN delivery ON delivery.id = attempt.delivery_id
        WHERE run.record_id = :record
            AND (attempt.state IN ({_LOGGED}) OR attempt.state = 'expired' AND attempt.error_message IS NOT NULL)
            AND NOT EXISTS (SELECT FROM upload_log WHERE upload_log.attempt_id = attempt.id)
        ORDER BY attempt.ended_at, attempt.id
        ON CONFLICT (attempt_id) DO NOTHING
    )
    SELECT {DELIVERY},
        (SELECT max(record_status) FROM session_log WHERE session_identifier = :session) AS session_status,
        delivery.next_attempt_at <= now() AS is_time
    FROM (SELECT) AS always LEFT JOIN delivery ON delivery.record_id = :record
    ORDER BY delivery.priority DESC, delivery.destination
""")
# An attempt ends without the record's lock: what it has changed since the deliveries were read stays.
_WRITE = text("""
    UPDATE delivery SET
        state = changed.state, waits_for = changed.waits_for,
        error_message = CASE WHEN changed.renewed THEN NULL ELSE coalesce(changed.reason, error_message) END,
        next_attempt_at = CASE WHEN changed.renewed THEN now() ELSE next_attempt_at END,
        failures = CASE WHEN changed.renewed THEN 0 ELSE failures END,
        deaths = CASE WHEN changed.renewed THEN 0 ELSE deaths END
    FROM unnest(CAST(:ids AS int[]), CAST(:before AS text[]), CAST(:states AS text[]), CAST(:waits AS text[]),
        CAST(:reasons AS text[]), CAST(:renewed AS bool[])) AS changed (id, before, state, waits_for, reason, renewed)
    WHERE delivery.id = changed.id AND delivery.state = changed.before
""")
_SET_STATUS = text("""
    UPDATE session_log SET record_status = :status
    WHERE session_identifier = :session AND record_status NOT IN (:status, 'COMPLETED')
""")


@dataclass(frozen=True)
class Changed:
    """What reconcile changes in a delivery that is not being attempted."""

    id: int
    before: str  # the state in which it was read
    state: str
    waits_for: str
    reason: str | None = None  # of one that is skipped
    renewed: bool = False  # its inputs have changed: failures are forgotten, and it is due now


@dataclass(frozen=True)
class Reconcilable:
    """A record, locked, with everything that its attempts have come to."""

    deliveries: RecordDeliveries
    session_status: SessionStatus | None
    due: frozenset[int]  # the deliveries whose time has come


def lock(connection: Connection, record_id: int) -> RecordRow:
    """The record, locked until the end of the transaction: verdicts about it are made one after the other."""
    return record_row(connection.execute(_LOCK, {"record": record_id}).mappings().one())


def lock_of_run(connection: Connection, run_id: int) -> RecordRow | None:
    """As `lock`, of the record that a run belongs to; None when there is no such run."""
    row = connection.execute(_LOCK_OF_RUN, {"run": run_id}).mappings().one_or_none()
    return None if row is None else record_row(row)


def close_and_log(connection: Connection, record: RecordRow) -> Reconcilable:
    """Close the record's run if its attempts have ended, log their answers, and read what the deliveries are now."""
    parameters = {"record": record.id, "session": record.session_identifier}
    found = connection.execute(_CLOSE, parameters).mappings().all()
    rows = [each for each in found if each["id"] is not None]
    status = found[0]["session_status"]
    return Reconcilable(
        RecordDeliveries(
            record.id,
            record.strategy,
            tuple(delivery_row(each) for each in rows),
            record.sha256,
            record.session_identifier,
        ),
        None if status is None else SessionStatus(status),
        frozenset(each["id"] for each in rows if each["is_time"]),
    )


def write(connection: Connection, changed: Collection[Changed]) -> None:
    """Write what became of deliveries."""
    if changed:
        connection.execute(
            _WRITE,
            {
                "ids": [each.id for each in changed],
                "before": [each.before for each in changed],
                "states": [each.state for each in changed],
                "waits": [each.waits_for for each in changed],
                "reasons": [each.reason for each in changed],
                "renewed": [each.renewed for each in changed],
            },
        )


def set_status(connection: Connection, session_identifier: str, status: SessionStatus) -> None:
    """Give every row of the session this status; `COMPLETED` is never taken back."""
    parameters: Mapping[str, Any] = {"session": session_identifier, "status": status.value}
    connection.execute(_SET_STATUS, parameters)
