"""The statements of an attempt: start, commit an intent, finish, schedule a retry, snooze, expire, cancel.

The phases that every attempt passes through are one statement each, and that is a transaction of its own. Rows are
locked in one order, so that nobody waits in a circle: record, run, attempt, delivery, destination. Where one statement
changes several rows, each change reads what the one before it has returned, which keeps that order.

A `started` attempt belongs to an open run: whoever closes a run ends its attempts first, or orphans them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import Connection, CursorResult, Engine, RowMapping, text

from nexus_tasks.db.columns import ANY_INTENT, BREAKER, DELIVERY_JSON, Found, breaker, delivery_rows_of_json, record_row
from nexus_tasks.db.engine import execute
from nexus_tasks.db.rows import AttemptEnd, AttemptRow, Breaker, RecordDeliveries, RecordRow
from nexus_tasks.states import AttemptState, DeliveryState, RunKind, RunState

Known = Mapping[str, Mapping[str, Any]]  # step → what is known of its remote object

_START = text(f"""
    WITH started AS (
        UPDATE attempt
        SET state = 'started', tries = attempt.tries + 1, lease_token = :lease, lease_expires_at = now() + :lasting,
            try_started_at = now(), started_at = coalesce(attempt.started_at, now())
        FROM run
        WHERE attempt.id = :attempt AND attempt.state IN ('planned', 'started') AND attempt.lease_token IS NULL
            AND run.id = attempt.run_id AND run.token = :token AND run.state = 'open'
        RETURNING attempt.id, attempt.delivery_id, attempt.destination, attempt.tries, attempt.error_message,
            run.id AS run_id, run.record_id, run.kind
    )
    SELECT started.id AS attempt_id, started.run_id, started.delivery_id, started.tries, started.kind,
        started.error_message AS last_error, started.destination AS at, now() AS now, record.*,
        delivery.remote, delivery.look_up_first, delivery.failures, delivery.deaths,
        coalesce(destination.remote, '{{}}') AS shared, destination.last_call_at, {BREAKER},
        (SELECT jsonb_agg({DELIVERY_JSON} ORDER BY delivery.priority DESC, delivery.destination)
         FROM delivery WHERE delivery.record_id = started.record_id) AS deliveries
    FROM started
    JOIN record ON record.id = started.record_id
    JOIN delivery ON delivery.id = started.delivery_id
    LEFT JOIN destination ON destination.name = started.destination
""")

_EXTEND = text("""
    WITH held AS (
        UPDATE attempt SET lease_expires_at = greatest(lease_expires_at, now() + :lasting),
            input_fingerprint = :fingerprint
        WHERE id = :attempt AND state = 'started' AND lease_token = :lease AND lease_expires_at > now()
        RETURNING delivery_id
    ), kept AS (
        UPDATE delivery SET remote = delivery.remote || :known FROM held
        WHERE delivery.id = held.delivery_id AND :known <> CAST('{}' AS jsonb)
    )
    SELECT delivery_id FROM held
""")

_KEEP = text("""
    UPDATE delivery SET remote = remote || coalesce(
        (SELECT jsonb_object_agg(made.key, made.value) FROM jsonb_each(:known) AS made
         WHERE delivery.remote -> made.key ->> 'id' IS NULL), '{}')
    WHERE id = :delivery
    RETURNING remote
""")

# Whether planning again is worth its cost: half of what the destination may have in flight has come back, or no message
# is left for an idle worker; and something is due there that waits for nothing.
# The order has PostgreSQL take it from the index of due deliveries; for EXISTS it reads the table from its oldest rows.
_WORTH_PLANNING = """
    CASE WHEN 2 * (in_flight.open - 1) <= destination.max_in_flight OR in_flight.planned = 0
    THEN (
        SELECT true FROM delivery
        WHERE delivery.destination = destination.name AND delivery.waits_for = ''
            AND delivery.state IN ('pending', 'retrying') AND delivery.next_attempt_at <= now()
            AND delivery.id <> ended.delivery_id
            AND NOT EXISTS (SELECT FROM run WHERE run.record_id = delivery.record_id AND run.state = 'open')
        ORDER BY delivery.next_attempt_at, delivery.id LIMIT 1
    ) ELSE false END
"""
# An operator may have given the delivery up meanwhile: only a success changes that.
_APPLIES = ":changes AND (:succeeded OR delivery.state IN ('pending', 'retrying'))"
_FINISH = text(f"""
    WITH ended AS (
        UPDATE attempt
        SET state = :state, ended_at = now(), error_message = :error, result = :result, lease_token = NULL,
            lease_expires_at = NULL, input_fingerprint = :fingerprint
        WHERE id = :attempt AND state = 'started' AND lease_token = :lease
        RETURNING delivery_id, destination
    ), changed AS (
        UPDATE delivery SET
            remote = delivery.remote || :known,
            state = CASE WHEN {_APPLIES} THEN :delivery_state ELSE delivery.state END,
            failures = CASE WHEN {_APPLIES} THEN :failures ELSE delivery.failures END,
            error_message = CASE WHEN {_APPLIES} THEN :error ELSE delivery.error_message END,
            next_attempt_at = CASE WHEN {_APPLIES} THEN now() + :wait ELSE delivery.next_attempt_at END,
            input_fingerprint = CASE WHEN {_APPLIES} AND :final THEN :fingerprint ELSE delivery.input_fingerprint END,
            deaths = CASE WHEN :succeeded THEN 0 ELSE delivery.deaths END,
            look_up_first = delivery.look_up_first AND NOT :succeeded,
            remote_record_id = CASE WHEN :succeeded THEN :remote_record_id ELSE delivery.remote_record_id END,
            remote_record_url = CASE WHEN :succeeded THEN :remote_record_url ELSE delivery.remote_record_url END,
            remote_metadata = CASE WHEN :succeeded THEN :remote_metadata ELSE delivery.remote_metadata END,
            succeeded_at = CASE WHEN :succeeded THEN now() ELSE delivery.succeeded_at END
        FROM ended
        WHERE delivery.id = ended.delivery_id
    )
    SELECT {BREAKER}, {_WORTH_PLANNING} AS worth_planning
    FROM ended
    LEFT JOIN destination ON destination.name = ended.destination
    CROSS JOIN LATERAL (
        SELECT count(*) AS open, count(*) FILTER (WHERE attempt.state = 'planned') AS planned FROM attempt
        WHERE attempt.destination = ended.destination AND attempt.state IN ('planned', 'started', 'orphaned')
    ) AS in_flight
""")

# between two tries, the run expects the next one; the lease is free
_RELEASE = text("""
    WITH released AS (
        UPDATE attempt SET tries = tries + :tries, lease_token = NULL, lease_expires_at = NULL,
            error_message = coalesce(:error, error_message)
        WHERE id = :attempt AND state = 'started' AND lease_token = :lease
        RETURNING run_id, delivery_id
    ), kept AS (
        UPDATE delivery SET remote = delivery.remote || :known FROM released WHERE delivery.id = released.delivery_id
    )
    UPDATE run SET expected_by = greatest(expected_by, now() + :patience) FROM released WHERE run.id = released.run_id
    RETURNING run.id
""")
_LOCK_RUN = text("SELECT 1 FROM run WHERE id = (SELECT run_id FROM attempt WHERE id = :attempt) FOR NO KEY UPDATE")

_COLUMNS = f"""
    attempt.id, attempt.run_id, run.record_id, attempt.delivery_id, attempt.destination, attempt.state,
    run.state AS run_state, run.kind AS run_kind, run.token AS run_token, delivery.failures, delivery.deaths,
    attempt.tries, attempt.input_fingerprint, attempt.lease_token,
    coalesce(attempt.lease_expires_at > now(), false) AS lease_is_live, attempt.try_started_at, attempt.ended_at,
    attempt.error_message, attempt.result, jsonb_path_exists(delivery.remote, {ANY_INTENT}) AS unresolved,
    delivery.state AS delivery_state
    FROM attempt JOIN run ON run.id = attempt.run_id JOIN delivery ON delivery.id = attempt.delivery_id
"""
_GET = text(f"SELECT {_COLUMNS} WHERE attempt.id = :attempt")
_LOCK = text(f"SELECT {_COLUMNS} WHERE attempt.id = :attempt FOR NO KEY UPDATE OF attempt")
_LOCK_OF_RUN = text(f"SELECT {_COLUMNS} WHERE attempt.run_id = :run ORDER BY attempt.id FOR NO KEY UPDATE OF attempt")
_OF_RECORDS = text(f"SELECT {_COLUMNS} WHERE run.record_id = ANY(:records) ORDER BY attempt.id")

_EXPIRE = text("""
    WITH expired AS (
        UPDATE attempt
        SET state = 'expired', ended_at = now(), error_message = :error, lease_token = NULL, lease_expires_at = NULL,
            input_fingerprint = coalesce(input_fingerprint, :fingerprint)
        WHERE id = :attempt AND state = 'started'
        RETURNING delivery_id, input_fingerprint
    )
    UPDATE delivery SET
        deaths = deaths + 1,
        state = CASE WHEN :fails THEN 'failed' ELSE state END,
        error_message = CASE WHEN :fails THEN :error ELSE delivery.error_message END,
        input_fingerprint = CASE WHEN :fails THEN expired.input_fingerprint ELSE delivery.input_fingerprint END,
        next_attempt_at = now()
    FROM expired WHERE delivery.id = expired.delivery_id
    RETURNING delivery.id
""")
# what was tried last is due last, so that one whose messages are lost again and again keeps nobody from its turn
_SET_STATE = text("""
    WITH changed AS (
        UPDATE attempt
        SET state = :state, ended_at = CASE WHEN :state = 'orphaned' THEN NULL ELSE now() END, lease_token = NULL,
            lease_expires_at = NULL
        WHERE id = ANY(:attempts) AND state IN ('planned', 'started', 'orphaned')
        RETURNING delivery_id
    )
    UPDATE delivery SET next_attempt_at = now() FROM changed
    WHERE delivery.id = changed.delivery_id AND delivery.next_attempt_at < now()
""")
_LATER_STARTED = text("""
    SELECT 1 FROM attempt WHERE destination = :destination AND id > :attempt AND started_at IS NOT NULL
    ORDER BY id LIMIT 1
""")


@dataclass(frozen=True)
class StartedRow:
    """Everything that an attempt will ask, read as it took its lease; `now` is PostgreSQL's clock at that moment."""

    attempt_id: int
    run_id: int
    delivery_id: int
    destination: str
    run_kind: RunKind
    tries: int
    last_error: str | None  # of the try before in this run
    failures: int
    now: datetime
    record: RecordRow
    deliveries: RecordDeliveries
    remote: dict[str, dict[str, Any]]  # what this delivery has made, by step
    look_up_first: bool
    shared: dict[str, dict[str, Any]]  # what the records at the destination share, by step
    breaker: Breaker
    last_call_at: datetime | None


@dataclass(frozen=True)
class FinishedRow:
    """What is to be done after an attempt was finished."""

    breaker: Breaker  # as it was just before
    worth_planning: bool  # the destination has capacity again, and something is due there


def start(engine: Engine, attempt_id: int, run_token: UUID, lease: UUID, lasting: timedelta) -> StartedRow | None:
    """Take the lease on an attempt of an open run, and read what it needs; None when the attempt is not to be had."""
    found = execute(engine, _START, {"attempt": attempt_id, "token": run_token, "lease": lease, "lasting": lasting})
    if found is None:
        return None
    record = record_row(found)
    deliveries = delivery_rows_of_json(found["deliveries"])
    return StartedRow(
        attempt_id=found["attempt_id"],
        run_id=found["run_id"],
        delivery_id=found["delivery_id"],
        destination=found["at"],
        run_kind=RunKind(found["kind"]),
        tries=found["tries"],
        last_error=found["last_error"],
        failures=found["failures"],
        now=found["now"],
        record=record,
        deliveries=RecordDeliveries(record.id, record.strategy, deliveries, record.sha256, record.session_identifier),
        remote=found["remote"],
        look_up_first=found["look_up_first"],
        shared=found["shared"],
        breaker=breaker(found),
        last_call_at=found["last_call_at"],
    )


def extend(engine: Engine, attempt_id: int, lease: UUID, lasting: timedelta, known: Known, fingerprint: str) -> bool:
    """Have the lease last at least for `lasting` from now, and commit what is known by step, intents included.

    `fingerprint` is that of the attempt's inputs. False when the lease is not held any more; then nothing is written.
    """
    parameters = {"attempt": attempt_id, "lease": lease, "lasting": lasting, "known": Jsonb(dict(known))}
    return execute(engine, _EXTEND, {**parameters, "fingerprint": fingerprint}) is not None


def keep_identifiers(engine: Engine, delivery_id: int, known: Known) -> dict[str, Any]:
    """Store what steps have made, where no identifier is stored yet; what is known by step then. Needs no lease."""
    row = execute(engine, _KEEP, {"delivery": delivery_id, "known": Jsonb(dict(known))})
    return dict(row["remote"]) if row is not None else {}


def finish(
    on: Engine | Connection,
    attempt_id: int,
    lease: UUID,
    end: AttemptEnd,
    *,
    result: Mapping[str, Any],
    known: Known,
    fingerprint: str,
) -> FinishedRow | None:
    """Write how an attempt ended, what becomes of its delivery, and what is known by step; None without the lease."""
    state = end.delivery_state
    parameters = {
        "attempt": attempt_id,
        "lease": lease,
        "state": end.state.value,
        "error": end.error_message,
        "result": Jsonb(dict(result)),
        "fingerprint": fingerprint,
        "known": Jsonb(dict(known)),
        "changes": state is not None,
        "succeeded": end.state is AttemptState.SUCCEEDED,
        "final": state is not None and state.final,
        "delivery_state": None if state is None else state.value,
        "failures": 0 if end.state is AttemptState.SUCCEEDED else end.failures,
        "wait": end.wait or timedelta(),
        "remote_record_id": end.remote_record_id,
        "remote_record_url": end.remote_record_url,
        "remote_metadata": Jsonb(end.remote_metadata or {}),
    }
    found: Found | None
    if isinstance(on, Engine):
        found = execute(on, _FINISH, parameters)
    else:
        found = on.execute(_FINISH, parameters).mappings().one_or_none()
    return None if found is None else FinishedRow(breaker(found), bool(found["worth_planning"]))


def schedule_retry(
    connection: Connection, attempt_id: int, lease: UUID, error: str, known: Known, patience: timedelta
) -> bool:
    """Give up the lease between two tries, of which `error` is why the last one failed; False if it was not held.

    The next try is expected within `patience`.
    """
    return _release(connection, attempt_id, lease, tries=0, error=error, known=known, patience=patience)


def snooze(connection: Connection, attempt_id: int, lease: UUID, known: Known, patience: timedelta) -> bool:
    """As `schedule_retry`, for a try that came too early: it does not count."""
    return _release(connection, attempt_id, lease, tries=-1, error=None, known=known, patience=patience)


def _release(connection: Connection, attempt_id: int, lease: UUID, *, known: Known, **changed: Any) -> bool:
    connection.execute(_LOCK_RUN, {"attempt": attempt_id})
    parameters = {"attempt": attempt_id, "lease": lease, "known": Jsonb(dict(known)), **changed}
    return connection.execute(_RELEASE, parameters).one_or_none() is not None


def get(connection: Connection, attempt_id: int) -> AttemptRow | None:
    """The attempt with what surrounds it."""
    return _one(connection.execute(_GET, {"attempt": attempt_id}))


def lock(connection: Connection, attempt_id: int) -> AttemptRow | None:
    """As `get`; its run and itself are locked until the end of the transaction."""
    connection.execute(_LOCK_RUN, {"attempt": attempt_id})
    return _one(connection.execute(_LOCK, {"attempt": attempt_id}))


def lock_of_run(connection: Connection, run_id: int) -> tuple[AttemptRow, ...]:
    """Every attempt of a run that is locked already, locked as well."""
    return tuple(_attempt_row(row) for row in connection.execute(_LOCK_OF_RUN, {"run": run_id}).mappings())


def of_records(connection: Connection, record_ids: Collection[int]) -> list[AttemptRow]:
    """Every attempt at the deliveries of those records, oldest first."""
    return [_attempt_row(row) for row in connection.execute(_OF_RECORDS, {"records": list(record_ids)}).mappings()]


def expire(connection: Connection, attempt_id: int, error_message: str | None, fingerprint: str) -> None:
    """Write that the worker died in a started attempt; with a message, the delivery fails for good by it.

    `fingerprint` is that of the delivery's inputs, for an attempt that did not come to store its own.
    """
    connection.execute(
        _EXPIRE,
        {
            "attempt": attempt_id,
            "error": error_message,
            "fails": error_message is not None,
            "fingerprint": fingerprint,
        },
    )


def cancel(connection: Connection, attempt_ids: Collection[int]) -> None:
    """Write that the messages of those attempts are gone; their deliveries are due as before."""
    if attempt_ids:
        parameters = {"attempts": list(attempt_ids), "state": AttemptState.CANCELLED.value}
        connection.execute(_SET_STATE, parameters)


def orphan(connection: Connection, attempt_ids: Collection[int]) -> None:
    """Write that the run of those attempts is lost, though their messages may still be queued."""
    if attempt_ids:
        connection.execute(_SET_STATE, {"attempts": list(attempt_ids), "state": AttemptState.ORPHANED.value})


def later_started(connection: Connection, attempt: AttemptRow) -> bool:
    """Whether a message to the same destination that was published after this one has been taken by a worker."""
    parameters = {"destination": attempt.destination, "attempt": attempt.id}
    return connection.execute(_LATER_STARTED, parameters).first() is not None


def _one(found: CursorResult[Any]) -> AttemptRow | None:
    row = found.mappings().one_or_none()
    return None if row is None else _attempt_row(row)


def _attempt_row(row: RowMapping) -> AttemptRow:
    columns = dict(row)
    columns["state"] = AttemptState(columns["state"])
    columns["run_state"] = RunState(columns["run_state"])
    columns["run_kind"] = RunKind(columns["run_kind"])
    columns["delivery_state"] = DeliveryState(columns["delivery_state"])
    return AttemptRow(**columns)
