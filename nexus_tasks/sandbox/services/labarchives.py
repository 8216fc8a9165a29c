"""A stand-in for LabArchives: the signed ELN calls that a destination needs, and a page that shows the notebook.

Never compared with the real service. Where its documentation is silent (HTTP statuses of errors, the code for an
unknown page or a missing right), the answers here are guesses; `StandIns` starts it. As over there, an answer repeats
the request that it answers, with what signed it, and there is no call that deletes.
"""

import base64
import hashlib
import hmac
import mimetypes
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from enum import StrEnum
from random import Random
from typing import Any, ClassVar, NoReturn
from urllib.parse import quote

from lxml import etree

from nexus_tasks.sandbox.services import pages
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.pages import Html
from nexus_tasks.sandbox.services.service import Handler, Refused, Service

CLOCK_TOLERANCE = 120  # seconds, before and after
SHORTEST_INTERVAL = 1.0  # seconds from the start of one call to that of the next
MAX_FILE_SIZE = 262_144_000  # bytes
ROOT = "0"
TEXT_PARTS = {"text entry", "plain text entry", "heading"}
ATTACHMENT = "Attachment"

EXPIRED, BAD_KEY, UNKNOWN_USER, BAD_NOTEBOOK, BAD_LOGIN, BAD_SIGNATURE = 4504, 4506, 4507, 4509, 4514, 4520
FILE_TOO_BIG, SESSION_TIMEOUT, INTERNAL = 4521, 4533, 4999

LOGIN = "/api/users/user_access_info"  # the one call that is made without a user's id: it tells it


class Pacing(StrEnum):
    """Which calls are answered with an error (429) for coming too fast; the provider asks for one of the two."""

    SERIAL = "serial"  # a call beside another one
    INTERVAL = "interval"  # a call sooner than so many seconds after the start of the one before
    EITHER = "either"  # a call that keeps to neither of the two


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
    login: str = "sandbox@example.org"
    login_password: str = field(default="sandbox-login-code", repr=False)


def signature(password: str, akid: str, method: str, expires: str) -> str:
    """The signature of a call, base64; `method` is the method's name alone, `expires` epoch milliseconds."""
    digest = hmac.new(password.encode(), f"{akid}{method}{expires}".encode(), hashlib.sha512).digest()
    return base64.b64encode(digest).decode()


class Labarchives(Service):
    """LabArchives with one user and one notebook.

    `pacing` refuses calls that come too fast, `interval` is its time in seconds; `strict_pacing` is another word for
    `Pacing.EITHER`. `read_only` takes the right to write from the user. `clock` gives the time in epoch seconds.
    """

    name: ClassVar[str] = "LabArchives"
    pages: ClassVar[frozenset[str]] = frozenset({"/", "/attachment"})

    def __init__(
        self,
        account: Account,
        *,
        strict_pacing: bool = False,
        pacing: Pacing | None = None,
        interval: float = SHORTEST_INTERVAL,
        max_file_size: int = MAX_FILE_SIZE,
        read_only: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self._account = account
        self._pacing = Pacing.EITHER if strict_pacing else pacing
        self._interval = interval
        self._read_only = read_only
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
            ("GET", "/api/tree_tools/update_node", self._update_node),
            ("GET", "/api/tree_tools/get_entries_for_page", self._get_entries_for_page),
            ("POST", "/api/entries/add_entry", self._add_entry),
            ("POST", "/api/entries/update_entry", self._update_entry),
            ("POST", "/api/entries/add_attachment", self._add_attachment),
            ("POST", "/api/entries/update_attachment", self._update_attachment),
            ("GET", "/api/entries/entry_attachment", self._entry_attachment),
            ("GET", LOGIN, self._log_in),
            ("GET", "/api/users/user_info_via_id", self._user_info),
            ("GET", "/api/users/max_file_size", self._max_size),
        ]

    def admit(self, concurrent: int, seconds_since_last: float) -> Response | None:
        """See `Service.admit`."""
        beside, soon = concurrent > 0, seconds_since_last < self._interval
        refused = {Pacing.SERIAL: beside, Pacing.INTERVAL: soon, Pacing.EITHER: beside and soon}
        if self._pacing is not None and refused[self._pacing]:
            return error_response("error", 429, INTERNAL, "Calls must be at least one second apart, or serial.")
        return None

    def answer(self, request: Request) -> Response:
        """See `Service.answer`; with the time by its own clock."""
        response = super().answer(request)
        return replace(response, headers=(*response.headers, ("Date", formatdate(self._clock(), usegmt=True))))

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
        if request.path != LOGIN and self._parameters(request).get("uid") != self._account.uid:
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
                level.append(self._node_element("level-node", node, with_access=True))
        return self._answer(request, "tree-tools", level)

    def _insert_node(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._in_notebook(request, writes=True)
        parent = self._folder(request, values.get("parent_tree_id"))
        text, is_folder = values.get("display_text", ""), values.get("is_folder", "").lower()
        if not text.strip() or is_folder not in {"true", "false"}:
            _refuse(request, 400, INTERNAL, "display_text and is_folder (true or false) are needed.")
        node = Node(self._identifier("TreeNode"), parent, text, is_page=is_folder == "false")
        self._nodes[node.tree_id] = node
        return self._answer(request, "tree-tools", self._node_element("node", node))

    def _update_node(self, request: Request, _match: re.Match[str]) -> Response:
        """Rename a node, or move it into another folder."""
        values = self._in_notebook(request, writes=True)
        node = self._nodes.get(values.get("tree_id", ""))
        if node is None:
            _refuse(request, 404, INTERNAL, "There is no such folder or page.")
        node.text = values.get("display_text", "").strip() or node.text
        if "parent_tree_id" in values:
            parent = self._folder(request, values["parent_tree_id"])
            if node.tree_id in self._ancestors(parent):
                _refuse(request, 400, INTERNAL, "A folder cannot lie in itself.")
            node.parent = parent
        return self._answer(request, "tree-tools", self._node_element("node", node))

    def _get_entries_for_page(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._in_notebook(request)
        page = self._page(request, values.get("page_tree_id"))
        with_data = values.get("entry_data", "").lower() == "true"
        entries = etree.Element("entries", type="array")
        for entry in self._entries.values():
            if entry.page == page:
                entries.append(self._entry_element(entry, with_data=with_data))
        return self._answer(request, "tree-tools", entries)

    # --- entries

    def _add_entry(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._in_notebook(request, writes=True)
        page = self._page(request, values.get("pid"))
        part_type = values.get("part_type", "")
        if part_type not in TEXT_PARTS or "entry_data" not in values:
            _refuse(request, 400, INTERNAL, "part_type and entry_data are needed.")
        entry = Entry(self._identifier("EntryPart"), page, part_type, text=_xml_text(values["entry_data"]))
        self._entries[entry.eid] = entry
        return self._answer(request, "entries", self._entry_element(entry, with_data=True))

    def _update_entry(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._parameters(request)
        self._check_writable(request)
        entry = self._entry(request, values.get("eid"), attachment=False)
        if "entry_data" not in values:
            _refuse(request, 400, INTERNAL, "entry_data is needed.")
        entry.text = _xml_text(values["entry_data"])
        return self._answer(request, "entries", self._entry_element(entry, with_data=True))

    def _add_attachment(self, request: Request, _match: re.Match[str]) -> Response:
        page = None  # the Inbox
        if request.parameter("nbid") is not None or request.parameter("pid") is not None:
            self._in_notebook(request, writes=True)
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
        return self._answer(request, "entries", self._entry_element(entry, with_data=False))

    def _update_attachment(self, request: Request, _match: re.Match[str]) -> Response:
        self._check_writable(request)
        entry = self._entry(request, request.parameter("eid"), attachment=True)
        entry.filename = self._checked_upload(request)
        entry.caption = request.parameter("caption") or entry.caption
        entry.content = request.body
        return self._answer(request, "entries", self._entry_element(entry, with_data=False))

    def _entry_attachment(self, request: Request, _match: re.Match[str]) -> Response:
        return _download(self._entry(request, request.parameter("eid"), attachment=True))

    # --- users

    def _log_in(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._parameters(request)
        given = (values.get("login_or_email"), values.get("password"))
        if given != (self._account.login, self._account.login_password):
            _refuse(request, 401, BAD_LOGIN, "The login or the password is not right.")
        return self._user(request)

    def _user_info(self, request: Request, _match: re.Match[str]) -> Response:
        return self._user(request)

    def _max_size(self, request: Request, _match: re.Match[str]) -> Response:
        return self._answer(request, "users", _element("max-file-size", str(self._max_file_size)))

    def _user(self, request: Request) -> Response:
        """The user; their id comes first, as clients that take the first `id` for it rely on."""
        notebooks = etree.Element("notebooks", type="array")
        self._fill(
            etree.SubElement(notebooks, "notebook"),
            {"id": self._account.nbid, "name": "Sandbox Notebook", "is-default": "true"},
        )
        facts = {
            "id": self._account.uid,
            "fullname": "Sandbox User",
            "first-name": "Sandbox",
            "last-name": "User",
            "email": self._account.login,
        }
        user = etree.Element("users")
        user.extend([*(_element(name, text) for name, text in facts.items()), notebooks, _request_element(request)])
        return _xml(200, user)

    # --- parameters and checks

    def _parameters(self, request: Request) -> dict[str, str]:
        """Query and form together: a parameter may be sent either way, the body of an upload is never a form."""
        form = {} if request.path.endswith("_attachment") else request.form()
        return {name: values[0] for name, values in {**form, **request.query}.items()}

    def _in_notebook(self, request: Request, *, writes: bool = False) -> dict[str, str]:
        values = self._parameters(request)
        if values.get("nbid") != self._account.nbid:
            _refuse(request, 403, BAD_NOTEBOOK, "The notebook (nbid) is not known, or not yours.")
        if writes:
            self._check_writable(request)
        return values

    def _check_writable(self, request: Request) -> None:
        if self._read_only:
            _refuse(request, 403, BAD_NOTEBOOK, "You may not write to this notebook.")

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

    def _ancestors(self, tree_id: str) -> list[str]:
        """The node itself, then the folders around it, from the inside."""
        ancestors: list[str] = []
        while tree_id in self._nodes:
            ancestors.append(tree_id)
            tree_id = self._nodes[tree_id].parent
        return ancestors

    def _path(self, tree_id: str) -> str:
        return "/".join(self._nodes[each].text for each in reversed(self._ancestors(tree_id)))

    # --- XML

    def _answer(self, request: Request, root: str, *parts: etree._Element) -> Response:
        element, children = etree.Element(root), [*parts, _request_element(request)]
        for child in self._random.sample(children, len(children)):
            element.append(child)
        return _xml(200, element)

    def _fill(self, element: etree._Element, fields: dict[str, str]) -> None:
        for name, text in self._random.sample(list(fields.items()), len(fields)):
            element.append(_element(name, text))

    def _node_element(self, name: str, node: Node, *, with_access: bool = False) -> etree._Element:
        element = etree.Element(name)
        fields = {"tree-id": node.tree_id, "display-text": _xml_text(node.text), "is-page": str(node.is_page).lower()}
        self._fill(element, fields)
        if with_access:
            can_write = str(not self._read_only).lower()
            self._fill(etree.SubElement(element, "user-access"), {"can-read": "true", "can-write": can_write})
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
        notebook_pages = [node for node in self._nodes.values() if node.is_page]
        contents = pages.element("ul", *self._contents(ROOT, by_page))
        if not self._nodes:
            contents = pages.element("p", "No page has arrived yet.", class_="empty")
        on_pages = [entry for entry in self._entries.values() if entry.page is not None]
        counts = f"{_counted(len(notebook_pages), 'page')} with {_held(on_pages)}"
        return Response.html(
            200,
            pages.page(
                self.name,
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
            pages.element("p", self._path(node.parent) or "at the top of the notebook", class_="dim"),
            *_entries_html(entries, empty="The page is empty."),
            id=f"/{self._account.nbid}/{node.tree_id}",  # what stands behind # in a page's link
        )

    def _contents(self, parent: str, by_page: Mapping[str | None, list[Entry]]) -> list[Html]:
        lines = []
        for node in self._nodes.values():
            if node.parent != parent:
                continue
            if node.is_page:
                name: str = pages.link(f"#/{self._account.nbid}/{node.tree_id}", node.text)
                below = pages.element("span", f" {_held(by_page.get(node.tree_id, []))}", class_="dim")
            else:
                name = pages.element("strong", node.text)
                below = pages.element("ul", *self._contents(node.tree_id, by_page))
            lines.append(pages.element("li", name, below))
        return lines

    def _attachment_page(self, request: Request, _match: re.Match[str]) -> Response:
        entry = self._entries.get(request.parameter("eid") or "")
        if entry is None or entry.filename is None:
            return Response.html(404, pages.page(self.name, "No attachment", "There is no such attachment."))
        return _download(entry)


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


def _download(entry: Entry) -> Response:
    filename = entry.filename or "attachment"
    media_type = mimetypes.guess_type(filename)[0] or "application/octet-stream"
    disposition = ("Content-Disposition", f"attachment; filename*=UTF-8''{quote(filename)}")
    return Response(200, entry.content, media_type, (disposition, ("X-Content-Type-Options", "nosniff")))


def _xml_text(text: str) -> str:
    """`text` without the characters that XML cannot carry."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)


def _element(name: str, text: str) -> etree._Element:
    """An element with a text; truth values say what they are."""
    element = etree.Element(name, {"type": "boolean"} if text in {"true", "false"} else None)
    element.text = text
    return element


def _request_element(request: Request) -> etree._Element:
    """What was asked, as each answer repeats it: without passwords, but with what signed the call."""
    element = etree.Element("request")
    kind, _, method = request.path.removeprefix("/api/").partition("/")
    given = {name: values[0] for name, values in request.query.items() if name != "password"}
    for name, text in ({"class": kind, "method": method} | given).items():
        if re.fullmatch(r"[A-Za-z_]+", name):
            element.append(_element(name.replace("_", "-"), _xml_text(text)))
    return element


def _refuse(request: Request, status: int, code: int, description: str) -> NoReturn:
    """End the call with an error: as the root for whom calls, inside the class's element for the rest."""
    root = "error" if status == 401 else request.path.split("/")[2].replace("_", "-")
    raise Refused(error_response(root, status, code, description, request))


def error_response(root: str, status: int, code: int, description: str, request: Request | None = None) -> Response:
    """An error in the shape that goes with `root`: `error`, or the class of the call with the error nested in it."""
    element = etree.Element(root)
    error = element if root == "error" else etree.SubElement(element, "error")
    names = ("code", "msg") if root == "entries" else ("error-code", "error-description")
    error.append(_element(names[0], str(code)))
    error.append(_element(names[1], description))
    if request is not None and root != "error":
        element.append(_request_element(request))
    return _xml(status, element)


def _xml(status: int, element: etree._Element) -> Response:
    return Response.xml(status, etree.tostring(element, xml_declaration=True, encoding="UTF-8"))
