"""One try of one delivery: what the export tasks do between Celery and a destination.

`begin` asks the rows whether there is anything to do and takes the lease, `plugin_call` calls the plugin,
then `finish` writes how the attempt ended, or `set_aside` gives the lease back until Celery's next try.
"""

import logging
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine

from nexus_tasks.config import Settings
from nexus_tasks.db import deliveries, destinations, records, runs
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import AttemptEnd, AttemptRow, DeliveryRow, Health, RecordDeliveries, RecordRow
from nexus_tasks.db.storable import storable_text
from nexus_tasks.delivery import documents
from nexus_tasks.delivery.checkpoint import (
    NotYetResolvableError,
    unresolved_for,
)
from nexus_tasks.delivery.digest import digest
from nexus_tasks.delivery.health import PausePolicy, TryFacts, after_answer, after_failure
from nexus_tasks.delivery.lease import Lease
from nexus_tasks.delivery.recovery import death_message
from nexus_tasks.delivery.retry import (
    MAX_MESSAGE_CHARACTERS,
    RetryPolicy,
    after_result,
    asked_wait,
    not_tried,
    put_off,
)
from nexus_tasks.delivery.retry import after_failure as end_after_failure
from nexus_tasks.exporters.base import (
    ConfigurationError,
    ExportError,
    ExportResult,
    PermanentError,
    TransientError,
)
from nexus_tasks.states import AttemptState, RunKind, RunState

LONGEST_WAIT_IN_A_RUN_S = 30  # a longer Retry-After is not waited for by Celery: the destination's row keeps it

logger = logging.getLogger(__name__)

# how a try can come out, besides an `ExportResult`
Outcome = ExportResult | ExportError | NotYetResolvableError


class NotWantedError(Exception):
    """A message whose run is not open, or whose delivery another worker has: it must leave no result behind."""


@dataclass(frozen=True)
class Try:
    """What a worker needs to make one try: copies of the rows, taken when it began, and the lease."""

    attempt: AttemptRow
    record: RecordRow
    others: tuple[DeliveryRow, ...]  # the deliveries that this one depends on
    lease: Lease

    @property
    def probe(self) -> bool:
        """Whether it finds out how a paused destination is: it makes one call, and is not tried again in its run."""
        return self.attempt.run_kind is RunKind.PROBE


@dataclass(frozen=True)
class Finished:
    """What a task returns, and what has to be done after it."""

    result: dict[str, Any]
    made_room: bool = False  # in a destination that was full
    run_is_over: bool = False  # the run was closed meanwhile: nobody else will settle this


def begin(engine: Engine, attempt_id: int, run_token: str, settings: Settings) -> Try | Finished:
    """Start a try, or say what an attempt came to that has ended already, or must not be made now.

    Raises `NotWantedError` for a message that a closed run has left behind, and while another worker has the lease.
    """
    asked_at = time.monotonic()
    with transaction(engine) as connection:
        attempt = runs.lock_attempt(connection, attempt_id)
        if attempt is None or attempt.run_token != UUID(run_token) or attempt.run_state is not RunState.OPEN:
            raise NotWantedError(f"attempt {attempt_id} belongs to no open run")
        if attempt.state.ended:
            return Finished(attempt.result or {})
        if attempt.lease_is_live:
            raise NotWantedError(f"another worker is at attempt {attempt_id}")
        if attempt.lease_token is not None:  # the worker before has died in its try, and the message came again
            runs.died(connection, attempt, death_message(attempt, attempt.run_kind))
            runs.expect(connection, attempt.run_id, timedelta(seconds=settings.NX_RUN_PATIENCE))
            return Finished({})
        record = deliveries.of_record(connection, attempt.record_id)
        delivery = next(row for row in record.deliveries if row.id == attempt.delivery_id)
        health = destinations.health(connection, attempt.destination)
        if (refusal := _refusal(attempt, delivery, record, health)) is not None:
            runs.expect(connection, attempt.run_id, timedelta(seconds=settings.NX_RUN_PATIENCE))
            return Finished(_write(connection, attempt, refusal))
        seconds = settings.NX_CALL_DEADLINE + settings.NX_LEASE_MARGIN
        token = uuid4()
        runs.start(connection, attempt, token, timedelta(seconds=seconds), digest(record, delivery))
        row = records.get(connection, attempt.record_id)
    needed = {*delivery.depends_on, *delivery.requires}
    lease = Lease(
        engine,
        attempt.run_id,
        attempt_id,
        token,
        margin=settings.NX_LEASE_MARGIN,
        call_deadline=settings.NX_CALL_DEADLINE,
        ends=asked_at + seconds,
    )
    return Try(attempt, row, tuple(other for other in record.deliveries if other.destination in needed), lease)


def can_be_tried_again(engine: Engine, this: Try, error: TransientError) -> bool:
    """Whether Celery may try again within the run: not a probe, not a paused destination, no long wait asked for."""
    with transaction(engine) as connection:
        health = destinations.health(connection, this.attempt.destination)
    return not this.probe and health.well and asked_wait(error) <= LONGEST_WAIT_IN_A_RUN_S


def set_aside(engine: Engine, this: Try, settings: Settings, error: TransientError, countdown: float) -> None:
    """Give the lease back until the next try, `countdown` seconds from now, and count the failure."""
    with transaction(engine) as connection:
        attempt = runs.lock_attempt(connection, this.attempt.id)
        if attempt is None or attempt.lease_token != this.lease.token:
            return
        patience = timedelta(seconds=countdown + settings.NX_RUN_PATIENCE)
        runs.set_aside(connection, attempt, storable_text(str(error), MAX_MESSAGE_CHARACTERS), patience)
        _record_health(connection, attempt, error, settings)


def give_back(engine: Engine, this: Try, settings: Settings, seconds: float) -> None:
    """Give the lease back for some seconds in the middle of a try: nothing has failed, and nothing is counted."""
    with transaction(engine) as connection:
        attempt = runs.lock_attempt(connection, this.attempt.id)
        if attempt is not None and attempt.lease_token == this.lease.token:
            runs.give_back(connection, attempt, timedelta(seconds=seconds + settings.NX_RUN_PATIENCE))


def finish(engine: Engine, this: Try, settings: Settings, outcome: Outcome) -> Finished:
    """Write how the attempt ended. A worker that has lost its lease writes nothing: its attempt was ended for it."""
    with transaction(engine) as connection:
        attempt = runs.lock_attempt(connection, this.attempt.id)
        if attempt is None or attempt.state.ended or attempt.lease_token != this.lease.token:
            over = attempt is not None and attempt.run_state is not RunState.OPEN
            return Finished((attempt.result if attempt else None) or {}, run_is_over=over)
        row = destinations.get(connection, attempt.destination)
        known, _ = deliveries.lock_remote(connection, attempt.delivery_id)
        waiting_for = unresolved_for(known, deliveries.clock(connection))
        end = _end(attempt, outcome, settings, waiting_for)
        if end.state is AttemptState.SUCCEEDED and waiting_for is not None:  # the plugin got there by another way
            deliveries.forget_intents(connection, attempt.delivery_id)
        result = _write(connection, attempt, end)
        _record_health(connection, attempt, outcome, settings)
        runs.expect(connection, attempt.run_id, timedelta(seconds=settings.NX_RUN_PATIENCE))
    return Finished(result, made_room=row is not None and row.room == 0)


def _end(attempt: AttemptRow, outcome: Outcome, settings: Settings, waiting_for: timedelta | None) -> AttemptEnd:
    policy = RetryPolicy(settings.NX_RETRY_DELAYS, settings.NX_MAX_FAILURES)
    if isinstance(outcome, ExportResult):
        return after_result(outcome, attempt.failures)
    if isinstance(outcome, NotYetResolvableError):
        if attempt.error_message is None:  # nothing has been answered in this attempt
            return put_off(outcome.wait, attempt.failures, "waiting until a lost answer can be looked up")
        error = TransientError(attempt.error_message, retry_after=outcome.wait.total_seconds())
        return end_after_failure(error, attempt.failures, policy, waiting_for)
    return end_after_failure(outcome, attempt.failures, policy, waiting_for)


def _record_health(connection: Connection, attempt: AttemptRow, outcome: Outcome, settings: Settings) -> None:
    """Note in the destination's row what the try says about it."""
    if isinstance(outcome, NotYetResolvableError | documents.DocumentError) or attempt.try_started_at is None:
        return
    health = destinations.lock_health(connection, attempt.destination)
    facts = TryFacts(attempt.record_id, attempt.try_started_at, probe=attempt.run_kind is RunKind.PROBE)
    if isinstance(outcome, ExportResult | PermanentError):
        changed = after_answer(health, facts)
    else:
        retry_after = asked_wait(outcome)
        changed = after_failure(
            health,
            facts,
            deliveries.clock(connection),
            PausePolicy(settings.NX_PAUSE_AFTER, settings.NX_PAUSE_FIRST, settings.NX_PAUSE_LONGEST),
            reason=storable_text(str(outcome), MAX_MESSAGE_CHARACTERS),
            at_once=isinstance(outcome, ConfigurationError),
            retry_after=retry_after if retry_after > LONGEST_WAIT_IN_A_RUN_S else 0,
        )
    if changed != health:
        destinations.set_health(connection, attempt.destination, changed)
        if changed.not_before is not None and changed.not_before != health.not_before:
            logger.warning("%s is paused until %s: %s", attempt.destination, changed.not_before, changed.reason)
        elif health.paused_at is not None and changed.paused_at is None:
            logger.info("%s is well again", attempt.destination)


def _refusal(attempt: AttemptRow, delivery: DeliveryRow, record: RecordDeliveries, health: Health) -> AttemptEnd | None:
    if delivery.state.settled:
        return not_tried(AttemptState.SKIPPED, f"the delivery is {delivery.state} already")
    holders = {row.destination for row in record.deliveries if row.has_succeeded}
    for name in delivery.requires:
        if name not in holders:
            return not_tried(AttemptState.DEFERRED, f"it requires {name}, which does not hold the record yet")
    if not (health.well or (attempt.run_kind is RunKind.PROBE and not health.held)):
        return not_tried(AttemptState.DEFERRED, f"{attempt.destination} is paused: {health.reason}")
    return None


def _write(connection: Connection, attempt: AttemptRow, end: AttemptEnd) -> dict[str, Any]:
    result = {
        "destination": attempt.destination,
        "state": end.state.value,
        "record_id": end.remote_record_id,
        "record_url": end.remote_record_url,
        "error_message": end.error_message,
    }
    runs.end(connection, attempt, end, result)
    return result
