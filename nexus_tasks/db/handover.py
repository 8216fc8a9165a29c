"""The statements of the hand-over: a record with its deliveries and its session's status, in as few as can be."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import Connection, text

from nexus_tasks.db.columns import activity_as_stored
from nexus_tasks.states import SessionStatus, Strategy

_ADD = text("""
    WITH claim AS (
        DELETE FROM build_claim WHERE session_identifier = :session AND token = CAST(:claim AS uuid) RETURNING token
    ), added AS (
        INSERT INTO record (session_identifier, instrument_pid, strategy, dt_from, dt_to, timezone, "user", document,
            sha256, activities)
        VALUES (:session, :instrument, :strategy, :dt_from, :dt_to, :timezone, :user, :document, :sha256, :activities)
        ON CONFLICT (session_identifier) DO NOTHING
        RETURNING id
    )
    SELECT (SELECT id FROM added) AS record_id,
        :claim IS NULL OR EXISTS (SELECT FROM claim) AS claim_held,
        EXISTS (SELECT FROM instruments WHERE instrument_pid = :instrument) AS instrument_known,
        (SELECT min(instrument) FROM session_log WHERE session_identifier = :session) AS session_instrument,
        (SELECT max(record_status) FROM session_log WHERE session_identifier = :session) AS session_status
""")
_REPLACE = text("""
    UPDATE record SET dt_from = :dt_from, dt_to = :dt_to, timezone = :timezone, "user" = :user, document = :document,
        sha256 = :sha256, activities = :activities, archived_at = NULL
    WHERE id = :record
""")
# Where the database was restored since the session, the record may exist already: it is looked up before it is created.
# What another program is known to have made of the session is brought up to date instead of made again.
_ADD_DELIVERIES = text("""
    WITH snapshot AS (
        SELECT * FROM jsonb_to_recordset(:snapshot) AS snapshot (
            name text, priority int, depends_on text[], requires text[], updates bool, waits_for text,
            max_in_flight int
        )
    ), known AS (
        INSERT INTO destination (name, max_in_flight)
        SELECT name, max_in_flight FROM snapshot WHERE max_in_flight IS NOT NULL ORDER BY name ON CONFLICT DO NOTHING
    )
    INSERT INTO delivery (record_id, destination, priority, depends_on, requires, updates, waits_for, look_up_first,
        remote)
    SELECT record.id, snapshot.name, snapshot.priority, snapshot.depends_on, snapshot.requires, snapshot.updates,
        snapshot.waits_for, EXISTS (SELECT FROM restore WHERE restore.restored_at > record.dt_to),
        coalesce(adoptable.remote, '{}')
    FROM record CROSS JOIN snapshot
    LEFT JOIN adoptable
        ON adoptable.session_identifier = record.session_identifier AND adoptable.destination = snapshot.name
    WHERE record.id = ANY(:records)
    ORDER BY record.id, snapshot.priority DESC, snapshot.name
    ON CONFLICT (record_id, destination) DO NOTHING
    RETURNING record_id
""")
_GENERATED = text("""
    WITH changed AS (
        UPDATE session_log SET record_status = 'BUILT_NOT_EXPORTED'
        WHERE session_identifier = :session AND record_status NOT IN ('BUILT_NOT_EXPORTED', 'COMPLETED')
    )
    INSERT INTO session_log (session_identifier, instrument, timestamp, event_type, record_status, "user")
    SELECT :session, :instrument, event.timestamp, event.event_type, :status, :user
    FROM unnest(CAST(:moments AS timestamptz[]), CAST(:types AS text[])) AS event (timestamp, event_type)
""")


@dataclass(frozen=True)
class DestinationSnapshot:
    """What is written down about a destination when a record is handed over; later settings do not change it."""

    name: str
    priority: int
    depends_on: tuple[str, ...]
    requires: tuple[str, ...]
    updates: bool


@dataclass(frozen=True)
class BuiltRecord:
    """What a builder says of a record: a later one for the same session replaces all of it."""

    dt_from: datetime
    dt_to: datetime
    timezone: str
    user: str | None
    document: str
    sha256: str
    activities: list[dict[str, Any]]

    def parameters(self) -> dict[str, Any]:
        """The values of the columns that hold it."""
        activities = [activity_as_stored(activity) for activity in self.activities]
        return {**vars(self), "activities": Jsonb(activities)}


@dataclass(frozen=True)
class AddedRecord:
    """What was found when a record was to be added; `record_id` is None when the session has a record already."""

    record_id: int | None
    claim_held: bool  # by the builder that hands it over, where it named a claim; it is given back
    instrument_known: bool
    session_instrument: str | None  # None for a session without events
    session_status: SessionStatus | None


def add_record(
    connection: Connection,
    session_identifier: str,
    instrument_pid: str,
    built: BuiltRecord,
    strategy: Strategy,
    claim: UUID | None = None,
) -> AddedRecord:
    """Insert the record of a session, unless it has one, and give the builder's claim back.

    Whoever hands the same session over at this moment waits here until this transaction has ended.
    """
    row = connection.execute(
        _ADD,
        {
            "session": session_identifier,
            "instrument": instrument_pid,
            "strategy": strategy.value,
            "claim": claim,
            **built.parameters(),
        },
    ).one()
    status = row.session_status
    return AddedRecord(
        row.record_id,
        row.claim_held,
        row.instrument_known,
        row.session_instrument,
        None if status is None else SessionStatus(status),
    )


def replace_record(connection: Connection, record_id: int, built: BuiltRecord) -> None:
    """Point the record to another document, with what is known of its session now: it was rebuilt."""
    connection.execute(_REPLACE, {"record": record_id, **built.parameters()})


def add_deliveries(
    connection: Connection,
    record_ids: Collection[int],
    snapshot: Sequence[DestinationSnapshot],
    *,
    waits_for: dict[str, str] | None = None,
    max_in_flight: dict[str, int] | None = None,
) -> int:
    """Insert a pending delivery of each record for each destination, where there is none yet; how many.

    `waits_for`, by destination, is what a new record's deliveries wait for. `max_in_flight` makes the rows of
    destinations that have none.
    """
    rows = [
        {
            **vars(each),
            "waits_for": (waits_for or {}).get(each.name, ""),
            "max_in_flight": (max_in_flight or {}).get(each.name),
        }
        for each in snapshot
    ]
    if not rows:
        return 0
    added = connection.execute(_ADD_DELIVERIES, {"records": list(record_ids), "snapshot": Jsonb(rows, json.dumps)})
    return len(added.all())


def record_generated(
    connection: Connection,
    session_identifier: str,
    instrument_pid: str,
    user: str | None,
    events: Sequence[tuple[str, datetime]],
    status: SessionStatus,
) -> None:
    """Add these events of a session whose record was generated, and give its other events the status of one built."""
    connection.execute(
        _GENERATED,
        {
            "session": session_identifier,
            "instrument": instrument_pid,
            "user": user,
            "status": status.value,
            "moments": [moment for _, moment in events],
            "types": [event_type for event_type, _ in events],
        },
    )
