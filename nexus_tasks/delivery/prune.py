"""Retention: deletes what need not be kept any longer; beat calls it once a day, an operator with `nexus-tasks prune`.

Closed runs with their attempts go after NX_KEEP_RUNS_DAYS; the upload log, records, deliveries and sessions stay. Files
stay as well, unless NX_KEEP_ARCHIVED_DAYS says otherwise. Each batch is a transaction of its own, and passes over what
somebody else has locked; what is passed over goes the next day.
"""

import logging
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine

from nexus_tasks.config import Settings
from nexus_tasks.db import retention
from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery.documents import ARCHIVE_FOLDER

BATCH = 500  # runs, or documents, in one transaction

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pruned:
    """How much was deleted, or would be."""

    runs: int
    attempts: int
    documents: int

    def __str__(self) -> str:
        return f"{self.runs} closed runs with {self.attempts} attempts, {self.documents} archived documents"


def prune(engine: Engine, settings: Settings, *, dry_run: bool = False) -> Pruned:
    """Delete what is older than the settings keep it; with `dry_run`, only count it. Repeatable."""
    runs, attempts = _prune_runs(engine, timedelta(days=settings.NX_KEEP_RUNS_DAYS), dry_run=dry_run)
    documents = 0
    if settings.NX_KEEP_ARCHIVED_DAYS is not None:
        folder, kept = settings.records_path / ARCHIVE_FOLDER, timedelta(days=settings.NX_KEEP_ARCHIVED_DAYS)
        documents = _prune_documents(engine, folder, kept, dry_run=dry_run)
    pruned = Pruned(runs, attempts, documents)
    if not dry_run and any((runs, attempts, documents)):
        logger.info("Pruned: %s", pruned)
    return pruned


def _prune_runs(engine: Engine, kept: timedelta, *, dry_run: bool) -> tuple[int, int]:
    runs = attempts = last = 0
    while True:
        with transaction(engine) as connection:
            found = retention.runs_to_prune(connection, kept, last, BATCH)
            if not found:
                return runs, attempts
            runs += len(found)
            attempts += retention.attempts_of(connection, found)
            if not dry_run:
                retention.delete_runs(connection, found)
        last = found[-1]


def _prune_documents(engine: Engine, folder: Path, kept: timedelta, *, dry_run: bool) -> int:
    """Goes by the files that are there, so that what was deleted once is not looked for every day."""
    names = sorted(path.name for path in folder.glob("*.xml"))
    documents = 0
    for start in range(0, len(names), BATCH):
        with transaction(engine) as connection:
            found = retention.documents_to_prune(connection, kept, names[start : start + BATCH])
            documents += len(found)
            if not dry_run:
                for name in found:
                    (folder / name).unlink(missing_ok=True)
    return documents
