"""Turns a folder of microscope files into instruments and sessions; the demo builds its records from them."""

from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from sqlalchemy import Connection

from nexus_tasks.builder.files import DataFolderError, list_files
from nexus_tasks.db import sessions
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.states import SessionStatus

BEFORE_FIRST_FILE = timedelta(seconds=1)  # a file belongs to a session when start < modification time <= end


def sessions_in(data_root: Path) -> list[SessionRow]:
    """A session for each folder in `data_root` that holds files: from 1 s before the first of them to the last.

    The folder's name is the instrument's. Raises `DataFolderError`.
    """
    try:
        folders = sorted(
            entry
            for entry in data_root.iterdir()
            if entry.is_dir() and not entry.name.startswith(".") and any(entry.iterdir())
        )
    except OSError as error:
        raise DataFolderError(
            f"The data folder {data_root} cannot be read ({error.strerror}): it must hold one folder per instrument."
        ) from error
    found = []
    for folder in folders:
        moments = [file.mtime for file in list_files(folder, data_root=data_root)]
        if moments:
            start, end = min(moments) - BEFORE_FIRST_FILE, max(moments)
            identifier = f"{start:%Y-%m-%d_%H-%M-%S}_{sha256(folder.name.encode()).hexdigest()[:6]}"
            found.append(SessionRow(identifier, folder.name, start, end, "demo", SessionStatus.TO_BE_BUILT))
    if not found:
        raise DataFolderError(f"There are no files in {data_root}: it must hold one folder of files per instrument.")
    return found


def add(connection: Connection, rows: list[SessionRow]) -> None:
    """Add the sessions and their instruments."""
    for row in rows:
        instrument = InstrumentRow(
            row.instrument_pid, row.instrument_pid.replace("_", " "), None, row.instrument_pid, "UTC"
        )
        sessions.add_instrument(connection, instrument)
        sessions.add_session(connection, row)
