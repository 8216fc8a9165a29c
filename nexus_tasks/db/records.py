"""Queries about records: the document of a session, and which ones may be archived."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_changed
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from sqlalchemy import Connection, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert

from nexus_tasks.db.among import among
from nexus_tasks.db.models import Delivery, Record, SessionLog
from nexus_tasks.db.rows import RecordRow
from nexus_tasks.states import DeliveryState, SessionStatus, Strategy

_QUOTED = "quoted"  # stands in an activity whose paths are quoted


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

    def values(self) -> dict[str, Any]:
        """The columns that hold it."""
        return {**vars(self), "activities": [_as_stored(activity) for activity in self.activities]}


def add(
    connection: Connection, session_identifier: str, instrument_pid: str, built: BuiltRecord, strategy: Strategy
) -> int | None:
    """Insert the record of a session and return its id; None when the session has one already."""
    statement = insert(Record).values(
        session_identifier=session_identifier, instrument_pid=instrument_pid, strategy=strategy, **built.values()
    )
    return connection.execute(
        statement.on_conflict_do_nothing(index_elements=[Record.session_identifier]).returning(Record.id)
    ).scalar_one_or_none()


def replace(connection: Connection, record_id: int, built: BuiltRecord) -> None:
    """Point the record to another document, with what is known of its session now: it was rebuilt."""
    connection.execute(update(Record).where(Record.id == record_id).values(archived_at=None, **built.values()))


def of_session(connection: Connection, session_identifier: str) -> RecordRow | None:
    """The record of a session."""
    row = connection.execute(_RECORDS.where(Record.session_identifier == session_identifier)).one_or_none()
    return _row(row) if row else None


def lock_of_session(connection: Connection, session_identifier: str) -> RecordRow:
    """The record of a session that has one, locked until the end of the transaction."""
    statement = _RECORDS.where(Record.session_identifier == session_identifier).with_for_update(key_share=True)
    return _row(connection.execute(statement).one())


def get(connection: Connection, record_id: int) -> RecordRow:
    """The record of that id."""
    return _row(connection.execute(_RECORDS.where(Record.id == record_id)).one())


def of_sessions(connection: Connection, identifiers: Sequence[str] | None = None) -> list[RecordRow]:
    """The records of those sessions, or all."""
    statement = _RECORDS.order_by(Record.dt_from, Record.id)
    if identifiers is not None:
        statement = statement.where(among(Record.session_identifier, identifiers))
    return [_row(row) for row in connection.execute(statement)]


def lock(connection: Connection, record_id: int) -> RecordRow:
    """The record, locked until the end of the transaction: verdicts about it are made one after the other."""
    return _row(connection.execute(_RECORDS.where(Record.id == record_id).with_for_update(key_share=True)).one())


def lock_all(connection: Connection, record_ids: Collection[int]) -> None:
    """As `lock`, for several records."""
    statement = select(Record.id).where(among(Record.id, record_ids)).order_by(Record.id)
    connection.execute(statement.with_for_update(key_share=True))


def archivable(
    connection: Connection, *, record_id: int | None = None, after: int = 0, limit: int | None = None
) -> list[RecordRow]:
    """The next records behind `after`, by id, that are settled, of a completed session and not archived yet; locked.

    With `record_id` only that one. Those that others are at now are left out.
    """
    unsettled = select(Delivery.id).where(
        Delivery.record_id == Record.id, Delivery.state.in_((DeliveryState.PENDING, DeliveryState.WAITING))
    )
    completed = select(SessionLog.id_session_log).where(
        SessionLog.session_identifier == Record.session_identifier,
        SessionLog.record_status == SessionStatus.COMPLETED,
    )
    which = Record.id > after if record_id is None else Record.id == record_id
    statement = (
        _RECORDS.where(which, Record.archived_at.is_(None), ~unsettled.exists(), completed.exists())
        .order_by(Record.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [_row(row) for row in connection.execute(statement)]


def archived(connection: Connection, record_id: int) -> None:
    """Note that the document stands in the archive."""
    connection.execute(update(Record).where(Record.id == record_id).values(archived_at=func.now()))


def stands(connection: Connection, session_identifier: str) -> bool:
    """Whether the session's status is that of a record: a build that fails changes nothing then."""
    statement = select(
        exists().where(
            Record.session_identifier == session_identifier,
            SessionLog.session_identifier == Record.session_identifier,
            SessionLog.record_status != SessionStatus.TO_BE_BUILT,
        )
    )
    return bool(connection.execute(statement).scalar_one())


def _row(row: Sequence[Any]) -> RecordRow:
    record = RecordRow(*row)
    return with_changed(record, activities=[_as_named(activity) for activity in record.activities])


def _as_stored(activity: dict[str, Any]) -> dict[str, Any]:
    """The activity as JSON can hold it: its paths percent-quoted byte for byte where one of them is no text."""
    try:
        "".join(filter(None, [*activity["files"], *activity["previews"]])).encode()
    except UnicodeEncodeError:
        return {**_with_each(activity, lambda path: quote(os.fsencode(path), safe="/")), _QUOTED: True}
    return activity


def _as_named(activity: dict[str, Any]) -> dict[str, Any]:
    if _QUOTED not in activity:
        return activity
    return _with_each(activity, lambda path: os.fsdecode(unquote_to_bytes(path)))


def _with_each(activity: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    return {part: [path and change(path) for path in activity[part]] for part in ("files", "previews")}


_RECORDS = select(
    Record.id,
    Record.session_identifier,
    Record.instrument_pid,
    Record.dt_from,
    Record.dt_to,
    Record.timezone,
    Record.user,
    Record.document,
    Record.sha256,
    Record.activities,
    Record.strategy,
    Record.created_at,
    Record.archived_at,
)
