"""One try of one delivery: what the export tasks do between Celery and a destination.

`begin` asks the rows whether there is anything to do, `perform` calls the plugin, `finish` writes how it ended.
"""

import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine

from nexus_tasks.config import Settings
from nexus_tasks.db import deliveries, destinations, records, runs
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import AttemptEnd, AttemptRow, DeliveryRow, RecordRow
from nexus_tasks.delivery import documents
from nexus_tasks.delivery.checkpoint import DeliveryCheckpoint
from nexus_tasks.delivery.retry import RetryPolicy, after_failure, after_result, not_tried
from nexus_tasks.exporters.base import (
    Activity,
    ConfigurationError,
    ExportContext,
    ExportDestination,
    ExportError,
    ExportResult,
    PermanentError,
    TransientError,
)
from nexus_tasks.states import AttemptState, RunState

logger = logging.getLogger(__name__)


class NotWantedError(Exception):
    """A message whose run is not open, or whose attempt is gone: it must leave no result behind."""


@dataclass(frozen=True)
class Try:
    """What a worker needs to make one try: copies of the rows, taken when it began."""

    attempt_id: int
    delivery_id: int
    record: RecordRow
    others: tuple[DeliveryRow, ...]  # the deliveries that this one depends on


def begin(engine: Engine, attempt_id: int) -> Try | dict[str, Any]:
    """Start a try, or return the result of an attempt that has ended already, or that must not be made now.

    Raises `NotWantedError` for a message that a closed run has left behind.
    """
    with transaction(engine) as connection:
        attempt = runs.lock_attempt(connection, attempt_id)
        if attempt is None or attempt.run_state is not RunState.OPEN:
            raise NotWantedError(f"attempt {attempt_id} belongs to no open run")
        if attempt.state.ended:
            return attempt.result or {}
        record = records.get(connection, attempt.record_id)
        siblings = {row.destination: row for row in deliveries.of_record(connection, attempt.record_id).deliveries}
        delivery = siblings[attempt.destination]
        if (refusal := _refusal(delivery, siblings)) is not None:
            return _write(connection, attempt, refusal)
        runs.start(connection, attempt_id)
    needed = {*delivery.depends_on, *delivery.requires}
    others = tuple(row for name, row in siblings.items() if name in needed)
    return Try(attempt_id, attempt.delivery_id, record, others)


def perform(this: Try, destination: ExportDestination, engine: Engine, settings: Settings) -> ExportResult:
    """Call the plugin. Raises `ExportError`: what a plugin raises otherwise is sorted into its three kinds."""
    valid, problem = destination.validate_config()
    if not valid:
        raise ConfigurationError(problem or f"{destination.name} says that its settings are not valid")
    record = this.record
    zone = ZoneInfo(record.timezone)
    context = ExportContext(
        xml_file_path=documents.locate(settings.records_path, record.document, record.sha256),
        session_identifier=record.session_identifier,
        instrument_pid=record.instrument_pid,
        dt_from=record.dt_from.astimezone(zone),
        dt_to=record.dt_to.astimezone(zone),
        user=record.user,
        metadata={"sha256": record.sha256},
        previous_results={row.destination: _as_result(row, at) for row in this.others if (at := row.succeeded_at)},
        activities=_activities(record, settings),
        checkpoint=DeliveryCheckpoint(engine, this.delivery_id),
    )
    try:
        return destination.export(context)
    except ExportError:
        raise
    except OSError as error:  # requests' exceptions among them: the network, the file system
        raise TransientError(f"{type(error).__name__} in the plugin {destination.name}") from error
    except Exception as error:
        raise PermanentError(f"The plugin {destination.name} failed: {type(error).__name__}: {error}") from error


def finish(
    engine: Engine, attempt_id: int, settings: Settings, outcome: ExportResult | ExportError
) -> tuple[dict[str, Any], bool]:
    """Write how the attempt ended; the result to return, and whether its end has made room in a full destination."""
    policy = RetryPolicy(settings.NX_RETRY_DELAYS, settings.NX_MAX_FAILURES)
    with transaction(engine) as connection:
        attempt = runs.lock_attempt(connection, attempt_id)
        if attempt is None:
            raise NotWantedError(f"attempt {attempt_id} is gone")
        if attempt.state.ended:
            return attempt.result or {}, False
        was_full = destinations.full(connection, attempt.destination)
        if isinstance(outcome, ExportResult):
            end = after_result(outcome, attempt.failures)
        else:
            end = after_failure(outcome, attempt.failures, policy)
        result = _write(connection, attempt, end)
    return result, was_full


def _refusal(delivery: DeliveryRow, siblings: dict[str, DeliveryRow]) -> AttemptEnd | None:
    if delivery.state.settled:
        return not_tried(AttemptState.SKIPPED, f"the delivery is {delivery.state} already")
    for name in delivery.requires:
        if name not in siblings or not siblings[name].has_succeeded:
            reason = f"it requires {name}, which does not hold the record yet"
            return not_tried(AttemptState.DEFERRED, reason)
    return None


def _write(connection: Connection, attempt: AttemptRow, end: AttemptEnd) -> dict[str, Any]:
    result = {
        "destination": attempt.destination,
        "state": end.state.value,
        "record_id": end.remote_record_id,
        "record_url": end.remote_record_url,
        "error_message": end.error_message,
    }
    runs.end(connection, attempt, end, result)
    return result


def _as_result(row: DeliveryRow, succeeded_at: datetime) -> ExportResult:
    return ExportResult(
        success=True,
        destination_name=row.destination,
        record_id=row.remote_record_id,
        record_url=row.remote_record_url,
        timestamp=succeeded_at,
    )


def _activities(record: RecordRow, settings: Settings) -> list[Activity]:
    root = settings.NX_INSTRUMENT_DATA_PATH or Path()
    return [
        Activity(
            files=tuple(root / file for file in activity["files"]),
            previews=tuple(settings.previews_path / item if item else None for item in activity["previews"]),
        )
        for activity in record.activities
    ]
