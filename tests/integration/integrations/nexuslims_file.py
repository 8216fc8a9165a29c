"""Makes NexusLIMS databases: of the schema before its upload log (1.4) and of the newest (2.5).

The statements say what NexusLIMS's own migrations lead to; `tests/live` takes over one that NexusLIMS itself has made.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

EVENTS = """
CREATE TABLE session_log (id_session_log INTEGER PRIMARY KEY, session_identifier VARCHAR(36) NOT NULL,
    instrument VARCHAR(100) NOT NULL, timestamp VARCHAR NOT NULL, event_type VARCHAR NOT NULL,
    record_status VARCHAR NOT NULL, user VARCHAR(50));
"""
OLD = (
    """
CREATE TABLE instruments (instrument_pid VARCHAR(100) PRIMARY KEY, api_url VARCHAR NOT NULL,
    calendar_name VARCHAR NOT NULL, calendar_url VARCHAR NOT NULL, location VARCHAR(100) NOT NULL,
    schema_name VARCHAR NOT NULL, property_tag VARCHAR(20) NOT NULL, filestore_path VARCHAR NOT NULL,
    harvester VARCHAR NOT NULL, timezone VARCHAR NOT NULL, computer_name VARCHAR, computer_ip VARCHAR(15));
"""
    + EVENTS
)
NEW = (
    """
CREATE TABLE instruments (instrument_pid VARCHAR(100) PRIMARY KEY, api_url VARCHAR NOT NULL,
    calendar_url VARCHAR NOT NULL, location VARCHAR(100) NOT NULL, display_name VARCHAR NOT NULL,
    property_tag VARCHAR(20) NOT NULL, filestore_path VARCHAR NOT NULL, harvester VARCHAR NOT NULL,
    timezone VARCHAR NOT NULL);
CREATE TABLE upload_log (id INTEGER PRIMARY KEY, session_identifier VARCHAR(36) NOT NULL,
    destination_name VARCHAR(100) NOT NULL, success BOOLEAN NOT NULL, timestamp VARCHAR NOT NULL,
    record_id VARCHAR(255), record_url VARCHAR(500), error_message VARCHAR, metadata_json VARCHAR);
CREATE TABLE external_user_identifiers (id INTEGER PRIMARY KEY, nexuslims_username VARCHAR NOT NULL);
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL);
INSERT INTO alembic_version VALUES ('v2_5_0b');
"""
    + EVENTS
)
PID = "FEI-Titan-TEM-012345"


class NexusLimsFile:
    """A database with one instrument in New York."""

    def __init__(self, file: Path, schema: str = NEW) -> None:
        self.file = file
        self.do(*(statement for statement in schema.split(";") if statement.strip()))
        name = "display_name" if schema is NEW else "schema_name"
        values = {
            "instrument_pid": PID,
            "api_url": "https://nemo.example.org/api/tools/?id=1",
            "calendar_url": "https://nemo.example.org/calendar/titan/",
            "location": "Building 1",
            name: "FEI Titan TEM",
            "property_tag": "12345",
            "filestore_path": "./Titan_TEM",
            "harvester": "nemo",
            "timezone": "America/New_York",
            **({} if schema is NEW else {"calendar_name": "Titan"}),
        }
        self.insert("instruments", **values)

    def do(self, *statements: str, values: tuple[Any, ...] = ()) -> None:
        with closing(sqlite3.connect(self.file)) as connection, connection:
            for statement in statements:
                connection.execute(statement, values)

    def insert(self, table: str, **values: Any) -> None:
        columns = ", ".join(f'"{name}"' for name in values)
        places = ", ".join("?" * len(values))
        self.do(f"INSERT INTO {table} ({columns}) VALUES ({places})", values=tuple(values.values()))

    def add_event(
        self, session: str, event: str, moment: str, status: str, *, user: str = "ann", pid: str = PID
    ) -> None:
        self.insert(
            "session_log",
            session_identifier=session,
            instrument=pid,
            timestamp=moment,
            event_type=event,
            record_status=status,
            user=user,
        )

    def add_session(self, session: str, status: str, *, day: str = "2026-03-02", offset: str = "-05:00") -> None:
        self.add_event(session, "START", f"{day}T10:00:00{offset}", status)
        self.add_event(session, "END", f"{day}T12:30:00{offset}", status)

    def add_upload(self, session: str, destination: str, *, success: bool = True, **values: Any) -> None:
        usual = {"timestamp": "2026-03-04T08:00:00.123456"} | (
            {"record_id": "17", "record_url": f"https://{destination}.example.org/17"} if success else {}
        )
        self.insert(
            "upload_log",
            session_identifier=session,
            destination_name=destination,
            success=success,
            **{**usual, **values},
        )
