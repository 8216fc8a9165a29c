"""Queries about destinations: their windows and how full they are."""

from collections.abc import Mapping

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from nexus_tasks.db.models import Attempt, Delivery, Destination
from nexus_tasks.db.rows import DestinationRow
from nexus_tasks.states import AttemptState

OPEN = (AttemptState.PLANNED, AttemptState.STARTED)


def ensure(connection: Connection, windows: Mapping[str, int]) -> None:
    """Have a row for each destination, with the window that its plugin declares now."""
    if not windows:
        return
    statement = insert(Destination).values([{"name": name, "window": windows[name]} for name in sorted(windows)])
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[Destination.name],
            set_={"window": statement.excluded.window},
            where=Destination.window != statement.excluded.window,
        )
    )


def all_rows(connection: Connection) -> list[DestinationRow]:
    """Every destination that a record was ever sent to."""
    open_attempts = (
        select(Delivery.destination, func.count().label("open"))
        .join(Attempt, Attempt.delivery_id == Delivery.id)
        .where(Attempt.state.in_(OPEN))
        .group_by(Delivery.destination)
        .subquery()
    )
    statement = (
        select(Destination.name, Destination.window, Destination.not_before, func.coalesce(open_attempts.c.open, 0))
        .outerjoin(open_attempts, open_attempts.c.destination == Destination.name)
        .order_by(Destination.name)
    )
    return [DestinationRow(*row) for row in connection.execute(statement)]


def full(connection: Connection, name: str) -> bool:
    """Whether the destination has no room; while an attempt of it is still open, its end makes room."""
    return any(row.name == name and row.room == 0 for row in all_rows(connection))
