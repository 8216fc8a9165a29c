"""One attempt of one delivery: what the export tasks do between Celery and a destination.

`start` takes the lease and reads everything that the attempt needs; `plugin_call` calls the plugin; then `finish`
writes how the attempt ended, or `schedule_retry` or `snooze` give up the lease until Celery's next try.
"""

import logging
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine

from nexus_tasks.config import Settings
from nexus_tasks.db import attempts, deliveries, destinations, rescuing
from nexus_tasks.db.attempts import FinishedRow, StartedRow
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import AttemptEnd, DeliveryRow
from nexus_tasks.db.storable import storable_text
from nexus_tasks.delivery import documents
from nexus_tasks.delivery.circuit_breaker import AttemptFacts, BreakerPolicy, after_answer, after_failure
from nexus_tasks.delivery.fingerprint import input_fingerprint
from nexus_tasks.delivery.idempotency import (
    Clock,
    DeliveryStore,
    NotYetResolvableError,
    SharedStore,
    unresolved_for,
)
from nexus_tasks.delivery.lease import Lease
from nexus_tasks.delivery.rescuer import death_message, expire
from nexus_tasks.delivery.retry import (
    MAX_MESSAGE_CHARACTERS,
    RetryPolicy,
    after_result,
    asked_wait,
    deferred,
    not_tried,
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

LONGEST_WAIT_IN_A_RUN_S = 30  # Celery waits no longer; a longer Retry-After opens the circuit of the destination

logger = logging.getLogger(__name__)

# how an attempt can come out, besides an `ExportResult`
Outcome = ExportResult | ExportError | NotYetResolvableError


class NotWantedError(Exception):
    """A message whose run is not open, or whose delivery another worker has: it must leave no result behind."""


@dataclass(frozen=True)
class Attempt:
    """A started attempt: copies of the rows, taken when it started, the lease, and the objects that it knows."""

    row: StartedRow
    delivery: DeliveryRow
    lease: Lease
    clock: Clock
    own: DeliveryStore
    shared: SharedStore

    @property
    def probe(self) -> bool:
        """Whether it tests a half-open destination: it is not retried in its run."""
        return self.row.run_kind is RunKind.PROBE

    @property
    def dependencies(self) -> tuple[DeliveryRow, ...]:
        """The record's deliveries that this one depends on."""
        needed = {*self.delivery.depends_on, *self.delivery.requires}
        return tuple(row for row in self.row.deliveries.deliveries if row.destination in needed)


@dataclass(frozen=True)
class Finished:
    """What a task returns; `worth_planning`: its destination has capacity again, and something is due there."""

    result: dict[str, Any]
    worth_planning: bool = False


def start(engine: Engine, attempt_id: int, run_token: str, settings: Settings) -> Attempt | Finished:
    """Start an attempt, or say what one came to that has ended already, or must not be made now.

    Raises `NotWantedError` for a message that a closed run has left behind, and while another worker has the lease.
    """
    asked_at = time.monotonic()
    seconds = settings.NX_CALL_DEADLINE + settings.NX_LEASE_MARGIN
    token = uuid4()
    row = attempts.start(engine, attempt_id, UUID(run_token), token, timedelta(seconds=seconds))
    if row is None:
        return _not_started(engine, attempt_id, UUID(run_token), settings)
    delivery = next(each for each in row.deliveries.deliveries if each.id == row.delivery_id)
    lease = Lease(
        engine,
        attempt_id,
        token,
        input_fingerprint(row.deliveries, delivery),
        margin=settings.NX_LEASE_MARGIN,
        call_deadline=settings.NX_CALL_DEADLINE,
        ends=asked_at + seconds,
    )
    attempt = Attempt(
        row,
        delivery,
        lease,
        Clock(row.now, asked_at),
        DeliveryStore(lease, row.delivery_id, dict(row.remote)),
        SharedStore(lease, row.destination, dict(row.shared)),
    )
    refusal = _refusal(attempt)
    return attempt if refusal is None else _finished(engine, attempt, refusal, _write(engine, attempt, refusal))


def _not_started(engine: Engine, attempt_id: int, run_token: UUID, settings: Settings) -> Finished:
    with transaction(engine) as connection:
        attempt = attempts.lock(connection, attempt_id)
        if attempt is None or attempt.run_token != run_token or attempt.run_state is not RunState.OPEN:
            raise NotWantedError(f"attempt {attempt_id} belongs to no open run")
        if attempt.state.ended:
            return Finished(attempt.result or {})
        if attempt.lease_token is None or attempt.lease_is_live:
            raise NotWantedError(f"another worker has attempt {attempt_id}")
        # the worker before has died in it, and the message came again
        expire(connection, attempt, death_message(attempt, attempt.run_kind))
        rescuing.expect(connection, attempt.run_id, timedelta(seconds=settings.NX_RUN_PATIENCE))
    return Finished({})


def can_be_retried(engine: Engine, attempt: Attempt, error: TransientError) -> bool:
    """Whether Celery may retry within the run: not a probe, the circuit still closed, no long wait asked for."""
    with transaction(engine) as connection:
        breaker = destinations.breaker_of(connection, attempt.row.destination)
    return not attempt.probe and breaker.closed and asked_wait(error) <= LONGEST_WAIT_IN_A_RUN_S


def schedule_retry(
    engine: Engine, attempt: Attempt, settings: Settings, error: TransientError, countdown: float
) -> None:
    """Give up the lease until the next try, `countdown` seconds from now, and count the failure."""
    with transaction(engine) as connection:
        patience = timedelta(seconds=countdown + settings.NX_RUN_PATIENCE)
        said = storable_text(str(error), MAX_MESSAGE_CHARACTERS)
        row, lease = attempt.row, attempt.lease
        if attempts.schedule_retry(connection, row.attempt_id, lease.token, said, attempt.own.unsaved, patience):
            _record_in_breaker(connection, attempt, error, settings)


def snooze(engine: Engine, attempt: Attempt, settings: Settings, seconds: float) -> None:
    """Give up the lease for some seconds in the middle of a try: nothing has failed, and nothing is counted."""
    with transaction(engine) as connection:
        patience = timedelta(seconds=seconds + settings.NX_RUN_PATIENCE)
        attempts.snooze(connection, attempt.row.attempt_id, attempt.lease.token, attempt.own.unsaved, patience)


def finish(engine: Engine, attempt: Attempt, settings: Settings, outcome: Outcome) -> Finished:
    """Write how the attempt ended. A worker that has lost its lease writes nothing: its attempt was ended for it.

    An answer at a destination with nothing against it is one statement, and writes nothing to the destination.
    """
    end = _end(attempt, outcome, settings)
    if end.state is AttemptState.SUCCEEDED:
        attempt.own.resolve()
    answered = isinstance(outcome, ExportResult | PermanentError)
    if answered and attempt.row.breaker.clean:
        finished = _write(engine, attempt, end)
        if finished is not None and not finished.breaker.clean:  # other attempts have failed meanwhile
            with transaction(engine) as connection:
                _record_in_breaker(connection, attempt, outcome, settings)
    else:
        with transaction(engine) as connection:
            finished = _write(connection, attempt, end)
            if finished is not None:
                _record_in_breaker(connection, attempt, outcome, settings)
    return _finished(engine, attempt, end, finished)


def _write(on: Engine | Connection, attempt: Attempt, end: AttemptEnd) -> FinishedRow | None:
    return attempts.finish(
        on,
        attempt.row.attempt_id,
        attempt.lease.token,
        end,
        result=_result(attempt, end),
        known=attempt.own.unsaved,
        fingerprint=attempt.lease.fingerprint,
    )


def _finished(engine: Engine, attempt: Attempt, end: AttemptEnd, finished: FinishedRow | None) -> Finished:
    if finished is not None:
        return Finished(_result(attempt, end), finished.worth_planning)
    attempt.own.save()  # what was created is known to whoever has the delivery now
    with transaction(engine) as connection:
        row = attempts.get(connection, attempt.row.attempt_id)
    return Finished((row.result if row else None) or {})


def _result(attempt: Attempt, end: AttemptEnd) -> dict[str, Any]:
    return {
        "destination": attempt.row.destination,
        "state": end.state.value,
        "record_id": end.remote_record_id,
        "record_url": end.remote_record_url,
        "error_message": end.error_message,
    }


def _end(attempt: Attempt, outcome: Outcome, settings: Settings) -> AttemptEnd:
    policy, failures = RetryPolicy(settings.NX_RETRY_DELAYS, settings.NX_MAX_FAILURES), attempt.row.failures
    if isinstance(outcome, ExportResult):
        return after_result(outcome, failures)
    unresolved = unresolved_for(attempt.own.known, attempt.clock.now())
    if isinstance(outcome, NotYetResolvableError):
        if attempt.row.last_error is None:  # nothing has been answered in this attempt
            return deferred(outcome.wait, failures, "waiting until a lost answer can be looked up")
        outcome = TransientError(attempt.row.last_error, retry_after=outcome.wait.total_seconds())
    return end_after_failure(outcome, failures, policy, unresolved)


def _record_in_breaker(connection: Connection, attempt: Attempt, outcome: Outcome, settings: Settings) -> None:
    """Note in the destination's circuit breaker what the attempt says about it."""
    if isinstance(outcome, NotYetResolvableError | documents.DocumentError):
        return
    name = attempt.row.destination
    breaker = destinations.lock_breaker(connection, name)
    facts = AttemptFacts(attempt.row.record.id, attempt.row.now, probe=attempt.probe)
    if isinstance(outcome, ExportResult | PermanentError):
        changed = after_answer(breaker, facts)
    else:
        retry_after = asked_wait(outcome)
        changed = after_failure(
            breaker,
            facts,
            deliveries.clock(connection),
            BreakerPolicy(settings.NX_PAUSE_AFTER, settings.NX_PAUSE_FIRST, settings.NX_PAUSE_LONGEST),
            reason=storable_text(str(outcome), MAX_MESSAGE_CHARACTERS),
            at_once=isinstance(outcome, ConfigurationError),
            retry_after=retry_after if retry_after > LONGEST_WAIT_IN_A_RUN_S else 0,
        )
    if changed != breaker:
        destinations.set_breaker(connection, name, changed)
        if changed.open_until is not None and changed.open_until != breaker.open_until:
            logger.warning("%s: circuit open until %s: %s", name, changed.open_until, changed.reason)
        elif breaker.opened_at is not None and changed.opened_at is None:
            logger.info("%s recovered; circuit closed", name)


def _refusal(attempt: Attempt) -> AttemptEnd | None:
    """Why no call is to be made now."""
    delivery, breaker = attempt.delivery, attempt.row.breaker
    if delivery.state.final:
        return not_tried(AttemptState.SKIPPED, f"the delivery is {delivery.state} already")
    holders = {row.destination for row in attempt.row.deliveries.deliveries if row.has_succeeded}
    for name in delivery.requires:
        if name not in holders:
            return not_tried(AttemptState.DEFERRED, f"it requires {name}, which does not hold the record yet")
    if not (breaker.closed or (attempt.probe and not breaker.paused)):
        return not_tried(AttemptState.DEFERRED, f"{attempt.row.destination} is paused: {breaker.reason}")
    return None
