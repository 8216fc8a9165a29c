"""What a delivery has created and written over there, kept in its row: intents before the call, identifiers after it.

An intent says that a creating call may have been made whose outcome nobody knows. It is resolved by a look-up, which
counts as "not there" only once the call's deadline and a grace have passed: an answer can be lost although the object
appears seconds later.
"""

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Engine

from nexus_tasks.db import deliveries
from nexus_tasks.db.engine import DatabaseError, transaction
from nexus_tasks.delivery.lease import Lease
from nexus_tasks.exporters.base import ConfigurationError, NothingDoneError, PermanentError

DATABASE_PATIENCE_S = 60  # for writing down what a call has created; longer than a restart of PostgreSQL
DATABASE_POLL_S = 0.5

UNRESOLVED_UNTIL = deliveries.UNRESOLVED_UNTIL

T = TypeVar("T")

logger = logging.getLogger(__name__)


class NotYetResolvableError(Exception):
    """It is too early to tell whether a lost answer has left an object behind."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__(wait)
        self.wait = wait


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


def unresolved_for(known: dict[str, dict[str, Any]], now: datetime) -> timedelta | None:
    """How long until every intent of a delivery can be resolved; None when there is none."""
    ends = [datetime.fromisoformat(step[UNRESOLVED_UNTIL]) for step in known.values() if UNRESOLVED_UNTIL in step]
    return max(max(ends) - now, timedelta()) if ends else None


class DeliveryCheckpoint:
    """The checkpoint that a worker hands to a plugin; see `exporters.base.Checkpoint`. `grace` in seconds."""

    def __init__(self, engine: Engine, delivery_id: int, lease: Lease, grace: float) -> None:
        self._engine = engine
        self._delivery_id = delivery_id
        self._lease = lease
        self._grace = grace

    def get(self, step: str) -> str | None:
        """See `Checkpoint.get`."""
        return self._known(step).get("id")

    def written(self, step: str) -> str | None:
        """See `Checkpoint.written`."""
        return self._known(step).get("content")

    def wrote(self, step: str, content: str) -> None:
        """See `Checkpoint.wrote`."""
        patiently(lambda: self._change(step, {"content": content}))

    def create(
        self,
        step: str,
        call: Callable[[], str],
        *,
        find: Callable[[], str | None] | None = None,
        content: str | None = None,
        seconds: float | None = None,
    ) -> str:
        """See `Checkpoint.create`. Raises `NotYetResolvableError` or `LeaseLostError` too, which plugins let pass."""
        with transaction(self._engine) as connection:
            known, look_up_first = deliveries.lock_remote(connection, self._delivery_id)
            now = deliveries.clock(connection)
        this = known.get(step, {})
        if this.get("id") is not None:
            return str(this["id"])
        if (UNRESOLVED_UNTIL in this or look_up_first) and find is not None:
            found = find()
            if found is not None:
                self._store(step, found, this.get("content"))
                return found
        remaining = unresolved_for({step: this}, now)
        if remaining:
            raise NotYetResolvableError(remaining)
        self._intend(step, content, seconds)
        try:
            identifier = call()
        except (NothingDoneError, PermanentError, ConfigurationError):
            patiently(lambda: self._change(step, {}, resolved=True))
            raise
        return self._store(step, identifier, content)

    def _intend(self, step: str, content: str | None, seconds: float | None) -> None:
        with transaction(self._engine) as connection:
            self._lease.extend(connection, seconds)
            known, _ = deliveries.lock_remote(connection, self._delivery_id)
            lasting = timedelta(seconds=(seconds or self._lease.call_deadline) + self._grace)
            until = deliveries.clock(connection) + lasting
            this = {**known.get(step, {}), "content": content, UNRESOLVED_UNTIL: until.isoformat()}
            deliveries.set_remote(connection, self._delivery_id, step, this)

    def _store(self, step: str, identifier: str, content: str | None) -> str:
        """Keep the identifier, even when the lease is lost by now; a different one that is there already wins."""

        def write() -> str:
            with transaction(self._engine) as connection:
                known, _ = deliveries.lock_remote(connection, self._delivery_id)
                there = known.get(step, {}).get("id")
                if there is None:
                    deliveries.set_remote(connection, self._delivery_id, step, {"id": identifier, "content": content})
                    return identifier
            if there != identifier:
                logger.error(
                    "Delivery %d: step %s made %s although %s was there already: one of the two is superfluous",
                    self._delivery_id,
                    step,
                    identifier,
                    there,
                )
            return str(there)

        return patiently(write)

    def _known(self, step: str) -> dict[str, Any]:
        with transaction(self._engine) as connection:
            known, _ = deliveries.lock_remote(connection, self._delivery_id)
        return known.get(step, {})

    def _change(self, step: str, change: dict[str, Any], *, resolved: bool = False) -> None:
        with transaction(self._engine) as connection:
            known, _ = deliveries.lock_remote(connection, self._delivery_id)
            this = {**known.get(step, {}), **change}
            if resolved:
                this.pop(UNRESOLVED_UNTIL, None)
                this.pop("content", None)
            deliveries.set_remote(connection, self._delivery_id, step, this)
