"""Which revision the tables are at and which one this version needs, without Alembic: `status` asks every time.

A migration's file is named `{revision}_{words}.py`, and revisions are numbered in their order.
"""

from pathlib import Path

from sqlalchemy import Connection, func, select, text

MIGRATIONS = Path(__file__).parent / "migrations"


def known() -> list[str]:
    """Every revision that this version knows, the newest last."""
    return sorted(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def current(connection: Connection) -> str | None:
    """The revision of the tables; None in a database that was never migrated."""
    if connection.scalar(select(func.to_regclass("alembic_version"))) is None:
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision
