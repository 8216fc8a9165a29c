"""`export_records`: the one call by which a builder hands records over to be exported.

The record, its deliveries and the session's status are committed together; only then is anything published. When it has
returned, the record will reach its destinations whatever dies: the broker may even be away.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import Connection

from nexus_tasks.broker import BrokerError
from nexus_tasks.config import Settings
from nexus_tasks.db import deliveries, destinations, records, sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.delivery import documents
from nexus_tasks.delivery.dispatch import dispatch
from nexus_tasks.delivery.freeze import freeze
from nexus_tasks.delivery.settle import settle_within
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.registry import window_of
from nexus_tasks.exporters.title import title_of
from nexus_tasks.plain_error import PlainError
from nexus_tasks.states import SessionStatus

logger = logging.getLogger(__name__)


class EnqueueError(PlainError):
    """A record cannot be taken over; the message says why and what to do."""


class ClaimLostError(EnqueueError):
    """Another builder has taken the session over meanwhile: this record is dropped, the other one counts."""


@dataclass(frozen=True)
class RecordToExport:
    """A built record. `activities` is [{"files": [...], "previews": [... or None]}], pairwise, relative paths."""

    session_identifier: str
    instrument_pid: str
    dt_from: datetime
    dt_to: datetime
    timezone: str  # IANA name; the destinations show times in it
    user: str | None
    xml: bytes
    activities: list[dict[str, Any]] = field(default_factory=list)
    claim: UUID | None = None  # the builder's claim on the session, given back in the same transaction


@dataclass(frozen=True)
class HandedOver:
    """What became of the hand-over. `broker_problem` is set when the messages could not go out yet."""

    record_ids: tuple[int, ...]
    destinations: tuple[str, ...]
    broker_problem: str | None = None


def export_records(to_export: Iterable[RecordToExport], deployment: Deployment) -> HandedOver:
    """Take records over, and send out what there is room for.

    Handing the same record over again changes nothing. Raises `EnqueueError`, `StoreError`, `DependencyCycleError` or
    `DatabaseError`; the records before the one that failed are taken over all the same.
    """
    enabled = deployment.registry.enabled
    frozen = freeze(enabled)
    windows = {destination.name: window_of(destination, deployment.settings.NX_WINDOWS) for destination in enabled}
    record_ids = []
    problem = None
    with transaction(deployment.engine) as connection:
        destinations.ensure(connection, windows)
    try:
        for record in to_export:
            _check_zone(record)
            _check_paths(record)
            document = documents.store(deployment.settings.records_path, _title(record), record.xml)
            with transaction(deployment.engine) as connection:
                record_id = _take_over(connection, record, document, deployment.settings, frozen)
                settle_within(connection, record_id)  # or a rebuilt one that nobody comes back to would stay as it was
            record_ids.append(record_id)
            logger.info(
                "Session %s: record %s goes to %s",
                record.session_identifier,
                document,
                ", ".join(windows) or "no destination: none is enabled",
            )
    finally:
        if record_ids:
            problem = _send(deployment)
    return HandedOver(tuple(record_ids), tuple(windows), problem)


def _take_over(
    connection: Connection,
    record: RecordToExport,
    document: str,
    settings: Settings,
    frozen: Sequence[deliveries.FrozenDestination],
) -> int:
    identifier = record.session_identifier
    if record.claim is not None and not sessions.release(connection, identifier, record.claim):
        raise ClaimLostError(f"Another builder has taken over session {identifier}.")
    built = records.BuiltRecord(
        dt_from=record.dt_from,
        dt_to=record.dt_to,
        timezone=record.timezone,
        user=record.user,
        document=document,
        sha256=documents.sha256_of(record.xml),
        activities=record.activities,
    )
    record_id = records.add(connection, identifier, record.instrument_pid, built, settings.NX_EXPORT_STRATEGY)
    # whoever hands the same session over at this moment waits for this transaction from here on
    session = _know_session(connection, record)
    if record_id is None:  # handed over before; if it was rebuilt, its deliveries are brought up to date in place
        known = records.lock_of_session(connection, identifier)
        if known.sha256 == built.sha256:
            sessions.set_status(connection, identifier, SessionStatus.BUILT_NOT_EXPORTED)
            return known.id
        records.replace(connection, known.id, built)
        record_id = known.id
    else:
        deliveries.add(connection, [record_id], frozen)
    sessions.set_status(connection, identifier, SessionStatus.BUILT_NOT_EXPORTED)
    status = SessionStatus.COMPLETED if session.status is SessionStatus.COMPLETED else SessionStatus.BUILT_NOT_EXPORTED
    sessions.record_generated(connection, identifier, record.instrument_pid, record.user, datetime.now(UTC), status)
    return record_id


def _know_session(connection: Connection, record: RecordToExport) -> SessionRow:
    """The session. Its rows and its instrument's are made now if there are none: another builder's may be new here."""
    if sessions.get_instrument(connection, record.instrument_pid) is None:
        instrument = InstrumentRow(record.instrument_pid, None, None, None, record.timezone)
        sessions.add_instrument(connection, instrument, only=())  # an operator may add it at this moment
    known = sessions.sessions(connection, [record.session_identifier])
    if not known:
        session = SessionRow(
            session_identifier=record.session_identifier,
            instrument_pid=record.instrument_pid,
            start=record.dt_from,
            end=record.dt_to,
            user=record.user,
            status=SessionStatus.BUILT_NOT_EXPORTED,
        )
        sessions.add_session(connection, session)
        return session
    if known[0].instrument_pid != record.instrument_pid:
        raise EnqueueError(
            f"Session {record.session_identifier} belongs to instrument {known[0].instrument_pid}, "
            f"not to {record.instrument_pid}."
        )
    return known[0]


def _check_paths(record: RecordToExport) -> None:
    """Files and previews are named below their roots: a path that leaves them could carry any file to a notebook."""
    for activity in record.activities:
        for path in (*activity["files"], *(preview for preview in activity["previews"] if preview)):
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise EnqueueError(
                    f"The record of session {record.session_identifier} names {str(path)[:100]!r}, which is not below "
                    "the data root: name files by their paths below NX_INSTRUMENT_DATA_PATH."
                )


def _check_zone(record: RecordToExport) -> None:
    try:
        ZoneInfo(record.timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise EnqueueError(
            f"Session {record.session_identifier}: there is no time zone {record.timezone!r}, "
            "use an IANA name such as Europe/Berlin."
        ) from error


def _title(record: RecordToExport) -> str:
    start = record.dt_from.astimezone(ZoneInfo(record.timezone))
    return title_of(start, record.instrument_pid, record.session_identifier)


def _send(deployment: Deployment) -> str | None:
    try:
        dispatch(deployment)
    except BrokerError as error:
        logger.warning("%s", error)
        return str(error)
    return None
