"""Keeps a page in a LabArchives notebook for a record: summary with previews, and the XML attached; called by workers.

The page is `NexusLIMS Records/{instrument_pid}/{YYYY-MM-DD — session_id}`. Folders are looked up by their exact text
before they are made, once for all records and workers, so that a record takes three calls: page, summary, attachment.
Later contents go to the same page, in place, unless people have changed the summary. Without a notebook, summary and
XML go to the user's Inbox, as files. A record stays where it went first, in that notebook or in the Inbox.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from urllib.parse import urlencode, urlsplit

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import Checkpoint, ExportContext, ExportResult, PermanentError
from nexus_tasks.exporters.gone import GoneError, advice_to_recreate
from nexus_tasks.exporters.html_summary import (
    cdcs_link,
    identifying_text,
    render_note,
    render_summary,
    whole_document,
)
from nexus_tasks.exporters.http import call_deadline
from nexus_tasks.exporters.labarchives_api import ROOT, Account, LabArchivesApi
from nexus_tasks.exporters.record_file import read_record
from nexus_tasks.exporters.required_settings import all_set, check_set, value_of
from nexus_tasks.exporters.steps import Found, Held, Steps, fingerprint
from nexus_tasks.exporters.title import attachment_name, record_title
from nexus_tasks.exporters.written_text import (
    Visible,
    is_ours,
    packed,
    unpacked,
    visible,
    while_changing,
    without_white_space,
)

TOP_FOLDER = "NexusLIMS Records"
LONGEST_SUMMARY = 3_000_000  # bytes of HTML with its previews; far below any upload limit, so a page opens quickly
XML_CAPTION = "NexusLIMS record (XML)"
SUMMARY_CAPTION = "NexusLIMS session summary"
TEXT_ENTRY = "text entry"

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

    def validate_config(self) -> tuple[bool, str | None]:
        """See `ExportDestination.validate_config`."""
        return check_set("LabArchives", *_NEEDED)

    def export(self, context: ExportContext) -> ExportResult:
        """See `ExportDestination.export`."""
        with advice_to_recreate(context, self.name):
            return self._export(context)

    def _export(self, context: ExportContext) -> ExportResult:
        account = Account(
            value_of("NX_LABARCHIVES_ACCESS_KEY_ID"),
            value_of("NX_LABARCHIVES_ACCESS_PASSWORD"),
            value_of("NX_LABARCHIVES_USER_ID"),
        )
        api, xml = LabArchivesApi(value_of("NX_LABARCHIVES_URL"), account), read_record(context)
        notebook = get_settings().NX_LABARCHIVES_NOTEBOOK_ID
        if context.checkpoint.get("page") is not None:
            notebook = context.checkpoint.written("page") or notebook
        elif context.checkpoint.get("inbox summary") is not None:
            notebook = None
        if notebook is None:
            return self._to_inbox(api, context, xml)
        return self._to_notebook(api, context, notebook, xml)

    def _to_notebook(self, api: LabArchivesApi, context: ExportContext, notebook: str, xml: bytes) -> ExportResult:
        steps = Steps(context.checkpoint, "page")
        page = self._page(api, steps, context, notebook)
        on_page = _Page(api, steps, context, notebook, page)
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
        document = whole_document(_summary(context), record_title(context)).encode("utf-8")
        entry = _to_inbox(api, steps, "inbox summary", attachment_name(context, ".html"), document, SUMMARY_CAPTION)
        attachment = _to_inbox(api, steps, "inbox attachment", attachment_name(context), xml, XML_CAPTION)
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

        def ensure(folder: str) -> str:
            return steps.ensure(
                "page",
                lambda: api.insert_node(notebook, folder, title, is_folder=False),
                find=partial(_find_node, api, notebook, folder, title, is_page=True),
                content=notebook,
            ).identifier

        made = context.checkpoint.get("page")
        if made is not None:
            return made
        folders = _Folders(api, context.shared, notebook)
        path = (TOP_FOLDER, _one_line(context.instrument_pid))
        try:
            return ensure(folders.ensure(path))
        except PermanentError:
            if not folders.forget_missing(path):
                raise
            return ensure(folders.ensure(path))


class _Page:
    """The page of one record, and what we keep on it."""

    def __init__(self, api: LabArchivesApi, steps: Steps, context: ExportContext, notebook: str, page: str) -> None:
        self._api = api
        self._steps = steps
        self._context = context
        self._notebook = notebook
        self._page = page

    def summarise(self, xml: bytes) -> str:
        """The entry that shows the summary, up to date unless people have changed it."""
        content = _summary(self._context)
        shown = visible(content)
        marks = {"body": fingerprint(content), "text": shown.mark}

        def find() -> Found | None:
            identifying = without_white_space(identifying_text(self._context))
            for entry in self._api.get_entries_for_page(self._notebook, self._page):
                there = visible(entry.text)
                if entry.part_type.lower() == TEXT_ENTRY and identifying in there.text:
                    return Found(entry.eid, packed(marks) if there == shown else None)
            return None

        held = self._steps.ensure(
            "summary",
            lambda: self._api.add_text_entry(self._notebook, self._page, content),
            find=find,
            content=packed(marks),
            seconds=_seconds_to_send(content),
        )
        known = unpacked(held.content)
        if held.created or known.get("body") == marks["body"]:
            return held.identifier
        there = self._visible_entry(held)
        without_link = visible(_summary(self._context, linked=False))
        if is_ours(there, known, shown, without_link):
            self._steps.begin_update("summary", packed(while_changing(known, there, shown)))
            self._api.update_entry(held.identifier, content)
            self._steps.end_update("summary", packed(marks))
        else:
            self._add_note(render_note(self._context, fingerprint(xml)))
            self._steps.checkpoint.wrote("summary", packed({**known, "body": marks["body"]}))
        return held.identifier

    def attach(self, xml: bytes) -> str:
        """The entry that holds the record."""
        name, sha256 = attachment_name(self._context), fingerprint(xml)

        def find() -> Found | None:
            entries = self._api.get_entries_for_page(self._notebook, self._page)
            named = [entry for entry in entries if entry.file_name == name]
            for entry in named:
                if entry.file_size == len(xml) and fingerprint(self._api.entry_attachment(entry.eid)) == sha256:
                    return Found(entry.eid, sha256)
            return next((Found(entry.eid) for entry in named if entry.caption == XML_CAPTION), None)

        held = self._steps.ensure(
            "attachment",
            lambda: self._api.add_attachment(name, xml, XML_CAPTION, self._notebook, self._page),
            find=find,
            content=sha256,
            seconds=call_deadline(len(xml)),
        )
        return _up_to_date_file(self._api, self._steps, "attachment", held, name, xml, XML_CAPTION)

    def _visible_entry(self, held: Held) -> Visible:
        for entry in self._api.get_entries_for_page(self._notebook, self._page):
            if entry.eid == held.identifier:
                return visible(entry.text)
        raise GoneError("The summary is not on its LabArchives page any more: it was deleted or moved there.")

    def _add_note(self, note: str) -> None:
        """Say below people's text that the record has changed; once for each content."""
        text = visible(note).text

        def find() -> Found | None:
            entries = self._api.get_entries_for_page(self._notebook, self._page)
            return next((Found(entry.eid) for entry in entries if visible(entry.text).text == text), None)

        self._steps.ensure(
            f"note {fingerprint(note)[:16]}",
            lambda: self._api.add_text_entry(self._notebook, self._page, note),
            find=find,
            seconds=_seconds_to_send(note),
        )


def _summary(context: ExportContext, *, linked: bool = True) -> str:
    return render_summary(
        context if linked else replace(context, previous_results={}),
        max_bytes=LONGEST_SUMMARY,
        gallery=True,
        files_root=get_settings().NX_INSTRUMENT_DATA_PATH,
    )


def _seconds_to_send(text: str) -> float:
    return call_deadline(len(urlencode({"entry_data": text})))


def _to_inbox(api: LabArchivesApi, steps: Steps, step: str, name: str, content: bytes, caption: str) -> str:
    """The entry in the Inbox that holds a file.

    Nothing can be looked up in the Inbox, so there is no `find`: a request whose answer was lost is made again.
    """
    held = steps.ensure(
        step,
        lambda: api.add_attachment(name, content, caption, None, None),
        content=fingerprint(content),
        seconds=call_deadline(len(content)),
    )
    return _up_to_date_file(api, steps, step, held, name, content, caption)


def _up_to_date_file(
    api: LabArchivesApi, steps: Steps, step: str, held: Held, name: str, content: bytes, caption: str
) -> str:
    sha256 = fingerprint(content)
    if held.content != sha256:
        steps.begin_update(step)
        api.update_attachment(held.identifier, name, content, caption)
        steps.end_update(step, sha256)
    return held.identifier


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


class _Folders:
    """The folders of a notebook, made once for all records; what is known of them is shared by all workers."""

    def __init__(self, api: LabArchivesApi, shared: Checkpoint, notebook: str) -> None:
        self._api = api
        self._shared = shared
        self._notebook = notebook

    def ensure(self, path: Sequence[str]) -> str:
        """The innermost folder of `path`, made with those around it as far as they are not there."""
        parent = ROOT
        for depth, text in enumerate(path, start=1):
            parent = self._folder(self._step(path[:depth]), parent, text)
        return parent

    def forget_missing(self, path: Sequence[str]) -> bool:
        """Forget the folders that somebody has deleted or moved; whether there were any."""
        parent, gone = ROOT, False
        for depth, text in enumerate(path, start=1):
            step = self._step(path[:depth])
            known = self._shared.get(step)
            there = None if gone else _find_node(self._api, self._notebook, parent, text, is_page=False)
            if known is not None and (there is None or there.identifier != known):
                self._shared.forget(step, known)
                gone = True
            parent = known or ROOT
        return gone

    def _folder(self, step: str, parent: str, text: str) -> str:
        known = self._shared.get(step)
        if known is not None:
            return known
        found = partial(_find_node, self._api, self._notebook, parent, text, is_page=False)

        def find() -> str | None:
            there = found()
            return None if there is None else there.identifier

        there = find()  # people, or an earlier installation, may have made it
        if there is not None:
            return self._shared.create(step, lambda: there, find=lambda: there)
        return self._shared.create(
            step, partial(self._api.insert_node, self._notebook, parent, text, is_folder=True), find=find
        )

    def _step(self, path: Sequence[str]) -> str:
        return f"folder {self._notebook} {'/'.join(path)}"


def _find_node(api: LabArchivesApi, notebook: str, parent: str, text: str, *, is_page: bool) -> Found | None:
    """The folder or page with exactly this text; of several the first listed, for LabArchives does not date them."""
    for node in api.get_tree_level(notebook, parent):
        if node.is_page == is_page and node.display_text == text:
            return Found(node.tree_id, notebook)
    return None


def _one_line(text: str) -> str:
    """`text` without line breaks, and without characters that XML answers could not carry back."""
    return "".join(each for each in " ".join(text.split()) if each.isprintable())
