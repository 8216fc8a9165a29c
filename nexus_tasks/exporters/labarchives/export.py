"""Exports a record to LabArchives: its page in the notebook with summary and XML, or both as files in the Inbox."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import Check, ExportContext, ExportResult, PermanentError
from nexus_tasks.exporters.gone import GoneError
from nexus_tasks.exporters.html_summary import cdcs_link
from nexus_tasks.exporters.labarchives.api import Account, LabArchivesApi, NotebookError
from nexus_tasks.exporters.labarchives.checks import checks_of
from nexus_tasks.exporters.labarchives.folders import TOP_FOLDER, Folders, find_node, node_name
from nexus_tasks.exporters.labarchives.page import InboxFiles, RecordPage
from nexus_tasks.exporters.record_file import read_record
from nexus_tasks.exporters.required_settings import value_of
from nexus_tasks.exporters.steps import Found, Steps

_API_HOST = re.compile(r"(?P<region>[a-z0-9-]*?)[-.]?api\.(?P<domain>labarchives(-gov)?\.com)")


class LabArchivesExporter:
    """What talks to LabArchives for a destination of that name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def checks(self) -> Sequence[Check]:
        """See `ExportDestination`."""
        return checks_of(_open_api, lambda: get_settings().NX_LABARCHIVES_NOTEBOOK_ID)

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        _refuse_unnamed(context)
        api, xml = _open_api(), read_record(context)
        notebook = configured = get_settings().NX_LABARCHIVES_NOTEBOOK_ID
        if context.checkpoint.get("page") is not None:
            notebook = _sent(context)[0] or configured
        elif context.checkpoint.get("inbox summary") is not None:
            notebook = None
        if notebook is None:
            return self._to_inbox(api, context, xml)
        try:
            return self._to_notebook(api, context, notebook, xml)
        except NotebookError:
            if notebook == configured:
                raise
            raise GoneError(  # of this record alone: the others go to the notebook that is configured
                f"LabArchives does not let us into the notebook {notebook} (error 4509). The page of this record is in "
                "it, though NX_LABARCHIVES_NOTEBOOK_ID does not name it any more: have its owner let the user write to "
                "it, and retry the record."
            ) from None

    def _to_notebook(self, api: LabArchivesApi, context: ExportContext, notebook: str, xml: bytes) -> ExportResult:
        steps = Steps(context.checkpoint, "page")
        page = self._page(api, steps, context, notebook)
        on_page = RecordPage(api, steps, context, notebook, page)
        entry = on_page.summarise(xml)
        attachment = on_page.attach(xml)
        return ExportResult(
            success=True,
            destination_name=self.name,
            record_id=page,
            record_url=f"{web_address(value_of('NX_LABARCHIVES_URL'))}/#/{notebook}/{page}",
            metadata={
                "done": steps.done,
                "notebook_id": notebook,
                "summary_entry_id": entry,
                "attachment_entry_id": attachment,
                "cdcs_url": cdcs_link(context),
            },
        )

    def _to_inbox(self, api: LabArchivesApi, context: ExportContext, xml: bytes) -> ExportResult:
        steps = Steps(context.checkpoint, "inbox attachment")
        files = InboxFiles(api, steps, context)
        entry = files.summarise()
        attachment = files.attach(xml)
        return ExportResult(
            success=True,
            destination_name=self.name,
            record_id=attachment,
            record_url=None,  # the Inbox has no address of its own
            metadata={
                "done": steps.done,
                "notebook_id": None,
                "summary_entry_id": entry,
                "attachment_entry_id": attachment,
                "cdcs_url": cdcs_link(context),
            },
        )

    def _page(self, api: LabArchivesApi, steps: Steps, context: ExportContext, notebook: str) -> str:
        title = page_title(context)
        earlier = _sent(context)[1] or title
        sent = f"{notebook} {title}"

        def find_in(folder: str) -> Found | None:
            """Under the name that was sent, too: the session's date may have been corrected since."""
            there = find_node(api, notebook, folder, title, earlier, is_page=True)
            return None if there is None else Found(there, sent)

        def ensure(folder: str) -> str:
            return steps.ensure(
                "page",
                lambda: api.insert_node(notebook, folder, title, is_folder=False),
                find=lambda: find_in(folder),
                content=sent,
            ).identifier

        made = context.checkpoint.get("page")
        if made is not None:
            return made
        folders = Folders(api, context.shared, notebook)
        path = (TOP_FOLDER, node_name(context.instrument_pid))
        try:
            return ensure(folders.ensure(path))
        except PermanentError:
            if not folders.forget_missing(path):
                raise
            return ensure(folders.ensure(path))


def _open_api() -> LabArchivesApi:
    account = Account(
        value_of("NX_LABARCHIVES_ACCESS_KEY_ID"),
        value_of("NX_LABARCHIVES_ACCESS_PASSWORD"),
        value_of("NX_LABARCHIVES_USER_ID"),
    )
    return LabArchivesApi(value_of("NX_LABARCHIVES_URL"), account)


def _refuse_unnamed(context: ExportContext) -> None:
    """Before anything is made: without these two there is no name for the page or for its folder."""
    named = {"session identifier": context.session_identifier, "instrument identifier": context.instrument_pid}
    for what, value in named.items():
        if not value.strip():
            raise PermanentError(
                f"The record of session {context.session_identifier!r} has no {what}, by which it is filed in "
                "LabArchives: nothing was sent. Build the session again with it, and retry."
            )


def _sent(context: ExportContext) -> tuple[str, str]:
    """The notebook and the name with which the page was made, or may have been; each empty where it is not known."""
    notebook, _, title = (context.checkpoint.written("page") or "").partition(" ")
    return notebook, title


def page_title(context: ExportContext) -> str:
    """`{YYYY-MM-DD} — {session_id}`, on one line."""
    return node_name(f"{context.dt_from:%Y-%m-%d} — {context.session_identifier}")


def web_address(url: str) -> str:
    """Where people open LabArchives, from the address of its API.

    `api.labarchives.com` belongs to `mynotebook.labarchives.com`, `auapi.…` to `au-mynotebook.…`; any other host
    serves both.
    """
    parts = urlsplit(url)
    host = _API_HOST.fullmatch(parts.hostname or "")
    if host is None:
        return url.removesuffix("/api")
    region = host["region"]
    return f"{parts.scheme}://{region}{'-' if region else ''}mynotebook.{host['domain']}"
