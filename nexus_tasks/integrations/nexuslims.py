"""NexusLIMS builds the records, nexus-tasks exports them: runs NexusLIMS's record builder with that one destination.

`python -m nexus_tasks.integrations.nexuslims` takes the options of `nexuslims build-records` and is started in place of
that, in NexusLIMS's own environment; see `docs/nexuslims.md`. Nothing of NexusLIMS is changed: its registry of
destinations is told, in this process only, that there is one.
"""

import logging
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from nexus_tasks.builder import foreign_previews, record_xml
from nexus_tasks.builder.deciding_schema import RecordJudge
from nexus_tasks.builder.record_xml import ActivityPaths
from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery.export_records import HandedOver, RecordToExport, export_records
from nexus_tasks.deployment import Deployment
from nexus_tasks.entry import current_deployment
from nexus_tasks.exporters.base import ExportResult
from nexus_tasks.plain_error import PlainError

NAME = "nexus_tasks"  # as which NexusLIMS's upload log knows it
PROGRAM = "python -m nexus_tasks.integrations.nexuslims"
KNOWN_ERRORS = (PlainError, OSError)

logger = logging.getLogger(__name__)


class NexusLimsContext(Protocol):
    """What of `nexusLIMS.exporters.base.ExportContext` is used."""

    xml_file_path: Path
    session_identifier: str
    instrument_pid: str
    dt_from: datetime
    dt_to: datetime
    user: str | None


class NexusTasksDestination:
    """A destination as NexusLIMS knows them: exporting to it is handing the record over."""

    name = NAME
    priority = 1000
    enabled = True

    def validate_config(self) -> tuple[bool, str | None]:
        """Whether records could be handed over now; NexusLIMS asks this before it builds anything."""
        try:
            deployment = current_deployment()
            with transaction(deployment.engine) as connection:
                sessions.instruments(connection)
        except KNOWN_ERRORS as error:
            return False, str(error)
        if not deployment.registry.enabled:
            return False, "No destination is enabled in nexus-tasks: see `nexus-tasks destinations`."
        return True, None

    def export(self, context: NexusLimsContext) -> ExportResult:
        """Hand the record over; success means that nexus-tasks has it, whatever dies. Raises nothing."""
        try:
            handed_over = hand_over(context, current_deployment(), nexuslims_data_path())
        except KNOWN_ERRORS as error:
            reason = str(error)
        except Exception as error:  # NexusLIMS would leave all other sessions of this run behind
            logger.exception("Session %s cannot be handed over", context.session_identifier)
            reason = f"{type(error).__name__}: {error}"
        else:
            metadata: dict[str, Any] = {"destinations": list(handed_over.destinations)}
            if handed_over.broker_problem:
                metadata["broker_problem"] = handed_over.broker_problem
            return ExportResult(True, NAME, record_id=str(handed_over.record_ids[0]), metadata=metadata)
        return ExportResult(False, NAME, error_message=f"{reason} Hand it over later: {_by_hand(context)}")


def hand_over(context: NexusLimsContext, deployment: Deployment, data_path: Path) -> HandedOver:
    """Give one built record to nexus-tasks; `data_path` is where NexusLIMS keeps the previews.

    Raises `KNOWN_ERRORS`. Handing the same record over again changes nothing.
    """
    xml = context.xml_file_path.read_bytes()
    RecordJudge(deployment.registry, deployment.settings.NX_SCHEMA_PATH).check(xml)
    with transaction(deployment.engine) as connection:
        known = sessions.get_instrument(connection, context.instrument_pid)
    zone = known.timezone if known else _nexuslims_timezone(context.instrument_pid)
    # the record itself says which picture belongs to which file; NexusLIMS's lists of both may differ in length
    activities = _with_previews(
        record_xml.read_activities(xml), data_path, deployment.settings.previews_path, context.session_identifier
    )
    record = RecordToExport(
        session_identifier=context.session_identifier,
        instrument_pid=context.instrument_pid,
        dt_from=_aware(context.dt_from, zone),
        dt_to=_aware(context.dt_to, zone),
        timezone=zone,
        user=context.user,
        xml=xml,
        activities=list(activities),
    )
    return export_records([record], deployment)


def _with_previews(
    activities: Sequence[ActivityPaths], data_path: Path, preview_root: Path, session_identifier: str
) -> list[ActivityPaths]:
    """The activities with previews that every worker sees; those that are gone are left out."""
    folder = foreign_previews.folder_of(session_identifier)

    def copied(preview: str | None) -> str | None:
        if preview is None or not (data_path / preview).is_file():
            return None
        return foreign_previews.copy(data_path / preview, preview_root, f"{folder}/{preview}")

    return [
        {"files": list(activity["files"]), "previews": [copied(preview) for preview in activity["previews"]]}
        for activity in activities
    ]


def _aware(moment: datetime, zone: str) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=ZoneInfo(zone))


def _by_hand(context: NexusLimsContext) -> str:
    return shlex.join(
        [
            *("nexus-tasks", "enqueue", str(context.xml_file_path)),
            *("--session", context.session_identifier, "--instrument", context.instrument_pid),
            *("--start", context.dt_from.isoformat(), "--end", context.dt_to.isoformat()),
            *(("--user", context.user) if context.user else ()),
        ]
    )


# --- what is asked of NexusLIMS itself; it is no dependency, and ships no types


def nexuslims_data_path() -> Path:
    """Where NexusLIMS keeps its previews."""
    return Path(str(import_module("nexusLIMS.config").settings.NX_DATA_PATH))


def _nexuslims_timezone(instrument_pid: str) -> str:
    engine = import_module("nexusLIMS.db.engine").get_engine()
    with import_module("sqlmodel").Session(engine) as session:
        return str(session.get(import_module("nexusLIMS.db.models").Instrument, instrument_pid).timezone_str)


def take_the_place_of_destinations() -> None:
    """From here on this process's NexusLIMS knows one destination, whichever others its settings name."""
    destination = NexusTasksDestination()
    import_module("nexusLIMS.exporters.registry").get_registry().get_enabled_destinations = lambda: [destination]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `nexuslims build-records` with these arguments (the process's, if none are given)."""
    try:
        take_the_place_of_destinations()
        command = import_module("nexusLIMS.cli.process_records").main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "nexusLIMS":
            raise
        sys.exit("NexusLIMS is not installed in this environment: install nexus-tasks into that of NexusLIMS.")
    command(args=list(sys.argv[1:] if arguments is None else arguments), prog_name=PROGRAM)


if __name__ == "__main__":
    main()
