"""A stand-in for CDCS: the calls of its REST interface that a destination needs, with their odd sides.

The behaviour is that of core-main-app with SQL search: 2.18 and 2.23 answer these calls alike. `StandIns` starts it.
"""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any, ClassVar, NoReturn
from urllib.parse import quote

from lxml import etree

from nexus_tasks.sandbox.services import pages
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.pages import Html
from nexus_tasks.sandbox.services.service import Handler, Refused, Service

TEMPLATE_TITLE = "Nexus Experiment Schema"
WORKSPACE_TITLE = "Global Public Workspace"
OTHER_TEMPLATE = 12  # belongs to another manager
OLD_VERSION = 17
CURRENT_VERSION = 41
READ_ONLY_WORKSPACE = 3  # of a group that lets the token's user read
NO_RIGHT = "The user does not have the permission to write into this workspace."
PUBLIC_WORKSPACE = 8
USER_ID = 5  # the token's user
USERS = {1: "admin", USER_ID: "nexuslims"}
MAX_USERNAME = 150  # characters
CORE_VERSION = "2.23.0"
FIRST_RECORD_ID = 101
PAGE_SIZE = 10  # records
MAX_TITLE = 200  # characters
SHOWN_IN_ROW = {"name", "unit", "warning"}  # attributes that need no words of their own
MAX_SEARCHABLE_TEXT = 1_048_575  # bytes, PostgreSQL's limit for a tsvector

ANY_EXPERIMENT_XSD = """<?xml version="1.0" encoding="UTF-8"?>
<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" elementFormDefault="qualified"
  targetNamespace="https://data.nist.gov/od/dm/nexus/experiment/v1.0">
  <xs:element name="Experiment" type="xs:anyType"/>
</xs:schema>
"""


@dataclass
class Record:
    """One XML document."""

    id: int
    template: int
    title: str
    xml_content: str
    workspace: int | None
    created: str
    modified: str
    user: int = USER_ID

    def as_json(self, field: str) -> dict[str, Any]:
        """The record as the interface shows it; `field` is the name of its document."""
        return {
            "id": self.id,
            "template": self.template,
            "workspace": self.workspace,
            "user_id": str(self.user),
            "title": self.title,
            "checksum": None,
            "creation_date": self.created,
            "last_modification_date": self.modified,
            "last_change_date": self.modified,
            field: self.xml_content,
        }


class Cdcs(Service):
    """CDCS with one user, two public workspaces and two templates.

    `xsd` is the schema of the current template. Without one, every well-formed document is valid, which no XML schema
    can say: the template then claims to be of another format, so that nobody validates by it. `administrator` says that
    the token's user is a superuser, `document_field` what the site calls a document (`xml_content` or `content`),
    `clock_ahead` by how many seconds its clock is wrong.
    """

    name: ClassVar[str] = "CDCS"
    pages: ClassVar[frozenset[str]] = frozenset({"/", "/data"})

    def __init__(
        self,
        token: str,
        xsd: bytes | None = None,
        *,
        administrator: bool = False,
        document_field: str = "xml_content",
        clock_ahead: float = 0,
    ) -> None:
        super().__init__()
        self._token = token
        self._administrator = administrator
        self._document_field = document_field
        self._clock_ahead = clock_ahead
        self._xsd = xsd.decode() if xsd is not None else ANY_EXPERIMENT_XSD
        self._schema = etree.XMLSchema(etree.fromstring(xsd)) if xsd is not None else None
        self._next_id = FIRST_RECORD_ID
        self._records: dict[int, Record] = {}
        self._users = dict(USERS)

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            ("GET", "/", self._index_page),
            ("GET", "/data", self._record_page),
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
            ("GET", "/rest/user/", self._list_users),
            ("POST", "/rest/user/", self._create_user),
            ("GET", "/rest/workspace/read_access.*", self._workspaces),  # its pattern has no end over there, either
            ("GET", "/rest/workspace/write_access.*", self._writable_workspaces),
            ("GET", "/rest/core-settings/", self._core_settings),
            ("GET", "/rest/template-version-manager/global/", self._template_managers),
            ("GET", r"/rest/template/(\d+)/", self._template),
        ]

    def authenticate(self, request: Request) -> None:
        """See `Service.authenticate`."""
        given = request.headers.get("Authorization")
        if given is None:
            raise Refused(_detail(403, "Authentication credentials were not provided."))
        if given != f"Token {self._token}":
            raise Refused(_detail(403, "Invalid token."))

    def answer(self, request: Request) -> Response:
        """See `Service.answer`."""
        response = super().answer(request)
        date = formatdate(time.time() + self._clock_ahead, usegmt=True)
        return replace(response, headers=(*response.headers, ("Date", date)))

    def not_found(self, request: Request) -> Response:
        """See `Service.not_found`."""
        with_slash = request.path + "/"
        if not request.path.endswith("/") and any(path.fullmatch(with_slash) for _, path, _ in self._routes):
            query = "&".join(
                f"{quote(name)}={quote(value)}" for name, values in request.query.items() for value in values
            )
            location = with_slash + (f"?{query}" if query else "")
            return Response(301, b"", "text/html; charset=utf-8", (("Location", location),))
        if any(path.fullmatch(request.path) for _, path, _ in self._routes):
            return _detail(405, f'Method "{request.method}" not allowed.')
        return Response.html(404, "<!doctype html><title>Not Found</title><h1>Not Found</h1>")

    def objects(self, *, content: bool = False) -> list[dict[str, Any]]:
        """See `Service.objects`."""
        return [
            {
                "kind": "record",
                "id": record.id,
                "title": record.title,
                "template": record.template,
                "workspace": record.workspace,
                "owner": self._users[record.user],
                "sha256": hashlib.sha256(record.xml_content.encode()).hexdigest(),
                "size": len(record.xml_content.encode()),
            }
            | ({"xml_content": record.xml_content} if content else {})
            for record in self._records.values()
        ]

    def reset(self) -> None:
        """See `Service.reset`."""
        self._records.clear()
        self._users = dict(USERS)

    # --- records

    def _create(self, request: Request, _match: re.Match[str]) -> Response:
        values = _values(request)
        errors: dict[str, list[str]] = {}
        for name in ("template", "title", self._document_field):
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
            return _message(400, errors)
        if workspace is not None and int(workspace) == READ_ONLY_WORKSPACE:
            return _message(500, NO_RIGHT)
        self._check_document(content, int(str(template)))
        now = _now()
        record = Record(
            self._next_id, int(str(template)), title, content, None if workspace is None else int(workspace), now, now
        )
        self._next_id += 1
        self._records[record.id] = record
        return self._shown(record, 201)

    def _list_own(self, request: Request, _match: re.Match[str]) -> Response:
        title = request.parameter("title")
        own = [each for each in self._newest_first() if each.user == USER_ID]
        found = [each for each in own if title is None or each.title == title]
        number = request.parameter("page") or "1"
        if not number.isdecimal() or (int(number) - 1) * PAGE_SIZE >= max(len(found), 1) or int(number) < 1:
            return _message(500, "Invalid page.")
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
        values = _values(request)
        if "query" not in values:
            return _message(400, "Query should be passed in parameter.")
        if values["query"] not in ({}, "{}"):
            return _message(500, "the stand-in knows the empty query only")
        readable = [each for each in self._newest_first() if self._may_read(each)]
        found = [each for each in readable if "title" not in values or each.title == values["title"]]
        if str(values.get("all", "false")).lower() == "true":
            return Response.json(200, self._listed(found))
        results = self._listed(found[:PAGE_SIZE])
        return Response.json(200, {"count": len(found), "next": None, "previous": None, "results": results})

    def _list_all(self, request: Request, _match: re.Match[str]) -> Response:
        self._refuse_unless_administrator()
        title = request.parameter("title")
        return Response.json(200, self._listed([each for each in self._newest_first() if title in (None, each.title)]))

    def _read(self, _request: Request, match: re.Match[str]) -> Response:
        return self._shown(self._record(match[1]))

    def _download(self, _request: Request, match: re.Match[str]) -> Response:
        record = self._record(match[1])
        disposition = ("Content-Disposition", f"attachment; filename={quote(record.title)}.xml")
        return Response(200, record.xml_content.encode(), "text/xml", (disposition,))

    def _update(self, request: Request, match: re.Match[str]) -> Response:
        record = self._record(match[1])
        values = _values(request)
        errors: dict[str, list[str]] = {}
        title = _title(values, errors) if "title" in values else record.title
        content = self._content(values, errors) if self._document_field in values else record.xml_content
        if errors:
            return _message(400, errors)
        self._refuse_unless_writable(record)
        self._check_document(content, record.template)
        record.title, record.xml_content, record.modified = title, content, _now()
        return self._shown(record)

    def _delete(self, _request: Request, match: re.Match[str]) -> Response:
        record = self._record(match[1])
        self._refuse_unless_writable(record)
        del self._records[record.id]
        return Response(204)

    def _assign(self, _request: Request, match: re.Match[str]) -> Response:
        record, workspace = self._record(match[1]), int(match[2])
        if workspace == READ_ONLY_WORKSPACE:
            return _message(403, NO_RIGHT)
        if workspace != PUBLIC_WORKSPACE:
            return _message(404, "Data or workspace not found.")
        record.workspace = workspace
        return Response.json(200, {})

    def _change_owner(self, _request: Request, match: re.Match[str]) -> Response:
        self._refuse_unless_administrator()
        record = self._records.get(int(match[1]))
        if record is None or not match[2].isdecimal() or int(match[2]) not in self._users:
            return _message(404, "Data or user not found.")
        record.user = int(match[2])
        return Response.json(200, {})

    def _record(self, number: str) -> Record:
        record = self._records.get(int(number))
        if record is None:
            raise Refused(_message(404, "Data not found."))
        if not self._may_read(record):
            raise Refused(_message(403, "The user doesn't have enough rights to access this document."))
        return record

    def _may_read(self, record: Record) -> bool:
        return self._administrator or record.user == USER_ID or record.workspace is not None

    def _refuse_unless_writable(self, record: Record) -> None:
        if not self._administrator and record.user != USER_ID:
            raise Refused(_message(403, "The user does not have the permission to write into this workspace."))

    def _refuse_unless_administrator(self) -> None:
        if not self._administrator:
            raise Refused(_detail(403, "You do not have permission to perform this action."))

    def _shown(self, record: Record, status: int = 200) -> Response:
        return Response.json(status, record.as_json(self._document_field))

    def _listed(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [record.as_json(self._document_field) for record in records]

    def _content(self, values: Mapping[str, Any], errors: dict[str, list[str]]) -> str:
        content = values.get(self._document_field)
        if content is None:
            errors.setdefault(self._document_field, ["This field may not be null."])
            return ""
        return str(content)

    def _newest_first(self) -> list[Record]:
        return sorted(self._records.values(), key=lambda record: record.id, reverse=True)

    def _check_document(self, content: str, template: int) -> None:
        """Raise the 500 with which CDCS refuses a document, whatever is wrong with it."""
        parser = etree.XMLParser(resolve_entities=False, no_network=True)
        try:
            root = etree.fromstring(content.encode(), parser)
            if self._schema is not None and template == CURRENT_VERSION:
                self._schema.assertValid(root)
        except (etree.XMLSyntaxError, etree.DocumentInvalid) as error:
            raise Refused(_message(500, str(error))) from None
        texts = [*root.itertext(), *(str(value) for node in root.iter(etree.Element) for value in node.attrib.values())]
        searchable = sum(len(text.encode()) for text in texts)
        if searchable > MAX_SEARCHABLE_TEXT:
            too_long = f"string is too long for tsvector ({searchable} bytes, max {MAX_SEARCHABLE_TEXT} bytes)\n"
            raise Refused(_message(500, too_long))

    # --- users

    def _list_users(self, _request: Request, _match: re.Match[str]) -> Response:
        self._refuse_unless_administrator()
        return Response.json(200, [self._user(number) for number in self._users])

    def _create_user(self, request: Request, _match: re.Match[str]) -> Response:
        self._refuse_unless_administrator()
        values = _values(request)
        errors: dict[str, list[str]] = {
            name: ["This field is required."] for name in ("username", "password") if name not in values
        }
        name = str(values.get("username", ""))
        if "username" in values and not re.fullmatch(r"[\w.@+-]+", name):
            errors["username"] = [
                "Enter a valid username. This value may contain only letters, numbers, and @/./+/-/_ characters."
            ]
        elif len(name) > MAX_USERNAME:
            errors["username"] = [f"Ensure this field has no more than {MAX_USERNAME} characters."]
        elif name in self._users.values():
            errors["username"] = ["A user with that username already exists."]
        if errors:
            return Response.json(400, errors)  # bare, unlike the errors about records
        number = max(self._users) + 1
        self._users[number] = name
        return Response.json(201, self._user(number))

    def _user(self, number: int) -> dict[str, Any]:
        return {"id": number, "username": self._users[number], "email": ""}

    # --- workspaces, templates and the site

    def _workspaces(self, _request: Request, _match: re.Match[str]) -> Response:
        return Response.json(
            200,
            [
                {"id": READ_ONLY_WORKSPACE, "title": "Retired Instruments", "owner": "1", "is_public": False},
                {"id": PUBLIC_WORKSPACE, "title": WORKSPACE_TITLE, "owner": None, "is_public": True},
            ],
        )

    def _writable_workspaces(self, _request: Request, _match: re.Match[str]) -> Response:
        # Rights to publish are not among these: a user who may publish is told of no public workspace here.
        public = {"id": PUBLIC_WORKSPACE, "title": WORKSPACE_TITLE, "owner": None, "is_public": True}
        return Response.json(200, [public] if self._administrator else [])

    def _core_settings(self, _request: Request, _match: re.Match[str]) -> Response:
        return Response.json(
            200,
            {
                "core_version": CORE_VERSION,
                "database": {"engine": "PostgreSQL", "version": 160000},
                "mongodb": {"data_indexing": False, "version": None},
            },
        )

    def _template_managers(self, request: Request, _match: re.Match[str]) -> Response:
        managers = [
            {
                "id": 2,
                "title": "Retired Instrument Schema",
                "user": None,
                "is_disabled": False,
                "versions": [str(OTHER_TEMPLATE)],
                "current": str(OTHER_TEMPLATE),
                "disabled_versions": [],
            },
            {
                "id": 6,
                "title": TEMPLATE_TITLE,
                "user": None,
                "is_disabled": False,
                "versions": [str(OLD_VERSION), str(CURRENT_VERSION)],
                "current": str(CURRENT_VERSION),
                "disabled_versions": [],
            },
        ]
        title = request.parameter("title")
        return Response.json(200, [each for each in managers if title in (None, each["title"])])

    def _template(self, _request: Request, match: re.Match[str]) -> Response:
        number = int(match[1])
        if number not in {OTHER_TEMPLATE, OLD_VERSION, CURRENT_VERSION}:
            return _message(404, "Template not found.")
        strict = number == CURRENT_VERSION and self._schema is not None
        content = self._xsd if strict else ANY_EXPERIMENT_XSD
        return Response.json(
            200,
            {
                "id": number,
                "user": None,
                "filename": "nexus-experiment.xsd",
                "checksum": None,
                "content": content,
                "hash": hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest(),
                "format": "XSD" if strict else "JSON",
                "dependencies": [],
            },
        )

    # --- pages

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
            for each in self._newest_first()
        ]
        headings = ("Id", "Title", "Workspace", "Size", "Created (UTC)")
        records = pages.table(headings, rows, empty="No record has arrived yet.")
        return Response.html(200, pages.page(self.name, "Records", pages.element("h1", "Records"), records))

    def _record_page(self, request: Request, _match: re.Match[str]) -> Response:
        number = request.parameter("id") or ""
        record = self._records.get(int(number)) if number.isdecimal() else None
        if record is None:  # 200 all the same: a link proves nothing
            sentence = pages.element("p", "There is no such record.", class_="empty")
            return Response.html(200, pages.page(self.name, "No record", sentence))
        root = etree.fromstring(record.xml_content.encode(), etree.XMLParser(resolve_entities=False, no_network=True))
        about = f"record {record.id}, template {record.template}, {pages.size(len(record.xml_content.encode()))}"
        source = pages.element("details", pages.element("summary", "XML"), pages.element("pre", record.xml_content))
        return Response.html(
            200,
            pages.page(
                self.name,
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


def _values(request: Request) -> Mapping[str, Any]:
    if request.content_type.split(";")[0].strip() == "application/x-www-form-urlencoded":
        return {name: values[-1] for name, values in request.form().items()}
    if request.content_type.split(";")[0].strip() != "application/json":
        _refuse(500, f'Unsupported media type "{request.content_type}" in request.')
    try:
        values = json.loads(request.body)
    except ValueError as error:
        _refuse(500, f"JSON parse error - {error}")
    if not isinstance(values, dict):
        _refuse(400, {"non_field_errors": ["Invalid data. Expected a dictionary."]})
    return values


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


def _message(status: int, message: str | dict[str, list[str]]) -> Response:
    return Response.json(status, {"message": message})


def _detail(status: int, detail: str) -> Response:
    return Response.json(status, {"detail": detail})


def _refuse(status: int, message: str | dict[str, list[str]]) -> NoReturn:
    raise Refused(_message(status, message))


def _now() -> str:
    return datetime.now(UTC).isoformat()
