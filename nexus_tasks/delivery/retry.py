"""Decides what becomes of a delivery after an attempt: pure.

Short retries are Celery's, inside the run (see `tasks`); these are the long ones, kept in PostgreSQL.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from nexus_tasks.db.rows import AttemptEnd
from nexus_tasks.db.storable import storable_json, storable_text
from nexus_tasks.exporters.base import ConfigurationError, ExportError, ExportResult, PermanentError
from nexus_tasks.states import AttemptState, DeliveryState

MAX_MESSAGE_CHARACTERS = 2000
MAY_EXIST = "The remote object may exist: the outcome of the create request is unknown."
LONGEST_RETRY_AFTER_S = 86_400  # no service is left alone for longer than a day


@dataclass(frozen=True)
class RetryPolicy:
    """`delays` in seconds by failed runs, the last one repeats; after `max_failures` a delivery fails for good."""

    delays: Sequence[float]
    max_failures: int

    def delay(self, failures: int) -> timedelta:
        """How long a delivery waits after its `failures`-th failed run."""
        return timedelta(seconds=self.delays[min(max(failures, 1), len(self.delays)) - 1])


def after_result(result: ExportResult, failures: int) -> AttemptEnd:
    """The end of an attempt whose plugin returned."""
    if not result.success:
        return _refused(result.error_message or "the plugin gave no reason", failures)
    return AttemptEnd(
        state=AttemptState.SUCCEEDED,
        delivery_state=DeliveryState.SUCCEEDED,
        failures=failures,
        remote_record_id=None if result.record_id is None else _short(str(result.record_id)),
        remote_record_url=None if result.record_url is None else _short(str(result.record_url)),
        remote_metadata=storable_json(result.metadata),
    )


def after_failure(
    error: ExportError, failures: int, policy: RetryPolicy, unresolved_for: timedelta | None
) -> AttemptEnd:
    """The end of an attempt that failed, after Celery's tries.

    After a transient failure the delivery is retried, not before the time that the service asked for and not before a
    lost answer can be looked up (`unresolved_for`); it fails for good at the policy's limit. A configuration failure is
    not the record's fault: the delivery stays due, and the destination's circuit opens.
    """
    may_exist = MAY_EXIST if unresolved_for is not None else ""
    if isinstance(error, PermanentError):
        return _refused(str(error), failures, may_exist)
    if isinstance(error, ConfigurationError):
        return AttemptEnd(AttemptState.CONFIGURATION, DeliveryState.PENDING, failures, error_message=_short(str(error)))
    failures += 1
    if failures >= policy.max_failures:
        message = _short(f"Given up after {failures} failed attempts; the last one: {error}", may_exist)
        return AttemptEnd(AttemptState.TRANSIENT, DeliveryState.FAILED, failures, error_message=message)
    asked_for = timedelta(seconds=asked_wait(error))
    wait = max(policy.delay(failures), asked_for, unresolved_for or timedelta())
    return AttemptEnd(AttemptState.TRANSIENT, DeliveryState.RETRYING, failures, wait, _short(str(error)))


def asked_wait(error: BaseException | None) -> float:
    """The seconds that a service asked to be left alone; 0 if it did not, or asked for nonsense."""
    seconds = getattr(error, "retry_after", None)
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return 0
    return min(max(0, seconds), LONGEST_RETRY_AFTER_S)


def not_tried(state: AttemptState, reason: str) -> AttemptEnd:
    """The end of an attempt that made no call: nothing is counted or logged, the delivery stays as it is."""
    return AttemptEnd(state, error_message=reason)


def deferred(wait: timedelta, failures: int, reason: str) -> AttemptEnd:
    """The end of an attempt that may not go on yet: nothing is counted or logged, the delivery is due after `wait`."""
    return AttemptEnd(AttemptState.DEFERRED, DeliveryState.RETRYING, failures, wait, reason)


def _refused(message: str, failures: int, may_exist: str = "") -> AttemptEnd:
    return AttemptEnd(AttemptState.PERMANENT, DeliveryState.FAILED, failures, error_message=_short(message, may_exist))


def _short(message: str, last_sentence: str = "") -> str:
    ending = f" {last_sentence}" if last_sentence else ""
    return storable_text(message, MAX_MESSAGE_CHARACTERS - len(ending)) + ending
