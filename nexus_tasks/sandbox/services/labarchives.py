"""A stand-in for LabArchives: the signed ELN calls that a destination needs, and a page that shows the notebook.

Never compared with the real service. Where its documentation is silent (HTTP statuses of errors, the code for an
unknown page), the answers here are guesses; `StandIns` starts it.
"""

import base64
import hashlib
import hmac
import mimetypes
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar, NoReturn
from urllib.parse import quote

from lxml import etree

from nexus_tasks.sandbox.services import pages
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.pages import Html
from nexus_tasks.sandbox.services.service import Handler, Refused, Service

CLOCK_TOLERANCE = 120  # seconds, before and after
SHORTEST_INTERVAL = 1.0  # seconds between the starts of two calls that overlap
MAX_FILE_SIZE = 262_144_000  # bytes
ROOT = "0"
TEXT_PARTS = {"text entry", "plain text entry", "heading"}
ATTACHMENT = "Attachment"

EXPIRED, BAD_KEY, UNKNOWN_USER, BAD_NOTEBOOK, BAD_SIGNATURE = 4504, 4506, 4507, 4509, 4520
FILE_TOO_BIG, INTERNAL = 4521, 4999


@dataclass
class Node:
    """A folder or a page."""

    tree_id: str
    parent: str
    text: str
    is_page: bool


@dataclass
class Entry:
    """A text or an attachment on a page; `page` is None in the Inbox."""

    eid: str
    page: str | None
    part_type: str
    text: str = ""
    caption: str = ""
    filename: str | None = None
    content: bytes = b""

    @property
    def sha256(self) -> str:
        """The hash of what it holds."""
        return hashlib.sha256(self.content if self.filename is not None else self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Account:
    """The access key, the user and the notebook that the stand-in knows."""

    akid: str
    password: str = field(repr=False)
    uid: str = field(repr=False)
    nbid: str


def signature(password: str, akid: str, method: str, expires: str) -> str:
    """The signature of a call, base64; `method` is the method's name alone, `expires` epoch milliseconds."""
    digest = hmac.new(password.encode(), f"{akid}{method}{expires}".encode(), hashlib.sha512).digest()
    return base64.b64encode(digest).decode()


class Labarchives(Service):
    """LabArchives with one user and one notebook.

    `strict_pacing` refuses (429) a call that begins beside another one and less than a second after the last; `clock`
    gives the time in epoch seconds.
    """

    name: ClassVar[str] = "LabArchives"
    pages: ClassVar[frozenset[str]] = frozenset({"/", "/attachment"})

    def __init__(
        self,
        account: Account,
        *,
        strict_pacing: bool = False,
        max_file_size: int = MAX_FILE_SIZE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._account = account
        self._strict_pacing = strict_pacing
        self._max_file_size = max_file_size
        self._clock = clock
        self._random = Random(0)  # noqa: S311 - the order of XML elements is not fixed
        self._next_number = 1
        self._nodes: dict[str, Node] = {}
        self._entries: dict[str, Entry] = {}

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
            ("GET", "/", self._notebook_page),
            ("GET", "/attachment", self._attachment_page),
            ("GET", "/api/tree_tools/get_tree_level", self._get_tree_level),
            ("GET", "/api/tree_tools/insert_node", self._insert_node),
            ("GET", "/api/tree_tools/get_entries_for_page", self._get_entries_for_page),
            ("POST", "/api/entries/add_entry", self._add_entry),
            ("POST", "/api/entries/update_entry", self._update_entry),
            ("POST", "/api/entries/add_attachment", self._add_attachment),
            ("POST", "/api/entries/update_attachment", self._update_attachment),
            ("GET", "/api/entries/entry_attachment", self._entry_attachment),
            ("GET", "/api/users/user_info_via_id", self._user_info),
            ("GET", "/api/users/max_file_size", self._max_size),
        ]

    def admit(self, concurrent: int, seconds_since_last: float) -> Response | None:
        """See `Service.admit`."""
        if self._strict_pacing and concurrent and seconds_since_last < SHORTEST_INTERVAL:
            return _error_response("error", 429, INTERNAL, "Calls must be at least one second apart, or serial.")
        return None

    def authenticate(self, request: Request) -> None:
        """See `Service.authenticate`."""
        given = {name: request.parameter(name) or "" for name in ("akid", "expires", "sig")}
        method = request.path.rpartition("/")[2]
        if given["akid"] != self._account.akid:
            _refuse(request, 401, BAD_KEY, "The Access Key ID (akid) is not valid.")
        if not re.fullmatch(r"\d{1,15}", given["expires"]):
            _refuse(request, 401, EXPIRED, "The expires parameter is missing or not a number.")
        if abs(int(given["expires"]) / 1000 - self._clock()) > CLOCK_TOLERANCE:
            _refuse(request, 401, EXPIRED, "The expires parameter is too old, or too far ahead.")
        expected = signature(self._account.password, self._account.akid, method, given["expires"])
        if not hmac.compare_digest(given["sig"].encode(), expected.encode()):
            _refuse(request, 401, BAD_SIGNATURE, "The supplied signature is not valid.")
        if self._parameters(request).get("uid") != self._account.uid:
            _refuse(request, 401, UNKNOWN_USER, "The uid is not known.")

    def not_found(self, request: Request) -> Response:
        """See `Service.not_found`."""
        return Response.html(404, f"<h1>There is nothing to {request.method} here</h1>")

    def objects(self, *, content: bool = False) -> list[dict[str, Any]]:
        """See `Service.objects`."""
        nodes: list[dict[str, Any]] = [
            {
                "kind": "page" if node.is_page else "folder",
                "id": node.tree_id,
                "parent": node.parent,
                "name": node.text,
                "path": self._path(node.tree_id),
            }
            for node in self._nodes.values()
        ]
        return nodes + [
            {
                "kind": "entry",
                "id": entry.eid,
                "page": entry.page,
                "path": "Inbox" if entry.page is None else self._path(entry.page),
                "part_type": entry.part_type,
                "caption": entry.caption,
                "filename": entry.filename,
                "size": len(entry.content) if entry.filename is not None else len(entry.text.encode()),
                "sha256": entry.sha256,
            }
            | ({"entry_data": entry.text} if content else {})
            for entry in self._entries.values()
        ]

    def reset(self) -> None:
        """See `Service.reset`."""
        self._nodes.clear()
        self._entries.clear()

    # --- the tree

    def _get_tree_level(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._in_notebook(request)
        parent = self._folder(request, values.get("parent_tree_id"))
        level = etree.Element("level-nodes", type="array")
        for node in self._nodes.values():
            if node.parent == parent:
                level.append(self._node_element("level-node", node))
        return self._answer("tree-tools", level)

    def _insert_node(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._in_notebook(request)
        parent = self._folder(request, values.get("parent_tree_id"))
        text, is_folder = values.get("display_text", ""), values.get("is_folder", "").lower()
        if not text.strip() or is_folder not in {"true", "false"}:
            _refuse(request, 400, INTERNAL, "display_text and is_folder (true or false) are needed.")
        node = Node(self._identifier("TreeNode"), parent, text, is_page=is_folder == "false")
        self._nodes[node.tree_id] = node
        return self._answer("tree-tools", self._node_element("node", node))

    def _get_entries_for_page(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._in_notebook(request)
        page = self._page(request, values.get("page_tree_id"))
        with_data = values.get("entry_data", "").lower() == "true"
        entries = etree.Element("entries", type="array")
        for entry in self._entries.values():
            if entry.page == page:
                entries.append(self._entry_element(entry, with_data=with_data))
        return self._answer("tree-tools", entries)

    # --- entries

    def _add_entry(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._in_notebook(request)
        page = self._page(request, values.get("pid"))
        part_type = values.get("part_type", "")
        if part_type not in TEXT_PARTS or "entry_data" not in values:
            _refuse(request, 400, INTERNAL, "part_type and entry_data are needed.")
        entry = Entry(self._identifier("EntryPart"), page, part_type, text=_xml_text(values["entry_data"]))
        self._entries[entry.eid] = entry
        return self._answer("entries", self._entry_element(entry, with_data=True))

    def _update_entry(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._parameters(request)
        entry = self._entry(request, values.get("eid"), attachment=False)
        if "entry_data" not in values:
            _refuse(request, 400, INTERNAL, "entry_data is needed.")
        entry.text = _xml_text(values["entry_data"])
        return self._answer("entries", self._entry_element(entry, with_data=True))

    def _add_attachment(self, request: Request, _match: re.Match[str]) -> Response:
        page = None  # the Inbox
        if request.parameter("nbid") is not None or request.parameter("pid") is not None:
            self._in_notebook(request)
            page = self._page(request, request.parameter("pid"))
        filename = self._checked_upload(request)
        entry = Entry(
            self._identifier("EntryPart"),
            page,
            ATTACHMENT,
            caption=request.parameter("caption") or "",
            filename=filename,
            content=request.body,
        )
        self._entries[entry.eid] = entry
        return self._answer("entries", self._entry_element(entry, with_data=False))

    def _update_attachment(self, request: Request, _match: re.Match[str]) -> Response:
        entry = self._entry(request, request.parameter("eid"), attachment=True)
        entry.filename = self._checked_upload(request)
        entry.caption = request.parameter("caption") or entry.caption
        entry.content = request.body
        return self._answer("entries", self._entry_element(entry, with_data=False))

    def _entry_attachment(self, request: Request, _match: re.Match[str]) -> Response:
        return _download(self._entry(request, request.parameter("eid"), attachment=True))

    # --- users

    def _user_info(self, _request: Request, _match: re.Match[str]) -> Response:
        notebooks = etree.Element("notebooks", type="array")
        notebook = etree.SubElement(notebooks, "notebook")
        fields = {"id": self._account.nbid, "name": "Sandbox Notebook", "is-default": "true"}
        self._fill(notebook, fields)
        name = etree.Element("fullname")
        name.text = "Sandbox User"
        return self._answer("users", name, notebooks)

    def _max_size(self, _request: Request, _match: re.Match[str]) -> Response:
        size = etree.Element("max-file-size")
        size.text = str(self._max_file_size)
        return self._answer("users", size)

    # --- parameters and checks

    def _parameters(self, request: Request) -> dict[str, str]:
        """Query and form together: a parameter may be sent either way, the body of an upload is never a form."""
        form = {} if request.path.endswith("_attachment") else request.form()
        return {name: values[0] for name, values in {**form, **request.query}.items()}

    def _in_notebook(self, request: Request) -> dict[str, str]:
        values = self._parameters(request)
        if values.get("nbid") != self._account.nbid:
            _refuse(request, 403, BAD_NOTEBOOK, "The notebook (nbid) is not known, or not yours.")
        return values

    def _folder(self, request: Request, tree_id: str | None) -> str:
        node = self._nodes.get(tree_id or "")
        if tree_id != ROOT and (node is None or node.is_page):
            _refuse(request, 404, INTERNAL, "There is no such folder.")
        return tree_id or ROOT

    def _page(self, request: Request, tree_id: str | None) -> str:
        node = self._nodes.get(tree_id or "")
        if node is None or not node.is_page:
            _refuse(request, 404, INTERNAL, "There is no such page.")
        return node.tree_id

    def _entry(self, request: Request, eid: str | None, *, attachment: bool) -> Entry:
        entry = self._entries.get(eid or "")
        if entry is None or (entry.filename is not None) != attachment:
            _refuse(request, 404, INTERNAL, "There is no such entry.")
        return entry

    def _checked_upload(self, request: Request) -> str:
        filename = request.parameter("filename")
        if not filename:
            _refuse(request, 400, INTERNAL, "filename is needed.")
        if len(request.body) > self._max_file_size:
            _refuse(request, 413, FILE_TOO_BIG, "The file is too big.")
        return filename

    def _identifier(self, kind: str) -> str:
        """Base64 with padding, as the service gives them: careless URLs break on it."""
        number = self._next_number
        self._next_number += 1
        plain = f"{number}.{number % 10}|27/32/{kind}/{41_000_000 + number}|???>>>".encode()
        plain += b">" * ((1 - len(plain)) % 3)  # one byte more than a multiple of three: two signs of padding
        return base64.b64encode(plain).decode()

    def _path(self, tree_id: str) -> str:
        names: list[str] = []
        node = self._nodes.get(tree_id)
        while node is not None:
            names.insert(0, node.text)
            node = self._nodes.get(node.parent)
        return "/".join(names)

    # --- XML

    def _answer(self, root: str, *children: etree._Element) -> Response:
        element = etree.Element(root)
        for child in self._random.sample(children, len(children)):
            element.append(child)
        return Response.xml(200, etree.tostring(element, xml_declaration=True, encoding="UTF-8"))

    def _fill(self, element: etree._Element, fields: dict[str, str]) -> None:
        for name, text in self._random.sample(list(fields.items()), len(fields)):
            etree.SubElement(element, name).text = text

    def _node_element(self, name: str, node: Node) -> etree._Element:
        element = etree.Element(name)
        fields = {"tree-id": node.tree_id, "display-text": _xml_text(node.text), "is-page": str(node.is_page).lower()}
        self._fill(element, fields)
        return element

    def _entry_element(self, entry: Entry, *, with_data: bool) -> etree._Element:
        element = etree.Element("entry")
        fields = {"eid": entry.eid, "part-type": entry.part_type, "caption": _xml_text(entry.caption)}
        if entry.filename is not None:
            fields["attach-file-name"] = _xml_text(entry.filename)
            fields["attach-file-size"] = str(len(entry.content))
        elif with_data:
            fields["entry-data"] = entry.text
        self._fill(element, fields)
        return element

    # --- pages

    def _notebook_page(self, _request: Request, _match: re.Match[str]) -> Response:
        """All of the notebook; the style shows the page that the link's fragment names, above the contents."""
        by_page: dict[str | None, list[Entry]] = defaultdict(list)
        for entry in self._entries.values():
            by_page[entry.page].append(entry)
        articles = [self._page_html(node, by_page[node.tree_id]) for node in self._nodes.values() if node.is_page]
        contents = pages.element("ul", *self._contents(ROOT))
        if not self._nodes:
            contents = pages.element("p", "No page has arrived yet.", class_="empty")
        inbox = [pages.element("h2", "Inbox"), *map(self._entry_html, by_page[None])] if by_page[None] else []
        heading = pages.element("h1", "Sandbox Notebook")
        return Response.html(200, pages.page(self.name, "Sandbox Notebook", *articles, heading, contents, *inbox))

    def _page_html(self, node: Node, entries: list[Entry]) -> Html:
        return pages.element(
            "article",
            pages.element("h1", node.text),
            pages.element("p", self._path(node.parent) or "at the top of the notebook", class_="dim"),
            *map(self._entry_html, entries),
            id=f"/{self._account.nbid}/{node.tree_id}",  # what stands behind # in a page's link
        )

    def _contents(self, parent: str) -> list[Html]:
        lines = []
        for node in self._nodes.values():
            if node.parent == parent and node.is_page:
                lines.append(pages.element("li", pages.link(f"#/{self._account.nbid}/{node.tree_id}", node.text)))
            elif node.parent == parent:
                lines.append(pages.element("li", node.text, pages.element("ul", *self._contents(node.tree_id))))
        return lines

    def _entry_html(self, entry: Entry) -> Html:
        if entry.filename is None:
            return pages.frame(entry.text, entry.part_type)
        address = f"/attachment?eid={quote(entry.eid, safe='')}"
        about = f" {entry.caption} ({pages.size(len(entry.content))})"
        return pages.element("p", "Attachment: ", pages.link(address, entry.filename), about)

    def _attachment_page(self, request: Request, _match: re.Match[str]) -> Response:
        entry = self._entries.get(request.parameter("eid") or "")
        if entry is None or entry.filename is None:
            return Response.html(404, pages.page(self.name, "No attachment", "There is no such attachment."))
        return _download(entry)


def _download(entry: Entry) -> Response:
    filename = entry.filename or "attachment"
    media_type = mimetypes.guess_type(filename)[0] or "application/octet-stream"
    disposition = ("Content-Disposition", f"attachment; filename*=UTF-8''{quote(filename)}")
    return Response(200, entry.content, media_type, (disposition, ("X-Content-Type-Options", "nosniff")))


def _xml_text(text: str) -> str:
    """`text` without the characters that XML cannot carry."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)


def _refuse(request: Request, status: int, code: int, description: str) -> NoReturn:
    """End the call with an error: as the root for whom calls, inside the class's element for the rest."""
    root = "error" if status == 401 else request.path.split("/")[2].replace("_", "-")
    raise Refused(_error_response(root, status, code, description))


def _error_response(root: str, status: int, code: int, description: str) -> Response:
    element = etree.Element(root)
    error = element if root == "error" else etree.SubElement(element, "error")
    names = ("code", "msg") if root == "entries" else ("error-code", "error-description")
    etree.SubElement(error, names[0]).text = str(code)
    etree.SubElement(error, names[1]).text = description
    return Response.xml(status, etree.tostring(element, xml_declaration=True, encoding="UTF-8"))
