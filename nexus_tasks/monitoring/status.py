"""The state of sessions and their deliveries, read from the rows: `status`, `build --wait` and `demo` show it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from nexus_tasks.config import Settings
from nexus_tasks.db import attempts, builds, deliveries, destinations, records, sessions, upload_log
from nexus_tasks.db.builds import Build
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import AttemptRow, DeliveryRow, RecordRow
from nexus_tasks.delivery import documents
from nexus_tasks.states import RUNNING, AttemptState, DeliveryState, RunState, SessionStatus

ARCHIVED_WITHIN = timedelta(minutes=2)  # finalize or the next sweep; a document that cannot be moved is not waited for


@dataclass(frozen=True)
class DeliveryStatus:
    """One destination of a session. `attempts` counts those that were answered or are being made."""

    destination: str
    state: str
    record_id: str | None
    record_url: str | None
    attempts: int
    error_message: str | None
    next_attempt_at: datetime | None
    succeeded_at: datetime | None


@dataclass(frozen=True)
class SessionView:
    """One session with its record and deliveries, the first destination first."""

    session_identifier: str
    instrument_pid: str
    record_status: SessionStatus
    record: Path | None
    handed_over_at: datetime | None
    deliveries: tuple[DeliveryStatus, ...]
    build: Build | None
    moving: bool  # something will happen without anybody's help and without waiting for a later try

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        public = ("destination", "state", "record_id", "record_url", "attempts", "error_message", "next_attempt_at")
        return {
            "session_identifier": self.session_identifier,
            "instrument": self.instrument_pid,
            "record_status": self.record_status.value,
            "record": str(self.record) if self.record else None,
            "build": _build_document(self.build),
            "deliveries": [
                {key: _plain(value) for key, value in asdict(delivery).items() if key in public}
                for delivery in self.deliveries
            ],
        }


def view(engine: Engine, settings: Settings, identifiers: Sequence[str] | None = None) -> list[SessionView]:
    """Those sessions, or all, by start time; identifiers that are not known are left out."""
    with transaction(engine) as connection:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))  # one moment for all
        found = sessions.sessions(connection, identifiers)
        if not found:
            return []
        by_session = {
            record.session_identifier: record
            for record in records.of_sessions(connection, [session.session_identifier for session in found])
        }
        by_record = {
            item.record_id: item.deliveries
            for item in deliveries.of_records(connection, [record.id for record in by_session.values()])
        }
        made_of: dict[int, list[AttemptRow]] = {record_id: [] for record_id in by_record}
        for attempt in attempts.of_records(connection, list(by_record)):
            made_of[attempt.record_id].append(attempt)
        pruned = upload_log.answers_of_pruned_attempts(connection, list(by_session))
        paused = {row.name: row.breaker.reason for row in destinations.all_rows(connection) if not row.breaker.closed}
        built = builds.of_sessions(connection, [session.session_identifier for session in found])
        now = deliveries.clock(connection)
    views = []
    for session in found:
        record = by_session.get(session.session_identifier)
        rows = by_record.get(record.id, ()) if record else ()
        made = made_of.get(record.id, []) if record else []
        counted = Counter(row.delivery_id for row in made if row.state.logged or row.state is AttemptState.STARTED)
        counted.update({row.id: pruned.get((session.session_identifier, row.destination), 0) for row in rows})
        started = {row.delivery_id for row in made if row.state is AttemptState.STARTED}
        build = built.get(session.session_identifier)
        in_a_run = any(row.run_state is RunState.OPEN for row in made)  # until finalize has settled it
        views.append(
            SessionView(
                session_identifier=session.session_identifier,
                instrument_pid=session.instrument_pid,
                record_status=session.status,
                record=_document_path(record, settings),
                handed_over_at=record.created_at if record else None,
                deliveries=tuple(_delivery_status(row, counted, started, paused) for row in rows),
                build=build,
                moving=in_a_run
                or (build is not None and build.moving)
                or any(row.due(now) and row.destination not in paused for row in rows)
                or _to_be_archived(record, rows, session.status, now),
            )
        )
    return views


def _build_document(build: Build | None) -> dict[str, Any] | None:
    """Null once a record was built and nothing is to be said of it."""
    if build is None or not (build.under_way or build.asked or build.problem):
        return None
    return {name: _plain(value) for name, value in asdict(build).items()}


def _delivery_status(
    row: DeliveryRow, counted: Counter[int], started: set[int], paused: Mapping[str, str | None]
) -> DeliveryStatus:
    told = None if row.state is DeliveryState.SUCCEEDED else row.error_message
    if not row.state.final and row.destination in paused:
        told = f"{row.destination} is paused: {paused[row.destination]}"
    return DeliveryStatus(
        destination=row.destination,
        state=RUNNING if row.id in started and not row.state.final else row.state.value,
        record_id=row.remote_record_id,
        record_url=row.remote_record_url,
        attempts=counted[row.id],
        error_message=told,
        next_attempt_at=row.next_attempt_at if row.state is DeliveryState.RETRYING else None,
        succeeded_at=row.succeeded_at,
    )


def _document_path(record: RecordRow | None, settings: Settings) -> Path | None:
    if record is None:
        return None
    return documents.path_of(settings.records_path, record.document)


def _to_be_archived(
    record: RecordRow | None, rows: Sequence[DeliveryRow], status: SessionStatus, now: datetime
) -> bool:
    done = status is SessionStatus.COMPLETED and all(row.state.final for row in rows)
    just_now = any(now - row.succeeded_at < ARCHIVED_WITHIN for row in rows if row.succeeded_at)
    return record is not None and done and just_now and record.archived_at is None


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
