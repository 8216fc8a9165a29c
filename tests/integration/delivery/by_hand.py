"""What builders, workers and time do to an installation, done by hand: one call, one step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import redis
from sqlalchemy import Engine, event, text

from nexus_tasks.db import attempts, deliveries, destinations, engine, sessions, upload_log
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import AttemptRow, Breaker, DeliveryRow
from nexus_tasks.delivery import attempt
from nexus_tasks.delivery.attempt import Attempt, Finished, Outcome
from nexus_tasks.delivery.export_records import HandedOver, RecordToExport, export_records
from nexus_tasks.delivery.idempotency import NotYetResolvableError
from nexus_tasks.delivery.plan import waits_for
from nexus_tasks.delivery.planner import dispatch
from nexus_tasks.delivery.plugin_call import call_plugin
from nexus_tasks.delivery.reconcile import Reconciled, reconcile
from nexus_tasks.delivery.rescuer import rescue
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.base import ExportContext, ExportError, ExportResult, TransientError
from nexus_tasks.states import AttemptState, DeliveryState, RunState, SessionStatus

SESSION = "2025-01-27_10-30-15_abc123"
INSTRUMENT = "FEI-Titan-TEM-012345"
START = datetime(2025, 1, 27, 15, 30, 15, tzinfo=UTC)
RECORD = RecordToExport(
    session_identifier=SESSION,
    instrument_pid=INSTRUMENT,
    dt_from=START,
    dt_to=START + timedelta(hours=4),
    timezone="America/New_York",
    user="jsmith",
    xml=b"<Experiment/>",
    activities=[{"files": ["Titan/a.dm3"], "previews": [None]}],
)
REBUILT = replace(RECORD, xml=b"<Experiment>rebuilt</Experiment>")

Deploy = Callable[..., Deployment]


@dataclass
class Fake:
    """A destination that does what `answer` says, and keeps what it was given."""

    name: str
    priority: int
    enabled: bool = True
    depends_on: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    updates: bool = True
    window: int = 16
    interval: float = 0
    answer: Callable[[ExportContext], Any] | None = None
    valid: Callable[[], tuple[bool, str | None]] = lambda: (True, None)
    contexts: list[ExportContext] = field(default_factory=list)

    def validate_config(self) -> tuple[bool, str | None]:
        return self.valid()

    def export(self, context: ExportContext) -> ExportResult:
        self.contexts.append(context)
        if self.answer is not None:
            returned: ExportResult = self.answer(context)
            return returned
        return success(self.name)


class WorkerDiedError(BaseException):
    """Stands for kill -9: nothing in the package may catch it."""


def success(name: str, record_id: str = "7") -> ExportResult:
    return ExportResult(
        success=True,
        destination_name=name,
        record_id=record_id,
        record_url=f"https://{name}.example.org/{record_id}",
    )


@contextmanager
def killed_after_commits(deployment: Deployment, number: int) -> Iterator[None]:
    """Have this process write nothing after so many commits, as if it were killed there.

    A statement that is a transaction of its own commits as it is executed.
    """
    commits = 0

    def count(_: Any) -> None:
        nonlocal commits
        commits += 1
        if commits > number:
            raise WorkerDiedError

    execute_alone = engine._execute_alone

    def counted(*arguments: Any) -> Any:
        count(None)
        return execute_alone(*arguments)

    event.listen(Engine, "commit", count)
    try:
        with patch.object(engine, "_execute_alone", counted):
            yield
    except WorkerDiedError:
        pass
    finally:
        event.remove(Engine, "commit", count)


def cdcs(**options: Any) -> Fake:
    return Fake("cdcs", 100, **options)


def labarchives(**options: Any) -> Fake:
    return Fake("labarchives", 90, **{"depends_on": ("cdcs",), "window": 1, **options})


def elabftw(**options: Any) -> Fake:
    return Fake("elabftw", 85, **{"depends_on": ("cdcs",), **options})


def raising(error: BaseException) -> Callable[[ExportContext], Any]:
    def answer(_: ExportContext) -> Any:
        raise error

    return answer


def records_to_export(number: int) -> list[RecordToExport]:
    """That many sessions; their records have the ids from 1 on."""
    return [replace(RECORD, session_identifier=f"session-{position}") for position in range(1, number + 1)]


def hand_over(deployment: Deployment, *to_export: RecordToExport) -> HandedOver:
    return export_records(to_export or [RECORD], deployment)


def rows_of(deployment: Deployment, record_id: int = 1) -> dict[str, DeliveryRow]:
    with transaction(deployment.engine) as connection:
        return {row.destination: row for row in deliveries.of_record(connection, record_id).deliveries}


def states_of(deployment: Deployment, record_id: int = 1) -> dict[str, DeliveryState]:
    return {name: row.state for name, row in rows_of(deployment, record_id).items()}


def remote_of(deployment: Deployment, destination: str, record_id: int = 1) -> dict[str, dict[str, Any]]:
    with transaction(deployment.engine) as connection:
        [row] = [
            row for row in deliveries.of_record(connection, record_id).deliveries if row.destination == destination
        ]
        return deliveries.remote_of(connection, row.id)


def attempts_of(deployment: Deployment, record_id: int = 1) -> list[AttemptRow]:
    with transaction(deployment.engine) as connection:
        return attempts.of_records(connection, [record_id])


def attempt_states(deployment: Deployment, record_id: int = 1) -> list[tuple[str, AttemptState]]:
    return [(row.destination, row.state) for row in attempts_of(deployment, record_id)]


def open_destinations(deployment: Deployment, record_id: int = 1) -> set[str]:
    """The destinations of the record's open run."""
    return {row.destination for row in attempts_of(deployment, record_id) if row.run_state is RunState.OPEN}


def status_of(deployment: Deployment, session: str = SESSION) -> SessionStatus:
    with transaction(deployment.engine) as connection:
        [row] = sessions.sessions(connection, [session])
    return row.status


def log_of(deployment: Deployment, session: str = SESSION) -> list[tuple[str, int]]:
    """The upload log, oldest first: (destination, success)."""
    with transaction(deployment.engine) as connection:
        rows = upload_log.of_session(connection, session)
    return [(row.destination_name, row.success) for row in reversed(rows)]


def breaker_of(deployment: Deployment, destination: str) -> Breaker:
    with transaction(deployment.engine) as connection:
        return destinations.breaker_of(connection, destination)


def everything(deployment: Deployment) -> dict[str, Any]:
    """Every row that there is."""
    tables = ("instruments", "session_log", "record", "delivery", "run", "attempt", "destination", "upload_log")
    with transaction(deployment.engine) as connection:
        return {
            table: [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1")]
            for table in tables
        }


def messages_in(broker_url: str, *queues: str) -> dict[str, int]:
    with redis.Redis.from_url(broker_url) as client:
        lengths = {queue: client.llen(queue) for queue in queues}
    return {queue: int(str(length)) for queue, length in lengths.items()}


def put_message(broker_url: str, queue: str) -> None:
    """Have something wait in a queue."""
    with redis.Redis.from_url(broker_url) as client:
        client.rpush(queue, "{}")


def empty_broker(broker_url: str) -> None:
    """FLUSHALL, as far as this test's part of the broker goes."""
    with redis.Redis.from_url(broker_url) as client:
        client.flushdb()


def send(deployment: Deployment) -> int:
    """One periodic dispatch."""
    rescue(deployment)
    return dispatch(deployment)


# --- workers


@dataclass(frozen=True)
class Message:
    """What a worker gets."""

    attempt_id: int
    run: str


def message_for(deployment: Deployment, destination: str, record_id: int = 1) -> Message:
    """The message of the record's open run for `destination`."""
    [found] = [
        Message(row.id, row.run_token.hex)
        for row in attempts_of(deployment, record_id)
        if row.destination == destination and not row.state.ended and row.run_state is RunState.OPEN
    ]
    return found


def start_message(deployment: Deployment, message: Message) -> Attempt | Finished:
    return attempt.start(deployment.engine, message.attempt_id, message.run, deployment.settings)


def started(deployment: Deployment, destination: str, record_id: int = 1) -> Attempt:
    found = start_message(deployment, message_for(deployment, destination, record_id))
    assert isinstance(found, Attempt)
    return found


def perform(deployment: Deployment, this: Attempt) -> ExportResult:
    plugin = deployment.registry.get(this.row.destination)
    assert plugin is not None
    return call_plugin(this, plugin, deployment.engine, deployment.settings)


def performed(deployment: Deployment, destination: Fake) -> ExportResult:
    return perform(deployment, started(deployment, destination.name))


def finish(deployment: Deployment, this: Attempt, outcome: Outcome) -> Finished:
    return attempt.finish(deployment.engine, this, deployment.settings, outcome)


def schedule_retry(deployment: Deployment, this: Attempt, error: TransientError, countdown: float = 8) -> None:
    attempt.schedule_retry(deployment.engine, this, deployment.settings, error, countdown)


def snooze(deployment: Deployment, this: Attempt, seconds: float) -> None:
    attempt.snooze(deployment.engine, this, deployment.settings, seconds)


def go_on(deployment: Deployment, this: Attempt) -> Finished:
    """What a worker does after it has started an attempt, without Celery's short retries."""
    outcome: Outcome
    try:
        outcome = perform(deployment, this)
    except (ExportError, NotYetResolvableError) as error:
        outcome = error
    return finish(deployment, this, outcome)


def try_once(deployment: Deployment, destination: str, record_id: int = 1) -> dict[str, Any]:
    """What a worker does with the message for `destination`, without Celery's short retries."""
    found = start_message(deployment, message_for(deployment, destination, record_id))
    return found.result if isinstance(found, Finished) else go_on(deployment, found).result


def die_in_try(deployment: Deployment, destination: str, record_id: int = 1) -> Message:
    """What is left of a worker that is killed in a try: its message, which comes again, and its lease."""
    message = message_for(deployment, destination, record_id)
    assert isinstance(start_message(deployment, message), Attempt)
    return message


def work(deployment: Deployment, *names: str, record_id: int = 1) -> Reconciled:
    """What the workers do with one run."""
    for name in names:
        try_once(deployment, name, record_id)
    return reconcile(deployment.engine, record_id)


def work_again(deployment: Deployment, *names: str) -> Reconciled:
    """The next run, without waiting for its time."""
    make_retrying_due(deployment)
    assert send(deployment) == 1
    return work(deployment, *names)


def store_waits(deployment: Deployment, *record_ids: int) -> None:
    """Have the rows say what each delivery waits for, after a test has changed them itself."""
    with transaction(deployment.engine) as connection:
        for record in deliveries.of_records(connection, record_ids):
            deliveries.set_waits(connection, waits_for(record))


# --- time


def make_retrying_due(deployment: Deployment) -> None:
    with transaction(deployment.engine) as connection:
        connection.execute(text("UPDATE delivery SET next_attempt_at = now() WHERE state = 'retrying'"))


_MOVED = (
    "UPDATE delivery SET next_attempt_at = next_attempt_at - :by WHERE next_attempt_at IS NOT NULL",
    "UPDATE attempt SET lease_expires_at = lease_expires_at - :by, ended_at = ended_at - :by",
    "UPDATE run SET expected_by = expected_by - :by",  # a lost one may still count as in flight
    "UPDATE destination SET open_until = open_until - :by, opened_at = opened_at - :by WHERE opened_at IS NOT NULL",
    (
        "UPDATE delivery SET remote = (SELECT jsonb_object_agg(key, CASE WHEN value ? 'unresolved_until' THEN"
        " jsonb_set(value, '{unresolved_until}', to_jsonb(CAST(value->>'unresolved_until' AS timestamptz) - :by))"
        " ELSE value END) FROM jsonb_each(remote)) WHERE remote != CAST('{}' AS jsonb)"
    ),
)


def pass_time(deployment: Deployment, seconds: float, *tries: Attempt) -> None:
    """Have that much time pass, for the rows and for workers that are in a try."""
    with transaction(deployment.engine) as connection:
        for statement in _MOVED:
            connection.execute(text(statement), {"by": timedelta(seconds=seconds)})
    for this in tries:
        this.lease.ends -= seconds


_OVERDUE = (
    "UPDATE run SET expected_by = now() - interval '1 second' WHERE state = 'open'",
    (
        "UPDATE attempt SET ended_at = ended_at - interval '1 hour',"
        " lease_expires_at = CASE WHEN lease_token IS NOT NULL THEN now() - interval '1 second' END"
        " WHERE run_id IN (SELECT id FROM run WHERE state = 'open')"
    ),
)


def lose_open_runs(deployment: Deployment) -> None:
    """Have the time pass in which something should have happened in every open run."""
    with transaction(deployment.engine) as connection:
        for statement in _OVERDUE:
            connection.execute(text(statement))


def wait_of(deployment: Deployment, destination: str) -> timedelta:
    """How long the delivery waits from now on."""
    with transaction(deployment.engine) as connection:
        now = deliveries.clock(connection)
    next_attempt_at = rows_of(deployment)[destination].next_attempt_at
    assert next_attempt_at is not None
    return next_attempt_at - now
