"""Queries for what may be sent next: each is a filter over the backlog, by indexes; `plan` decides.

They keep to the rules of `plan`: one that let a record pass which `plan` never wants would hide the ones behind it.
"""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, any_, func, or_, select
from sqlalchemy.orm import aliased

from nexus_tasks.db.deliveries import ANY_INTENT, UNSETTLED, of_record, of_records
from nexus_tasks.db.models import Attempt, Delivery, Record, Run
from nexus_tasks.db.rows import ALONE_AFTER, RecordDeliveries
from nexus_tasks.states import DeliveryState, RunState, Strategy

# a record's other deliveries are asked by what they are not: else the index of all that are unsettled may be searched
SETTLED = tuple(state for state in DeliveryState if state.settled)
NOT_PENDING = (DeliveryState.WAITING, *SETTLED)


def next_records(
    connection: Connection, room: Mapping[str, int], paused: Collection[str], seen: Collection[int] = ()
) -> list[RecordDeliveries]:
    """The next records, after those `seen`, from which runs can be planned: for each destination as many as have room.

    Asked is for deliveries that are due, in no open run, and wait for no dependency that could go first. A delivery
    whose dependency is due as well comes with the record that is found for the dependency, so the answer is bounded by
    the windows, however long the backlog. What `plan` then makes of a record may still be nothing.
    """
    found: set[int] = set()
    for destination, places in room.items():
        if places > 0 and destination not in paused:
            free = _free(destination, paused).where(Delivery.record_id.not_in(seen)).limit(places)
            found.update(connection.execute(free).scalars())
    return of_records(connection, found)


def probe(connection: Connection, destination: str, paused: Collection[str]) -> RecordDeliveries | None:
    """The record by whose delivery a paused destination is tried again: the one that was tried longest ago.

    It keeps the order that holds when the destination is well: nothing goes first that is not paused as well. One in
    which workers have died only if there is no other.
    """
    last_try = select(func.max(Attempt.id)).where(Attempt.delivery_id == Delivery.id).scalar_subquery()
    statement = (
        select(Delivery.record_id)
        .join(Record, Record.id == Delivery.record_id)
        .where(
            Delivery.destination == destination,
            *_can_go(),
            ~_something_goes_first(Delivery, paused),
            or_(Record.strategy != Strategy.FIRST_SUCCESS, ~_another_is_next(paused)),
        )
        .order_by(Delivery.deaths >= ALONE_AFTER, last_try.nulls_first(), Delivery.id)
        .limit(1)
    )
    record_id = connection.execute(statement).scalar_one_or_none()
    return None if record_id is None else of_record(connection, record_id)


def suspected(connection: Connection, takers: Collection[str]) -> tuple[RecordDeliveries, str] | None:
    """The record whose delivery to one of `takers`, in which workers have died, was tried longest ago; and to which."""
    last_try = select(func.max(Attempt.id)).where(Attempt.delivery_id == Delivery.id).scalar_subquery()
    statement = (
        select(Delivery.record_id, Delivery.destination)
        .join(Record, Record.id == Delivery.record_id)
        .where(Delivery.destination.in_(takers), Delivery.deaths >= ALONE_AFTER, *_can_go())
        .order_by(last_try.nulls_first(), Delivery.id)
        .limit(1)
    )
    row = connection.execute(statement).one_or_none()
    return (of_record(connection, row.record_id), row.destination) if row else None


def _can_go() -> tuple[Any, ...]:
    """What holds for a delivery (joined with its record) that could go now, if no other one had to go before it."""
    open_run = select(Run.id).where(Run.record_id == Delivery.record_id, Run.state == RunState.OPEN)
    other = aliased(Delivery)
    others = select(other.id).where(other.record_id == Delivery.record_id, other.id != Delivery.id)
    # under first_success it must be known what a lost answer has left behind before another destination is asked, and
    # what holds the record already is all that may still be sent to
    unresolved = others.where(other.state.not_in(SETTLED), func.jsonb_path_exists(other.remote, ANY_INTENT))
    holder = others.where(other.succeeded_at.is_not(None))
    return (
        Delivery.state.in_(UNSETTLED),
        or_(Delivery.state == DeliveryState.PENDING, Delivery.next_attempt_at <= func.now()),
        ~_any(open_run),
        ~_something_is_missing(Delivery),
        or_(
            Record.strategy != Strategy.FIRST_SUCCESS,
            and_(
                ~_any(unresolved.correlate(Delivery)),
                or_(Delivery.succeeded_at.is_not(None), ~_any(holder.correlate(Delivery))),
            ),
        ),
    )


def _something_is_missing(delivery: Any) -> ColumnElement[bool]:
    """Whether a destination that the delivery requires does not hold the record."""
    other = aliased(Delivery)
    missing = select(other.id).where(
        other.record_id == delivery.record_id,
        other.destination == any_(delivery.requires),
        other.succeeded_at.is_(None),
    )
    return _any(missing.correlate(delivery))


def _something_goes_first(delivery: Any, paused: Collection[str]) -> ColumnElement[bool]:
    """Whether the delivery depends on one that is still to be tried, and can be; an open intent waits for nothing."""
    earlier = aliased(Delivery)
    goes_first = select(earlier.id).where(
        earlier.record_id == delivery.record_id,
        earlier.destination == any_(delivery.depends_on),
        earlier.destination.not_in(paused),
        earlier.state.not_in(NOT_PENDING),  # one that waits has failed a run already
        earlier.deaths < ALONE_AFTER,
    )
    unresolved = func.jsonb_path_exists(delivery.remote, ANY_INTENT)
    return and_(~unresolved, _any(goes_first.correlate(delivery)))


def _another_is_next(paused: Collection[str]) -> ColumnElement[bool]:
    """Whether, under first_success, another untried delivery of the record comes before this one, as `plan` has it."""
    other = aliased(Delivery)
    of_higher_rank = or_(
        other.priority > Delivery.priority,
        and_(other.priority == Delivery.priority, other.destination < Delivery.destination),
    )
    before = select(other.id).where(
        other.record_id == Delivery.record_id,
        other.id != Delivery.id,
        other.destination.not_in(paused),
        other.state.not_in(NOT_PENDING),
        other.deaths < ALONE_AFTER,
        or_(Delivery.state != DeliveryState.PENDING, of_higher_rank),
        ~_something_is_missing(other),
        ~_something_goes_first(other, paused),
    )
    return _any(before.correlate(Delivery))


def _free(destination: str, paused: Collection[str]) -> Any:
    """Select the records whose delivery to `destination` could go now, and waits for no dependency that goes first."""
    return (
        select(Delivery.record_id)
        .join(Record, Record.id == Delivery.record_id)
        .where(
            Delivery.destination == destination,
            Delivery.deaths < ALONE_AFTER,
            *_can_go(),
            ~_something_goes_first(Delivery, paused),
        )
        .order_by(Delivery.id)
    )


def _any(rows: Any) -> ColumnElement[bool]:
    """Whether there are such rows: looked up for each delivery by an index.

    Without OFFSET PostgreSQL may make a join of it, and takes minutes over a backlog that came after its last ANALYZE.
    """
    found: ColumnElement[bool] = rows.offset(0).exists()
    return found
