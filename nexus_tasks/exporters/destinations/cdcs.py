"""Sends a record to a CDCS repository: the primary destination, whose links the notebooks show; called by workers.

One POST makes the record and puts it into its workspace; a later content is put in its place by PATCH, after a look
whether the record of that number is still this session's. Which template and workspace those are is asked by title, and
remembered for ten minutes together with the template's schema: a record that is not valid is not sent. The XML goes as
it is in the file. With NX_CDCS_USER_OWNED_RECORDS a record is given to its session's user once it stands; where that is
refused, the record is there, and the export a success.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from nexus_tasks.exporters.base import Check, ExportContext, ExportResult
from nexus_tasks.exporters.gone import advice_to_recreate
from nexus_tasks.exporters.required_settings import all_set, check_set, partly_set, value_of

if TYPE_CHECKING:
    from nexus_tasks.exporters.cdcs.export import CdcsExporter

_NEEDED = ("NX_CDCS_URL", "NX_CDCS_TOKEN")


class CDCSDestination:
    """CDCS, as `nexus_tasks.exporters.base.ExportDestination` has it."""

    name = "cdcs"
    priority = 100
    depends_on: tuple[str, ...] = ()
    updates = True

    @property
    def enabled(self) -> bool:
        """Whether its address and token are set."""
        return all_set(*_NEEDED)

    @property
    def half_configured(self) -> bool:
        """See `ExportDestination`."""
        return partly_set(*_NEEDED)

    def validate_config(self) -> tuple[bool, str | None]:
        """See `ExportDestination.validate_config`."""
        valid, problem = check_set("CDCS", *_NEEDED)
        if valid and value_of("NX_CDCS_URL").endswith("/rest"):
            return False, "NX_CDCS_URL must be the address of the site, without /rest at its end."
        return valid, problem

    def checks(self) -> Sequence[Check]:
        """See `ExportDestination`."""
        return self._exporter.checks()

    def record_schema(self) -> bytes | None:
        """See `ExportDestination`: of the template's current version, which is asked for anew."""
        return self._exporter.record_schema()

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        with advice_to_recreate(context, self.name):
            return self._exporter.export(context)

    @cached_property
    def _exporter(self) -> "CdcsExporter":
        from nexus_tasks.exporters.cdcs.export import CdcsExporter  # what only reads settings starts without it

        return CdcsExporter(self.name)
