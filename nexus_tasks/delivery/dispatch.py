"""The only planner: turns due deliveries into runs, commits them, then publishes their canvases.

Runs after every enqueue and every finalize, when an attempt ends whose destination was full, and from beat.
"""

import logging

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import Engine

from nexus_tasks.db import deliveries, destinations, records, runs
from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery.canvas import OpenRun, canvas
from nexus_tasks.delivery.plan import plan

logger = logging.getLogger(__name__)


class BrokerError(Exception):
    """The broker does not take messages. Nothing is lost: what is due stays in PostgreSQL until a later dispatch."""


def dispatch(app: Celery, engine: Engine) -> int:
    """Plan and publish what is due and has room; the number of runs published.

    Raises `BrokerError` when a publish failed: that run and the ones after it are closed, their deliveries due again.
    """
    opened = _open_runs(engine)
    for position, run in enumerate(opened):
        try:
            canvas(app, run).apply_async()
        except (OperationalError, RedisError, OSError, RuntimeError) as error:
            with transaction(engine) as connection:
                for unsent in opened[position:]:
                    runs.not_sent(connection, unsent.run_id)
            raise BrokerError(
                f"The broker takes no messages ({_reason(error)}): check NX_BROKER_URL and that it runs. "
                "Nothing is lost, the exports go out when it is back."
            ) from error
    return len(opened)


def _open_runs(engine: Engine) -> list[OpenRun]:
    opened = []
    with transaction(engine) as connection:
        runs.lock_planner(connection)
        now = deliveries.clock(connection)
        health = destinations.all_rows(connection)
        room = {row.name: row.room for row in health}
        paused = {row.name for row in health if row.paused(now)}
        for planned in plan(deliveries.candidates(connection, room, paused), room, paused, now):
            run_id, attempts = runs.add(connection, planned.record_id, [row.id for row in planned.deliveries])
            stages = tuple(tuple((row.destination, attempts[row.id]) for row in stage) for stage in planned.stages)
            opened.append(OpenRun(run_id, records.get(connection, planned.record_id).session_identifier, stages))
    return opened


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]
