"""`nexus-tasks instruments`: the microscopes, and where they store their files."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from nexus_tasks.cli.output import CommandError, Json, console, print_json
from nexus_tasks.cli.times import zone
from nexus_tasks.db import sessions
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.rows import InstrumentRow
from nexus_tasks.entry import current_deployment

LARGEST_CLOCK_OFFSET = 366 * 24 * 3600  # seconds

cli = typer.Typer(no_args_is_help=True, help="The microscopes, and where they store their files.")


@cli.command()
def add(
    instrument_pid: Annotated[str, typer.Argument(help="Identifier, e.g. FEI-Titan-TEM-012345.")],
    folder: Annotated[str, typer.Option(help="Its folder, relative to NX_INSTRUMENT_DATA_PATH.")],
    name: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    location: Annotated[str | None, typer.Option(help="Building and room.")] = None,
    timezone: Annotated[
        str | None, typer.Option(help="IANA name, e.g. America/New_York; UTC for a new instrument.")
    ] = None,
    clock_offset: Annotated[
        float | None,
        typer.Option(help="Seconds that the clock of its PC is ahead (negative: behind); files are dated back by it."),
    ] = None,
) -> None:
    """Add an instrument, or change what is named here of the one of that identifier."""
    if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts:
        raise CommandError(f"The folder {folder} must be relative to NX_INSTRUMENT_DATA_PATH and stay inside it.")
    if timezone is not None:
        zone(timezone)  # it must be one
    if clock_offset is not None and not abs(clock_offset) <= LARGEST_CLOCK_OFFSET:  # nor is NaN
        raise CommandError(f"The clock offset {clock_offset:g} is not a number of seconds below a year.")
    named = {
        "display_name": name,
        "location": location,
        "filestore_path": folder,
        "timezone": timezone,
        "clock_offset_s": clock_offset,
    }
    given: dict[str, Any] = {field: value for field, value in named.items() if value is not None}
    row = replace(InstrumentRow(instrument_pid, None, None, None, "UTC"), **given)
    with transaction(current_deployment().engine) as connection:
        new = sessions.add_instrument(connection, row, only=given)
    console.print(f"Instrument {escape(instrument_pid)} {'added' if new else 'brought up to date'}.")


@cli.command("list")
def list_(*, json: Json = False) -> None:
    """Show the instruments."""
    with transaction(current_deployment().engine) as connection:
        rows = sessions.instruments(connection)
    if json:
        print_json([row.__dict__ for row in rows])
        return
    table = Table("instrument", "name", "location", "folder", "time zone", "clock ahead", pad_edge=False)
    for row in rows:
        ahead = f"{row.clock_offset_s:g} s" if row.clock_offset_s else ""
        cells = (row.instrument_pid, row.display_name, row.location, row.filestore_path, row.timezone, ahead)
        table.add_row(*(escape(cell or "") for cell in cells))
    console.print(table)
