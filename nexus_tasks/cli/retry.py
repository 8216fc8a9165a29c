"""`nexus-tasks retry` and `abandon`: have deliveries tried again now, or give one up."""

from typing import Annotated

import typer
from rich.markup import escape

from nexus_tasks.cli.known import check_known
from nexus_tasks.cli.output import CommandError, console, print_warnings
from nexus_tasks.db import builds
from nexus_tasks.db.engine import transaction
from nexus_tasks.delivery import admin
from nexus_tasks.entry import current_deployment
from nexus_tasks.monitoring.wellbeing import unwell


def retry(
    session: Annotated[list[str] | None, typer.Argument(help="Only these sessions.")] = None,
    *,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Only what has failed for good, and what was skipped for it; of all sessions."),
    ] = False,
    destination: Annotated[str | None, typer.Option(help="Only this destination.")] = None,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Make the object again: somebody has deleted it over there.")
    ] = False,
) -> None:
    """Make deliveries due now that wait or have failed, or were skipped because of one; what is well is left alone."""
    deployment = current_deployment()
    if not session and not failed and destination is None:
        raise CommandError("Say which sessions, or --failed, or --destination.")
    if recreate and (not session or destination is None):
        raise CommandError("--recreate needs the session and --destination: it makes a new object over there.")
    wanted = check_known(deployment, session)
    if destination is not None:
        admin.plugin_of(deployment, destination)
    count = admin.retry(deployment, wanted, destination=destination, only_failed=failed, recreate=recreate)
    console.print(f"{count} deliveries are due now." if count else "There is nothing to retry.")
    if count:
        print_warnings(unwell(deployment))


def abandon(
    session: Annotated[str, typer.Argument(help="Session identifier.")],
    destination: Annotated[
        str | None, typer.Option(help="The destination that is given up; without it, a record that cannot be built.")
    ] = None,
) -> None:
    """Give one delivery, or a failed build, up: it stays failed, and needs no attention any more."""
    deployment = current_deployment()
    check_known(deployment, [session])
    if destination is None:
        with transaction(deployment.engine) as connection:
            if not builds.give_up(connection, session):
                raise CommandError(f"No build of session {session} has failed: name a delivery with --destination.")
        console.print(f"The record of session {escape(session)} is given up.")
        return
    admin.abandon(deployment, session, destination)
    console.print(f"The delivery of session {escape(session)} to {escape(destination)} is given up.")
