"""The Celery tasks: `export.<destination>` for each destination, `finalize`, `dispatch`, `archive`.

They only carry: what is decided and written is in `attempt`, `settle` and `dispatch`. Short retries are Celery's: three
tries within about half a minute. A task whose tries are used up *returns* its failure, so that the chord's body runs.
"""

import logging
import random
from typing import Any, NoReturn

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, TaskPredicate
from sqlalchemy import Engine

from nexus_tasks.config import get_settings
from nexus_tasks.db import runs
from nexus_tasks.db.engine import DatabaseError, engine_for, transaction
from nexus_tasks.delivery import archive, attempt
from nexus_tasks.delivery.canvas import ARCHIVE, COLLECT, DISPATCH, EXPORT, FINALIZE
from nexus_tasks.delivery.dispatch import BrokerError, dispatch
from nexus_tasks.delivery.settle import settle
from nexus_tasks.exporters.base import ConfigurationError, ExportError, ExportResult, TransientError
from nexus_tasks.exporters.registry import Registry, get_destination

LEAST_BACKOFF_S = 1  # LabArchives asks for a second before the first retry; it does the others no harm
LONGEST_WAIT_IN_A_RUN_S = 30  # a longer Retry-After is not waited for by Celery: PostgreSQL keeps it
DATABASE_RETRY_S = 2
DATABASE_RETRIES = 15  # half a minute of patience with a database that restarts
EXPORT_SOFT_LIMIT_S = 900  # far above the calls' own deadlines; the task then returns a failure
EXPORT_HARD_LIMIT_S = 960

logger = logging.getLogger(__name__)


def register(app: Celery, registry: Registry) -> None:
    """Give the app its tasks: one export task for each destination that this process knows, and the four others."""
    for destination in registry.destinations:
        app.register_task(ExportTask(destination.name))
    for task in (FinalizeTask, CollectTask, DispatchTask, ArchiveTask):
        app.register_task(task())


class ExportTask(Task):  # type: ignore[misc]
    """One try of one delivery. The first argument is the result of the task before it: what Flower shows."""

    autoretry_for = (TransientError, DatabaseError)
    soft_time_limit = EXPORT_SOFT_LIMIT_S
    time_limit = EXPORT_HARD_LIMIT_S

    def __init__(self, destination: str) -> None:
        self.name = EXPORT + destination
        self.destination = destination
        self.max_retries = get_settings().NX_TRIES - 1

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and turn a failure that is left after the last try into a result."""
        try:
            return super().__call__(*args, **kwargs)
        except TaskPredicate:  # Retry, Ignore, Reject are Celery's own
            raise
        except ExportError as error:
            return self._end(kwargs["attempt_id"], error)
        except SoftTimeLimitExceeded:
            message = f"The plugin {self.destination} did not come back within {EXPORT_SOFT_LIMIT_S} s"
            return self._end(kwargs["attempt_id"], TransientError(message))

    def run(self, previous: Any = None, *, attempt_id: int, session: str) -> dict[str, Any]:  # noqa: ARG002
        """Bring the delivery to its desired state, or find that there is nothing to do."""
        engine = _engine()
        try:
            begun = attempt.begin(engine, attempt_id)
        except attempt.NotWantedError as error:
            logger.info("%s of session %s is not wanted: %s", self.name, session, error)
            raise Ignore from error  # returning would count towards the chord
        if isinstance(begun, dict):
            return begun
        destination = get_destination(self.destination)
        if destination is None:
            raise ConfigurationError(f"This worker does not know the destination {self.destination}")
        return self._end(attempt_id, attempt.perform(begun, destination, engine, get_settings()))

    def retry(self, *args: Any, exc: Exception | None = None, **options: Any) -> NoReturn:
        """Celery's retry, with the wait that the service asked for when it is short; a long one is left to the rows."""
        asked_for = getattr(exc, "retry_after", None) or 0
        if exc is not None and asked_for > LONGEST_WAIT_IN_A_RUN_S:
            raise exc
        options["countdown"] = max(self._backoff(), asked_for)
        try:
            raise super().retry(*args, exc=exc, **options)
        except Reject:  # the broker did not take the retry: the rows keep it
            if exc is None:
                raise
            raise exc from None

    def _backoff(self) -> float:
        longest = get_settings().NX_TRY_BACKOFF * 2**self.request.retries
        least = min(LEAST_BACKOFF_S, longest)
        return random.uniform(least, longest)  # noqa: S311 - jitter, not a secret

    def _end(self, attempt_id: int, outcome: ExportResult | ExportError) -> dict[str, Any]:
        result, made_room = attempt.finish(_engine(), attempt_id, get_settings(), outcome)
        if made_room:
            _wake(self.app)
        return result


class _DatabaseTask(Task):  # type: ignore[misc]
    """A task that needs nothing but the database, and is patient with it."""

    autoretry_for = (DatabaseError,)
    max_retries = DATABASE_RETRIES
    default_retry_delay = DATABASE_RETRY_S


class FinalizeTask(_DatabaseTask):
    """The chord's callback: settle the record, archive what is done, send what is due next."""

    name = FINALIZE

    def run(self, previous: Any = None, *, run_id: int, session: str) -> dict[str, Any]:  # noqa: ARG002
        """Returns the session's status and the states of its deliveries."""
        engine = _engine()
        with transaction(engine) as connection:
            record_id = runs.record_of(connection, run_id)
        if record_id is None:
            raise Ignore
        settled = settle(engine, record_id)
        archive.sweep(engine, get_settings())
        _dispatch(self.app, engine)
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


class DispatchTask(_DatabaseTask):
    """Plan and publish what is due: from beat, and whenever there is room again."""

    name = DISPATCH
    ignore_result = True

    def run(self) -> int:
        """Returns the number of runs published."""
        return _dispatch(self.app, _engine())


class ArchiveTask(_DatabaseTask):
    """The archiving sweep, from beat: for records whose finalize could not do it."""

    name = ARCHIVE
    ignore_result = True

    def run(self) -> int:
        """Returns the number of documents moved."""
        return archive.sweep(_engine(), get_settings())


def _engine() -> Engine:
    return engine_for(get_settings().database_url)


def _dispatch(app: Celery, engine: Engine) -> int:
    try:
        return dispatch(app, engine)
    except BrokerError as error:
        logger.warning("%s", error)
        return 0


def _wake(app: Celery) -> None:
    try:
        app.send_task(DISPATCH)
    except Exception as error:  # noqa: BLE001 - beat dispatches in a few seconds anyway
        logger.warning("Could not ask for a dispatch: %s", error)
