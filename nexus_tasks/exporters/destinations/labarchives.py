"""Keeps a page in a LabArchives notebook for a record: summary with previews, and the XML attached; called by workers.

The page is `NexusLIMS Records/{instrument_pid}/{YYYY-MM-DD — session_id}`. Folders are looked up by their exact text
before they are made, once for all records and workers, so that a record takes three calls: page, summary, attachment.
Later contents go to the same page, in place, unless people have changed the summary. Without a notebook, summary and
XML go to the user's Inbox, as files. A record stays where it went first, in that notebook or in the Inbox.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from nexus_tasks.exporters.base import Check, ExportContext, ExportResult
from nexus_tasks.exporters.gone import advice_to_recreate
from nexus_tasks.exporters.required_settings import all_set, check_set, partly_set

if TYPE_CHECKING:
    from nexus_tasks.exporters.labarchives.export import LabArchivesExporter

_NEEDED = (
    "NX_LABARCHIVES_URL",
    "NX_LABARCHIVES_ACCESS_KEY_ID",
    "NX_LABARCHIVES_ACCESS_PASSWORD",
    "NX_LABARCHIVES_USER_ID",
)


class LabArchivesDestination:
    """LabArchives, as `nexus_tasks.exporters.base.ExportDestination` has it."""

    name = "labarchives"
    priority = 90
    depends_on = ("cdcs",)
    updates = True
    window = 1  # its terms ask for calls one after the other, over all workers

    @property
    def enabled(self) -> bool:
        """Whether its address, access key and user are set; the notebook is optional."""
        return all_set(*_NEEDED)

    @property
    def half_configured(self) -> bool:
        """See `ExportDestination`."""
        return partly_set(*_NEEDED)

    def validate_config(self) -> tuple[bool, str | None]:
        """See `ExportDestination.validate_config`."""
        return check_set("LabArchives", *_NEEDED)

    def checks(self) -> Sequence[Check]:
        """See `ExportDestination`."""
        return self._exporter.checks()

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        with advice_to_recreate(context, self.name):
            return self._exporter.export(context)

    @cached_property
    def _exporter(self) -> "LabArchivesExporter":
        from nexus_tasks.exporters.labarchives.export import LabArchivesExporter  # settings are read without it

        return LabArchivesExporter(self.name)
