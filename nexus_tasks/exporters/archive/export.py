"""Exports a record to the archive: its files, and the manifest last."""

from collections.abc import Sequence

from nexus_tasks.exporters.archive.manifest import (
    MANIFEST,
    as_json,
    manifest_there,
    said_of_the_session,
    wanted_manifest,
)
from nexus_tasks.exporters.archive.session_folder import SessionFolder, folder_of
from nexus_tasks.exporters.archive.store import open_store
from nexus_tasks.exporters.base import Check, ExportContext, ExportResult
from nexus_tasks.exporters.gone import GoneError
from nexus_tasks.exporters.required_settings import value_of
from nexus_tasks.exporters.steps import Done


class ArchiveExporter:
    """What writes to the archive for a destination of that name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def checks(self) -> Sequence[Check]:
        """See `ExportDestination`."""
        return open_store(lambda: None, lambda: False).checks()

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        folder = folder_of(context.session_identifier)
        place = f"below {value_of('NX_ARCHIVE_URL')}"
        step, used = f"manifest {place}", f"records {place}"  # elsewhere a record is archived anew

        def was_used() -> bool:
            return context.checkpoint.get(step) is not None or context.shared.get(used) is not None

        store, manifest_name = open_store(context.take_turn, was_used), f"{folder}/{MANIFEST}"
        sizes = store.sizes(folder)
        there = manifest_there(store, manifest_name, context) if MANIFEST in sizes else None
        if there is None and context.checkpoint.get(step) is not None:
            raise GoneError(f"The archive's folder {folder} has no manifest any more: somebody has taken it away.")
        session = SessionFolder(store, folder, sizes)
        wanted = wanted_manifest(context, session, there)
        done: Done = "unchanged"
        if there is None or said_of_the_session(there) != said_of_the_session(wanted):
            store.write(manifest_name, as_json(wanted))
            done = "created" if there is None else "updated"
        elif session.written:
            done = "updated"
        # Nothing is asked here. It stands for "this was there once": what is taken away later is not put back unasked.
        context.checkpoint.create(step, lambda: folder, find=lambda: folder)
        context.shared.create(used, lambda: place, find=lambda: place)
        return ExportResult(
            success=True,
            destination_name=self.name,
            record_id=folder,
            record_url=store.address_of(manifest_name),
            metadata={"done": done, "written": session.written, "missing_previews": session.missing},
        )
