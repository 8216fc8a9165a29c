"""The lease as far as the worker's own clock goes; what PostgreSQL has to say is in the integration tests."""

import time
from uuid import UUID

import pytest
from sqlalchemy import create_engine

from nexus_tasks.db.engine import DatabaseError
from nexus_tasks.delivery.lease import Lease

NOBODY = create_engine("postgresql+psycopg://nexus@127.0.0.1:1/nexus", connect_args={"connect_timeout": 2})


def lease(seconds_left: float) -> Lease:
    return Lease(
        NOBODY, 1, UUID(int=7), "fingerprint", margin=30, call_deadline=60, ends=time.monotonic() + seconds_left
    )


def test_the_last_look_asks_nobody_while_the_lease_outlasts_the_call() -> None:
    lease(61).check()


@pytest.mark.parametrize("seconds_left", [59, 0, -1000])
def test_a_lease_that_would_end_before_the_call_is_not_trusted(seconds_left: float) -> None:
    with pytest.raises(DatabaseError):  # it asked
        lease(seconds_left).check()
