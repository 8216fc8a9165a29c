"""The connection to PostgreSQL, one engine per process and address; whoever needs the database begins here."""

import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn
from weakref import WeakSet

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import Connection, Engine, PoolProxiedConnection, TextClause, create_engine, event
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool

from nexus_tasks.plain_error import PlainError

CONNECT_TIMEOUT_S = 5
POOL_SIZE = 16  # connections kept open by one process: one a thread; a process of the prefork pool uses one
POOL_OVERFLOW = 16
PREPARE_AFTER = 1  # executions of a statement before psycopg prepares it: workers repeat the same few
SOON_S = 2  # the least that libpq knows
MISSING = {"42P01": "has no tables of ours", "42703": "is behind this version"}  # undefined_table, undefined_column
STATEMENT_TIMEOUT_MS = 60_000  # no query of this project takes seconds; a stuck one must not hold a worker
IDLE_IN_TRANSACTION_TIMEOUT_MS = 60_000  # a frozen or cut-off process must not hold the planner's lock, or rows
# a peer whose host is gone is given up after a minute; left to itself, TCP takes two hours
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 30, 10, 3
UNACKNOWLEDGED_MS = 60_000  # keepalives say nothing while sent bytes wait for their acknowledgement
# of PostgreSQL's internal errors: read-only after a failover, and faults of the server itself. The others are mistakes
READ_ONLY, SERVER_FAULT = "25006", "XX"

_engines: WeakSet[Engine] = WeakSet()
_DIALECT = psycopg_dialect()  # type: ignore[no-untyped-call]


class DatabaseError(PlainError):
    """The database cannot be used; the message says where it was looked for, never with the password."""


@lru_cache(maxsize=8)
def engine_for(url: str) -> Engine:
    """The engine for `url` in this process. A pooled connection that a server restart has cut is replaced unseen."""
    engine = create_engine(
        _with_driver(url),
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_use_lifo=True,
        connect_args={
            "prepare_threshold": PREPARE_AFTER,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": _server_options(
                statement_timeout=STATEMENT_TIMEOUT_MS,
                idle_in_transaction_session_timeout=IDLE_IN_TRANSACTION_TIMEOUT_MS,
                tcp_keepalives_idle=KEEPALIVE_IDLE_S,
                tcp_keepalives_interval=KEEPALIVE_INTERVAL_S,
                tcp_keepalives_count=KEEPALIVE_COUNT,
                timezone="UTC",
            ),
            "keepalives_idle": KEEPALIVE_IDLE_S,
            "keepalives_interval": KEEPALIVE_INTERVAL_S,
            "keepalives_count": KEEPALIVE_COUNT,
            "tcp_user_timeout": UNACKNOWLEDGED_MS,
            "application_name": "nexus-tasks",
        },
    )
    event.listen(engine, "checkout", _replace_if_cut)
    _engines.add(engine)
    return engine


def _replace_if_cut(connection: Any, _record: Any, _proxy: Any) -> None:
    """Give up a pooled connection that the server has closed: an idle one has nothing to read but its end.

    It costs no round trip, unlike a ping, and nothing has been sent yet, so the transaction begins on a new connection.
    """
    if connection.closed:
        raise InvalidatePoolError("the connection is closed")
    idle = select.poll()
    idle.register(connection.pgconn.socket, select.POLLIN | select.POLLHUP | select.POLLERR)
    if idle.poll(0):
        raise InvalidatePoolError("the server has closed the connection")


def engine_for_one_use(url: str) -> Engine:
    """An engine that keeps no connection: for migrations and checks."""
    return create_engine(_with_driver(url), poolclass=NullPool, connect_args={"connect_timeout": CONNECT_TIMEOUT_S})


@lru_cache(maxsize=8)
def engine_that_gives_up_soon(url: str) -> Engine:
    """An engine that keeps no connection and waits two seconds at most: for what must not hold up its caller."""
    return create_engine(
        _with_driver(url),
        poolclass=NullPool,
        connect_args={
            "connect_timeout": SOON_S,
            "tcp_user_timeout": SOON_S * 1000,
            "options": _server_options(
                statement_timeout=SOON_S * 1000,
                idle_in_transaction_session_timeout=IDLE_IN_TRANSACTION_TIMEOUT_MS,
                timezone="UTC",
            ),
            "application_name": "nexus-tasks worker",
        },
    )


def forget_connections_after_fork() -> None:
    """Drop the connections inherited from the parent process, which goes on using them; the engines stay."""
    for engine in _engines:
        engine.dispose(close=False)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction: committed at the end, rolled back by an exception.

    Raises `DatabaseError`, in one line, when the server is away, has ended the transaction or only reads, when this
    process has no connection left, or when the tables are not those of this version.
    """
    with _told(engine), engine.begin() as connection:
        yield connection


def execute(engine: Engine, statement: TextClause, parameters: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A transaction of one statement, in one round trip; returns its first row by column, or None.

    Raises as `transaction`. It goes to psycopg directly, for what every attempt executes costs a third of what it does
    by way of SQLAlchemy: that adds to each statement more than psycopg takes, and again to change the mode.
    """
    with _told(engine):
        pooled = engine.raw_connection()
        try:
            return _execute_alone(pooled, _as_psycopg_takes_it(statement), parameters)
        finally:
            pooled.close()


def _execute_alone(pooled: PoolProxiedConnection, sql: str, parameters: Mapping[str, Any]) -> Mapping[str, Any] | None:
    connection: Any = pooled.driver_connection
    try:
        connection.autocommit = True
        with connection.cursor(row_factory=dict_row) as cursor:
            row: Mapping[str, Any] | None = cursor.execute(sql, parameters).fetchone()
    except psycopg.Error:
        if connection.closed:
            pooled.invalidate()
        else:
            connection.autocommit = False
        raise
    except BaseException:  # a time limit has broken in: what the connection is at is not known
        pooled.invalidate()
        raise
    connection.autocommit = False
    return row


@lru_cache(maxsize=256)
def _as_psycopg_takes_it(statement: TextClause) -> str:
    """With `%(name)s` in the place of `:name`."""
    return str(statement.compile(dialect=_DIALECT))


@contextmanager
def _told(engine: Engine) -> Iterator[None]:
    """Turns what makes the database unusable into `DatabaseError`."""
    try:
        yield
    except PoolTimeoutError as error:
        _unusable(engine, error, error.args[0])
    except DBAPIError as error:
        _tell(engine, error, error.orig, cut=error.connection_invalidated)
        raise
    except psycopg.Error as error:
        _tell(engine, error, error, cut=False)
        raise


def _tell(engine: Engine, error: Exception, said: BaseException | None, *, cut: bool) -> None:
    """Raises `DatabaseError` for what is no mistake in a query: the same one can succeed when the server is back.

    `cut`: the server has ended the connection, as after the time-out of an idle transaction, an internal error.
    """
    state = getattr(said, "sqlstate", None) or ""
    missing = MISSING.get(state)
    if missing is not None:
        place = engine.url.render_as_string(hide_password=True)
        raise DatabaseError(f"The database {place} {missing}: run `nexus-tasks db upgrade`.") from error
    if isinstance(said, psycopg.OperationalError) or cut or state == READ_ONLY or state.startswith(SERVER_FAULT):
        _unusable(engine, error, said)


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _server_options(**values: Any) -> str:
    return " ".join(f"-c {name}={value}" for name, value in values.items())


def _unusable(engine: Engine, error: Exception, said: object) -> NoReturn:
    reason = (str(said).strip() or type(error).__name__).splitlines()[0]
    place = engine.url.render_as_string(hide_password=True)
    raise DatabaseError(
        f"The database {place} cannot be used: {reason}. Check NX_DATABASE_URL and that PostgreSQL runs."
    ) from error
