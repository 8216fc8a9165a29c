"""The lease: it lets one worker at a time work on a delivery. On the attempt's row, by PostgreSQL's clock.

The worker keeps a cautious copy of its end on its own monotonic clock, so that the last check, directly before the
bytes leave, costs no query. A process that was frozen past its lease finds it gone and sends nothing.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from nexus_tasks.db import attempts

NOTHING: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


class LeaseLostError(Exception):
    """The lease has expired or was revoked, and another worker may have the delivery: nothing more may be sent."""


@dataclass
class Lease:
    """A held lease. `margin`: seconds that it outlasts the deadline of the call that it was taken for."""

    engine: Engine
    attempt_id: int
    token: UUID
    fingerprint: str  # of the attempt's inputs
    margin: float
    call_deadline: float  # seconds that a call may take, if nothing else is said
    ends: float  # on the monotonic clock of this process, never later than in PostgreSQL

    def extend(self, seconds: float | None = None, known: Mapping[str, Mapping[str, Any]] = NOTHING) -> None:
        """Have it outlast a call of that many seconds that begins now, and commit with it what is `known` by step.

        Raises `LeaseLostError`; then nothing was written.
        """
        lasting = (seconds or self.call_deadline) + self.margin
        asked_at = time.monotonic()
        held = attempts.extend(
            self.engine, self.attempt_id, self.token, timedelta(seconds=lasting), known, self.fingerprint
        )
        if not held:
            raise LeaseLostError(f"the lease on attempt {self.attempt_id} is lost")
        self.ends = max(self.ends, asked_at + lasting)

    def check(self) -> None:
        """Make sure that a call may begin now, extending a lease that would end before the call. Raises as `extend`."""
        if self.ends - time.monotonic() < self.call_deadline:
            self.extend()
        if self.ends - time.monotonic() < self.call_deadline:
            raise LeaseLostError(f"the lease on attempt {self.attempt_id} ran out while it was being extended")
