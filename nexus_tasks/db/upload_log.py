"""Queries about the upload log: what people, and the documentation's SQL, read."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Text, and_, case, func, literal, or_, select
from sqlalchemy.dialects.postgresql import insert

from nexus_tasks.db.among import among
from nexus_tasks.db.models import Attempt, Delivery, Run, UploadLog
from nexus_tasks.states import AttemptState


@dataclass(frozen=True)
class UploadLogRow:
    """One answer of one destination."""

    destination_name: str
    success: int
    timestamp: datetime
    error_message: str | None
    record_id: str | None
    record_url: str | None


def write_missing(connection: Connection, record_id: int, session_identifier: str) -> int:
    """Add a row for each ended attempt at the record that has none yet, and return how many; repeatable."""
    logged = [state for state in AttemptState if state.logged]
    succeeded = Attempt.state == AttemptState.SUCCEEDED
    missing = (
        select(
            literal(session_identifier, Text()),
            Delivery.destination,
            case((succeeded, 1), else_=0),
            Attempt.ended_at,
            Attempt.result["record_id"].astext,
            Attempt.result["record_url"].astext,
            Attempt.error_message,
            case((succeeded, Delivery.remote_metadata), else_=func.jsonb_build_object()),
            Attempt.id,
        )
        .join(Run, Run.id == Attempt.run_id)
        .join(Delivery, Delivery.id == Attempt.delivery_id)
        .where(Run.record_id == record_id, or_(Attempt.state.in_(logged), _GAVE_UP))
        .order_by(Attempt.ended_at, Attempt.id)
    )
    columns = [
        "session_identifier",
        "destination_name",
        "success",
        "timestamp",
        "record_id",
        "record_url",
        "error_message",
        "metadata_json",
        "attempt_id",
    ]
    statement = insert(UploadLog).from_select(columns, missing)
    added = statement.on_conflict_do_nothing(index_elements=[UploadLog.attempt_id]).returning(UploadLog.id)
    return len(connection.execute(added).all())


def answers_of_pruned_attempts(connection: Connection, identifiers: Collection[str]) -> dict[tuple[str, str], int]:
    """How many answers are logged of attempts that are not kept any more, by session and destination."""
    statement = (
        select(UploadLog.session_identifier, UploadLog.destination_name, func.count())
        .where(among(UploadLog.session_identifier, identifiers), UploadLog.attempt_id.is_(None))
        .group_by(UploadLog.session_identifier, UploadLog.destination_name)
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(statement)}


# a death is no answer, unless the delivery failed by it; only then it has a message
_GAVE_UP = and_(Attempt.state == AttemptState.DIED, Attempt.error_message.is_not(None))


def of_session(connection: Connection, session_identifier: str) -> list[UploadLogRow]:
    """The session's rows, newest first."""
    statement = (
        select(
            UploadLog.destination_name,
            UploadLog.success,
            UploadLog.timestamp,
            UploadLog.error_message,
            UploadLog.record_id,
            UploadLog.record_url,
        )
        .where(UploadLog.session_identifier == session_identifier)
        .order_by(UploadLog.timestamp.desc(), UploadLog.id.desc())
    )
    return [UploadLogRow(*row) for row in connection.execute(statement)]
