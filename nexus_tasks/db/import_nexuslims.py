"""Queries for taking over a NexusLIMS database: each adds what is missing, and changes nothing the second time."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, literal_column, select, union, update
from sqlalchemy.dialects.postgresql import insert

from nexus_tasks.db.handover import DestinationSnapshot
from nexus_tasks.db.models import Adoptable, BuildClaim, Delivery, Instrument, Record, Restore, SessionLog, UploadLog
from nexus_tasks.states import DeliveryState, SessionStatus


@dataclass(frozen=True, order=True)
class ImportedEvent:
    """A row of `session_log`."""

    timestamp: datetime
    event_type: str
    user: str | None


@dataclass(frozen=True)
class ImportedUpload:
    """A row of `upload_log` that no attempt of ours stands behind."""

    session_identifier: str
    destination_name: str
    success: int
    timestamp: datetime
    record_id: str | None
    record_url: str | None
    error_message: str | None
    metadata_json: dict[str, Any]

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes it the same row."""
        return (self.session_identifier, self.destination_name, self.success, self.timestamp, self.record_id)


@dataclass(frozen=True)
class ImportedDelivery:
    """What is known of one destination that another program has sent the record to."""

    destination: DestinationSnapshot
    upload: ImportedUpload  # the last success, or the last failure of one that never succeeded
    remote: dict[str, Any]  # step → what is known of its object


def add_instrument(connection: Connection, values: Mapping[str, Any]) -> bool:
    """Insert an instrument, or fill in what is not known of the one of that pid; True when it is new."""
    statement = insert(Instrument).values(**values)
    missing = {
        name: func.coalesce(getattr(Instrument, name), statement.excluded[name])
        for name in values
        if name not in {"instrument_pid", "timezone"}
    }
    new: bool = connection.execute(
        statement.on_conflict_do_update(index_elements=[Instrument.instrument_pid], set_=missing).returning(
            literal_column("xmax = 0")  # of a row that this statement has inserted
        )
    ).scalar_one()
    return new


def known_sessions(connection: Connection) -> dict[str, tuple[SessionStatus, str, list[ImportedEvent]]]:
    """Every session here: its status, instrument and events in order of time."""
    events: dict[str, list[ImportedEvent]] = defaultdict(list)
    about: dict[str, tuple[SessionStatus, str]] = {}
    for row in connection.execute(select(*SessionLog.__table__.columns)):
        events[row.session_identifier].append(ImportedEvent(row.timestamp, row.event_type, row.user))
        about[row.session_identifier] = (row.record_status, row.instrument)
    return {name: (*about[name], _in_order(found)) for name, found in events.items()}


def sessions_at_work(connection: Connection) -> set[str]:
    """The sessions that have a record here, or that a builder of ours has in its hands."""
    held = select(BuildClaim.session_identifier).where(BuildClaim.expires_at > func.now())
    return set(connection.execute(union(select(Record.session_identifier), held)).scalars())


def set_session(
    connection: Connection, identifier: str, instrument_pid: str, status: SessionStatus, events: list[ImportedEvent]
) -> None:
    """Have these events, and no others, as those of the session."""
    connection.execute(delete(SessionLog).where(SessionLog.session_identifier == identifier))
    rows = [
        {
            "session_identifier": identifier,
            "instrument": instrument_pid,
            "record_status": status,
            **asdict(event),
        }
        for event in _in_order(events)
    ]
    connection.execute(insert(SessionLog), rows)


def add_uploads(connection: Connection, uploads: Sequence[ImportedUpload]) -> int:
    """Add the rows that are not there yet; how many there were."""
    columns = (
        UploadLog.session_identifier,
        UploadLog.destination_name,
        UploadLog.success,
        UploadLog.timestamp,
        UploadLog.record_id,
    )
    there = {tuple(row) for row in connection.execute(select(*columns).where(UploadLog.attempt_id.is_(None)))}
    missing = {upload.key: upload for upload in uploads if upload.key not in there}
    if missing:
        connection.execute(insert(UploadLog), [asdict(upload) for upload in missing.values()])
    return len(missing)


def add_delivery(connection: Connection, record_id: int, delivery: ImportedDelivery) -> int:
    """Insert a final delivery; whatever it may do later, it looks over there before it creates anything."""
    snapshot, upload = delivery.destination, delivery.upload
    succeeded = bool(upload.success)
    statement = insert(Delivery).values(
        record_id=record_id,
        destination=snapshot.name,
        priority=snapshot.priority,
        depends_on=list(snapshot.depends_on),
        requires=list(snapshot.requires),
        updates=snapshot.updates,
        state=DeliveryState.SUCCEEDED if succeeded else DeliveryState.FAILED,
        error_message=None if succeeded else upload.error_message or "NexusLIMS could not export it.",
        remote=delivery.remote,
        look_up_first=True,
        remote_record_id=upload.record_id,
        remote_record_url=upload.record_url,
        remote_metadata=upload.metadata_json,
        succeeded_at=upload.timestamp if succeeded else None,
    )
    return connection.execute(statement.returning(Delivery.id)).scalar_one()


def set_adoptable(connection: Connection, session_identifier: str, remote: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep what was made of a session over there, by destination; a record that it gets some day begins with it."""
    rows = [
        {"session_identifier": session_identifier, "destination": destination, "remote": known}
        for destination, known in remote.items()
    ]
    if rows:
        statement = insert(Adoptable).values(rows)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[Adoptable.session_identifier, Adoptable.destination],
                set_={"remote": statement.excluded.remote},
            )
        )


def set_input_fingerprint(connection: Connection, delivery_id: int, fingerprint: str) -> None:
    """Take it that the delivery became final with the inputs of this fingerprint."""
    connection.execute(update(Delivery).where(Delivery.id == delivery_id).values(input_fingerprint=fingerprint))


def look_up_sessions_before(connection: Connection, moment: datetime) -> None:
    """As after a restore: whatever is sent later of a session before then may be over there, and is looked up first."""
    connection.execute(insert(Restore).values(restored_at=moment).on_conflict_do_nothing())


def _in_order(events: Sequence[ImportedEvent]) -> list[ImportedEvent]:
    return sorted(events, key=lambda event: (event.timestamp, event.event_type, event.user or ""))
