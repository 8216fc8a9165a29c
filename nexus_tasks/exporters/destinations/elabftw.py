"""Keeps an experiment in eLabFTW for a record: summary, tags, extra fields, and the XML attached; called by workers.

Written for REST v2 from 5.2 on, where one POST carries everything. Before 5.2 that POST leaves out body and metadata,
so they follow in a PATCH; which version it is, is asked once in ten minutes. Later contents go to the same experiment:
the fields that are ours, the body unless people have changed it, the file in place of the older one. Title, tags,
category and status are people's once they are set.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from nexus_tasks.exporters.base import Check, ExportContext, ExportResult
from nexus_tasks.exporters.gone import advice_to_recreate
from nexus_tasks.exporters.required_settings import all_set, check_set, partly_set, value_of

if TYPE_CHECKING:
    from nexus_tasks.exporters.elabftw.export import ELabFTWExporter

_NEEDED = ("NX_ELABFTW_URL", "NX_ELABFTW_API_KEY")


class ELabFTWDestination:
    """eLabFTW, as `nexus_tasks.exporters.base.ExportDestination` has it."""

    name = "elabftw"
    priority = 85
    depends_on = ("cdcs",)
    updates = True
    window = 32  # an experiment is in flight while its record is still on the way to CDCS

    @property
    def enabled(self) -> bool:
        """Whether its address and key are set."""
        return all_set(*_NEEDED)

    @property
    def half_configured(self) -> bool:
        """See `ExportDestination`."""
        return partly_set(*_NEEDED)

    def validate_config(self) -> tuple[bool, str | None]:
        """See `ExportDestination.validate_config`."""
        valid, problem = check_set("eLabFTW", *_NEEDED)
        if valid and re.search(r"/api(/v\d)?$", value_of("NX_ELABFTW_URL")):
            return False, "NX_ELABFTW_URL must be the address of the site, without /api/v2 at its end."
        return valid, problem

    def checks(self) -> Sequence[Check]:
        """See `ExportDestination`."""
        return self._exporter.checks()

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        with advice_to_recreate(context, self.name):
            return self._exporter.export(context)

    @cached_property
    def _exporter(self) -> "ELabFTWExporter":
        from nexus_tasks.exporters.elabftw.export import ELabFTWExporter  # what only reads settings starts without it

        return ELabFTWExporter(self.name)
