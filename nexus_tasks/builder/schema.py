"""Parses records safely and checks them against a schema; called by whoever takes in or sends out a record.

`nexus-experiment.xsd` beside this module is the project's own description of the NexusLIMS record. A CDCS judges by its
own copy of the NIST schema, which can be given to `validate` instead.
"""

from pathlib import Path
from typing import Any

from lxml import etree

NAMESPACE = "https://data.nist.gov/od/dm/nexus/experiment/v1.0"
OWN_SCHEMA = Path(__file__).with_name("nexus-experiment.xsd")


class InvalidRecordError(Exception):
    """A document is not a valid record; the message is one line with the line number and the reason."""


def parse_record(xml: bytes) -> etree._Element:
    """The root of an XML document from anywhere: nothing is fetched, no entity is expanded, a DOCTYPE is refused.

    Raises `InvalidRecordError`.
    """
    try:
        root = etree.fromstring(xml, _parser())
    except etree.XMLSyntaxError as error:
        line = error.lineno or 1
        raise InvalidRecordError(f"The record is not well-formed XML: line {line}: {_reason(error.msg)}.") from None
    docinfo: Any = root.getroottree().docinfo  # its stubs leave `doctype` out
    if docinfo.doctype:
        raise InvalidRecordError("The record has a DOCTYPE, which is refused: line 1: remove it.")
    return root


def validate(xml: bytes, xsd: Path | None = None) -> None:
    """Check a record against `xsd`, by default the project's own schema.

    Raises `InvalidRecordError` with the first reason, and `OSError` or `lxml.etree.LxmlError` when the schema itself
    cannot be used.
    """
    root = parse_record(xml)
    schema = etree.XMLSchema(etree.parse(str(xsd or OWN_SCHEMA), _parser()))
    if not schema.validate(root):
        errors: Any = schema.error_log  # a sequence, which its stubs leave out
        first = errors[0]
        raise InvalidRecordError(f"The record does not match the schema: line {first.line}: {_reason(first.message)}.")


def _parser() -> etree.XMLParser:
    """A parser for one document: parsers keep state, and are not shared between threads."""
    return etree.XMLParser(
        resolve_entities=False, load_dtd=False, dtd_validation=False, no_network=True, huge_tree=False
    )


def _reason(message: str | None) -> str:
    """libxml2's words on one line, without the namespace that every element repeats."""
    return " ".join((message or "unknown reason").replace(f"{{{NAMESPACE}}}", "").split()).rstrip(".")
