"""The lease: it lets one worker at a time work on a delivery. On the attempt's row, by PostgreSQL's clock.

The worker keeps a cautious copy of its end on its own monotonic clock, so that the last look, directly before the bytes
leave, costs no query. A process that was frozen past its lease finds it gone and sends nothing.
"""

import time
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, Engine

from nexus_tasks.db import runs
from nexus_tasks.db.engine import transaction


class LeaseLostError(Exception):
    """The worker has been given up, another one may be at work on the delivery: nothing more may be sent."""


@dataclass
class Lease:
    """A held lease. `margin`: seconds that it outlasts the deadline of the call that it was taken for."""

    engine: Engine
    run_id: int
    attempt_id: int
    token: UUID
    margin: float
    call_deadline: float  # seconds that a call may take, if nothing else is said
    ends: float  # on the monotonic clock of this process, never later than in PostgreSQL

    def extend(self, connection: Connection, seconds: float | None = None) -> None:
        """Have it outlast a call of that many seconds that begins now; raises `LeaseLostError`.

        In the caller's transaction, so that it is committed together with what the call needs.
        """
        lasting = (seconds or self.call_deadline) + self.margin
        asked_at = time.monotonic()
        lease = timedelta(seconds=lasting)
        if not runs.extend_lease(connection, self.run_id, self.attempt_id, self.token, lease):
            raise LeaseLostError(f"the lease on attempt {self.attempt_id} is lost")
        self.ends = max(self.ends, asked_at + lasting)

    def check(self) -> None:
        """Make sure that a call may begin now, extending a lease that would end before the call. Raises as `extend`."""
        if self.ends - time.monotonic() < self.call_deadline:
            with transaction(self.engine) as connection:
                self.extend(connection)
        if self.ends - time.monotonic() < self.call_deadline:
            raise LeaseLostError(f"the lease on attempt {self.attempt_id} ran out while it was being extended")
