"""Brings the tables up to date, and says whether they are: `nexus-tasks db upgrade` and `db check` call it."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from nexus_tasks.db.engine import DatabaseError, engine_for_one_use, transaction
from nexus_tasks.db.models import Base

MIGRATIONS = Path(__file__).parent / "migrations"
UPGRADE_LOCK = 0x6E65787573  # an advisory lock: two upgrades at once run one after the other


def upgrade(url: str) -> str:
    """Run the migrations that are missing, and return the revision reached.

    Safe to run again, and by several machines at once. Raises `DatabaseError`.
    """
    with transaction(engine_for_one_use(url)) as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        command.upgrade(_config(connection), "head")
    return head()


def check(url: str) -> str:
    """Return the revision when the database is exactly what the code expects.

    Raises `DatabaseError` when it is not reachable, behind, ahead, or differs from the models.
    """
    with transaction(engine_for_one_use(url)) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": _is_ours})
        current = context.get_current_revision()
        if current != head():
            found = current or "none"
            raise DatabaseError(
                f"The database is at revision {found}, this version needs {head()}: run `nexus-tasks db upgrade`."
            )
        if differences := compare_metadata(context, Base.metadata):
            raise DatabaseError(f"The tables differ from what this version expects: {differences[0]}.")
    return head()


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Other programs may have tables in the same database: a result backend, for one."""
    return kind != "table" or name in Base.metadata.tables


def head() -> str:
    """The newest revision that this version knows."""
    revision = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    if revision is None:
        raise DatabaseError(f"There are no migrations in {MIGRATIONS}: the installation is not complete.")
    return revision


def revisions() -> set[str]:
    """Every revision that this version knows."""
    return {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
