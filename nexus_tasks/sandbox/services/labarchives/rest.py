"""The calls about a LabArchives notebook and its user; `service` adds them to the table of routes."""

import re
from collections.abc import Sequence

from lxml import etree

from nexus_tasks.sandbox.services.labarchives.account import Account
from nexus_tasks.sandbox.services.labarchives.attachment import download
from nexus_tasks.sandbox.services.labarchives.objects import ROOT, Entry, Node, Notebook
from nexus_tasks.sandbox.services.labarchives.xml import (
    BAD_LOGIN,
    BAD_NOTEBOOK,
    FILE_TOO_BIG,
    INTERNAL,
    Writer,
    refuse,
    request_element,
    text_element,
    xml_answer,
    xml_text,
)
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.service import Handler

TEXT_PARTS = {"text entry", "plain text entry", "heading"}
ATTACHMENT = "Attachment"

LOGIN = "/api/users/user_access_info"  # the one call that is made without a user's id: it tells it


class Calls:
    """What a client asks and writes; `max_file_size` in bytes, `read_only` takes the right to write from the user."""

    def __init__(self, account: Account, notebook: Notebook, *, max_file_size: int, read_only: bool) -> None:
        self._account = account
        self._notebook = notebook
        self._max_file_size = max_file_size
        self._read_only = read_only
        self._writer = Writer(can_write=not read_only)

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """See `Service.routes`."""
        return [
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

    # --- the tree

    def _get_tree_level(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._in_notebook(request)
        parent = self._folder(request, values.get("parent_tree_id"))
        level = etree.Element("level-nodes", type="array")
        for node in self._notebook.nodes.values():
            if node.parent == parent:
                level.append(self._writer.node("level-node", node, with_access=True))
        return self._writer.answer(request, "tree-tools", level)

    def _insert_node(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._in_notebook(request, writes=True)
        parent = self._folder(request, values.get("parent_tree_id"))
        text, is_folder = values.get("display_text", ""), values.get("is_folder", "").lower()
        if not text.strip() or is_folder not in {"true", "false"}:
            refuse(request, 400, INTERNAL, "display_text and is_folder (true or false) are needed.")
        node = Node(self._notebook.identifier("TreeNode"), parent, text, is_page=is_folder == "false")
        self._notebook.nodes[node.tree_id] = node
        return self._writer.answer(request, "tree-tools", self._writer.node("node", node))

    def _update_node(self, request: Request, _match: re.Match[str]) -> Response:
        """Rename a node, or move it into another folder."""
        values = self._in_notebook(request, writes=True)
        node = self._notebook.nodes.get(values.get("tree_id", ""))
        if node is None:
            refuse(request, 404, INTERNAL, "There is no such folder or page.")
        node.text = values.get("display_text", "").strip() or node.text
        if "parent_tree_id" in values:
            parent = self._folder(request, values["parent_tree_id"])
            if node.tree_id in self._notebook.ancestors(parent):
                refuse(request, 400, INTERNAL, "A folder cannot lie in itself.")
            node.parent = parent
        return self._writer.answer(request, "tree-tools", self._writer.node("node", node))

    def _get_entries_for_page(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._in_notebook(request)
        page = self._page(request, values.get("page_tree_id"))
        with_data = values.get("entry_data", "").lower() == "true"
        entries = etree.Element("entries", type="array")
        for entry in self._notebook.entries.values():
            if entry.page == page:
                entries.append(self._writer.entry(entry, with_data=with_data))
        return self._writer.answer(request, "tree-tools", entries)

    # --- entries

    def _add_entry(self, request: Request, _match: re.Match[str]) -> Response:
        values = self._in_notebook(request, writes=True)
        page = self._page(request, values.get("pid"))
        part_type = values.get("part_type", "")
        if part_type not in TEXT_PARTS or "entry_data" not in values:
            refuse(request, 400, INTERNAL, "part_type and entry_data are needed.")
        entry = Entry(self._notebook.identifier("EntryPart"), page, part_type, text=xml_text(values["entry_data"]))
        self._notebook.entries[entry.eid] = entry
        return self._writer.answer(request, "entries", self._writer.entry(entry, with_data=True))

    def _update_entry(self, request: Request, _match: re.Match[str]) -> Response:
        values = parameters(request)
        self._check_writable(request)
        entry = self._entry(request, values.get("eid"), attachment=False)
        if "entry_data" not in values:
            refuse(request, 400, INTERNAL, "entry_data is needed.")
        entry.text = xml_text(values["entry_data"])
        return self._writer.answer(request, "entries", self._writer.entry(entry, with_data=True))

    def _add_attachment(self, request: Request, _match: re.Match[str]) -> Response:
        page = None  # the Inbox
        if request.parameter("nbid") is not None or request.parameter("pid") is not None:
            self._in_notebook(request, writes=True)
            page = self._page(request, request.parameter("pid"))
        filename = self._checked_upload(request)
        entry = Entry(
            self._notebook.identifier("EntryPart"),
            page,
            ATTACHMENT,
            caption=request.parameter("caption") or "",
            filename=filename,
            content=request.body,
        )
        self._notebook.entries[entry.eid] = entry
        return self._writer.answer(request, "entries", self._writer.entry(entry, with_data=False))

    def _update_attachment(self, request: Request, _match: re.Match[str]) -> Response:
        self._check_writable(request)
        entry = self._entry(request, request.parameter("eid"), attachment=True)
        entry.filename = self._checked_upload(request)
        entry.caption = request.parameter("caption") or entry.caption
        entry.content = request.body
        return self._writer.answer(request, "entries", self._writer.entry(entry, with_data=False))

    def _entry_attachment(self, request: Request, _match: re.Match[str]) -> Response:
        return download(self._entry(request, request.parameter("eid"), attachment=True))

    # --- users

    def _log_in(self, request: Request, _match: re.Match[str]) -> Response:
        values = parameters(request)
        given = (values.get("login_or_email"), values.get("password"))
        if given != (self._account.login, self._account.login_password):
            refuse(request, 401, BAD_LOGIN, "The login or the password is not right.")
        return self._user(request)

    def _user_info(self, request: Request, _match: re.Match[str]) -> Response:
        return self._user(request)

    def _max_size(self, request: Request, _match: re.Match[str]) -> Response:
        return self._writer.answer(request, "users", text_element("max-file-size", str(self._max_file_size)))

    def _user(self, request: Request) -> Response:
        """The user; their id comes first, as clients that take the first `id` for it rely on."""
        notebooks = etree.Element("notebooks", type="array")
        self._writer.fill(
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
        user.extend([*(text_element(name, text) for name, text in facts.items()), notebooks, request_element(request)])
        return xml_answer(200, user)

    # --- checks

    def _in_notebook(self, request: Request, *, writes: bool = False) -> dict[str, str]:
        values = parameters(request)
        if values.get("nbid") != self._account.nbid:
            refuse(request, 403, BAD_NOTEBOOK, "The notebook (nbid) is not known, or not yours.")
        if writes:
            self._check_writable(request)
        return values

    def _check_writable(self, request: Request) -> None:
        if self._read_only:
            refuse(request, 403, BAD_NOTEBOOK, "You may not write to this notebook.")

    def _folder(self, request: Request, tree_id: str | None) -> str:
        node = self._notebook.nodes.get(tree_id or "")
        if tree_id != ROOT and (node is None or node.is_page):
            refuse(request, 404, INTERNAL, "There is no such folder.")
        return tree_id or ROOT

    def _page(self, request: Request, tree_id: str | None) -> str:
        node = self._notebook.nodes.get(tree_id or "")
        if node is None or not node.is_page:
            refuse(request, 404, INTERNAL, "There is no such page.")
        return node.tree_id

    def _entry(self, request: Request, eid: str | None, *, attachment: bool) -> Entry:
        entry = self._notebook.entries.get(eid or "")
        if entry is None or (entry.filename is not None) != attachment:
            refuse(request, 404, INTERNAL, "There is no such entry.")
        return entry

    def _checked_upload(self, request: Request) -> str:
        filename = request.parameter("filename")
        if not filename:
            refuse(request, 400, INTERNAL, "filename is needed.")
        if len(request.body) > self._max_file_size:
            refuse(request, 413, FILE_TOO_BIG, "The file is too big.")
        return filename


def parameters(request: Request) -> dict[str, str]:
    """Query and form together: a parameter may be sent either way, the body of an upload is never a form."""
    form = {} if request.path.endswith("_attachment") else request.form()
    return {name: values[0] for name, values in {**form, **request.query}.items()}
