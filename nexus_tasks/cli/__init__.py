"""The console script `nexus-tasks`: one module per command group; errors are one plain line that says what to do.

A command's module is imported when the command is called, or when `--help` lists them all.
"""

import logging
import sys
from typing import Annotated

import typer

from nexus_tasks import __version__
from nexus_tasks.cli.commands import LazyGroup
from nexus_tasks.plain_error import PlainError

cli = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Publish the records of microscopy sessions to CDCS, eLabFTW and LabArchives.",
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"nexus-tasks {__version__}")  # noqa: T201 - what was asked for
        raise typer.Exit


# --version is answered before any other option is looked at: for those, Typer imports Pydantic
Version = Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what happens on standard error.")]


@cli.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    *,
    version: Version = False,  # noqa: ARG001 - has been answered
    verbose: Verbose = False,
) -> None:
    to_the_screen = logging.StreamHandler()
    to_the_screen.setLevel(logging.INFO if verbose else logging.CRITICAL)  # failures are told by the commands
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", handlers=[to_the_screen])
    if context.invoked_subcommand is None:
        context.fail("Missing command: see `nexus-tasks --help`.")


def main() -> None:
    """Run the command line; exit status 0 only when what was asked for holds."""
    try:
        cli()
    except PlainError as error:
        from nexus_tasks.cli.output import errors

        for line in str(error).splitlines():
            errors.print(f"Error: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        from nexus_tasks.cli.output import errors

        errors.print("Stopped.")
        sys.exit(130)
