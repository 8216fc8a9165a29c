"""The calls of LabArchives's ELN API that are made for a record; used by the LabArchives destination and its checks.

Each returns what the answer names, or raises what LabArchives's error codes mean. Inserting a node is a GET over there,
and the same name twice makes two nodes. What an answer says passes through `_without_signature` before it is repeated.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from lxml import etree

from nexus_tasks.exporters.base import ConfigurationError, ExportError, PermanentError, TransientError
from nexus_tasks.exporters.gone import GoneError, PartGoneError
from nexus_tasks.exporters.http import open_session
from nexus_tasks.exporters.http_body import FORM, Body, quoted
from nexus_tasks.exporters.http_failures import Answer, Service, plain_message, refusal, wrong_address
from nexus_tasks.exporters.labarchives.signature import signed, without_signature

ROOT = "0"  # the parent of a notebook's topmost folders
SHORTEST_WAIT = 1.0  # seconds before a call is repeated, as its terms ask

_SERVICE = Service(
    "LabArchives",
    "NX_LABARCHIVES_URL",
    "NX_LABARCHIVES_ACCESS_KEY_ID, NX_LABARCHIVES_ACCESS_PASSWORD and NX_LABARCHIVES_USER_ID",
    "labarchives",
)
_BAD_NOTEBOOK = "4509"
_TO_MEND = {
    "4504": "the clock of this machine is wrong by more than two minutes; set it",
    "4506": "check NX_LABARCHIVES_ACCESS_KEY_ID",
    "4507": "check NX_LABARCHIVES_USER_ID",
    _BAD_NOTEBOOK: "check NX_LABARCHIVES_NOTEBOOK_ID, and that the user may write to the notebook",
    "4514": "check NX_LABARCHIVES_USER_ID",
    "4520": "check NX_LABARCHIVES_ACCESS_PASSWORD",
}
_TOO_BIG = "4521"
_ROOTS = {"tree-tools", "entries", "users"}  # of answers that are no error: the classes of the calls
_OF_ENTRIES = {"entries/update_entry", "entries/update_attachment"}  # calls about a part of what a record has there
_NOT_THERE = 404
_TOO_BIG_FOR_THE_SERVER = 413
_LONGEST_CODE = 8  # digits; LabArchives's have four
_TIME_CAN_MEND = {"4533", "4999"}  # session timeout, internal error
# Texts are as long as the entries that a page holds; how large an answer may be is limited where it is received.
_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=True)


@dataclass(frozen=True)
class Account:
    """The credentials of the calls: the key of the institution, and the user that they act as."""

    access_key_id: str
    password: str = field(repr=False)
    user_id: str = field(repr=False)


class NotebookError(ConfigurationError):
    """The notebook that was named is not there, or not the user's to read or write."""


class TooBigError(PermanentError):
    """LabArchives does not take so much at once; nothing was stored."""


@dataclass(frozen=True)
class User:
    """The user that the calls act as, and the names of the notebooks that are theirs or shared with them, by id."""

    name: str
    notebooks: Mapping[str, str]


@dataclass(frozen=True)
class Node:
    """A folder or page in a notebook."""

    tree_id: str
    display_text: str
    is_page: bool
    can_write: bool | None = None  # whether the user may change it; None where the answer does not tell


@dataclass(frozen=True)
class Entry:
    """What stands on a page: a text (HTML), or a file, which is not read along."""

    eid: str
    part_type: str
    text: str
    caption: str
    file_name: str
    file_size: int | None


class EntryText:
    """What a text entry shows, as HTML, encoded once in the form that is sent."""

    def __init__(self, *html: str) -> None:
        self._html = html
        self.form = Body((b"entry_data=", *map(quoted, html)), FORM)

    @property
    def size(self) -> int:
        """The bytes of the HTML."""
        return sum(len(part.encode("utf-8")) for part in self._html)


class LabArchivesApi:
    """Calls to one LabArchives with one account; made for one export.

    `url` is what `NX_LABARCHIVES_URL` says, with or without `/api`.
    """

    def __init__(self, url: str, account: Account) -> None:
        base = url if urlsplit(url).path.rstrip("/").endswith("/api") else f"{url.rstrip('/')}/api"
        secrets = (account.password, account.user_id, account.access_key_id)
        self._session = open_session(_SERVICE, base, secrets=secrets)
        self._account = account

    def get_tree_level(self, notebook: str, parent: str) -> list[Node]:
        """The folders and pages directly below `parent`."""
        tree = self._call("GET", "tree_tools/get_tree_level", {"nbid": notebook, "parent_tree_id": parent})
        return [
            Node(
                _text(node, "tree-id"),
                _text(node, "display-text"),
                _text(node, "is-page").lower() == "true",
                {"true": True, "false": False}.get(_text(node, "user-access/can-write").lower()),
            )
            for node in tree.iter("level-node")
        ]

    def insert_node(self, notebook: str, parent: str, display_text: str, *, is_folder: bool) -> str:
        """The tree id of a new folder or page."""
        parameters = {
            "nbid": notebook,
            "parent_tree_id": parent,
            "display_text": display_text,
            "is_folder": "true" if is_folder else "false",
        }
        return self._created("tree-id", "GET", "tree_tools/insert_node", parameters)

    def add_text_entry(self, notebook: str, page: str, content: EntryText) -> str:
        """The id of a new entry that shows `content` (HTML) on a page."""
        parameters = {"nbid": notebook, "pid": page, "part_type": "text entry"}
        return self._created("eid", "POST", "entries/add_entry", parameters, text=content)

    def add_attachment(self, name: str, content: bytes, caption: str, notebook: str | None, page: str | None) -> str:
        """The id of a new entry that holds a file; without notebook and page it goes to the user's Inbox."""
        parameters = {"filename": name, "caption": caption}
        if notebook is not None and page is not None:
            parameters |= {"nbid": notebook, "pid": page}
        return self._created("eid", "POST", "entries/add_attachment", parameters, content=content)

    def get_entries_for_page(self, notebook: str, page: str) -> list[Entry]:
        """The entries of a page with their texts, in the order of the page."""
        parameters = {"nbid": notebook, "page_tree_id": page, "entry_data": "true"}
        tree = self._call("GET", "tree_tools/get_entries_for_page", parameters)
        return [
            Entry(
                _text(entry, "eid"),
                _text(entry, "part-type"),
                entry.findtext("entry-data") or "",
                _text(entry, "caption"),
                _text(entry, "attach-file-name"),
                int(size) if (size := _text(entry, "attach-file-size")).isdecimal() else None,
            )
            for entry in tree.iter("entry")
        ]

    def entry_attachment(self, eid: str) -> bytes:
        """The file of an entry."""
        answer = self._answer("GET", "entries/entry_attachment", {"eid": eid})
        tree = _parsed(answer)
        if answer.status != 200 or (tree is not None and tree.tag in {"error", "entries"}):
            _checked_or_later(answer)  # the file itself is XML too, but of another kind
        return answer.body

    def knock(self) -> Answer:
        """The answer, be it a refusal, to a call that each LabArchives knows; raises when nothing of it answered."""
        answer = self._answer("GET", "users/user_info_via_id", {})
        tree = _parsed(answer)
        if tree is not None and (_problem(tree) is not None or tree.tag in _ROOTS):
            return answer
        if answer.status in {200, _NOT_THERE}:
            raise wrong_address(answer)
        raise refusal(_without_signature(answer))

    def user_info(self) -> User:
        """The user that the calls act as."""
        answer = self._answer("GET", "users/user_info_via_id", {})
        tree = _checked_or_later(answer)
        names = (_text(tree, "fullname"), f"{_text(tree, 'first-name')} {_text(tree, 'last-name')}".strip())
        notebooks = {_text(notebook, "id"): _text(notebook, "name") for notebook in tree.iter("notebook")}
        name = next((each for each in (*names, _text(tree, "email")) if each), "")
        return User(plain_message(without_signature(name, answer.secrets)), notebooks)

    def max_file_size(self) -> int:
        """The bytes of the largest file that LabArchives takes."""
        tree = self._call("GET", "users/max_file_size", {})
        size = _text(tree, "max-file-size")
        if not size.isdecimal():
            raise TransientError("LabArchives did not say how large a file may be (GET users/max_file_size).")
        return int(size)

    def update_entry(self, eid: str, content: EntryText) -> None:
        """Put `content` (HTML) in the place of what a text entry shows; raises `PartGoneError` without that entry."""
        self._call("POST", "entries/update_entry", {"eid": eid}, text=content, writes=True)

    def update_attachment(self, eid: str, name: str, content: bytes, caption: str) -> None:
        """Put a file in the place of what an entry holds; raises `PartGoneError` without that entry."""
        parameters = {"eid": eid, "filename": name, "caption": caption}
        self._call("POST", "entries/update_attachment", parameters, content=content, writes=True)

    def _created(
        self,
        element: str,
        method: str,
        path: str,
        parameters: dict[str, str],
        *,
        text: EntryText | None = None,
        content: bytes = b"",
    ) -> str:
        tree = self._call(method, path, parameters, text=text, content=content, writes=True)
        for request in tree.findall("request"):
            tree.remove(request)  # the answer may repeat what was asked, other objects' ids among it
        identifier = next((found.text.strip() for found in tree.iter(element) if found.text), "")
        if not identifier:
            raise TransientError(f"LabArchives answered without the id of what it made ({method} {path}).")
        return identifier

    def _call(
        self,
        method: str,
        path: str,
        parameters: dict[str, str],
        *,
        text: EntryText | None = None,
        content: bytes = b"",
        writes: bool = False,
    ) -> etree._Element:
        body = Body((content,), "application/octet-stream") if text is None else text.form
        answer = self._answer(method, path, parameters, body=body, writes=writes)
        if len(body) and self._only_this_is_refused(answer):
            words = _without_signature(answer).message
            raise PermanentError(
                f"LabArchives lets us in, but refused what {answer.call} carries ({answer.status}): does something on "
                f"the way to it, such as a proxy, refuse the content?{f' It says: {words}' if words else ''}"
            )
        try:
            return _checked_or_later(answer)
        except TooBigError as error:
            size = len(body) if text is None else text.size
            raise TooBigError(f"{error} It has {size / 1e6:,.1f} MB.") from None

    def _only_this_is_refused(self, answer: Answer) -> bool:
        """Whether a call that has nothing to do with any record is let in, where this one was not."""
        if answer.status not in {401, 403} or _names_a_setting(answer):
            return False
        try:
            self._call("GET", "users/user_info_via_id", {})
        except (ConfigurationError, PermanentError):
            return False
        return True

    def _answer(
        self,
        method: str,
        path: str,
        parameters: dict[str, str],
        *,
        body: Body | None = None,
        writes: bool = False,
    ) -> Answer:
        account = self._account
        signing: dict[str, str] = {}

        def sign() -> dict[str, str]:
            """Not before the call's turn has come, for which it may wait longer than a signature holds."""
            now = int(time.time() * 1000)
            signing.update(signed(account.access_key_id, path.rpartition("/")[2], now, account.password))
            return {**signing, "uid": account.user_id, **parameters}

        try:
            answer = self._session.call(
                method,
                path,
                params=sign,
                data=body or None,
                writes=writes,
            )
        except TransientError as error:
            raise _later(error) from None
        return replace(answer, secrets=(*answer.secrets, signing["sig"], signing["expires"]))


def _later(error: TransientError) -> TransientError:
    """The error, with the wait that its terms ask for."""
    error.retry_after = max(SHORTEST_WAIT, error.retry_after or 0.0)
    return error


def _checked_or_later(answer: Answer) -> etree._Element:
    try:
        return _checked(answer)
    except TransientError as error:
        raise _later(error) from None


def _checked(answer: Answer) -> etree._Element:
    """The XML of an answer that is no error, in whichever shape."""
    tree = _parsed(answer)
    problem = None if tree is None else _problem(tree)
    if problem is not None:
        raise _meaning(answer, *problem)
    if answer.status == _NOT_THERE:  # without an error code it is not LabArchives that speaks
        raise wrong_address(answer)
    if answer.status == _TOO_BIG_FOR_THE_SERVER:
        raise _too_big(f"LabArchives refused {answer.call} ({answer.status})")
    if answer.status != 200:
        raise refusal(_without_signature(answer))
    if tree is None:
        raise TransientError(f"LabArchives answered with something that is not XML ({answer.call}).")
    if tree.tag not in _ROOTS:  # a page that a proxy shows may be well-formed: it is no empty list
        raise TransientError(f"LabArchives answered with XML that is not its own ({answer.call}).")
    return tree


def _without_signature(answer: Answer) -> Answer:
    """The answer as messages may repeat it: its words hold nothing that signs a call."""
    return replace(answer, body=without_signature(answer.text, answer.secrets).encode("utf-8", errors="replace"))


def _parsed(answer: Answer) -> etree._Element | None:
    try:
        return etree.fromstring(answer.body, _PARSER)
    except etree.XMLSyntaxError:
        return None


def _problem(tree: etree._Element) -> tuple[str, str] | None:
    """The error code and the description of an answer, whichever of its shapes it has; None when it is no error."""
    for error in (tree, *tree):
        if error.tag == "error" or error.find("error-code") is not None:
            code = _text(error, "error-code") or _text(error, "code")
            description = _text(error, "error-description") or _text(error, "msg") or (error.text or "")
            return code.strip(), description.strip()
    return None


def _names_a_setting(answer: Answer) -> bool:
    """Whether an error says by its code which setting is wrong, for every record."""
    tree = _parsed(answer)
    problem = None if tree is None else _problem(tree)
    return problem is not None and problem[0] in _TO_MEND


def _meaning(answer: Answer, code: str, description: str) -> ExportError:
    said = plain_message(without_signature(description, answer.secrets)).rstrip(".")
    known_code = code if code.isdecimal() and len(code) <= _LONGEST_CODE else ""
    what = f"LabArchives refused {answer.call} ({' '.join(part for part in ('error', known_code) if part)})"
    what += f", it says: {said}" if said else ""
    if code in _TO_MEND:
        kind = NotebookError if code == _BAD_NOTEBOOK else ConfigurationError
        return kind(f"{what}. To mend it: {_TO_MEND[code]}.")
    if code == _TOO_BIG or answer.status == _TOO_BIG_FOR_THE_SERVER:
        return _too_big(what)
    if answer.status == _NOT_THERE:
        gone = PartGoneError if answer.call.path in _OF_ENTRIES else GoneError
        return gone(f"{what}: it is not there (404).")
    if 400 <= answer.status < 500:  # its terms: such a call must not be repeated, whatever the code
        return refusal(replace(answer, body=f"{known_code} {said}".strip().encode()))
    if code in _TIME_CAN_MEND or answer.status != 200:
        return TransientError(f"{what}.", answer.retry_after)
    return PermanentError(f"{what}.")


def _too_big(what: str) -> TooBigError:
    return TooBigError(
        f"{what}. What was sent is larger than LabArchives takes: "
        "ask its administrators for a larger upload limit, then retry the record."
    )


def _text(element: etree._Element, child: str) -> str:
    return (element.findtext(child) or "").strip()
