"""The statements about records: the document of a session, and which ones may be archived."""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, text

from nexus_tasks.db.columns import record_row
from nexus_tasks.db.rows import RecordRow

_ALL = text("SELECT * FROM record ORDER BY dt_from, id")
_OF_SESSIONS = text("SELECT * FROM record WHERE session_identifier = ANY(:sessions) ORDER BY dt_from, id")
_LOCK_OF_SESSION = text("SELECT * FROM record WHERE session_identifier = :session FOR NO KEY UPDATE")
_LOCK_ALL = text("SELECT 1 FROM record WHERE id = ANY(:records) ORDER BY id FOR NO KEY UPDATE")
_ARCHIVABLE = text("""
    SELECT * FROM record
    WHERE id > :after AND archived_at IS NULL
        AND NOT EXISTS (
            SELECT FROM delivery WHERE delivery.record_id = record.id AND delivery.state IN ('pending', 'retrying')
        )
        AND EXISTS (
            SELECT FROM session_log
            WHERE session_log.session_identifier = record.session_identifier AND record_status = 'COMPLETED'
        )
    ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
""")
_ARCHIVED = text("UPDATE record SET archived_at = now() WHERE id = :record")
_STANDS = text("""
    SELECT EXISTS (
        SELECT FROM record JOIN session_log ON session_log.session_identifier = record.session_identifier
        WHERE record.session_identifier = :session AND record_status <> 'TO_BE_BUILT'
    )
""")


def of_session(connection: Connection, session_identifier: str) -> RecordRow | None:
    """The record of a session."""
    return next(iter(of_sessions(connection, [session_identifier])), None)


def lock_of_session(connection: Connection, session_identifier: str) -> RecordRow:
    """The record of a session that has one, locked until the end of the transaction."""
    return record_row(connection.execute(_LOCK_OF_SESSION, {"session": session_identifier}).mappings().one())


def of_sessions(connection: Connection, identifiers: Sequence[str] | None = None) -> list[RecordRow]:
    """The records of those sessions, or all."""
    if identifiers is None:
        found = connection.execute(_ALL)
    else:
        found = connection.execute(_OF_SESSIONS, {"sessions": list(identifiers)})
    return [record_row(row) for row in found.mappings()]


def lock_all(connection: Connection, record_ids: Collection[int]) -> None:
    """Lock several records until the end of the transaction, as reconcile locks one."""
    connection.execute(_LOCK_ALL, {"records": list(record_ids)})


def archivable(connection: Connection, *, after: int, limit: int) -> list[RecordRow]:
    """The next records behind `after`, by id, that are final, of a completed session and not archived yet; locked.

    Those that others are at now are left out.
    """
    found = connection.execute(_ARCHIVABLE, {"after": after, "limit": limit})
    return [record_row(row) for row in found.mappings()]


def archived(connection: Connection, record_id: int) -> None:
    """Write that the document stands in the archive."""
    connection.execute(_ARCHIVED, {"record": record_id})


def stands(connection: Connection, session_identifier: str) -> bool:
    """Whether the session's status is that of a record: a build that fails changes nothing then."""
    return bool(connection.execute(_STANDS, {"session": session_identifier}).scalar_one())
