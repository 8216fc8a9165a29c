"""The states a session, a delivery, a run and an attempt can be in, and the export strategies.

The words are those of `docs/architecture.md`; the database stores the lower-case (or, for sessions, the upper-case)
values below, so that a query typed by hand reads like the documentation.
"""

from enum import StrEnum


class SessionStatus(StrEnum):
    """What `session_log.record_status` can say; the names are NexusLIMS's."""

    WAITING_FOR_END = "WAITING_FOR_END"  # the session has not ended yet
    TO_BE_BUILT = "TO_BE_BUILT"  # the builder's work list
    NO_FILES_FOUND = "NO_FILES_FOUND"  # nothing was written in the session's window
    NO_CONSENT = "NO_CONSENT"  # the user did not agree to a record
    NO_RESERVATION = "NO_RESERVATION"  # the calendar knows no reservation for it
    ERROR = "ERROR"  # the record could not be built
    BUILT_NOT_EXPORTED = "BUILT_NOT_EXPORTED"  # there is a record, the strategy is not satisfied yet
    COMPLETED = "COMPLETED"  # the strategy is satisfied; never taken back


class Strategy(StrEnum):
    """When a record counts as exported."""

    ALL = "all"  # every frozen destination has succeeded
    FIRST_SUCCESS = "first_success"  # one has succeeded, the rest are skipped
    BEST_EFFORT = "best_effort"  # at least one has succeeded, the rest go on being retried


class DeliveryState(StrEnum):
    """One record × one destination: what is still to do."""

    PENDING = "pending"  # due now
    WAITING = "waiting"  # due when `next_attempt_at` has passed
    SUCCEEDED = "succeeded"  # the destination holds the record
    FAILED = "failed"  # given up, the reason stands beside it
    SKIPPED = "skipped"  # not needed (first_success), or what it requires has failed

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do."""
        return self in {DeliveryState.SUCCEEDED, DeliveryState.FAILED, DeliveryState.SKIPPED}


RUNNING = "running"  # shown and not stored: a delivery with an open attempt that a worker has begun


class RunState(StrEnum):
    """One Celery canvas over deliveries of one record."""

    OPEN = "open"
    CLOSED = "closed"
    LOST = "lost"


class RunKind(StrEnum):
    """Why a run was planned."""

    NORMAL = "normal"
    PROBE = "probe"  # one delivery, one call: is the destination well again?
    ALONE = "alone"  # one delivery whose workers have died; only one such run at a time


class AttemptState(StrEnum):
    """One delivery inside one run."""

    PLANNED = "planned"  # in the broker, or on its way there
    STARTED = "started"  # a worker has it, or Celery waits to try it again
    SUCCEEDED = "succeeded"
    TRANSIENT = "transient"  # failed in a way that time can mend
    PERMANENT = "permanent"  # failed in a way that time cannot mend
    CONFIGURATION = "configuration"  # failed for every record until somebody mends the settings
    DEFERRED = "deferred"  # not tried: what it needs is not there yet
    SKIPPED = "skipped"  # not tried: no longer wanted
    DIED = "died"  # its worker died in it
    UNSENT = "unsent"  # its message never went out

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen in it."""
        return self not in {AttemptState.PLANNED, AttemptState.STARTED}

    @property
    def logged(self) -> bool:
        """Whether it becomes a row of `upload_log`: the destination, or its settings, gave an answer."""
        return self in {
            AttemptState.SUCCEEDED,
            AttemptState.TRANSIENT,
            AttemptState.PERMANENT,
            AttemptState.CONFIGURATION,
        }
