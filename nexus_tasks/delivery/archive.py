"""Archiving: moves documents that nobody waits for any more, of a record that is done or of all."""

import logging
from collections.abc import Sequence

from sqlalchemy import Connection, Engine

from nexus_tasks.config import Settings
from nexus_tasks.db import records
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import RecordRow
from nexus_tasks.delivery import documents

BATCH = 100  # records per transaction

logger = logging.getLogger(__name__)


def archive(connection: Connection, settings: Settings, record: RecordRow) -> None:
    """Move the document of a locked record that is done. One that cannot be moved is left to the sweep."""
    _, stuck = _move(connection, settings, [record])
    _report(stuck)


def sweep(engine: Engine, settings: Settings) -> int:
    """Move the documents of all records that are done, and return how many. Passes over what cannot be moved."""
    moved, last = 0, 0
    stuck: list[str] = []
    while True:
        with transaction(engine) as connection:
            batch = records.archivable(connection, after=last, limit=BATCH)
            moved_now, stuck_now = _move(connection, settings, batch)
        moved, stuck = moved + moved_now, stuck + stuck_now
        if len(batch) < BATCH:
            break
        last = batch[-1].id
    _report(stuck)
    return moved


def _move(connection: Connection, settings: Settings, batch: Sequence[RecordRow]) -> tuple[int, list[str]]:
    """How many were moved, and what is to be said of those that could not be."""
    moved, stuck = 0, []
    for record in batch:
        try:
            found = documents.move_to_archive(settings.records_path, record.document)
        except OSError as error:
            stuck.append(f"{record.document} of session {record.session_identifier} ({error.strerror or error})")
            continue
        records.archived(connection, record.id)
        if found:
            moved += 1
        else:  # said once; it is looked for in both places anyway
            logger.error(
                "The document %s of session %s is gone: restore it to %s",
                record.document,
                record.session_identifier,
                settings.records_path,
            )
    return moved, stuck


def _report(stuck: Sequence[str]) -> None:
    if stuck:
        logger.error(
            "%d documents cannot be moved to the archive folder; the first is %s. They are tried again and again, and "
            "found where they are: let the workers' user rename files there",
            len(stuck),
            stuck[0],
        )
