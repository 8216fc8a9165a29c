"""Has each worker say every half minute that it runs, with its queues, clock and folders; `celery.py` gives it to them.

It is a step of Celery's consumer and uses its timer: no thread, a connection of its own for a few milliseconds. A
worker whose connection to the broker is cut takes nothing, so it takes its row away until it is back. PostgreSQL may be
away: then it is asked ever more rarely, for two seconds at most.
"""

import logging
import time
from typing import Any
from uuid import uuid4

from celery import bootsteps
from sqlalchemy import Connection, Engine

from nexus_tasks import __version__
from nexus_tasks.config import Settings, get_settings
from nexus_tasks.db import workers
from nexus_tasks.db.engine import DatabaseError, engine_that_gives_up_soon, transaction
from nexus_tasks.monitoring.shared_folder import id_of

INTERVAL_S = 30.0
LONGEST_INTERVAL_S = 300.0  # while PostgreSQL is away

logger = logging.getLogger(__name__)


class Presence(bootsteps.StartStopStep):  # type: ignore[misc]
    """The row of one worker, from the moment that it takes messages until it takes no more."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._process = uuid4()
        self._timers: list[Any] = []
        self._interval = INTERVAL_S
        self._not_before = 0.0  # by time.monotonic()

    def start(self, consumer: Any) -> None:
        """The consumer has its connection: speak now, and again and again."""
        self._not_before = 0.0
        self._timers = [
            consumer.timer.call_after(0, self._speak, (consumer,)),
            consumer.timer.call_repeatedly(INTERVAL_S, self._speak, (consumer,)),
        ]

    def stop(self, consumer: Any) -> None:
        """The consumer stops, or its connection is cut; called again at the very end."""
        if not self._timers:
            return
        for timer in self._timers:
            consumer.timer.cancel(timer)
        self._timers = []
        if self._interval > INTERVAL_S:
            return  # PostgreSQL is away: the row is forgotten by its age
        try:
            with transaction(_engine(get_settings())) as connection:
                workers.absent(connection, consumer.hostname, self._process)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not keep a worker from stopping
            logger.info("This worker could not sign off: %s", error)

    shutdown = stop

    def _speak(self, consumer: Any) -> None:
        if time.monotonic() < self._not_before:
            return
        settings = get_settings()
        try:
            with transaction(_engine(settings)) as connection:
                workers.present(
                    connection,
                    consumer.hostname,
                    self._process,
                    queues=sorted(consumer.app.amqp.queues.consume_from),
                    version=__version__,
                    clock_offset_s=clock_offset(connection),
                    stores=stores(connection, settings),
                )
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not disturb a worker
            self._fall_back(error)
        else:
            self._interval = INTERVAL_S

    def _fall_back(self, error: Exception) -> None:
        if self._interval == INTERVAL_S:
            said = str(error) if isinstance(error, DatabaseError) else f"{type(error).__name__}: {error}"
            logger.warning("This worker cannot say that it runs, and `nexus-tasks status` may miss it: %s", said)
        self._interval = min(2 * self._interval, LONGEST_INTERVAL_S)
        self._not_before = time.monotonic() + self._interval - INTERVAL_S / 2


def clock_offset(connection: Connection) -> float:
    """The seconds that this machine's clock is ahead of PostgreSQL's, to half the time that asking takes."""
    before = time.time()
    theirs = workers.clock_seconds(connection)
    return (before + time.time()) / 2 - theirs


def stores(connection: Connection, settings: Settings) -> dict[str, str]:
    """Which folders this worker sees, by the setting that names them; marks one that no worker has seen yet."""
    others = workers.running(connection)
    found = {}
    for setting, folder in (("NX_DATA_PATH", settings.NX_DATA_PATH), ("NX_RECORDS_PATH", settings.records_path)):
        known = any(other.stores.get(setting) for other in others)
        seen = id_of(folder, may_mark=not known)
        if seen is not None:
            found[setting] = seen
    return found


def _engine(settings: Settings) -> Engine:
    return engine_that_gives_up_soon(settings.database_url)
