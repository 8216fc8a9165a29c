"""The Celery tasks: `export.<destination>` for each destination, `finalize`, `dispatch`, `archive`, `prune`.

They only carry: what is decided and written is in `attempt`, `reconcile` and `planner`. Short retries are Celery's:
three tries within about half a minute. A task whose tries are used up *returns* its failure, so the chord's body runs.
"""

import logging
import random
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from nexus_tasks.broker import BrokerError
from nexus_tasks.config import Settings
from nexus_tasks.db import destinations, workers
from nexus_tasks.db.engine import DatabaseError, transaction
from nexus_tasks.db.patience import patiently
from nexus_tasks.delivery import archive, attempt
from nexus_tasks.delivery.canvas import ARCHIVE, BY_BEAT, COLLECT, DISPATCH, FINALIZE, PRUNE
from nexus_tasks.delivery.idempotency import NotYetResolvableError
from nexus_tasks.delivery.lease import LeaseLostError
from nexus_tasks.delivery.planner import dispatch
from nexus_tasks.delivery.plugin_call import call_plugin
from nexus_tasks.delivery.prune import prune
from nexus_tasks.delivery.rate_limit import RateLimitedError, max_in_flight
from nexus_tasks.delivery.reconcile import reconcile_run
from nexus_tasks.delivery.rescuer import rescue
from nexus_tasks.delivery.retry import asked_wait
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ConfigurationError, ExportDestination, ExportError, TransientError
from nexus_tasks.exporters.registry import Registry
from nexus_tasks.queues import EXPORT
from nexus_tasks.task_base import DATABASE_RETRY_S, DatabaseTask, of_its_own

LEAST_BACKOFF_S = 1  # LabArchives asks for a second before the first retry; it does the others no harm
EXPORT_SOFT_LIMIT_S = 900  # far above the calls' own deadlines; the task then returns a failure
EXPORT_HARD_LIMIT_S = 960

logger = logging.getLogger(__name__)


def register(app: Celery, registry: Registry) -> None:
    """Give the app its tasks: one export task for each destination that this process knows, and the five others."""
    for destination in registry.destinations:
        app.register_task(of_its_own(ExportTask)(destination.name))
    for task in (FinalizeTask, CollectTask, DispatchTask, ArchiveTask, PruneTask):
        app.register_task(of_its_own(task)())


class ExportTask(DatabaseTask):
    """One try of one attempt. The first argument is the result of the task before it: what Flower shows.

    Celery counts all its retries together, those of a rate limit as well, so there is no limit to them here: NX_TRIES
    is kept on the attempt's row, and a message ends with its run.
    """

    soft_time_limit = EXPORT_SOFT_LIMIT_S
    time_limit = EXPORT_HARD_LIMIT_S
    max_retries = None

    def __init__(self, destination: str) -> None:
        self.name = EXPORT + destination
        self.destination = destination

    def run(self, previous: Any = None, *, attempt_id: int, run: str, session: str) -> dict[str, Any]:  # noqa: ARG002
        """Bring the delivery to its desired state, or find that there is nothing to do."""
        engine, settings = self.deployment.engine, self.deployment.settings
        try:
            started = attempt.start(engine, attempt_id, run, settings)
        except attempt.NotWantedError as error:
            logger.info("%s of session %s is not wanted: %s", self.name, session, error)
            raise Ignore from error  # returning would count towards the chord
        if isinstance(started, attempt.Finished):
            return started.result
        try:
            return self._go_on(started, settings)
        except LeaseLostError as error:
            logger.warning("%s of session %s stops: %s", self.name, session, error)
            patiently(started.own.save)  # what it has created is known to whoever has the delivery now
            raise Ignore from error
        except RateLimitedError as error:
            raise self._snooze(started, settings, error, error.seconds) from error
        except DatabaseError as error:  # the try is broken off, but nobody has died in it
            raise self._snooze(started, settings, error, DATABASE_RETRY_S) from error

    def _go_on(self, started: attempt.Attempt, settings: Settings) -> dict[str, Any]:
        engine = self.deployment.engine
        try:
            outcome: attempt.Outcome = call_plugin(
                started, self._destination(), engine, settings, interruption=SoftTimeLimitExceeded
            )
        except TransientError as error:
            self._retry_soon(started, error, settings)
            outcome = error
        except (ExportError, NotYetResolvableError) as error:
            outcome = error
        except SoftTimeLimitExceeded:
            outcome = TransientError(f"The plugin {self.destination} did not return within {EXPORT_SOFT_LIMIT_S} s")
        finished = patiently(lambda: attempt.finish(engine, started, settings, outcome))
        if finished.worth_planning:
            _dispatch(self.deployment)
        return finished.result

    def _snooze(self, started: attempt.Attempt, settings: Settings, error: Exception, seconds: float) -> Any:
        """Give up the lease, and return the exception to raise so that the try goes on after some seconds."""
        patiently(lambda: attempt.snooze(self.deployment.engine, started, settings, seconds))
        return self._later(error, seconds)

    def _destination(self) -> ExportDestination:
        destination = self.deployment.registry.get(self.destination)
        if destination is None:
            raise ConfigurationError(f"This worker does not know the destination {self.destination}.")
        return destination

    def _retry_soon(self, started: attempt.Attempt, error: TransientError, settings: Settings) -> None:
        """Have Celery retry after a while; returns when the tries are used up, or must not be used."""
        tries = started.row.tries
        if tries >= settings.NX_TRIES or not attempt.can_be_retried(self.deployment.engine, started, error):
            return
        longest = settings.NX_TRY_BACKOFF * 2 ** (tries - 1)
        jittered = random.uniform(min(LEAST_BACKOFF_S, longest), longest)  # noqa: S311 - not a secret
        countdown = max(jittered, asked_wait(error))
        patiently(lambda: attempt.schedule_retry(self.deployment.engine, started, settings, error, countdown))
        raise self._later(error, countdown)

    def _later(self, error: Exception, countdown: float) -> Any:
        """The exception to raise so that this message comes again after `countdown` seconds."""
        try:
            return self.retry(exc=error, countdown=countdown, max_retries=None, throw=False)
        except Reject as not_published:  # the broker did not take it: the run is lost, and planned again
            return Ignore(not_published)


class FinalizeTask(DatabaseTask):
    """The chord's callback: reconcile the record, and archive it when it is done; dispatch what is due of it."""

    name = FINALIZE

    def run(self, previous: Any = None, *, run_id: int, session: str) -> dict[str, Any]:  # noqa: ARG002
        """Returns the session's status and the states of its deliveries."""
        reconciled = reconcile_run(self.deployment.engine, run_id, self.deployment.settings)
        if reconciled is None:
            raise Ignore
        if reconciled.due:
            _dispatch(self.deployment)
        return {
            "session": reconciled.session_identifier,
            "record_status": reconciled.record_status.value,
            "deliveries": reconciled.deliveries,
        }


class CollectTask(Task):  # type: ignore[misc]
    """Stands between two stages of several destinations, because a chord needs a single task to end in."""

    name = COLLECT

    def run(self, previous: Any = None) -> Any:
        """Hand the results on."""
        return previous


class DispatchTask(DatabaseTask):
    """The periodic dispatch, from beat: rescue what is lost, then plan and publish what is due.

    Its worker's settings say how much each destination may have in flight; a builder that hands over may know less.
    """

    name = DISPATCH
    ignore_result = True

    def run(self) -> int:
        """Returns the number of runs published."""
        deployment = self.deployment
        limits = {each.name: max_in_flight(each, deployment.settings) for each in deployment.registry.destinations}
        with transaction(deployment.engine) as connection:
            destinations.set_max_in_flight(connection, limits)
        rescue(deployment)
        published = _dispatch(deployment)
        if (self.request.headers or {}).get(BY_BEAT):
            with transaction(deployment.engine) as connection:
                workers.heard_of_beat(connection)
        return published


class ArchiveTask(DatabaseTask):
    """The archiving sweep, from beat: for records whose finalize could not do it, or that had none."""

    name = ARCHIVE
    ignore_result = True

    def run(self) -> int:
        """Returns the number of documents moved."""
        return archive.sweep(self.deployment.engine, self.deployment.settings)


class PruneTask(DatabaseTask):
    """Retention, from beat once a day."""

    name = PRUNE
    ignore_result = True

    def run(self) -> str:
        """Returns what was deleted, in words."""
        return str(prune(self.deployment.engine, self.deployment.settings))


def _dispatch(deployment: Deployment) -> int:
    try:
        return dispatch(deployment)
    except BrokerError as error:
        logger.warning("%s", error)
        return 0
