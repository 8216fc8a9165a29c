"""Queries about destinations: their windows, how full they are, and how well."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, literal, or_, select, true, update
from sqlalchemy.dialects.postgresql import insert

from nexus_tasks.db.models import Attempt, Delivery, Destination
from nexus_tasks.db.rows import DestinationRow, Health
from nexus_tasks.states import AttemptState

LEAST_WAIT_S = 0.001  # of a call whose turn comes at this very moment
FLOOR_WAIT_S = 1.0  # of a call while another try has the floor
OPEN = (AttemptState.PLANNED, AttemptState.STARTED)


def ensure(connection: Connection, windows: Mapping[str, int]) -> None:
    """Have a row for each destination; one that is there keeps its window."""
    known = set(connection.execute(select(Destination.name)).scalars())
    new = [{"name": name, "window": windows[name]} for name in sorted(windows) if name not in known]
    if new:
        connection.execute(insert(Destination).values(new).on_conflict_do_nothing())


def set_windows(connection: Connection, windows: Mapping[str, int]) -> None:
    """Give the destinations that have a row the window that is set for them now."""
    known = {row.name: row.window for row in connection.execute(select(Destination.name, Destination.window))}
    for name in sorted(known.keys() & windows.keys()):
        if known[name] != windows[name]:
            connection.execute(update(Destination).where(Destination.name == name).values(window=windows[name]))


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
        select(Destination.name, Destination.window, func.coalesce(open_attempts.c.open, 0), *_HEALTH)
        .outerjoin(open_attempts, open_attempts.c.destination == Destination.name)
        .order_by(Destination.name)
    )
    return [DestinationRow(row[0], row[1], row[2], _health(*row[3:])) for row in connection.execute(statement)]


def get(connection: Connection, name: str) -> DestinationRow | None:
    """The destination of that name, if a record was ever sent to it."""
    return next((row for row in all_rows(connection) if row.name == name), None)


def health(connection: Connection, name: str) -> Health:
    """How the destination is, as every try asks first."""
    row = connection.execute(select(*_HEALTH).where(Destination.name == name)).one_or_none()
    return _health(*row) if row else Health()


def lock_health(connection: Connection, name: str) -> Health:
    """As `health`, locked until the end of the transaction: failures are counted one after the other."""
    row = connection.execute(
        select(*_HEALTH).where(Destination.name == name).with_for_update(key_share=True)
    ).one_or_none()
    return _health(*row) if row else Health()


def set_health(connection: Connection, name: str, value: Health) -> None:
    """Write how the destination is."""
    connection.execute(
        update(Destination)
        .where(Destination.name == name)
        .values(
            held=value.held,
            failing_records=list(value.failing_records),
            paused_at=value.paused_at,
            not_before=value.not_before,
            pause_seconds=value.pause_seconds,
            reason=value.reason,
            well_since=value.well_since,
        )
    )


def take_turn(
    connection: Connection, name: str, interval: float, slack: float, token: UUID, *, floor_for: float | None = None
) -> float:
    """Note that a call leaves within `slack` seconds, and return 0; else the seconds until it may be asked again.

    That is when the last call is too near, or another try has the floor. `floor_for` seconds from now the floor is
    this one's, of `token`.
    """
    next_call_at = Destination.last_call_at + literal(timedelta(seconds=interval))
    floor_is_free = or_(
        Destination.floor.is_(None), Destination.floor == token, Destination.floor_until <= func.clock_timestamp()
    )
    values: dict[str, Any] = {"last_call_at": func.clock_timestamp() + literal(timedelta(seconds=slack))}
    if floor_for is not None:
        values |= {"floor": token, "floor_until": func.clock_timestamp() + literal(timedelta(seconds=floor_for))}
    taken = connection.execute(
        update(Destination)
        .where(Destination.name == name, func.coalesce(next_call_at <= func.clock_timestamp(), true()), floor_is_free)
        .values(values)
        .returning(Destination.name)
    )
    if taken.one_or_none() is not None:
        return 0.0
    left = func.extract("epoch", next_call_at - func.clock_timestamp())
    row = connection.execute(select(left, floor_is_free).where(Destination.name == name)).one_or_none()
    if row is None:  # no record was ever sent to it
        return 0.0
    least = LEAST_WAIT_S if row[1] else FLOOR_WAIT_S
    return max(least, float(row[0] or 0))


def leave_floor(connection: Connection, name: str, token: UUID) -> None:
    """Let the others make calls again, if this try has the floor."""
    connection.execute(
        update(Destination)
        .where(Destination.name == name, Destination.floor == token)
        .values(floor=None, floor_until=None)
    )


def queue_up(connection: Connection, name: str, interval: float, slack: float) -> float:
    """The seconds until it is the turn of one more that waits, behind all who wait already."""
    behind = func.greatest(
        Destination.last_call_at + literal(timedelta(seconds=interval)),
        Destination.last_turn_at + literal(timedelta(seconds=interval + slack)),
    )
    given = connection.execute(
        update(Destination)
        .where(Destination.name == name)
        .values(last_turn_at=func.greatest(behind, func.clock_timestamp()))
        .returning(func.extract("epoch", Destination.last_turn_at - func.clock_timestamp()))
    )
    return float(given.scalar_one())


def lock_remote(connection: Connection, name: str) -> dict[str, dict[str, Any]]:
    """What is known of the objects over there that several records share, by step; the row is locked."""
    statement = select(Destination.remote).where(Destination.name == name)
    return dict(connection.execute(statement.with_for_update(key_share=True)).scalar_one())


def set_remote(connection: Connection, name: str, step: str, known: dict[str, Any]) -> None:
    """Keep what is known of the object that a step creates."""
    connection.execute(
        update(Destination).where(Destination.name == name).values(remote=Destination.remote.op("||")({step: known}))
    )


_HEALTH = (
    Destination.held,
    Destination.failing_records,
    Destination.paused_at,
    Destination.not_before,
    Destination.pause_seconds,
    Destination.reason,
    Destination.well_since,
)


def _health(*columns: Any) -> Health:
    held, failing_records, paused_at, not_before, pause_seconds, reason, well_since = columns
    return Health(held, tuple(failing_records), paused_at, not_before, pause_seconds, reason, well_since)
