"""Queries about runs and their attempts: planned by dispatch, moved by the export tasks, closed by settle."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, literal, select, update

from nexus_tasks.db.models import Attempt, Delivery, Run
from nexus_tasks.db.rows import AttemptEnd, AttemptRow
from nexus_tasks.states import AttemptState, DeliveryState, RunState

PLANNER_LOCK = 0x706C616E  # an advisory lock key: "plan"
OPEN = (AttemptState.PLANNED, AttemptState.STARTED)


def lock_planner(connection: Connection) -> None:
    """Wait until this is the only planner anywhere; held until the end of the transaction."""
    connection.execute(select(func.pg_advisory_xact_lock(PLANNER_LOCK)))


def add(connection: Connection, record_id: int, delivery_ids: Sequence[int]) -> tuple[int, dict[int, int]]:
    """Insert an open run with a planned attempt for each delivery; the run's id, and delivery id → attempt id."""
    run_id = connection.execute(insert(Run).values(record_id=record_id).returning(Run.id)).scalar_one()
    attempts = connection.execute(
        insert(Attempt).returning(Attempt.delivery_id, Attempt.id),
        [{"run_id": run_id, "delivery_id": delivery_id} for delivery_id in delivery_ids],
    )
    return run_id, {row.delivery_id: row.id for row in attempts}


def lock_attempt(connection: Connection, attempt_id: int) -> AttemptRow | None:
    """The attempt with what surrounds it, locked until the end of the transaction; None when it is gone."""
    row = connection.execute(_ATTEMPTS.where(Attempt.id == attempt_id).with_for_update(of=Attempt)).one_or_none()
    return _attempt_row(row) if row else None


def start(connection: Connection, attempt_id: int) -> None:
    """Note a try of the attempt."""
    connection.execute(
        update(Attempt)
        .where(Attempt.id == attempt_id)
        .values(
            state=AttemptState.STARTED,
            tries=Attempt.tries + 1,
            started_at=func.coalesce(Attempt.started_at, func.now()),
        )
    )


def end(connection: Connection, attempt: AttemptRow, how: AttemptEnd, result: dict[str, Any]) -> None:
    """Write how an attempt ended and what becomes of its delivery."""
    connection.execute(
        update(Attempt)
        .where(Attempt.id == attempt.id)
        .values(state=how.state, ended_at=func.now(), error_message=how.error_message, result=result)
    )
    if how.delivery_state is None:
        return
    values: dict[str, Any] = {
        "state": how.delivery_state,
        "failures": how.failures,
        "error_message": how.error_message,
        "next_attempt_at": None if how.wait is None else func.now() + literal(how.wait),
    }
    if how.state is AttemptState.SUCCEEDED:
        values |= {
            "remote_record_id": how.remote_record_id,
            "remote_record_url": how.remote_record_url,
            "remote_metadata": how.remote_metadata or {},
            "succeeded_at": func.now(),
        }
    connection.execute(update(Delivery).where(Delivery.id == attempt.delivery_id).values(values))


def not_sent(connection: Connection, run_id: int) -> None:
    """Close a run whose messages did not go out; its deliveries are due as before."""
    connection.execute(
        update(Attempt)
        .where(Attempt.run_id == run_id, Attempt.state == AttemptState.PLANNED)
        .values(state=AttemptState.UNSENT, ended_at=func.now())
    )
    connection.execute(
        update(Run)
        .where(Run.id == run_id, Run.state == RunState.OPEN)
        .values(state=RunState.CLOSED, closed_at=func.now())
    )


def close_ended(connection: Connection, record_id: int) -> bool:
    """Close the record's open run when all its attempts have ended; True when there is no open run any more."""
    going_on = select(Attempt.id).where(Attempt.run_id == Run.id, Attempt.state.in_(OPEN))
    connection.execute(
        update(Run)
        .where(Run.record_id == record_id, Run.state == RunState.OPEN, ~going_on.exists())
        .values(state=RunState.CLOSED, closed_at=func.now())
    )
    still_open = select(Run.id).where(Run.record_id == record_id, Run.state == RunState.OPEN)
    return connection.execute(still_open).first() is None


def record_of(connection: Connection, run_id: int) -> int | None:
    """The record that a run belongs to."""
    return connection.execute(select(Run.record_id).where(Run.id == run_id)).scalar_one_or_none()


def attempts_of_record(connection: Connection, record_id: int) -> list[AttemptRow]:
    """Every attempt at the record's deliveries, oldest first."""
    statement = _ATTEMPTS.where(Run.record_id == record_id).order_by(Attempt.id)
    return [_attempt_row(row) for row in connection.execute(statement)]


def any_open(connection: Connection, record_ids: Sequence[int]) -> bool:
    """Whether one of those records is in an open run."""
    statement = select(Run.id).where(Run.record_id.in_(record_ids), Run.state == RunState.OPEN)
    return connection.execute(statement).first() is not None


def _attempt_row(row: Sequence[Any]) -> AttemptRow:
    return AttemptRow(
        id=row[0],
        run_id=row[1],
        record_id=row[2],
        delivery_id=row[3],
        destination=row[4],
        state=AttemptState(row[5]),
        run_state=RunState(row[6]),
        delivery_state=DeliveryState(row[7]),
        failures=row[8],
        tries=row[9],
        result=row[10],
    )


_ATTEMPTS = (
    select(
        Attempt.id,
        Attempt.run_id,
        Run.record_id,
        Attempt.delivery_id,
        Delivery.destination,
        Attempt.state,
        Run.state,
        Delivery.state,
        Delivery.failures,
        Attempt.tries,
        Attempt.result,
    )
    .join(Run, Run.id == Attempt.run_id)
    .join(Delivery, Delivery.id == Attempt.delivery_id)
)
