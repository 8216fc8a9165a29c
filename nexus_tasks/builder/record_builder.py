"""`process_new_records`: claims the sessions that are to be built, builds their records, hands them over.

The only module of the builder that knows the database, and the one place where the builder meets the delivery.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from nexus_tasks.builder.activities import group
from nexus_tasks.builder.deciding_schema import RecordJudge
from nexus_tasks.builder.files import DataFolderError, FileChoice
from nexus_tasks.builder.finder import FileFinder, FilesNotReadyError
from nexus_tasks.builder.readers import FileReader, ReaderStartError
from nexus_tasks.builder.readers.extensions import is_known
from nexus_tasks.builder.record import SessionToBuild, build_record
from nexus_tasks.builder.schema import InvalidRecordError
from nexus_tasks.builder.session_details import SessionDetails, SessionDetailsError
from nexus_tasks.config import Settings, SettingsError
from nexus_tasks.db import builds, records, sessions
from nexus_tasks.db.engine import DatabaseError, transaction
from nexus_tasks.db.patience import patiently
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.db.storable import storable_text
from nexus_tasks.delivery.export_records import ClaimLostError, RecordToExport, export_records
from nexus_tasks.delivery.snapshot import snapshot_of
from nexus_tasks.deployment import Deployment
from nexus_tasks.exporters.title import short_session_id
from nexus_tasks.states import SessionStatus
from nexus_tasks.whole_file import write_whole

logger = logging.getLogger(__name__)

REJECTED_FOLDER = "rejected"  # under NX_RECORDS_PATH: documents that are no valid records
_DIGEST_CHARACTERS = 8  # of the SHA-256, in the name of such a document


@dataclass(frozen=True)
class SessionOutcome:
    """What building one session came to; `problem` is one line when it has no record, or it goes nowhere.

    `waits` says that time will mend that: the session is still `TO_BE_BUILT`, and a later call will build it. `built`
    says that there is a record: a problem is then one of its way on.
    """

    session_identifier: str
    status: SessionStatus
    problem: str | None = None
    waits: bool = False
    built: bool = False


@dataclass(frozen=True)
class BuilderTools:
    """What a builder keeps from session to session, and a worker from build to build; for one thread."""

    reader: FileReader
    judge: RecordJudge

    @classmethod
    def of(cls, deployment: Deployment) -> "BuilderTools":
        """New ones, to be closed."""
        return cls(FileReader(), RecordJudge(deployment.registry, deployment.settings.NX_SCHEMA_PATH))

    def close(self) -> None:
        """End the child process that reads files."""
        self.reader.close()


class _ClaimGoneError(Exception):
    """The claim expired while building, and another builder took the session."""


class _NotYetError(Exception):
    """The session has to wait for files; the message says for which, and until when."""


def process_new_records(
    deployment: Deployment,
    *,
    identifiers: Sequence[str] | None = None,
    rebuild: bool = False,
    on_outcome: Callable[[SessionOutcome], None] = lambda _: None,
    tools: BuilderTools | None = None,
) -> list[SessionOutcome]:
    """Build every session that is `TO_BE_BUILT` (or those of `identifiers` that are), oldest first, and hand it over.

    With `rebuild`, those of `identifiers` are built again whatever their status: a record that comes out differently
    replaces the one before, and the destinations are brought up to date in place. `on_outcome` hears of each as it is
    done. A session whose data folder cannot be read stays `TO_BE_BUILT`, and so does one that has not ended, whose
    files are still being written, or that may still get some; one whose record cannot be built becomes `ERROR`, one
    without files `NO_FILES_FOUND`. Any number of builders may run at once; what workers were asked for may be built
    here as well.

    Raises `SettingsError` when there is no data root, `DependencyCycleError`, `DatabaseError`.
    """
    data_root = deployment.settings.NX_INSTRUMENT_DATA_PATH
    if data_root is None:
        raise SettingsError("NX_INSTRUMENT_DATA_PATH is missing: name the folder that holds the microscope files.")
    snapshot_of(deployment.registry.enabled)  # a circle would fail each hand-over, once the record is built
    outcomes: list[SessionOutcome] = []
    finder = finder_for(data_root, deployment.settings)
    lease = timedelta(seconds=deployment.settings.NX_BUILD_LEASE)
    with ExitStack() as own:
        tools = tools or own.enter_context(closing(BuilderTools.of(deployment)))
        while True:
            with transaction(deployment.engine) as connection:
                done = [outcome.session_identifier for outcome in outcomes]
                begun = builds.clock(connection)
                claimed = sessions.claim(connection, identifiers, lease, passed_over=done, rebuild=rebuild)
            if claimed is None:
                return outcomes
            outcome = _Build(*claimed, tools, finder, data_root, deployment, rebuild=rebuild).run()
            patiently(partial(_note, deployment.engine, outcome, begun))
            logger.log(
                logging.WARNING if outcome.problem and not outcome.waits else logging.INFO,
                "Session %s: %s%s",
                outcome.session_identifier,
                outcome.status,
                f": {outcome.problem}" if outcome.problem else "",
            )
            outcomes.append(outcome)
            on_outcome(outcome)


def _note(engine: Engine, outcome: SessionOutcome, begun: datetime) -> None:
    with transaction(engine) as connection:
        note = builds.put_off if outcome.waits else builds.end
        note(connection, outcome.session_identifier, begun, None if outcome.built else outcome.problem)


def finder_for(data_root: Path, settings: Settings) -> FileFinder:
    """Finds files as the settings say; for one round of building."""
    choice = FileChoice(
        known=is_known if settings.NX_FILE_STRATEGY == "exclusive" else None, ignored=settings.NX_IGNORE_PATTERNS
    )
    return FileFinder(data_root, choice=choice, quiet=timedelta(seconds=settings.NX_FILE_QUIET))


@dataclass(frozen=True)
class _Build:
    """One claimed session on its way to a record."""

    session: SessionRow
    token: UUID
    tools: BuilderTools
    finder: FileFinder
    data_root: Path
    deployment: Deployment
    rebuild: bool

    def run(self) -> SessionOutcome:
        """Build and hand over; whatever goes wrong ends in a status, or with the session given back.

        Raises `DatabaseError`: the session is given back then as well, for whoever tries again.
        """
        try:
            return self._run()
        except DatabaseError:
            patiently(self._let_go)
            raise

    def _run(self) -> SessionOutcome:
        try:
            record = self._record()
            if record is None:
                return self._end(SessionStatus.NO_FILES_FOUND, "no files were found" if self.rebuild else None)
            return self._hand_over(record)
        except (DataFolderError, ReaderStartError, _NotYetError) as error:
            return self._give_back(str(error), waits=isinstance(error, _NotYetError))
        except OSError as error:  # no room for previews, a share that is away: not the session's fault
            return self._give_back(f"{type(error).__name__}: {error}")
        except (_ClaimGoneError, ClaimLostError):
            return self._outcome(self.session.status, "another builder has taken it over")
        except DatabaseError:
            raise
        except Exception as error:  # noqa: BLE001 - it concerns this session only
            return self._fail(error)

    def _hand_over(self, record: RecordToExport) -> SessionOutcome:
        handed_over = export_records([record], self.deployment)
        problem = handed_over.broker_problem
        if not handed_over.destinations:
            problem = (
                "no destination is enabled, so the record goes nowhere: see `nexus-tasks destinations`, "
                "then send it with `nexus-tasks destinations backfill`"
            )
        return replace(self._outcome(SessionStatus.BUILT_NOT_EXPORTED, problem), built=True)

    def _record(self) -> RecordToExport | None:
        settings = self.deployment.settings
        with transaction(self.deployment.engine) as connection:
            instrument = sessions.get_instrument(connection, self.session.instrument_pid)
            said = sessions.details(connection, [self.session.session_identifier])
        if instrument is None or instrument.filestore_path is None:
            raise DataFolderError(
                f"Instrument {self.session.instrument_pid} has no data folder: "
                "name it with `nexus-tasks instruments add`."
            )
        details = _details(said.get(self.session.session_identifier, {}))
        to_build = _to_build(self.session, instrument, instrument.filestore_path, details)
        quiet = timedelta(seconds=settings.NX_FILE_QUIET)
        early = too_early(to_build.end, datetime.now(UTC), quiet)
        if early is not None:
            raise _NotYetError(f"{early}; a build after {_local(to_build.end + quiet, to_build)} takes it")
        try:
            built = build_record(
                to_build,
                data_root=self.data_root,
                preview_root=settings.previews_path,
                reader=self.tools.reader,
                heartbeat=self._renew,
                finder=self.finder,
                divide=partial(group, rule=settings.NX_ACTIVITY_RULE, sensitivity=settings.NX_CLUSTERING_SENSITIVITY),
                check=self._check,
            )
        except FilesNotReadyError as error:
            raise _NotYetError(f"{error}; a build after {_local(error.retry_at, to_build)} takes it") from error
        if built is None:
            # files may be copied from an instrument days later
            final_at = to_build.end + timedelta(days=settings.NX_FILE_DELAY_DAYS)
            if final_at > datetime.now(UTC) and not self.rebuild:
                raise _NotYetError(
                    f"there are no files yet; every build looks again until {_local(final_at, to_build)}, "
                    "then it is NO_FILES_FOUND"
                )
            return None
        return RecordToExport(
            session_identifier=self.session.session_identifier,
            instrument_pid=self.session.instrument_pid,
            dt_from=to_build.start,
            dt_to=to_build.end,
            timezone=instrument.timezone,
            user=self.session.user,
            xml=built.xml,
            activities=built.activities,
            claim=self.token,
        )

    def _renew(self) -> None:
        with transaction(self.deployment.engine) as connection:
            lease = timedelta(seconds=self.deployment.settings.NX_BUILD_LEASE)
            if not sessions.renew(connection, self.session.session_identifier, self.token, lease):
                raise _ClaimGoneError

    def _check(self, xml: bytes) -> None:
        """Raises `InvalidRecordError` for a document that is not valid, which is kept for a look."""
        self._renew()
        try:
            self.tools.judge.check(xml)
        except InvalidRecordError as error:
            raise InvalidRecordError(f"{error} {self._kept(xml)}") from None

    def _kept(self, xml: bytes) -> str:
        """A sentence about where the document is."""
        digest = hashlib.sha256(xml).hexdigest()[:_DIGEST_CHARACTERS]
        name = f"{short_session_id(self.session.session_identifier)}-{digest}.xml"
        path = self.deployment.settings.records_path / REJECTED_FOLDER / name
        try:
            write_whole(path, xml)
        except OSError as error:
            return f"It could not be kept for a look ({error.strerror}: {path.parent})."
        return f"It is kept for a look: {path}."

    def _fail(self, error: Exception) -> SessionOutcome:
        if isinstance(error, InvalidRecordError):
            return self._end(SessionStatus.ERROR, str(error))
        logger.error("The record of session %s could not be built", self.session.session_identifier, exc_info=error)
        return self._end(SessionStatus.ERROR, f"{type(error).__name__}: {error}".splitlines()[0])

    def _give_back(self, problem: str, *, waits: bool = False) -> SessionOutcome:
        with transaction(self.deployment.engine) as connection:
            sessions.release(connection, self.session.session_identifier, self.token)
        return self._outcome(self.session.status, problem, waits=waits)

    def _let_go(self) -> None:
        """As `_give_back`, with nothing known of how the build would have ended."""
        with transaction(self.deployment.engine) as connection:
            if sessions.release(connection, self.session.session_identifier, self.token):
                builds.interrupted(connection, self.session.session_identifier)

    def _end(self, status: SessionStatus, problem: str | None) -> SessionOutcome:
        identifier = self.session.session_identifier
        with transaction(self.deployment.engine) as connection:
            stands = records.stands(connection, identifier)
            if sessions.release(connection, identifier, self.token) and not stands:
                sessions.set_status(connection, identifier, status)
        if not stands:
            return self._outcome(status, problem)
        if status is SessionStatus.NO_FILES_FOUND:
            problem = "no files were found, the record stays as it is"
        return self._outcome(self.session.status, problem)

    def _outcome(self, status: SessionStatus, problem: str | None, *, waits: bool = False) -> SessionOutcome:
        if problem is not None:  # it may name a file whose name is no text
            problem = storable_text(problem, len(problem))
        return SessionOutcome(self.session.session_identifier, status, problem, waits)


def too_early(end: datetime, now: datetime, quiet: timedelta) -> str | None:
    """Why the files of a session that ends at `end` need not be all there, or whole; None when they are.

    `quiet` is how long after its end a session is left alone: files come late to a share.
    """
    if now < end:
        return "the session has not ended yet"
    if now < end + quiet:
        return f"the session ended {(now - end).total_seconds():.0f} s ago and its files may still be growing"
    return None


def _local(moment: datetime, session: SessionToBuild) -> str:
    return moment.astimezone(session.zone).isoformat(sep=" ", timespec="seconds")


def _details(stored: dict[str, Any]) -> SessionDetails:
    try:
        return SessionDetails.parse(stored)
    except SessionDetailsError as error:
        raise ValueError(
            f"its details cannot be used: {error}; correct them with `nexus-tasks sessions describe`"
        ) from error


def _to_build(session: SessionRow, instrument: InstrumentRow, folder: str, details: SessionDetails) -> SessionToBuild:
    if session.start is None or session.end is None:
        raise ValueError("its START or END event is missing in session_log")
    zone = ZoneInfo(instrument.timezone)
    return SessionToBuild(
        identifier=session.session_identifier,
        instrument_pid=session.instrument_pid,
        instrument_name=instrument.display_name or session.instrument_pid,
        folder=Path(folder),
        user=session.user,
        start=session.start.astimezone(zone),
        end=session.end.astimezone(zone),
        zone=zone,
        clock_offset=timedelta(seconds=instrument.clock_offset_s),
        details=details,
    )
