"""Queries about deliveries: what was frozen, what is due, and what each destination holds."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from nexus_tasks.db.among import among
from nexus_tasks.db.models import Adoptable, Delivery, Record, Restore
from nexus_tasks.db.rows import DeliveryRow, RecordDeliveries
from nexus_tasks.states import DeliveryState

UNRESOLVED_UNTIL = "unresolved_until"  # in `remote`: an intent
ANY_INTENT: ColumnElement[Any] = literal_column(f"'$.*.{UNRESOLVED_UNTIL}'::jsonpath")
UNSETTLED = (DeliveryState.PENDING, DeliveryState.WAITING)
RESTORED_WITHIN = "1h"  # all deliveries are changed at once or none: millions take longer than a statement may


@dataclass(frozen=True)
class FrozenDestination:
    """What is written down about a destination when a record is handed over; later settings do not change it."""

    name: str
    priority: int
    depends_on: tuple[str, ...]
    requires: tuple[str, ...]
    updates: bool


def add(connection: Connection, record_ids: Collection[int], destinations: Iterable[FrozenDestination]) -> int:
    """Insert a pending delivery of each record for each destination, where there is none yet; how many.

    Where the database was restored since the session, the record may be over there: it is looked up first. What
    another program is known to have made of the session is brought up to date instead of made again.
    """
    columns = [
        Delivery.record_id,
        Delivery.destination,
        Delivery.priority,
        Delivery.depends_on,
        Delivery.requires,
        Delivery.updates,
        Delivery.look_up_first,
        Delivery.remote,
    ]
    added = 0
    for destination in destinations:
        rows = (
            select(
                Record.id,
                literal(destination.name),
                literal(destination.priority),
                literal(list(destination.depends_on), Delivery.depends_on.type),
                literal(list(destination.requires), Delivery.requires.type),
                literal(destination.updates),
                select(Restore.restored_at).where(Restore.restored_at > Record.dt_to).exists(),
                func.coalesce(Adoptable.remote, literal({}, Delivery.remote.type)),
            )
            .outerjoin(
                Adoptable,
                and_(
                    Adoptable.session_identifier == Record.session_identifier,
                    Adoptable.destination == destination.name,
                ),
            )
            .where(among(Record.id, record_ids))
            .order_by(Record.id)
        )
        statement = insert(Delivery).from_select(columns, rows).on_conflict_do_nothing()
        added += connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount
    return added


def of_records(connection: Connection, record_ids: Collection[int]) -> list[RecordDeliveries]:
    """Those records with all their deliveries, the highest priority first."""
    if not record_ids:
        return []
    statement = select(Record.id, Record.strategy, Record.sha256).where(among(Record.id, record_ids))
    records = connection.execute(statement.order_by(Record.id)).all()
    deliveries: dict[int, list[DeliveryRow]] = {record.id: [] for record in records}
    rows = _DELIVERIES.where(among(Delivery.record_id, record_ids))
    for row in connection.execute(rows.order_by(Delivery.priority.desc(), Delivery.destination)):
        delivery = _delivery_row(row._asdict())
        deliveries[delivery.record_id].append(delivery)
    return [
        RecordDeliveries(record.id, record.strategy, tuple(deliveries[record.id]), record.sha256) for record in records
    ]


def of_record(connection: Connection, record_id: int) -> RecordDeliveries:
    """One record with all its deliveries, the highest priority first."""
    return of_records(connection, [record_id])[0]


def clock(connection: Connection) -> datetime:
    """The time as PostgreSQL has it; every decision about what is due uses this clock."""
    return connection.execute(select(func.now())).scalar_one()


def skip(connection: Connection, reasons: Mapping[int, str]) -> None:
    """Settle deliveries that are not wanted any more, by their ids, each with its reason."""
    if reasons:
        connection.execute(
            update(Delivery)
            .where(Delivery.id == bindparam("delivery_id"), among(Delivery.state, UNSETTLED))
            .values(state=DeliveryState.SKIPPED, next_attempt_at=None, error_message=bindparam("reason")),
            [{"delivery_id": delivery_id, "reason": reason} for delivery_id, reason in reasons.items()],
        )


def make_due(
    connection: Connection, delivery_ids: Collection[int], *, afresh: bool = False, recreate: bool = False
) -> None:
    """Have deliveries tried again. `afresh` forgets their failures, `recreate` also what was created over there."""
    if not delivery_ids:
        return
    values: dict[str, Any] = {"state": DeliveryState.PENDING, "next_attempt_at": None}
    if afresh:
        values |= {"failures": 0, "deaths": 0, "error_message": None}
    if recreate:
        values["remote"] = {}
    connection.execute(update(Delivery).where(among(Delivery.id, delivery_ids)).values(values))


def give_up(connection: Connection, delivery_id: int, reason: str) -> None:
    """Settle a delivery as failed, whatever becomes of its inputs: without a digest none is outdated."""
    connection.execute(
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.state.in_((*UNSETTLED, DeliveryState.FAILED)))
        .values(state=DeliveryState.FAILED, next_attempt_at=None, error_message=reason, digest=None)
    )


def restored(connection: Connection) -> int:
    """After a restore: every delivery looks over there before it creates anything; how many are not settled."""
    connection.execute(select(func.set_config("statement_timeout", RESTORED_WITHIN, true())))  # for this transaction
    connection.execute(insert(Restore).values(restored_at=func.now()).on_conflict_do_nothing())
    connection.execute(update(Delivery).values(look_up_first=True))
    unsettled = select(func.count()).select_from(Delivery).where(Delivery.state.in_(UNSETTLED))
    return connection.execute(unsettled).scalar_one()


def lock_remote(connection: Connection, delivery_id: int) -> tuple[dict[str, dict[str, Any]], bool]:
    """What is known of the objects over there by step, and whether to look before creating; the row is locked.

    Of a step: "id", "content" (a fingerprint), "unresolved_until" while nobody knows how its creating call ended.
    """
    statement = select(Delivery.remote, Delivery.look_up_first).where(Delivery.id == delivery_id)
    row = connection.execute(statement.with_for_update(key_share=True)).one()
    return dict(row[0]), row[1]


def set_remote(connection: Connection, delivery_id: int, step: str, known: dict[str, Any]) -> None:
    """Keep what is known of the object that a step creates."""
    connection.execute(
        update(Delivery).where(Delivery.id == delivery_id).values(remote=Delivery.remote.op("||")({step: known}))
    )


def forget_intents(connection: Connection, delivery_id: int) -> None:
    """Take it for known how every creating call of the delivery has ended."""
    remote, _ = lock_remote(connection, delivery_id)
    resolved = {
        step: {key: value for key, value in known.items() if key != UNRESOLVED_UNTIL}
        for step, known in remote.items()
        if known.get("id") is not None or UNRESOLVED_UNTIL not in known
    }
    connection.execute(update(Delivery).where(Delivery.id == delivery_id).values(remote=resolved))


def records_without(connection: Connection, destination: str) -> list[int]:
    """The records that were never meant for the destination, oldest first."""
    meant = select(Delivery.id).where(Delivery.record_id == Record.id, Delivery.destination == destination)
    return list(connection.execute(select(Record.id).where(~meant.exists()).order_by(Record.id)).scalars())


def records_to_retry(
    connection: Connection,
    states: Collection[DeliveryState],
    identifiers: Sequence[str] | None,
    destination: str | None,
) -> list[int]:
    """The records of those sessions, or of all, with a delivery in such a state, oldest first.

    Of what was skipped only what requires another delivery counts: that one may be there now.
    """
    statement = (
        select(Delivery.record_id)
        .where(
            Delivery.state.in_(states),
            or_(Delivery.state != DeliveryState.SKIPPED, func.cardinality(Delivery.requires) > 0),
        )
        .distinct()
        .order_by(Delivery.record_id)
    )
    if destination is not None:
        statement = statement.where(Delivery.destination == destination)
    if identifiers is not None:
        statement = statement.join(Record, Record.id == Delivery.record_id)
        statement = statement.where(among(Record.session_identifier, identifiers))
    return list(connection.execute(statement).scalars())


def _delivery_row(columns: dict[str, Any]) -> DeliveryRow:
    lists = {name: tuple(columns[name]) for name in ("depends_on", "requires")}
    return DeliveryRow(**{**columns, **lists})


_DELIVERIES = select(  # the columns are named as DeliveryRow names them
    Delivery.id,
    Delivery.record_id,
    Delivery.destination,
    Delivery.priority,
    Delivery.depends_on,
    Delivery.requires,
    Delivery.state,
    Delivery.updates,
    Delivery.failures,
    Delivery.deaths,
    Delivery.next_attempt_at,
    Delivery.error_message,
    Delivery.digest,
    func.jsonb_path_exists(Delivery.remote, ANY_INTENT).label("unresolved"),
    Delivery.remote_record_id,
    Delivery.remote_record_url,
    Delivery.succeeded_at,
)
