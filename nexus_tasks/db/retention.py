"""Queries about what need not be kept: `delivery.prune` asks them, in batches."""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import Connection, delete, func, literal, select
from sqlalchemy.orm import aliased

from nexus_tasks.db.among import among
from nexus_tasks.db.models import Attempt, Delivery, Record, Run, UploadLog
from nexus_tasks.states import UNFINISHED, AttemptState, DeliveryState, RunState

DONE_WELL = (DeliveryState.SUCCEEDED, DeliveryState.SKIPPED)


def runs_to_prune(connection: Connection, older_than: timedelta, after: int, limit: int) -> list[int]:
    """The next runs behind `after` that were closed so long ago, of records with nothing left to do; locked.

    One whose attempts were answered, but are not in the upload log yet, is not among them.
    """
    unfinished = select(Delivery.id).where(Delivery.record_id == Run.record_id, Delivery.state.in_(UNFINISHED))
    open_run = aliased(Run)
    under_way = select(open_run.id).where(open_run.record_id == Run.record_id, open_run.state == RunState.OPEN)
    not_logged = (
        select(Attempt.id)
        .outerjoin(UploadLog, UploadLog.attempt_id == Attempt.id)
        .where(
            Attempt.run_id == Run.id,
            UploadLog.id.is_(None),
            Attempt.state.in_([state for state in AttemptState if state.logged or not state.ended]),
        )
    )
    statement = (
        select(Run.id)
        .where(
            Run.id > after,
            Run.state != RunState.OPEN,
            Run.closed_at < func.now() - literal(older_than),
            ~unfinished.exists(),
            ~under_way.exists(),
            ~not_logged.exists(),
        )
        .order_by(Run.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Run)
    )
    return list(connection.execute(statement).scalars())


def attempts_of(connection: Connection, run_ids: Collection[int]) -> int:
    """How many attempts go with those runs."""
    return connection.execute(
        select(func.count()).select_from(Attempt).where(among(Attempt.run_id, run_ids))
    ).scalar_one()


def delete_runs(connection: Connection, run_ids: Collection[int]) -> None:
    """Delete runs with their attempts; the rows of the upload log stay."""
    connection.execute(delete(Run).where(among(Run.id, run_ids)))


def documents_to_prune(connection: Connection, older_than: timedelta, names: Collection[str]) -> list[str]:
    """Which of these documents were archived so long ago and are wanted by no delivery; their records are locked.

    A document that some destination does not hold is not among them: a retry would need it.
    """
    wanted = select(Delivery.id).where(Delivery.record_id == Record.id, Delivery.state.not_in(DONE_WELL))
    statement = (
        select(Record.document)
        .where(among(Record.document, names), Record.archived_at < func.now() - literal(older_than), ~wanted.exists())
        .order_by(Record.id)
        .with_for_update(skip_locked=True)
    )
    return list(connection.execute(statement).scalars())
