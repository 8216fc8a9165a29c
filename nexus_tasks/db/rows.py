"""What the queries return and the pure decisions take: frozen copies of rows, without a database behind them."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from nexus_tasks.states import AttemptState, DeliveryState, RunKind, RunState, SessionStatus, Strategy

QUARANTINE_AFTER = 2  # deaths of workers in one delivery after which it runs alone
QUARANTINE = "quarantine:"  # what such a delivery waits for, as `DeliveryRow.waits_for` has it


@dataclass(frozen=True)
class InstrumentRow:
    """A microscope; `filestore_path` is relative to the instrument data root, None if others build its records."""

    instrument_pid: str
    display_name: str | None
    location: str | None
    filestore_path: str | None
    timezone: str
    clock_offset_s: float = 0  # seconds that the clock which dates its files is ahead


@dataclass(frozen=True)
class SessionRow:
    """One use of an instrument, put together from its `session_log` rows."""

    session_identifier: str
    instrument_pid: str
    start: datetime | None
    end: datetime | None
    user: str | None
    status: SessionStatus


@dataclass(frozen=True)
class RecordRow:
    """The record of a session; `document` is a file name under the records path, checked by `sha256`."""

    id: int
    session_identifier: str
    instrument_pid: str
    dt_from: datetime
    dt_to: datetime
    timezone: str
    user: str | None
    document: str
    sha256: str
    activities: list[dict[str, Any]]
    strategy: Strategy
    created_at: datetime
    archived_at: datetime | None


@dataclass(frozen=True)
class DeliveryRow:
    """One record × one destination."""

    id: int
    record_id: int
    destination: str
    priority: int
    depends_on: tuple[str, ...]
    requires: tuple[str, ...]
    state: DeliveryState
    updates: bool = False
    waits_for: str = ""  # as `delivery.plan.waits_for` says
    failures: int = 0
    deaths: int = 0
    next_attempt_at: datetime | None = None
    error_message: str | None = None
    input_fingerprint: str | None = None
    unresolved: bool = False  # the outcome of a creating call is unknown
    remote_record_id: str | None = None
    remote_record_url: str | None = None
    succeeded_at: datetime | None = None

    def due(self, now: datetime) -> bool:
        """Whether it is time for an attempt, as far as the delivery itself knows."""
        return not self.state.final and (self.next_attempt_at is None or self.next_attempt_at <= now)

    @property
    def quarantined(self) -> bool:
        """Whether workers have died in it so often that it runs alone."""
        return self.deaths >= QUARANTINE_AFTER

    @property
    def abandoned(self) -> bool:
        """Whether an operator gave it up; one that fails by itself has the fingerprint of its last inputs."""
        return self.state is DeliveryState.FAILED and self.input_fingerprint is None

    @property
    def has_succeeded(self) -> bool:
        """Whether the destination has held the record at some time: that is what a strategy asks."""
        return self.succeeded_at is not None


@dataclass(frozen=True)
class RecordDeliveries:
    """A record with all its deliveries: what a plan or a verdict is made from."""

    record_id: int
    strategy: Strategy
    deliveries: tuple[DeliveryRow, ...]
    sha256: str = ""
    session_identifier: str = ""


@dataclass(frozen=True)
class Breaker:
    """The circuit breaker of a destination: closed, open until `open_until`, then half-open until a probe succeeds."""

    paused: bool = False  # by an operator
    failing_records: tuple[int, ...] = ()  # distinct, since the last answer
    opened_at: datetime | None = None
    open_until: datetime | None = None
    open_seconds: float = 0
    reason: str | None = None
    recovered_at: datetime | None = field(default=None, compare=False)  # when the probe began that last closed it

    @property
    def closed(self) -> bool:
        """Whether attempts may be made."""
        return not self.paused and self.opened_at is None

    @property
    def clean(self) -> bool:
        """Whether a success has nothing to change in it."""
        return self.opened_at is None and not self.failing_records and (self.paused or self.reason is None)

    def half_open(self, now: datetime) -> bool:
        """Whether one probe may find out how the destination is."""
        return self.opened_at is not None and not self.paused and (self.open_until is None or self.open_until <= now)


@dataclass(frozen=True)
class DestinationRow:
    """A destination, and how many attempts it has in flight over all workers."""

    name: str
    max_in_flight: int
    in_flight: int
    breaker: Breaker

    @property
    def capacity(self) -> int:
        """How many more deliveries may be sent to it now."""
        return max(0, self.max_in_flight - self.in_flight)


@dataclass(frozen=True)
class AttemptRow:
    """One delivery inside one run, with what surrounds it."""

    id: int
    run_id: int
    record_id: int
    delivery_id: int
    destination: str
    state: AttemptState
    run_state: RunState
    run_kind: RunKind
    run_token: UUID
    failures: int
    deaths: int
    tries: int
    input_fingerprint: str | None
    lease_token: UUID | None
    lease_is_live: bool
    try_started_at: datetime | None
    ended_at: datetime | None
    error_message: str | None
    result: dict[str, Any] | None
    unresolved: bool = False  # as its delivery's
    delivery_state: DeliveryState = DeliveryState.PENDING


@dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended, and what becomes of its delivery; both are written in one transaction."""

    state: AttemptState
    delivery_state: DeliveryState | None = None  # None: the delivery stays as it is
    failures: int = 0
    wait: timedelta | None = None  # until the delivery is due again
    error_message: str | None = None
    remote_record_id: str | None = None
    remote_record_url: str | None = None
    remote_metadata: dict[str, Any] | None = None


@dataclass(frozen=True)
class OverdueRun:
    """A run in which something should have happened by now, with its attempts.

    It is open, or was lost with messages that may still lie in a queue.
    """

    id: int
    record_id: int
    kind: RunKind
    state: RunState
    overdue_for: timedelta
    attempts: tuple[AttemptRow, ...]
