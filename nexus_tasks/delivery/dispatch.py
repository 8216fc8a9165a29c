"""The only planner: finds lost runs, turns due deliveries into runs, commits them, then publishes their canvases.

Runs after every enqueue and every finalize, when an attempt ends whose destination was full, and from beat.
"""

import logging
from collections.abc import Collection, Mapping
from datetime import timedelta

from sqlalchemy import Connection, Engine

from nexus_tasks.broker import BrokerError, queue_lengths
from nexus_tasks.config import Settings
from nexus_tasks.db import candidates, deliveries, destinations, records, runs, workers
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import AttemptRow, DestinationRow
from nexus_tasks.delivery.canvas import EXPORT, OpenRun, canvas
from nexus_tasks.delivery.plan import PlannedRun, plan, single
from nexus_tasks.delivery.recovery import Loss, Waits, judge
from nexus_tasks.delivery.settle import settle_within
from nexus_tasks.deployment import Deployment
from nexus_tasks.states import AttemptState, RunKind, RunState

MOST_PAGES = 50  # of candidates in one dispatch; the next dispatch goes on

logger = logging.getLogger(__name__)


def dispatch(deployment: Deployment) -> int:
    """Plan and publish what is due and has room; the number of runs published.

    Raises `BrokerError` when a publish failed: that run and the ones after it are closed, their deliveries due again.
    """
    _find_lost(deployment)
    opened = _open_runs(deployment.engine, deployment.settings)
    for position, run in enumerate(opened):
        try:
            canvas(deployment.app, run).apply_async()
        except Exception as error:  # a client whose broker dies under it raises nearly anything
            with transaction(deployment.engine) as connection:
                for not_sent in opened[position:]:
                    runs.take_back(connection, not_sent.run_id)
            raise BrokerError(error, "the exports go out when it is back") from error
    return len(opened)


def _find_lost(deployment: Deployment) -> None:
    """End the overdue runs that are lost, and settle their records; each in one transaction, so that nothing is left.

    The broker is asked before any row is locked: it may be slow to answer.
    """
    with transaction(deployment.engine) as connection:
        overdue = runs.overdue(connection)
        read = {queue for worker in workers.running(connection) for queue in worker.queues} if overdue else set()
    planned = [attempt for run in overdue for attempt in run.attempts if attempt.state is AttemptState.PLANNED]
    lengths = queue_lengths(deployment.app, {EXPORT + attempt.destination for attempt in planned})
    patience = timedelta(seconds=deployment.settings.NX_RUN_PATIENCE)
    for run in overdue:
        with transaction(deployment.engine) as connection:
            _end_if_lost(connection, run.id, lengths, read, patience)


def _end_if_lost(
    connection: Connection, run_id: int, lengths: Mapping[str, int], read: Collection[str], patience: timedelta
) -> None:
    def may_be_queued(attempt: AttemptRow) -> bool:
        """Its queue is not empty, and no message behind it was taken."""
        return lengths[EXPORT + attempt.destination] > 0 and not runs.later_started(connection, attempt)

    def is_read(attempt: AttemptRow) -> bool:
        """While no worker runs at all, nothing is said about this queue."""
        return not read or EXPORT + attempt.destination in read

    run = runs.lock_overdue(connection, run_id)
    if run is None:
        return
    judged = judge(run, may_be_queued, is_read)
    if judged is Waits.FOR_A_READER:  # it stays overdue: that is how long nobody has read the queue
        return
    if judged is Waits.FOR_ITS_TURN:
        runs.expect(connection, run.id, patience)
        return
    for attempt, message in judged.died:
        runs.died(connection, attempt, message)
    runs.unsent(connection, [attempt.id for attempt in judged.unsent])
    if judged.queued:  # they are looked at again
        runs.expect(connection, run.id, patience)
    if run.state is RunState.OPEN and judged != Loss():
        logger.warning("Run %d of record %d is lost; what it was for is due again", run.id, run.record_id)
        runs.close(connection, run.id, RunState.LOST)
    settle_within(connection, run.record_id)  # a run whose attempts have all ended has only lost its finalize


def _open_runs(engine: Engine, settings: Settings) -> list[OpenRun]:
    patience = timedelta(seconds=settings.NX_RUN_PATIENCE)
    opened = []
    with transaction(engine) as connection:
        runs.lock_planner(connection)
        for select in (_plan_probes, _plan_alone, _plan_normal):
            for planned in select(connection, destinations.all_rows(connection)):
                run_id, token, attempts = runs.add(
                    connection, planned.record_id, [row.id for row in planned.deliveries], planned.kind, patience
                )
                stages = tuple(tuple((row.destination, attempts[row.id]) for row in stage) for stage in planned.stages)
                session = records.get(connection, planned.record_id).session_identifier
                opened.append(OpenRun(run_id, token.hex, session, stages))
    return opened


def _plan_probes(connection: Connection, health: list[DestinationRow]) -> list[PlannedRun]:
    """One run of one delivery for each destination whose pause is over."""
    now = deliveries.clock(connection)
    probed = runs.open_of_kind(connection, RunKind.PROBE)
    alone = runs.open_of_kind(connection, RunKind.ALONE)
    paused = {row.name for row in health if not row.health.well}
    planned: dict[int, PlannedRun] = {}
    for row in health:
        if row.health.wants_probe(now) and row.room > 0 and row.name not in probed:
            record = candidates.probe(connection, row.name, paused)
            if record is None or record.record_id in planned:
                continue
            run = single(record, row.name, RunKind.PROBE)
            if not (alone and run.deliveries[0].suspected):
                planned[record.record_id] = run
    return list(planned.values())


def _plan_alone(connection: Connection, health: list[DestinationRow]) -> list[PlannedRun]:
    """A run for one delivery whose workers have died, while no other such run is open anywhere."""
    if runs.open_of_kind(connection, RunKind.ALONE):
        return []
    found = candidates.suspected(connection, [row.name for row in health if row.health.well and row.room > 0])
    return [single(*found, RunKind.ALONE)] if found else []


def _plan_normal(connection: Connection, health: list[DestinationRow]) -> list[PlannedRun]:
    """As many runs as there is room for; looks further when `plan` leaves room because of what it passes over."""
    now = deliveries.clock(connection)
    room = {row.name: row.room for row in health}
    paused = {row.name for row in health if not row.health.well}
    planned: list[PlannedRun] = []
    seen: set[int] = set()
    for _ in range(MOST_PAGES):
        found = candidates.next_records(connection, room, paused, seen)
        if not found:
            break
        seen.update(record.record_id for record in found)
        for run in plan(found, room, paused, now):
            planned.append(run)
            for row in run.deliveries:
                room[row.destination] -= 1
    return planned
