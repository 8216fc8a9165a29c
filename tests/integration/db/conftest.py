"""What the tests of the queries share."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection

from nexus_tasks.db.engine import engine_for, transaction


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """In a transaction of the test, on a database with our tables."""
    engine = engine_for(database_url)
    with transaction(engine) as connection:
        yield connection
    engine.dispose()
