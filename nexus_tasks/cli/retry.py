"""`nexus-tasks retry` and `abandon`: have deliveries tried again now, or give one up."""

from typing import Annotated

import typer
from rich.markup import escape

from nexus_tasks.cli.output import CommandError, console
from nexus_tasks.cli.sessions import check_known
from nexus_tasks.delivery import operate
from nexus_tasks.entry import current_deployment


def retry(
    session: Annotated[list[str] | None, typer.Argument(help="Only these sessions.")] = None,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Only what has failed for good; of all sessions.")] = False,
    destination: Annotated[str | None, typer.Option(help="Only this destination.")] = None,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Make the object again: somebody has deleted it over there.")
    ] = False,
) -> None:
    """Make deliveries due now that wait or have failed; what is settled well is left alone."""
    deployment = current_deployment()
    if not session and not failed and destination is None:
        raise CommandError("Say which sessions, or --failed, or --destination.")
    if recreate and (not session or destination is None):
        raise CommandError("--recreate needs the session and --destination: it makes a new object over there.")
    wanted = check_known(deployment, session)
    if destination is not None and deployment.registry.get(destination) is None:
        known = ", ".join(item.name for item in deployment.registry.destinations)
        raise CommandError(f"There is no destination {destination}: there are {known}.")
    count = operate.retry(deployment, wanted, destination=destination, only_failed=failed, recreate=recreate)
    console.print(f"{count} deliveries are due now." if count else "There is nothing to retry.")


def abandon(
    session: Annotated[str, typer.Argument(help="Session identifier.")],
    destination: Annotated[str, typer.Option(help="The destination that is given up.")],
) -> None:
    """Give one delivery up: it counts as failed."""
    deployment = current_deployment()
    check_known(deployment, [session])
    operate.abandon(deployment, session, destination)
    console.print(f"The delivery of session {escape(session)} to {escape(destination)} is given up.")
