"""`RecordJudge`: checks a record by the schema of the destination that will judge it; for whoever hands records over.

The schema decides that the CDCS holds to which the record goes. Where no destination says by which it judges records,
the file that `NX_SCHEMA_PATH` names decides, and without one the project's own.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nexus_tasks.builder.schema import OWN_SCHEMA, InvalidRecordError, RecordSchema
from nexus_tasks.exporters.base import ExportDestination, ExportError
from nexus_tasks.exporters.registry import Registry
from nexus_tasks.xsd import UnusableSchemaError

LIFE = 600.0  # seconds for which a schema is remembered, and that none was to be had

logger = logging.getLogger(__name__)


class RecordJudge:
    """Checks records that go to the enabled ones of these destinations, which it asks once in ten minutes.

    `schema_path` decides where none of them says by which schema. May be used by several threads.
    """

    def __init__(
        self, registry: Registry, schema_path: Path | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._schema_path = schema_path
        self._clock = clock
        self._lock = threading.Lock()
        self._schema: RecordSchema | None = None
        self._until = 0.0

    def check(self, xml: bytes) -> None:
        """Raises `InvalidRecordError`, which names the schema, the line and the reason."""
        with self._lock:
            schema, fresh = self._deciding()
        try:
            schema.validate(xml)
        except InvalidRecordError:
            if fresh:
                raise
            with self._lock:
                self._until = 0.0  # the schema may have been changed: no record is refused by one that was remembered
                schema, _ = self._deciding()
            schema.validate(xml)

    def _deciding(self) -> tuple[RecordSchema, bool]:
        """The schema, and whether it was asked for just now."""
        if self._schema is not None and self._clock() < self._until:
            return self._schema, False
        self._schema = next(self._usable())
        self._until = self._clock() + LIFE
        return self._schema, True

    def _usable(self) -> Iterator[RecordSchema]:
        for destination in self._registry.enabled:
            try:
                xsd = _record_schema(destination)
                if xsd is not None:
                    yield RecordSchema(xsd, f"the schema of {destination.name}")
            except (ExportError, UnusableSchemaError) as error:
                _warn(f"the schema of {destination.name}", str(error))
            except Exception as error:  # noqa: BLE001 - a plugin's mistake must not keep records from being built
                _warn(f"the schema of {destination.name}", f"{type(error).__name__}: {error}")
        if self._schema_path is not None:
            try:
                yield RecordSchema(self._schema_path, f"the schema {self._schema_path.name} (NX_SCHEMA_PATH)")
            except UnusableSchemaError as error:
                _warn("the schema that NX_SCHEMA_PATH names", str(error))
        yield RecordSchema(OWN_SCHEMA, "the NexusLIMS schema")


def _record_schema(destination: ExportDestination) -> bytes | None:
    ask: Callable[[], bytes | None] | None = getattr(destination, "record_schema", None)
    return None if ask is None else ask()


def _warn(schema: str, reason: str) -> None:
    first_line = next(iter(reason.splitlines()), "")
    logger.warning("Records are not checked by %s, which cannot be used: %s", schema, first_line)
