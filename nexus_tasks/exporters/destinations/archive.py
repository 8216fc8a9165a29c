"""Keeps a copy of each record in a folder or object store, with its previews and a manifest; called by workers.

Below `NX_ARCHIVE_URL` every session has a folder, named by its identifier, for the record, the previews and
`manifest.json`. A file's name ends with the hash of what it holds, so nothing is written twice and older versions of a
record stay. The manifest is written last: whoever sees it sees everything that it names. It carries the links of the
other destinations, which therefore go first.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from nexus_tasks.exporters.archive.store import check_settings
from nexus_tasks.exporters.base import Check, ExportContext, ExportResult
from nexus_tasks.exporters.gone import advice_to_recreate
from nexus_tasks.exporters.required_settings import all_set, check_set

if TYPE_CHECKING:
    from nexus_tasks.exporters.archive.export import ArchiveExporter


class ArchiveDestination:
    """The archive, as `nexus_tasks.exporters.base.ExportDestination` has it."""

    name = "archive"
    priority = 10  # last of those that ship
    depends_on = ("cdcs", "elabftw", "labarchives")
    updates = True

    @property
    def enabled(self) -> bool:
        """Whether its address is set."""
        return all_set("NX_ARCHIVE_URL")

    def validate_config(self) -> tuple[bool, str | None]:
        """See `ExportDestination.validate_config`."""
        valid, problem = check_set("The archive", "NX_ARCHIVE_URL")
        return check_settings() if valid else (valid, problem)

    def checks(self) -> Sequence[Check]:
        """See `ExportDestination`."""
        return self._exporter.checks()

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        with advice_to_recreate(context, self.name):
            return self._exporter.export(context)

    @cached_property
    def _exporter(self) -> "ArchiveExporter":
        from nexus_tasks.exporters.archive.export import ArchiveExporter  # what only reads settings starts without it

        return ArchiveExporter(self.name)
