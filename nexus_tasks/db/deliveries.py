"""Queries about deliveries: what was frozen, what is due, and what each destination holds."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, any_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from nexus_tasks.db.models import Delivery, Record, Run
from nexus_tasks.db.rows import DeliveryRow, RecordDeliveries
from nexus_tasks.states import DeliveryState, RunState, Strategy

UNSETTLED = (DeliveryState.PENDING, DeliveryState.WAITING)


@dataclass(frozen=True)
class FrozenDestination:
    """What is written down about a destination when a record is handed over; later settings do not change it."""

    name: str
    priority: int
    depends_on: tuple[str, ...]
    requires: tuple[str, ...]


def add(connection: Connection, record_id: int, destinations: Iterable[FrozenDestination]) -> None:
    """Insert a pending delivery of the record for each destination."""
    rows = [
        {
            "record_id": record_id,
            "destination": destination.name,
            "priority": destination.priority,
            "depends_on": list(destination.depends_on),
            "requires": list(destination.requires),
        }
        for destination in destinations
    ]
    if rows:
        connection.execute(insert(Delivery), rows)


def of_records(connection: Connection, record_ids: Collection[int]) -> list[RecordDeliveries]:
    """Those records with all their deliveries, the highest priority first."""
    if not record_ids:
        return []
    strategies = {
        record_id: Strategy(strategy)
        for record_id, strategy in connection.execute(
            select(Record.id, Record.strategy).where(Record.id.in_(record_ids)).order_by(Record.id)
        )
    }
    deliveries: dict[int, list[DeliveryRow]] = {record_id: [] for record_id in strategies}
    statement = _DELIVERIES.where(Delivery.record_id.in_(record_ids))
    for row in connection.execute(statement.order_by(Delivery.priority.desc(), Delivery.destination)):
        delivery = _delivery_row(row)
        deliveries[delivery.record_id].append(delivery)
    return [RecordDeliveries(key, strategy, tuple(deliveries[key])) for key, strategy in strategies.items()]


def of_record(connection: Connection, record_id: int) -> RecordDeliveries:
    """One record with all its deliveries, the highest priority first."""
    return of_records(connection, [record_id])[0]


def candidates(connection: Connection, room: Mapping[str, int], paused: Collection[str]) -> list[RecordDeliveries]:
    """The records from which the next runs can be planned: for each destination as many as it has room for.

    Asked is for deliveries that are due, in no open run, and wait for no dependency that could go first. A delivery
    whose dependency is due as well comes with the record that is found for the dependency, so the answer is bounded by
    the windows, however long the backlog.
    """
    found: set[int] = set()
    for destination, places in room.items():
        if places > 0 and destination not in paused:
            found.update(connection.execute(_free(destination, paused).limit(places)).scalars())
    return of_records(connection, found)


def clock(connection: Connection) -> datetime:
    """The time as PostgreSQL has it; every decision about what is due uses this clock."""
    return connection.execute(select(func.now())).scalar_one()


def skip(connection: Connection, delivery_id: int, reason: str) -> None:
    """Settle a delivery that is not wanted any more."""
    connection.execute(
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.state.in_(UNSETTLED))
        .values(state=DeliveryState.SKIPPED, next_attempt_at=None, error_message=reason)
    )


def remote(connection: Connection, delivery_id: int) -> dict[str, dict[str, str | None]]:
    """What earlier tries have created over there: step → its identifier ("id") and what it holds ("content")."""
    return dict(connection.execute(select(Delivery.remote).where(Delivery.id == delivery_id)).scalar_one())


def remember(connection: Connection, delivery_id: int, step: str, what: dict[str, str | None]) -> None:
    """Keep what is known of the object that a step has created."""
    connection.execute(
        update(Delivery).where(Delivery.id == delivery_id).values(remote=Delivery.remote.op("||")({step: what}))
    )


def _free(destination: str, paused: Collection[str]) -> Any:
    earlier = aliased(Delivery)
    held_back = select(earlier.id).where(
        earlier.record_id == Delivery.record_id,
        earlier.state.in_(UNSETTLED),
        or_(
            earlier.destination == any_(Delivery.requires),
            and_(
                earlier.destination == any_(Delivery.depends_on),
                earlier.state == DeliveryState.PENDING,  # one that waits has failed a run already
                earlier.destination.not_in(paused),
            ),
            and_(
                Record.strategy == Strategy.FIRST_SUCCESS,
                earlier.state == DeliveryState.PENDING,
                earlier.priority > Delivery.priority,
            ),
        ),
    )
    open_run = select(Run.id).where(Run.record_id == Delivery.record_id, Run.state == RunState.OPEN)
    return (
        select(Delivery.record_id)
        .join(Record, Record.id == Delivery.record_id)
        .where(
            Delivery.destination == destination,
            Delivery.state.in_(UNSETTLED),
            or_(Delivery.state == DeliveryState.PENDING, Delivery.next_attempt_at <= func.now()),
            ~open_run.exists(),
            ~held_back.correlate(Delivery, Record).exists(),
        )
        .order_by(Delivery.id)
    )


def _delivery_row(row: Sequence[Any]) -> DeliveryRow:
    return DeliveryRow(
        id=row[0],
        record_id=row[1],
        destination=row[2],
        priority=row[3],
        depends_on=tuple(row[4]),
        requires=tuple(row[5]),
        state=DeliveryState(row[6]),
        failures=row[7],
        next_attempt_at=row[8],
        error_message=row[9],
        remote_record_id=row[10],
        remote_record_url=row[11],
        succeeded_at=row[12],
    )


_DELIVERIES = select(
    Delivery.id,
    Delivery.record_id,
    Delivery.destination,
    Delivery.priority,
    Delivery.depends_on,
    Delivery.requires,
    Delivery.state,
    Delivery.failures,
    Delivery.next_attempt_at,
    Delivery.error_message,
    Delivery.remote_record_id,
    Delivery.remote_record_url,
    Delivery.succeeded_at,
)
