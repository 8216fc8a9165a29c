import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from nexus_tasks.db import destinations
from nexus_tasks.db.engine import DatabaseError, engine_for_one_use, transaction
from nexus_tasks.db.migrate import check, head, upgrade
from nexus_tasks.db.models import Base

if TYPE_CHECKING:
    from nexus_tasks.sandbox.postgres import EmbeddedPostgres


@pytest.fixture
def empty_database(postgres_server: "EmbeddedPostgres", database_names: Iterator[str]) -> Iterator[str]:
    """A database without tables."""
    name = next(database_names)
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


def tables_in(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {name for (name,) in rows}


def refusal_of(url: str) -> str:
    with pytest.raises(DatabaseError) as refused:
        check(url)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_an_upgrade_makes_every_table(empty_database: str) -> None:
    assert upgrade(empty_database) == head()
    assert tables_in(empty_database) == {*Base.metadata.tables, "alembic_version"}
    assert check(empty_database) == head()


def test_an_upgrade_again_changes_nothing(empty_database: str) -> None:
    upgrade(empty_database)
    with psycopg.connect(empty_database) as connection:
        connection.execute("INSERT INTO instruments (instrument_pid) VALUES ('Titan')")
    assert upgrade(empty_database) == head()
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT instrument_pid FROM instruments").fetchall() == [("Titan",)]


def test_several_machines_may_upgrade_at_once(empty_database: str) -> None:
    together = threading.Barrier(4)

    def upgrade_together(_: int) -> str:
        together.wait(10)
        return upgrade(empty_database)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(upgrade_together, range(4))) == {head()}
    assert check(empty_database) == head()


def test_the_models_are_what_the_migrations_make(database_url: str) -> None:
    with transaction(engine_for_one_use(database_url)) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_every_check_constraint_of_the_models_is_in_the_database(database_url: str) -> None:
    declared = {
        str(constraint.name)
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if type(constraint).__name__ == "CheckConstraint"
    }
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT conname FROM pg_constraint WHERE contype = 'c'").fetchall()
    assert {name for (name,) in rows if name.startswith("ck_")} == declared


def test_tables_of_others_are_none_of_our_business(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE celery_taskmeta (id integer PRIMARY KEY)")
    assert check(database_url) == head()


def test_a_query_for_a_column_that_comes_with_an_upgrade_says_so(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE destination DROP COLUMN reason")
    with (
        pytest.raises(DatabaseError, match="is behind this version: run `nexus-tasks db upgrade`"),
        transaction(engine_for_one_use(database_url)) as connection,
    ):
        destinations.breaker_of(connection, "cdcs")


def test_an_empty_database_is_told_to_be_upgraded(empty_database: str) -> None:
    message = refusal_of(empty_database)
    assert head() in message
    assert "run `nexus-tasks db upgrade`" in message


def test_a_database_of_another_version_is_refused(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "revision 9999" in refusal_of(database_url)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE upload_log DROP COLUMN error_message", "error_message"),
        ("ALTER TABLE delivery ADD COLUMN colour text", "colour"),
        ("ALTER TABLE run ALTER COLUMN state TYPE varchar(10)", "state"),
        ("DROP INDEX uq_run_open", "uq_run_open"),
        ("DROP TABLE build_claim", "build_claim"),
    ],
)
def test_an_altered_table_is_refused_in_one_line(database_url: str, change: str, named: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(change.encode())
    message = refusal_of(database_url)
    assert message.startswith("The tables differ from what this version expects")
    assert named in message


def test_a_database_that_is_away_is_one_line_without_the_password() -> None:
    message = refusal_of("postgresql://nexus:s3cret@127.0.0.1:1/nexus")
    assert "s3cret" not in message
    assert "NX_DATABASE_URL" in message


def test_a_query_on_an_empty_database_says_what_to_run(empty_database: str) -> None:
    engine = engine_for_one_use(empty_database)
    with (
        pytest.raises(DatabaseError, match="run `nexus-tasks db upgrade`"),
        transaction(engine) as connection,
    ):
        connection.exec_driver_sql("SELECT * FROM record")
