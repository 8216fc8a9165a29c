"""What a record has in LabArchives: a summary and the XML, on a page or as files in the Inbox; used by the destination.

Either is made once, and brought up to date in place. A summary that people have changed is left to them, and a note
below it says that the record has changed.
"""

from collections.abc import Callable
from dataclasses import replace

from nexus_tasks.config import get_settings
from nexus_tasks.exporters.base import ExportContext
from nexus_tasks.exporters.gone import PartGoneError
from nexus_tasks.exporters.html_summary import Summary, identifying_text, render_note, render_summary, whole_document
from nexus_tasks.exporters.http import call_deadline
from nexus_tasks.exporters.labarchives.api import EntryText, LabArchivesApi, TooBigError
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

LONGEST_SUMMARY = 3_000_000  # bytes of HTML with its previews; far below any upload limit, so a page opens quickly
XML_CAPTION = "NexusLIMS record (XML)"
SUMMARY_CAPTION = "NexusLIMS session summary"
TEXT_ENTRY = "text entry"


class RecordPage:
    """The page of one record in a notebook, and what we keep on it."""

    def __init__(self, api: LabArchivesApi, steps: Steps, context: ExportContext, notebook: str, page: str) -> None:
        self._api = api
        self._steps = steps
        self._context = context
        self._notebook = notebook
        self._page = page

    def summarise(self, xml: bytes) -> str:
        """The entry that shows the summary, up to date unless people have changed it."""
        return _with_previews_if_they_fit(lambda gallery: self._summarise(xml, gallery=gallery))

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

    def _summarise(self, xml: bytes, *, gallery: bool) -> str:
        summary = _summary(self._context, gallery=gallery)
        shown, content = summary.visible, EntryText(*summary.parts)
        # without its previews the summary still stands for the whole: the next export finds it up to date
        whole = summary if gallery else _summary(self._context)
        marks = {"body": fingerprint(whole.html), "text": shown.mark}

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
            seconds=call_deadline(len(content.form)),
        )
        known = unpacked(held.content)
        if held.created or known.get("body") == marks["body"]:
            return held.identifier
        there = self._visible_entry(held)
        without_link = _summary(self._context, gallery=gallery, linked=False).visible
        if is_ours(there, known, shown, without_link):
            self._steps.begin_update("summary", packed(while_changing(known, there, shown)))
            self._api.update_entry(held.identifier, content)
            self._steps.end_update("summary", packed(marks))
        else:
            self._add_note(render_note(self._context, fingerprint(xml)))
            self._steps.checkpoint.wrote("summary", packed({**known, "body": marks["body"]}))
        return held.identifier

    def _visible_entry(self, held: Held) -> Visible:
        for entry in self._api.get_entries_for_page(self._notebook, self._page):
            if entry.eid == held.identifier:
                return visible(entry.text)
        raise PartGoneError("The summary is not on its LabArchives page any more: it was deleted or moved there.")

    def _add_note(self, note: str) -> None:
        """Say below people's text that the record has changed; once for each content."""
        text, content = visible(note).text, EntryText(note)

        def find() -> Found | None:
            entries = self._api.get_entries_for_page(self._notebook, self._page)
            return next((Found(entry.eid) for entry in entries if visible(entry.text).text == text), None)

        self._steps.ensure(
            f"note {fingerprint(note)[:16]}",
            lambda: self._api.add_text_entry(self._notebook, self._page, content),
            find=find,
            seconds=call_deadline(len(content.form)),
        )


class InboxFiles:
    """The two files of one record in the user's Inbox.

    Nothing can be looked up in the Inbox, so there is no `find`: a request whose answer was lost is made again.
    """

    def __init__(self, api: LabArchivesApi, steps: Steps, context: ExportContext) -> None:
        self._api = api
        self._steps = steps
        self._context = context

    def summarise(self) -> str:
        """The entry that holds the summary, as a document of its own."""
        name, title = attachment_name(self._context, ".html"), record_title(self._context)

        def keep(*, gallery: bool) -> str:
            document = whole_document(_summary(self._context, gallery=gallery).html, title).encode("utf-8")
            return self._keep("inbox summary", name, document, SUMMARY_CAPTION)

        return _with_previews_if_they_fit(lambda gallery: keep(gallery=gallery))

    def attach(self, xml: bytes) -> str:
        """The entry that holds the record."""
        return self._keep("inbox attachment", attachment_name(self._context), xml, XML_CAPTION)

    def _keep(self, step: str, name: str, content: bytes, caption: str) -> str:
        held = self._steps.ensure(
            step,
            lambda: self._api.add_attachment(name, content, caption, None, None),
            content=fingerprint(content),
            seconds=call_deadline(len(content)),
        )
        return _up_to_date_file(self._api, self._steps, step, held, name, content, caption)


def _with_previews_if_they_fit(keep: Callable[[bool], str]) -> str:
    """`keep(True)`, and where LabArchives finds that too big, the summary without its previews: `keep(False)`."""
    try:
        return keep(True)
    except TooBigError:
        return keep(False)


def _summary(context: ExportContext, *, gallery: bool = True, linked: bool = True) -> Summary:
    return render_summary(
        context if linked else replace(context, previous_results={}),
        max_bytes=LONGEST_SUMMARY,
        gallery=gallery,
        files_root=get_settings().NX_INSTRUMENT_DATA_PATH,
    )


def _up_to_date_file(
    api: LabArchivesApi, steps: Steps, step: str, held: Held, name: str, content: bytes, caption: str
) -> str:
    sha256 = fingerprint(content)
    if held.content != sha256:
        steps.begin_update(step)
        api.update_attachment(held.identifier, name, content, caption)
        steps.end_update(step, sha256)
    return held.identifier
