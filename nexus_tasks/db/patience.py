"""Waits for a database that restarts, where something must be written down."""

import time
from collections.abc import Callable
from typing import TypeVar

from nexus_tasks.db.engine import DatabaseError

DATABASE_PATIENCE_S = 60  # for writing down what a call has created; longer than a restart of PostgreSQL
DATABASE_POLL_S = 0.5

T = TypeVar("T")


def patiently(action: Callable[[], T]) -> T:
    """Do what must be written down, although the database may be restarting; raises `DatabaseError` in the end."""
    give_up_at = time.monotonic() + DATABASE_PATIENCE_S
    while True:
        try:
            return action()
        except DatabaseError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(DATABASE_POLL_S)
