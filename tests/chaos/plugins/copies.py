"""A fourth destination: copies records into a folder, and kills its worker on one of them, every time."""

import os
import shutil
import signal
from pathlib import Path

from nexus_tasks.exporters.base import ExportContext, ExportResult
from nexus_tasks.exporters.title import attachment_name

POISON_VARIABLE = "CHAOS_POISON"  # the session whose record kills
FOLDER_VARIABLE = "CHAOS_COPIES"


class CopiesDestination:
    """As `nexus_tasks.exporters.base.ExportDestination` has it."""

    name = "copies"
    priority = 50
    depends_on = ("cdcs",)
    enabled = True

    def validate_config(self) -> tuple[bool, str | None]:
        """See `ExportDestination.validate_config`."""
        return True, None

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        if context.session_identifier == os.environ[POISON_VARIABLE]:
            os.kill(os.getpid(), signal.SIGKILL)
        folder = Path(os.environ[FOLDER_VARIABLE])
        folder.mkdir(exist_ok=True)
        copy = folder / attachment_name(context)
        shutil.copyfile(context.xml_file_path, copy)
        return ExportResult(success=True, destination_name=self.name, record_id=copy.name)
