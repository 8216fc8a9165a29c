"""What a delivery has created over there so far, kept in its row, so that no later try creates it again."""

from collections.abc import Callable

from sqlalchemy import Engine

from nexus_tasks.db import deliveries
from nexus_tasks.db.engine import transaction


class DeliveryCheckpoint:
    """The checkpoint that a worker hands to a plugin; see `exporters.base.Checkpoint`."""

    def __init__(self, engine: Engine, delivery_id: int) -> None:
        self._engine = engine
        self._delivery_id = delivery_id

    def get(self, step: str) -> str | None:
        """See `Checkpoint.get`."""
        with transaction(self._engine) as connection:
            return deliveries.remote(connection, self._delivery_id).get(step)

    def create(self, step: str, call: Callable[[], str]) -> str:
        """See `Checkpoint.create`; the identifier is committed before this returns."""
        known = self.get(step)
        if known is not None:
            return known
        identifier = call()
        with transaction(self._engine) as connection:
            deliveries.remember(connection, self._delivery_id, step, identifier)
        return identifier
