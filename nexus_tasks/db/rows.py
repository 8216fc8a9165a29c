"""What the queries return and the pure decisions take: frozen copies of rows, without a database behind them."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from nexus_tasks.states import AttemptState, DeliveryState, RunKind, RunState, SessionStatus, Strategy

ALONE_AFTER = 2  # deaths of workers in one delivery after which it runs alone


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
    failures: int = 0
    deaths: int = 0
    next_attempt_at: datetime | None = None
    error_message: str | None = None
    digest: str | None = None
    unresolved: bool = False  # a creating call was made whose outcome nobody knows
    remote_record_id: str | None = None
    remote_record_url: str | None = None
    succeeded_at: datetime | None = None

    def due(self, now: datetime) -> bool:
        """Whether it wants a try now, as far as the delivery itself knows."""
        if self.state is DeliveryState.WAITING:
            return self.next_attempt_at is None or self.next_attempt_at <= now
        return self.state is DeliveryState.PENDING

    @property
    def suspected(self) -> bool:
        """Whether it seems to kill its workers: it runs alone."""
        return self.deaths >= ALONE_AFTER

    @property
    def given_up(self) -> bool:
        """Whether a person wants nothing more of it; what fails by itself was brought to an end with some inputs."""
        return self.state is DeliveryState.FAILED and self.digest is None

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


@dataclass(frozen=True)
class Health:
    """How a destination is. Paused until `not_before`; after that it is left alone until a probe has succeeded."""

    held: bool = False  # by an operator
    failing_records: tuple[int, ...] = ()  # distinct, since the last answer
    paused_at: datetime | None = None
    not_before: datetime | None = None
    pause_seconds: float = 0
    reason: str | None = None
    well_since: datetime | None = field(default=None, compare=False)  # when the probe began that ended the last pause

    @property
    def well(self) -> bool:
        """Whether it may be given anything."""
        return not self.held and self.paused_at is None

    def wants_probe(self, now: datetime) -> bool:
        """Whether its pause is over and one try should find out how it is."""
        paused = self.paused_at is not None and not self.held
        return paused and (self.not_before is None or self.not_before <= now)


@dataclass(frozen=True)
class DestinationRow:
    """A destination, and how many attempts it has open over all workers."""

    name: str
    window: int
    open_attempts: int
    health: Health

    @property
    def room(self) -> int:
        """How many more deliveries may be sent to it now."""
        return max(0, self.window - self.open_attempts)


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
    digest: str | None
    lease_token: UUID | None
    lease_is_live: bool
    try_started_at: datetime | None
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
