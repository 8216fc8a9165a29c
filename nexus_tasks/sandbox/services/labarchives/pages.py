"""The pages on which a person sees what the LabArchives stand-in holds; `service` adds them to the table of routes."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from nexus_tasks.sandbox.services import pages
from nexus_tasks.sandbox.services.labarchives.attachment import download
from nexus_tasks.sandbox.services.labarchives.objects import ROOT, Entry, Node, Notebook
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.pages import Html
from nexus_tasks.sandbox.services.service import Handler


class Pages:
    """The notebook, and an attachment of it; `name` is the service's, `nbid` the notebook's."""

    def __init__(self, name: str, nbid: str, notebook: Notebook) -> None:
        self._name = name
        self._nbid = nbid
        self._notebook = notebook

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            ("GET", "/", self._notebook_page),
            ("GET", "/attachment", self._attachment_page),
        ]

    def _notebook_page(self, _request: Request, _match: re.Match[str]) -> Response:
        """All of the notebook; the style shows the page that the link's fragment names, above the contents."""
        by_page: dict[str | None, list[Entry]] = defaultdict(list)
        for entry in self._notebook.entries.values():
            by_page[entry.page].append(entry)
        notebook_pages = [node for node in self._notebook.nodes.values() if node.is_page]
        contents = pages.element("ul", *self._contents(ROOT, by_page))
        if not self._notebook.nodes:
            contents = pages.element("p", "No page has arrived yet.", class_="empty")
        on_pages = [entry for entry in self._notebook.entries.values() if entry.page is not None]
        counts = f"{_counted(len(notebook_pages), 'page')} with {_held(on_pages)}"
        return Response.html(
            200,
            pages.page(
                self._name,
                "Sandbox Notebook",
                *(self._page_html(node, by_page[node.tree_id]) for node in notebook_pages),
                pages.element("h1", "Sandbox Notebook"),
                pages.element("p", counts, class_="dim"),
                contents,
                pages.element("h2", "Inbox"),
                *_entries_html(by_page[None], empty="Nothing has come to the Inbox."),
            ),
        )

    def _page_html(self, node: Node, entries: list[Entry]) -> Html:
        return pages.element(
            "article",
            pages.element("h1", node.text),
            pages.element("p", self._notebook.path(node.parent) or "at the top of the notebook", class_="dim"),
            *_entries_html(entries, empty="The page is empty."),
            id=f"/{self._nbid}/{node.tree_id}",  # what stands behind # in a page's link
        )

    def _contents(self, parent: str, by_page: Mapping[str | None, list[Entry]]) -> list[Html]:
        lines = []
        for node in self._notebook.nodes.values():
            if node.parent != parent:
                continue
            if node.is_page:
                name: str = pages.link(f"#/{self._nbid}/{node.tree_id}", node.text)
                below = pages.element("span", f" {_held(by_page.get(node.tree_id, []))}", class_="dim")
            else:
                name = pages.element("strong", node.text)
                below = pages.element("ul", *self._contents(node.tree_id, by_page))
            lines.append(pages.element("li", name, below))
        return lines

    def _attachment_page(self, request: Request, _match: re.Match[str]) -> Response:
        entry = self._notebook.entries.get(request.parameter("eid") or "")
        if entry is None or entry.filename is None:
            return Response.html(404, pages.page(self._name, "No attachment", "There is no such attachment."))
        return download(entry)


def _entries_html(entries: Sequence[Entry], *, empty: str) -> list[Html]:
    """The texts as they look, each in a frame, and the files in a table."""
    if not entries:
        return [pages.element("p", empty, class_="empty")]
    texts = [pages.frame(entry.text, entry.part_type) for entry in entries if entry.filename is None]
    files = [
        (
            pages.link(f"/attachment?eid={quote(entry.eid, safe='')}", entry.filename),
            entry.caption,
            pages.size(len(entry.content)),
            pages.element("code", entry.sha256[:12]),
        )
        for entry in entries
        if entry.filename is not None
    ]
    return texts + ([pages.table(("File", "Caption", "Size", "SHA-256"), files, empty="")] if files else [])


def _held(entries: Sequence[Entry]) -> str:
    files = sum(entry.filename is not None for entry in entries)
    return f"{_counted(len(entries) - files, 'text')} and {_counted(files, 'file')}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
