"""What the tests of the statements share."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine

from nexus_tasks.db.engine import engine_for, transaction


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """On a database with our tables."""
    engine = engine_for(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """In a transaction of the test, on a database with our tables."""
    with transaction(engine) as connection:
        yield connection
