"""Queries about runs and their attempts: planned by dispatch, moved by the export tasks, closed by settle.

Rows are locked in one order, so that nobody waits in a circle: record, run, attempt, delivery, destination.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Select, false, func, insert, literal, select, union, update

from nexus_tasks.db.among import among
from nexus_tasks.db.deliveries import ANY_INTENT, UNSETTLED
from nexus_tasks.db.models import Attempt, Delivery, Record, Run
from nexus_tasks.db.rows import AttemptEnd, AttemptRow, OverdueRun
from nexus_tasks.states import AttemptState, DeliveryState, RunKind, RunState

PLANNER_LOCK = 0x706C616E  # an advisory lock key: "plan"
OPEN = (AttemptState.PLANNED, AttemptState.STARTED)


def lock_planner(connection: Connection) -> None:
    """Wait until this is the only planner anywhere; held until the end of the transaction."""
    connection.execute(select(func.pg_advisory_xact_lock(PLANNER_LOCK)))


def add(
    connection: Connection, record_id: int, delivery_ids: Sequence[int], kind: RunKind, patience: timedelta
) -> tuple[int, UUID, dict[int, int]]:
    """Insert an open run with a planned attempt for each delivery: its id, its token, and delivery id → attempt id."""
    token = uuid4()
    run_id = connection.execute(
        insert(Run)
        .values(record_id=record_id, token=token, kind=kind, expected_by=func.now() + literal(patience))
        .returning(Run.id)
    ).scalar_one()
    attempts = connection.execute(
        insert(Attempt).returning(Attempt.delivery_id, Attempt.id),
        [{"run_id": run_id, "delivery_id": delivery_id} for delivery_id in delivery_ids],
    )
    return run_id, token, {row.delivery_id: row.id for row in attempts}


def lock_attempt(connection: Connection, attempt_id: int) -> AttemptRow | None:
    """The attempt with what surrounds it; its run and itself are locked until the end of the transaction."""
    run_of_attempt = select(Attempt.run_id).where(Attempt.id == attempt_id).scalar_subquery()
    connection.execute(select(Run.id).where(Run.id == run_of_attempt).with_for_update(key_share=True))
    statement = _ATTEMPTS.where(Attempt.id == attempt_id).with_for_update(of=Attempt, key_share=True)
    row = connection.execute(statement).one_or_none()
    return AttemptRow(**row._asdict()) if row else None


def start(connection: Connection, attempt: AttemptRow, lease_token: UUID, lease: timedelta, digest: str) -> None:
    """Note a try of the attempt, under a lease."""
    connection.execute(
        update(Attempt)
        .where(Attempt.id == attempt.id)
        .values(
            state=AttemptState.STARTED,
            tries=Attempt.tries + 1,
            digest=digest,
            lease_token=lease_token,
            lease_expires_at=func.now() + literal(lease),
            try_started_at=func.now(),
            started_at=func.coalesce(Attempt.started_at, func.now()),
        )
    )
    expect(connection, attempt.run_id, lease)


def extend_lease(connection: Connection, run_id: int, attempt_id: int, lease_token: UUID, lease: timedelta) -> bool:
    """Have the lease last at least for `lease` from now; False when it is not held any more."""
    expect(connection, run_id, lease)
    held = connection.execute(
        update(Attempt)
        .where(
            Attempt.id == attempt_id,
            Attempt.state == AttemptState.STARTED,
            Attempt.lease_token == lease_token,
            Attempt.lease_expires_at > func.now(),
        )
        .values(lease_expires_at=func.greatest(Attempt.lease_expires_at, func.now() + literal(lease)))
        .returning(Attempt.id)
    )
    return held.one_or_none() is not None


def set_aside(connection: Connection, attempt: AttemptRow, message: str, patience: timedelta) -> None:
    """Give the lease back between two tries; `message` is why the last one failed."""
    connection.execute(
        update(Attempt)
        .where(Attempt.id == attempt.id)
        .values(lease_token=None, lease_expires_at=None, error_message=message)
    )
    expect(connection, attempt.run_id, patience)


def give_back(connection: Connection, attempt: AttemptRow, patience: timedelta) -> None:
    """Give the lease back in the middle of a try that goes on later: it does not count as a try."""
    connection.execute(
        update(Attempt)
        .where(Attempt.id == attempt.id)
        .values(tries=Attempt.tries - 1, lease_token=None, lease_expires_at=None)
    )
    expect(connection, attempt.run_id, patience)


def end(connection: Connection, attempt: AttemptRow, how: AttemptEnd, result: dict[str, Any]) -> None:
    """Write how an attempt ended and what becomes of its delivery."""
    connection.execute(
        update(Attempt)
        .where(Attempt.id == attempt.id)
        .values(
            state=how.state,
            ended_at=func.now(),
            error_message=how.error_message,
            result=result,
            lease_token=None,
            lease_expires_at=None,
        )
    )
    if how.delivery_state is None:
        return
    values: dict[str, Any] = {
        "state": how.delivery_state,
        "failures": how.failures,
        "error_message": how.error_message,
        "next_attempt_at": None if how.wait is None else func.now() + literal(how.wait),
    }
    if how.delivery_state.settled:
        values["digest"] = attempt.digest
    if how.state is AttemptState.SUCCEEDED:
        values |= {
            "failures": 0,
            "deaths": 0,
            "look_up_first": False,
            "remote_record_id": how.remote_record_id,
            "remote_record_url": how.remote_record_url,
            "remote_metadata": how.remote_metadata or {},
            "succeeded_at": func.now(),
        }
    statement = update(Delivery).where(Delivery.id == attempt.delivery_id).values(values)
    if how.state is not AttemptState.SUCCEEDED:  # what an operator has given up meanwhile stays given up
        statement = statement.where(Delivery.state.in_(UNSETTLED))
    connection.execute(statement)


def died(connection: Connection, attempt: AttemptRow, error_message: str | None) -> None:
    """Note that the worker died in a try; with a message, the delivery fails for good by it."""
    connection.execute(
        update(Attempt)
        .where(Attempt.id == attempt.id)
        .values(
            state=AttemptState.DIED,
            ended_at=func.now(),
            error_message=error_message,
            lease_token=None,
            lease_expires_at=None,
        )
    )
    values: dict[str, Any] = {"deaths": Delivery.deaths + 1}
    if error_message is not None:
        values |= {
            "state": DeliveryState.FAILED,
            "next_attempt_at": None,
            "error_message": error_message,
            "digest": attempt.digest,
        }
    connection.execute(update(Delivery).where(Delivery.id == attempt.delivery_id).values(values))


def unsent(connection: Connection, attempt_ids: Sequence[int]) -> None:
    """Note that the messages of those attempts are gone; their deliveries are due as before."""
    connection.execute(
        update(Attempt)
        .where(Attempt.id.in_(attempt_ids), Attempt.state.in_(OPEN))
        .values(state=AttemptState.UNSENT, ended_at=func.now(), lease_token=None, lease_expires_at=None)
    )


def expect(connection: Connection, run_id: int, within: timedelta) -> None:
    """The next event in the run is expected within this time; never earlier than it was."""
    connection.execute(
        update(Run)
        .where(Run.id == run_id)
        .values(expected_by=func.greatest(Run.expected_by, func.now() + literal(within)))
    )


def take_back(connection: Connection, run_id: int) -> None:
    """Close a run that could not be published; one that a worker has begun with was published all the same."""
    connection.execute(select(Run.id).where(Run.id == run_id).with_for_update(key_share=True))
    attempts = connection.execute(select(Attempt.id, Attempt.state).where(Attempt.run_id == run_id)).all()
    if all(attempt.state is AttemptState.PLANNED for attempt in attempts):
        unsent(connection, [attempt.id for attempt in attempts])
        close(connection, run_id)


def overdue(connection: Connection) -> list[OverdueRun]:
    """The runs in which something should have happened by now, by record; see `lock_overdue` before changing one."""
    late = Run.expected_by < func.now()
    held = select(Run.id).join(Attempt, Attempt.run_id == Run.id).where(Attempt.state == AttemptState.PLANNED, late)
    found = union(select(Run.id).where(Run.state == RunState.OPEN, late), held).subquery()
    return _overdue(connection, _RUNS.where(Run.id.in_(select(found.c.id))).order_by(Run.record_id, Run.id))


def lock_overdue(connection: Connection, run_id: int) -> OverdueRun | None:
    """The run as it is now, with its record and itself locked until the end of the transaction.

    None when something has happened in it meanwhile, or happens at this moment.
    """
    statement = (
        _RUNS.join(Record, Record.id == Run.record_id)
        .where(Run.id == run_id, Run.expected_by < func.now())
        .with_for_update(of=[Record, Run], skip_locked=True, key_share=True)
    )
    return next(iter(_overdue(connection, statement)), None)


def _overdue(connection: Connection, statement: Select[*tuple[Any, ...]]) -> list[OverdueRun]:
    found = connection.execute(statement).all()
    attempts: dict[int, list[AttemptRow]] = {row.id: [] for row in found}
    for row in connection.execute(_ATTEMPTS.where(among(Attempt.run_id, attempts)).order_by(Attempt.id)):
        attempts[row.run_id].append(AttemptRow(**row._asdict()))
    return [OverdueRun(**row._asdict(), attempts=tuple(attempts[row.id])) for row in found]


def later_started(connection: Connection, attempt: AttemptRow) -> bool:
    """Whether a message to the same destination that was published after this one has been taken by a worker."""
    statement = (
        select(Attempt.id)
        .join(Delivery, Delivery.id == Attempt.delivery_id)
        .where(Delivery.destination == attempt.destination, Attempt.id > attempt.id, Attempt.started_at.is_not(None))
    )
    return connection.execute(statement.limit(1)).first() is not None


def close(connection: Connection, run_id: int, state: RunState = RunState.CLOSED) -> None:
    """Close an open run."""
    connection.execute(
        update(Run).where(Run.id == run_id, Run.state == RunState.OPEN).values(state=state, closed_at=func.now())
    )


def close_ended(connection: Connection, record_id: int) -> None:
    """Close the record's open run when all its attempts have ended."""
    going_on = select(Attempt.id).where(Attempt.run_id == Run.id, Attempt.state.in_(OPEN))
    connection.execute(
        update(Run)
        .where(Run.record_id == record_id, Run.state == RunState.OPEN, ~going_on.exists())
        .values(state=RunState.CLOSED, closed_at=func.now())
    )


def open_of_kind(connection: Connection, kind: RunKind) -> set[str]:
    """The destinations that have an open run of this kind."""
    statement = (
        select(Delivery.destination)
        .join(Attempt, Attempt.delivery_id == Delivery.id)
        .join(Run, Run.id == Attempt.run_id)
        .where(Run.state == RunState.OPEN, Run.kind == kind)
    )
    return set(connection.execute(statement).scalars())


def record_of(connection: Connection, run_id: int) -> int | None:
    """The record that a run belongs to."""
    return connection.execute(select(Run.record_id).where(Run.id == run_id)).scalar_one_or_none()


def attempts_of_records(connection: Connection, record_ids: Sequence[int]) -> list[AttemptRow]:
    """Every attempt at the deliveries of those records, oldest first."""
    statement = _ATTEMPTS.where(among(Run.record_id, record_ids)).order_by(Attempt.id)
    return [AttemptRow(**row._asdict()) for row in connection.execute(statement)]


def forget_all_open(connection: Connection) -> list[int]:
    """After a restore: no message that is under way belongs to these rows; the records whose runs were open."""
    closed = connection.execute(
        update(Run)
        .where(Run.state == RunState.OPEN)
        .values(state=RunState.LOST, closed_at=func.now())
        .returning(Run.record_id)
    )
    records = sorted(closed.scalars())
    connection.execute(
        update(Attempt)
        .where(Attempt.state.in_(OPEN))
        .values(state=AttemptState.UNSENT, ended_at=func.now(), lease_token=None, lease_expires_at=None)
    )
    return records


_RUNS = select(  # the columns are named as OverdueRun names them
    Run.id, Run.record_id, Run.kind, Run.state, (func.now() - Run.expected_by).label("overdue_for")
)
_ATTEMPTS = (  # the columns are named as AttemptRow names them
    select(
        Attempt.id,
        Attempt.run_id,
        Run.record_id,
        Attempt.delivery_id,
        Delivery.destination,
        Attempt.state,
        Run.state.label("run_state"),
        Run.kind.label("run_kind"),
        Run.token.label("run_token"),
        Delivery.failures,
        Delivery.deaths,
        Attempt.tries,
        Attempt.digest,
        Attempt.lease_token,
        func.coalesce(Attempt.lease_expires_at > func.now(), false()).label("lease_is_live"),
        Attempt.try_started_at,
        Attempt.error_message,
        Attempt.result,
        func.jsonb_path_exists(Delivery.remote, ANY_INTENT).label("unresolved"),
        Delivery.state.label("delivery_state"),
    )
    .join(Run, Run.id == Attempt.run_id)
    .join(Delivery, Delivery.id == Attempt.delivery_id)
)
