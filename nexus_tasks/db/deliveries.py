"""The statements about deliveries outside of an attempt: what they are, and what operators ask for."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from nexus_tasks.db.columns import DELIVERY, delivery_row
from nexus_tasks.db.rows import DeliveryRow, RecordDeliveries
from nexus_tasks.states import DeliveryState, Strategy

RESTORED_WITHIN = "1h"  # all deliveries are changed at once or none: millions take longer than a statement may

_OF_RECORDS = text(f"""
    SELECT record.id AS of_record, record.strategy, record.sha256, record.session_identifier, {DELIVERY}
    FROM record LEFT JOIN delivery ON delivery.record_id = record.id
    WHERE record.id = ANY(:records)
    ORDER BY record.id, delivery.priority DESC, delivery.destination
""")
_CLOCK = text("SELECT now()")
_MAKE_DUE = text("""
    UPDATE delivery SET state = 'pending', next_attempt_at = now(),
        failures = CASE WHEN :afresh THEN 0 ELSE failures END,
        deaths = CASE WHEN :afresh THEN 0 ELSE deaths END,
        error_message = CASE WHEN :afresh THEN NULL ELSE error_message END,
        remote = CASE WHEN :recreate THEN '{}' ELSE remote END
    WHERE id = ANY(:deliveries) AND (:recreate OR state <> 'succeeded')
""")
_SET_WAITS = text("""
    UPDATE delivery SET waits_for = changed.waits_for
    FROM unnest(CAST(:ids AS int[]), CAST(:waits AS text[])) AS changed (id, waits_for)
    WHERE delivery.id = changed.id AND delivery.waits_for <> changed.waits_for
""")
_SKIP = text("""
    UPDATE delivery SET state = 'skipped', error_message = unwanted.reason
    FROM unnest(CAST(:ids AS int[]), CAST(:reasons AS text[])) AS unwanted (id, reason)
    WHERE delivery.id = unwanted.id AND delivery.state IN ('pending', 'retrying')
""")
_ABANDON = text("""
    UPDATE delivery SET state = 'failed', error_message = :reason, input_fingerprint = NULL
    WHERE id = :delivery AND state IN ('pending', 'retrying', 'failed')
""")
_ALLOW = text("SELECT set_config('statement_timeout', :within, true)")  # for this transaction
_RESTORED = text("INSERT INTO restore (restored_at) VALUES (now()) ON CONFLICT DO NOTHING")
_LOOK_UP_ALL = text("UPDATE delivery SET look_up_first = true")
_UNFINISHED = text("SELECT count(*) FROM delivery WHERE state IN ('pending', 'retrying')")
_REMOTE = text("SELECT remote FROM delivery WHERE id = :delivery")
_WITHOUT = text("""
    SELECT id FROM record
    WHERE NOT EXISTS (SELECT FROM delivery WHERE delivery.record_id = record.id AND destination = :destination)
    ORDER BY id
""")
_TO_RETRY = text("""
    SELECT DISTINCT delivery.record_id FROM delivery JOIN record ON record.id = delivery.record_id
    WHERE delivery.state = ANY(:states) AND (delivery.state <> 'skipped' OR cardinality(delivery.requires) > 0)
        AND (CAST(:destination AS text) IS NULL OR delivery.destination = :destination)
        AND (CAST(:sessions AS text[]) IS NULL OR record.session_identifier = ANY(:sessions))
    ORDER BY delivery.record_id
""")


def of_records(connection: Connection, record_ids: Collection[int]) -> list[RecordDeliveries]:
    """Those records with all their deliveries, the highest priority first."""
    if not record_ids:
        return []
    rows: dict[int, list[DeliveryRow]] = {}
    records: dict[int, tuple[Strategy, str, str]] = {}
    for row in connection.execute(_OF_RECORDS, {"records": list(record_ids)}).mappings():
        records[row["of_record"]] = (Strategy(row["strategy"]), row["sha256"], row["session_identifier"])
        found = rows.setdefault(row["of_record"], [])
        if row["id"] is not None:
            found.append(delivery_row(row))
    return [
        RecordDeliveries(record_id, strategy, tuple(rows[record_id]), sha256, session)
        for record_id, (strategy, sha256, session) in records.items()
    ]


def of_record(connection: Connection, record_id: int) -> RecordDeliveries:
    """One record with all its deliveries, the highest priority first."""
    return of_records(connection, [record_id])[0]


def clock(connection: Connection) -> datetime:
    """The time as PostgreSQL has it, the same in all of a transaction."""
    now: datetime = connection.execute(_CLOCK).scalar_one()
    return now


def remote_of(connection: Connection, delivery_id: int) -> dict[str, dict[str, Any]]:
    """What is known of the delivery's remote objects, by step.

    Of a step: "id", "content" (a fingerprint), "unresolved_until" while the outcome of its creating call is unknown.
    """
    return dict(connection.execute(_REMOTE, {"delivery": delivery_id}).scalar_one())


def skip(connection: Connection, reasons: dict[int, str]) -> None:
    """Skip deliveries that are not wanted any more, by their ids, each with its reason."""
    if reasons:
        connection.execute(_SKIP, {"ids": list(reasons), "reasons": list(reasons.values())})


def set_waits(connection: Connection, waits_for: dict[int, str]) -> None:
    """Store what deliveries wait for, by their ids."""
    if waits_for:
        connection.execute(_SET_WAITS, {"ids": list(waits_for), "waits": list(waits_for.values())})


def make_due(
    connection: Connection, delivery_ids: Collection[int], *, afresh: bool = False, recreate: bool = False
) -> None:
    """Have deliveries attempted again. `afresh` forgets their failures, `recreate` also what they have created.

    One that an attempt has brought to success meanwhile is left alone, except with `recreate`.
    """
    if delivery_ids:
        parameters = {"deliveries": list(delivery_ids), "afresh": afresh, "recreate": recreate}
        connection.execute(_MAKE_DUE, parameters)


def abandon(connection: Connection, delivery_id: int, reason: str) -> None:
    """Fail a delivery whatever becomes of its inputs: without a fingerprint of them it is never outdated."""
    connection.execute(_ABANDON, {"delivery": delivery_id, "reason": reason})


def restored(connection: Connection) -> int:
    """After a restore, every delivery looks up its objects before it creates any; how many are not final."""
    connection.execute(_ALLOW, {"within": RESTORED_WITHIN})
    connection.execute(_RESTORED)
    connection.execute(_LOOK_UP_ALL)
    return int(connection.execute(_UNFINISHED).scalar_one())


def records_without(connection: Connection, destination: str) -> list[int]:
    """The records that were never meant for the destination, oldest first."""
    return list(connection.execute(_WITHOUT, {"destination": destination}).scalars())


def records_to_retry(
    connection: Connection,
    states: Collection[DeliveryState],
    identifiers: Sequence[str] | None,
    destination: str | None,
) -> list[int]:
    """The records of those sessions, or of all, with a delivery in such a state, oldest first.

    Of what was skipped only what requires another delivery counts: that one may have succeeded since.
    """
    parameters = {
        "states": [state.value for state in states],
        "sessions": None if identifiers is None else list(identifiers),
        "destination": destination,
    }
    return list(connection.execute(_TO_RETRY, parameters).scalars())
