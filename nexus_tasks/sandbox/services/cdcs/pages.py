"""The pages on which a person sees what the CDCS stand-in holds; `service` adds them to the table of routes."""

import re
from collections.abc import Sequence

from lxml import etree

from nexus_tasks.sandbox.services import pages
from nexus_tasks.sandbox.services.cdcs.objects import PUBLIC_WORKSPACE, WORKSPACE_TITLE, Database
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.pages import Html
from nexus_tasks.sandbox.services.service import Handler

SHOWN_IN_ROW = {"name", "unit", "warning"}  # attributes that need no words of their own


class Pages:
    """All records, and one record; `name` is the service's."""

    def __init__(self, name: str, database: Database) -> None:
        self._name = name
        self._database = database

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            ("GET", "/", self._index_page),
            ("GET", "/data", self._record_page),
        ]

    def _index_page(self, _request: Request, _match: re.Match[str]) -> Response:
        titles = {PUBLIC_WORKSPACE: WORKSPACE_TITLE}
        rows = [
            (
                each.id,
                pages.link(f"/data?id={each.id}", each.title),
                titles.get(each.workspace or 0, "only its owner sees it"),
                pages.size(len(each.xml_content.encode())),
                each.created[:19].replace("T", " "),
            )
            for each in self._database.newest_first()
        ]
        headings = ("Id", "Title", "Workspace", "Size", "Created (UTC)")
        records = pages.table(headings, rows, empty="No record has arrived yet.")
        return Response.html(200, pages.page(self._name, "Records", pages.element("h1", "Records"), records))

    def _record_page(self, request: Request, _match: re.Match[str]) -> Response:
        number = request.parameter("id") or ""
        record = self._database.records.get(int(number)) if number.isdecimal() else None
        if record is None:  # 200 all the same: a link proves nothing
            sentence = pages.element("p", "There is no such record.", class_="empty")
            return Response.html(200, pages.page(self._name, "No record", sentence))
        root = etree.fromstring(record.xml_content.encode(), etree.XMLParser(resolve_entities=False, no_network=True))
        about = f"record {record.id}, template {record.template}, {pages.size(len(record.xml_content.encode()))}"
        source = pages.element("details", pages.element("summary", "XML"), pages.element("pre", record.xml_content))
        return Response.html(
            200,
            pages.page(
                self._name,
                record.title,
                pages.element("h1", record.title),
                pages.element("p", about, class_="dim"),
                _readable(root),
                pages.element("h2", "Source"),
                source,
            ),
        )


def _readable(node: etree._Element, *, attributes: bool = True) -> Html:
    """An XML element for people: its attributes and leaves as a table, then its branches."""
    rows: list[tuple[object, object]] = [(name, value) for name, value in node.attrib.items() if attributes]
    branches: list[Html] = []
    for child in node.iterchildren(etree.Element):
        notes = [str(name) + ": " + str(value) for name, value in child.attrib.items() if name not in SHOWN_IN_ROW]
        note = f" ({', '.join(notes)})" if notes else ""
        if len(child):
            branches.append(
                pages.element("section", pages.element("h3", _local(child), note), _readable(child, attributes=False))
            )
        else:
            value = " ".join(part for part in (child.text or "", child.get("unit") or "") if part)
            rows.append((child.get("name") or _local(child), pages.element("span", pages.web_link(value), note)))
    return Html.join_all([pages.pairs(rows) if rows else Html(""), *branches])


def _local(node: etree._Element) -> str:
    return etree.QName(node).localname
