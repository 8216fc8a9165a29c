"""Makes the sessions of a file known, with what is said about them: `nexus-tasks sessions import` calls it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from nexus_tasks.builder.session_details import SessionDetails, SessionDetailsError
from nexus_tasks.cli.output import CommandError
from nexus_tasks.cli.session_files import SessionInFile
from nexus_tasks.cli.times import moment
from nexus_tasks.db import sessions
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.states import SessionStatus


@dataclass(frozen=True)
class Imported:
    """The identifiers of the sessions in a file, by what became of them."""

    added: tuple[str, ...]
    described: tuple[str, ...]  # known before, details changed
    unchanged: tuple[str, ...]
    to_rebuild: tuple[str, ...]  # of those described: a record without the changes exists


def import_sessions(connection: Connection, rows: Sequence[SessionInFile]) -> Imported:
    """Add the sessions that are not known yet, and bring the details of all up to date.

    What a row does not say stays as it is, so the same file again changes nothing. Raises `CommandError` for the first
    row that cannot be taken: the caller's transaction must then be rolled back.
    """
    sessions.add_one_at_a_time(connection)
    identifiers = [row.session for row in rows]
    known = {session.session_identifier: session for session in sessions.sessions(connection, identifiers)}
    instruments = {instrument.instrument_pid: instrument for instrument in sessions.instruments(connection)}
    stored = sessions.details(connection, identifiers)
    added, described, unchanged, to_rebuild = list[str](), list[str](), list[str](), list[str]()
    for row in rows:
        session = known.get(row.session)
        if session is None:
            sessions.add_session(connection, _new(row, instruments))
            added.append(row.session)
        else:
            _check_the_same(row, session, instruments)
        before = stored.get(row.session, {})
        after = _details(row, before)
        if after != before:
            sessions.set_details(connection, row.session, after)
        if session is not None:
            (unchanged if after == before else described).append(row.session)
            if after != before and has_record(session):
                to_rebuild.append(row.session)
    return Imported(tuple(added), tuple(described), tuple(unchanged), tuple(to_rebuild))


def has_record(session: SessionRow) -> bool:
    """Whether a record was built already, which does not say what is said from now on."""
    return session.status in {SessionStatus.BUILT_NOT_EXPORTED, SessionStatus.COMPLETED}


def _new(row: SessionInFile, instruments: dict[str, InstrumentRow]) -> SessionRow:
    needed = {"instrument": row.instrument, "start": row.start, "end": row.end}
    for name, value in needed.items():
        if value is None:
            raise row.wrong(name, f"is missing, and session {row.session} is not known yet")
    instrument = instruments.get(str(row.instrument))
    if instrument is None:
        raise row.wrong(
            "instrument", f"there is no instrument {row.instrument}, add it with `nexus-tasks instruments add`"
        )
    zone = ZoneInfo(instrument.timezone)
    start, end = (_moment(row, name, str(needed[name]), zone) for name in ("start", "end"))
    if end <= start:
        raise row.wrong("end", f"session {row.session} ends before it starts")
    return SessionRow(row.session, instrument.instrument_pid, start, end, row.user, SessionStatus.TO_BE_BUILT)


def _check_the_same(row: SessionInFile, session: SessionRow, instruments: dict[str, InstrumentRow]) -> None:
    """A session's events are facts: a file that says something else is about another session, or wrong."""
    zone = ZoneInfo(instruments[session.instrument_pid].timezone)
    said: dict[str, Any] = {
        "instrument": (row.instrument, session.instrument_pid),
        "start": (row.start and _moment(row, "start", row.start, zone), session.start),
        "end": (row.end and _moment(row, "end", row.end, zone), session.end),
        "user": (row.user, session.user),
    }
    for name, (here, there) in said.items():
        if here is not None and here != there:
            shown = there.astimezone(zone).isoformat() if name in {"start", "end"} and there else there
            raise row.wrong(name, f"session {row.session} is known with {shown}")


def _moment(row: SessionInFile, name: str, text: str, zone: ZoneInfo) -> Any:
    try:
        return moment(text, zone)
    except CommandError as error:
        raise row.wrong(name, str(error).rstrip(".")) from error


def _details(row: SessionInFile, before: dict[str, Any]) -> dict[str, Any]:
    try:
        return SessionDetails.changed(before, row.said).stored()
    except SessionDetailsError as error:
        raise row.wrong_detail(error) from error
