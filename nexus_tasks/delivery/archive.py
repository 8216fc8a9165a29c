"""The archiving sweep: moves documents that nobody waits for any more; finalize and beat call it."""

import logging

from sqlalchemy import Engine

from nexus_tasks.config import Settings
from nexus_tasks.db import records
from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery import documents

BATCH = 100  # records per transaction

logger = logging.getLogger(__name__)


def sweep(engine: Engine, settings: Settings) -> int:
    """Move the documents of completed, settled records to the archive folder, and return how many."""
    moved = 0
    with transaction(engine) as connection:
        for record in records.archivable(connection, BATCH):
            records.archived(connection, record.id)
            if documents.move_to_archive(settings.records_path, record.document):
                moved += 1
            else:  # said once; it is looked for in both places anyway
                logger.error(
                    "The document %s of session %s is gone: restore it to %s",
                    record.document,
                    record.session_identifier,
                    settings.records_path,
                )
    return moved
