"""`process_new_records`: claims the sessions that are to be built, builds their records, hands them over.

The only module of the builder that knows the database, and the one place where the builder meets the delivery.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

from nexus_tasks.builder.files import DataFolderError
from nexus_tasks.builder.readers import FileReader, ReaderStartError
from nexus_tasks.builder.record import SessionToBuild, build_record
from nexus_tasks.config import SettingsError
from nexus_tasks.db import sessions
from nexus_tasks.db.engine import DatabaseError, transaction
from nexus_tasks.db.rows import InstrumentRow, SessionRow
from nexus_tasks.delivery.enqueue import ClaimLostError, RecordToExport, export_records
from nexus_tasks.deployment import Deployment
from nexus_tasks.states import SessionStatus

CLAIM_LEASE = timedelta(minutes=15)  # renewed before every file; far above the time limit for reading one

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionOutcome:
    """What building one session came to; `problem` is one line when something has to be done about it."""

    session_identifier: str
    status: SessionStatus
    problem: str | None = None


class _ClaimGoneError(Exception):
    """The claim expired while building, and another builder took the session."""


def process_new_records(
    deployment: Deployment | None = None,
    *,
    identifiers: Sequence[str] | None = None,
    rebuild: bool = False,
    on_outcome: Callable[[SessionOutcome], None] = lambda _: None,
) -> list[SessionOutcome]:
    """Build every session that is `TO_BE_BUILT` (or those of `identifiers` that are), oldest first, and hand it over.

    With `rebuild`, those of `identifiers` are built again whatever their status: a record that comes out differently
    replaces the one before, and the destinations are brought up to date in place. `on_outcome` hears of each as it is
    done. A session whose data folder cannot be read stays `TO_BE_BUILT`; one whose record cannot be built becomes
    `ERROR`, one without files `NO_FILES_FOUND`. Any number of builders may run at once.

    Raises `SettingsError` when there is no data root, `DatabaseError`.
    """
    deployment = deployment or Deployment.current()
    data_root = deployment.settings.NX_INSTRUMENT_DATA_PATH
    if data_root is None:
        raise SettingsError("NX_INSTRUMENT_DATA_PATH is missing: name the folder that holds the microscope files.")
    outcomes: list[SessionOutcome] = []
    with FileReader() as reader:
        while True:
            with transaction(deployment.engine) as connection:
                done = [outcome.session_identifier for outcome in outcomes]
                claimed = sessions.claim(connection, identifiers, CLAIM_LEASE, passed_over=done, rebuild=rebuild)
            if claimed is None:
                return outcomes
            outcome = _Build(*claimed, reader, data_root, deployment, rebuild=rebuild).run()
            logger.log(
                logging.WARNING if outcome.problem else logging.INFO,
                "Session %s: %s%s",
                outcome.session_identifier,
                outcome.status,
                f": {outcome.problem}" if outcome.problem else "",
            )
            outcomes.append(outcome)
            on_outcome(outcome)


@dataclass(frozen=True)
class _Build:
    """One claimed session on its way to a record."""

    session: SessionRow
    token: UUID
    reader: FileReader
    data_root: Path
    deployment: Deployment
    rebuild: bool

    def run(self) -> SessionOutcome:
        """Build and hand over; whatever goes wrong ends in a status, or with the session given back."""
        try:
            record = self._record()
            if record is None:
                return self._end(SessionStatus.NO_FILES_FOUND, None)
            return self._hand_over(record)
        except (DataFolderError, ReaderStartError) as error:
            return self._give_back(str(error))
        except OSError as error:  # no room for previews, a share that is away: not the session's fault
            return self._give_back(f"{type(error).__name__}: {error}")
        except (_ClaimGoneError, ClaimLostError):
            return self._outcome(self.session.status, "another builder has taken it over")
        except DatabaseError:
            raise
        except Exception as error:
            logger.exception("The record of session %s could not be built", self.session.session_identifier)
            return self._end(SessionStatus.ERROR, f"{type(error).__name__}: {error}".splitlines()[0])

    def _hand_over(self, record: RecordToExport) -> SessionOutcome:
        handed_over = export_records([record], self.deployment)
        problem = handed_over.broker_problem
        if not handed_over.destinations:
            problem = (
                "no destination is enabled, so the record goes nowhere: see `nexus-tasks destinations`, "
                "then send it with `nexus-tasks destinations backfill`"
            )
        return self._outcome(SessionStatus.BUILT_NOT_EXPORTED, problem)

    def _record(self) -> RecordToExport | None:
        with transaction(self.deployment.engine) as connection:
            instrument = sessions.get_instrument(connection, self.session.instrument_pid)
        if instrument is None or instrument.filestore_path is None:
            raise DataFolderError(
                f"Instrument {self.session.instrument_pid} has no data folder: "
                "name it with `nexus-tasks instruments add`."
            )
        to_build = _to_build(self.session, instrument, instrument.filestore_path)
        built = build_record(
            to_build,
            data_root=self.data_root,
            preview_root=self.deployment.settings.previews_path,
            reader=self.reader,
            heartbeat=self._renew,
        )
        if built is None:
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
            if not sessions.renew(connection, self.session.session_identifier, self.token, CLAIM_LEASE):
                raise _ClaimGoneError

    def _give_back(self, problem: str) -> SessionOutcome:
        with transaction(self.deployment.engine) as connection:
            sessions.release(connection, self.session.session_identifier, self.token)
        return self._outcome(self.session.status, problem)

    def _end(self, status: SessionStatus, problem: str | None) -> SessionOutcome:
        if self.rebuild:  # there is a record already: its status stands
            return self._give_back(problem or "no files were found, the record stays as it is")
        with transaction(self.deployment.engine) as connection:
            if sessions.release(connection, self.session.session_identifier, self.token):
                sessions.set_status(connection, self.session.session_identifier, status)
        return self._outcome(status, problem)

    def _outcome(self, status: SessionStatus, problem: str | None) -> SessionOutcome:
        return SessionOutcome(self.session.session_identifier, status, problem)


def _to_build(session: SessionRow, instrument: InstrumentRow, folder: str) -> SessionToBuild:
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
    )
