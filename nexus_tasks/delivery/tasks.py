"""The Celery tasks: `export.<destination>` for each destination, `finalize`, `dispatch`, `archive`, `prune`.

They only carry: what is decided and written is in `attempt`, `settle` and `dispatch`. Short retries are Celery's: three
tries within about half a minute. A task whose tries are used up *returns* its failure, so that the chord's body runs.
"""

import logging
import random
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from nexus_tasks.broker import BrokerError
from nexus_tasks.config import Settings
from nexus_tasks.db import destinations, runs, workers
from nexus_tasks.db.engine import DatabaseError, transaction
from nexus_tasks.db.patience import patiently
from nexus_tasks.delivery import archive, attempt
from nexus_tasks.delivery.canvas import ARCHIVE, BY_BEAT, COLLECT, DISPATCH, EXPORT, FINALIZE, PRUNE
from nexus_tasks.delivery.checkpoint import NotYetResolvableError
from nexus_tasks.delivery.dispatch import dispatch
from nexus_tasks.delivery.lease import LeaseLostError
from nexus_tasks.delivery.plugin_call import call_plugin
from nexus_tasks.delivery.prune import prune
from nexus_tasks.delivery.retry import asked_wait
from nexus_tasks.delivery.settle import settle
from nexus_tasks.delivery.turns import NotYourTurnError
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ConfigurationError, ExportDestination, ExportError, TransientError
from nexus_tasks.exporters.registry import Registry, window_of
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
    """One try of one delivery. The first argument is the result of the task before it: what Flower shows.

    Celery counts all its retries together, those of a destination whose calls keep an interval as well, so there is no
    limit to them here: NX_TRIES is kept on the attempt's row, and a message ends with its run.
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
            begun = attempt.begin(engine, attempt_id, run, settings)
        except attempt.NotWantedError as error:
            logger.info("%s of session %s is not wanted: %s", self.name, session, error)
            raise Ignore from error  # returning would count towards the chord
        if isinstance(begun, attempt.Finished):
            return begun.result
        try:
            return self._go_on(begun, settings)
        except LeaseLostError as error:
            logger.warning("%s of session %s stops: %s", self.name, session, error)
            raise Ignore from error
        except NotYourTurnError as error:
            raise self._come_again(begun, settings, error, error.seconds) from error
        except DatabaseError as error:  # the try is broken off, but nobody has died in it
            raise self._come_again(begun, settings, error, DATABASE_RETRY_S) from error

    def _go_on(self, begun: attempt.Try, settings: Settings) -> dict[str, Any]:
        engine = self.deployment.engine
        try:
            outcome: attempt.Outcome = call_plugin(
                begun, self._destination(), engine, settings, interruption=SoftTimeLimitExceeded
            )
        except TransientError as error:
            self._try_again(begun, error, settings)
            outcome = error
        except (ExportError, NotYetResolvableError) as error:
            outcome = error
        except SoftTimeLimitExceeded:
            outcome = TransientError(f"The plugin {self.destination} did not come back within {EXPORT_SOFT_LIMIT_S} s")
        finished = patiently(lambda: attempt.finish(engine, begun, settings, outcome))
        if finished.run_is_over:
            settle(engine, begun.record.id)
        if finished.made_room or finished.run_is_over:
            _dispatch(self.deployment)
        return finished.result

    def _come_again(self, begun: attempt.Try, settings: Settings, error: Exception, seconds: float) -> Any:
        """Give the lease back, and return the exception to raise so that the try goes on after some seconds."""
        patiently(lambda: attempt.give_back(self.deployment.engine, begun, settings, seconds))
        return self._later(error, seconds)

    def _destination(self) -> ExportDestination:
        destination = self.deployment.registry.get(self.destination)
        if destination is None:
            raise ConfigurationError(f"This worker does not know the destination {self.destination}.")
        return destination

    def _try_again(self, begun: attempt.Try, error: TransientError, settings: Settings) -> None:
        """Have Celery try again after a while; returns when the tries are used up, or must not be used."""
        tries = begun.attempt.tries + 1
        if tries >= settings.NX_TRIES or not attempt.can_be_tried_again(self.deployment.engine, begun, error):
            return
        longest = settings.NX_TRY_BACKOFF * 2 ** (tries - 1)
        jittered = random.uniform(min(LEAST_BACKOFF_S, longest), longest)  # noqa: S311 - not a secret
        countdown = max(jittered, asked_wait(error))
        patiently(lambda: attempt.set_aside(self.deployment.engine, begun, settings, error, countdown))
        raise self._later(error, countdown)

    def _later(self, error: Exception, countdown: float) -> Any:
        """The exception to raise so that this message comes again after `countdown` seconds."""
        try:
            return self.retry(exc=error, countdown=countdown, max_retries=None, throw=False)
        except Reject as not_published:  # the broker did not take it: the run is lost, and planned again
            return Ignore(not_published)


class FinalizeTask(DatabaseTask):
    """The chord's callback: settle the record, send what is due next, archive the record if it is done."""

    name = FINALIZE

    def run(self, previous: Any = None, *, run_id: int, session: str) -> dict[str, Any]:  # noqa: ARG002
        """Returns the session's status and the states of its deliveries."""
        engine = self.deployment.engine
        with transaction(engine) as connection:
            record_id = runs.record_of(connection, run_id)
        if record_id is None:
            raise Ignore
        settled = settle(engine, record_id)
        _dispatch(self.deployment)
        archive.archive(engine, self.deployment.settings, record_id)
        return {
            "session": settled.session_identifier,
            "record_status": settled.record_status.value,
            "deliveries": settled.deliveries,
        }


class CollectTask(Task):  # type: ignore[misc]
    """Stands between two stages of several destinations, because a chord needs a single task to end in."""

    name = COLLECT

    def run(self, previous: Any = None) -> Any:
        """Hand the results on."""
        return previous


class DispatchTask(DatabaseTask):
    """Plan and publish what is due: from beat, and whenever there is room again.

    Its worker's settings say how large the windows are; a builder that hands over may know less of them.
    """

    name = DISPATCH
    ignore_result = True

    def run(self) -> int:
        """Returns the number of runs published."""
        deployment = self.deployment
        windows = {
            each.name: window_of(each, deployment.settings.NX_WINDOWS) for each in deployment.registry.destinations
        }
        with transaction(deployment.engine) as connection:
            destinations.set_windows(connection, windows)
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
