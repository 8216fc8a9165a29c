"""Queries about instruments and sessions: the builder's work list, its claims, and the session's status."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from nexus_tasks.db.among import among
from nexus_tasks.db.models import BuildClaim, Instrument, SessionDetail, SessionLog
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.states import SessionStatus

ADDING_LOCK = 0x73657373696F6E  # an advisory lock: nothing in the tables stops two from adding the same session

# statuses from which a session can be built again
BUILT_BEFORE = {
    SessionStatus.TO_BE_BUILT,
    SessionStatus.NO_FILES_FOUND,
    SessionStatus.ERROR,
    SessionStatus.BUILT_NOT_EXPORTED,
    SessionStatus.COMPLETED,
}


def add_instrument(connection: Connection, row: InstrumentRow, *, only: Collection[str] | None = None) -> bool:
    """Insert the instrument, or bring the one of that pid up to date; True when it is new.

    With `only`, a known one takes over these of the row's fields and keeps the others.
    """
    values = asdict(row)
    known = get_instrument(connection, row.instrument_pid) is not None
    changed = values if only is None else {name: values[name] for name in ("instrument_pid", *only)}
    statement = insert(Instrument).values(values)
    connection.execute(statement.on_conflict_do_update(index_elements=[Instrument.instrument_pid], set_=changed))
    return not known


def instruments(connection: Connection) -> list[InstrumentRow]:
    """Every instrument, by pid."""
    return [InstrumentRow(*row) for row in connection.execute(_INSTRUMENTS.order_by(Instrument.instrument_pid))]


def get_instrument(connection: Connection, instrument_pid: str) -> InstrumentRow | None:
    """The instrument of that pid."""
    row = connection.execute(_INSTRUMENTS.where(Instrument.instrument_pid == instrument_pid)).one_or_none()
    return InstrumentRow(*row) if row else None


def add_one_at_a_time(connection: Connection) -> None:
    """Until the end of the transaction nobody else who asks for this adds sessions: look, then add."""
    connection.execute(select(func.pg_advisory_xact_lock(ADDING_LOCK)))


def add_session(connection: Connection, session: SessionRow) -> None:
    """Insert the START and END events of a session that is not known yet."""
    events = [("START", session.start), ("END", session.end)]
    connection.execute(
        insert(SessionLog),
        [
            {
                "session_identifier": session.session_identifier,
                "instrument": session.instrument_pid,
                "timestamp": moment,
                "event_type": event_type,
                "record_status": session.status,
                "user": session.user,
            }
            for event_type, moment in events
            if moment is not None
        ],
    )


def sessions(connection: Connection, identifiers: Sequence[str] | None = None) -> list[SessionRow]:
    """The sessions of those identifiers, or all, by start time."""
    start = func.min(SessionLog.timestamp).filter(SessionLog.event_type == "START")
    end = func.max(SessionLog.timestamp).filter(SessionLog.event_type == "END")
    statement = select(
        SessionLog.session_identifier,
        func.min(SessionLog.instrument),
        start,
        end,
        func.max(SessionLog.user),
        func.max(SessionLog.record_status),  # the same in every row of a session: see set_status
    ).group_by(SessionLog.session_identifier)
    if identifiers is not None:
        statement = statement.where(among(SessionLog.session_identifier, identifiers))
    rows = connection.execute(statement.order_by(start, SessionLog.session_identifier))
    return [
        SessionRow(row[0], row[1], start=row[2], end=row[3], user=row[4], status=SessionStatus(row[5])) for row in rows
    ]


def details(connection: Connection, identifiers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What is said about each of those sessions, where something is."""
    statement = select(SessionDetail.session_identifier, SessionDetail.details)
    rows = connection.execute(statement.where(among(SessionDetail.session_identifier, identifiers)))
    return {row.session_identifier: row.details for row in rows}


def set_details(connection: Connection, identifier: str, said: dict[str, Any]) -> None:
    """Keep what is said about a session, instead of what was said before."""
    statement = insert(SessionDetail).values(session_identifier=identifier, details=said)
    connection.execute(
        statement.on_conflict_do_update(index_elements=[SessionDetail.session_identifier], set_={"details": said})
    )


def claim(
    connection: Connection,
    identifiers: Sequence[str] | None,
    lease: timedelta,
    *,
    passed_over: Collection[str] = (),
    rebuild: bool = False,
) -> tuple[SessionRow, UUID] | None:
    """Take one `TO_BE_BUILT` session that no other builder holds, oldest first; None when there is none.

    With `rebuild` also one that was built before. The claim lasts for `lease` unless it is renewed; a builder that died
    is so replaced by the next one.
    """
    to_build = BUILT_BEFORE if rebuild else {SessionStatus.TO_BE_BUILT}
    held = select(BuildClaim.session_identifier).where(BuildClaim.expires_at > func.now())
    candidates = (
        select(SessionLog.session_identifier)
        .where(
            SessionLog.record_status.in_(to_build),
            SessionLog.session_identifier.not_in(held),
            SessionLog.session_identifier.not_in(passed_over),
        )
        .group_by(SessionLog.session_identifier)
        .order_by(func.min(SessionLog.timestamp), SessionLog.session_identifier)
        .limit(1)
    )
    if identifiers is not None:
        candidates = candidates.where(among(SessionLog.session_identifier, identifiers))
    token = uuid4()
    while (identifier := connection.execute(candidates).scalar_one_or_none()) is not None:
        if not _take(connection, identifier, token, lease):
            continue  # another builder was faster; its claim is visible now
        [session] = sessions(connection, [identifier])
        if session.status in to_build:
            return session, token
        release(connection, identifier, token)  # another builder has finished it between the two statements
    return None


def _take(connection: Connection, identifier: str, token: UUID, lease: timedelta) -> bool:
    statement = insert(BuildClaim).values(
        session_identifier=identifier, token=token, expires_at=func.now() + literal(lease)
    )
    taken = connection.execute(
        statement.on_conflict_do_update(
            index_elements=[BuildClaim.session_identifier],
            set_={"token": token, "expires_at": statement.excluded.expires_at},
            where=BuildClaim.expires_at <= func.now(),
        ).returning(BuildClaim.session_identifier)
    )
    return taken.one_or_none() is not None


def renew(connection: Connection, identifier: str, token: UUID, lease: timedelta) -> bool:
    """Hold a claim for another `lease`; False when it is no longer held."""
    statement = (
        update(BuildClaim)
        .where(BuildClaim.session_identifier == identifier, BuildClaim.token == token)
        .values(expires_at=func.now() + literal(lease))
        .returning(BuildClaim.session_identifier)
    )
    return connection.execute(statement).one_or_none() is not None


def release(connection: Connection, identifier: str, token: UUID) -> bool:
    """Give a claim back; False when another builder holds it by now, and what was built must be dropped."""
    statement = (
        delete(BuildClaim)
        .where(BuildClaim.session_identifier == identifier, BuildClaim.token == token)
        .returning(BuildClaim.session_identifier)
    )
    return connection.execute(statement).one_or_none() is not None


def set_status(connection: Connection, identifier: str, status: SessionStatus) -> bool:
    """Give every row of the session this status; `COMPLETED` is never taken back. True when something changed."""
    statement = (
        update(SessionLog)
        .where(
            SessionLog.session_identifier == identifier,
            SessionLog.record_status != status,
            SessionLog.record_status != SessionStatus.COMPLETED,
        )
        .values(record_status=status)
    )
    return connection.execute(statement).rowcount > 0


_INSTRUMENTS = select(
    Instrument.instrument_pid,
    Instrument.display_name,
    Instrument.location,
    Instrument.filestore_path,
    Instrument.timezone,
    Instrument.clock_offset_s,
)
