"""Takes over a NexusLIMS database, in one transaction: `nexus-tasks db import-nexuslims` calls it.

What NexusLIMS has exported becomes a record with succeeded deliveries, so that nothing is sent again. A record here
points to its document, so only sessions whose document is found get one; the others keep their status and upload log.
"""

import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from nexus_tasks.builder import record_xml
from nexus_tasks.builder.schema import InvalidRecordError
from nexus_tasks.db import deliveries, destinations, handover, import_nexuslims, sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.handover import DestinationSnapshot
from nexus_tasks.db.import_nexuslims import ImportedDelivery, ImportedEvent, ImportedUpload
from nexus_tasks.delivery import documents
from nexus_tasks.delivery.fingerprint import input_fingerprint
from nexus_tasks.delivery.rate_limit import max_in_flight
from nexus_tasks.delivery.snapshot import snapshot_of
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.title import nexuslims_title, title_of
from nexus_tasks.integrations.nexuslims import NAME as HANDED_OVER
from nexus_tasks.integrations.nexuslims_database import NexusLimsDatabase, Session, Skipped, Upload
from nexus_tasks.states import SessionStatus

NOT_BEGUN = {SessionStatus.WAITING_FOR_END, SessionStatus.TO_BE_BUILT}
BUILT = {SessionStatus.BUILT_NOT_EXPORTED, SessionStatus.COMPLETED}
_LABARCHIVES_PAGE = re.compile(r"#/(?P<notebook>[^/]+)/(?P<page>[^/]+)$")


@dataclass
class Imported:
    """What became of everything in the file. Each session counts once among new, updated, unchanged and kept."""

    instruments_new: int = 0
    instruments_known: int = 0
    sessions_new: int = 0
    sessions_updated: int = 0
    sessions_unchanged: int = 0
    sessions_kept: int = 0  # nexus-tasks has gone on with them: what it says stays
    uploads_new: int = 0
    records_new: int = 0
    deliveries_succeeded: int = 0
    deliveries_failed: int = 0
    without_record: list[Skipped] = field(default_factory=list)  # exported, but no record here
    skipped: list[Skipped] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """For people."""
        sessions_done = (
            f"Sessions: {self.sessions_new} new, {self.sessions_updated} updated, {self.sessions_unchanged} unchanged, "
            f"{self.sessions_kept} left as nexus-tasks has them."
        )
        return [
            f"Instruments: {self.instruments_new} new, {self.instruments_known} known before.",
            sessions_done,
            f"Upload log: {self.uploads_new} new rows.",
            f"Records: {self.records_new} new.",
            f"Deliveries: {self.deliveries_succeeded} succeeded, {self.deliveries_failed} failed.",
            *(f"No record for {each.what}: {each.reason}" for each in self.without_record),
            *(f"Not taken over: {each.what}. {each.reason}" for each in self.skipped),
        ]


def take_over(
    deployment: Deployment, database: NexusLimsDatabase, records_folder: Path, *, dry_run: bool = False
) -> Imported:
    """Copy what is not here yet; the same file again changes nothing. `records_folder` is NexusLIMS's.

    With `dry_run` nothing is kept. Raises `DatabaseError` or `DependencyCycleError`.
    """
    taking = _TakingOver(deployment, database, records_folder, dry_run=dry_run)
    with transaction(deployment.engine) as connection:
        taking.all(connection)
        if dry_run:
            connection.rollback()
    return taking.imported


class _TakingOver:
    def __init__(
        self, deployment: Deployment, database: NexusLimsDatabase, records_folder: Path, *, dry_run: bool
    ) -> None:
        self._deployment = deployment
        self._database = database
        self._zones = {row.instrument_pid: row.timezone for row in database.instruments}
        self._documents = _documents_by_session(database, records_folder)
        self._records_folder = records_folder
        self._dry_run = dry_run
        self.imported = Imported(skipped=list(database.skipped))

    def all(self, connection: Connection) -> None:
        sessions.add_one_at_a_time(connection)
        enabled = self._deployment.registry.enabled
        destinations.ensure(connection, {each.name: max_in_flight(each, self._deployment.settings) for each in enabled})
        for instrument in self._database.instruments:
            if import_nexuslims.add_instrument(connection, asdict(instrument)):
                self.imported.instruments_new += 1
            else:
                self.imported.instruments_known += 1
        at_work = import_nexuslims.sessions_at_work(connection)
        ours = self._sessions(connection, at_work)
        self._uploads(connection, ours, at_work)

    def _sessions(self, connection: Connection, at_work: set[str]) -> list[Session]:
        """Those of the file that are the same sessions here."""
        same = []
        known = import_nexuslims.known_sessions(connection)
        for session in self._database.sessions:
            identifier = session.session_identifier
            status, instrument_pid, events = known.get(identifier, (None, session.instrument_pid, []))
            theirs = sorted(
                (ImportedEvent(event.moment, event.event_type, event.user) for event in session.events),
                key=lambda event: (event.timestamp, event.event_type, event.user or ""),
            )
            if instrument_pid != session.instrument_pid:
                reason = f"It is known here, of instrument {instrument_pid}, not of {session.instrument_pid}."
                self.imported.skipped.append(Skipped(f"session {identifier}", reason))
                continue
            same.append(session)
            if (status, events) == (session.status, theirs):
                self.imported.sessions_unchanged += 1
            elif identifier in at_work or not _is_ahead(session.status, status):
                self.imported.sessions_kept += 1
            else:
                import_nexuslims.set_session(connection, identifier, instrument_pid, session.status, theirs)
                if status is None:
                    self.imported.sessions_new += 1
                else:
                    self.imported.sessions_updated += 1
        return same

    def _uploads(self, connection: Connection, ours: list[Session], at_work: set[str]) -> None:
        # what was handed over to nexus-tasks has its answers here already
        known = {session.session_identifier for session in ours}
        uploads = [
            upload
            for upload in self._database.uploads
            if upload.destination != HANDED_OVER and upload.session_identifier in known
        ]
        handed_over = {row.session_identifier for row in self._database.uploads if row.destination == HANDED_OVER}
        self.imported.uploads_new = import_nexuslims.add_uploads(connection, [_row(upload) for upload in uploads])
        by_session: dict[str, list[Upload]] = defaultdict(list)
        for upload in uploads:
            by_session[upload.session_identifier].append(upload)
        unknown_over_there = []
        for session in ours:
            identifier = session.session_identifier
            if identifier in at_work:
                continue
            logged = by_session.get(identifier, [])
            reason = self._record(connection, session, logged)
            if reason is None or identifier in handed_over:
                continue
            exported = any(upload.success for upload in logged)
            if exported:
                made = {name: _remote(upload) for name, upload in _decisive(logged).items() if upload.success}
                import_nexuslims.set_adoptable(connection, identifier, {name: it for name, it in made.items() if it})
                unknown_over_there.append(
                    max([upload.moment for upload in logged] + [e.moment for e in session.events])
                )
            if exported or session.status in BUILT:
                self.imported.without_record.append(Skipped(f"session {identifier}", reason))
        if unknown_over_there:
            import_nexuslims.look_up_sessions_before(connection, max(unknown_over_there) + timedelta(seconds=1))

    def _record(self, connection: Connection, session: Session, logged: list[Upload]) -> str | None:
        """Make the record with its deliveries; if there can be none, why."""
        if not logged:
            return "NexusLIMS has logged no upload of it."
        if session.start is None or session.end is None:
            return "It has no start or no end."
        file = self._documents.get(session.session_identifier)
        if file is None:
            return (
                f"Its record {_file_name(session)} is not in {self._records_folder}: name that folder with --records."
            )
        try:
            xml = file.read_bytes()
            activities = record_xml.read_activities(xml)
        except OSError as error:
            return f"Its record {file} cannot be read: {error.strerror}."
        except InvalidRecordError as error:
            return f"Its record {file} is damaged: {error}"
        document = self._store(session, xml)
        built = handover.BuiltRecord(
            dt_from=session.start,
            dt_to=session.end,
            timezone=self._zones[session.instrument_pid],
            user=session.user,
            document=document,
            sha256=documents.sha256_of(xml),
            activities=[{"files": each["files"], "previews": [None] * len(each["files"])} for each in activities],
        )
        strategy = self._deployment.settings.NX_EXPORT_STRATEGY
        added = handover.add_record(connection, session.session_identifier, session.instrument_pid, built, strategy)
        if added.record_id is None:
            raise AssertionError(session.session_identifier)  # whoever has one was left out
        self.imported.records_new += 1
        self._deliveries(connection, added.record_id, logged)
        return None

    def _store(self, session: Session, xml: bytes) -> str:
        start = session.start
        if start is None:
            raise AssertionError(session.session_identifier)  # looked at before
        title = title_of(start, session.instrument_pid, session.session_identifier)
        if self._dry_run:
            return title
        return documents.store(self._deployment.settings.records_path, title, xml)

    def _deliveries(self, connection: Connection, record_id: int, logged: list[Upload]) -> None:
        """One for each destination that NexusLIMS has tried: succeeded if it ever did."""
        decisive = _decisive(logged)
        snapshot = self._snapshot(set(decisive))
        for name, upload in decisive.items():
            delivery = ImportedDelivery(snapshot[name], _row(upload), _remote(upload) if upload.success else {})
            import_nexuslims.add_delivery(connection, record_id, delivery)
            if upload.success:
                self.imported.deliveries_succeeded += 1
            else:
                self.imported.deliveries_failed += 1
        whole = deliveries.of_record(connection, record_id)
        for row in whole.deliveries:
            import_nexuslims.set_input_fingerprint(connection, row.id, input_fingerprint(whole, row))

    def _snapshot(self, names: set[str]) -> dict[str, DestinationSnapshot]:
        """As a hand-over to these destinations would store them, whether they are enabled here or not."""
        here = [each for each in self._deployment.registry.destinations if each.name in names]
        known = {each.name: each for each in snapshot_of(here)}
        return {name: known.get(name, DestinationSnapshot(name, 0, (), (), updates=False)) for name in names}


def _is_ahead(theirs: SessionStatus, ours: SessionStatus | None) -> bool:
    """Whether NexusLIMS knows better than we how far a session is that has no record here."""
    return ours is None or ours in NOT_BEGUN or (theirs in BUILT and ours is not SessionStatus.COMPLETED)


def _decisive(logged: list[Upload]) -> dict[str, Upload]:
    """By destination the last success, or the last failure where there was none."""
    return {each.destination: each for each in sorted(logged, key=lambda each: (each.success, each.moment))}


def _row(upload: Upload) -> ImportedUpload:
    return ImportedUpload(
        session_identifier=upload.session_identifier,
        destination_name=upload.destination,
        success=int(upload.success),
        timestamp=upload.moment,
        record_id=upload.record_id,
        record_url=upload.record_url,
        error_message=upload.error_message,
        metadata_json=upload.metadata,
    )


def _remote(upload: Upload) -> dict[str, Any]:
    """What our destinations remember of the object that NexusLIMS made, under the names that they give to their steps.

    What it holds is not remembered: a rebuilt record is sent there in place, and what people wrote stays.
    """
    if upload.destination == "labarchives":  # the identifier is of an entry; the page stands in the link
        page = _LABARCHIVES_PAGE.search(upload.record_url or "")
        return {} if page is None else {"page": {"id": page["page"], "content": page["notebook"]}}
    step = {"cdcs": "record", "elabftw": "experiment"}.get(upload.destination)
    return {} if step is None or upload.record_id is None else {step: {"id": upload.record_id, "content": None}}


# --- NexusLIMS's documents


def _documents_by_session(database: NexusLimsDatabase, folder: Path) -> dict[str, Path]:
    """Where the document of each session stands; none where two sessions would have the same one."""
    names = {session.session_identifier: _file_name(session) for session in database.sessions if session.start}
    shared = Counter(names.values())
    found = {}
    for identifier, name in names.items():
        for file in (folder / documents.ARCHIVE_FOLDER / name, folder / name):
            if shared[name] == 1 and file.is_file():
                found[identifier] = file
                break
    return found


def _file_name(session: Session) -> str:
    """As NexusLIMS names the document of a session that has begun."""
    if session.start is None:
        raise AssertionError(session.session_identifier)  # looked at before
    return f"{nexuslims_title(session.start, session.instrument_pid, session.session_identifier)}.xml"
