"""Makes a page in a LabArchives notebook for a record: summary with previews, and the XML attached; called by workers.

The page is `NexusLIMS Records/{instrument_pid}/{YYYY-MM-DD — session_id}`. Folders are looked up by their exact text
before they are made, and their ids remembered for ten minutes, so that a record takes three calls: page, summary,
attachment. Without a notebook, summary and XML go to the user's Inbox, as files.
"""

from urllib.parse import urlsplit

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import Checkpoint, ExportContext, ExportResult, PermanentError
from nexus_tasks.exporters.html_summary import cdcs_link, render_summary, whole_document
from nexus_tasks.exporters.labarchives_api import ROOT, Account, LabArchivesApi
from nexus_tasks.exporters.record_file import read_record
from nexus_tasks.exporters.required_settings import all_set, check_set, value_of
from nexus_tasks.exporters.short_memory import ShortMemory
from nexus_tasks.exporters.title import attachment_name, record_title

TOP_FOLDER = "NexusLIMS Records"
LONGEST_SUMMARY = 3_000_000  # bytes of HTML with its previews; far below any upload limit, so a page opens quickly
XML_CAPTION = "NexusLIMS record (XML)"
SUMMARY_CAPTION = "NexusLIMS session summary"

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
    window = 1  # its terms ask for calls one after the other, over all workers

    def __init__(self) -> None:
        self._folders = ShortMemory()

    @property
    def enabled(self) -> bool:
        """Whether its address, access key and user are set; the notebook is optional."""
        return all_set(*_NEEDED)

    def validate_config(self) -> tuple[bool, str | None]:
        """See `ExportDestination.validate_config`."""
        return check_set("LabArchives", *_NEEDED)

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        settings = get_settings()
        url = value_of("NX_LABARCHIVES_URL")
        account = Account(
            value_of("NX_LABARCHIVES_ACCESS_KEY_ID"),
            value_of("NX_LABARCHIVES_ACCESS_PASSWORD"),
            value_of("NX_LABARCHIVES_USER_ID"),
        )
        api, xml = LabArchivesApi(url, account), read_record(context)
        summary = render_summary(
            context, max_bytes=LONGEST_SUMMARY, gallery=True, files_root=settings.NX_INSTRUMENT_DATA_PATH
        )
        if settings.NX_LABARCHIVES_NOTEBOOK_ID is None:
            return self._to_inbox(api, context, summary, xml)
        return self._to_notebook(api, context, settings.NX_LABARCHIVES_NOTEBOOK_ID, summary, xml)

    def _to_notebook(
        self, api: LabArchivesApi, context: ExportContext, notebook: str, summary: str, xml: bytes
    ) -> ExportResult:
        checkpoint = context.checkpoint
        page = self._page(api, context, notebook)
        entry = checkpoint.create("summary", lambda: api.add_text_entry(notebook, page, summary))
        attachment = checkpoint.create(
            "attachment", lambda: api.add_attachment(attachment_name(context), xml, XML_CAPTION, notebook, page)
        )
        return ExportResult(
            success=True,
            destination_name=self.name,
            record_id=page,
            record_url=f"{web_address(value_of('NX_LABARCHIVES_URL'))}/#/{notebook}/{page}",
            metadata={
                "notebook_id": notebook,
                "summary_entry_id": entry,
                "attachment_entry_id": attachment,
                "cdcs_url": cdcs_link(context),
            },
        )

    def _to_inbox(self, api: LabArchivesApi, context: ExportContext, summary: str, xml: bytes) -> ExportResult:
        document = whole_document(summary, record_title(context)).encode("utf-8")
        html_name = attachment_name(context, ".html")
        entry = context.checkpoint.create(
            "summary", lambda: api.add_attachment(html_name, document, SUMMARY_CAPTION, None, None)
        )
        attachment = context.checkpoint.create(
            "attachment", lambda: api.add_attachment(attachment_name(context), xml, XML_CAPTION, None, None)
        )
        return ExportResult(
            success=True,
            destination_name=self.name,
            record_id=attachment,
            record_url=None,  # the Inbox has no address of its own
            metadata={
                "notebook_id": None,
                "summary_entry_id": entry,
                "attachment_entry_id": attachment,
                "cdcs_url": cdcs_link(context),
            },
        )

    def _page(self, api: LabArchivesApi, context: ExportContext, notebook: str) -> str:
        checkpoint, title = context.checkpoint, page_title(context)

        def create(folder: str) -> str:
            return checkpoint.create("page", lambda: api.insert_node(notebook, folder, title, is_folder=False))

        made = checkpoint.get("page")
        if made is not None:
            return made
        key = (value_of("NX_LABARCHIVES_URL"), notebook, context.instrument_pid)
        remembered = self._folders.get(key)
        if remembered is not None:
            try:
                return create(remembered)
            except PermanentError:
                self._folders.forget()  # the folder may have been deleted: look again
        folder = _folder(api, checkpoint, notebook, ROOT, TOP_FOLDER)
        folder = _folder(api, checkpoint, notebook, folder, _one_line(context.instrument_pid))
        return create(self._folders.put(key, folder))


def page_title(context: ExportContext) -> str:
    """`{YYYY-MM-DD} — {session_id}`, on one line."""
    return _one_line(f"{context.dt_from:%Y-%m-%d} — {context.session_identifier}")


def web_address(url: str) -> str:
    """Where people open LabArchives, from the address of its API.

    `api.labarchives.com` belongs to `mynotebook.labarchives.com`, `auapi.…` to `au-mynotebook.…`; any other host
    serves both.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host.endswith("api.labarchives.com"):
        region = host.removesuffix("api.labarchives.com").strip("-.")
        return f"{parts.scheme}://{region}{'-' if region else ''}mynotebook.labarchives.com"
    return url.removesuffix("/api")


def _folder(api: LabArchivesApi, checkpoint: Checkpoint, notebook: str, parent: str, text: str) -> str:
    """The folder `text` in `parent`, made if it is not there."""
    for node in api.get_tree_level(notebook, parent):
        if not node.is_page and node.display_text == text:
            return node.tree_id
    return checkpoint.create(f"folder {text}", lambda: api.insert_node(notebook, parent, text, is_folder=True))


def _one_line(text: str) -> str:
    return " ".join(text.split())
