"""`nexus-tasks build`: build what is to be built, and enqueue its export."""

from typing import Annotated

import typer
from rich.markup import escape

from nexus_tasks.builder import remote
from nexus_tasks.builder.record_builder import SessionOutcome, process_new_records
from nexus_tasks.cli.known import check_known
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
from nexus_tasks.cli.waiting import at_rest, watch
from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.deployment import Deployment
from nexus_tasks.entry import current_deployment
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
    enqueue: Annotated[
        bool, typer.Option("--enqueue", help="Have workers build, each session in a task of its own.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the exports, and succeed only if they do.")] = False,
    json: Json = False,
) -> None:
    """Build the records of the sessions that are TO_BE_BUILT and send them to every enabled destination."""
    deployment = current_deployment()
    wanted = check_known(deployment, session)
    if rebuild and not wanted:
        raise CommandError("--rebuild needs the sessions that are to be built again.")
    if dry_run:
        _show_work_list(deployment, wanted, as_json=json)
        return
    write_log_files(deployment.settings)
    if enqueue:
        _have_built(deployment, wanted, rebuild=rebuild, wait=wait, as_json=json)
        return
    outcomes = process_new_records(
        deployment, identifiers=wanted, rebuild=rebuild, on_outcome=(lambda _: None) if json else _say_outcome
    )
    built = [outcome.session_identifier for outcome in outcomes]
    # a timer that builds whatever there is must not fail for sessions that wait for their files
    holds = all(outcome.problem is None or (outcome.waits and not wanted) for outcome in outcomes)
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


def _have_built(
    deployment: Deployment, identifiers: list[str] | None, *, rebuild: bool, wait: bool, as_json: bool
) -> None:
    asked = remote.enqueue_builds(deployment, identifiers, rebuild=rebuild)
    sought = list(asked.identifiers)
    views = watch(deployment, sought, until=at_rest if wait else _yes, live=wait and not as_json)
    builds = {view.session_identifier: view.build for view in views if view.build is not None}
    problems = {identifier: build.problem for identifier, build in builds.items() if build.problem}
    waiting = {identifier for identifier, build in builds.items() if build.not_before is not None}
    if as_json:
        print_json([{**view.document(), "problem": problems.get(view.session_identifier)} for view in views])
    elif not sought:
        console.print("There is nothing to build.")
    elif wait:
        console.print(sessions_table(views))
    else:
        for identifier in sought:
            console.print(f"{escape(identifier)} is to be built by a worker")
    for identifier, problem in problems.items():
        _say_problem(identifier, problem, waits=identifier in waiting)
    if asked.broker_problem:
        errors.print(asked.broker_problem, style="red", markup=False, soft_wrap=True)
    if sought:
        print_warnings(unwell(deployment))
    completed = all(view.record_status is SessionStatus.COMPLETED for view in views)
    failing = problems.keys() - (() if identifiers else waiting)  # a timer must not fail for those that wait, as above
    if asked.broker_problem or failing or (wait and not completed):
        raise typer.Exit(1)


def _say_outcome(outcome: SessionOutcome) -> None:
    console.print(f"{escape(outcome.session_identifier)}: {coloured(outcome.status)}")
    if outcome.problem:
        _say_problem(outcome.session_identifier, outcome.problem, waits=outcome.waits)


def _say_problem(identifier: str, problem: str, *, waits: bool = False) -> None:
    style = "yellow" if waits else "red"
    errors.print(f"Session {identifier}: {problem}", style=style, markup=False, soft_wrap=True)


def _yes(_: object) -> bool:
    return True
