"""What a delivery has created and written over there so far, kept in its row, so that no later try does it again."""

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
        return self._remembered(step, "id")

    def create(
        self,
        step: str,
        call: Callable[[], str],
        *,
        find: Callable[[], str | None] | None = None,  # noqa: ARG002
        content: str | None = None,
        seconds: float | None = None,  # noqa: ARG002
    ) -> str:
        """See `Checkpoint.create`; the identifier is committed before this returns."""
        known = self.get(step)
        if known is not None:
            return known
        identifier = call()
        with transaction(self._engine) as connection:
            deliveries.remember(connection, self._delivery_id, step, {"id": identifier, "content": content})
        return identifier

    def written(self, step: str) -> str | None:
        """See `Checkpoint.written`."""
        return self._remembered(step, "content")

    def wrote(self, step: str, content: str) -> None:
        """See `Checkpoint.wrote`."""
        with transaction(self._engine) as connection:
            deliveries.remember(connection, self._delivery_id, step, {"id": self.get(step), "content": content})

    def _remembered(self, step: str, key: str) -> str | None:
        with transaction(self._engine) as connection:
            return deliveries.remote(connection, self._delivery_id).get(step, {}).get(key)
