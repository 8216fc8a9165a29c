"""`nexus-tasks status` and `log`: where the records are, what to look at, and what the destinations answered."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from nexus_tasks.cli.known import check_known
from nexus_tasks.cli.output import Json, console, print_json, sessions_table
from nexus_tasks.cli.waiting import at_rest, watch
from nexus_tasks.db import upload_log
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.troubles import troubles
from nexus_tasks.entry import current_deployment
from nexus_tasks.monitoring.attention import Finding, attention, database_of_another_version
from nexus_tasks.monitoring.status import SessionView, view


def status(
    session: Annotated[str | None, typer.Argument(help="Only this session.")] = None,
    *,
    follow: Annotated[bool, typer.Option("--watch", help="Follow until nothing is going on any more.")] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only sessions with something that failed, or has failed for a day.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what needs attention; exit status 1 when anything does.")
    ] = False,
    json: Json = False,
) -> None:
    """Show sessions and their deliveries, below what needs attention."""
    deployment = current_deployment()
    other_version = database_of_another_version(deployment)
    if check:
        _check([other_version] if other_version else attention(deployment), json=json)
        return
    if other_version:
        _show([], [other_version], json=json)
        raise typer.Exit(1)
    wanted = check_known(deployment, [session] if session else None)
    if failed:
        with transaction(deployment.engine) as connection:
            wanted = [each for each in troubles(connection).sessions if wanted is None or each in wanted]
    views = (
        watch(deployment, wanted, until=at_rest, live=not json)
        if follow
        else view(deployment.engine, deployment.settings, wanted)
    )
    _show(views, attention(deployment), json=json)


def _show(views: list[SessionView], findings: list[Finding], *, json: bool) -> None:
    if json:
        print_json({"attention": _documents(findings), "sessions": [item.document() for item in views]})
        return
    _print(findings)
    console.print(sessions_table(views))


def _check(findings: list[Finding], *, json: bool) -> None:
    if json:
        print_json({"attention": _documents(findings)})
    elif findings:
        _print(findings)
    else:
        console.print("Nothing needs attention.")
    if findings:
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    for finding in findings:
        console.print(f"! {finding.message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _documents(findings: list[Finding]) -> list[dict[str, str]]:
    return [{"about": finding.about, "message": finding.message} for finding in findings]


def log(session: Annotated[str, typer.Argument(help="Session identifier.")], *, json: Json = False) -> None:
    """Show a session's upload log, newest first."""
    deployment = current_deployment()
    check_known(deployment, [session])
    with transaction(deployment.engine) as connection:
        rows = upload_log.of_session(connection, session)
    if json:
        print_json([row.__dict__ for row in rows])
        return
    table = Table("time", "destination", "", "link, or what went wrong", pad_edge=False)
    for row in rows:
        told = row.record_url if row.success else row.error_message
        mark = "[green]✓[/]" if row.success else "[red]✗[/]"
        table.add_row(f"{row.timestamp.astimezone():%Y-%m-%d %H:%M:%S}", row.destination_name, mark, escape(told or ""))
    console.print(table)
