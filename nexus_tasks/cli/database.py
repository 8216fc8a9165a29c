"""`nexus-tasks db`: migrations."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nexus_tasks.cli.output import CommandError, Json, console, print_json
from nexus_tasks.config import get_settings
from nexus_tasks.db import migrate
from nexus_tasks.delivery import admin
from nexus_tasks.entry import current_deployment
from nexus_tasks.integrations import nexuslims_import
from nexus_tasks.integrations.nexuslims_database import read

cli = typer.Typer(no_args_is_help=True, help="Bring the database up to date, or check it.")


@cli.command()
def upgrade() -> None:
    """Run the migrations that are missing; safe to repeat."""
    revision = migrate.upgrade(get_settings().database_url)
    console.print(f"The database is at revision {revision}.")


@cli.command()
def check() -> None:
    """Say whether the tables are exactly what this version expects."""
    revision = migrate.check(get_settings().database_url)
    console.print(f"The database is at revision {revision}, as this version expects.")


@cli.command()
def after_restore() -> None:
    """After PostgreSQL was restored from a backup: look up over there before anything is created."""
    count = admin.after_restore(current_deployment())
    console.print(f"{count} deliveries are looked up before they create anything; so are sessions from before now.")


@cli.command("import-nexuslims")
def import_nexuslims(
    file: Annotated[Path, typer.Argument(help="NexusLIMS's SQLite database: its NX_DB_PATH.")],
    records: Annotated[
        Path | None, typer.Option(help="NexusLIMS's folder of records; NX_RECORDS_PATH of nexus-tasks when not named.")
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be taken over, and keep nothing.")] = False,
    json: Json = False,
) -> None:
    """Take over instruments, sessions and uploads from NexusLIMS, so that nothing is sent again; safe to repeat."""
    deployment = current_deployment()
    folder = records or deployment.settings.records_path
    if records is not None and not records.is_dir():
        raise CommandError(f"There is no folder {records}: --records names NexusLIMS's folder of records.")
    imported = nexuslims_import.take_over(deployment, read(file), folder, dry_run=dry_run)
    if json:
        print_json({**imported.document(), "dry_run": dry_run})
        return
    for sentence in imported.sentences():
        console.print(escape(sentence), soft_wrap=True)
    if dry_run:
        console.print("Nothing of this was kept: it was a dry run.")
