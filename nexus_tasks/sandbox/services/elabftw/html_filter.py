"""What eLabFTW leaves of the HTML of a body; `experiments` passes every body through it."""

import re
from typing import Any

from lxml import html as lxml_html

from nexus_tasks.sandbox.services.elabftw.answers import refuse

MAX_BODY = 4_120_000  # bytes

# What is left of a body: the elements that 5.3.11 allows, each with its attributes. Of any other only the text stays,
# and not even that of a hidden one.
HIDDEN_ELEMENTS = {"script", "style"}
_PLAIN = "br sub sup strong b em u s dl dt dd blockquote hr code pre summary caption figure figcaption"
_STYLED = "div p span ul ol li h1 h2 h3 h4 h5 h6 tr"
_CELL = {"style", "colspan", "rowspan"}
ALLOWED_ELEMENTS: dict[str, set[str]] = {
    **{name: set() for name in _PLAIN.split()},
    **{name: {"style"} for name in _STYLED.split()},
    "a": {"href", "target"},
    "img": {"src", "style", "width", "height"},
    "video": {"src", "controls", "style", "width", "height"},
    "audio": {"src", "controls"},
    "source": {"src", "type"},
    "table": {"style", "data-table-sort", "border"},
    "td": _CELL,
    "th": _CELL,
    "details": {"open"},
}
ALLOWED_SCHEMES = {"", "http", "https", "mailto", "ftp", "nntp", "news", "tel"}
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")  # taken out of a body


def purified(body: Any) -> str:
    """The body as HTML that cannot run anything; what comes back is rarely byte for byte what was sent.

    Raises `Refused`.
    """
    if not isinstance(body, str):
        refuse(400, "body must be a string.")
    if len(body.encode()) > MAX_BODY:
        refuse(400, "Content is too big! Cannot save!")
    body = UNWRITABLE.sub("", body)
    if not body.strip():
        return ""
    root = lxml_html.fragment_fromstring(body, create_parent="div")
    for node in list(root.iterdescendants()):
        tag = str(node.tag)
        if not isinstance(node.tag, str) or tag in HIDDEN_ELEMENTS:
            node.drop_tree()
            continue
        allowed = ALLOWED_ELEMENTS.get(tag)
        for name in list(node.attrib):
            scheme = _scheme(node.get(name) or "") if name in {"href", "src"} else ""
            if allowed is None or name not in allowed or scheme not in ALLOWED_SCHEMES:
                del node.attrib[name]
        if allowed is None or (tag == "img" and not node.get("src")):
            node.drop_tag()
        elif tag == "a" and _scheme(node.get("href") or "") in {"http", "https"}:
            node.set("target", "_blank")
            node.set("rel", "noreferrer noopener")
    inner = str(lxml_html.tostring(root, encoding="unicode"))
    return inner.removeprefix("<div>").removesuffix("</div>")


def _scheme(address: str) -> str:
    """The scheme of a link, also of one that a browser would read although it is not written cleanly."""
    scheme, colon, _ = "".join(address.split()).lower().partition(":")
    return scheme if colon and "/" not in scheme and "?" not in scheme and "#" not in scheme else ""
