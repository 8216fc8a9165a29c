"""`nexus-tasks db`: migrations."""

import typer

from nexus_tasks.cli.output import console
from nexus_tasks.config import get_settings
from nexus_tasks.db import migrate
from nexus_tasks.delivery import operate
from nexus_tasks.deployment import Deployment

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
    count = operate.after_restore(Deployment.current())
    console.print(f"{count} deliveries are looked up before they create anything; so are sessions from before now.")
