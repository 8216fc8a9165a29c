"""`export_records`: the one call by which a builder hands records over to be exported.

The record, its deliveries and the session's status are committed together; only then is anything published. When it has
returned, the record will reach its destinations whatever dies: the broker may even be away.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import Connection

from nexus_tasks.broker import BrokerError
from nexus_tasks.db import handover, records, sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.handover import DestinationSnapshot
from nexus_tasks.db.rows import DeliveryRow, InstrumentRow, RecordDeliveries
from nexus_tasks.delivery import documents
from nexus_tasks.delivery.plan import waits_for
from nexus_tasks.delivery.planner import dispatch
from nexus_tasks.delivery.rate_limit import max_in_flight
from nexus_tasks.delivery.reconcile import reconcile_within
from nexus_tasks.delivery.snapshot import snapshot_of
from nexus_tasks.delivery.strategy import verdict
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.title import title_of
from nexus_tasks.plain_error import PlainError
from nexus_tasks.states import DeliveryState, SessionStatus

BATCH_RECORDS = 50  # committed together
BATCH_BYTES = 16_000_000  # of XML; larger ones are committed sooner

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
    """Take records over, and send out what there is capacity for.

    Handing the same record over again changes nothing. Raises `EnqueueError`, `StoreError`, `DependencyCycleError` or
    `DatabaseError`; the records before the one that failed are taken over all the same.
    """
    hand_over = _HandOver(deployment)
    record_ids: list[int] = []
    problem = None
    try:
        for batch in _batches(to_export):
            hand_over.take(batch, record_ids)
    finally:
        if record_ids:
            problem = _send(deployment)
    return HandedOver(tuple(record_ids), tuple(hand_over.max_in_flight), problem)


def _batches(to_export: Iterable[RecordToExport]) -> Iterator[list[RecordToExport]]:
    """The records in groups that are committed together; those before one that cannot be had come all the same."""
    batch: list[RecordToExport] = []
    size = 0
    try:
        for record in to_export:
            batch.append(record)
            size += len(record.xml)
            if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


class _HandOver:
    """What is the same for all records of one hand-over: the destinations that are enabled now."""

    def __init__(self, deployment: Deployment) -> None:
        enabled = deployment.registry.enabled
        self._engine = deployment.engine
        self._settings = deployment.settings
        self._snapshot = snapshot_of(enabled)
        self.max_in_flight = {each.name: max_in_flight(each, deployment.settings) for each in enabled}
        first = RecordDeliveries(0, deployment.settings.NX_EXPORT_STRATEGY, _as_pending(self._snapshot))
        names = {row.id: row.destination for row in first.deliveries}
        self._waits_for = {names[key]: waits for key, waits in waits_for(first).items()}
        self._verdict_is_due = bool(verdict(first).skip)  # what requires a destination that is not enabled

    def take(self, batch: list[RecordToExport], record_ids: list[int]) -> None:
        """Commit these records with their deliveries and their sessions' status; adds their ids.

        Where one of them fails, each is committed by itself up to that one.
        """
        try:
            record_ids += self._take_together(batch)
        except (PlainError, OSError):
            if len(batch) == 1:
                raise
            for record in batch:
                record_ids += self._take_together([record])

    def _take_together(self, batch: list[RecordToExport]) -> list[int]:
        for record in batch:
            _check_zone(record)
            _check_paths(record)
        stored = documents.store_all(self._settings.records_path, [(_title(record), record.xml) for record in batch])
        with transaction(self._engine) as connection:
            record_ids = [
                self._take_over(connection, record, document) for record, document in zip(batch, stored, strict=True)
            ]
        goes_to = ", ".join(self.max_in_flight) or "no destination: none is enabled"
        for record, document in zip(batch, stored, strict=True):
            logger.info("Session %s: record %s goes to %s", record.session_identifier, document, goes_to)
        return record_ids

    def _take_over(self, connection: Connection, record: RecordToExport, document: str) -> int:
        identifier = record.session_identifier
        built = handover.BuiltRecord(
            dt_from=record.dt_from,
            dt_to=record.dt_to,
            timezone=record.timezone,
            user=record.user,
            document=document,
            sha256=documents.sha256_of(record.xml),
            activities=record.activities,
        )
        strategy = self._settings.NX_EXPORT_STRATEGY
        added = handover.add_record(connection, identifier, record.instrument_pid, built, strategy, record.claim)
        if not added.claim_held:
            raise ClaimLostError(f"Another builder has taken over session {identifier}.")
        if added.record_id is None:
            return self._take_over_again(connection, record, built)
        self._generated(connection, record, added.instrument_known, added.session_instrument, added.session_status)
        handover.add_deliveries(
            connection,
            [added.record_id],
            self._snapshot,
            waits_for=self._waits_for,
            max_in_flight=self.max_in_flight,
        )
        if self._verdict_is_due:
            reconcile_within(connection, added.record_id)
        return added.record_id

    def _take_over_again(self, connection: Connection, record: RecordToExport, built: handover.BuiltRecord) -> int:
        """Of a record that was handed over before; if it was rebuilt, its deliveries are updated in place."""
        known = records.lock_of_session(connection, record.session_identifier)
        found = sessions.sessions(connection, [record.session_identifier])
        instrument_pid, status = (found[0].instrument_pid, found[0].status) if found else (None, None)
        _check_instrument(record, instrument_pid)
        if known.sha256 == built.sha256:
            sessions.set_status(connection, record.session_identifier, SessionStatus.BUILT_NOT_EXPORTED)
            reconcile_within(connection, known.id)
            return known.id
        handover.replace_record(connection, known.id, built)
        instrument_known = sessions.get_instrument(connection, record.instrument_pid) is not None
        self._generated(connection, record, instrument_known, instrument_pid, status)
        reconcile_within(connection, known.id)  # or a rebuilt one that nobody comes back to would stay as it was
        return known.id

    def _generated(
        self,
        connection: Connection,
        record: RecordToExport,
        instrument_known: bool,
        session_instrument: str | None,
        session_status: SessionStatus | None,
    ) -> None:
        """Add the events of the session; those of another builder's may be new here, and its instrument."""
        _check_instrument(record, session_instrument)
        if not instrument_known:
            instrument = InstrumentRow(record.instrument_pid, None, None, None, record.timezone)
            sessions.add_instrument(connection, instrument, only=())  # an operator may add it at this moment
        events = [("START", record.dt_from), ("END", record.dt_to)] if session_instrument is None else []
        completed = session_status is SessionStatus.COMPLETED
        handover.record_generated(
            connection,
            record.session_identifier,
            record.instrument_pid,
            record.user,
            [*events, ("RECORD_GENERATION", datetime.now(UTC))],
            SessionStatus.COMPLETED if completed else SessionStatus.BUILT_NOT_EXPORTED,
        )


def _as_pending(snapshot: Sequence[DestinationSnapshot]) -> tuple[DeliveryRow, ...]:
    """The deliveries of a new record, numbered from 0."""
    return tuple(
        DeliveryRow(number, 0, each.name, each.priority, each.depends_on, each.requires, DeliveryState.PENDING)
        for number, each in enumerate(snapshot)
    )


def _check_instrument(record: RecordToExport, session_instrument: str | None) -> None:
    if session_instrument not in {None, record.instrument_pid}:
        raise EnqueueError(
            f"Session {record.session_identifier} belongs to instrument {session_instrument}, "
            f"not to {record.instrument_pid}."
        )


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
