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

    PENDING = "pending"  # no attempt has failed since it became due
    RETRYING = "retrying"  # an attempt failed; due again at `next_attempt_at`
    SUCCEEDED = "succeeded"  # the destination holds the record
    FAILED = "failed"  # no further attempts; the reason is stored beside it
    SKIPPED = "skipped"  # not needed (first_success), or a required destination has failed

    @property
    def final(self) -> bool:
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
    PROBE = "probe"  # one delivery that tests a destination whose circuit is half-open
    QUARANTINE = "quarantine"  # one delivery in which workers have died; one such run at a time


class AttemptState(StrEnum):
    """One delivery inside one run."""

    PLANNED = "planned"  # in the broker, or on its way there
    STARTED = "started"  # a worker has it, or Celery waits to retry it
    SUCCEEDED = "succeeded"
    TRANSIENT = "transient"  # failed; a later attempt may succeed
    PERMANENT = "permanent"  # failed; no later attempt can succeed
    CONFIGURATION = "configuration"  # fails for every record until somebody corrects the settings
    DEFERRED = "deferred"  # made no call: what it needs is not there yet
    SKIPPED = "skipped"  # made no call: no longer wanted
    EXPIRED = "expired"  # its lease expired: the worker died
    CANCELLED = "cancelled"  # its message was never published, or is lost
    ORPHANED = "orphaned"  # its run is lost, but its message may still be queued and counts as in flight

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen in it."""
        return self not in OPEN_ATTEMPTS

    @property
    def logged(self) -> bool:
        """Whether it becomes a row of `upload_log`: the destination, or its settings, gave an answer."""
        return self in {
            AttemptState.SUCCEEDED,
            AttemptState.TRANSIENT,
            AttemptState.PERMANENT,
            AttemptState.CONFIGURATION,
        }


OPEN_ATTEMPTS = frozenset({AttemptState.PLANNED, AttemptState.STARTED, AttemptState.ORPHANED})  # in flight
UNFINISHED = frozenset({DeliveryState.PENDING, DeliveryState.RETRYING})
