"""Reads NexusLIMS's SQLite database, of every version from 1.4 on; `nexuslims_import` takes over what it finds.

The file is opened read only. Rows that make no sense are left out one by one, each with a reason; a file that is no
NexusLIMS database, or one of a version that is not known here, is refused as a whole.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from nexus_tasks.plain_error import PlainError
from nexus_tasks.states import SessionStatus

# Of NexusLIMS's own migrations, as `alembic_version` names them; up to 2.3 there was none, or the first. Before its
# release 2.4, two of them had other names, and three before that.
KNOWN_REVISIONS = {"v1_4_3", "v2_4_0a", "v2_4_0b", "v2_5_0a", "v2_5_0b"} | {
    *("v2_4_0_1", "v2_4_0_2"),
    *("57f0798d0c6d", "0ea2bc3d2ebe", "2e1408e573b1"),
}
NEEDED_COLUMNS = {
    "instruments": {"instrument_pid", "api_url", "calendar_url", "location", "property_tag", "filestore_path"}
    | {"harvester", "timezone"},
    "session_log": {"session_identifier", "instrument", "timestamp", "event_type", "record_status", "user"},
}
UPLOAD_COLUMNS = {"session_identifier", "destination_name", "success", "timestamp", "record_id", "record_url"} | {
    "error_message",
    "metadata_json",
}
EVENT_TYPES = {"START", "END", "RECORD_GENERATION"}


class NexusLimsDatabaseError(PlainError):
    """The file cannot be taken over; the message says what it is instead, or what to do."""


@dataclass(frozen=True)
class Instrument:
    """A microscope, as NexusLIMS knows it; `filestore_path` is relative to the root of the instruments' data."""

    instrument_pid: str
    api_url: str | None
    calendar_url: str | None
    location: str | None
    display_name: str | None
    property_tag: str | None
    filestore_path: str | None
    harvester: str | None
    timezone: str


@dataclass(frozen=True)
class Event:
    """A row of `session_log`; the moment keeps the offset that NexusLIMS wrote."""

    event_type: str
    moment: datetime
    user: str | None


@dataclass(frozen=True)
class Session:
    """One use of an instrument, its events by time."""

    session_identifier: str
    instrument_pid: str
    status: SessionStatus
    events: tuple[Event, ...]

    @property
    def start(self) -> datetime | None:
        """When it began."""
        return min((event.moment for event in self.events if event.event_type == "START"), default=None)

    @property
    def end(self) -> datetime | None:
        """When it ended."""
        return max((event.moment for event in self.events if event.event_type == "END"), default=None)

    @property
    def user(self) -> str | None:
        """Who used the instrument; what a record generation says is the builder's name."""
        return next((event.user for event in self.events if event.event_type != "RECORD_GENERATION"), None)


@dataclass(frozen=True)
class Upload:
    """A row of `upload_log`."""

    session_identifier: str
    destination: str
    success: bool
    moment: datetime
    record_id: str | None
    record_url: str | None
    error_message: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Skipped:
    """What is not taken over, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class NexusLimsDatabase:
    """All that is taken over of a file, oldest first."""

    instruments: tuple[Instrument, ...]
    sessions: tuple[Session, ...]
    uploads: tuple[Upload, ...]
    skipped: tuple[Skipped, ...]


def read(file: Path) -> NexusLimsDatabase:
    """Everything in the file that can be taken over. Raises `NexusLimsDatabaseError`."""
    with _opened(file) as connection:
        tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        _check(connection, file, tables)
        skipped: list[Skipped] = []
        instruments = {row.instrument_pid: row for row in _instruments(connection, skipped)}
        sessions = {row.session_identifier: row for row in _sessions(connection, instruments, skipped)}
        uploads = tuple(_uploads(connection, sessions, instruments, skipped)) if "upload_log" in tables else ()
        if "external_user_identifiers" in tables:
            [count] = connection.execute("SELECT count(*) FROM external_user_identifiers").fetchone()
            if count:
                skipped.append(Skipped(f"{count} external user identifiers", "Nothing uses them here."))
    return NexusLimsDatabase(tuple(instruments.values()), tuple(sessions.values()), uploads, tuple(skipped))


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    if not file.is_file():
        raise NexusLimsDatabaseError(f"There is no file {file}: NX_DB_PATH in NexusLIMS's settings names its database.")
    try:
        # read only also where a NexusLIMS that still runs writes to it
        with closing(sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN")  # all tables as of one moment
            yield connection
    except sqlite3.DatabaseError as error:
        raise NexusLimsDatabaseError(f"{file} cannot be read as an SQLite database: {error}.") from error


def _check(connection: sqlite3.Connection, file: Path, tables: set[str]) -> None:
    needed = dict(NEEDED_COLUMNS)
    if "upload_log" in tables:
        needed["upload_log"] = UPLOAD_COLUMNS
    if "alembic_version" in tables:
        for (revision,) in connection.execute("SELECT version_num FROM alembic_version"):
            if revision not in KNOWN_REVISIONS:
                raise NexusLimsDatabaseError(
                    f"{file} is at revision {revision}, which this version does not know: it is that of a newer "
                    "NexusLIMS. Install a newer nexus-tasks."
                )
    for table, columns in needed.items():
        missing = columns - _columns(connection, table)
        if missing:
            raise NexusLimsDatabaseError(
                f"{file} is no NexusLIMS database of version 1.4 or newer: its table {table} "
                + (f"has no column {', '.join(sorted(missing))}." if table in tables else "is missing.")
            )


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row["name"] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}


# --- rows


def _instruments(connection: sqlite3.Connection, skipped: list[Skipped]) -> Iterator[Instrument]:
    for row in connection.execute("SELECT * FROM instruments ORDER BY instrument_pid"):
        columns = row.keys()
        display_name = next((row[name] for name in ("display_name", "schema_name") if name in columns), None)
        try:
            ZoneInfo(row["timezone"])
        except (ZoneInfoNotFoundError, ValueError, TypeError):
            skipped.append(
                Skipped(f"instrument {row['instrument_pid']}", f"There is no time zone {row['timezone']!r}.")
            )
            continue
        yield Instrument(
            instrument_pid=row["instrument_pid"],
            api_url=row["api_url"],
            calendar_url=row["calendar_url"],
            location=row["location"],
            display_name=display_name,
            property_tag=row["property_tag"],
            filestore_path=_inside(row["filestore_path"]),
            harvester=row["harvester"],
            timezone=row["timezone"],
        )


def _inside(path: str | None) -> str | None:
    """The folder relative to the root of the instruments' data; none if it leads out: then others build its records."""
    relative = PurePosixPath((path or "").lstrip("/"))
    return None if not path or ".." in relative.parts else str(relative)


def _sessions(
    connection: sqlite3.Connection, instruments: dict[str, Instrument], skipped: list[Skipped]
) -> Iterator[Session]:
    by_session: dict[str, list[sqlite3.Row]] = defaultdict(list)
    for row in connection.execute("SELECT * FROM session_log ORDER BY id_session_log"):
        by_session[row["session_identifier"]].append(row)
    found = []
    for identifier, rows in by_session.items():
        try:
            found.append(_session(identifier, rows, instruments))
        except ValueError as error:
            skipped.append(Skipped(f"session {identifier}", str(error)))
    yield from sorted(found, key=lambda session: (session.events[0].moment, session.session_identifier))


def _session(identifier: str, rows: list[sqlite3.Row], instruments: dict[str, Instrument]) -> Session:
    """Raises `ValueError`, whose text is a sentence."""
    pids = {row["instrument"] for row in rows}
    if len(pids) > 1:
        raise ValueError(f"Its rows name several instruments: {', '.join(sorted(pids))}.")
    [pid] = pids
    if pid not in instruments:
        raise ValueError(f"Its instrument {pid} is not taken over.")
    zone = ZoneInfo(instruments[pid].timezone)
    events = []
    for row in rows:
        if row["event_type"] not in EVENT_TYPES:
            raise ValueError(f"There is no event {row['event_type']!r}.")
        events.append(Event(row["event_type"], _moment(row["timestamp"], zone), row["user"]))
    # a record generation that was broken off leaves a status of its own behind: the session's is that of its end
    deciding = [row for row in rows if row["event_type"] != "RECORD_GENERATION"] or rows
    try:
        status = SessionStatus(deciding[-1]["record_status"])
    except ValueError:
        raise ValueError(f"There is no status {deciding[-1]['record_status']!r}.") from None
    return Session(identifier, pid, status, tuple(sorted(events, key=lambda event: event.moment)))


def _uploads(
    connection: sqlite3.Connection,
    sessions: dict[str, Session],
    instruments: dict[str, Instrument],
    skipped: list[Skipped],
) -> Iterator[Upload]:
    for row in connection.execute("SELECT * FROM upload_log ORDER BY id"):
        session = sessions.get(row["session_identifier"])
        what = f"upload of session {row['session_identifier']} to {row['destination_name']}"
        if session is None:
            skipped.append(Skipped(what, "Its session is not taken over."))
            continue
        try:
            moment = _moment(row["timestamp"], ZoneInfo(instruments[session.instrument_pid].timezone))
        except ValueError as error:
            skipped.append(Skipped(what, str(error)))
            continue
        yield Upload(
            session_identifier=row["session_identifier"],
            destination=row["destination_name"],
            success=bool(row["success"]),
            moment=moment,
            record_id=row["record_id"],
            record_url=row["record_url"],
            error_message=row["error_message"],
            metadata=_metadata(row["metadata_json"]),
        )


def _moment(text: Any, zone: ZoneInfo) -> datetime:
    """A time as NexusLIMS writes it: ISO 8601, in the instrument's zone if it names none. Raises `ValueError`."""
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise ValueError(f"{text!r} is not a time.") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)


def _metadata(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    try:
        parsed = json.loads(text)
    except ValueError:
        return {"text": text}
    return parsed if isinstance(parsed, dict) else {"value": parsed}
