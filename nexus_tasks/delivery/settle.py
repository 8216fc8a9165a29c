"""Writes what a record's rows imply: closed run, upload log, outdated and skipped deliveries, the session's status.

Called by finalize (the chord's callback), by dispatch for runs that it finds lost, and by a task that ends after its
run was closed; by a hand-over and by operators' commands within the transaction that changes the rows. Idempotent, in
one transaction, under the record's row lock.
"""

import logging
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from nexus_tasks.db import deliveries, records, runs, sessions, upload_log
from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery.digest import outdated
from nexus_tasks.delivery.strategy import verdict
from nexus_tasks.states import SessionStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """What settling came to: finalize returns it, so that Flower shows it."""

    session_identifier: str
    record_status: SessionStatus
    deliveries: dict[str, str]  # destination → state


def settle(engine: Engine, record_id: int) -> Settled:
    """Bring everything that follows from the record's attempts up to date; calling it again changes nothing."""
    with transaction(engine) as connection:
        return settle_within(connection, record_id)


def settle_within(connection: Connection, record_id: int) -> Settled:
    """As `settle`, in the caller's transaction: for a change that nobody would settle if its process died after it.

    Locks the record first, so the caller has locked nothing that is under it: no run, attempt or delivery.
    """
    record = records.lock(connection, record_id)
    runs.close_ended(connection, record_id)
    upload_log.write_missing(connection, record_id, record.session_identifier)
    changed = outdated(deliveries.of_record(connection, record_id))
    deliveries.make_due(connection, [delivery.id for delivery in changed], afresh=True)
    judged = verdict(deliveries.of_record(connection, record_id))
    deliveries.skip(connection, judged.skip)
    status = SessionStatus.COMPLETED if judged.satisfied else SessionStatus.BUILT_NOT_EXPORTED
    if sessions.set_status(connection, record.session_identifier, status):
        logger.info("Session %s is %s", record.session_identifier, status)
    after = deliveries.of_record(connection, record_id)
    [session] = sessions.sessions(connection, [record.session_identifier])
    return Settled(
        record.session_identifier,
        session.status,
        {delivery.destination: delivery.state.value for delivery in after.deliveries},
    )
