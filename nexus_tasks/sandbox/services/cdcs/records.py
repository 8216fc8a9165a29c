"""The calls about CDCS's records; `service` adds them to the table of routes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from lxml import etree

from nexus_tasks.sandbox.services.cdcs.answers import message, refuse, refuse_unless_administrator
from nexus_tasks.sandbox.services.cdcs.installation import Installation
from nexus_tasks.sandbox.services.cdcs.objects import (
    CURRENT_VERSION,
    OLD_VERSION,
    OTHER_TEMPLATE,
    PUBLIC_WORKSPACE,
    READ_ONLY_WORKSPACE,
    USER_ID,
    Database,
    Record,
    now,
)
from nexus_tasks.sandbox.services.cdcs.parameters import read_values
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.service import Handler, Refused

PAGE_SIZE = 10  # records
MAX_TITLE = 200  # characters
MAX_SEARCHABLE_TEXT = 1_048_575  # bytes, PostgreSQL's limit for a tsvector
NO_RIGHT = "The user does not have the permission to write into this workspace."


class RecordCalls:
    """Making, finding, reading, changing and deleting records."""

    def __init__(self, database: Database, installation: Installation) -> None:
        self._database = database
        self._installation = installation

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            ("POST", "/rest/data/", self._create),
            ("GET", "/rest/data/", self._list_own),
            ("POST", "/rest/data/query/", self._query),
            ("GET", r"/rest/data/(\d+)/", self._read),
            ("PATCH", r"/rest/data/(\d+)/", self._update),
            ("DELETE", r"/rest/data/(\d+)/", self._delete),
            ("GET", r"/rest/data/download/(\d+)/", self._download),
            ("PATCH", r"/rest/data/(\d+)/assign/(\d+)", self._assign),
            ("PATCH", r"/rest/data/(\d+)/change-owner/(\w+)", self._change_owner),
            ("GET", "/rest/admin/data/", self._list_all),
        ]

    def _create(self, request: Request, _match: re.Match[str]) -> Response:
        values = read_values(request)
        errors: dict[str, list[str]] = {}
        for name in ("template", "title", self._installation.document_field):
            if name not in values:
                errors[name] = ["This field is required."]
        template, workspace = values.get("template"), values.get("workspace")
        if "template" in values:
            _check_key(template, {OTHER_TEMPLATE, OLD_VERSION, CURRENT_VERSION}, "template", errors)
        if workspace is not None:
            _check_key(workspace, {READ_ONLY_WORKSPACE, PUBLIC_WORKSPACE}, "workspace", errors)
        title = _title(values, errors)
        content = self._content(values, errors)
        if errors:
            return message(400, errors)
        if workspace is not None and int(workspace) == READ_ONLY_WORKSPACE:
            return message(500, NO_RIGHT)
        self._check_document(content, int(str(template)))
        record = self._database.add(int(str(template)), title, content, None if workspace is None else int(workspace))
        return self._shown(record, 201)

    def _list_own(self, request: Request, _match: re.Match[str]) -> Response:
        title = request.parameter("title")
        own = [each for each in self._database.newest_first() if each.user == USER_ID]
        found = [each for each in own if title is None or each.title == title]
        number = request.parameter("page") or "1"
        if not number.isdecimal() or (int(number) - 1) * PAGE_SIZE >= max(len(found), 1) or int(number) < 1:
            return message(500, "Invalid page.")
        start = (int(number) - 1) * PAGE_SIZE
        pattern = f"?page={{}}&title={quote(title)}" if title is not None else "?page={}"
        return Response.json(
            200,
            {
                "count": len(found),
                "next": pattern.format(int(number) + 1) if start + PAGE_SIZE < len(found) else None,
                "previous": pattern.format(int(number) - 1) if start else None,
                "results": self._listed(found[start : start + PAGE_SIZE]),
            },
        )

    def _query(self, request: Request, _match: re.Match[str]) -> Response:
        values = read_values(request)
        if "query" not in values:
            return message(400, "Query should be passed in parameter.")
        if values["query"] not in ({}, "{}"):
            return message(500, "the stand-in knows the empty query only")
        readable = [each for each in self._database.newest_first() if self._may_read(each)]
        found = [each for each in readable if "title" not in values or each.title == values["title"]]
        if str(values.get("all", "false")).lower() == "true":
            return Response.json(200, self._listed(found))
        results = self._listed(found[:PAGE_SIZE])
        return Response.json(200, {"count": len(found), "next": None, "previous": None, "results": results})

    def _list_all(self, request: Request, _match: re.Match[str]) -> Response:
        refuse_unless_administrator(self._installation)
        title = request.parameter("title")
        return Response.json(
            200, self._listed([each for each in self._database.newest_first() if title in (None, each.title)])
        )

    def _read(self, _request: Request, match: re.Match[str]) -> Response:
        return self._shown(self._record(match[1]))

    def _download(self, _request: Request, match: re.Match[str]) -> Response:
        record = self._record(match[1])
        disposition = ("Content-Disposition", f"attachment; filename={quote(record.title)}.xml")
        return Response(200, record.xml_content.encode(), "text/xml", (disposition,))

    def _update(self, request: Request, match: re.Match[str]) -> Response:
        record = self._record(match[1])
        values = read_values(request)
        errors: dict[str, list[str]] = {}
        title = _title(values, errors) if "title" in values else record.title
        content = self._content(values, errors) if self._installation.document_field in values else record.xml_content
        if errors:
            return message(400, errors)
        self._refuse_unless_writable(record)
        self._check_document(content, record.template)
        record.title, record.xml_content, record.modified = title, content, now()
        return self._shown(record)

    def _delete(self, _request: Request, match: re.Match[str]) -> Response:
        record = self._record(match[1])
        self._refuse_unless_writable(record)
        del self._database.records[record.id]
        return Response(204)

    def _assign(self, _request: Request, match: re.Match[str]) -> Response:
        record, workspace = self._record(match[1]), int(match[2])
        if workspace == READ_ONLY_WORKSPACE:
            return message(403, NO_RIGHT)
        if workspace != PUBLIC_WORKSPACE:
            return message(404, "Data or workspace not found.")
        record.workspace = workspace
        return Response.json(200, {})

    def _change_owner(self, _request: Request, match: re.Match[str]) -> Response:
        refuse_unless_administrator(self._installation)
        record = self._database.records.get(int(match[1]))
        if record is None or not match[2].isdecimal() or int(match[2]) not in self._database.users:
            return message(404, "Data or user not found.")
        record.user = int(match[2])
        return Response.json(200, {})

    def _record(self, number: str) -> Record:
        record = self._database.records.get(int(number))
        if record is None:
            refuse(404, "Data not found.")
        if not self._may_read(record):
            refuse(403, "The user doesn't have enough rights to access this document.")
        return record

    def _may_read(self, record: Record) -> bool:
        return self._installation.administrator or record.user == USER_ID or record.workspace is not None

    def _refuse_unless_writable(self, record: Record) -> None:
        if not self._installation.administrator and record.user != USER_ID:
            refuse(403, "The user does not have the permission to write into this workspace.")

    def _shown(self, record: Record, status: int = 200) -> Response:
        return Response.json(status, record.as_json(self._installation.document_field))

    def _listed(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [record.as_json(self._installation.document_field) for record in records]

    def _content(self, values: Mapping[str, Any], errors: dict[str, list[str]]) -> str:
        content = values.get(self._installation.document_field)
        if content is None:
            errors.setdefault(self._installation.document_field, ["This field may not be null."])
            return ""
        return str(content)

    def _check_document(self, content: str, template: int) -> None:
        """Raise the 500 with which CDCS refuses a document, whatever is wrong with it."""
        parser = etree.XMLParser(resolve_entities=False, no_network=True)
        try:
            root = etree.fromstring(content.encode(), parser)
            if self._installation.schema is not None and template == CURRENT_VERSION:
                self._installation.schema.assertValid(root)
        except (etree.XMLSyntaxError, etree.DocumentInvalid) as error:
            raise Refused(message(500, str(error))) from None
        texts = [*root.itertext(), *(str(value) for node in root.iter(etree.Element) for value in node.attrib.values())]
        searchable = sum(len(text.encode()) for text in texts)
        if searchable > MAX_SEARCHABLE_TEXT:
            too_long = f"string is too long for tsvector ({searchable} bytes, max {MAX_SEARCHABLE_TEXT} bytes)\n"
            refuse(500, too_long)


def _check_key(value: Any, known: set[int], name: str, errors: dict[str, list[str]]) -> None:
    if isinstance(value, bool) or not str(value).isdecimal():
        errors[name] = [f"Incorrect type. Expected pk value, received {type(value).__name__}."]
    elif int(value) not in known:
        errors[name] = [f'Invalid pk "{value}" - object does not exist.']


def _title(values: Mapping[str, Any], errors: dict[str, list[str]]) -> str:
    title = values.get("title")
    if not isinstance(title, str):
        errors.setdefault("title", ["Not a valid string."])
        return ""
    title = title.strip()
    if not title:
        errors["title"] = ["This field may not be blank."]
    elif "\0" in title:
        errors["title"] = ["Null characters are not allowed."]
    elif len(title) > MAX_TITLE:
        errors["title"] = [f"Ensure this field has no more than {MAX_TITLE} characters."]
    return title
