"""What becomes of transactions when the server ends them, only reads, or has no connection left."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import IntegrityError, InternalError, ProgrammingError

from nexus_tasks.db import engine as engine_module
from nexus_tasks.db import runs
from nexus_tasks.db.engine import DatabaseError, engine_for, transaction

IDLE_TOO_LONG_MS = 500
END_THE_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND state = 'idle in transaction'"
)
WAITED_FOR_S = 60  # for what happens by itself
INSERT = "INSERT INTO destination (name, \"window\") VALUES ('cdcs', 1)"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = engine_for(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def frozen(database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The engine of another process, whose transactions the server ends soon after the process has stopped."""
    monkeypatch.setattr(engine_module, "IDLE_IN_TRANSACTION_TIMEOUT_MS", IDLE_TOO_LONG_MS)
    impatient = engine_for.__wrapped__(database_url)
    yield impatient
    impatient.dispose()


def setting(connection: Connection, name: str) -> str:
    return str(connection.execute(text("SELECT current_setting(:name)"), {"name": name}).scalar_one())


def test_the_server_gives_up_a_process_that_is_frozen_in_a_transaction_or_cut_off(engine: Engine) -> None:
    with transaction(engine) as connection:
        assert setting(connection, "idle_in_transaction_session_timeout") == "1min"
        assert setting(connection, "statement_timeout") == "1min"
        if connection.execute(text("SELECT inet_server_addr() IS NOT NULL")).scalar_one():
            assert setting(connection, "tcp_keepalives_idle") == "30"
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        parameters = driver.info.get_parameters()
    assert {name: parameters[name] for name in parameters if name.startswith(("keepalives", "tcp"))} == {
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "tcp_user_timeout": "60000",
    }


def test_a_process_that_is_frozen_while_it_plans_stops_no_other_planner(frozen: Engine, engine: Engine) -> None:
    def plan() -> None:
        with transaction(engine) as other:
            runs.lock_planner(other)

    def freeze(pool: Executor) -> None:
        with transaction(frozen) as connection:
            runs.lock_planner(connection)
            pool.submit(plan).result(WAITED_FOR_S)
            connection.execute(text("SELECT 1"))  # the frozen process goes on

    with ThreadPoolExecutor(1) as pool, pytest.raises(DatabaseError, match="idle-in-transaction"):
        freeze(pool)
    plan()
    with transaction(frozen) as connection:
        runs.lock_planner(connection)


def test_a_process_whose_transaction_was_ended_does_not_take_it_for_committed(frozen: Engine, engine: Engine) -> None:
    def freeze() -> None:
        with transaction(frozen) as connection:
            connection.execute(text(INSERT))
            with transaction(engine) as other:
                other.execute(text(END_THE_OTHERS))

    with pytest.raises(DatabaseError):
        freeze()
    with transaction(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM destination")).scalar_one() == 0


def make_read_only(connection: Connection) -> None:
    connection.execute(text("SET TRANSACTION READ ONLY"))
    connection.execute(text("DELETE FROM record"))


def end_from_outside(connection: Connection) -> None:
    connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


@pytest.mark.parametrize(
    ("failing", "said"), [(make_read_only, "read-only transaction"), (end_from_outside, "terminating connection")]
)
def test_what_the_server_refuses_for_now_can_be_tried_again(
    engine: Engine, failing: Callable[[Connection], None], said: str
) -> None:
    with pytest.raises(DatabaseError, match=said), transaction(engine) as connection:
        failing(connection)


def test_a_process_that_has_no_connection_left_can_try_again(database_url: str) -> None:
    url = database_url.replace("postgresql://", "postgresql+psycopg://", 1)
    small = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    with transaction(small), pytest.raises(DatabaseError, match="QueuePool limit") as caught, transaction(small):
        pass
    assert "\n" not in str(caught.value)
    assert "Background" not in str(caught.value)
    small.dispose()


def swallow(connection: Connection) -> None:
    with pytest.raises(ProgrammingError):
        connection.execute(text("SELEC 1"))
    connection.execute(text("SELECT 1"))


@pytest.mark.parametrize(
    ("mistake", "raised"),
    [
        ("SELEC 1", ProgrammingError),
        (f"{INSERT}, ('cdcs', 2)", IntegrityError),
    ],
)
def test_a_mistake_in_a_query_stays_one(engine: Engine, mistake: str, raised: type[Exception]) -> None:
    with pytest.raises(raised), transaction(engine) as connection:
        connection.execute(text(mistake))


def test_going_on_in_a_transaction_that_has_failed_is_a_mistake(engine: Engine) -> None:
    with pytest.raises(InternalError) as caught, transaction(engine) as connection:
        swallow(connection)
    assert isinstance(caught.value.orig, psycopg.errors.InFailedSqlTransaction)
