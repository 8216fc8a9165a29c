"""Queries about what went wrong and stays so without a person's help; `attention` counts it, `status` lists it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, and_, func, literal, or_, select
from sqlalchemy.orm import aliased

from nexus_tasks.db.models import Attempt, BuildRequest, Delivery, Record, SessionLog
from nexus_tasks.states import DeliveryState, SessionStatus, Strategy

LONG = timedelta(days=1)  # of failing, after which a delivery that still waits is worth a look


@dataclass(frozen=True)
class TroubledDelivery:
    """A delivery that has failed, or still waits after long failing."""

    session_identifier: str
    destination: str


@dataclass(frozen=True)
class Troubles:
    """All of it, the oldest first; what a person has given up is not among it."""

    failed: Sequence[TroubledDelivery]
    long_waiting: Sequence[TroubledDelivery]
    not_built: Sequence[str]  # sessions

    @property
    def sessions(self) -> list[str]:
        """The sessions that it concerns."""
        deliveries = [delivery.session_identifier for delivery in (*self.failed, *self.long_waiting)]
        return list(dict.fromkeys([*deliveries, *self.not_built]))


def troubles(connection: Connection) -> Troubles:
    """What went wrong and was not given up."""
    return Troubles(
        failed=_deliveries(connection, and_(Delivery.state == DeliveryState.FAILED, _to_be_looked_at())),
        long_waiting=_deliveries(connection, and_(Delivery.state == DeliveryState.RETRYING, _failing_for_long())),
        not_built=list(connection.execute(_NOT_BUILT).scalars()),
    )


def _deliveries(connection: Connection, condition: ColumnElement[bool]) -> list[TroubledDelivery]:
    statement = (
        select(Record.session_identifier, Delivery.destination)
        .join(Record, Record.id == Delivery.record_id)
        .where(condition)
        .order_by(Delivery.id)
    )
    return [TroubledDelivery(*row) for row in connection.execute(statement)]


def _to_be_looked_at() -> ColumnElement[bool]:
    """Whether a delivery that has failed was not given up, and is not one that `first_success` can do without."""
    other = aliased(Delivery)
    another_holds_it = select(other.id).where(other.record_id == Delivery.record_id, other.succeeded_at.is_not(None))
    return and_(
        Delivery.input_fingerprint.is_not(None),  # an abandoned one has none
        or_(
            Record.strategy != Strategy.FIRST_SUCCESS,
            Delivery.succeeded_at.is_not(None),
            ~another_holds_it.correlate(Delivery).exists(),
        ),
    )


def _failing_for_long() -> ColumnElement[bool]:
    early_try = select(Attempt.id).where(
        Attempt.delivery_id == Delivery.id,
        Attempt.started_at < func.now() - literal(LONG),
        or_(Delivery.succeeded_at.is_(None), Attempt.started_at > Delivery.succeeded_at),
    )
    return early_try.correlate(Delivery).exists()


# a session that came in ERROR from another program was never built here
_NOT_BUILT = (
    select(SessionLog.session_identifier)
    .join(BuildRequest, BuildRequest.session_identifier == SessionLog.session_identifier)
    .where(SessionLog.record_status == SessionStatus.ERROR, BuildRequest.problem.is_not(None))
    .group_by(SessionLog.session_identifier)
    .order_by(func.min(SessionLog.timestamp), SessionLog.session_identifier)
)
