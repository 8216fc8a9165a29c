"""A migration runs beside workers of the version before: it only adds, and what it adds may be left out by them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from nexus_tasks.db import migrate
from nexus_tasks.db.engine import engine_for_one_use, transaction

if TYPE_CHECKING:
    from nexus_tasks.sandbox.postgres import EmbeddedPostgres

REVISIONS = [script.revision for script in ScriptDirectory(str(migrate.MIGRATIONS)).walk_revisions()][::-1]
COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable = 'YES' OR column_default IS NOT NULL OR is_identity = 'YES'
    FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
"""
RULES = """
    SELECT conrelid::regclass::text || ': ' || pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f', 'u')
"""


@dataclass(frozen=True)
class Shape:
    """What a worker relies on: columns with their types, whether they may be left out, and the rules for rows."""

    types: dict[tuple[str, str], str]
    optional: frozenset[tuple[str, str]]
    rules: frozenset[str]

    @classmethod
    def of(cls, connection: Connection) -> "Shape":
        columns = connection.execute(text(COLUMNS)).all()
        return cls(
            {(table, column): kind for table, column, kind, _ in columns},
            frozenset((table, column) for table, column, _, optional in columns if optional),
            frozenset(connection.execute(text(RULES)).scalars()),
        )

    @property
    def tables(self) -> set[str]:
        return {table for table, _ in self.types}


@pytest.fixture
def empty_database(postgres_server: "EmbeddedPostgres", database_names: Iterator[str]) -> Iterator[str]:
    name = next(database_names)
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


def upgraded(url: str, revision: str) -> Shape:
    with transaction(engine_for_one_use(url)) as connection:
        command.upgrade(migrate._config(connection), revision)
    with transaction(engine_for_one_use(url)) as connection:
        return Shape.of(connection)


def test_there_are_migrations_to_look_at() -> None:
    assert REVISIONS[0] == "0001"
    assert REVISIONS[-1] == migrate.head()


def test_each_migration_only_adds_and_what_it_adds_may_be_left_out(empty_database: str) -> None:
    before = upgraded(empty_database, REVISIONS[0])
    for revision in REVISIONS[1:]:
        after = upgraded(empty_database, revision)
        changed = {column for column, kind in before.types.items() if after.types.get(column) != kind}
        assert changed == set(), f"{revision} takes away or changes what workers of the version before use"
        assert before.optional <= after.optional, f"{revision} demands what workers of the version before leave out"
        needed = {
            (table, column)
            for table, column in after.types.keys() - before.types.keys() - after.optional
            if table in before.tables
        }
        assert needed == set(), f"{revision} adds columns that workers of the version before do not know to fill"
        stricter = {rule for rule in after.rules - before.rules if rule.partition(":")[0] in before.tables}
        assert stricter == set(), f"{revision} adds a rule that rows of the version before may break"
        before = after
