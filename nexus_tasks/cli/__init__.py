"""The console script `nexus-tasks`: one module per command group; errors are one plain line that says what to do."""

import logging
import sys
from typing import Annotated

import click
import typer

from nexus_tasks import __version__
from nexus_tasks.cli import (
    build,
    database,
    demo,
    destinations,
    enqueue,
    inspect,
    instruments,
    prune,
    retry,
    sandbox,
    sessions,
    settings,
    status,
)
from nexus_tasks.cli.output import errors
from nexus_tasks.plain_error import PlainError

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Publish the records of microscopy sessions to CDCS, eLabFTW and LabArchives.",
)
cli.command("demo")(demo.demo)
cli.add_typer(sandbox.cli, name="sandbox")
cli.add_typer(database.cli, name="db")
cli.add_typer(instruments.cli, name="instruments")
cli.add_typer(sessions.cli, name="sessions")
cli.command("build")(build.build)
cli.command("enqueue")(enqueue.enqueue)
cli.command("status")(status.status)
cli.command("log")(status.log)
cli.command("retry")(retry.retry)
cli.command("abandon")(retry.abandon)
cli.add_typer(destinations.cli, name="destinations")
cli.command("inspect")(inspect.inspect)
cli.command("prune")(prune.prune)
cli.command("config")(settings.config)


@cli.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what happens on standard error.")] = False,
) -> None:
    if version:
        print(f"nexus-tasks {__version__}")  # noqa: T201 - what was asked for
        raise typer.Exit
    to_the_screen = logging.StreamHandler()
    to_the_screen.setLevel(logging.INFO if verbose else logging.CRITICAL)  # failures are told by the commands
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", handlers=[to_the_screen])
    if context.invoked_subcommand is None:
        raise click.UsageError("Missing command: see `nexus-tasks --help`.")


def main() -> None:
    """Run the command line; exit status 0 only when what was asked for holds."""
    try:
        cli()
    except PlainError as error:
        for line in str(error).splitlines():
            errors.print(f"Error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("Stopped.")
        sys.exit(130)
