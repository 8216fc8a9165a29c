"""What a delivery has created and written over there, kept in its row: intents before the call, identifiers after it.

An intent says that a creating call may have been made whose outcome nobody knows. It is resolved by a look-up, which
counts as "not there" only once the call's deadline and a grace have passed: an answer can be lost although the object
appears seconds later.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine

from nexus_tasks.db import deliveries, destinations
from nexus_tasks.db.engine import transaction
from nexus_tasks.db.patience import patiently
from nexus_tasks.delivery.lease import Lease
from nexus_tasks.delivery.turns import NotYourTurnError, Turns
from nexus_tasks.exporters.base import ConfigurationError, NothingDoneError, PermanentError

OTHERS_POLL_S = 0.2

UNRESOLVED_UNTIL = deliveries.UNRESOLVED_UNTIL

T = TypeVar("T")

logger = logging.getLogger(__name__)


class NotYetResolvableError(Exception):
    """It is too early to tell whether a lost answer has left an object behind."""

    def __init__(self, wait: timedelta) -> None:
        super().__init__(wait)
        self.wait = wait


def unresolved_for(known: dict[str, dict[str, Any]], now: datetime) -> timedelta | None:
    """How long until every intent of a delivery can be resolved; None when there is none."""
    ends = [datetime.fromisoformat(step[UNRESOLVED_UNTIL]) for step in known.values() if UNRESOLVED_UNTIL in step]
    return max(max(ends) - now, timedelta()) if ends else None


class Ledger(Protocol):
    """Where identifiers and intents are kept: the row of a delivery, or, for what records share, of a destination."""

    def lock(self, connection: Connection) -> tuple[dict[str, dict[str, Any]], bool]:
        """What is known by step, and whether to look before creating; the row is locked."""
        ...

    def write(self, connection: Connection, step: str, known: dict[str, Any]) -> None:
        """Keep what is known of a step."""
        ...


@dataclass(frozen=True)
class DeliveryLedger:
    """The objects of one record at one destination."""

    delivery_id: int

    def lock(self, connection: Connection) -> tuple[dict[str, dict[str, Any]], bool]:
        """See `Ledger.lock`."""
        return deliveries.lock_remote(connection, self.delivery_id)

    def write(self, connection: Connection, step: str, known: dict[str, Any]) -> None:
        """See `Ledger.write`."""
        deliveries.set_remote(connection, self.delivery_id, step, known)


@dataclass(frozen=True)
class DestinationLedger:
    """The objects at one destination that several records share, such as a folder."""

    destination: str

    def lock(self, connection: Connection) -> tuple[dict[str, dict[str, Any]], bool]:
        """See `Ledger.lock`."""
        return destinations.lock_remote(connection, self.destination), False

    def write(self, connection: Connection, step: str, known: dict[str, Any]) -> None:
        """See `Ledger.write`."""
        destinations.set_remote(connection, self.destination, step, known)


class _OtherWorkerError(Exception):
    """Another worker has begun to create the same object, a moment ago."""

    def __init__(self, remaining: timedelta) -> None:
        super().__init__(remaining)
        self.remaining = remaining


class LedgerCheckpoint:
    """The checkpoint that a worker hands to a plugin; see `exporters.base.Checkpoint`. Durations in seconds.

    `patience` is how long to wait for another worker that is creating the same shared object at this moment.
    """

    def __init__(
        self, engine: Engine, ledger: Ledger, lease: Lease, turns: Turns, grace: float, patience: float = 0
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._lease = lease
        self._turns = turns
        self._grace = grace
        self._patience = patience

    def get(self, step: str) -> str | None:
        """See `Checkpoint.get`."""
        return self._look(step)[0].get("id")

    def written(self, step: str) -> str | None:
        """See `Checkpoint.written`."""
        return self._look(step)[0].get("content")

    def wrote(self, step: str, content: str) -> None:
        """See `Checkpoint.wrote`."""
        patiently(lambda: self._change(step, lambda known: {**known, "content": content}))

    def forget(self, step: str, identifier: str) -> None:
        """See `Checkpoint.forget`."""
        patiently(lambda: self._change(step, lambda known: {} if known.get("id") == identifier else known))

    def create(
        self,
        step: str,
        call: Callable[[], str],
        *,
        find: Callable[[], str | None] | None = None,
        content: str | None = None,
        seconds: float | None = None,
    ) -> str:
        """See `Checkpoint.create`; plugins let pass what else it raises.

        That is `NotYetResolvableError`, `LeaseLostError` and `NotYourTurnError`.
        """
        give_up_at = time.monotonic() + self._patience
        while True:
            try:
                with self._turns.remembered():
                    return self._create(step, call, find, content, seconds, give_up_at)
            except _OtherWorkerError as error:
                if time.monotonic() >= give_up_at:
                    raise NotYetResolvableError(error.remaining) from None

    def _create(
        self,
        step: str,
        call: Callable[[], str],
        find: Callable[[], str | None] | None,
        content: str | None,
        seconds: float | None,
        give_up_at: float,
    ) -> str:
        known, look_up_first, now = self._wait_for_others(step, give_up_at)
        if known.get("id") is not None:
            return str(known["id"])
        if (UNRESOLVED_UNTIL in known or look_up_first) and find is not None:
            found = find()
            if found is not None:
                return self._store(step, found, known.get("content"))
        remaining = unresolved_for({step: known}, now)
        if remaining:
            raise NotYetResolvableError(remaining)
        self._turns.take_ahead()
        intent = self._intend(step, content, seconds)
        if intent.get("id") is not None:
            return str(intent["id"])
        try:
            identifier = call()
        except (NothingDoneError, PermanentError, ConfigurationError, NotYourTurnError):
            # this worker may have been given up meanwhile: what another one has written down stays
            patiently(lambda: self._change(step, lambda known: {} if known == intent else known))
            raise
        return self._store(step, identifier, content)

    def _wait_for_others(self, step: str, give_up_at: float) -> tuple[dict[str, Any], bool, datetime]:
        while True:
            known, look_up_first, now = self._look(step)
            if UNRESOLVED_UNTIL not in known or time.monotonic() >= give_up_at:
                return known, look_up_first, now
            time.sleep(OTHERS_POLL_S)

    def _intend(self, step: str, content: str | None, seconds: float | None) -> dict[str, Any]:
        """Commit the intent, and return it; what is known instead, if another worker has created the object meanwhile.

        Raises `_OtherWorkerError` and `LeaseLostError`.
        """
        with transaction(self._engine) as connection:
            self._lease.extend(connection, seconds)
            known = self._ledger.lock(connection)[0].get(step, {})
            now = deliveries.clock(connection)
            if known.get("id") is not None:
                return known
            if (remaining := unresolved_for({step: known}, now)) is not None and remaining > timedelta():
                raise _OtherWorkerError(remaining)
            until = now + timedelta(seconds=(seconds or self._lease.call_deadline) + self._grace)
            intent = {"content": content, UNRESOLVED_UNTIL: until.isoformat()}
            self._ledger.write(connection, step, intent)
        return intent

    def _store(self, step: str, identifier: str, content: str | None) -> str:
        """Keep the identifier, even when the lease is lost by now; a different one that is there already wins."""

        def write() -> str:
            with transaction(self._engine) as connection:
                there = self._ledger.lock(connection)[0].get(step, {}).get("id")
                if there is None:
                    self._ledger.write(connection, step, {"id": identifier, "content": content})
                    return identifier
            if there != identifier:
                logger.error(
                    "%s: step %s made %s although %s was there already: one of the two is superfluous",
                    self._ledger,
                    step,
                    identifier,
                    there,
                )
            return str(there)

        return patiently(write)

    def _look(self, step: str) -> tuple[dict[str, Any], bool, datetime]:
        with transaction(self._engine) as connection:
            known, look_up_first = self._ledger.lock(connection)
            return known.get(step, {}), look_up_first, deliveries.clock(connection)

    def _change(self, step: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        with transaction(self._engine) as connection:
            known = self._ledger.lock(connection)[0].get(step, {})
            self._ledger.write(connection, step, change(known))
