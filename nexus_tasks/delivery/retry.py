"""What becomes of a delivery after an attempt: pure, called when an attempt ends.

Short retries are Celery's, inside the run (see `tasks`); these are the long ones, kept in PostgreSQL.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from nexus_tasks.db.rows import AttemptEnd
from nexus_tasks.exporters.base import ConfigurationError, ExportError, ExportResult, PermanentError, TransientError
from nexus_tasks.states import AttemptState, DeliveryState

MAX_MESSAGE_CHARACTERS = 2000


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
        remote_record_id=result.record_id,
        remote_record_url=result.record_url,
        remote_metadata=result.metadata,
    )


def after_failure(
    error: ExportError, failures: int, policy: RetryPolicy, unresolved_for: timedelta | None
) -> AttemptEnd:
    """The end of an attempt that failed, after Celery's tries.

    Time can mend a transient failure: the delivery waits, at least as long as the service asked for and until a lost
    answer can be looked up (`unresolved_for`), and fails for good at the policy's limit. A configuration failure is not
    the record's fault: the delivery stays due, it is the destination that pauses.
    """
    if isinstance(error, PermanentError):
        return _refused(str(error), failures)
    if isinstance(error, ConfigurationError):
        return AttemptEnd(AttemptState.CONFIGURATION, DeliveryState.PENDING, failures, error_message=_short(str(error)))
    failures += 1
    if failures >= policy.max_failures:
        message = f"Given up after {failures} failed attempts; the last one: {error}"
        if unresolved_for is not None:
            message += " The object may exist over there: nobody knows how a creating call ended."
        return AttemptEnd(AttemptState.TRANSIENT, DeliveryState.FAILED, failures, error_message=_short(message))
    asked_for = timedelta(seconds=(error.retry_after or 0) if isinstance(error, TransientError) else 0)
    wait = max(policy.delay(failures), asked_for, unresolved_for or timedelta())
    return AttemptEnd(AttemptState.TRANSIENT, DeliveryState.WAITING, failures, wait, _short(str(error)))


def not_tried(state: AttemptState, reason: str) -> AttemptEnd:
    """The end of an attempt that made no call: nothing is counted or logged, the delivery stays as it is."""
    return AttemptEnd(state, error_message=reason)


def put_off(wait: timedelta, failures: int, reason: str) -> AttemptEnd:
    """The end of an attempt that may not go on yet: nothing is counted or logged, the delivery waits."""
    return AttemptEnd(AttemptState.DEFERRED, DeliveryState.WAITING, failures, wait, reason)


def _refused(message: str, failures: int) -> AttemptEnd:
    return AttemptEnd(AttemptState.PERMANENT, DeliveryState.FAILED, failures, error_message=_short(message))


def _short(message: str) -> str:
    return message[:MAX_MESSAGE_CHARACTERS]
