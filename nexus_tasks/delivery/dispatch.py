"""The only planner: finds lost runs, turns due deliveries into runs, commits them, then publishes their canvases.

Runs after every enqueue and every finalize, when an attempt ends whose destination was full, and from beat.
"""

import logging
from collections.abc import Callable
from datetime import timedelta

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import Connection, Engine

from nexus_tasks.config import Settings
from nexus_tasks.db import deliveries, destinations, records, runs
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import AttemptRow, DestinationRow
from nexus_tasks.delivery.canvas import EXPORT, OpenRun, canvas
from nexus_tasks.delivery.plan import PlannedRun, plan, single
from nexus_tasks.delivery.recovery import judge
from nexus_tasks.delivery.settle import settle
from nexus_tasks.states import RunKind, RunState

MOST_PAGES = 50  # of candidates in one dispatch; the next dispatch goes on
BROKER_ERRORS = (OperationalError, RedisError, OSError, RuntimeError)

logger = logging.getLogger(__name__)


class BrokerError(Exception):
    """The broker does not take messages. Nothing is lost: what is due stays in PostgreSQL until a later dispatch."""


def dispatch(app: Celery, engine: Engine, settings: Settings) -> int:
    """Plan and publish what is due and has room; the number of runs published.

    Raises `BrokerError` when a publish failed: that run and the ones after it are closed, their deliveries due again.
    """
    for record_id in _find_lost(app, engine, settings):
        settle(engine, record_id)
    opened = _open_runs(engine, settings)
    for position, run in enumerate(opened):
        try:
            canvas(app, run).apply_async()
        except Exception as error:  # a client whose broker dies under it raises nearly anything
            with transaction(engine) as connection:
                for not_sent in opened[position:]:
                    runs.unsent(connection, [attempt_id for stage in not_sent.stages for _, attempt_id in stage])
                    runs.close(connection, not_sent.run_id)
            raise BrokerError(
                f"The broker takes no messages ({_reason(error)}): check NX_BROKER_URL and that it runs. "
                "Nothing is lost, the exports go out when it is back."
            ) from error
    return len(opened)


def _find_lost(app: Celery, engine: Engine, settings: Settings) -> list[int]:
    """End the overdue runs that are lost; the records that are to be settled."""
    changed = []
    with transaction(engine) as connection:
        may_be_queued = _queues(app, connection)
        for run in runs.overdue(connection):
            loss = judge(run, may_be_queued)
            if loss is None:
                runs.expect(connection, run.id, timedelta(seconds=settings.NX_RUN_PATIENCE))
                continue
            for attempt, message in loss.died:
                runs.died(connection, attempt, message)
            runs.unsent(connection, [attempt.id for attempt in loss.unsent])
            if loss.died or loss.unsent:
                logger.warning("Run %d of record %d is lost; what it was for is due again", run.id, run.record_id)
                runs.close(connection, run.id, RunState.LOST)
            changed.append(run.record_id)  # a run whose attempts have all ended has only lost its finalize
    return changed


def _queues(app: Celery, connection: Connection) -> Callable[[AttemptRow], bool]:
    """Whether a planned attempt's message may still be waiting: its queue is not empty, none behind it was taken."""
    lengths: dict[str, int] = {}

    def may_be_queued(attempt: AttemptRow) -> bool:
        if attempt.destination not in lengths:
            lengths[attempt.destination] = queue_length(app, EXPORT + attempt.destination)
        return lengths[attempt.destination] > 0 and not runs.later_started(connection, attempt)

    return may_be_queued


def queue_length(app: Celery, queue: str) -> int:
    """How many messages wait in a queue; taken for one when the broker does not answer, for nothing can be sent."""
    connection = app.connection_for_read()
    try:
        with connection:
            connection.ensure_connection(max_retries=1, timeout=3)
            declared = connection.default_channel.queue_declare(queue=queue, passive=True)
            return int(declared.message_count)
    except (*BROKER_ERRORS, *connection.connection_errors, *connection.channel_errors) as error:
        if "NOT_FOUND" in str(error) or "no queue" in str(error).lower():
            return 0
        logger.warning("The length of queue %s is not known: %s", queue, error)
        return 1


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
    planned: dict[int, PlannedRun] = {}
    for row in health:
        if row.health.wants_probe(now) and row.room > 0 and row.name not in probed:
            record = deliveries.probe(connection, row.name)
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
    found = deliveries.suspected(connection, [row.name for row in health if row.health.well and row.room > 0])
    return [single(*found, RunKind.ALONE)] if found else []


def _plan_normal(connection: Connection, health: list[DestinationRow]) -> list[PlannedRun]:
    """As many runs as there is room for; looks further when `plan` leaves room because of what it passes over."""
    now = deliveries.clock(connection)
    room = {row.name: row.room for row in health}
    paused = {row.name for row in health if not row.health.well}
    planned: list[PlannedRun] = []
    seen: set[int] = set()
    for _ in range(MOST_PAGES):
        found = deliveries.candidates(connection, room, paused, seen)
        if not found:
            break
        seen.update(record.record_id for record in found)
        for run in plan(found, room, paused, now):
            planned.append(run)
            for row in run.deliveries:
                room[row.destination] -= 1
    return planned


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]
