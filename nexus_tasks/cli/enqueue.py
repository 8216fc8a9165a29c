"""`nexus-tasks enqueue`: export a record that another builder made."""

from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from rich.markup import escape

from nexus_tasks.builder import record_xml
from nexus_tasks.builder.deciding_schema import RecordJudge
from nexus_tasks.builder.foreign_previews import with_previews
from nexus_tasks.cli.output import CommandError, Json, console, errors, print_json, print_warnings, sessions_table
from nexus_tasks.cli.times import moment
from nexus_tasks.cli.waiting import at_rest, watch
from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery.export_records import RecordToExport, export_records
from nexus_tasks.entry import current_deployment
from nexus_tasks.monitoring.logs import write_log_files
from nexus_tasks.monitoring.status import view
from nexus_tasks.monitoring.wellbeing import unwell
from nexus_tasks.states import SessionStatus


def enqueue(
    record: Annotated[Path, typer.Argument(help="The record, an XML file.")],
    session: Annotated[str, typer.Option(help="Session identifier.")],
    instrument: Annotated[str, typer.Option(help="The instrument's identifier.")],
    start: Annotated[str, typer.Option(help="Start of the session, ISO 8601; in the instrument's zone or UTC.")],
    end: Annotated[str, typer.Option(help="End of the session; likewise.")],
    user: Annotated[str | None, typer.Option(help="Who used the instrument.")] = None,
    preview: Annotated[list[Path] | None, typer.Option(help="A preview picture; may be given again.")] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the export, and succeed only if it does.")] = False,
    json: Json = False,
) -> None:
    """Export a record that another builder made; it is copied, and handing it over again changes nothing."""
    deployment = current_deployment()
    write_log_files(deployment.settings)
    with transaction(deployment.engine) as connection:
        known = sessions.get_instrument(connection, instrument)
    zone = known.timezone if known else "UTC"
    dt_from, dt_to = moment(start, ZoneInfo(zone)), moment(end, ZoneInfo(zone))
    if dt_to < dt_from:
        raise CommandError(f"Session {session} ends before it starts.")
    xml = _read(record)
    RecordJudge(deployment.registry, deployment.settings.NX_SCHEMA_PATH).check(xml)
    activities = with_previews(
        record_xml.read_activities(xml), preview or [], deployment.settings.previews_path, session
    )
    handed_over = export_records(
        [RecordToExport(session, instrument, dt_from, dt_to, zone, user, xml, activities)], deployment
    )
    views = (
        watch(deployment, [session], until=at_rest, live=not json)
        if wait
        else view(deployment.engine, deployment.settings, [session])
    )
    if json:
        print_json(views[0].document())
    elif wait:
        console.print(sessions_table(views))
    else:
        console.print(f"Session {escape(session)} goes to {', '.join(handed_over.destinations) or 'no destination'}.")
    print_warnings(unwell(deployment))
    problem = handed_over.broker_problem
    if not views[0].deliveries:
        problem = (
            "No destination is enabled, so the record goes nowhere: see `nexus-tasks destinations`, "
            "then send it with `nexus-tasks destinations backfill`."
        )
    if problem:
        errors.print(problem, style="red", markup=False, soft_wrap=True)
    if problem or (wait and views[0].record_status is not SessionStatus.COMPLETED):
        raise typer.Exit(1)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandError(f"The record {file} cannot be read: {error.strerror}.") from error
