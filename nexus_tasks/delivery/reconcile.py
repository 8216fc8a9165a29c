"""Writes what a record's rows imply: closed run, upload log, outdated and skipped deliveries, the session's status.

And, for the planner, what each delivery still waits for. Idempotent, in one transaction, under the record's row lock.
"""

import logging
from dataclasses import dataclass, replace

from sqlalchemy import Connection, Engine

from nexus_tasks.config import Settings
from nexus_tasks.db import reconciling
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.reconciling import Changed, Reconcilable
from nexus_tasks.db.rows import DeliveryRow, RecordDeliveries, RecordRow
from nexus_tasks.delivery.archive import archive
from nexus_tasks.delivery.fingerprint import outdated
from nexus_tasks.delivery.plan import waits_for
from nexus_tasks.delivery.strategy import verdict
from nexus_tasks.states import DeliveryState, SessionStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reconciled:
    """What reconciling came to: finalize returns it, so that Flower shows it."""

    session_identifier: str
    record_status: SessionStatus
    deliveries: dict[str, str]  # destination → state
    due: bool = False  # something of the record may go out now, if its destination has capacity


def reconcile(engine: Engine, record_id: int) -> Reconciled:
    """Bring everything that follows from the record's attempts up to date; calling it again changes nothing."""
    with transaction(engine) as connection:
        return reconcile_within(connection, record_id)


def reconcile_run(engine: Engine, run_id: int, settings: Settings) -> Reconciled | None:
    """As `reconcile`, for the record of a run, whose document is archived when it is done; None without such a run."""
    with transaction(engine) as connection:
        record = reconciling.lock_of_run(connection, run_id)
        if record is None:
            return None
        reconciled, done = _reconcile(connection, record)
        if done and record.archived_at is None:
            archive(connection, settings, record)
    return reconciled


def reconcile_within(connection: Connection, record_id: int) -> Reconciled:
    """As `reconcile`, in the caller's transaction: for a change that would stay as it is if its process died after it.

    Locks the record first, so the caller has locked nothing that is under it: no run, attempt or delivery.
    """
    return _reconcile(connection, reconciling.lock(connection, record_id))[0]


def _reconcile(connection: Connection, record: RecordRow) -> tuple[Reconciled, bool]:
    """What it came to, and whether the record is done: completed, with nothing left to do."""
    found = reconciling.close_and_log(connection, record)
    after, changed = _decide(found)
    reconciling.write(connection, changed)
    status = SessionStatus.COMPLETED if verdict(after).satisfied else SessionStatus.BUILT_NOT_EXPORTED
    if found.session_status not in {status, SessionStatus.COMPLETED}:
        reconciling.set_status(connection, record.session_identifier, status)
        logger.info("Session %s is %s", record.session_identifier, status)
    elif found.session_status is not None:
        status = found.session_status
    unfinished = [row for row in after.deliveries if not row.state.final]
    renewed = {each.id for each in changed if each.renewed}
    reconciled = Reconciled(
        record.session_identifier,
        status,
        {row.destination: row.state.value for row in after.deliveries},
        due=any(row.id in found.due or row.id in renewed for row in unfinished),
    )
    return reconciled, status is SessionStatus.COMPLETED and not unfinished


def _decide(found: Reconcilable) -> tuple[RecordDeliveries, list[Changed]]:
    """The record as it is to be, and the deliveries that are to be written for that."""
    before = found.deliveries
    renewed = {row.id for row in outdated(before)}
    after = replace(before, deliveries=tuple(_renewed(row) if row.id in renewed else row for row in before.deliveries))
    skipped = verdict(after).skip
    after = replace(after, deliveries=tuple(_skipped(row, skipped) for row in after.deliveries))
    waits = waits_for(after)
    after = replace(after, deliveries=tuple(replace(row, waits_for=waits.get(row.id, "")) for row in after.deliveries))
    changed = [
        Changed(
            row.id,
            before=earlier.state.value,
            state=row.state.value,
            waits_for=row.waits_for,
            reason=skipped.get(row.id),
            renewed=row.id in renewed and row.id not in skipped,
        )
        for row, earlier in zip(after.deliveries, before.deliveries, strict=True)
        if row.state is not earlier.state
        or row.id in renewed
        or (row.id in waits and row.waits_for != earlier.waits_for)
    ]
    return after, changed


def _renewed(row: DeliveryRow) -> DeliveryRow:
    return replace(row, state=DeliveryState.PENDING, failures=0, deaths=0, error_message=None)


def _skipped(row: DeliveryRow, skipped: dict[int, str]) -> DeliveryRow:
    return replace(row, state=DeliveryState.SKIPPED, error_message=skipped[row.id]) if row.id in skipped else row
