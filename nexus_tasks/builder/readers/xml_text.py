"""XML that microscope programs put into files: parsed safely, and taken apart into named values."""

from collections.abc import Iterator
from typing import Any

from lxml import etree

from nexus_tasks.builder.readers.vocabulary import Value

MOST_ELEMENTS = 5000  # looked at in one document; the largest of real files have some hundreds


def parse_xml(data: bytes | str) -> etree._Element | None:
    """The root of a document from a file; None for what is no XML. Nothing is fetched, no entity is expanded.

    Documents are often cut off or followed by zeros: as much as can be understood is kept.
    """
    if isinstance(data, str):
        # A text has no encoding any more, whatever it declares.
        raw = data.partition("?>")[2].encode() if data.lstrip().startswith("<?xml") else data.encode()
    else:
        raw = data
    start = raw.find(b"<")
    if start < 0:
        return None
    parser = etree.XMLParser(
        resolve_entities=False, load_dtd=False, dtd_validation=False, no_network=True, huge_tree=False, recover=True
    )
    try:
        return etree.fromstring(raw[start:].rstrip(b"\0 \r\n\t"), parser)
    except etree.XMLSyntaxError:
        return None


def leaves(root: etree._Element) -> Iterator[Value]:
    """Every element that holds text, named by its path below the root, with its unit where an attribute gives one."""
    for count, element in enumerate(root.iter()):
        if count == MOST_ELEMENTS:
            return
        tag: Any = element.tag  # no text for comments, which the stubs do not know
        if not isinstance(tag, str) or len(element) or not (element.text or "").strip():
            continue
        ancestors = [
            *reversed([str(parent.tag) for parent in element.iterancestors()]),
            element.get("name") or element.tag,
        ]
        unit = element.get("units") or element.get("unit")
        yield Value(".".join(part.rpartition("}")[2] for part in ancestors[1:]), element.text, unit)
