"""Calls the plugin, with a context made of the rows: the middle of an attempt, between `start` and `finish`."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from nexus_tasks.config import Settings
from nexus_tasks.db.engine import DatabaseError
from nexus_tasks.db.rows import DeliveryRow, RecordRow
from nexus_tasks.delivery import documents
from nexus_tasks.delivery.attempt import Attempt
from nexus_tasks.delivery.idempotency import NotYetResolvableError, StepCheckpoint
from nexus_tasks.delivery.lease import LeaseLostError
from nexus_tasks.delivery.rate_limit import RateLimit, RateLimitedError
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
from nexus_tasks.exporters.http import before_each_call


def call_plugin(
    attempt: Attempt,
    destination: ExportDestination,
    engine: Engine,
    settings: Settings,
    interruption: type[Exception] | tuple[()] = (),
) -> ExportResult:
    """Call the plugin. Raises `ExportError`: what a plugin raises otherwise is sorted into its three kinds.

    Raises `LeaseLostError`, `NotYetResolvableError`, `RateLimitedError` and `DatabaseError` as they come, and so the
    `interruption` with which the caller's time limit breaks into the plugin.
    """
    record, lease = attempt.row.record, attempt.lease
    zone = ZoneInfo(record.timezone)
    rate_limit = RateLimit.of(engine, destination, settings, lease.token)

    def wait_for_rate_limit() -> None:
        rate_limit.wait(still_mine=lease.check)

    timing: dict[str, Any] = {
        "call_deadline": settings.NX_CALL_DEADLINE,
        "grace": settings.NX_LOOKUP_GRACE,
        "before_intent": wait_for_rate_limit,
    }

    def before_call() -> None:
        wait_for_rate_limit()
        attempt.own.before_call()
        lease.check()  # of reading calls, too: many of them would outlast it
        rate_limit.leaves()

    context = ExportContext(
        xml_file_path=documents.locate(settings.records_path, record.document, record.sha256),
        session_identifier=record.session_identifier,
        instrument_pid=record.instrument_pid,
        dt_from=record.dt_from.astimezone(zone),
        dt_to=record.dt_to.astimezone(zone),
        user=record.user,
        metadata={"sha256": record.sha256},
        previous_results={
            row.destination: _as_result(row, at) for row in attempt.dependencies if (at := row.succeeded_at)
        },
        activities=_activities(record, settings),
        checkpoint=StepCheckpoint(attempt.own, attempt.clock, look_up_first=attempt.row.look_up_first, **timing),
        shared=StepCheckpoint(attempt.shared, attempt.clock, **timing),
        take_turn=before_call,
    )
    try:
        return _export(destination, context, before_call)
    except (ExportError, LeaseLostError, NotYetResolvableError, RateLimitedError, DatabaseError):
        raise
    except interruption:
        raise
    except OSError as error:  # requests' exceptions among them: the network, the file system
        raise TransientError(f"{type(error).__name__} in the plugin {destination.name}") from error
    except Exception as error:
        raise PermanentError(f"The plugin {destination.name} failed: {type(error).__name__}: {error}") from error
    finally:
        with suppress(DatabaseError):  # the token expires by itself
            rate_limit.release()


def _export(destination: ExportDestination, context: ExportContext, before_call: Callable[[], None]) -> ExportResult:
    valid, problem = destination.validate_config()
    if not valid:
        raise ConfigurationError(problem or f"{destination.name} says that its settings are not valid")
    with before_each_call(before_call):
        result: Any = destination.export(context)
    if not isinstance(result, ExportResult):
        raise TypeError(f"it returned {type(result).__name__} instead of an ExportResult")
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
