"""Queries about the upload log: what people, and the documentation's SQL, read."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from nexus_tasks.db.among import among
from nexus_tasks.db.models import UploadLog


@dataclass(frozen=True)
class UploadLogRow:
    """One answer of one destination."""

    destination_name: str
    success: int
    timestamp: datetime
    error_message: str | None
    record_id: str | None
    record_url: str | None


def answers_of_pruned_attempts(connection: Connection, identifiers: Collection[str]) -> dict[tuple[str, str], int]:
    """How many answers are logged of attempts that are not kept any more, by session and destination."""
    statement = (
        select(UploadLog.session_identifier, UploadLog.destination_name, func.count())
        .where(among(UploadLog.session_identifier, identifiers), UploadLog.attempt_id.is_(None))
        .group_by(UploadLog.session_identifier, UploadLog.destination_name)
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(statement)}


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
