"""What the queries return and the pure decisions take: frozen copies of rows, without a database behind them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from nexus_tasks.states import AttemptState, DeliveryState, RunState, SessionStatus, Strategy


@dataclass(frozen=True)
class InstrumentRow:
    """A microscope; `filestore_path` is relative to the instrument data root, None if others build its records."""

    instrument_pid: str
    display_name: str | None
    location: str | None
    filestore_path: str | None
    timezone: str


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
    failures: int
    next_attempt_at: datetime | None
    error_message: str | None
    remote_record_id: str | None
    remote_record_url: str | None
    succeeded_at: datetime | None

    def due(self, now: datetime) -> bool:
        """Whether it wants a try now, as far as the delivery itself knows."""
        if self.state is DeliveryState.WAITING:
            return self.next_attempt_at is None or self.next_attempt_at <= now
        return self.state is DeliveryState.PENDING

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


@dataclass(frozen=True)
class DestinationRow:
    """A destination's health, and how many attempts it has open over all workers."""

    name: str
    window: int
    not_before: datetime | None
    open_attempts: int

    @property
    def room(self) -> int:
        """How many more deliveries may be sent to it now."""
        return max(0, self.window - self.open_attempts)

    def paused(self, now: datetime) -> bool:
        """Whether it is left alone for the moment."""
        return self.not_before is not None and self.not_before > now


@dataclass(frozen=True)
class AttemptRow:
    """One delivery inside one run, with the states around it."""

    id: int
    run_id: int
    record_id: int
    delivery_id: int
    destination: str
    state: AttemptState
    run_state: RunState
    delivery_state: DeliveryState
    failures: int
    tries: int
    result: dict[str, Any] | None


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
