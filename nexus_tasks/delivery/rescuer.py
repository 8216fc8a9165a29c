"""Finds lost runs and makes their deliveries due again.

A run carries the time after which the rescuer looks at it. With no live lease and no recent event by then, the run is
lost, unless its message may still be waiting in a queue that workers read. One whose message lies in a queue that
nobody reads is lost some minutes later, so that its other deliveries become final. Its attempt is orphaned then, and
counts as in flight: into such a queue no more is sent than may be in flight.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from sqlalchemy import Connection

from nexus_tasks.broker import queue_lengths
from nexus_tasks.db import attempts, deliveries, rescuing, workers
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import QUARANTINE_AFTER, AttemptRow, OverdueRun
from nexus_tasks.delivery.fingerprint import input_fingerprint
from nexus_tasks.delivery.reconcile import reconcile_within
from nexus_tasks.delivery.retry import MAY_EXIST
from nexus_tasks.deployment import Deployment
from nexus_tasks.queues import EXPORT
from nexus_tasks.states import AttemptState, RunKind, RunState

DEATHS_IN_QUARANTINE = 3  # deaths in a run of its own after which a delivery fails
UNREAD_PATIENCE = timedelta(minutes=10)  # for a worker that is being restarted, or was late to start

logger = logging.getLogger(__name__)


class Waiting(Enum):
    """Why an overdue run is left alone for now."""

    FOR_ITS_TURN = "workers read the queue that its message may be in"
    FOR_A_READER = "no worker reads that queue, but one may come back"


@dataclass(frozen=True)
class LostRun:
    """What to write for a lost run.

    `expired`: attempts whose worker died, with why the delivery fails by it, or None. `cancelled`: attempts whose
    message is gone. `queued`: attempts whose message may still lie in its queue.
    """

    expired: tuple[tuple[AttemptRow, str | None], ...] = ()
    cancelled: tuple[AttemptRow, ...] = ()
    queued: tuple[AttemptRow, ...] = ()


def judge(
    run: OverdueRun, may_be_queued: Callable[[AttemptRow], bool], is_read: Callable[[AttemptRow], bool]
) -> LostRun | Waiting:
    """What an overdue run has lost, or why it is left alone for now: pure.

    `is_read` says of an attempt whether a worker reads the queue of its destination. Nobody waits for the message of a
    delivery that has become final meanwhile.
    """
    going_on = [attempt for attempt in run.attempts if not attempt.state.ended]
    queued = [attempt for attempt in going_on if attempt.state is not AttemptState.STARTED and may_be_queued(attempt)]
    awaited = [attempt for attempt in queued if not attempt.delivery_state.final]
    if awaited and run.state is RunState.OPEN:
        if any(is_read(attempt) for attempt in awaited):
            return Waiting.FOR_ITS_TURN
        if run.overdue_for < UNREAD_PATIENCE:
            return Waiting.FOR_A_READER
    dead = [attempt for attempt in going_on if attempt.state is AttemptState.STARTED and attempt.lease_token]
    return LostRun(
        expired=tuple((attempt, death_message(attempt, run.kind)) for attempt in dead),
        cancelled=tuple(attempt for attempt in going_on if attempt not in dead and attempt not in queued),
        queued=tuple(queued),
    )


def death_message(attempt: AttemptRow, kind: RunKind) -> str | None:
    """Why the delivery fails by this death; None while it is attempted again."""
    deaths = attempt.deaths + 1
    if kind is RunKind.NORMAL or deaths < QUARANTINE_AFTER + DEATHS_IN_QUARANTINE:
        return None
    may_exist = f" {MAY_EXIST}" if attempt.unresolved else ""
    return (
        f"The worker died {deaths} times while it exported this record to {attempt.destination}, "
        f"{DEATHS_IN_QUARANTINE} times with nothing else to do: look at its log, then `nexus-tasks retry`.{may_exist}"
    )


def rescue(deployment: Deployment) -> None:
    """End the overdue runs that are lost, and reconcile their records; each in a transaction of its own.

    The broker is asked before any row is locked: it may be slow to answer.
    """
    with transaction(deployment.engine) as connection:
        overdue = rescuing.overdue(connection)
        if not overdue:
            return
        read = {queue for worker in workers.running(connection) for queue in worker.queues}
        awaited = rescuing.awaited_destinations(connection, overdue)
    lengths = queue_lengths(deployment.app, {EXPORT + destination for destination in awaited})
    patience = timedelta(seconds=deployment.settings.NX_RUN_PATIENCE)
    for run_id in overdue:
        with transaction(deployment.engine) as connection:
            _end_if_lost(connection, run_id, lengths, read, patience)


def _end_if_lost(
    connection: Connection, run_id: int, lengths: Mapping[str, int], read: Collection[str], patience: timedelta
) -> None:
    def may_be_queued(attempt: AttemptRow) -> bool:
        """Its queue is not empty, and no message behind it was taken."""
        return lengths.get(EXPORT + attempt.destination, 1) > 0 and not attempts.later_started(connection, attempt)

    def is_read(attempt: AttemptRow) -> bool:
        """While no worker runs at all, nothing is said about this queue."""
        return not read or EXPORT + attempt.destination in read

    run = rescuing.lock(connection, run_id)
    if run is None:
        return
    if run.state is RunState.OPEN and (within := rescuing.next_event_within(connection, run.id, patience)) is not None:
        rescuing.expect(connection, run.id, within)
        return
    judged = judge(run, may_be_queued, is_read)
    if judged is Waiting.FOR_A_READER:  # it stays overdue: that is how long nobody has read the queue
        return
    if isinstance(judged, Waiting):
        rescuing.expect(connection, run.id, patience)
        return
    for attempt, message in judged.expired:
        expire(connection, attempt, message)
    attempts.cancel(connection, [attempt.id for attempt in judged.cancelled])
    attempts.orphan(connection, [attempt.id for attempt in judged.queued])
    if judged.queued:  # they are looked at again
        rescuing.expect(connection, run.id, patience)
    if run.state is RunState.OPEN and judged != LostRun():
        logger.warning("Run %d of record %d is lost; its deliveries are due again", run.id, run.record_id)
        rescuing.lose(connection, run.id)
    reconcile_within(connection, run.record_id)  # a run whose attempts have all ended has only lost its finalize


def expire(connection: Connection, attempt: AttemptRow, message: str | None) -> None:
    """Write that the worker of a locked attempt died; with a message, its delivery fails by it."""
    record = deliveries.of_record(connection, attempt.record_id)
    delivery = next(row for row in record.deliveries if row.id == attempt.delivery_id)
    attempts.expire(connection, attempt.id, message, input_fingerprint(record, delivery))
