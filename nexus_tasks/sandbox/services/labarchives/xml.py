"""LabArchives' answers in XML, the order of their elements left to chance; used by `rest` and `service`."""

import re
from random import Random
from typing import NoReturn

from lxml import etree

from nexus_tasks.sandbox.services.labarchives.objects import Entry, Node
from nexus_tasks.sandbox.services.messages import Request, Response
from nexus_tasks.sandbox.services.service import Refused

EXPIRED, BAD_KEY, UNKNOWN_USER, BAD_NOTEBOOK, BAD_LOGIN, BAD_SIGNATURE = 4504, 4506, 4507, 4509, 4514, 4520
FILE_TOO_BIG, SESSION_TIMEOUT, INTERNAL = 4521, 4533, 4999


class Writer:
    """Writes nodes and entries; one for all calls, because each answer takes its order from the same chance."""

    def __init__(self, *, can_write: bool) -> None:
        self._can_write = can_write
        self._random = Random(0)  # noqa: S311 - the order of XML elements is not fixed

    def answer(self, request: Request, root: str, *parts: etree._Element) -> Response:
        """200 with these elements below `root`, and with what was asked."""
        element, children = etree.Element(root), [*parts, request_element(request)]
        for child in self._random.sample(children, len(children)):
            element.append(child)
        return xml_answer(200, element)

    def fill(self, element: etree._Element, fields: dict[str, str]) -> None:
        """Add an element for each field."""
        for name, text in self._random.sample(list(fields.items()), len(fields)):
            element.append(text_element(name, text))

    def node(self, name: str, node: Node, *, with_access: bool = False) -> etree._Element:
        """A folder or a page, as an element called `name`."""
        element = etree.Element(name)
        fields = {"tree-id": node.tree_id, "display-text": xml_text(node.text), "is-page": str(node.is_page).lower()}
        self.fill(element, fields)
        if with_access:
            can_write = str(self._can_write).lower()
            self.fill(etree.SubElement(element, "user-access"), {"can-read": "true", "can-write": can_write})
        return element

    def entry(self, entry: Entry, *, with_data: bool) -> etree._Element:
        """A text or an attachment; `with_data` adds the text."""
        element = etree.Element("entry")
        fields = {"eid": entry.eid, "part-type": entry.part_type, "caption": xml_text(entry.caption)}
        if entry.filename is not None:
            fields["attach-file-name"] = xml_text(entry.filename)
            fields["attach-file-size"] = str(len(entry.content))
        elif with_data:
            fields["entry-data"] = entry.text
        self.fill(element, fields)
        return element


def xml_text(text: str) -> str:
    """`text` without the characters that XML cannot carry."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)


def text_element(name: str, text: str) -> etree._Element:
    """An element with a text; truth values say what they are."""
    element = etree.Element(name, {"type": "boolean"} if text in {"true", "false"} else None)
    element.text = text
    return element


def request_element(request: Request) -> etree._Element:
    """What was asked, as each answer repeats it: without passwords, but with what signed the call."""
    element = etree.Element("request")
    kind, _, method = request.path.removeprefix("/api/").partition("/")
    given = {name: values[0] for name, values in request.query.items() if name != "password"}
    for name, text in ({"class": kind, "method": method} | given).items():
        if re.fullmatch(r"[A-Za-z_]+", name):
            element.append(text_element(name.replace("_", "-"), xml_text(text)))
    return element


def refuse(request: Request, status: int, code: int, description: str) -> NoReturn:
    """End the call with an error: as the root for whom calls, inside the class's element for the rest."""
    root = "error" if status == 401 else request.path.split("/")[2].replace("_", "-")
    raise Refused(error_response(root, status, code, description, request))


def error_response(root: str, status: int, code: int, description: str, request: Request | None = None) -> Response:
    """An error in the shape that goes with `root`: `error`, or the class of the call with the error nested in it."""
    element = etree.Element(root)
    error = element if root == "error" else etree.SubElement(element, "error")
    names = ("code", "msg") if root == "entries" else ("error-code", "error-description")
    error.append(text_element(names[0], str(code)))
    error.append(text_element(names[1], description))
    if request is not None and root != "error":
        element.append(request_element(request))
    return xml_answer(status, element)


def xml_answer(status: int, element: etree._Element) -> Response:
    """An answer that is this document."""
    return Response.xml(status, etree.tostring(element, xml_declaration=True, encoding="UTF-8"))
