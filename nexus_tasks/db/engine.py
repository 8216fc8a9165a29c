"""The connection to PostgreSQL, one engine per process and address; whoever needs the database begins here."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import NoReturn

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.pool import NullPool

CONNECT_TIMEOUT_S = 5
SOON_S = 2  # the least that libpq knows
MISSING = {"42P01": "has no tables of ours", "42703": "is behind this version"}  # undefined_table, undefined_column
STATEMENT_TIMEOUT_MS = 60_000  # no query of this project takes seconds; a stuck one must not hold a worker


class DatabaseError(Exception):
    """The database cannot be used; the message says where it was looked for, never with the password."""


@lru_cache(maxsize=8)
def engine_for(url: str) -> Engine:
    """The engine for `url` in this process. A pooled connection that a server restart has cut is replaced unseen."""
    return create_engine(
        _with_driver(url),
        pool_pre_ping=True,
        pool_size=5,
        max_overflow=20,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC",
            "application_name": "nexus-tasks",
        },
    )


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
            "options": f"-c statement_timeout={SOON_S * 1000} -c timezone=UTC",
            "application_name": "nexus-tasks worker",
        },
    )


def forget_engines_after_fork() -> None:
    """Drop what was inherited from the parent process: a connection must not be shared across a fork."""
    engine_for.cache_clear()


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction: committed at the end, rolled back by an exception.

    Raises `DatabaseError`, in one line, when the server is away or the tables are not those of this version.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except OperationalError as error:
        _unusable(engine, error)
    except ProgrammingError as error:
        missing = MISSING.get(getattr(error.orig, "sqlstate", None) or "")
        if missing is not None:
            place = engine.url.render_as_string(hide_password=True)
            raise DatabaseError(f"The database {place} {missing}: run `nexus-tasks db upgrade`.") from error
        raise


def _with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


def _unusable(engine: Engine, error: OperationalError) -> NoReturn:
    reason = str(error.orig).strip().splitlines()[0] if error.orig else type(error).__name__
    place = engine.url.render_as_string(hide_password=True)
    raise DatabaseError(
        f"The database {place} cannot be used: {reason}. Check NX_DATABASE_URL and that PostgreSQL runs."
    ) from error
