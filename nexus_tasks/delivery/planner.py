"""The planner: opens runs for what is due, commits them, then publishes their canvases.

Many ask for a planning, one makes it: who finds a planner at work leaves word, and that one plans once more. One
planning opens any number of runs with a handful of statements.
"""

import logging
from datetime import timedelta
from uuid import uuid4

from sqlalchemy import Connection, Engine

from nexus_tasks.broker import BrokerError
from nexus_tasks.config import Settings
from nexus_tasks.db import deliveries, destinations, planning
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.planning import Due, NewRun, Turn
from nexus_tasks.db.rows import RecordDeliveries
from nexus_tasks.delivery.canvas import OpenRun, canvas
from nexus_tasks.delivery.plan import PlannedRun, plan, single
from nexus_tasks.deployment import Deployment
from nexus_tasks.states import RunKind

logger = logging.getLogger(__name__)


def dispatch(deployment: Deployment) -> int:
    """Plan what is due and has capacity, and publish it; the number of runs published.

    Returns 0 while another planner is at work, which then plans again. Raises `BrokerError` when a publish failed: that
    run and the ones after it are closed, their deliveries due again.
    """
    published = 0
    while True:
        planned = _plan_once(deployment.engine, deployment.settings)
        if planned is None:
            return published
        turn, runs = planned
        published += _publish(deployment, runs)
        if planning.requested(deployment.engine) == turn.requested:
            return published


def _plan_once(engine: Engine, settings: Settings) -> tuple[Turn, list[OpenRun]] | None:
    """The runs opened in one turn; None when another planner is at work and knows that it is to plan again."""
    for asked in (False, True):
        with transaction(engine) as connection:
            turn = planning.try_lock(connection)
            if turn is not None:
                return turn, _open_runs(connection, turn, settings)
        if not asked:
            planning.request(engine)  # that planner may have ended before it could see this: so try once more
    return None


def _open_runs(connection: Connection, turn: Turn, settings: Settings) -> list[OpenRun]:
    rows = destinations.all_rows(connection)
    not_awaited = {row.name for row in rows if not row.breaker.closed}
    half_open = {row.name for row in rows if row.breaker.half_open(turn.now) and row.capacity > 0}
    capacity = {row.name: row.capacity for row in rows if row.breaker.closed and row.capacity > 0}
    # a probe takes one delivery; more are asked for because their records may be probes of other destinations
    due = planning.due(connection, capacity | dict.fromkeys(half_open, len(half_open)), not_awaited)
    if not due:
        return []
    records = {
        record.record_id: record for record in deliveries.of_records(connection, {each.record_id for each in due})
    }
    planned = _single_runs(connection, due, records, half_open)
    for run in planned:
        if run.kind is RunKind.QUARANTINE:
            capacity[run.deliveries[0].destination] -= 1
    singled = {run.record_id for run in planned}
    normal = {each.record_id: records[each.record_id] for each in due if each.destination not in half_open}
    planned += plan((record for key, record in normal.items() if key not in singled), capacity, not_awaited, turn.now)
    return _open(connection, planned, timedelta(seconds=settings.NX_RUN_PATIENCE)) if planned else []


def _single_runs(
    connection: Connection, due: list[Due], records: dict[int, RecordDeliveries], half_open: set[str]
) -> list[PlannedRun]:
    """Runs of one delivery: a probe for each half-open destination, and a quarantined delivery if none is open.

    A quarantined delivery is a probe only where there is no other.
    """
    candidates = [each for each in due if each.quarantined or each.destination in half_open]
    if not candidates:
        return []
    probed = planning.destinations_with_open_run(connection, RunKind.PROBE)
    quarantined = bool(planning.destinations_with_open_run(connection, RunKind.QUARANTINE))
    planned: dict[int, PlannedRun] = {}
    for each in sorted(candidates, key=lambda each: (each.destination not in half_open, each.quarantined)):
        probe = each.destination in half_open
        if each.record_id in planned or (probe and each.destination in probed) or (each.quarantined and quarantined):
            continue
        kind = RunKind.PROBE if probe else RunKind.QUARANTINE
        planned[each.record_id] = single(records[each.record_id], each.destination, kind)
        quarantined |= each.quarantined
        if probe:
            probed.add(each.destination)
    return list(planned.values())


def _open(connection: Connection, planned: list[PlannedRun], patience: timedelta) -> list[OpenRun]:
    new = [
        NewRun(run.record_id, uuid4(), run.kind, [(row.id, row.destination) for row in run.deliveries])
        for run in planned
    ]
    opened = planning.open_runs(connection, new, patience)
    return [
        OpenRun(
            opened[run.deliveries[0].id][0],
            row.token.hex,
            run.session_identifier,
            tuple(tuple((each.destination, opened[each.id][1]) for each in stage) for stage in run.stages),
        )
        for run, row in zip(planned, new, strict=True)
    ]


def _publish(deployment: Deployment, runs: list[OpenRun]) -> int:
    for position, run in enumerate(runs):
        try:
            canvas(deployment.app, run).apply_async()
        except Exception as error:  # a client whose broker dies under it raises nearly anything
            with transaction(deployment.engine) as connection:
                for not_sent in runs[position:]:
                    planning.cancel_run(connection, not_sent.run_id)
            raise BrokerError(error, "the exports go out when it is back") from error
    return len(runs)
