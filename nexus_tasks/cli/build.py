"""`nexus-tasks build`: build what is to be built, and enqueue its export."""

from typing import Annotated

import typer
from rich.markup import escape

from nexus_tasks.builder.record_builder import SessionOutcome, process_new_records
from nexus_tasks.cli.output import (
    CommandError,
    Json,
    coloured,
    console,
    errors,
    print_json,
    print_warnings,
    sessions_table,
)
from nexus_tasks.cli.sessions import check_known
from nexus_tasks.cli.waiting import at_rest, watch
from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.deployment import Deployment
from nexus_tasks.monitoring.logs import write_log_files
from nexus_tasks.monitoring.wellbeing import unwell
from nexus_tasks.states import SessionStatus


def build(
    session: Annotated[list[str] | None, typer.Argument(help="Only these sessions.")] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be built.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build these sessions again, and bring the destinations up to date.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the exports, and succeed only if they do.")] = False,
    json: Json = False,
) -> None:
    """Build the records of the sessions that are TO_BE_BUILT and send them to every enabled destination."""
    deployment = Deployment.current()
    wanted = check_known(deployment, session)
    if rebuild and not wanted:
        raise CommandError("--rebuild needs the sessions that are to be built again.")
    if dry_run:
        _show_work_list(deployment, wanted, as_json=json)
        return
    write_log_files(deployment.settings)
    outcomes = process_new_records(
        deployment, identifiers=wanted, rebuild=rebuild, on_outcome=(lambda _: None) if json else _say_outcome
    )
    built = [outcome.session_identifier for outcome in outcomes]
    holds = all(outcome.problem is None for outcome in outcomes)
    if wait:
        views = watch(deployment, built, until=at_rest, live=not json)
        holds = holds and all(view.record_status is SessionStatus.COMPLETED for view in views)
        if not json:
            console.print(sessions_table(views))
    if json:
        found = {view.session_identifier: view.document() for view in watch(deployment, built, until=_yes, live=False)}
        print_json([{**found[item.session_identifier], "problem": item.problem} for item in outcomes])
    elif not outcomes:
        console.print("There is nothing to build.")
    if outcomes:
        print_warnings(unwell(deployment))
    if not holds:
        raise typer.Exit(1)


def _show_work_list(deployment: Deployment, identifiers: list[str] | None, *, as_json: bool) -> None:
    with transaction(deployment.engine) as connection:
        rows = sessions.sessions(connection, identifiers)
    to_build = [row.session_identifier for row in rows if row.status is SessionStatus.TO_BE_BUILT]
    if as_json:
        print_json(to_build)
        return
    for identifier in to_build:
        console.print(f"{escape(identifier)} would be built")
    if not to_build:
        console.print("There is nothing to build.")


def _say_outcome(outcome: SessionOutcome) -> None:
    console.print(f"{escape(outcome.session_identifier)}: {coloured(outcome.status)}")
    if outcome.problem:
        errors.print(
            f"Session {outcome.session_identifier}: {outcome.problem}", style="red", markup=False, soft_wrap=True
        )


def _yes(_: object) -> bool:
    return True
