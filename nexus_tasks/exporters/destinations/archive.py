"""Keeps a copy of each record in a folder or object store, with its previews and a manifest; called by workers.

Below `NX_ARCHIVE_URL` every session has a folder, named by its identifier, for the record, the previews and
`manifest.json`. A file's name ends with the hash of what it holds, so nothing is written twice and older versions of a
record stay. The manifest is written last: whoever sees it sees everything that it names. It carries the links of the
other destinations, which therefore go first.
"""

from collections.abc import Sequence

from nexus_tasks.exporters.archive.manifest import (
    MANIFEST,
    as_json,
    manifest_there,
    said_of_the_session,
    wanted_manifest,
)
from nexus_tasks.exporters.archive.session_folder import SessionFolder, folder_of
from nexus_tasks.exporters.archive.store import check_settings, open_store
from nexus_tasks.exporters.base import Check, ExportContext, ExportResult
from nexus_tasks.exporters.gone import GoneError, advice_to_recreate
from nexus_tasks.exporters.required_settings import all_set, check_set, value_of
from nexus_tasks.exporters.steps import Done


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
        return open_store(lambda: None, lambda: False).checks()

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        with advice_to_recreate(context, self.name):
            return self._export(context)

    def _export(self, context: ExportContext) -> ExportResult:
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
